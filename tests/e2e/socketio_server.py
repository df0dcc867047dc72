"""A Socket.IO server as a process, for real clients: ``socketio_server.py PORT OPTIONS``.

It prints ``listening``, and at its end a JSON object with the reason why each socket disconnected,
by id. Clients control it with the events registered here.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from typing import Any

import trio

from chatd import socketio
from chatd.logs import open_log

READY = "listening"

TOKEN = "sesame"
REFUSAL = {"code": 7, "hints": ["ask the door", None]}

_PATIENCE = 20.0


def make_server(options: dict[str, Any], reasons: dict[str, str]) -> socketio.Server:
    """Return a server with these options whose handlers serve the tests.

    ``reasons`` gets why each socket went.
    """
    # Tests leave acknowledgements out on purpose, which is worth a warning.
    io = socketio.Server(allow_eio3=True, log=open_log(level="error"), **options)
    told = trio.Event()

    async def connect(socket: socketio.Socket) -> None:
        # All at once, during whatever the client is doing.
        query = socket.handshake.query
        for number in range(int(query.get("flood", "0"))):
            await socket.emit("flood", number)
        if "asks" in query:
            await socket.emit(
                "answered", [await socket.timeout(_PATIENCE).call("question", "who?")]
            )
        for size in query.get("sizes", "").split():
            await socket.emit("flood", "x" * int(size))

    async def disconnect(socket: socketio.Socket, reason: str) -> None:
        nonlocal told
        reasons[socket.id] = reason
        told.set()
        told = trio.Event()

    async def echo(socket: socketio.Socket, *args: Any) -> None:
        await socket.emit("echo", *args)

    async def answer(_socket: socketio.Socket, *args: Any) -> tuple[Any, ...]:
        return args

    async def silent(_socket: socketio.Socket, *_args: Any) -> None:
        pass

    async def ask(socket: socketio.Socket, *args: Any) -> None:
        """Call the client, and send it its own answer."""
        answered = await socket.timeout(_PATIENCE).call("question", *args)
        await socket.emit("answered", answered if isinstance(answered, tuple) else [answered])

    async def ask_all(socket: socketio.Socket, seconds: float) -> list[Any]:
        """Call all clients in this client's room, and return the answers."""
        answers = await io.to(socket.id).timeout(seconds).call("question", "all")
        return [value for _, value in answers]

    async def tell_all(_socket: socketio.Socket, *args: Any) -> None:
        await io.emit("echo", *args)

    async def who(socket: socketio.Socket) -> tuple[str, str, dict[str, Any]]:
        return socket.id, socket.session.transport, socket.handshake.auth

    async def send_away(socket: socketio.Socket, close: bool) -> None:
        await socket.emit("echo", "farewell")
        socket.disconnect(close)

    async def reason_of(_socket: socketio.Socket, socket_id: str) -> str:
        """Wait until this socket has disconnected, and return the reason."""
        with trio.fail_after(_PATIENCE):
            while socket_id not in reasons:
                await told.wait()
        return reasons[socket_id]

    async def guard(socket: socketio.Socket) -> None:
        if socket.handshake.auth.get("token") != TOKEN:
            raise socketio.Refused("not authorized", REFUSAL)

    async def bare_refusal(_socket: socketio.Socket) -> None:
        raise socketio.Refused("never")

    secret, closed = io.of("/secret"), io.of("/closed")
    secret.use(guard)
    closed.use(bare_refusal)
    for place in (io, io.of("/custom"), io.of(re.compile(r"/room-\d+")), secret, closed):
        place.on("connect", connect)
        place.on("disconnect", disconnect)
        for handler in (echo, answer, silent, ask, ask_all, tell_all, who, send_away, reason_of):
            place.on(handler.__name__.replace("_", " "), handler)
    return io


async def serve(port: int, options: dict[str, Any]) -> None:
    """Serve until SIGTERM, which drains, or SIGINT, which does not."""
    reasons: dict[str, str] = {}
    io = make_server(options, reasons)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(io.serve, f"127.0.0.1:{port}")
            print(READY, flush=True)  # noqa: T201  this program's output
            if await anext(signals) == signal.SIGTERM:
                await io.drain(_PATIENCE)
            nursery.cancel_scope.cancel()
    print(json.dumps(reasons), flush=True)  # noqa: T201  this program's output


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]), json.loads(sys.argv[2]))
