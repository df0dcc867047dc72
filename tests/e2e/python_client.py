"""python-socketio's client does what Socket.IO's own does: ``python_client.py URL TRANSPORTS``.

It runs on asyncio and is untyped, so it has its own process, which raises if anything is wrong. Its
blocking variant is not used: it handles each message in a thread, and so in any order.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from tests.e2e.socketio_server import REFUSAL, TOKEN

EVERYTHING: list[Any] = [
    None,
    True,
    -7,
    1.5,
    "€ \U0001f600 \u2028",
    [[], {}],
    {"deep": [None, {"": "x"}]},
]
BINARY: list[Any] = [bytes(range(256)), {"file": b"\x00", "among": [1, b"\xff"]}, b"x" * 70_000]

# Ends a hang; no measure of speed.
SECONDS = 60


class Ears:
    """A client and the events it has received."""

    def __init__(self, namespaces: Sequence[str]) -> None:
        socketio: Any = importlib.import_module("socketio")
        self.client = socketio.AsyncClient(reconnection=False)
        self._heard: dict[tuple[str, str], asyncio.Queue[list[Any]]] = {}
        for namespace in namespaces:
            for event in ("connect", "connect_error", "disconnect", "echo", "answered", "flood"):
                self._listen(namespace, event)
            self.client.on("question", self._answer, namespace)

    async def hears(self, event: str, namespace: str = "/") -> list[Any]:
        """Wait for the next event of this name; return its arguments."""
        return await asyncio.wait_for(self._heard[namespace, event].get(), SECONDS)

    def _listen(self, namespace: str, event: str) -> None:
        heard = self._heard[namespace, event] = asyncio.Queue()

        async def hear(*args: Any) -> None:
            heard.put_nowait(list(args))

        self.client.on(event, hear, namespace)

    async def _answer(self, *args: Any) -> tuple[Any, ...]:
        return args


async def run(url: str, transports: list[str]) -> None:
    """Run all checks; raise at the first that fails."""
    namespaces = ["/", "/custom", "/secret"]
    ears = Ears(namespaces)
    client = ears.client
    many = 200
    await client.connect(
        f"{url}?flood={many}",
        transports=transports,
        auth={"token": TOKEN},
        namespaces=namespaces,
        wait_timeout=SECONDS,
    )
    assert client.transport() == transports[-1]
    for namespace in namespaces:
        assert [await ears.hears("flood", namespace) for _ in range(many)] == [
            [number] for number in range(many)
        ]
        for args in (EVERYTHING, BINARY):
            await client.emit("echo", tuple(args), namespace)
            assert await ears.hears("echo", namespace) == args
            assert list(await client.call("answer", tuple(args), namespace, SECONDS)) == args
            await client.emit("ask", tuple(args), namespace)
            assert await ears.hears("answered", namespace) == [args]
    for number in range(many):
        await client.emit("echo", number)
    assert [await ears.hears("echo") for _ in range(many)] == [[number] for number in range(many)]

    await client.emit("send away", False, "/custom")
    assert await ears.hears("disconnect", "/custom") == [client.reason.SERVER_DISCONNECT]
    socket_id = client.get_sid("/secret")
    await client.disconnect()
    assert await ears.hears("disconnect") == [client.reason.CLIENT_DISCONNECT]

    ears = Ears(namespaces)
    client = ears.client
    await client.connect(url, transports=transports, namespaces=["/", "/secret"], wait=False)
    refusal = {"message": "not authorized", "data": REFUSAL}
    assert await ears.hears("connect_error", "/secret") == [refusal]
    await ears.hears("connect")
    # On a WebSocket it may disconnect before it has sent its DISCONNECT.
    reasons = ("client namespace disconnect", "transport close")
    assert await client.call("reason of", socket_id, timeout=SECONDS) in reasons
    await client.disconnect()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], json.loads(sys.argv[2])))
