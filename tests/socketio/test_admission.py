from __future__ import annotations

import json
import re
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd import socketio
from chatd.socketio import Connection, Refused, Socket
from chatd.socketio.packets import PacketType
from tests.socketio.client import quiet, running, settled


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (Refused("Not authorized"), {"message": "Not authorized"}),
        (Refused("why", {"retry": 5}), {"message": "why", "data": {"retry": 5}}),
        (Refused(), {"message": "refused"}),
    ],
)
async def test_middleware_refuses_with_words_and_data(
    refusal: Refused, said: dict[str, Any]
) -> None:
    io, recording = quiet()
    entered: list[str] = []
    io.on("connect", lambda socket: entered.append(socket.id))

    @io.use
    async def gate(socket: Socket) -> None:
        if socket.handshake.auth.get("token") != "open":
            raise refusal

    async with running(io) as stage:
        client = await stage.client()
        await client.say("0")
        packet = await client.packet()
        assert (packet.type, packet.data) == (PacketType.CONNECT_ERROR, said)
        assert entered == []
        # The connection stays, and may try again.
        await client.join(auth={"token": "open"})
        await settled()
        assert len(entered) == 1
    assert recording.records == []


async def test_middleware_runs_in_order_and_fills_the_socket() -> None:
    io, _ = quiet()
    lines: list[Any] = []

    @io.use
    async def first(socket: Socket) -> None:
        socket.data["user"] = socket.handshake.query["user"]
        socket.join("early", "late")
        socket.leave("late")
        assert not socket.connected
        await socket.emit("dropped")
        with pytest.raises(socketio.Disconnected, match="not connected yet"):
            await socket.call("dropped")
        socket.start_soon(trio.sleep_forever)
        socket.disconnect()
        assert repr(socket).endswith("in /: not connected yet>")

    @io.use
    def second(socket: Socket) -> None:
        lines.append(socket.data["user"])

    @io.on("connect")
    async def connect(socket: Socket) -> None:
        lines.append(socket.rooms)
        assert socket.handshake.headers["x-y"] == "z"

    async with running(io) as stage:
        client = await stage.client("user=ann", headers=[("x-y", "z")])
        reply = await client.join()
        await settled()
        assert lines == ["ann", {reply["sid"], "early"}]
        assert client.silent


async def test_a_middleware_that_breaks_refuses_and_is_logged() -> None:
    io, recording = quiet()

    @io.use
    async def broken(socket: Socket) -> None:
        raise ValueError("secret detail")

    async with running(io) as stage:
        client = await stage.client()
        await client.say("0")
        assert (await client.packet()).data == {"message": "internal error"}
        assert "secret detail" in recording.records[0][1]["error"]


async def test_data_that_cannot_be_sent_is_not() -> None:
    io, recording = quiet()

    @io.use
    async def odd(socket: Socket) -> None:
        raise Refused("why", object())

    async with running(io) as stage:
        client = await stage.client()
        await client.say("0")
        assert (await client.packet()).data == {"message": "internal error"}
        assert len(recording.records) == 1


async def test_an_unknown_namespace_is_refused_in_nodes_words() -> None:
    io, _ = quiet()
    async with running(io) as stage:
        client = await stage.client()
        for name in ("/random", "/" + "x" * 300):
            await client.say(f"0{name},")
            assert await client.heard() == f'4{name},{{"message":"Invalid namespace"}}'
        await client.join()


async def test_namespaces_are_made_by_patterns() -> None:
    io, recording = quiet()
    rooms = io.of(re.compile(r"/room-\d+"))
    seen: list[str] = []
    rooms.on("connect", lambda socket: seen.append(socket.namespace))
    rooms.on("x", lambda socket, *args: args)

    async def known(name: str, auth: dict[str, Any]) -> bool:
        await trio.lowlevel.checkpoint()
        if auth.get("break"):
            raise ValueError("broken")
        return auth.get("key") == name

    io.of(known)
    async with running(io) as stage:
        first, second = await stage.client(), await stage.client()
        await first.join("/room-1")
        await second.join("/room-1")
        await second.join("/room-2")
        assert sorted(rooms.namespaces) == ["/room-1", "/room-2"]
        assert len(rooms.namespaces["/room-1"].fetch_sockets()) == 2
        assert io.of("/room-1") is rooms.namespaces["/room-1"]
        assert io.statistics().sockets == {"/": 0, "/room-1": 2, "/room-2": 1}
        await first.emit("x", 1, 2, ack=0, namespace="/room-1")
        assert (await first.packet()).data == [1, 2]
        await rooms.emit("all", 1)
        assert (await first.packet()).data == ["all", 1]
        assert {(await second.packet()).namespace for _ in range(2)} == {"/room-1", "/room-2"}
        for name in ("/room-x", "/room-1x"):
            await first.say(f"0{name},")
            assert (await first.packet()).data == {"message": "Invalid namespace"}
        await first.join("/secret", {"key": "/secret"})
        await first.say('0/other,{"break":true}')
        assert (await first.packet()).data == {"message": "internal error"}
        assert len(recording.records) == 1
        # They end with their last client.
        await first.close()
        await first.over.wait()
        await settled()
        assert sorted(rooms.namespaces) == ["/room-1", "/room-2"]
        second.cut()
        await settled()
        assert rooms.namespaces == {}
        assert sorted(seen) == ["/room-1", "/room-1", "/room-2"]


async def test_a_refusal_leaves_no_namespace_behind() -> None:
    io, _ = quiet()
    rooms = io.of(re.compile(".*"))

    @rooms.use
    async def no(socket: Socket) -> None:
        raise Refused("no")

    async with running(io) as stage:
        client = await stage.client()
        await client.say("0/x,")
        assert (await client.packet()).type is PacketType.CONNECT_ERROR
        await settled()
        assert rooms.namespaces == {}


async def test_a_connections_middleware_runs_once_and_before_any_namespaces() -> None:
    io, _ = quiet()
    lines: list[str] = []
    io.of("/a").use(lambda socket: lines.append("/a"))
    io.use(lambda socket: lines.append("/"))

    @io.use_connection
    async def connection(connection: Connection) -> None:
        await trio.lowlevel.checkpoint()
        connection.data["x"] = 1
        lines.append("connection")

    async with running(io) as stage:
        client = await stage.client()
        await client.join()
        await client.join("/a")
        assert lines == ["connection", "/", "/a"]


@pytest.mark.parametrize(
    ("error", "said"), [(Refused("no", 1), {"message": "no", "data": 1}), (ValueError(), None)]
)
async def test_a_connections_middleware_refuses_every_namespace(
    error: Exception, said: Any
) -> None:
    io, recording = quiet()
    io.of("/a")

    @io.use_connection
    async def refuse(connection: Connection) -> None:
        raise error

    async with running(io) as stage:
        client = await stage.client()
        for name in ("/", "/a"):
            await client.say("0" if name == "/" else f"0{name},")
            packet = await client.packet()
            assert packet.data == (said or {"message": "internal error"})
        assert len(recording.records) == (said is None)


async def test_a_client_that_leaves_during_the_decision_is_not_admitted(
    autojump_clock: MockClock,
) -> None:
    io, recording = quiet()
    lines: list[str] = []
    io.on("connect", lambda socket: lines.append("connect"))

    @io.use
    async def slow(socket: Socket) -> None:
        try:
            await trio.sleep(100)
        finally:
            lines.append("cancelled")

    async with running(io) as stage:
        client = await stage.client()
        await client.say("0")
        await settled()
        client.cut()
        await settled()
        assert lines == ["cancelled"]
        assert io.statistics().connections == 0
    assert recording.records == []


@pytest.mark.parametrize("auth", [{"token": "x" * 20_000}, {"x": [[]] * 200}])
async def test_auth_that_is_too_large_is_refused(auth: dict[str, Any]) -> None:
    io, _ = quiet()
    async with running(io) as stage:
        client = await stage.client()
        await client.say(f"0{json.dumps(auth)}")
        packet = await client.packet()
        assert packet.type == PacketType.CONNECT_ERROR
        assert packet.data == {"message": "auth is too large"}
        assert io.sockets == {}
        await client.join(auth={"token": "x" * 8192})


async def test_a_namespaces_query_of_many_fields_is_not_read() -> None:
    io, _ = quiet(allow_eio3=True)
    seen: list[Any] = []
    io.of("/a").on("connect", lambda socket: seen.append(socket.handshake.auth))
    async with running(io) as stage:
        client = await stage.client(revision=3)
        await client.say(f"0/a?{'x=1&' * 100}")
        await settled()
        assert seen == [{}]
