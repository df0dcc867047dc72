"""Event streams: pages and live events, resuming, members, limits, and the end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd.chat import rules
from chatd.chat.moderation import moderate
from chatd.protocol import commands, events
from chatd.settings import Auth, Chat, Limits, Settings
from chatd.testing import Harness, open_chat
from chatd.wire.streaming import LAST_CHUNK, chunk
from tests.gateways.http_requests import (
    NEAR,
    Events,
    ask,
    follow,
    following,
    refused_stream,
    say,
)
from tests.gateways.raw import Raw

KICK = commands.Kick(nick="ci")


def names(chat: Harness) -> list[str]:
    room = chat.daemon.chat.rooms.get("lobby")
    return [] if room is None else [member.nick for member in room.member_list()]


# ---- what is sent


async def test_the_newest_events_and_then_live_ones(
    autojump_clock: MockClock,
) -> None:
    async with open_chat(Settings(chat=Chat(backlog=2))) as chat:
        epoch = (await say(chat, "0")).json["epoch"]
        for text in ("1", "2"):
            await say(chat, text)
        stream = await follow(chat)
        first = await stream.block()
        assert first == {"retry": "2000"}
        events = await stream.page()
        assert [event["text"] for event in events] == ["1", "2"]
        assert stream.last_id == f"{epoch}.3"
        await say(chat, "3\nand\r\nmore \u2028")
        block = await stream.block()
        assert (set(block), block["id"]) == ({"id", "data"}, f"{epoch}.4")
        page = await ask(chat, "GET /rooms/lobby?limit=1")
        assert block["data"].encode() + b"\n" == page.body
        assert page.headers["chatd-position"] == block["id"]


async def test_the_head(chat: Harness, autojump_clock: MockClock) -> None:
    accepting = ("text/event-stream", "text/html, text/event-stream;q=0.5", "TEXT/EVENT-STREAM")
    for accept in accepting:
        stream = await follow(chat, headers={"Accept": accept, "Accept-Encoding": "gzip, br"})
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["connection"] == "close"
        assert "content-encoding" not in stream.headers
    for accept in ("*/*", "text/*", "text/event-stream;q=0", "text/event-streams"):
        answer = await ask(chat, "GET /rooms/lobby", None, {"Accept": accept})
        assert answer.headers["content-type"] == "application/x-ndjson"


async def test_all_events_of_the_log_have_a_position(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await chat.client("ann")
    stream = await follow(chat)
    assert await stream.page() == []
    await ann.say("one")
    await ann.edit("lobby", 1, "uno")
    await ann.delete("lobby", 1)
    ids, kinds = [], []
    for _ in range(3):
        kinds.append((await stream.event())["on"])
        ids.append(stream.last_id.rpartition(".")[2])
    assert kinds == ["message", "edit", "delete"]
    assert ids == ["1", "2", "3"]


async def test_presence_and_typing_are_not_sent(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    async with following(chat) as [stream]:
        bob = await chat.client("bob")
        bob.typing("lobby")
        await bob.nickname("rob")
        await bob.aclose()
        await trio.sleep(12)
        await ann.say("x")
        assert await stream.texts(1) == ["x"]


async def test_a_notice_has_no_position(chat: Harness, autojump_clock: MockClock) -> None:
    async with following(chat) as [stream]:
        await chat.daemon.chat.broadcast(events.Notice("maintenance at noon"))
        block = await stream.block()
        assert block == {"data": '{"on":"notice","text":"maintenance at noon"}'}


async def test_another_epoch_brings_a_position(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    async with following(chat) as [stream]:
        await ann.say("x")
        assert await stream.texts(1) == ["x"]
        await chat.daemon.chat.renew("e2")
        assert await stream.block() == {"data": '{"on":"epoch","epoch":"e2"}'}
        epoch = chat.daemon.chat.journal.epoch
        assert await stream.block() == {"id": f"{epoch}.1"}


async def test_http_1_0_has_no_chunks(chat: Harness, autojump_clock: MockClock) -> None:
    stream = await follow(chat, version="HTTP/1.0")
    assert await stream.page() == []
    await say(chat, "a")
    assert await stream.texts(1) == ["a"]
    await moderate(chat.daemon.chat, "console", commands.Kick(nick=names(chat)[0]))
    assert [event["on"] for event in await stream.end()] == ["bye"]


@pytest.mark.parametrize("moment", [0.0, 7.0])
async def test_a_comment_after_fifteen_seconds_of_silence(
    chat: Harness, autojump_clock: MockClock, moment: float
) -> None:
    stream = await follow(chat)
    await stream.page()
    await trio.sleep(moment)
    if moment:
        await say(chat, "a")
        await stream.texts(1)
    began = trio.current_time()
    times = []
    for _ in range(3):
        await stream.comment()
        times.append(trio.current_time() - began)
    assert times == pytest.approx([15, 30, 45], abs=0.01)


# ---- resuming


@pytest.mark.parametrize("way", ["header", "query", "both"])
async def test_a_stream_is_resumed(chat: Harness, autojump_clock: MockClock, way: str) -> None:
    for number in range(4):
        await say(chat, str(number))
    epoch = (await say(chat, "4")).json["epoch"]
    target = "/rooms/lobby?nick=ci" + (f"&since={epoch}.2" if way == "query" else "")
    if way == "both":
        target += f"&since={epoch}.5"
    headers = {} if way == "query" else {"Last-Event-ID": f"{epoch}.2"}
    stream = await follow(chat, target, headers)
    assert [event["text"] for event in await stream.page()] == ["2", "3", "4"]


async def test_a_cut_stream_misses_nothing_and_repeats_nothing(
    chat: Harness, autojump_clock: MockClock
) -> None:
    texts: list[Any] = []
    stream = await follow(chat)
    texts += [event["text"] for event in await stream.page()]
    for number in range(60):
        await say(chat, str(number))
        if number % 7 == 6:
            position = stream.last_id
            await stream.aclose()
            stream = await follow(chat, headers={"Last-Event-ID": position})
            texts += [event["text"] for event in await stream.page()]
        elif number % 2:
            texts += await stream.texts(1)
        await trio.sleep(1)
    position = stream.last_id
    await stream.aclose()
    stream = await follow(chat, headers={"Last-Event-ID": position})
    texts += [event["text"] for event in await stream.page()]
    assert texts == [str(number) for number in range(60)]


async def test_many_missed_events_follow_the_first_page(
    chat: Harness, autojump_clock: MockClock
) -> None:
    chat.daemon.chat.flood.charge = lambda *_: None  # type: ignore[method-assign]
    ann = await chat.client("ann")
    epoch = (await ann.say("0")).epoch
    for number in range(1, 700):
        await ann.say(str(number))
    stream = await follow(chat, f"/rooms/lobby?since={epoch}.0&limit=10")
    assert [event["text"] for event in await stream.page()] == [str(n) for n in range(10)]
    assert await stream.texts(690) == [str(number) for number in range(10, 700)]
    await ann.say("live")
    assert await stream.texts(1) == ["live"]


@pytest.mark.parametrize("position", ["other.1", "{epoch}.9", "garbage"])
async def test_a_position_that_cannot_be_resumed(
    chat: Harness, autojump_clock: MockClock, position: str
) -> None:
    epoch = (await say(chat, "a")).json["epoch"]
    headers = {"Last-Event-ID": position.format(epoch=epoch)}
    stream = await follow(chat, "/rooms/lobby", headers)
    assert await stream.block() == {"retry": "2000"}
    reset = await stream.block()
    assert set(reset) == {"data"}
    page = await stream.page()
    assert [event["text"] for event in page] == ["a"]
    assert reset["data"] == f'{{"on":"reset","room":"lobby","epoch":"{epoch}","seq":1}}'
    assert stream.last_id == f"{epoch}.1"


async def test_an_empty_page_has_a_position_too(chat: Harness, autojump_clock: MockClock) -> None:
    stream = await follow(chat, "/rooms/garden?limit=0")
    assert await stream.page() == []
    position = stream.last_id
    assert position.endswith(".0")
    await stream.aclose()
    await say(chat, "a", "garden")
    stream = await follow(chat, "/rooms/garden", {"Last-Event-ID": position})
    assert [event["text"] for event in await stream.page()] == ["a"]


# ---- a member


async def test_it_is_a_member(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    stream = await follow(chat, "/rooms/lobby?nick=ci")
    assert (await ann.next("joined")).nick == "ci"
    assert await ann.who() == ["ann", "ci"]
    assert chat.daemon.chat.statistics().connections[("sse", "http")] == 1
    await stream.aclose()
    assert (await ann.next("left")).nick == "ci"
    [came] = [line for line in chat.logged("connect") if line["nick"] == "ci"]
    [left] = [line for line in chat.logged("disconnect") if line["nick"] == "ci"]
    assert (came["transport"], left["transport"], left["code"]) == ("sse", "sse", 1006)
    assert left["bytes_out"] > 0
    assert left["messages_out"] == 0


async def test_it_makes_the_room(autojump_clock: MockClock) -> None:
    async with open_chat() as chat, following(chat, ["/rooms/garden"]):
        listed = (await ask(chat, "GET /rooms")).json["rooms"]
        assert [(each["room"], each["members"]) for each in listed] == [("garden", 1)]
    async with open_chat(Settings(chat=Chat(create_rooms=False))) as chat:
        assert (await refused_stream(chat, "/rooms/garden")).code == "not_found"
        assert (await refused_stream(chat, "/rooms/@nobody")).code == "not_found"


async def test_one_user_posts_and_follows(chat: Harness, autojump_clock: MockClock) -> None:
    async with following(chat, ["/rooms/lobby?nick=ci"] * 2) as [one, other]:
        said = await say(chat, "a", nick="ci")
        for stream in (one, other):
            event = await stream.event()
            assert (event["user"], event["text"]) == (said.json["user"], "a")
        assert names(chat) == ["ci"]


async def test_direct_messages_of_others_are_not_mixed_in(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(auth=Auth(mode="token", guests=True))) as chat:
        bob = {"Authorization": f"Bearer {chat.token('bob')}"}
        ann = await chat.client("ann")
        lobby = await follow(chat, "/rooms/lobby", bob)
        await lobby.page()
        await ann.say("psst", room="@bob")
        direct = await follow(chat, "/rooms/@ann", bob)
        assert [event["text"] for event in await direct.page()] == ["psst"]
        await ann.say("again", room="@bob")
        assert await direct.texts(1) == ["again"]
        await ann.say("all", room="lobby")
        assert await lobby.texts(1) == ["all"]


async def test_guests_follow_their_direct_messages(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await chat.client("ann")
    stream = await follow(chat, "/rooms/@ann?nick=ci")
    await stream.page()
    await ann.say("hi", room="@ci")
    block = await stream.block()
    assert set(block) == {"data"}
    assert '"text":"hi"' in block["data"]


# ---- the end


async def test_a_drain(chat: Harness, autojump_clock: MockClock) -> None:
    async with following(chat, ["/rooms/lobby"] * 5) as streams:
        await chat.daemon.drain()
        retries = set()
        for stream in streams:
            [bye] = await stream.end()
            assert (bye["on"], bye["code"], bye["reconnect"]) == ("bye", 1001, True)
            assert (stream.retry, stream.ended) == (bye["retry_ms"], True)
            retries.add(stream.retry)
        assert len(retries) > 1
        await trio.sleep(2)
        assert {line["code"] for line in chat.logged("disconnect")} == {1001}


@pytest.mark.parametrize("room", [None, "lobby"])
async def test_a_kick(chat: Harness, autojump_clock: MockClock, room: str | None) -> None:
    stream = await follow(chat, "/rooms/lobby?nick=ci")
    await stream.page()
    reason = "too loud"
    await moderate(chat.daemon.chat, "console", commands.Kick(nick="ci", room=room, reason=reason))
    *notices, bye = await stream.end()
    assert (bye["on"], bye["code"], bye["reconnect"]) == ("bye", 4500, False)
    assert reason in str([*notices, bye])
    assert (stream.ended, stream.retry) == (True, 2000)
    for again in (
        await refused_stream(chat, "/rooms/lobby?nick=ci"),
        await say(chat, "a", nick="ci"),
        await ask(chat, "GET /rooms/lobby?nick=ci"),
    ):
        assert (again.status, again.code) == (403, "forbidden")
        assert 59_000 < again.json["retry_ms"] <= 60_001
    elsewhere = await say(chat, "a", "garden", "ci")
    assert elsewhere.status == (201 if room else 403)
    assert (await say(chat, "a", nick="other")).status == 201
    await trio.sleep(61)
    assert [line["code"] for line in chat.logged("disconnect")] == [4500]
    await (await follow(chat, "/rooms/lobby?nick=ci")).page()


@pytest.mark.parametrize("room", [None, "lobby"])
async def test_a_ban(chat: Harness, autojump_clock: MockClock, room: str | None) -> None:
    stream = await follow(chat, "/rooms/lobby?nick=ci")
    await stream.page()
    await moderate(chat.daemon.chat, "console", commands.Ban(nick="ci", room=room))
    assert [(each["on"], each.get("code")) for each in await stream.end()][-1] == ("bye", 4501)
    await trio.sleep(61)
    again = await refused_stream(chat, "/rooms/lobby?nick=ci")
    assert (again.status, again.code) == (403, "banned")


async def test_a_closed_room_and_a_removed_one(chat: Harness, autojump_clock: MockClock) -> None:
    core = chat.daemon.chat
    stream = await follow(chat)
    await moderate(core, "console", commands.Close(room="lobby"))
    assert (await stream.end())[-1]["code"] == 4500
    await moderate(core, "console", commands.Close(room="lobby", seconds=0))
    await trio.sleep(61)
    await say(chat, "a")
    stream = await follow(chat)
    await moderate(core, "console", commands.Remove(room="lobby"))
    assert (await stream.end())[-1]["code"] == 4500


async def test_a_token_expires(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(auth=Auth(mode="token"))) as chat:
        headers = {"Authorization": f"Bearer {chat.token('ann', seconds=120)}"}
        stream = await follow(chat, "/rooms/lobby", headers)
        await stream.page()
        await trio.sleep(200)
        events = await stream.end()
        assert [(event["on"], event["code"]) for event in events] == [("bye", 4502)]
        again = await refused_stream(chat, "/rooms/lobby", headers)
        assert (again.status, again.headers["www-authenticate"]) == (401, "Bearer")


async def test_a_slow_reader_is_cut_and_resumes(autojump_clock: MockClock) -> None:
    settings = Settings(
        limits=Limits(
            send_queue_bytes=200_000,
            messages_per_second="off",
            bytes_per_second="off",
        )
    )
    async with open_chat(settings) as chat:
        ann = await chat.client("ann")
        slow = await follow(chat, "/rooms/lobby?nick=slow")
        await slow.page()
        for number in range(40):
            await ann.say(f"{number}" + "x" * 10_000)
        assert await ann.texts(40)
        *seen, bye = await slow.end()
        assert (bye["on"], bye["code"]) == ("bye", 4001)
        assert slow.retry == bye["retry_ms"]
        again = await follow(chat, "/rooms/lobby", {"Last-Event-ID": slow.last_id})
        seen += await again.page()
        while len(seen) < 40:
            seen.append(await again.event())
        assert [event["text"].partition("x")[0] for event in seen] == [str(n) for n in range(40)]


async def test_who_reads_nothing_is_ended(autojump_clock: MockClock) -> None:
    """It ends after close_seconds, without having taken what waits."""
    settings = Settings(limits=Limits(send_queue_bytes=65536, messages_per_second="off"))
    async with open_chat(settings) as chat:
        ann = await chat.client("ann")
        stalled = await follow(chat, "/rooms/lobby?nick=slow")
        for _ in range(20):
            await ann.say("x" * 10_000)
            await trio.sleep(1)
        await trio.sleep(10)
        assert [line["code"] for line in chat.logged("disconnect")] == [4001]
        await stalled.aclose()


async def test_what_a_client_sends_is_ignored(chat: Harness, autojump_clock: MockClock) -> None:
    raw = Raw(await chat.dial())
    await raw.send(
        b"GET /rooms/lobby HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    )
    assert (await raw.answer())[0] == 200
    await raw.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    stream = Events(raw, chunked=True)
    await stream.page()
    await say(chat, "a")
    assert await stream.texts(1) == ["a"]
    await raw.aclose()
    await chat.wait_idle()
    assert chat.logged("disconnect")[0]["bytes_in"] == 35


# ---- limits


async def test_connections_are_counted(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(limits=Limits(connections_per_address=2))) as chat:
        for _ in range(2):
            await follow(chat, peer=NEAR)
        third = await refused_stream(chat, peer=NEAR)
        assert (third.status, third.code) == (429, "rate_limited")
        assert third.headers["retry-after"] == "10"
        assert third.json["retry_ms"] == 10_000


async def test_a_refused_stream_leaves_nothing(autojump_clock: MockClock) -> None:
    settings = Settings(
        auth=Auth(mode="token", guests=True), chat=Chat(rules=("staff read=users",))
    )
    async with open_chat(settings) as chat:
        assert (await refused_stream(chat, "/rooms/staff")).code == "forbidden"
        chat.fill_disk()
        core = chat.daemon.chat
        assert not core.connections
        assert len(core.rooms) == 0
        assert [line["code"] for line in chat.logged("disconnect")] == [4502]


async def test_a_kick_while_it_joins(
    chat: Harness, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly(connection: Any, command: commands.Join) -> Any:
        reply = await rules.enter(connection, command)
        await moderate(chat.daemon.chat, "console", KICK)
        return reply

    monkeypatch.setattr("chatd.gateways.http.stream.enter", slowly)
    answer = await refused_stream(chat, "/rooms/lobby?nick=ci")
    assert (answer.status, answer.code) == (403, "forbidden")
    assert not chat.daemon.chat.connections
    assert [line["code"] for line in chat.logged("disconnect")] == [4500]


# ---- framing


@given(st.binary(min_size=1))
def test_chunks(data: bytes) -> None:
    framed = chunk(data)
    size, _, rest = framed.partition(b"\r\n")
    assert int(size, 16) == len(data)
    assert rest == data + b"\r\n"
    assert LAST_CHUNK == b"0\r\n\r\n"
