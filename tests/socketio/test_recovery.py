"""The log in memory by itself, and sockets that come back by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd import socketio
from chatd.socketio import Logged, Lost, MemoryLog, Recovery, Socket
from chatd.socketio.packets import Packet, PacketType, encode
from chatd.socketio.recovery import parse_recovery
from tests.socketio.client import Client, Stage, quiet, running, settled


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


LOST = Lost("pid", "id", [], {}, "")


def logged(text: str) -> Logged:
    return Logged([text])


def texts(events: Sequence[Logged] | None) -> list[Any] | None:
    return None if events is None else [event.messages[0] for event in events]


async def test_the_log_gives_what_lies_behind_an_offset() -> None:
    log = MemoryLog(clock=Clock())
    begin = log.head("/")
    assert await log.read("/", begin, LOST) == []
    offsets = [await log.append("/", logged(str(number))) for number in range(5)]
    assert log.head("/") == offsets[-1]
    await log.append("/other", logged("x"))
    assert texts(await log.read("/", begin, LOST)) == ["0", "1", "2", "3", "4"]
    assert texts(await log.read("/", offsets[2], LOST)) == ["3", "4"]
    assert texts(await log.read("/", offsets[-1], LOST)) == []
    events = await log.read("/", begin, LOST)
    assert events is not None
    assert [event.offset for event in events] == offsets


@given(st.text() | st.integers().map(str) | st.text("0123456789.٣", max_size=30))
def test_any_other_offset_is_not_known(words: str) -> None:
    log = MemoryLog(clock=Clock())
    life = log.head("/").rpartition(".")[0]

    async def main() -> None:
        await log.append("/", logged("a"))
        for offset in (words, f"{life}.{words}"):
            events = await log.read("/", offset, LOST)
            if words not in ("0", "1") and not (words.isascii() and words.strip("0") in ("", "1")):
                assert events is None

    trio.run(main)


async def test_the_log_is_bounded_in_time_and_bytes() -> None:
    clock = Clock()
    log = MemoryLog(10.0, max_bytes=1000, clock=clock)
    begin = log.head("/")
    first = await log.append("/", logged("x" * 400))
    clock.now = 9.0
    second = await log.append("/", logged("y" * 400))
    assert len(await log.read("/", begin, LOST) or ()) == 2
    clock.now = 10.0
    assert await log.read("/", begin, LOST) is None
    assert len(await log.read("/", first, LOST) or ()) == 1
    await log.append("/other", logged("z" * 400))
    assert await log.read("/other", begin, LOST) is not None
    await log.append("/other", logged("z" * 400))
    # The other namespace's events push out the oldest, wherever they are.
    assert await log.read("/", first, LOST) is None
    assert await log.read("/", second, LOST) == []
    clock.now = 100.0
    assert await log.read("/", second, LOST) == []
    third = await log.append("/", logged("a"))
    assert texts(await log.read("/", second, LOST)) == ["a"]
    assert await log.read("/", third, LOST) == []
    assert await log.read("/", first, LOST) is None
    assert log._bytes == 1


async def test_namespaces_without_events_are_forgotten_in_time() -> None:
    clock = Clock()
    log = MemoryLog(10.0, max_lost=2, clock=clock)
    offsets = [await log.append(f"/{number}", logged("x")) for number in range(5)]
    clock.now = 20.0
    assert await log.read("/4", offsets[4], LOST) == []
    assert await log.read("/4", offsets[3], LOST) is None
    assert (len(log._floors), len(log._events)) == (2, 0)
    # Dropping old entries loses no recoverable event.
    assert await log.read("/0", offsets[1], LOST) is None
    assert await log.read("/never", offsets[1], LOST) is None
    assert await log.read("/0", offsets[2], LOST) == []
    await log.append("/0", logged("y"))
    assert await log.read("/0", offsets[1], LOST) is None
    assert texts(await log.read("/0", offsets[2], LOST)) == ["y"]


async def test_lost_sockets_are_restored_once_and_in_time() -> None:
    clock = Clock()
    log = MemoryLog(10.0, max_lost=2, clock=clock)
    lost = [Lost(str(number), "id", ["room"], {}, "") for number in range(4)]
    await log.remember("/", lost[0])
    clock.now = 9.0
    assert await log.recall("/other", "0") is None
    assert await log.recall("/", "0") == lost[0]
    assert await log.recall("/", "0") is None
    for each in lost[1:]:
        await log.remember("/", each)
    assert await log.recall("/", "1") is None
    assert await log.recall("/", "2") == lost[2]
    clock.now = 19.0
    assert await log.recall("/", "3") is None


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, None),
        (False, None),
        (True, Recovery()),
        (60, Recovery(seconds=60)),
        (0.5, Recovery(seconds=0.5)),
        (Recovery(skip_middleware=False), Recovery(skip_middleware=False)),
    ],
)
def test_recovery_is_said_in_several_ways(said: Any, meant: Recovery | None) -> None:
    assert parse_recovery(said) == meant


# Sockets


class Page:
    """A Socket.IO client's state, and how it reconnects."""

    def __init__(self, client: Client, reply: dict[str, Any], namespace: str = "/") -> None:
        self.client = client
        self.namespace = namespace
        self.id = reply["sid"]
        self.pid = reply["pid"]
        self.offset: str | None = None

    async def event(self) -> list[Any]:
        """Handle an event as Node's client does: a last string argument is the offset."""
        name, *args = await self.client.event()
        if args and isinstance(args[-1], str):
            self.offset = args.pop()
        return [name, *args]

    async def back(self, stage: Stage, **auth: Any) -> tuple[bool, list[list[Any]]]:
        """Reconnect; return whether it recovered, and the missed events."""
        self.client = await stage.client()
        given = {"pid": self.pid}
        if self.offset is not None:
            given["offset"] = self.offset
        given.update(auth)
        await self.client.say(*encode(Packet(PacketType.CONNECT, self.namespace, given)))
        missed: list[list[Any]] = []
        while True:
            packet = await self.client.packet()
            assert packet.namespace == self.namespace
            if packet.type is PacketType.CONNECT:
                recovered = packet.data["pid"] == self.pid
                assert (packet.data["sid"] == self.id) is recovered
                self.id, self.pid = packet.data["sid"], packet.data["pid"]
                return recovered, missed
            name, *args = packet.data
            self.offset = args.pop()
            missed.append([name, *args])


async def page(stage: Stage, namespace: str = "/") -> Page:
    client = await stage.client()
    return Page(client, await client.join(namespace), namespace)


async def cut(page: Page) -> None:
    page.client.cut()
    await page.client.over.wait()
    await settled()


async def test_a_client_that_comes_back_is_who_it_was_and_misses_nothing() -> None:
    io, _ = quiet(recovery=True)
    seen: list[Socket] = []

    @io.on("connect")
    async def connect(socket: Socket) -> None:
        seen.append(socket)
        if not socket.recovered:
            socket.join("room")
            socket.data["user"] = "ann"

    async with running(io) as stage:
        ann, bob = await page(stage), await page(stage)
        await io.emit("one", 1)
        assert await ann.event() == ["one", 1]
        await cut(ann)
        await io.emit("two", b"binary")
        await io.to("room").except_(ann.id).emit("not for ann")
        await io.to("elsewhere").emit("not for ann")
        await io.to("room", "elsewhere").emit("three")
        await io.to(ann.id).emit("four")
        await io.volatile.emit("fleeting")
        await seen[0].emit("five")
        recovered, missed = await ann.back(stage, token="x")
        assert recovered
        assert missed == [["two", b"binary"], ["three"], ["four"], ["five"]]
        await settled()
        socket = seen[-1]
        assert socket.recovered
        assert socket.rooms == {ann.id, "room"}
        assert socket.data == {"user": "ann"}
        assert socket.handshake.auth["token"] == "x"
        await io.emit("six")
        assert await ann.event() == ["six"]
        # And again, from where it is now.
        await cut(ann)
        await io.emit("seven")
        assert await ann.back(stage) == (True, [["seven"]])
        assert await bob.event() == ["one", 1]


async def test_a_client_without_events_recovers_too() -> None:
    io, _ = quiet(recovery=True)
    async with running(io) as stage:
        await io.emit("before its time")
        ann = await page(stage)
        await cut(ann)
        await io.emit("missed")
        assert await ann.back(stage) == (True, [["missed"]])


async def test_a_volatile_event_that_ends_in_a_string_does_no_harm() -> None:
    io, _ = quiet(recovery=True)
    async with running(io) as stage:
        ann = await page(stage)
        await io.emit("logged")
        assert await ann.event() == ["logged"]
        offset = ann.offset
        await settled()
        await io.volatile.emit("fleeting", "text")
        assert await ann.event() == ["fleeting", "text"]
        assert ann.offset == offset
        await cut(ann)
        await io.emit("missed")
        assert await ann.back(stage) == (True, [["missed"]])


async def test_a_call_is_not_logged_and_has_no_offset() -> None:
    io, _ = quiet(recovery=True)
    async with running(io) as stage:
        ann = await page(stage)
        (socket,) = io.fetch_sockets()
        stage.nursery.start_soon(socket.call, "q", "text")
        packet = await ann.client.packet()
        assert packet.data == ["q", "text"]
        await ann.client.say(f"3{packet.id}[]")
        await cut(ann)
        assert await ann.back(stage) == (True, [])


@pytest.mark.parametrize(
    "auth",
    [
        {"pid": "unknown"},
        {"pid": 1},
        {"pid": None},
        {"pid": "x" * 1000},
        {"offset": "unknown"},
        {"offset": 5},
        {"offset": ["x"]},
    ],
)
async def test_without_recovery_a_new_session_starts(auth: dict[str, Any]) -> None:
    io, recording = quiet(recovery=True)
    async with running(io) as stage:
        ann = await page(stage)
        await io.emit("x")
        await cut(ann)
        assert await ann.back(stage, **auth) == (False, [])
        await io.emit("y")
        assert await ann.event() == ["y"]
    assert recording.records == []


@pytest.mark.parametrize("after", [119.0, 121.0])
async def test_recovery_has_its_time(after: float, autojump_clock: MockClock) -> None:
    io, _ = quiet(recovery=120.0)
    async with running(io) as stage:
        ann = await page(stage)
        await cut(ann)
        await trio.sleep(after)
        assert await ann.back(stage) == (after < 120, [])


@pytest.mark.parametrize("how", ["client", "server", "close", "parse"])
async def test_a_client_that_left_or_was_disconnected_does_not_recover(how: str) -> None:
    io, _ = quiet(recovery=True)
    async with running(io) as stage:
        ann = await page(stage)
        (socket,) = io.fetch_sockets()
        if how == "client":
            await ann.client.say("1")
        elif how == "parse":
            await ann.client.say("nonsense")
        else:
            socket.disconnect(close=how == "close")
        await socket.wait_finished()
        assert await ann.back(stage) == (False, [])


async def test_a_client_that_returns_before_its_end_was_noticed_takes_over() -> None:
    io, _ = quiet(recovery=True)
    lines: list[Any] = []
    gate = trio.Event()
    io.on("connect", lambda socket: lines.append(socket.recovered))

    @io.on("disconnect")
    async def disconnect(socket: Socket, reason: str) -> None:
        await gate.wait()
        lines.append(reason)

    async with running(io) as stage:
        ann = await page(stage)
        old = ann.client
        await io.emit("seen")
        await ann.event()
        back: list[Any] = []

        async def come_back() -> None:
            back.append(await ann.back(stage))

        stage.nursery.start_soon(come_back)
        await old.over.wait()
        await settled()
        # Its last handler runs before the first of its new life.
        assert back == []
        gate.set()
        await settled()
        assert back == [(True, [])]
        assert lines == [False, "transport close", True]
        assert [socket.id for socket in io.fetch_sockets()] == [ann.id]


async def test_a_client_that_returns_does_not_wait_until_its_old_connection_is_closed(
    autojump_clock: MockClock,
) -> None:
    io, _ = quiet(recovery=True)
    async with running(io) as stage:
        ann = await page(stage)
        ann.client.stall()
        (socket,) = io.fetch_sockets()
        await io.emit("seen")
        socket.session.end("forced close")
        returned = trio.current_time()
        assert await ann.back(stage) == (True, [["seen"]])
        assert trio.current_time() == returned


async def test_middleware_is_passed_again_only_where_it_is_wished() -> None:
    for skip in (True, False):
        io, _ = quiet(recovery=Recovery(skip_middleware=skip))
        passed: list[bool] = []
        io.use(lambda socket, passed=passed: passed.append(socket.recovered))
        async with running(io) as stage:
            ann = await page(stage)
            await cut(ann)
            assert await ann.back(stage) == (True, [])
            assert passed == ([False] if skip else [False, True])


async def test_what_was_missed_must_fit_into_half_the_queue() -> None:
    io, _ = quiet(recovery=True, send_queue_bytes=10_000)
    async with running(io) as stage:
        ann = await page(stage)
        await cut(ann)
        for _ in range(6):
            await io.emit("x", "x" * 1000)
        assert await ann.back(stage) == (False, [])


async def test_namespaces_recover_each_by_itself() -> None:
    io, _ = quiet(recovery=True)
    io.of("/a")
    async with running(io) as stage:
        ann = await page(stage, "/a")
        await cut(ann)
        await io.emit("in /")
        await io.of("/a").emit("in /a")
        assert await ann.back(stage) == (True, [["in /a"]])


async def test_dynamic_namespaces_recover_though_they_were_empty() -> None:
    io, _ = quiet(recovery=True)
    dynamic = io.of(lambda name, auth: True)
    async with running(io) as stage:
        ann = await page(stage, "/a")
        await cut(ann)
        assert dynamic.namespaces == {}
        assert await ann.back(stage) == (True, [])


async def test_an_event_in_the_moment_of_coming_back_is_neither_lost_nor_doubled() -> None:
    class Slow(MemoryLog):
        async def read(self, *args: Any) -> Sequence[Logged] | None:
            await trio.lowlevel.checkpoint()
            events = await super().read(*args)
            await trio.lowlevel.checkpoint()
            return events

        async def append(self, *args: Any) -> str:
            await trio.lowlevel.checkpoint()
            offset = await super().append(*args)
            await trio.lowlevel.checkpoint()
            return offset

    for delay in range(20):
        io, _ = quiet(recovery=Recovery(log=Slow()))
        async with running(io) as stage:
            ann = await page(stage)
            await cut(ann)
            await io.emit("n", 0)

            async def speak(io: socketio.Server = io, delay: int = delay) -> None:
                for _ in range(delay):
                    await trio.lowlevel.checkpoint()
                for number in range(1, 6):
                    await io.emit("n", number)

            stage.nursery.start_soon(speak)
            recovered, seen = await ann.back(stage)
            assert recovered
            while len(seen) < 6:
                seen.append(await ann.event())
            await settled()
            assert ann.client.silent
            assert [number for _, number in seen] == list(range(6))


@pytest.mark.parametrize("broken", ["recall", "read", "remember"])
async def test_a_broken_log_is_reported_and_recovers_no_client(broken: str) -> None:
    async def fail(*args: Any) -> Any:
        raise OSError("disk full")

    log = MemoryLog()
    setattr(log, broken, fail)
    io, recording = quiet(recovery=Recovery(log=log))
    async with running(io) as stage:
        ann = await page(stage)
        await cut(ann)
        assert await ann.back(stage) == (False, [])
    assert "disk full" in recording.records[0][1]["error"]


async def test_a_log_that_outlives_the_server_recovers_across_a_restart() -> None:
    log = MemoryLog()
    io, _ = quiet(recovery=Recovery(log=log))
    async with running(io) as stage:
        ann = await page(stage)
        await settled()
        await io.emit("seen")
        await ann.event()
    io, _ = quiet(recovery=Recovery(log=log))
    await io.emit("said before anybody was back")
    async with running(io) as stage:
        assert await ann.back(stage) == (True, [["said before anybody was back"]])


async def test_a_client_that_saw_everything_recovers_after_a_long_time(
    autojump_clock: MockClock,
) -> None:
    io, _ = quiet(recovery=120.0)
    async with running(io) as stage:
        ann = await page(stage)
        await io.emit("x")
        await ann.event()
        await trio.sleep(1000)
        await cut(ann)
        await trio.sleep(100)
        await io.emit("y")
        assert await ann.back(stage) == (True, [["y"]])


async def test_middleware_may_treat_a_recovered_client_as_new() -> None:
    io, _ = quiet(recovery=Recovery(skip_middleware=False))
    asked: list[bool] = []

    @io.use
    def admit(socket: Socket) -> None:
        asked.append(socket.recovered)
        if socket.recovered:
            raise socketio.NotRecovered

    async with running(io) as stage:
        ann = await page(stage)
        await cut(ann)
        await io.emit("news", 1)
        was = ann.pid
        assert await ann.back(stage) == (False, [])
        assert ann.pid != was
    assert asked == [False, True, False]
