"""The daemon in memory, its clients, and the faults that a test causes."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, cast, overload

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd import client
from chatd.chat.key_files import load_keys
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.client.errors import unwrapped
from chatd.daemon import Daemon, open_daemon
from chatd.journal import Journal
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import retention_of
from chatd.logs import open_log
from chatd.model import Refused
from chatd.settings import Settings
from chatd.testing.cable import PIPE_BYTES, Cable, Plug, pipe
from chatd.testing.clients import (
    PROTOCOLS,
    Client,
    HttpClient,
    JsonClient,
    SocketIoClient,
    TextClient,
)
from chatd.testing.disk import FaultyJournal
from chatd.testing.recording import Recording
from chatd.wire.listener import Listener, open_listeners
from chatd.wire.transport import Peer, StreamTransport

__all__ = ["VIRTUAL_EPOCH_MS", "Client", "Harness", "Room", "open_chat"]

VIRTUAL_EPOCH_MS: Final = 1_735_689_600_000
"""2025-01-01T00:00:00Z: the wall clock when Trio's virtual clock is 0. In milliseconds."""


class Room:
    """The type of the default of ``room``, which None is not."""

    def __repr__(self) -> str:
        return "<the default room>"


_DEFAULT_ROOM: Final = Room()

_MEMORY: Final = Peer("memory", "memory", loopback=True)


class Harness:
    """A running daemon, its clients, and the faults that a test causes; made by `open_chat`.

    Attributes:
        settings: The daemon's configuration.
        daemon: The daemon itself.
        log: The lines that the daemon logged; `logged` returns them by name.
        listeners: The sockets that it listens on, unless it is in memory.
    """

    def __init__(
        self,
        settings: Settings,
        daemon: Daemon,
        log: Recording,
        journal: FaultyJournal,
        listeners: Sequence[Listener],
        nursery: trio.Nursery,
    ) -> None:
        self.settings = settings
        self.daemon = daemon
        self.log = log
        self.listeners = listeners
        self._journal = journal
        self._nursery = nursery
        self._cables: list[Cable] = []

    # ---- clients

    @overload
    async def client(
        self,
        nick: str,
        protocol: Literal["json"] = "json",
        *,
        room: str | Room | None = ...,
        token: client.Token | None = ...,
    ) -> JsonClient: ...
    @overload
    async def client(
        self,
        nick: str,
        protocol: Literal["text"],
        *,
        room: str | Room | None = ...,
        token: str | None = ...,
    ) -> TextClient: ...
    @overload
    async def client(
        self,
        nick: str,
        protocol: Literal["socketio", "polling"],
        *,
        room: str | Room | None = ...,
        token: str | None = ...,
    ) -> SocketIoClient: ...
    @overload
    async def client(
        self,
        nick: str,
        protocol: Literal["http"],
        *,
        room: str | Room | None = ...,
        token: str | None = ...,
    ) -> HttpClient: ...
    @overload
    async def client(
        self,
        nick: str,
        protocol: str,
        *,
        room: str | Room | None = ...,
        token: client.Token | None = ...,
    ) -> Client: ...
    async def client(
        self,
        nick: str,
        protocol: str = "json",
        *,
        room: str | Room | None = _DEFAULT_ROOM,
        token: client.Token | None = None,
    ) -> Client:
        """Connect a client.

        Args:
            nick: The nick to ask for.
            protocol: ``"json"`` (the default; chatd.v1), ``"text"`` (plain text), ``"socketio"``
                (Socket.IO on a WebSocket), ``"polling"`` (Socket.IO by HTTP long polling) or
                ``"http"`` (a script that posts and follows an event stream).
            room: The room to join, by default ``chat.default_room``; None joins none, which is for
                ``"json"`` and ``"http"`` only.
            token: What `token` returns, where ``auth.mode`` is ``"token"``; for ``"json"`` also a
                function, plain or async, that returns one.

        Returns:
            The client, connected. It does not reconnect by itself.

        Raises:
            ValueError: There is no such protocol, or it does not take these arguments.
            chatd.client.ConnectError: The daemon refused the connection.
            chatd.client.Closed: The daemon ended the connection for good, such as for a bad token.
        """
        if protocol not in PROTOCOLS:
            known = ", ".join(repr(name) for name in PROTOCOLS)
            raise ValueError(f"There is no protocol {protocol!r}. The protocols are {known}.")
        if isinstance(room, Room):
            room = self.settings.chat.default_room
        return await PROTOCOLS[protocol](self._nursery, Plug(self.dial), nick, room, token)

    def token(
        self,
        user: str,
        *,
        seconds: int = 12 * 60 * 60,
        rooms: Sequence[str] | None = None,
        read: Sequence[str] = (),
        op: bool = False,
        nick: str | None = None,
    ) -> str:
        """Issue a token, as ``chatd token`` does.

        Args:
            user: The user's id, of at most 32 characters. It may not look like a guest's.
            seconds: How long it is valid. By default 12 hours.
            rooms: Patterns of the rooms that the user may read and write in. By default all.
            read: Patterns of the rooms that the user may only read.
            op: True for an operator.
            nick: The nick to start with. By default one made of the user's id.

        Returns:
            The token, for `client`.

        Raises:
            ValueError: One of them is not possible.
        """
        chat = self.daemon.chat
        try:
            return chat.keys.issue(
                user,
                now=chat.now(),
                seconds=seconds,
                rooms=rooms,
                read=read,
                op=op,
                nick=nick,
                expected=chat.settings.auth,
            )
        except Refused as refused:
            raise ValueError(str(refused)) from None

    async def dial(self, peer: Peer = _MEMORY) -> Cable:
        """Open a stream to the daemon, for a test that sends bytes.

        Args:
            peer: Who the client is to the daemon in memory. By default a client on the same
                machine. On real sockets it has no effect.

        Returns:
            The client's end of the stream.
        """
        if self.listeners:
            cable = Cable(await _to(self.listeners[0]))
        else:
            near, far = pipe(PIPE_BYTES)
            self.daemon.attach(StreamTransport(far, peer, listener_loopback=peer.loopback))
            cable = Cable(near)
        self._cables.append(cable)
        return cable

    # ---- faults

    async def cut(self, one: Client) -> None:
        """Pull out a client's cable, and wait until the client has noticed, which is at once.

        The daemon does not notice. It keeps sending until the stream is full, and drops the client
        when a ping is not answered in time. `reconnect` uses another cable.

        Args:
            one: The client.
        """
        one.plug.cut()
        await one.lost()

    def stall(self, one: Client) -> None:
        """Make a client stop reading. It still sends.

        Args:
            one: The client.
        """
        one.plug.stall()

    def unstall(self, one: Client) -> None:
        """Make a client read again.

        Args:
            one: The client.
        """
        one.plug.flow()

    def fill_disk(self) -> None:
        """Make every commit fail: a ``say`` is refused with ``unavailable``."""
        self._journal.full = True

    def free_disk(self) -> None:
        """Make commits succeed again."""
        self._journal.full = False

    def lose_confirmation(self) -> None:
        """Make the next commit succeed without confirmation: its ``say`` is still refused."""
        self._journal.loses_confirmation = True

    # ---- observation

    async def wait_idle(self) -> None:
        """Wait until no task has anything left to do now: everything that was sent has arrived.

        On real sockets that is only likely.
        """
        await wait_all_tasks_blocked()

    async def settled(self) -> None:
        """Call `wait_idle`. Deprecated: this name goes in the next version."""
        warnings.warn("Harness.settled is now Harness.wait_idle.", DeprecationWarning, stacklevel=2)
        await self.wait_idle()

    def logged(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of each line of this name that was logged so far.

        Args:
            name: The name of a log event, such as ``"disconnect"``: see docs/operations.md.

        Returns:
            One dict for each line, without its level and time.
        """
        return [fields for logged, fields in self.log.records if logged == name]

    async def aclose(self) -> None:
        """Drop all clients and cables. `open_chat` does it at the end."""
        self._nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):  # closing forcefully does not wait
            for cable in self._cables:
                await cable.discard()


@asynccontextmanager
async def open_chat(
    settings: Settings | None = None,
    *,
    listen: str | Sequence[str] = (),
    journal: Journal | None = None,
) -> AsyncGenerator[Harness]:
    """Run the whole daemon in memory, without a port, a file or a thread.

    Args:
        settings: The configuration. By default all its defaults, limits included. If it names no
            ``auth.key_files``, the harness makes its own key for tokens.
        listen: One or more addresses to listen on, such as ``"127.0.0.1:0"`` or ``"unix:/path"``.
            Clients then use the first. By default the daemon is in memory only.
        journal: The store; it is closed at the end. By default the log is kept in memory, whatever
            ``settings`` say.

    Yields:
        The harness.
    """
    settings = Settings() if settings is None else settings
    now = _clock()
    if journal is None:
        journal = MemoryJournal(now=now, retention=retention_of(settings))
    faulty = FaultyJournal(journal)
    recording = Recording()
    log = open_log(
        level=settings.log.level, addresses=settings.log.addresses, sink=recording, now=now
    )
    addresses = (listen,) if isinstance(listen, str) else tuple(listen)
    with unwrapped():
        async with open_daemon(
            settings, journal=cast("Journal", faulty), log=log, now=now, keys=_keys(settings)
        ) as daemon:
            listeners: Sequence[Listener] = ()
            if addresses:
                listeners = open_listeners(addresses, settings.listen.socket_mode_bits)
                daemon.listen(listeners)
            async with trio.open_nursery() as clients:
                harness = Harness(settings, daemon, recording, faulty, listeners, clients)
                try:
                    yield harness
                finally:
                    await harness.aclose()


def _keys(settings: Settings) -> Keys:
    if settings.auth.key_files:
        return load_keys(settings, os.environ)
    return Keys(read_keys(new_key(symmetric=True).encode()))


def _clock() -> Callable[[], int]:
    if isinstance(trio.lowlevel.current_clock(), MockClock):
        return lambda: VIRTUAL_EPOCH_MS + round(trio.current_time() * 1000)
    return lambda: time.time_ns() // 1_000_000


async def _to(listener: Listener) -> trio.SocketStream:
    if listener.path is not None:
        return await trio.open_unix_socket(listener.path)
    host, port = listener.socket.getsockname()[:2]
    return await trio.open_tcp_stream(host, port)
