"""A daemon that a test's clients can reach: connecting them, and the faults of their cables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Literal, overload

import trio
from trio.testing import wait_all_tasks_blocked

from chatd import client
from chatd.daemon import Daemon
from chatd.model import Refused
from chatd.settings import Settings
from chatd.testing.cable import Cable, Plug
from chatd.testing.clients import (
    PROTOCOLS,
    Client,
    HttpClient,
    JsonClient,
    SocketIoClient,
    TextClient,
)
from chatd.testing.recording import Recording
from chatd.wire.transport import Peer

__all__ = ["MEMORY", "Reachable", "Room"]

MEMORY: Final = Peer("memory", "memory", loopback=True)
"""A client on the same machine."""


class Room:
    """The type of the default of ``room``, which None is not."""

    def __repr__(self) -> str:
        return "<the default room>"


_DEFAULT_ROOM: Final = Room()


class Reachable(ABC):
    """A daemon, and what a test does with its clients.

    Attributes:
        settings: The daemon's configuration.
        log: The lines that the daemon logged; `logged` returns them by name.
    """

    def __init__(self, settings: Settings, log: Recording, nursery: trio.Nursery) -> None:
        self.settings = settings
        self.log = log
        self._nursery = nursery

    @property
    @abstractmethod
    def daemon(self) -> Daemon:
        """The daemon itself."""

    @abstractmethod
    async def dial(self, peer: Peer = MEMORY) -> Cable:
        """Open a stream to the daemon, for a test that sends bytes.

        Args:
            peer: Who the client is to the daemon in memory. By default a client on the same
                machine. On real sockets it has no effect.

        Returns:
            The client's end of the stream.
        """

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

    async def wait_idle(self) -> None:
        """Wait until no task has anything left to do now: everything that was sent has arrived.

        On real sockets that is only likely.
        """
        await wait_all_tasks_blocked()

    def logged(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of each line of this name that was logged so far.

        Args:
            name: The name of a log event, such as ``"disconnect"``: see docs/operations.md.

        Returns:
            One dict for each line, without its level and time.
        """
        return [fields for logged, fields in self.log.records if logged == name]
