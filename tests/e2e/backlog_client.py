"""python-socketio's client enters a room by polling: ``backlog_client.py PORT COUNT``.

It prints the first ``COUNT`` messages that it gets as JSON. It runs on asyncio, so it has its own
process.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any

# Ends a hang; no measure of speed.
SECONDS = 60


async def run(port: str, count: int) -> None:
    socketio: Any = importlib.import_module("socketio")
    client = socketio.AsyncClient(reconnection=False)
    heard: asyncio.Queue[str] = asyncio.Queue()
    client.on("chat message", lambda text, *_: heard.put_nowait(text))
    await client.connect(f"http://localhost:{port}", transports=["polling"], wait_timeout=SECONDS)
    async with asyncio.timeout(SECONDS):
        texts: list[str] = []
        while len(texts) < count:
            texts.append(await heard.get())
    print(json.dumps(texts))  # noqa: T201
    await client.disconnect()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2])))
