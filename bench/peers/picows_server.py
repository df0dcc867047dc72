"""A broadcast server on picows: every message goes to all clients.

Usage: picows_server.py PORT. It runs in an environment of its own (servers.py), on uvloop.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

# Not `import`: the environment in which types are checked has none of these packages.
picows: Any = importlib.import_module("picows")
uvloop: Any = importlib.import_module("uvloop")

clients: set[Any] = set()


class Listener(picows.WSListener):  # type: ignore[misc]
    def on_ws_connected(self, transport: Any) -> None:
        clients.add(transport)

    def on_ws_disconnected(self, transport: Any) -> None:
        clients.discard(transport)

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.TEXT:
            payload = frame.get_payload_as_bytes()
            for client in clients:
                client.send(picows.WSMsgType.TEXT, payload)
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            transport.disconnect()


async def main() -> None:
    server = await picows.ws_create_server(lambda _: Listener(), "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


uvloop.run(main())
