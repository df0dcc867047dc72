"""What waits for what, when handlers end, what can be sent, and what the log says once."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter, OrderedDict
from typing import Any, NamedTuple

import pytest
import trio
from trio.testing import MockClock

from chatd.socketio import Acknowledging, Disconnected, Refused, Socket
from chatd.socketio.packets import Packet, PacketType, encode, encode_event
from chatd.testing.recording import Recording
from tests.socketio.client import Client, quiet, running, settled


def warnings(recording: Recording) -> list[str]:
    return [fields["detail"] for name, fields in recording.records if name == "warning"]


def faults(recording: Recording) -> list[str]:
    return [fields["error"] for name, fields in recording.records if name == "fault"]


async def acknowledge(client: Client) -> None:
    """Answer the server's next question with the number of events that were sent before."""
    packet = await client.packet()
    assert packet.id is not None
    await client.say(*encode(Packet(PacketType.ACK, packet.namespace, ["me"], packet.id)))


# What overtakes events


@pytest.mark.parametrize("count", [400, 3000])
async def test_a_connect_handler_asks_a_client_that_sends_many_events_at_once(
    count: int, autojump_clock: MockClock
) -> None:
    io, recording = quiet()
    answers: list[Any] = []
    numbers: list[int] = []

    @io.on("connect")
    async def connect(socket: Socket) -> None:
        answers.append(await socket.timeout(5).call("who are you?"))

    @io.on("n")
    async def n(socket: Socket, number: int) -> None:
        assert answers == ["me"]
        numbers.append(number)

    async with running(io) as stage:
        client = await stage.joined()
        for at in range(0, count, 500):
            some = range(at, min(count, at + 500))
            await client.say(*[f'2["n",{number}]' for number in some])
        await acknowledge(client)
        while len(numbers) < count:
            await settled()
        assert numbers == list(range(count))
        assert warnings(recording) == []


async def test_a_disconnect_and_another_namespace_overtake_events(
    autojump_clock: MockClock,
) -> None:
    io, _ = quiet()
    gate = trio.Event()
    lines: list[Any] = []

    @io.on("x")
    async def x(socket: Socket) -> None:
        lines.append(socket.connected)
        await gate.wait()

    io.on("disconnect", lambda _socket, reason: lines.append(reason))
    io.of("/other").on("connect", lambda _: lines.append("other"))
    async with running(io) as stage:
        client = await stage.joined()
        await client.say(*['2["x"]'] * 1000)
        await client.join("/other")
        assert len(io.of("/other").sockets) == 1
        await client.say("1")
        await settled()
        assert len(io.sockets) == 0
        assert lines == [True]
        gate.set()
        while len(lines) < 1002:
            await settled()
        # The events had come before; handlers still run in the order of what came.
        assert lines == [True, *[False] * 999, "other", "client namespace disconnect"]


async def test_the_end_overtakes_events(autojump_clock: MockClock) -> None:
    io, _ = quiet()
    reasons: list[str] = []

    @io.on("x")
    async def x(socket: Socket) -> None:
        with pytest.raises(Disconnected) as caught:
            await socket.timeout(100).call("are you there?")
        reasons.append(caught.value.reason)

    async with running(io) as stage:
        client = await stage.joined()
        await client.say(*['2["x"]'] * 300)
        await client.close()
        while len(reasons) < 300:
            await settled()
        assert set(reasons) == {"transport close"}
        assert trio.current_time() < 1


async def test_above_the_bound_reading_waits_and_the_client_is_not_silent(
    autojump_clock: MockClock,
) -> None:
    io, recording = quiet(max_payload=10_000)
    gate = trio.Event()
    seen = 0

    @io.on("x")
    async def x(socket: Socket, _text: str) -> None:
        nonlocal seen
        await gate.wait()
        seen += 1

    async with running(io) as stage:
        client = await stage.joined()
        posted = trio.Event()

        async def post() -> None:
            for _ in range(10):
                await client.say(f'2["x","{"x" * 9000}"]')
            posted.set()

        stage.nursery.start_soon(post)
        client.stall()
        await trio.sleep(300)
        assert io.statistics().queued == 4
        (session,) = io.engine.sessions.values()
        assert session.reason is None
        assert len(warnings(recording)) == 1
        assert "nothing more is read" in warnings(recording)[0]
        gate.set()
        await posted.wait()
        await settled()
        assert seen == 10


async def test_a_client_that_connects_again_and_again_and_reads_nothing_waits() -> None:
    io, _ = quiet(send_queue_bytes=1000)
    async with running(io) as stage:
        client = await stage.joined()
        client.stall()
        await settled()
        done = 0

        async def come_and_go() -> None:
            nonlocal done
            for _ in range(1000):
                await client.say("0/a,")
                done += 1
                await settled()

        stage.nursery.start_soon(come_and_go)
        for _ in range(200):
            await settled()
        (session,) = io.engine.sessions.values()
        assert done < 100
        assert session.waiting < 1200
        assert session.reason is None


# How handlers end


async def test_a_drain_lets_handlers_end_and_sends_their_answers(
    autojump_clock: MockClock,
) -> None:
    io, _ = quiet()
    lines: list[Any] = []

    @io.on("slow")
    async def slow(socket: Socket, number: int) -> int:
        await trio.sleep(1)
        lines.append(await socket.timeout(5).call("who are you?"))
        return number

    @io.on("late")
    async def late(socket: Socket) -> str:
        lines.append("late")
        return "late"

    io.on("disconnect", lambda _socket, reason: lines.append(reason))
    async with running(io) as stage:
        client = await stage.joined()
        other = await stage.joined()
        await client.emit("slow", 1, ack=1)
        await client.emit("slow", 2, ack=2)
        stage.nursery.start_soon(io.drain, 5)
        await settled()
        await other.emit("late", ack=3)
        await other.say("0/admin,")
        await acknowledge(client)
        assert (await client.packet()).data == [1]
        await acknowledge(client)
        assert (await client.packet()).data == [2]
        await client.over.wait()
        await other.over.wait()
        assert other.silent
        assert trio.current_time() < 3
        await settled()
        assert lines == ["me", "me", "server shutting down", "server shutting down"]


async def test_a_drain_waits_for_a_client_that_is_being_admitted(
    autojump_clock: MockClock,
) -> None:
    io, _ = quiet()

    @io.use
    async def slow(_socket: Socket) -> None:
        await trio.sleep(1)

    io.on("connect", lambda socket: socket.emit("welcome"))
    async with running(io) as stage:
        client = await stage.client()
        stage.nursery.start_soon(client.join)
        await settled()
        await io.drain(5)
        assert await client.event() == ["welcome"]


@pytest.mark.parametrize("how", ["close", "leave", "disconnect"])
async def test_a_handler_whose_client_has_gone_is_cancelled_in_time(
    how: str, autojump_clock: MockClock
) -> None:
    io, recording = quiet(handler_grace=7.0)
    ended: list[Any] = []

    @io.on("tick")
    async def tick(socket: Socket) -> None:
        try:
            while True:
                await socket.emit("tick")
                await trio.sleep(0.5)
        finally:
            ended.append(round(trio.current_time() - began))

    @io.on("disconnect")
    async def disconnect(socket: Socket, reason: str) -> None:
        ended.append(reason)

    io.of("/other").on("x", lambda *_: "still here")
    async with running(io) as stage:
        client = await stage.joined()
        await client.join("/other")
        await client.emit("tick")
        await client.emit("tick")
        await settled()
        began = trio.current_time()
        if how == "close":
            await client.close()
        elif how == "leave":
            await client.say("1")
        else:
            next(iter(io.sockets.values())).disconnect()
        await trio.sleep(6)
        assert ended == []
        await trio.sleep(2)
        reason = {
            "close": "transport close",
            "leave": "client namespace disconnect",
            "disconnect": "server namespace disconnect",
        }[how]
        assert ended == [7, reason]
        assert len(warnings(recording)) == 1
        if how == "close":
            assert io.statistics().connections == 0
        else:
            # The other namespace is not affected.
            await client.emit("x", ack=5, namespace="/other")
            while (packet := await client.packet()).type is not PacketType.ACK:
                pass
            assert packet.data == ["still here"]


async def test_a_connect_handler_and_a_disconnect_handler_have_their_time_too(
    autojump_clock: MockClock,
) -> None:
    io, recording = quiet()

    @io.on("connect")
    @io.on("disconnect")
    async def never_ends(*_: Any) -> None:
        await trio.sleep_forever()

    async with running(io) as stage:
        client = await stage.joined()
        await client.close()
        await trio.sleep(59)
        assert io.statistics().connections == 1
        await trio.sleep(2)
        assert io.statistics().connections == 0
        assert len(warnings(recording)) == 2


async def test_a_client_recovers_whatever_its_disconnect_handler_does(
    autojump_clock: MockClock,
) -> None:
    io, _ = quiet(recovery=True)

    @io.on("disconnect")
    async def never_ends(*_: Any) -> None:
        await trio.sleep_forever()

    async with running(io) as stage:
        client = await stage.client()
        reply = await client.join()
        client.cut()
        await trio.sleep(40)
        again = await stage.client()
        assert await again.join(auth={"pid": reply["pid"]}) == reply


async def test_a_handler_that_ends_in_time_is_not_cancelled_and_the_next_has_all_its_time(
    autojump_clock: MockClock,
) -> None:
    io, recording = quiet(handler_grace=7.0)
    lines: list[str] = []

    @io.on("x")
    async def x(socket: Socket) -> None:
        await trio.sleep(5)
        lines.append("x")

    @io.of("/other").on("y")
    async def y(socket: Socket) -> None:
        await trio.sleep(20)
        lines.append("y")

    async with running(io) as stage:
        client = await stage.joined()
        await client.join("/other")
        await client.emit("x")
        await client.emit("y", namespace="/other")
        await settled()
        await client.say("1")
        await trio.sleep(30)
        assert lines == ["x", "y"]
        assert warnings(recording) == []


# What can be sent


class Celsius(float):
    """A subclass of a number, as numpy.float64 is."""


class Level(enum.IntEnum):
    LOW = 1


class Color(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Reading:
    at: Celsius
    raw: bytes


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (Celsius(1.5), "1.5"),
        (Level.LOW, "1"),
        (Color.RED, '"red"'),
        (Point(1, Celsius(2.5)), "[1,2.5]"),
        (OrderedDict(a=Celsius(1.5)), '{"a":1.5}'),
        (Counter("aab"), '{"a":2,"b":1}'),
        ({True: 1, None: 2, 1.5: 3, 7: 4}, '{"true":1,"null":2,"1.5":3,"7":4}'),
        ({Level.LOW: 5, Celsius(2.5): 6}, '{"1":5,"2.5":6}'),
        (float("nan"), "null"),
        ([Celsius("inf")], "[null]"),
        (2**70, str(2**70)),
    ],
)
async def test_what_json_takes_is_acknowledged_and_sent(value: Any, sent: str) -> None:
    io, _ = quiet()
    io.on("give", lambda *_: value)
    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("give", ack=1)
        assert await client.heard() == f"31[{sent}]"
        await io.emit("all", value)
        assert await client.heard() == f'2["all",{sent}]'
        await next(iter(io.sockets.values())).emit("one", value)
        assert await client.heard() == f'2["one",{sent}]'


def test_bytes_are_found_in_what_is_converted() -> None:
    text, attachment = encode_event("e", [{"r": Reading(Celsius(1.5), b"\x01")}])
    assert text == '51-["e",{"r":{"at":1.5,"raw":{"_placeholder":true,"num":0}}}]'
    assert attachment == b"\x01"


async def test_what_cannot_be_sent_is_told_with_the_events_name() -> None:
    io, recording = quiet()
    circle: list[Any] = []
    circle.append(circle)
    io.on("give", lambda *_: object())
    io.on("circle", lambda *_: circle)
    io.on("call", lambda socket, *_: socket.call("question", {(1, 2): 3}))

    @io.on("ack", ack=True)
    async def later(socket: Socket, ack: Acknowledging) -> None:
        with pytest.raises(TypeError, match="acknowledgement of 'ack' cannot be sent"):
            ack(object())
        ack("something else")

    async with running(io) as stage:
        client = await stage.joined()
        for number, event in enumerate(("give", "circle", "call")):
            await client.emit(event, ack=number)
        await client.emit("ack", ack=3)
        assert await client.heard() == '33["something else"]'
        assert client.silent
        names = ["acknowledgement of 'give'", "acknowledgement of 'circle'", "event 'question'"]
        for name, fault in zip(names, faults(recording), strict=True):
            assert f"the {name} cannot be sent" in fault
        with pytest.raises(TypeError, match="the event 'all' cannot be sent"):
            await io.emit("all", object())


async def test_a_hook_converts_other_types_wherever_they_are_sent() -> None:
    def hook(value: Any) -> Any:
        if isinstance(value, complex):
            return [value.real, Celsius(value.imag)]
        if isinstance(value, Recording):
            return b"bytes"
        raise NotImplementedError

    io, recording = quiet(enc_hook=hook)
    io.on("give", lambda *_: {"z": 1 + 2j})
    io.on("fail", lambda *_: object())

    @io.of("/closed").use
    async def closed(socket: Socket) -> None:
        raise Refused("no", 3j)

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("give", ack=1)
        assert await client.heard() == '31[{"z":[1.0,2.0]}]'
        await io.emit("binary", recording)
        assert (await client.event()) == ["binary", b"bytes"]
        await client.say("0/closed,")
        assert await client.heard() == '4/closed,{"message":"no","data":[0.0,3.0]}'
        await client.emit("fail", ack=2)
        await settled()
        assert "enc_hook does not convert objects of type object" in faults(recording)[0]


async def test_a_refusal_whose_data_cannot_be_sent_refuses() -> None:
    io, recording = quiet()

    @io.use
    async def closed(socket: Socket) -> None:
        raise Refused("no", object())

    async with running(io) as stage:
        client = await stage.client()
        await client.say("0")
        assert await client.heard() == '4{"message":"internal error"}'
        assert "the data of a refusal in / cannot be sent" in faults(recording)[0]


# What the log says once


async def test_a_client_with_another_parser_is_named(autojump_clock: MockClock) -> None:
    io, recording = quiet()
    connect = b"\x83\xa4type\x00\xa4data\xd4\x00\x00\xa3nsp\xa1/"
    async with running(io) as stage:
        for _ in range(3):
            client = await stage.client()
            await client.say(connect)
            await client.over.wait()
        (said,) = warnings(recording)
        assert "socket.io-msgpack-parser" in said
        await trio.sleep(61)
        client = await stage.client()
        await client.say(connect)
        await client.over.wait()
        assert len(warnings(recording)) == 2


async def test_a_client_that_sends_no_socket_io_is_named() -> None:
    io, recording = quiet()
    async with running(io) as stage:
        client = await stage.client()
        await client.say('{"type":"CONNECT"}')
        await client.over.wait()
        (said,) = warnings(recording)
        assert "not a Socket.IO packet" in said


async def test_a_client_of_revision_3_that_is_refused_is_named() -> None:
    io, recording = quiet()
    async with running(io) as stage:
        client = Client(io, stage.nursery, 3)
        answer = await client.request("GET")
        assert answer.status == 400
        (said,) = warnings(recording)
        assert "allow_eio3" in said


async def test_an_acknowledgement_that_never_comes_is_named(autojump_clock: MockClock) -> None:
    io, recording = quiet()
    io.on("none", lambda *_: None)
    io.on("empty", lambda *_: ())
    io.on("later", lambda *_: None, ack=True)

    @io.on("fails")
    async def fails(socket: Socket) -> None:
        raise ValueError("no")

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("none")  # nobody waits
        await client.emit("empty", ack=0)
        await client.emit("later", ack=1)
        await client.emit("fails", ack=2)
        await settled()
        assert warnings(recording) == []
        for number in range(3, 6):
            await client.emit("none", ack=number)
            await client.emit("unknown" * 100, ack=number + 10)
        await settled()
        first, second = warnings(recording)
        assert "the handler of 'none' returned None" in first
        assert "has no handler" in second
        assert len(second) < 300
        await trio.sleep(61)
        await client.emit("none", ack=9)
        await settled()
        assert len(warnings(recording)) == 3
