"""A broadcast server on websockets, with its `broadcast`: every message goes to all clients.

Usage: websockets_server.py PORT. It runs in an environment of its own (servers.py), on uvloop.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

# Not `import`: the environment in which types are checked has none of these packages.
server: Any = importlib.import_module("websockets.asyncio.server")
uvloop: Any = importlib.import_module("uvloop")

clients: set[Any] = set()


async def serve(client: Any) -> None:
    clients.add(client)
    try:
        async for message in client:
            server.broadcast(clients, message)
    finally:
        clients.discard(client)


async def main() -> None:
    # Without compression, as the other servers.
    async with server.serve(serve, "127.0.0.1", int(sys.argv[1]), compression=None) as running:
        await running.serve_forever()


uvloop.run(main())
