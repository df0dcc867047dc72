"""A client of the Socket.IO chat as a program: ``socketio_client.py URL NICK TEXT TRANSPORTS``.

It says TEXT, waits for the message to arrive, and prints the daemon's answer as a line of JSON.
TRANSPORTS is ``polling``, ``websocket``, or ``both`` for the upgrade.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any

LIMIT_SECONDS = 60  # ends a hang


async def main(url: str, nick: str, text: str, transports: str) -> None:
    socketio: Any = importlib.import_module("socketio")  # it has no types
    client = socketio.AsyncClient(reconnection=False)
    shown = asyncio.Event()
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def message(said: str, about: dict[str, Any], *_: Any) -> None:
        if (said, about["from"]) == (text, nick):
            shown.set()

    client.on("chat message", message)
    async with asyncio.timeout(LIMIT_SECONDS):
        ways = ["polling", "websocket"] if transports == "both" else [transports]
        await client.connect(url, transports=ways, auth={"nick": nick})
        await client.emit("chat message", text, callback=answered.set_result)
        print(json.dumps(await answered), flush=True)  # noqa: T201  this program's output
        await shown.wait()
        await client.disconnect()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
