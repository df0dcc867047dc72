"""Socket.IO clients that recover a lost connection, with the events that they missed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd.chat import Chat
from chatd.gateways.recovery import LOST, ChatLog, lost_user, record_name
from chatd.journal.sqlite import open_sqlite
from chatd.logs import now_ms
from chatd.model import Put, Record
from chatd.settings import EngineIo, History, Limits, Settings
from chatd.socketio import Lost
from chatd.testing import Harness, open_chat
from chatd.testing.node import Node
from tests.gateways.raw import Json, Raw, handshake, json_user

FAST = Limits(messages_per_second="off", messages_burst="off", bytes_per_second="off")


class Browser(Raw):
    """What Socket.IO's own client keeps, and how it comes back: by its private id and an offset."""

    pid: str
    sid: str
    offset: str | None = None
    acks = 0
    missed: list[list[Any]]
    """What came before the CONNECT reply."""

    async def event(self) -> list[Any]:
        while True:
            frame = await self.hear()
            if frame == "2":
                await self.text("3")
                continue
            if not frame.startswith("42["):
                raise AssertionError(frame)
            return self._took(json.loads(frame[2:]))

    def _took(self, event: list[Any]) -> list[Any]:
        if isinstance(event[-1], str):
            self.offset = event[-1]
            del event[-1]
        return event

    async def call(self, *event: Any) -> Any:
        self.acks += 1
        await self.text(f"42{self.acks}{json.dumps(event)}")
        while not (frame := await self.hear()).startswith(f"43{self.acks}["):
            if frame.startswith("42"):
                self._took(json.loads(frame[2:]))
        return json.loads(frame.removeprefix(f"43{self.acks}"))[0]

    async def texts(self, count: int) -> list[str]:
        texts: list[str] = []
        while len(texts) < count:
            name, *args = await self.event()
            if name == "chat message":
                texts.append(args[0])
        return texts


async def come(chat: Harness | Node, former: Browser | None = None, **auth: Any) -> Browser:
    """Connect, or reconnect, up to the CONNECT reply."""
    client = Browser(await chat.dial())
    client.missed = []
    if former is not None:
        auth["pid"] = former.pid
        client.offset = former.offset
        if former.offset is not None:
            auth["offset"] = former.offset
    await client.send(handshake("/socket.io/?EIO=4&transport=websocket"))
    assert (await client.answer())[0] == 101
    assert (await client.hear()).startswith("0{")
    await client.text(f"40{json.dumps(auth)}")
    while not (frame := await client.hear()).startswith("40"):
        client.missed.append(client._took(json.loads(frame[2:])))
    reply = json.loads(frame[2:])
    client.pid, client.sid = reply["pid"], reply["sid"]
    return client


async def hello(client: Browser) -> dict[str, Any]:
    name, fields = await client.event()
    assert name == "hello"
    assert isinstance(fields, dict)
    return fields


async def lose(chat: Harness, client: Browser) -> None:
    """Tear its connection, and wait until the daemon knows."""
    gone = len(chat.logged("disconnect"))
    await client.aclose()
    await chat.wait_idle()
    assert len(chat.logged("disconnect")) == gone + 1


def texts(missed: list[list[Any]]) -> list[str]:
    return [args[0] for name, *args in missed if name == "chat message"]


async def test_a_lost_client_recovers_and_misses_nothing(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await json_user(chat, "ann")
    await ann.do("say", room="lobby", text="before")
    bob = await come(chat, nick="bob")
    was = await hello(bob)
    assert await bob.texts(1) == ["before"]
    await ann.do("say", room="lobby", text="seen")
    assert await bob.texts(1) == ["seen"]
    await lose(chat, bob)
    await ann.do("say", room="lobby", text="missed", key="k")
    edited = (await ann.do("edit", room="lobby", seq=2, text="seen, and changed"))["ok"]
    await trio.sleep(20)
    again = await come(chat, bob)
    assert (again.sid, again.pid) == (bob.sid, bob.pid)
    assert texts(again.missed) == ["missed"]
    assert again.missed[-1][0] == "edit"
    assert again.missed[-1][1]["seq"] == edited["seq"]
    now = await hello(again)
    assert (now["user"], now["nick"]) == (was["user"], "bob")
    assert (now["joined"]["room"], now["joined"]["seq"]) == ("lobby", edited["seq"])
    await ann.do("say", room="lobby", text="live")
    assert await again.texts(1) == ["live"]
    # The start room is what it was.
    assert (await again.call("chat message", "back"))["ok"]["room"] == "lobby"


async def test_a_client_that_saw_only_a_part_of_the_first_page(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await json_user(chat, "ann")
    for number in range(6):
        await ann.do("say", room="lobby", text=str(number))
    bob = await come(chat, limit=4)
    await hello(bob)
    # Nothing of it, then two of the four.
    await lose(chat, bob)
    bob = await come(chat, bob)
    assert texts(bob.missed) == ["2", "3", "4", "5"]
    bob.offset = None
    cleo = await come(chat, limit=4)
    await hello(cleo)
    assert await cleo.texts(2) == ["2", "3"]
    await lose(chat, cleo)
    await ann.do("say", room="lobby", text="6")
    cleo = await come(chat, cleo)
    assert texts(cleo.missed) == ["4", "5", "6"]
    await hello(cleo)
    await ann.do("say", room="lobby", text="7")
    assert await cleo.texts(1) == ["7"]


async def test_a_page_that_ends_with_a_change_is_not_missed_again(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await json_user(chat, "ann")
    bob = await come(chat, nick="bob")
    since = {"epoch": (await hello(bob))["joined"]["epoch"], "seq": 0}
    await lose(chat, bob)
    await ann.do("say", room="lobby", text="1")
    await ann.do("delete", room="lobby", seq=1)
    bob = await come(chat, since=since)
    await hello(bob)
    assert [(await bob.event())[0] for _ in range(2)] == ["chat message", "delete"]
    await lose(chat, bob)
    bob = await come(chat, bob)
    assert bob.missed == []
    assert (await hello(bob))["joined"]["recovered"]


async def test_nothing_was_said_yet(chat: Harness, autojump_clock: MockClock) -> None:
    bob = await come(chat, nick="bob")
    await hello(bob)
    await lose(chat, bob)
    ann = await json_user(chat, "ann")
    await ann.do("say", room="lobby", text="first")
    again = await come(chat, bob)
    assert (again.sid, texts(again.missed)) == (bob.sid, ["first"])


async def test_all_its_rooms_are_as_they_were(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    await ann.do("join", room="den")
    await ann.do("say", room="den", text="old")
    bob = await come(chat, nick="bob")
    await hello(bob)
    page = (await bob.call("join", {"room": "den"}))["ok"]["events"]
    assert [event["text"] for event in page] == ["old"]
    await ann.do("say", room="den", text="one")
    assert await bob.texts(1) == ["one"]
    await lose(chat, bob)
    for room, text in (("lobby", "two"), ("den", "three"), ("lobby", "four"), ("other", "no")):
        await ann.do("join", room=room)
        await ann.do("say", room=room, text=text)
    again = await come(chat, bob)
    assert texts(again.missed) == ["two", "three", "four"]
    await hello(again)
    for room in ("den", "lobby"):
        await ann.do("say", room=room, text=f"live in {room}")
    assert await again.texts(2) == ["live in den", "live in lobby"]


async def test_if_an_answer_may_be_lost_the_client_is_a_new_user(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await json_user(chat, "ann")
    bob = await come(chat, nick="bob")
    await hello(bob)
    await ann.do("say", room="lobby", text="one")
    assert await bob.texts(1) == ["one"]
    await bob.call("join", {"room": "den"})
    await lose(chat, bob)
    again = await come(chat, bob)
    assert again.missed == []
    assert again.pid != bob.pid


async def test_a_direct_message_is_missed_too(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await json_user(chat, "ann")
        bob = await come(chat, nick="bob")
        await hello(bob)
        answer = await ann.do("say", room="@bob", text="between us")
        assert answer["ok"]["kept"] is False
        assert await bob.texts(1) == ["between us"]
        await lose(chat, bob)
        await ann.do("say", room="lobby", text="to all")
        again = await come(chat, bob)
        assert texts(again.missed) == ["to all"]


@pytest.mark.parametrize("seconds", [3599, 3601])
async def test_it_has_an_hour(chat: Harness, autojump_clock: MockClock, seconds: float) -> None:
    bob = await come(chat)
    await hello(bob)
    await lose(chat, bob)
    await trio.sleep(seconds)
    again = await come(chat, bob)
    assert (again.pid == bob.pid) == (seconds < 3600)


@pytest.mark.parametrize("value", [b"garbage", b"{}", b'{"id":"x","where":{},"offset":""}'])
async def test_by_a_record_that_cannot_be_read_a_client_begins_anew(
    chat: Harness, autojump_clock: MockClock, value: bytes
) -> None:
    bob = await come(chat)
    await hello(bob)
    await lose(chat, bob)
    record = Record(LOST, record_name(bob.pid), value)
    await chat.daemon.chat.bus.submit_and_wait(Put(record))
    assert lost_user(record) == ""
    assert (await come(chat, bob)).pid != bob.pid
    assert [fields["state"] for fields in chat.logged("store")] == ["damaged"]
    assert chat.logged("fault") == []


async def test_a_client_that_disconnected_is_forgotten(
    chat: Harness, autojump_clock: MockClock
) -> None:
    bob = await come(chat)
    await hello(bob)
    await bob.text("41")
    await lose(chat, bob)
    assert (await come(chat, bob)).pid != bob.pid


async def test_an_offset_is_good_once_for_its_pid_alone(
    chat: Harness, autojump_clock: MockClock
) -> None:
    bob = await come(chat)
    await hello(bob)
    await lose(chat, bob)
    assert (await come(chat, bob)).pid == bob.pid
    # The first connection still exists: it gives way, because it may be dead.
    third = await come(chat, bob)
    assert third.pid == bob.pid
    stranger = await come(chat)
    bob.pid = "x" * 20
    assert (await come(chat, bob)).pid not in (bob.pid, stranger.pid)


async def test_it_can_be_off(autojump_clock: MockClock) -> None:
    settings = Settings(engineio=EngineIo(recovery_seconds="off"))
    async with open_chat(settings) as chat:
        ann = await json_user(chat, "ann")
        client = Raw(await chat.dial())
        await client.send(handshake("/socket.io/?EIO=4&transport=websocket"))
        await client.answer()
        await client.hear()
        await client.text("40")
        assert list(json.loads((await client.hear())[2:])) == ["sid"]
        await client.hear()
        await ann.do("say", room="lobby", text="x")
        event = json.loads((await client.hear())[2:])
        assert len(event) == 3


async def test_what_retention_took_is_not_missed_in_silence(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(limits=FAST, history=History(keep_events=3))) as chat:
        ann = await json_user(chat, "ann")
        bob = await come(chat)
        await hello(bob)
        await ann.do("say", room="lobby", text="seen")
        assert await bob.texts(1) == ["seen"]
        await lose(chat, bob)
        for number in range(10):
            await ann.do("say", room="lobby", text=str(number))
        await trio.sleep(120)
        again = await come(chat, bob)
        assert (again.pid != bob.pid, again.missed) == (True, [])


async def test_it_holds_across_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "chatd.db"
    async with open_sqlite(path, now=now_ms) as journal, open_chat(journal=journal) as chat:
        ann = await json_user(chat, "ann")
        bob = await come(chat, nick="bob")
        was = await hello(bob)
        await ann.do("say", room="lobby", text="seen")
        assert await bob.texts(1) == ["seen"]
        lost = await come(chat, nick="cleo")
        await lose(chat, lost)
        await ann.do("say", room="lobby", text="missed by cleo")
        assert await bob.texts(1) == ["missed by cleo"]
    async with open_sqlite(path, now=now_ms) as journal, open_chat(journal=journal) as chat:
        ann = await json_user(chat, "ann2")
        await ann.do("say", room="lobby", text="missed")
        again = await come(chat, bob)
        assert (again.sid, texts(again.missed)) == (bob.sid, ["missed"])
        assert (await hello(again))["user"] == was["user"]
        cleo = await come(chat, lost)
        assert (cleo.sid, texts(cleo.missed)) == (lost.sid, ["seen", "missed by cleo", "missed"])


async def test_at_any_moment_of_a_storm_nothing_is_lost_or_doubled(
    autojump_clock: MockClock,
) -> None:
    async with open_chat(Settings(limits=FAST)) as chat:
        ann = await json_user(chat, "ann")
        bob = await come(chat)
        await hello(bob)
        seen: list[str] = []

        async def talk(ann: Json) -> None:
            for number in range(300):
                await ann.do("say", room="lobby", text=str(number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, ann)
            for count in (0, 1, 2, 3, 5, 8, 13, 21, 34):
                seen += await bob.texts(count)
                await bob.aclose()
                bob = await come(chat, bob)
                seen += texts(bob.missed)
                await hello(bob)
            seen += await bob.texts(300 - len(seen))
        assert seen == [str(number) for number in range(300)]


@given(st.text() | st.from_regex(r"e[./][0-9]{0,20}", fullmatch=True))
def test_any_offset_is_taken_or_refused(offset: str) -> None:
    """Any offset from a client gives a page of the log or nothing."""

    async def main() -> None:
        async with open_chat() as chat:
            log = _log(chat)
            epoch = chat.daemon.chat.journal.epoch
            where = {
                "user": "u",
                "room": "lobby",
                "rooms": {"lobby": {"how": "first", "followed": 0}},
            }
            lost = Lost("pid", "id", [], {"chat": where}, "")
            given = offset.replace("e", epoch, 1)
            events = await log.read("/", given, lost)
            number = re.fullmatch(rf"{epoch}[./]0{{1,16}}", given)
            assert (events is not None) == (number is not None)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def _log(chat: Harness) -> ChatLog:
    inner: Chat = chat.daemon.chat
    return ChatLog(inner, lambda event: [f'2["{event.kind}"]'], seconds=3600)
