"""A script: it posts messages, reads pages, and follows a room by an event stream.

Unlike a browser's EventSource it does not reconnect by itself. It drops no event that comes twice
and corrects no order, so that a test sees what the daemon sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlencode

import h11
import msgspec
import trio
from msgspec import Struct

from chatd import client
from chatd.client.errors import with_bye
from chatd.client.inbox import Inbox
from chatd.model import LOST, NORMAL
from chatd.protocol.codec import read_event, read_result
from chatd.testing.buffer import EVENTS, wait_limit
from chatd.testing.cable import Cable, Plug
from chatd.testing.events import EventClient

__all__ = ["EventStreamReader", "HttpClient", "HttpPage"]

_HOST: Final = "localhost"
_GONE: Final = (
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    h11.RemoteProtocolError,
)


class HttpPage(Struct, frozen=True):
    """A page of a room's log.

    Attributes:
        events: Events of the log, oldest first.
        position: The position behind the last of them, to continue from.
        recovered: Whether the page continues from the position that was asked for; None if none
            was.
        more: Whether more events follow.
    """

    events: Sequence[client.AnyEvent]
    position: str
    recovered: bool | None
    more: bool


class Block(Struct, frozen=True):
    """One block of an event stream: the fields that it has. A comment alone has none."""

    id: str | None = None
    data: str | None = None
    retry: int | None = None


class EventStreamReader:
    """Reads the blocks of an event stream, in whatever pieces it arrives. Sans-IO."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> list[Block]:
        """Return the blocks that are complete now."""
        *blocks, self._bytes = (self._bytes + data).split(b"\n\n")
        return [self._block(block.decode()) for block in blocks]

    def _block(self, text: str) -> Block:
        fields: dict[str, str] = {}
        for line in text.split("\n"):
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
        return Block(
            fields.get("id"),
            fields.get("data"),
            int(fields["retry"]) if "retry" in fields else None,
        )


class _Problem(Struct, frozen=True):
    detail: str = ""
    code: str = ""
    retry_ms: int | None = None


class HttpClient(EventClient):
    """An HTTP client, made by `Harness.client`.

    It follows one room by an event stream, whose first page comes as events. With ``room=None`` it
    follows none. Each other request has a cable of its own.

    Attributes:
        room: The room that it follows. `say` and `history` use it by default.
        user: The client's user id; empty until the first message is said.
        position: The last position in the stream, from which `reconnect` continues.
        retry: After how many milliseconds the daemon asks a client to connect again.
        comments: The number of comments that have come.
    """

    protocol: ClassVar[str] = "http"

    def __init__(
        self, plug: Plug, nick: str, nursery: trio.Nursery, token: str | None = None
    ) -> None:
        self._inbox: Inbox[client.AnyEvent] = Inbox(EVENTS)
        super().__init__(self._inbox.take, self._inbox.take_nowait)
        self.plug = plug
        self.room: str | None = None
        self.user = ""
        self.position: str | None = None
        self.retry: int | None = None
        self.comments = 0
        self._nick = nick
        self._nursery = nursery
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._bye: client.Bye | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()
        self._ending = client.Ending(LOST.code, "never connected", reconnect=True)

    @property
    def nick(self) -> str:
        """The client's nick."""
        return self._nick

    # ---- requests

    async def say(
        self, text: str, *, room: str | None = None, key: str | None = None
    ) -> client.Said:
        """Post a message.

        Args:
            text: The text.
            room: The room's name, or ``@nick``. By default the room that it follows.
            key: As for `chatd.client.Chat.say`. By default there is none.

        Returns:
            The message's number and time.

        Raises:
            chatd.client.Refused: The daemon refused it.
            chatd.client.ConnectError: There was no answer: the message may have been said.
        """
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if key is not None:
            headers["Idempotency-Key"] = key
        _, body = await self._ask("POST", self._target(self._room(room)), headers, text.encode())
        fields = msgspec.json.decode(body, type=dict[str, Any])
        self.user, self._nick = fields["user"], fields["nick"]
        return read_result(fields, client.Said)

    async def history(
        self, room: str | None = None, *, since: str | None = None, limit: int | None = None
    ) -> HttpPage:
        """Return the newest events of a room, or those that follow a position.

        Args:
            room: The room's name, or ``@nick``. By default the room that it follows.
            since: A position, of a page or of the stream.
            limit: The size of the page: 100 by default, 0 to 500.

        Raises:
            chatd.client.Refused: The daemon refused it.
            chatd.client.ConnectError: There was no answer.
        """
        target = self._target(self._room(room), since=since, limit=limit)
        headers, body = await self._ask("GET", target)
        recovered = headers.get("chatd-recovered")
        return HttpPage(
            [read_event(msgspec.json.decode(line)) for line in body.splitlines()],
            headers["chatd-position"],
            None if recovered is None else recovered == "true",
            headers.get("chatd-more") == "true",
        )

    async def rooms(self) -> list[client.RoomInfo]:
        """Return the list of rooms.

        Raises:
            chatd.client.Refused: The daemon refused it.
            chatd.client.ConnectError: There was no answer.
        """
        _, body = await self._ask("GET", self._target(None))
        fields = msgspec.json.decode(body, type=dict[str, Any])
        return read_result(fields["rooms"], list[client.RoomInfo])

    # ---- the stream

    async def join(self, room: str, *, since: str | None = None, limit: int | None = None) -> None:
        """Follow a room, in place of the present one. Its first page comes as events.

        Args:
            room: The room's name, or ``@nick``.
            since: A position to continue from. By default the page has the newest events.
            limit: The size of the page: ``chat.backlog`` by default, 0 to 500.

        Raises:
            chatd.client.ConnectError: The daemon refused it, or could not be reached.
        """
        await self.aclose()
        self.room, self.position = room, None
        await self._follow(self._target(room, since=since, limit=limit))

    async def lost(self) -> client.Ending:
        """Wait until the stream has ended, and return why.

        There are no close codes: the code is 1006 unless the daemon sent ``bye``.
        """
        with trio.fail_after(wait_limit()):
            await self._ended.wait()
        return self._ending

    async def reconnect(self) -> None:
        """Follow the room again from the last position, on another cable.

        Missed events come as events. If the position cannot be resumed, an event ``reset`` comes
        first.

        Raises:
            chatd.client.ConnectError: The daemon refused it, or could not be reached.
        """
        await self.aclose()
        await self._follow(self._target(self._room(None)))

    async def aclose(self) -> None:
        """Close the stream, as a client does when it ends."""
        self._ending = client.Ending(NORMAL.code, "left", reconnect=False)
        self._scope.cancel()
        await self._ended.wait()

    async def _follow(self, target: str) -> None:
        headers = {"Accept": "text/event-stream"}
        if self.position is not None:
            headers["Last-Event-ID"] = self.position
        self.plug.renew()
        with trio.fail_after(wait_limit()):
            await self._nursery.start(self._run, target, headers)

    async def _run(
        self, target: str, headers: dict[str, str], task_status: trio.TaskStatus[None]
    ) -> None:
        opened = False
        self._bye = None
        self._ended = trio.Event()
        self._ending = client.Ending(LOST.code, LOST.reason, reconnect=True)
        try:
            with trio.CancelScope() as self._scope:
                async with self._exchange("GET", target, headers) as (response, parts):
                    if response.status_code != 200:
                        raise _refused_stream(response, await _body(parts))
                    opened = True
                    task_status.started()
                    await self._read(parts)
        except _GONE as error:
            if not opened:
                raise client.ConnectError(f"no connection to {_HOST}: {error}") from error
        finally:
            if self._bye is not None:
                self._ending = with_bye(self._ending, self._bye)
            if opened and self._ending.code != NORMAL.code:
                self._inbox.put(client.Lost(self._ending))
            self._ended.set()

    async def _read(self, parts: AsyncGenerator[Any]) -> None:
        reader = EventStreamReader()
        async for part in parts:
            for block in reader.feed(part):
                self._take(block)

    def _take(self, block: Block) -> None:
        self.retry = self.retry if block.retry is None else block.retry
        self.position = self.position if block.id is None else block.id
        self.comments += block == Block()
        if block.data is None:
            return
        event = read_event(msgspec.json.decode(block.data))
        if isinstance(event, client.Bye):
            self._bye = event
        if not self._inbox.fits(1):
            raise AssertionError(f"{self.nick}: {EVENTS} events came that no test took")
        self._inbox.put(event)

    # ---- HTTP

    def _target(
        self, room: str | None, *, since: str | None = None, limit: int | None = None
    ) -> str:
        path = "/rooms" if room is None else f"/rooms/{quote(room, safe='')}"
        query = {"nick": self._nick, "since": since, "limit": limit}
        return f"{path}?{urlencode({k: v for k, v in query.items() if v is not None})}"

    async def _ask(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body of an answer. Raise Refused if it is a refusal."""
        try:
            with trio.fail_after(wait_limit()):
                async with self._exchange(method, target, headers, body) as (response, parts):
                    answer = await _body(parts)
        except _GONE as error:
            raise client.ConnectError(f"no answer of {_HOST}: {error}") from error
        if response.status_code >= 400:
            problem = _problem(answer)
            raise client.Refused(problem.code, problem.detail, problem.retry_ms)
        return _fields(response), answer

    @asynccontextmanager
    async def _exchange(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> AsyncGenerator[tuple[h11.Response, AsyncGenerator[Any]]]:
        """Send a request on a cable of its own, and return the response and its body's parts."""
        cable = await self.plug.another()
        connection = h11.Connection(h11.CLIENT)
        fields = {"Host": _HOST, **self._headers, **(headers or {})}
        if method == "POST":
            fields["Content-Length"] = str(len(body))
        request = h11.Request(method=method, target=target, headers=list(fields.items()))
        try:
            for event in (request, h11.Data(data=body), h11.EndOfMessage()):
                await cable.send_all(connection.send(event) or b"")
            async with aclosing(_events(connection, cable)) as events:
                response = await anext(events)
                yield response, events
        finally:
            await trio.aclose_forcefully(cable)


async def _events(connection: h11.Connection, cable: Cable) -> AsyncGenerator[Any]:
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await cable.receive_some()))
        elif isinstance(event, h11.Response):
            yield event
        elif isinstance(event, h11.Data):
            yield bytes(event.data)


async def _body(parts: AsyncGenerator[Any]) -> bytes:
    return b"".join([part async for part in parts])


def _fields(response: h11.Response) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in response.headers}


def _problem(body: bytes) -> _Problem:
    return msgspec.json.decode(body, type=_Problem)


def _refused_stream(response: h11.Response, body: bytes) -> client.ConnectError:
    problem, status = _problem(body), response.status_code
    return client.ConnectError(
        f"refused with {status}: {problem.detail}",
        status=status,
        # An EventSource gives up then.
        hopeless=status not in (429, 503),
        retry_ms=problem.retry_ms,
    )
