"""The whole daemon in memory, with clients of its protocols, and faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

from chatd import client, testing
from chatd.journal.memory import MemoryJournal
from chatd.settings import Auth, Chat, Limits, Settings
from chatd.testing import Harness, open_chat
from chatd.wire.transport import Peer

FAST = Settings(
    limits=Limits(messages_per_second="off", messages_burst="off", bytes_per_second="off")
)


async def test_a_short_outage_loses_nothing(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob")
        await chat.cut(bob)
        await ann.say("are you there?")
        await trio.sleep(600)
        await bob.reconnect()
        assert (await bob.next("message")).text == "are you there?"
        assert bob.nick == "bob"


async def test_text_and_json_are_in_one_room(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await chat.client("ann")
        eve = await chat.client("eve", protocol="text")
        assert (await eve.next("greeting")).text == "Hello, I am chatd. You are eve in #lobby."
        assert (await ann.next("joined")).nick == "eve"
        said = await ann.say("one\ntwo")
        assert said.seq == 1
        line = await eve.next("message")
        assert (line.nick, line.text) == ("ann", "one\ntwo")
        await eve.say("so: hello")
        assert (await ann.texts(2)) == ["one\ntwo", "so: hello"]
        assert (await eve.next("message")).text == "so: hello"
        await eve.say("/nick eva")
        assert (await eve.next("notice")).text == "eve is now eva"
        assert (await ann.next("nick")).nick == "eva"


async def test_rooms(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(chat=Chat(default_room="hall"))) as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob", room=None)
        assert (ann.room, bob.room) == ("hall", None)
        with pytest.raises(ValueError, match="bob is in no room"):
            await bob.say("hm")
        await bob.join("Kitchen")
        await ann.join("kitchen")
        assert await bob.who() == ["ann", "bob"]
        await ann.say("hi")
        assert (await bob.next("message")).room == "Kitchen"
        await bob.leave()
        assert bob.room is None
        eve = await chat.client("eve", "text", room="kitchen")
        assert (await eve.join("hall")).text == "Hello, I am chatd. You are eve in #hall."
        with pytest.raises(ValueError, match="Plain text is in a room from the start"):
            await chat.client("x", "text", room=None)


async def test_an_unknown_protocol(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        with pytest.raises(ValueError, match=r"The protocols are 'json', 'text'"):
            await chat.client("ann", protocol="irc")


async def test_taking_events(autojump_clock: MockClock) -> None:
    async with open_chat(FAST) as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob")
        for number in range(3):
            await bob.say(str(number))
        await chat.wait_idle()
        assert [one.text for one in ann.waiting("message")] == ["0", "1", "2"]
        assert (await ann.next("message")).text == "0"
        # What came before it is still there.
        assert (await ann.next()).on == "joined"
        assert await ann.texts(2) == ["1", "2"]
        assert ann.waiting() == []
        with pytest.raises(AssertionError, match="ann: no left came within 3600 s, only: nothing"):
            await ann.next("left")


async def test_a_cut_is_not_announced(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob")
        eve = await chat.client("eve", "text")
        assert [(await ann.next("joined")).nick for _ in range(2)] == ["bob", "eve"]
        began = trio.current_time()
        await chat.cut(bob)
        await chat.cut(eve)
        assert trio.current_time() == began
        assert (await bob.lost()).code == 1006
        assert chat.logged("disconnect") == []
        assert await ann.who() == ["ann", "bob", "eve"]
        # By the daemon's own clock: a ping after 25 s, silence for 20, and then some grace.
        assert {(await ann.next("left")).nick, (await ann.next("left")).nick} == {"bob", "eve"}
        assert trio.current_time() - began > 45
        assert [line["code"] for line in chat.logged("disconnect")] == [4002, 4002]
        await eve.reconnect()
        # Plain text has no session: this is a new user, and the nick is reserved for the old one.
        assert (await ann.next("joined")).nick == "eve-2"


async def test_what_is_said_while_cut_is_said_once(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob")
        await chat.cut(bob)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bob.say, "I was away")
            await trio.sleep(600)
            assert ann.waiting("message") == []
            await bob.reconnect()
        assert (await ann.next("message")).text == "I was away"
        assert (await bob.next("message")).text == "I was away"


async def test_a_stalled_client_is_too_slow(autojump_clock: MockClock) -> None:
    async with open_chat(FAST) as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob")
        chat.stall(bob)
        for number in range(100):
            await ann.say(f"{number} " + "x" * 16_000)
        chat.unstall(bob)
        assert (await bob.lost()).code == 4001
        await bob.reconnect()
        texts = await bob.texts(100)
        assert [int((text or "").split()[0]) for text in texts] == list(range(100))
        assert await ann.texts(100) == texts
        assert [line["code"] for line in chat.logged("disconnect")] == [4001]


async def test_a_full_disk(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob")
        chat.fill_disk()
        with pytest.raises(client.Refused) as refused:
            await ann.say("hello", key="k1")
        assert refused.value.code == "unavailable"
        chat.free_disk()
        await trio.sleep(60)
        said = await ann.say("hello", key="k1")
        assert (said.seq, said.duplicate) == (1, False)
        assert (await bob.next("message")).text == "hello"
        assert bob.waiting("message") == []


async def test_a_commit_that_was_not_confirmed(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await chat.client("ann")
        chat.lose_confirmation()
        with pytest.raises(client.Refused) as refused:
            await ann.say("hello", key="k1")
        assert refused.value.code == "unavailable"
        again = await ann.say("hello", key="k1")
        assert (again.seq, again.duplicate) == (1, True)
        assert await ann.texts(1) == ["hello"]


async def test_the_log(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await chat.client("ann")
        await ann.say("hello")
        await ann.aclose()
        await chat.wait_idle()
        (connected,) = chat.logged("connect")
        assert (connected["nick"], connected["address"]) == ("ann", "memory")
        (message,) = chat.logged("message")
        assert (message["room"], message["seq"], message["bytes"]) == ("lobby", 1, 5)
        (gone,) = chat.logged("disconnect")
        assert gone["code"] == 1000


async def test_the_wall_clock_is_virtual_too(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await chat.client("ann")
        before = await ann.say("now")
        await trio.sleep(3600)
        after = await ann.say("later")
        assert (after.at - before.at).total_seconds() == 3600
        assert before.at.isoformat().startswith("2025-01-01T00:00:00")


async def test_nothing_waits_for_a_clock_that_stands(mock_clock: MockClock) -> None:
    async with open_chat() as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob", "text")
        await chat.cut(ann)
        chat.stall(bob)
        await chat.client("eve")
    assert trio.current_time() == 0


async def test_plain_bytes(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        stream = await chat.dial(Peer("192.0.2.7", "tcp", loopback=False))
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: chat.example\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def test_a_journal_of_ones_own(autojump_clock: MockClock) -> None:
    journal = MemoryJournal(now=lambda: 0)
    async with open_chat(journal=journal) as chat:
        ann = await chat.client("ann")
        said = await ann.say("hello")
        assert said.epoch == journal.epoch
    assert [event.text for event in await journal.read("lobby", 0, 9, 9)] == ["hello"]


async def test_the_blocks_own_exception_comes_out_alone(autojump_clock: MockClock) -> None:
    with pytest.raises(KeyError, match="mine"):
        await _fail_inside()


async def _fail_inside() -> None:
    async with open_chat() as chat:
        await chat.client("ann")
        raise KeyError("mine")


async def test_a_client_that_is_refused(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(limits=Limits(connections=1))) as chat:
        await chat.client("ann")
        for protocol in ("json", "text"):
            with pytest.raises(client.ConnectError) as error:
                await chat.client("bob", protocol)
            assert error.value.status == 503


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_on_real_sockets(kind: str, tmp_path: Path) -> None:
    listen = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/chat.sock"
    async with open_chat(listen=listen) as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob", "text")
        await ann.say("hello")
        assert (await bob.next("message")).text == "hello"
        await chat.cut(ann)
        await bob.say("still there?")
        await ann.reconnect()
        assert await ann.texts(2) == ["hello", "still there?"]
        address = chat.listeners[0].address
        async with client.connect(address if kind == "unix" else f"ws://{address}") as eve:
            await eve.join("lobby")
            assert [one.nick for one in (await eve.who("lobby")).members].count("ann") == 1


@pytest.mark.parametrize("protocols", [["json"], ["socketio", "polling"]])
async def test_many_clients_cut_at_random(
    autojump_clock: MockClock, protocols: list[Literal["json", "socketio", "polling"]]
) -> None:
    """Each talks while its cable is cut; each has every line of the room once, in order."""
    clients, lines = 6, 40
    async with open_chat(FAST) as chat:
        people = [
            await chat.client(f"n{number}", protocols[number % len(protocols)])
            for number in range(clients)
        ]

        async def talk(number: int) -> None:
            for line in range(lines):
                await people[number].say(json.dumps([number, line]))
                await trio.sleep(0.1)

        async def trouble(number: int) -> None:
            for turn in range(8):
                await trio.sleep(0.37 + 0.11 * ((number * 7 + turn * 3) % 5))
                await chat.cut(people[number])
                await trio.sleep(0.05 * turn)
                await people[number].reconnect()

        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(talk, number)
                nursery.start_soon(trouble, number)
        await chat.wait_idle()
        logs = [
            [(m.seq, m.text) for m in one.waiting("message") if isinstance(m, client.Message)]
            for one in people
        ]
    assert [seq for seq, _ in logs[0]] == list(range(1, clients * lines + 1))
    assert all(log == logs[0] for log in logs)
    said = [tuple(json.loads(text or "")) for _, text in logs[0]]
    for number in range(clients):
        assert [line for one, line in said if one == number] == list(range(lines))


async def test_the_harness_has_a_name(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        assert isinstance(chat, Harness)


async def test_a_client_has_the_librarys_commands(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(auth=Auth(mode="token", guests=True))) as chat:
        bob = await chat.client("bob")
        sid = await chat.client("sid", "socketio")
        ann = await chat.client("ann", token=chat.token("ann", op=True))
        for one in (bob, sid):
            told = [await one.next("joined") for _ in range(2 if one is bob else 1)]
            assert [(each.nick, each.op) for each in told][-1] == ("ann", True)
        said = await bob.say("helo")
        assert said.seq is not None
        await bob.edit("lobby", said.seq, "hello")
        (found,) = (await ann.search("lobby", "hello")).events
        assert isinstance(found, client.Message)
        assert found.text == "hello"
        bob.typing("lobby")
        assert (await ann.next("typing")).on == "typing"
        with pytest.raises(client.Refused, match="operators"):
            await bob.topic("lobby", "tea")
        await ann.topic("lobby", "tea")
        assert {room.topic for room in await bob.rooms()} == {"tea"}
        await ann.mute(room="lobby", nick="bob")
        with pytest.raises(client.Refused, match="muted here"):
            await bob.say("x")
        await chat.cut(bob)
        with pytest.raises(trio.TooSlowError):
            await bob.read("lobby", 1)


async def test_old_names_are_deprecated(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        with pytest.warns(DeprecationWarning, match="wait_idle"):
            await chat.settled()
    with pytest.warns(DeprecationWarning, match="TextLine"):
        assert testing.Line is testing.TextLine
