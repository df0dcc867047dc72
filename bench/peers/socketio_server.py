"""The server of Socket.IO's tutorial on python-socketio: one client's `chat message` goes to all.

Usage: socketio_server.py PORT. It runs in an environment of its own (servers.py) and as it is
deployed where speed counts: under uvicorn with uvloop and httptools, without an access log. Of
uvicorn's WebSocket implementations `websockets-sansio` takes the least CPU here, before wsproto.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

# Not `import`: the environment in which types are checked has none of these packages.
socketio: Any = importlib.import_module("socketio")
uvicorn: Any = importlib.import_module("uvicorn")

sio = socketio.AsyncServer(async_mode="asgi")


async def chat_message(_sid: str, text: str) -> None:
    await sio.emit("chat message", text)


sio.on("chat message", chat_message)

uvicorn.run(
    socketio.ASGIApp(sio),
    host="127.0.0.1",
    port=int(sys.argv[1]),
    loop="uvloop",
    http="httptools",
    ws="websockets-sansio",
    log_level="warning",
    access_log=False,
)
