from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd import socketio
from chatd.socketio import Socket
from chatd.socketio.packets import PacketType
from tests.socketio.client import Gone, quiet, running, settled


class Diary:
    """What handlers were called with, in order."""

    def __init__(self, io: socketio.Server | socketio.Namespace) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.sockets: list[Socket] = []
        self.finished = trio.Event()
        io.on("connect", self.connect)
        io.on("disconnect", self.disconnect)

    async def connect(self, socket: Socket) -> None:
        self.sockets.append(socket)
        self.lines.append(("connect",))

    async def disconnect(self, socket: Socket, reason: str) -> None:
        self.lines.append(("disconnect", reason))
        self.finished.set()

    async def note(self, socket: Socket, *args: Any) -> None:
        self.lines.append(args)


async def test_the_reply_comes_before_events_of_the_connect_handler() -> None:
    io, _ = quiet()

    @io.on("connect")
    async def connect(socket: Socket) -> None:
        await socket.emit("auth", socket.handshake.auth)

    async with running(io) as stage:
        client = await stage.client()
        await client.say('0{"token":"123"}')
        first = await client.packet()
        assert first.type is PacketType.CONNECT
        assert list(first.data) == ["sid"]
        assert len(first.data["sid"]) == 20
        assert first.data["sid"] != client.sid
        assert await client.event() == ["auth", {"token": "123"}]


async def test_handlers_of_one_connection_run_one_after_another() -> None:
    io, _ = quiet()
    diary = Diary(io)
    gates = {name: trio.Event() for name in "ab"}

    @io.on("x")
    async def x(socket: Socket, name: str) -> None:
        diary.lines.append(("begin", name))
        await gates[name].wait()
        diary.lines.append(("end", name))

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x", "a")
        await client.emit("x", "b")
        gates["b"].set()
        await settled()
        assert diary.lines == [("connect",), ("begin", "a")]
        gates["a"].set()
        await settled()
        assert diary.lines[2:] == [("end", "a"), ("begin", "b"), ("end", "b")]


async def test_events_wait_until_connect_returns() -> None:
    io, _ = quiet()
    lines: list[str] = []
    gate = trio.Event()

    @io.on("connect")
    async def connect(socket: Socket) -> None:
        await gate.wait()
        lines.append("connect")

    @io.on("x")
    async def x(socket: Socket) -> None:
        lines.append("x")

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x")
        await settled()
        assert lines == []
        gate.set()
        await settled()
        assert lines == ["connect", "x"]


async def test_200_events_in_one_go_are_handled_in_order() -> None:
    io, _ = quiet(receive_queue_bytes=3000)
    seen: list[int] = []

    @io.on("n")
    async def n(socket: Socket, number: int) -> int:
        await trio.lowlevel.checkpoint()
        seen.append(number)
        return number

    async with running(io) as stage:
        client = await stage.joined()
        await client.say(*[f'2{number}["n",{number}]' for number in range(200)])
        assert [(await client.packet()).data for _ in range(200)] == [[n] for n in range(200)]
        assert seen == list(range(200))


@pytest.mark.parametrize("limit", [{"max_payload": 1000}, {"receive_queue_bytes": 4000}])
async def test_where_handlers_are_slow_the_post_waits(limit: dict[str, int]) -> None:
    io, recording = quiet(**limit)
    gate = trio.Event()
    seen = 0

    @io.on("x")
    async def x(socket: Socket, text: str) -> None:
        nonlocal seen
        await gate.wait()
        seen += 1

    async with running(io) as stage:
        client = await stage.joined()
        posted = trio.Event()

        async def post() -> None:
            for _ in range(5):
                await client.say(f'2["x","{"x" * 900}"]', f'2["x","{"x" * 900}"]')
            posted.set()

        stage.nursery.start_soon(post)
        await settled()
        assert not posted.is_set()
        # One is being handled, two wait, and one more is in the reader's hand.
        assert io.statistics().queued == 2
        assert [name for name, _ in recording.records] == ["warning"]
        gate.set()
        await posted.wait()
        await settled()
        assert seen == 10
        # It said so once.
        assert len(recording.records) == 1


async def test_acknowledgements_and_disconnects_do_not_wait_for_handlers() -> None:
    io, _ = quiet()
    diary = Diary(io)
    answers: list[Any] = []

    @io.on("ask back")
    async def ask_back(socket: Socket) -> None:
        answers.append(await socket.call("how much?"))
        await trio.sleep_forever()

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("ask back")
        packet = await client.packet()
        assert packet.data == ["how much?"]
        await client.say(f"3{packet.id}[42]")
        await settled()
        assert answers == [42]
        await client.say("1")
        await settled()
        (socket,) = diary.sockets
        assert not socket.connected
        assert io.fetch_sockets() == []


async def test_a_handler_outlives_its_client_and_disconnect_is_last_and_once() -> None:
    io, _ = quiet()
    diary = Diary(io)
    gate = trio.Event()

    @io.on("x")
    async def x(socket: Socket, name: str) -> None:
        diary.lines.append(("begin", name))
        await gate.wait()
        await socket.emit("dropped")
        diary.lines.append(("end", name))

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x", 1)
        await client.emit("x", 2)
        await client.close()
        await client.over.wait()
        await settled()
        assert diary.lines == [("connect",), ("begin", 1)]
        gate.set()
        await diary.finished.wait()
        await settled()
        assert diary.lines[2:] == [
            ("end", 1),
            ("begin", 2),
            ("end", 2),
            ("disconnect", "transport close"),
        ]
        assert io.statistics().connections == 0


async def test_start_soon_ends_with_the_client_and_before_disconnect() -> None:
    io, recording = quiet()
    lines: list[str] = []

    async def tick(socket: Socket, word: str) -> None:
        await socket.emit("tick", word)
        try:
            await trio.sleep_forever()
        finally:
            lines.append("cancelled")

    @io.on("connect")
    async def connect(socket: Socket) -> None:
        socket.start_soon(tick, socket, "tock")

    @io.on("disconnect")
    async def disconnect(socket: Socket, reason: str) -> None:
        lines.append(reason)
        socket.start_soon(tick, socket, "never")

    async with running(io) as stage:
        client = await stage.joined()
        assert await client.event() == ["tick", "tock"]
        client.cut()
        await client.over.wait()
        await settled()
        assert lines == ["cancelled", "transport error"]
    assert recording.records == []


async def test_an_exception_of_a_task_affects_no_other_client() -> None:
    io, recording = quiet()

    async def boom() -> None:
        raise ValueError("boom")

    @io.on("x")
    async def x(socket: Socket) -> str:
        socket.start_soon(boom)
        return "still here"

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x", ack=0)
        assert (await client.packet()).data == ["still here"]
        await settled()
        ((name, fields),) = recording.records
        assert (name, fields["detail"]) == ("fault", "task in /")


async def test_what_a_handler_raises_is_logged_and_costs_its_connection_nothing() -> None:
    io, recording = quiet()

    @io.on("connect")
    async def connect(socket: Socket) -> None:
        raise ValueError("in connect")

    @io.on("x")
    async def x(socket: Socket) -> str:
        raise ExceptionGroup("many", [ValueError("in x")])

    @io.on("y")
    async def y(socket: Socket) -> str:
        return "y"

    @io.on("disconnect")
    async def disconnect(socket: Socket, reason: str) -> None:
        raise ValueError("in disconnect")

    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("x", ack=1)
        await client.emit("y", ack=2)
        packet = await client.packet()
        # Nothing acknowledged x.
        assert (packet.id, packet.data) == (2, ["y"])
        await client.emit("y", "one too many", ack=3)
        await client.say("1")
        await settled()
        details = [fields["detail"] for _, fields in recording.records]
        assert details == ["connect in /", "x in /", "y in /", "disconnect in /"]
        assert "in x" in recording.records[1][1]["traceback"]
        assert io.statistics().faults == 4


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("9", "parse error"),
        ("2{}", "parse error"),
        ('2abc["a"]', "parse error"),
        ('2/elsewhere,["a"]', "parse error"),
        ("0", "parse error"),
        ('4"no"', "parse error"),
        (b"belongs to nothing", "parse error"),
        ('511-["a"]', "parse error"),
    ],
)
async def test_a_client_that_breaks_the_protocol_is_closed_at_once(
    message: str | bytes, reason: str
) -> None:
    io, _ = quiet()
    diary = Diary(io)
    async with running(io) as stage:
        client = await stage.joined()
        await client.say(message, '2["after"]')
        await client.over.wait()
        await diary.finished.wait()
        assert diary.lines == [("connect",), ("disconnect", reason)]


async def test_packets_for_a_namespace_left_a_moment_ago_are_nothing() -> None:
    io, _ = quiet()
    diary = Diary(io.of("/a"))
    io.of("/a").on_any(diary.note)
    io.on("x", lambda _: "x")
    async with running(io) as stage:
        client = await stage.joined()
        await client.join("/a")
        await settled()
        diary.sockets[0].disconnect()
        assert (await client.packet()).type is PacketType.DISCONNECT
        await client.say('2/a,["late"]', "3/a,0[]", "1/a,", '20["x"]')
        assert (await client.packet()).data == ["x"]
        assert diary.lines == [("connect",), ("disconnect", "server namespace disconnect")]
        await client.join("/a")


async def test_events_that_came_before_the_server_left_a_namespace_are_dropped() -> None:
    io, _ = quiet()
    seen: list[int] = []

    @io.on("x")
    async def x(socket: Socket, number: int) -> None:
        seen.append(number)
        socket.disconnect()
        socket.disconnect()

    async with running(io) as stage:
        client = await stage.joined()
        await client.say('2["x",1]', '2["x",2]')
        assert (await client.packet()).type is PacketType.DISCONNECT
        await settled()
        assert seen == [1]
        assert client.silent
        assert not client.over.is_set()


async def test_disconnect_with_close_ends_the_whole_connection() -> None:
    io, _ = quiet()
    main, other = Diary(io), Diary(io.of("/a"))
    async with running(io) as stage:
        client = await stage.joined()
        await client.join("/a")
        await settled()
        main.sockets[0].disconnect(close=True)
        assert {(await client.packet()).namespace for _ in range(2)} == {"/", "/a"}
        await client.over.wait()
        await settled()
        assert main.lines[-1] == other.lines[-1] == ("disconnect", "server namespace disconnect")


async def test_a_connection_in_no_namespace_ends_in_time(autojump_clock: MockClock) -> None:
    io, _ = quiet(connect_timeout=7.0)
    io.of("/").use(refuse)
    async with running(io) as stage:
        connect_began = trio.current_time()
        client = await stage.client()
        await client.say("0")
        # A refused CONNECT does not stop the clock.
        assert (await client.packet()).type is PacketType.CONNECT_ERROR
        await client.over.wait()
        assert trio.current_time() - connect_began == 7.0
        await settled()
        assert io.statistics().connections == 0


async def refuse(socket: Socket) -> None:
    raise socketio.Refused("no")


async def test_a_connection_in_a_namespace_stays(autojump_clock: MockClock) -> None:
    io, _ = quiet(connect_timeout=7.0)
    async with running(io) as stage:
        client = await stage.joined()
        await trio.sleep(1000)
        await client.say("1")
        await trio.sleep(1000)
        assert not client.over.is_set()


async def test_attachments_must_come_in_time(autojump_clock: MockClock) -> None:
    io, _ = quiet(attachment_timeout=10.0)
    diary = Diary(io)
    io.on("x", diary.note)
    async with running(io) as stage:
        client = await stage.joined()
        await client.say('52-["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
        await trio.sleep(9)
        await client.say(b"0")
        await trio.sleep(9)
        await client.say(b"1")
        await trio.sleep(100)
        assert list(diary.lines[-1]) == [b"0", b"1"]
        await client.say('51-["x",{"_placeholder":true,"num":0}]')
        connect_began = trio.current_time()
        await client.over.wait()
        assert trio.current_time() - connect_began == 10.0
        await diary.finished.wait()
        assert diary.lines[-1] == ("disconnect", "parse error")


async def test_a_silent_client_is_gone_by_ping_timeout(autojump_clock: MockClock) -> None:
    io, _ = quiet()
    diary = Diary(io)
    async with running(io) as stage:
        client = await stage.joined()
        client.stall()
        await diary.finished.wait()
        assert diary.lines[-1] == ("disconnect", "ping timeout")


async def test_a_client_that_reads_too_slowly_is_gone(autojump_clock: MockClock) -> None:
    io, _ = quiet(send_queue_bytes=10_000)
    diary = Diary(io)
    async with running(io) as stage:
        client = await stage.joined()
        client.stall()
        await settled()
        for _ in range(12):
            await io.emit("x", "x" * 1000)
        await diary.finished.wait()
        assert diary.lines[-1] == ("disconnect", "too slow")


async def test_a_second_connect_to_a_namespace_gets_no_answer() -> None:
    io, _ = quiet()
    gate = trio.Event()
    io.use(lambda socket: gate.wait())
    async with running(io) as stage:
        client = await stage.client()
        await client.say("0", "0")
        await settled()
        await client.say("0")
        gate.set()
        assert (await client.packet()).type is PacketType.CONNECT
        await settled()
        assert client.silent
        # A client that is already connected has lost track.
        await client.say("0")
        await client.over.wait()


async def test_the_namespaces_of_a_connection_are_limited() -> None:
    io, _ = quiet(max_namespaces=2)
    io.of(lambda name, auth: name.startswith("/d"))
    async with running(io) as stage:
        client = await stage.joined("/d1")
        await client.join("/d2")
        await client.say("0/d3,")
        packet = await client.packet()
        assert packet.data == {"message": "Too many namespaces"}
        for _ in range(10):
            await client.say("1/d2,")
            await settled()
            await client.join("/d2")
        connection = next(iter(io._connections))
        assert len(connection._recently_left) <= 2


async def test_revision_4_clients_are_in_at_once() -> None:
    io, _ = quiet(allow_eio3=True)
    diary = Diary(io)
    io.on("x", lambda socket, *args: args)
    io.of("/a").on("connect", lambda socket: diary.lines.append((socket.handshake.auth,)))
    async with running(io) as stage:
        client = await stage.client(revision=3)
        assert await client.heard() == "0"
        await settled()
        assert diary.sockets[0].id == client.sid
        assert diary.sockets[0].handshake.auth == {}
        await client.say("0/a?token=b%20c&x=,")
        assert await client.heard() == "0/a,"
        await settled()
        assert diary.lines[-1] == ({"token": "b c", "x": ""},)
        assert next(iter(io.of("/a").sockets)) == f"/a#{client.sid}"
        await client.say("0/nowhere")
        assert await client.heard() == '4/nowhere,{"message":"Invalid namespace"}'
        await client.say('51-7["x",{"_placeholder":true,"num":0},"€😀"]', b"\x00\xff")
        packet = await client.packet()
        assert (packet.id, packet.data) == (7, [b"\x00\xff", "€😀"])
        await client.say("1/a,")
        await client.say("1")
        await settled()
        assert io.statistics().sockets == {"/": 0, "/a": 0}


@pytest.mark.parametrize(
    ("data", "said"), [(None, '4"no"'), ({"content": 1}, '4{"content":1}'), (0, "40")]
)
async def test_revision_4_clients_are_refused_by_a_plain_value(data: Any, said: str) -> None:
    io, _ = quiet(allow_eio3=True)

    @io.use
    async def refused(socket: Socket) -> None:
        raise socketio.Refused("no", data)

    async with running(io) as stage:
        client = await stage.client(revision=3)
        assert await client.heard() == said
        await client.say("0")
        assert await client.heard() == said
        await client.say('2["x"]')
        await client.over.wait()


async def test_cancelled_it_gives_disconnect_handlers_their_time(
    autojump_clock: MockClock,
) -> None:
    io, recording = quiet(shutdown_timeout=3.0)
    lines: list[Any] = []

    @io.on("x")
    async def x(socket: Socket) -> None:
        try:
            await trio.sleep_forever()
        finally:
            lines.append("cancelled")

    @io.on("disconnect")
    async def disconnect(socket: Socket, reason: str) -> None:
        lines.append(reason)
        await trio.sleep(2)
        lines.append("after 2 s")
        await trio.sleep(2)
        lines.append("after 4 s")

    async with running(io) as stage:
        clients = [await stage.joined() for _ in range(3)]
        await clients[0].emit("x")
        await settled()
        connect_began = trio.current_time()
    assert trio.current_time() - connect_began == 3.0
    assert sorted(lines) == sorted(
        ["cancelled", *["server shutting down", "after 2 s"] * 3],
    )
    assert recording.records == []
    with pytest.raises(Gone):
        # No DISCONNECT: clients come back by themselves.
        await clients[1].heard()


async def test_a_disconnect_handler_that_runs_already_is_given_the_same_time(
    autojump_clock: MockClock,
) -> None:
    io, _ = quiet(shutdown_timeout=3.0, handler_grace=200.0)
    ended = math.inf

    @io.on("disconnect")
    async def disconnect(socket: Socket, reason: str) -> None:
        nonlocal ended
        try:
            await trio.sleep_forever()
        finally:
            ended = trio.current_time()

    async with running(io) as stage:
        client = await stage.joined()
        await client.close()
        await trio.sleep(100)
        connect_began = trio.current_time()
    assert ended - connect_began == 3.0


async def test_without_a_connect_handler_there_is_no_disconnect_handler() -> None:
    io, _ = quiet()
    lines: list[str] = []
    gate = trio.Event()
    io.of("/a").on("connect", lambda _: gate.wait())
    io.of("/b").on("connect", lambda _: lines.append("connect"))
    io.of("/b").on("disconnect", lambda *_: lines.append("disconnect"))
    io.of("/a").on("disconnect", lambda *_: lines.append("/a"))
    async with running(io) as stage:
        client = await stage.joined("/a")
        await client.join("/b")
        await settled()
    assert lines == ["/a"]


async def test_repeated_connects_wait_for_handlers() -> None:
    io, _ = quiet(receive_queue_bytes=40_000)
    gate = trio.Event()
    lines: list[str] = []

    @io.on("connect")
    async def connect(socket: Socket) -> None:
        await gate.wait()
        lines.append("connect")

    io.on("disconnect", lambda *_: lines.append("disconnect"))
    async with running(io) as stage:
        client = await stage.client()

        async def come_and_go() -> None:
            for _ in range(100):
                await client.say("0")
                await settled()
                await client.say("1")

        stage.nursery.start_soon(come_and_go)
        for _ in range(100):
            await settled()
        assert io.statistics().queued <= 20
        gate.set()
        while len(lines) < 200:
            await settled()
        assert lines == ["connect", "disconnect"] * 100
