"""Clients of other libraries, with a token: ``token_clients.py PORT``.

The tokens are in the environment. The clients run on asyncio, so they have their own process, which
raises if anything is wrong.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from typing import Any

# Ends a hang; no measure of speed.
SECONDS = 60


async def by_websockets(port: str, token: str, bad: str) -> None:
    """Authenticate by a header, by JSON and by plain text."""
    websockets: Any = importlib.import_module("websockets")
    url = f"ws://localhost:{port}/ws"
    headers = {"Authorization": f"Bearer {token}"}
    async with websockets.connect(
        url, additional_headers=headers, subprotocols=["chatd.v1"]
    ) as line:
        hello = json.loads(await line.recv())
        assert (hello["user"], hello["nick"], hello["op"]) == ("ann", "annie", False), hello
        await line.send('{"do": "join", "id": 1, "room": "other"}')
        answer = json.loads(await line.recv())
        assert answer["error"]["code"] == "forbidden", answer
    async with websockets.connect(url, additional_headers=headers) as line:
        assert await line.recv() == "Hello, I am chatd. You are annie in #lobby."
    async with websockets.connect(f"{url}?token={token}", subprotocols=["chatd.v1"]) as line:
        assert json.loads(await line.recv())["user"] is None
        await line.send(json.dumps({"do": "auth", "id": 1, "token": token}))
        assert json.loads(await line.recv())["ok"]["user"] == "ann"
    async with websockets.connect(
        url, additional_headers={"Authorization": f"Bearer {bad}"}, subprotocols=["chatd.v1"]
    ) as line:
        assert json.loads(await line.recv())["on"] == "bye"
        await line.wait_closed()
        assert line.close_code == 4502


async def by_socketio(port: str, token: str, bad: str) -> None:
    """Authenticate by ``auth`` and by a header, by polling and by WebSocket."""
    socketio: Any = importlib.import_module("socketio")
    url = f"http://localhost:{port}"
    for transports in (["polling"], ["websocket"]):
        for given in (
            {"auth": {"token": token}},
            {"headers": {"Authorization": f"Bearer {token}"}},
        ):
            client = socketio.AsyncClient(reconnection=False)
            hello: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            client.on("hello", hello.set_result)
            await client.connect(url, transports=transports, wait_timeout=SECONDS, **given)
            fields = await asyncio.wait_for(hello, SECONDS)
            assert (fields["user"], fields["joined"]["room"]) == ("ann", "lobby"), fields
            said = await client.call("chat message", "hi", timeout=SECONDS)
            assert said["ok"]["room"] == "lobby", said
            await client.disconnect()
        client = socketio.AsyncClient(reconnection=False)
        error: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        client.on("connect_error", error.set_result)
        await client.connect(url, transports=transports, auth={"token": bad}, wait=False)
        refused = await asyncio.wait_for(error, SECONDS)
        assert refused["data"] == {"code": "unauthorized"}, refused
        await client.disconnect()


async def run(port: str) -> None:
    """Run all checks; raise at the first that fails."""
    token, bad = os.environ["TOKEN"], os.environ["BAD_TOKEN"]
    await by_websockets(port, token, bad)
    await by_socketio(port, token, bad)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
