from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd import socketio
from chatd.socketio import Acknowledging, Disconnected, Socket
from tests.socketio.client import quiet, running, settled


async def test_what_a_handler_returns_is_its_acknowledgement() -> None:
    io, _ = quiet()
    values: dict[str, Any] = {
        "none": None,
        "one": 1,
        "false": False,
        "list": [1, 2],
        "several": (1, b"x", "z"),
        "nothing": (),
    }
    io.on("get", lambda socket, name: values[name])

    async with running(io) as stage:
        client = await stage.joined()
        for number, name in enumerate(values):
            await client.emit("get", name, ack=number)
            # Without an id no answer is expected.
            await client.emit("get", name)
        answers = {}
        for _ in range(len(values) - 1):
            packet = await client.packet()
            answers[list(values)[packet.id or 0]] = packet.data
        await settled()
        assert client.silent
        assert answers == {
            "one": [1],
            "false": [False],
            "list": [[1, 2]],
            "several": [1, b"x", "z"],
            "nothing": [],
        }


async def test_an_ack_is_called_once_at_any_time() -> None:
    io, _ = quiet()
    kept: list[Acknowledging] = []

    @io.on("later", ack=True)
    async def later(socket: Socket, text: str, ack: Acknowledging) -> str:
        kept.append(ack)
        return "means nothing"

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("later", "x", ack=5)
        await client.emit("later", "x")
        await settled()
        assert client.silent
        kept[0]("a", b"b")
        kept[0]("c")
        kept[1]("nobody asked")
        packet = await client.packet()
        assert (packet.id, packet.data) == (5, ["a", b"b"])
        await client.emit("later", "x", ack=6)
        await settled()
        await client.close()
        await client.over.wait()
        await settled()
        kept[2]("nobody is there")
        assert client.silent


async def test_never_an_acknowledgement_of_the_servers_own() -> None:
    io, _ = quiet()
    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("nobody listens", ack=0)
        await settled()
        assert client.silent


@pytest.mark.parametrize(
    ("answer", "value"), [("[]", None), ("[1]", 1), ("[[1]]", [1]), ('[1,"a"]', (1, "a"))]
)
async def test_call_gives_the_clients_acknowledgement(answer: str, value: Any) -> None:
    io, _ = quiet()
    values: list[Any] = []

    @io.on("ask")
    async def call(socket: Socket) -> None:
        values.append(await socket.timeout(5).call("q", b"bytes"))

    async with running(io) as stage:
        client = await stage.joined()
        for _ in range(2):
            await client.emit("ask")
            packet = await client.packet()
            assert packet.data == ["q", b"bytes"]
            await client.say("3999[]", f"3{packet.id}{answer}", f"3{packet.id}[9]")
            await settled()
        assert values == [value, value]


async def test_call_waits_for_a_limited_time_and_not_for_a_lost_client(
    autojump_clock: MockClock,
) -> None:
    io, _ = quiet(ack_timeout=9.0)
    async with running(io) as stage:
        client = await stage.joined()
        (socket,) = io.fetch_sockets()
        connect_began = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await socket.call("q")
        assert trio.current_time() - connect_began == 9
        with pytest.raises(trio.TooSlowError):
            await socket.timeout(2).call("q")
        assert trio.current_time() - connect_began == 11
        assert socket._replies == {}

        async def leave() -> None:
            await trio.sleep(1)
            client.cut()

        stage.nursery.start_soon(leave)
        with pytest.raises(Disconnected, match="transport error"):
            await socket.timeout(2).call("q")
        with pytest.raises(Disconnected, match="transport error"):
            await socket.timeout(2).call("q")
        assert trio.current_time() - connect_began == 12


async def test_what_one_task_sends_to_a_socket_arrives_in_that_order() -> None:
    io, _ = quiet()

    @io.on("go", ack=True)
    async def go(socket: Socket, ack: Acknowledging) -> None:
        socket.join("room")
        await io.emit("a")
        await socket.emit("b", b"binary")
        await io.to("room").emit("c")
        ack("d")
        await socket.volatile.emit("left out, as something waits")
        await socket.emit("e")

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("go", ack=0)
        got = [(await client.packet()).data for _ in range(5)]
        assert got == [["a"], ["b", b"binary"], ["c"], ["d"], ["e"]]


async def test_broadcast_goes_to_all_others() -> None:
    io, _ = quiet()

    @io.on("x")
    async def x(socket: Socket) -> None:
        await socket.broadcast.emit("broadcast")
        await socket.to("room").emit("room")
        await socket.except_("room").emit("not in the room")
        await socket.emit("done")

    async with running(io) as stage:
        first, second, third = [await stage.joined() for _ in range(3)]
        sockets = io.fetch_sockets()
        sockets[0].join("room")
        sockets[1].join("room")
        await first.emit("x")
        assert await first.event() == ["done"]
        assert [await second.event() for _ in range(2)] == [["broadcast"], ["room"]]
        assert [await third.event() for _ in range(2)] == [["broadcast"], ["not in the room"]]


async def test_rooms_are_joined_left_and_kept_for_disconnect() -> None:
    io, _ = quiet()
    seen: list[Any] = []

    @io.on("disconnect")
    async def disconnect(socket: Socket, reason: str) -> None:
        seen.append((socket.rooms, socket.connected, io.to("a").fetch_sockets()))
        socket.join("never")
        socket.leave("a")
        seen.append(socket.rooms)

    async with running(io) as stage:
        client = await stage.joined()
        (socket,) = io.fetch_sockets()
        socket.join("a", "b")
        socket.join("a")
        socket.leave("b", "never there")
        assert socket.rooms == {socket.id, "a"}
        assert repr(socket) == f"<Socket {socket.id} in /: connected>"
        await client.say("1")
        await settled()
        assert seen == [({socket.id, "a"}, False, []), {socket.id, "a"}]


async def test_event_middleware_sees_changes_and_drops_events() -> None:
    io, recording = quiet()
    lines: list[Any] = []

    @io.use_event
    async def upper(socket: Socket, event: str, args: list[Any]) -> None:
        if event == "boom":
            raise ValueError("boom")
        args[0] = args[0].upper()

    @io.on("connect")
    async def connect(socket: Socket) -> None:
        @socket.use
        def secret(socket: Socket, event: str, args: list[Any]) -> None:
            if args[0] == "SECRET":
                raise socketio.Refused("not that")

    @io.on_any
    async def anything(socket: Socket, event: str, *args: Any) -> str:
        lines.append((event, *args))
        return "means nothing"

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x", "a", ack=0)
        await client.emit("x", "secret", ack=1)
        await client.emit("boom", ack=2)
        await client.say('2[7,"b"]')
        await settled()
        assert lines == [("x", "A"), ("7", "B")]
        assert client.silent
        faults = [fields for name, fields in recording.records if name == "fault"]
        assert [fields["detail"] for fields in faults] == ["boom in /"]


async def test_several_handlers_of_an_event_run_in_their_order() -> None:
    io, _ = quiet()
    lines: list[str] = []
    io.on("x", lambda socket: lines.append("first"))

    @io.on("x")
    async def second(socket: Socket) -> str:
        lines.append("second")
        return "from the second"

    @io.on("x")
    async def third(socket: Socket) -> str:
        lines.append("third")
        return "from the third"

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x", ack=0)
        assert (await client.packet()).data == ["from the second"]
        await settled()
        assert client.silent
        assert lines == ["first", "second", "third"]


async def test_what_cannot_be_said_is_the_callers_fault() -> None:
    io, recording = quiet()
    async with running(io) as stage:
        client = await stage.joined()
        (socket,) = io.fetch_sockets()
        for target in (socket, io, io.to("x"), socket.volatile):
            with pytest.raises(TypeError):
                await target.emit("x", object())
            with pytest.raises(ValueError, match="reserved"):
                await target.emit("disconnect")
            with pytest.raises(ValueError, match="surrogate"):
                await target.emit("x", "\ud800")
        await socket.emit("fine")
        assert await client.event() == ["fine"]
    assert recording.records == []


async def test_disconnect_waits_for_the_tasks_that_clean_up(autojump_clock: MockClock) -> None:
    io, _ = quiet()
    lines: list[str] = []

    async def careful() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
                lines.append("cleaned up")

    @io.on("connect")
    async def connect(socket: Socket) -> None:
        socket.start_soon(careful)
        socket.start_soon(careful)

    io.on("disconnect", lambda *_: lines.append("disconnect"))
    async with running(io) as stage:
        client = await stage.joined()
        (socket,) = io.fetch_sockets()
        await settled()
        client.cut()
        await socket.wait_finished()
        assert lines == ["cleaned up", "cleaned up", "disconnect"]
        socket.start_soon(careful)


async def test_one_socket_may_be_meant_volatile_and_with_a_time() -> None:
    io, _ = quiet()
    async with running(io) as stage:
        client = await stage.joined()
        (socket,) = io.fetch_sockets()
        await settled()
        await socket.timeout(5).volatile.emit("x")
        assert await client.event() == ["x"]
        await settled()
        await socket.volatile.timeout(5).emit("y")
        assert await client.event() == ["y"]


async def test_an_event_is_sent_at_once_unlogged_and_with_the_offset_it_is_given() -> None:
    io, _ = quiet(recovery=True)
    async with running(io) as stage:
        client = await stage.joined()
        (socket,) = io.fetch_sockets()
        async with io._main.delivery.lock:
            # While a broadcast is under way ``emit`` would wait.
            socket.emit_nowait("x", {"a": 1})
            socket.emit_nowait("y", b"b", offset="here")
            assert await client.event() == ["x", {"a": 1}]
            assert await client.event() == ["y", b"b", "here"]
        with pytest.raises(TypeError):
            socket.emit_nowait("x", object())
        with pytest.raises(ValueError, match="reserved"):
            socket.emit_nowait("connect")
        socket.disconnect()
        socket.emit_nowait("x")
        await client.packet()
        await settled()
        assert client.silent
