"""The harness's Socket.IO clients, on WebSocket and on polling: the same face, the same chat."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import pytest
import trio
from msgspec import structs
from trio.testing import MockClock

from chatd import client
from chatd import socketio as library
from chatd.settings import Chat, EngineIo, Limits, Settings
from chatd.testing import Harness, open_chat

Protocol: TypeAlias = Literal["socketio", "polling"]

FAST = Settings(
    limits=Limits(messages_per_second="off", messages_burst="off", bytes_per_second="off")
)


@pytest.fixture(params=["socketio", "polling"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    known: Protocol = request.param
    return known


async def test_a_short_outage_loses_nothing(
    chat: Harness, autojump_clock: MockClock, protocol: Protocol
) -> None:
    ann = await chat.client("ann")
    bob = await chat.client("bob", protocol=protocol)
    await chat.cut(bob)
    await ann.say("are you there?")
    await trio.sleep(600)
    await bob.reconnect()
    assert (await bob.next("message")).text == "are you there?"


async def test_an_outage_loses_nothing_and_sends_nothing_twice(
    chat: Harness, autojump_clock: MockClock, protocol: Protocol
) -> None:
    ann = await chat.client("ann")
    bob = await chat.client("bob", protocol=protocol)
    assert (bob.protocol, bob.nick, bob.room) == (protocol, "bob", "lobby")
    await ann.say("before")
    assert (await bob.next("message")).text == "before"
    await chat.cut(bob)
    assert (await bob.next("lost")).ending.code == 1006
    await ann.say("are you there?")
    await trio.sleep(600)
    await bob.reconnect()
    assert (await bob.next("reconnected")).same_user
    assert (await bob.next("message")).text == "are you there?"
    await ann.say("good")
    assert (await bob.next("message")).text == "good"
    await chat.wait_idle()
    assert bob.waiting("message") == []
    assert bob.waiting("gap") == []
    assert bob.nick == "bob"


async def test_more_than_a_page_was_missed(autojump_clock: MockClock, protocol: Protocol) -> None:
    async with open_chat(FAST) as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob", protocol=protocol)
        await chat.cut(bob)
        texts = [str(number) for number in range(150)]
        for text in texts:
            await ann.say(text)
        await bob.reconnect()
        assert await bob.texts(150) == texts
        assert bob.waiting("message") == []


async def test_everything_that_json_clients_can_do(
    chat: Harness, autojump_clock: MockClock, protocol: Protocol
) -> None:
    ann = await chat.client("ann")
    await ann.say("old")
    bob = await chat.client("bob", protocol=protocol)
    # The start room's last messages are events; another room's page is in its answer.
    assert await bob.texts(1) == ["old"]
    assert bob.entered is not None
    assert [member.nick for member in bob.entered.members] == ["ann", "bob"]
    said = await bob.say("hi", key="k1")
    assert (said.seq, said.duplicate) == (2, False)
    again = await bob.say("other words", key="k1")
    assert (again.seq, again.duplicate) == (2, True)
    message = await bob.next("message")
    assert (message.text, message.nick, message.user, message.seq) == ("hi", "bob", bob.user, 2)
    assert bob.position() == client.Position(said.epoch or "", 2)
    await ann.join("den")
    await ann.say("in here")
    entered = await bob.join("den")
    assert (bob.room, bob.entered) == ("den", entered)
    assert [one.text for one in entered.events if isinstance(one, client.Message)] == ["in here"]
    assert await bob.who() == await bob.who("lobby") == ["ann", "bob"]
    assert (await bob.history("lobby", limit=1)).more
    assert [one.on for one in (await bob.history(after=0)).events] == ["message"]
    assert await bob.nickname("bobby") == bob.nick == "bobby"
    assert (await ann.next("nick")).nick == "bobby"
    with pytest.raises(client.Refused, match="nick_taken"):
        await bob.nickname("ann")
    await bob.leave("lobby")
    assert bob.room == "den"
    await bob.leave()
    with pytest.raises(ValueError, match="bobby is in no room"):
        await bob.say("hm")
    assert bob.waiting("message") == []


async def test_every_room_is_as_it_was_after_an_outage(
    chat: Harness, autojump_clock: MockClock, protocol: Protocol
) -> None:
    ann = await chat.client("ann")
    bob = await chat.client("bob", protocol=protocol, room="den")
    await ann.join("den")
    for room in ("hall", "lobby"):
        await bob.join(room)
        await ann.join(room)
    await bob.leave("hall")
    await chat.cut(bob)
    for room in ("den", "hall", "lobby"):
        await ann.say(f"in {room}", room=room)
    await bob.reconnect()
    assert bob.room == "lobby"
    assert {(await bob.next("message")).text, (await bob.next("message")).text} == {
        "in den",
        "in lobby",
    }
    await chat.wait_idle()
    assert bob.waiting("message") == []


async def test_what_is_said_while_cut_is_said_once(
    chat: Harness, autojump_clock: MockClock, protocol: Protocol
) -> None:
    ann = await chat.client("ann")
    bob = await chat.client("bob", protocol=protocol)
    # Said, and cut before the answer comes; and said while cut.
    chat.stall(bob)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bob.say, "first")
        assert (await ann.next("message")).text == "first"
        await chat.cut(bob)
        nursery.start_soon(bob.say, "second")
        await trio.sleep(600)
        assert ann.waiting("message") == []
        await bob.reconnect()
    assert await bob.texts(2) == ["first", "second"]
    assert await ann.texts(1) == ["second"]
    await chat.wait_idle()
    assert ann.waiting("message") == bob.waiting("message") == []


async def test_pings_are_answered(
    chat: Harness, autojump_clock: MockClock, protocol: Protocol
) -> None:
    bob = await chat.client("bob", protocol=protocol)
    await trio.sleep(3600)
    assert chat.logged("disconnect") == []
    await bob.say("still here")
    assert await bob.texts(1) == ["still here"]


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_silence_is_the_end(autojump_clock: MockClock, protocol: Protocol, how: str) -> None:
    options = EngineIo(ping_interval_seconds=7.0, ping_timeout_seconds=3.0)
    async with open_chat(Settings(engineio=options)) as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob", protocol=protocol)
        began = trio.current_time()
        if how == "cut":
            await chat.cut(bob)
        else:
            chat.stall(bob)
        assert trio.current_time() == began
        await trio.sleep(9.9)
        assert chat.logged("disconnect") == []
        await trio.sleep(0.2)
        (line,) = chat.logged("disconnect")
        assert (line["nick"], line["code"], line["reason"]) == ("bob", 4002, "ping timeout")
        left = await ann.next("left")
        assert (left.nick, left.reason) == ("bob", "lost")
        chat.unstall(bob)
        assert (await bob.lost()).code == (
            4002 if (protocol, how) == ("socketio", "stall") else 1006
        )
        await bob.reconnect()
        assert (await ann.next("joined")).nick == "bob"


async def test_a_stalled_client_is_too_slow_and_misses_nothing(
    autojump_clock: MockClock, protocol: Protocol
) -> None:
    limits = structs.replace(FAST.limits, send_queue_bytes=1 << 16)
    async with open_chat(Settings(limits=limits)) as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob", protocol=protocol)
        chat.stall(bob)
        for number in range(100):
            await ann.say(f"{number} " + "x" * 4000)
            assert await ann.texts(1)
        chat.unstall(bob)
        ending = await bob.lost()
        # Polling has no close codes: its session is not known any more.
        assert ending.code == (4001 if protocol == "socketio" else 1006)
        await bob.reconnect()
        texts = await bob.texts(100)
        assert [int((text or "").split()[0]) for text in texts] == list(range(100))
        assert [line["code"] for line in chat.logged("disconnect")] == [4001]


async def test_what_is_long_goes_in_more_posts_than_one(autojump_clock: MockClock) -> None:
    settings = Settings(limits=FAST.limits, engineio=EngineIo(max_payload_bytes=20_000))
    async with open_chat(settings) as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob", "polling")
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(bob.say, "x" * 9000)
        assert await ann.texts(5) == ["x" * 9000] * 5


async def test_leaving(chat: Harness, autojump_clock: MockClock, protocol: Protocol) -> None:
    ann = await chat.client("ann")
    bob = await chat.client("bob", protocol=protocol)
    began = trio.current_time()
    await bob.aclose()
    assert trio.current_time() - began < 1
    assert [(line["nick"], line["code"]) for line in chat.logged("disconnect")] == [("bob", 1000)]
    left = await ann.next("left")
    assert (left.nick, left.reason) == ("bob", "lost")
    assert bob.waiting("lost") == []
    with pytest.raises(client.Closed):
        await bob.say("anyone?")
    with pytest.raises(client.Closed):
        await bob.reconnect()


async def test_a_drain_closes_all_clients(autojump_clock: MockClock, protocol: Protocol) -> None:
    async with open_chat() as chat:
        bob = await chat.client("bob", protocol=protocol)
        await chat.wait_idle()  # the next GET of a client that polls has arrived
        await chat.daemon.drain()
        ending = await bob.lost()
        assert (ending.code, ending.reconnect) == (1001, True)
        assert ending.retry_ms == (await bob.next("bye")).retry_ms


async def test_refusals(autojump_clock: MockClock, protocol: Protocol) -> None:
    async with open_chat(Settings(limits=Limits(connections=1))) as chat:
        await chat.client("ann")
        with pytest.raises(client.ConnectError, match="refused with 503") as error:
            await chat.client("bob", protocol)
        assert error.value.status == 503


async def test_middleware_refuses(
    chat: Harness, autojump_clock: MockClock, protocol: Protocol
) -> None:
    async def nobody(socket: library.Socket) -> None:
        raise library.Refused("not today")

    chat.daemon.socketio.io.use(nobody)
    with pytest.raises(client.ConnectError, match="refused: not today"):
        await chat.client("bob", protocol)


async def test_a_disconnect_packet_is_for_good(
    chat: Harness, autojump_clock: MockClock, protocol: Protocol
) -> None:
    bob = await chat.client("bob", protocol)
    chat.daemon.socketio.io.disconnect_sockets()
    ending = await bob.lost()
    assert (ending.reason, ending.reconnect) == ("disconnected by the daemon", False)
    with pytest.raises(client.Closed):
        await bob.reconnect()


async def test_after_an_expired_session_the_client_is_a_new_user(
    chat: Harness, autojump_clock: MockClock, protocol: Protocol
) -> None:
    bob = await chat.client("bob", protocol)
    user = bob.user

    async def say() -> None:
        with pytest.raises(client.Refused, match="unauthorized"):
            await bob.say("was it said?")

    chat.stall(bob)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        await chat.wait_idle()
        await chat.cut(bob)
        bob.identity = structs.replace(bob.identity, session="nonsense")
        await trio.sleep(700)
        await bob.reconnect()
    assert not (await bob.next("reconnected")).same_user
    assert bob.user != user
    # The first bob's nick is held for him no longer.
    assert bob.nick == "bob"


async def test_a_room_is_named_or_the_default_one(
    autojump_clock: MockClock, protocol: Protocol
) -> None:
    async with open_chat(Settings(chat=Chat(default_room="hall"))) as chat:
        assert (await chat.client("ann", protocol)).room == "hall"
        assert (await chat.client("bob", protocol, room="den")).room == "den"
        with pytest.raises(ValueError, match=r"Socket\.IO is in a room from the start"):
            await chat.client("eve", protocol, room=None)


async def test_a_gap_is_reported(
    chat: Harness, autojump_clock: MockClock, protocol: Protocol
) -> None:
    ann = await chat.client("ann")
    bob = await chat.client("bob", protocol)
    await bob.join("den")
    await chat.cut(bob)
    # As after a restored backup: these numbers are another log's.
    elsewhere = client.Position("another life", 7)
    bob._positions = dict.fromkeys(bob._positions, elsewhere)
    await ann.say("hello")
    await bob.reconnect()
    gaps = [await bob.next("gap"), await bob.next("gap")]
    assert sorted(gap.room for gap in gaps) == ["den", "lobby"]
    assert {gap.after for gap in gaps} == {elsewhere}
    assert (await bob.next("message")).text == "hello"


async def test_a_room_that_is_closed_to_it_is_lost(
    autojump_clock: MockClock, protocol: Protocol
) -> None:
    limits = structs.replace(FAST.limits, rooms=2)
    async with open_chat(Settings(limits=limits, chat=Chat(presence_grace_seconds=0))) as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob", protocol)
        await bob.join("den")
        bob.room = "lobby"
        await chat.cut(bob)
        await trio.sleep(600)
        await ann.join("hall")
        await bob.reconnect()
        assert (await bob.next("room_lost")).on == "room_lost"
        assert bob.room == "lobby"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_on_real_sockets(kind: str, tmp_path: Path, protocol: Protocol) -> None:
    listen = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/chat.sock"
    async with open_chat(listen=listen) as chat:
        ann = await chat.client("ann")
        bob = await chat.client("bob", protocol)
        await ann.say("hello")
        assert (await bob.next("message")).text == "hello"
        await chat.cut(bob)
        await ann.say("still there?")
        await bob.reconnect()
        assert (await bob.next("message")).text == "still there?"
        await bob.aclose()
