"""The daemon in memory, its clients, and what may befall them."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, cast, overload

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd import client
from chatd.chat.key_files import load_keys
from chatd.chat.tokens import Keys, new_key, read_key
from chatd.client.errors import unwrapped
from chatd.daemon import Daemon, open_daemon
from chatd.journal import Journal
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import retention_of
from chatd.logs import Recording, open_log
from chatd.model import Refused
from chatd.settings import Settings
from chatd.testing.cable import PIPE_BYTES, Cable, Plug, pipe
from chatd.testing.clients import PROTOCOLS, Client, JsonClient, SocketIoClient, TextClient
from chatd.testing.disk import FaultyJournal
from chatd.wire.listener import Listener, open_listeners
from chatd.wire.transport import Peer, StreamTransport

__all__ = ["VIRTUAL_EPOCH_MS", "Client", "Harness", "Room", "open_chat"]

VIRTUAL_EPOCH_MS: Final = 1_735_689_600_000
"""2025-01-01T00:00:00Z: what the wall clock says where Trio's virtual clock says 0."""


class Room:
    """The room a client is to be in, where it is not named: the configuration's own."""


_DEFAULT_ROOM: Final = Room()

_MEMORY: Final = Peer("memory", "memory", loopback=True)


class Harness:
    """A daemon that runs, and everything a test does to it; made by `open_chat`."""

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
        """What the daemon logged; `logged` gives it by name."""
        self.listeners = listeners
        """The sockets it listens on: empty unless ``listen`` was given."""
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
        """Connect a client, in the configuration's default room; with ``room=None`` in none.

        ``protocol`` is ``"json"``, ``"socketio"``, ``"polling"`` (Socket.IO too) or ``"text"``; the
        last three are always in a room. ``token`` is what `token` gives, for ``auth.mode =
        "token"``: JSON sends it by ``auth``, or asks a function for it; Socket.IO in its ``auth``,
        text in a header.

        Raises ValueError for a protocol that tests cannot speak, and `chatd.client.ConnectError`.
        """
        if protocol not in PROTOCOLS:
            known = ", ".join(repr(name) for name in PROTOCOLS)
            raise ValueError(f"there is no client for {protocol!r}; there are {known}")
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
        """Issue a token, as ``chatd token`` does. Raises ValueError for what cannot be one."""
        chat = self.daemon.chat
        try:
            return chat.keys.issue(
                user, now=chat.now(), seconds=seconds, rooms=rooms, read=read, op=op, nick=nick
            )
        except Refused as refused:
            raise ValueError(str(refused)) from None

    async def dial(self, peer: Peer = _MEMORY) -> Cable:
        """Open a plain stream to the daemon, for a test that speaks bytes.

        In memory ``peer`` is who the daemon takes it for.
        """
        if self.listeners:
            cable = Cable(await _to(self.listeners[0]))
        else:
            near, far = pipe(PIPE_BYTES)
            self.daemon.attach(StreamTransport(far, peer, listener_loopback=peer.loopback))
            cable = Cable(near)
        self._cables.append(cable)
        return cable

    # ---- what may befall them

    async def cut(self, one: Client) -> None:
        """Pull the client's cable, or cables, out. It notices at once, the daemon is told nothing.

        The daemon goes on sending until the way is full, and learns of it by its own clock. A
        client that comes back does so by another cable.
        """
        one.plug.cut()
        await one.lost()

    def stall(self, one: Client) -> None:
        """Have the client read nothing from now on. It still sends."""
        one.plug.stall()

    def unstall(self, one: Client) -> None:
        """Have it read again."""
        one.plug.flow()

    def fill_disk(self) -> None:
        """Have the store commit nothing from now on: what is said is ``unavailable``."""
        self._journal.full = True

    def free_disk(self) -> None:
        """Have the store commit again."""
        self._journal.full = False

    def lose_confirmation(self) -> None:
        """Have the store's next commit be done, and not confirmed."""
        self._journal.loses_confirmation = True

    # ---- what became of it

    async def settled(self) -> None:
        """Wait until nobody has anything to do at this moment: all that could arrive has.

        On real sockets that is no more than likely.
        """
        await wait_all_tasks_blocked()

    def logged(self, name: str) -> list[dict[str, Any]]:
        """Give the fields of each line of this name that was logged so far."""
        return [fields for logged, fields in self.log.records if logged == name]

    async def aclose(self) -> None:
        """Drop every client and cable at once. `open_chat` does it."""
        self._nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):  # closing forcefully waits for nobody
            for cable in self._cables:
                await cable.discard()


@asynccontextmanager
async def open_chat(
    settings: Settings | None = None,
    *,
    listen: str | Sequence[str] = (),
    journal: Journal | None = None,
) -> AsyncGenerator[Harness]:
    """Run the whole daemon for as long as the block, without port, file or thread.

    Where ``settings`` name no key for tokens, it has one of its own.

    ``listen`` puts it on real sockets (``"127.0.0.1:0"``, ``"unix:/path"``); clients then use the
    first. The journal is in memory, whatever ``settings`` say, unless one is given; it is closed at
    the end. ``limits`` are the configuration's: they count here as elsewhere.
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
    return Keys([read_key(new_key(symmetric=True).encode())])


def _clock() -> Callable[[], int]:
    if isinstance(trio.lowlevel.current_clock(), MockClock):
        return lambda: VIRTUAL_EPOCH_MS + round(trio.current_time() * 1000)
    return lambda: time.time_ns() // 1_000_000


async def _to(listener: Listener) -> trio.SocketStream:
    if listener.path is not None:
        return await trio.open_unix_socket(listener.path)
    host, port = listener.socket.getsockname()[:2]
    return await trio.open_tcp_stream(host, port)
