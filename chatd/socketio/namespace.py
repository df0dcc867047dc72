"""Namespaces: the ones that are named, and those that a pattern makes as they are asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from chatd.socketio.broadcast import Broadcast
from chatd.socketio.delivery import Delivery
from chatd.socketio.handlers import Handlers, Listening, call
from chatd.socketio.recovery import RecoveryLog
from chatd.socketio.socket import Socket

__all__ = ["DynamicNamespace", "Namespace", "Pattern"]

Pattern: TypeAlias = re.Pattern[str] | Callable[[str, dict[str, Any]], Any]
"""A regular expression that the whole name matches, or ``function(name, auth)``, async or plain,
that tells whether there is such a namespace."""


class Namespace(Broadcast, Listening):
    """A namespace: its sockets, and what is done with them. Made by ``Server.of``.

    ``name`` begins with a slash.
    """

    def __init__(
        self,
        name: str,
        handlers: Handlers,
        *,
        log: RecoveryLog | None,
        ack_timeout: float,
        unused: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.handlers = handlers
        self.delivery = Delivery(name, log)
        super().__init__(self.delivery, ack_timeout)
        # Who can recover, from its CONNECT until its last handler has run.
        self.by_pid: dict[str, Socket] = {}
        self._sockets: dict[str, Socket] = {}
        self._unused = unused
        self._held = 0

    def __repr__(self) -> str:
        return f"<Namespace {self.name}>"

    @property
    def _handlers(self) -> Handlers:
        return self.handlers

    @property
    def sockets(self) -> Mapping[str, Socket]:
        """The sockets that are connected, by id."""
        return MappingProxyType(self._sockets)

    @property
    def rooms(self) -> Mapping[str, int]:
        """How many are in each room; each socket is in one of its own."""
        return self.delivery.rooms.sizes()

    # The library's side

    def hold(self) -> None:
        """Keep it while a client is on its way in, and until its last handler has run."""
        self._held += 1

    def release(self) -> None:
        self._held -= 1
        if not self._held and self._unused is not None:
            self._unused(self.name)

    def add(self, socket: Socket) -> None:
        self._sockets[socket.id] = socket
        if socket.pid is not None:
            self.by_pid[socket.pid] = socket

    def remove(self, socket: Socket) -> None:
        self._sockets.pop(socket.id, None)


class DynamicNamespace(Listening):
    """All namespaces that one pattern allows; handlers registered here are theirs.

    A namespace of it exists from its first client to its last.
    """

    def __init__(self, pattern: Pattern, *, log: RecoveryLog | None, ack_timeout: float) -> None:
        self._pattern = pattern
        self._log = log
        self._ack_timeout = ack_timeout
        self._shared = Handlers()
        self._namespaces: dict[str, Namespace] = {}

    @property
    def _handlers(self) -> Handlers:
        return self._shared

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """Those that have clients, by name."""
        return MappingProxyType(self._namespaces)

    async def emit(self, event: str, *args: Any) -> None:
        """Send an event to everybody in all of them; as ``Broadcast.emit``."""
        for namespace in list(self._namespaces.values()):
            await namespace.emit(event, *args)

    async def allows(self, name: str, auth: dict[str, Any]) -> bool:
        """Tell whether the pattern has this name. Raises what its function raises."""
        if isinstance(self._pattern, re.Pattern):
            return self._pattern.fullmatch(name) is not None
        return bool(await call(self._pattern, name, auth))

    def namespace(self, name: str) -> Namespace:
        """Give the namespace of a name that the pattern allows."""
        namespace = self._namespaces.get(name)
        if namespace is None:
            namespace = self._namespaces[name] = Namespace(
                name,
                self._shared,
                log=self._log,
                ack_timeout=self._ack_timeout,
                unused=self._forget,
            )
        return namespace

    def _forget(self, name: str) -> None:
        del self._namespaces[name]
