from __future__ import annotations

import pytest

from chatd import socketio
from chatd.socketio import Socket
from tests.socketio.client import quiet, running, settled


def test_a_name_is_one_namespace() -> None:
    io, _ = quiet()
    assert io.of("admin") is io.of("/admin")
    assert repr(io.of("/admin")) == "<Namespace /admin>"
    assert sorted(io.namespaces) == ["/", "/admin"]
    with pytest.raises(ValueError, match="comma"):
        io.of("/a,b")
    assert isinstance(io.of(lambda name, auth: False), socketio.DynamicNamespace)


async def test_namespaces_are_separate() -> None:
    io, _ = quiet()
    admin = io.of("/admin")
    seen: list[str] = []
    admin.on("x", lambda socket: seen.append("admin"))
    io.on("x", lambda socket: seen.append("main"))

    @admin.on("connect")
    async def connect(socket: Socket) -> None:
        socket.join("room")

    async with running(io) as stage:
        client = await stage.client()
        first = await client.join()
        second = await client.join("/admin")
        assert first["sid"] != second["sid"]
        await client.emit("x", namespace="/admin")
        await settled()
        assert seen == ["admin"]
        await io.to("room").emit("nobody is in there")
        await admin.to("room").emit("y")
        packet = await client.packet()
        assert (packet.namespace, packet.data) == ("/admin", ["y"])
        assert list(admin.sockets) == [second["sid"]]
        assert admin.rooms == {second["sid"]: 1, "room": 1}
        await client.say("1/admin,")
        await settled()
        assert dict(admin.sockets) == {}
        assert len(io.sockets) == 1
