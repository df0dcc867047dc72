"""A broadcast server on uWebSockets, by socketify: every message goes to all clients.

Usage: socketify_server.py PORT. It runs in an environment of its own (servers.py).
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

# Not `import`: the environment in which types are checked has none of these packages.
socketify: Any = importlib.import_module("socketify")

app: Any = socketify.App()


def opened(client: Any) -> None:
    client.subscribe("all")


def received(_client: Any, message: Any, opcode: Any) -> None:
    app.publish("all", message, opcode)


app.ws("/*", {"open": opened, "message": received})
app.listen({"host": "127.0.0.1", "port": int(sys.argv[1])}, lambda _: None)
app.run()
