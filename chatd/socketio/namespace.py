"""Namespaces: those with a fixed name, and those that a pattern makes on demand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from chatd.engineio.hooks import call
from chatd.socketio.broadcast import Broadcast
from chatd.socketio.delivery import Delivery
from chatd.socketio.handlers import Handlers, Listening
from chatd.socketio.packets import EncHook
from chatd.socketio.recovery import RecoveryLog
from chatd.socketio.socket import Socket

__all__ = ["DynamicNamespace", "Namespace", "Pattern"]

Pattern: TypeAlias = re.Pattern[str] | Callable[[str, dict[str, Any]], Any]
"""A regular expression that must match the whole name, or ``function(name, auth)``, async or plain,
which returns whether the namespace exists."""


class Namespace(Broadcast, Listening):
    """A namespace: a `Broadcast` to all its sockets, with handlers. Returned by `Server.of`.

    Attributes:
        name: Its name, which begins with a slash.
    """

    def __init__(
        self,
        name: str,
        handlers: Handlers,
        *,
        log: RecoveryLog | None,
        ack_timeout: float,
        enc_hook: EncHook | None,
        unused: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.handlers = handlers
        self.delivery = Delivery(name, log, enc_hook)
        super().__init__(self.delivery, ack_timeout)
        # Sockets that can recover, from their CONNECT until their last handler has run.
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
        """The connected sockets, by id."""
        return MappingProxyType(self._sockets)

    @property
    def rooms(self) -> Mapping[str, int]:
        """How many sockets each room has. Each socket has its own room, named by its id."""
        return self.delivery.rooms.sizes()

    # For the library

    def hold(self) -> None:
        """Keep it, from the admission of a socket until its last handler has run."""
        self._held += 1

    def release(self) -> None:
        """Undo one ``hold``. A namespace of a pattern is removed at the last one."""
        self._held -= 1
        if not self._held and self._unused is not None:
            self._unused(self.name)

    def add(self, socket: Socket) -> None:
        """Add a connected socket."""
        self._sockets[socket.id] = socket
        if socket.pid is not None:
            self.by_pid[socket.pid] = socket

    def remove(self, socket: Socket) -> None:
        """Remove a disconnected socket."""
        self._sockets.pop(socket.id, None)


class DynamicNamespace(Listening):
    """The namespaces of one pattern, with common handlers. Returned by `Server.of`.

    Each of them exists from its first client to its last.
    """

    def __init__(
        self,
        pattern: Pattern,
        *,
        log: RecoveryLog | None,
        ack_timeout: float,
        enc_hook: EncHook | None,
    ) -> None:
        self._pattern = pattern
        self._enc_hook = enc_hook
        self._log = log
        self._ack_timeout = ack_timeout
        self._shared = Handlers()
        self._namespaces: dict[str, Namespace] = {}

    @property
    def _handlers(self) -> Handlers:
        return self._shared

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """Those that exist now, by name."""
        return MappingProxyType(self._namespaces)

    async def emit(self, event: str, *args: Any) -> None:
        """Send an event to all sockets of all of them; see `Broadcast.emit`."""
        for namespace in list(self._namespaces.values()):
            await namespace.emit(event, *args)

    async def allows(self, name: str, auth: dict[str, Any]) -> bool:
        """Return whether the pattern allows this name. Raises what its function raises."""
        if isinstance(self._pattern, re.Pattern):
            return self._pattern.fullmatch(name) is not None
        return bool(await call(self._pattern, name, auth))

    def namespace(self, name: str) -> Namespace:
        """Return the namespace of a name that the pattern allows; make it if it is new."""
        namespace = self._namespaces.get(name)
        if namespace is None:
            namespace = self._namespaces[name] = Namespace(
                name,
                self._shared,
                log=self._log,
                ack_timeout=self._ack_timeout,
                enc_hook=self._enc_hook,
                unused=self._forget,
            )
        return namespace

    def _forget(self, name: str) -> None:
        del self._namespaces[name]
