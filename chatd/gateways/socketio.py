"""Socket.IO: ``chat message`` as in every tutorial, and the chat's commands and events by name.

A client is in a room from the start: ``hello`` names it, the last messages follow, and then live
events. An event of a room's log is encoded once for all clients of a protocol revision.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

import msgspec
import trio
from msgspec.structs import replace

from chatd import engineio
from chatd.budgets import JSON_VALUES
from chatd.chat import Chat, Connection, Login, Traffic, perform
from chatd.chat.membership import Membership
from chatd.chat.replies import SendAnswer
from chatd.chat.rules import COMMANDS, enter
from chatd.chat.sessions import is_guest
from chatd.chat.shared import LOST_MESSAGES
from chatd.chat.tokens import Grant
from chatd.engineio import CLOSES, Block
from chatd.gateways.admission import let_in
from chatd.gateways.credentials import admitted, bearer, origin_refusal, refuse_origin
from chatd.gateways.pages import PageEncoder, encode_answer
from chatd.gateways.recovery import (
    NOBODY,
    TAKEN,
    ChatLog,
    Whereabouts,
    live_offset,
    page_offset,
    record_name,
    taken,
)
from chatd.journal.shared import SharedJournal
from chatd.logs import Log
from chatd.model import (
    BANNED,
    GOING_AWAY,
    LOST,
    NORMAL,
    TOO_MANY,
    UNAUTHORIZED,
    Close,
    ErrorCode,
    Event,
    Outcome,
    Refusal,
    Refused,
)
from chatd.protocol import commands, events
from chatd.protocol.codec import encode
from chatd.settings import Settings
from chatd.socketio import (
    RECOVERABLE,
    Acknowledging,
    Lost,
    NotRecovered,
    Recovery,
    Server,
    Socket,
    Tunable,
    encode_event,
    make_block,
)
from chatd.socketio import Connection as SocketIoConnection
from chatd.socketio import Refused as NotLetIn
from chatd.wire.request import Refused as HttpRefused
from chatd.wire.request import Request

__all__ = ["PATH", "SocketIoCodec", "SocketIoGateway"]

PATH: Final = "/socket.io/"

_NAME_CHARACTERS: Final = 64
"""An answer quotes at most this much of an unknown event's name."""

_ERROR_CHARACTERS: Final = 200
"""An answer may quote the fields that it refuses: at most this much of them."""

_CLOSES: Final[dict[str, Close]] = {
    **{str(reason): close for reason, close in CLOSES.items()},
    # There was no DISCONNECT before it.
    "transport close": LOST,
    "transport error": LOST,
}
"""The close for each reason for which a session ends; NORMAL for all other reasons."""

_KEPT_HEADERS: Final = frozenset({"authorization", "cookie", "origin", "sec-fetch-site"})
"""What a client that leaves the namespace and comes back is admitted by."""

_REFUSALS: Final[dict[ErrorCode, Close]] = {
    "banned": BANNED,
    "rate_limited": TOO_MANY,
    "unavailable": GOING_AWAY,
}
"""The close for a client that was refused for this; UNAUTHORIZED for all other reasons."""


# msgspec writes the tag of a struct first.
_MESSAGE_HEAD: Final = b'{"on":"message",'


class SocketIoCodec:
    """Encodes events for all clients of one protocol revision.

    For revision 4 each event of the log has its offset as its last argument, which the client
    sends to be recovered.
    """

    def __init__(self, chat: Chat, revision: engineio.Revision) -> None:
        self._chat = chat
        self._revision: Final = revision
        self._recovers: Final = revision == 4 and chat.settings.engineio.recovery_seconds != "off"
        self.pages: Final = PageEncoder(self.encode)

    def encode(self, room: str, items: Sequence[Any]) -> Block:
        epoch = self._chat.journal.epoch
        messages: list[str | bytes] = []
        for item in items:
            offset: str | None = None
            event = item
            if isinstance(item, Event):
                event = events.shape(room, item)
                offset = live_offset(epoch, item.position)
            elif (seq := events.number(item)) is not None:
                offset = page_offset(epoch, seq)
            messages += self.packet(event, offset if self._recovers else None)
        return make_block(messages, self._revision)

    def packet(self, event: Any, offset: str | None = None) -> list[str | bytes]:
        """Return the messages of one event's packet, with its offset if it has one."""
        if isinstance(event, events.Message):
            # The second argument can be sent as it is to resume from there. It is encoded as it is
            # in `chatd.v1`: to make a dict of it first would take twice the time.
            epoch, about = self._chat.journal.epoch, encode(replace(event, text=None))
            about = b'{"epoch":%b,%b' % (encode(epoch), about.removeprefix(_MESSAGE_HEAD))
            args = [event.text or "", msgspec.Raw(about)]
            return encode_event("chat message", args, offset=offset)
        fields: dict[str, Any] = msgspec.to_builtins(event)
        name = fields.pop("on")
        if name == "typing":
            # As in the command. In the JSON of `chatd.v1` this name is taken by the event's own.
            fields["on"] = fields["active"]
        return encode_event(name, [fields], offset=offset)


def _tuning(settings: Settings) -> Tunable:
    """Return the options that the configuration sets."""
    options, by_address = settings.engineio, settings.limits.connections_per_address
    return {
        "ping_interval": options.ping_interval_seconds,
        "ping_timeout": options.ping_timeout_seconds,
        "upgrade_timeout": options.upgrade_timeout_seconds,
        "connect_timeout": options.connect_timeout_seconds,
        "max_payload": options.max_payload_bytes,
        "max_message": min(options.max_payload_bytes, settings.max_message_bytes),
        "max_sessions": settings.limits.sessions,
        "max_sessions_per_address": None if by_address == "off" else by_address,
        "send_queue_bytes": settings.limits.send_queue_bytes,
        # Behind the block under way, a page for example, no more is queued than for other clients.
        "max_send_queue_bytes": settings.limits.send_queue_bytes,
        "allow_eio3": options.allow_eio3,
    }


class Auth(msgspec.Struct):
    """The data from a client's ``auth``.

    Without ``join`` the client is in no room until it sends ``join`` itself. ``faults`` has a
    sentence for each value that cannot be used; such a value is ignored.
    """

    token: str | None = None
    nick: str | None = None
    room: str | None = None
    session: str | None = None
    since: commands.Position | None = None
    limit: int | None = None
    join: bool = True
    faults: list[str] = msgspec.field(default_factory=list)


class SocketIoGateway:
    """All clients that speak Socket.IO. ``io`` serves them.

    Args:
        chat: The chat.
        log: The operator's log.
        refuses: Returns why new clients are refused; None while they are accepted.
    """

    def __init__(self, chat: Chat, log: Log, refuses: Callable[[], str | None]) -> None:
        self._chat = chat
        self._log = log
        self._refuses = refuses
        self._clients: dict[Socket, _Client] = {}
        self._kept: dict[str, _Client] = {}
        """The clients whose state is kept while they are connected, by the names of the records."""
        self._codecs: Final[dict[engineio.Revision, SocketIoCodec]] = {
            4: SocketIoCodec(chat, 4),
            3: SocketIoCodec(chat, 3),
        }
        self._ids = count(1)
        self._clients_log = self._recovery_log()
        self.io = Server(
            path=PATH,
            **_tuning(chat.settings),
            max_values=JSON_VALUES,
            cors_origins=self._is_allowed,
            cors_credentials=True,
            allow_request=self._allow,
            recovery=self._recovery(),
            timers=chat.timers,
            log=log,
        )
        chat.relayed[TAKEN] = self._taken
        self.io.use(self._admit)
        self.io.on("connect", self._connect)
        self.io.on("disconnect", self._disconnect)
        self.io.on("chat message", self._chat_message, ack=True)
        for name, command in COMMANDS.items():
            self.io.on(name, partial(self._command, command, name), ack=True)
        self.io.on_unhandled(self._unknown, ack=True)

    def _recovery_log(self) -> ChatLog | None:
        seconds = self._chat.settings.engineio.recovery_seconds
        if seconds == "off":
            return None
        return ChatLog(self._chat, self._packet, seconds=seconds)

    def _recovery(self) -> Recovery | None:
        if self._clients_log is None:
            return None
        # A recovered client passes `_admit` too: its token may have expired, or its user be banned.
        return Recovery(skip_middleware=False, log=self._clients_log)

    def _packet(self, event: Event) -> list[str | bytes]:
        live = self._chat.rooms.get(event.room)
        return self._codecs[4].packet(events.shape(live.name if live else event.room, event))

    def apply(self) -> None:
        """Use the chat's current settings."""
        self.io.tune(**_tuning(self._chat.settings))

    def disown(self, user: str) -> list[str]:
        """Keep nothing more of a user's clients; return the secret ids by which they recover."""
        pids: list[str] = []
        for socket, client in self._clients.items():
            connection = client.connection
            if socket.pid is not None and connection.authenticated and connection.user.id == user:
                self._kept.pop(record_name(socket.pid), None)
                client.keeper = None
                pids.append(socket.pid)
        return pids

    def _taken(self, body: bytes) -> None:
        """End a client that has recovered at another daemon."""
        node, name = taken(body)
        journal = self._chat.journal
        if isinstance(journal, SharedJournal) and node != journal.node:
            client = self._kept.pop(name, None)
            if client is not None:
                client.hand_over()

    def farewell(self) -> None:
        """Send everyone ``bye`` and close their transports: they reconnect by themselves."""
        for client in self._clients.values():
            client.connection.notify(self._chat.bye(GOING_AWAY, ""))
        self.io.engine.end_all("server shutting down")

    # ---- admission

    def _is_allowed(self, request: Request) -> bool:
        return origin_refusal(request, self._chat.settings) is None

    async def _allow(self, request: Request) -> str | None:
        if refused := refuse_origin(request, self._chat.settings, self._log):
            raise HttpRefused(refused)
        await let_in(self._chat, self._refuses)
        return None

    # ---- connections

    async def _admit(self, socket: Socket) -> None:
        """Admit a client with a valid token, or with none: the chat decides what it may do."""
        auth = _given(socket)
        request = socket.handshake.request
        token = auth.token
        if token is None or self._chat.settings.auth.mode == "open":
            token = bearer(request, self._chat.settings)
        try:
            grant = await admitted(self._chat, request, token)
            if grant is None and socket.recovered and Whereabouts.of(socket.data) == NOBODY:
                raise Refused("unauthorized", "This session is not valid, or has expired.")
        except Refused as refused:
            why = refused.refusal
            self._log_refused(socket, why)
            data: dict[str, str | int] = {"code": why.code}
            if why.retry_ms is not None:
                data["retry_ms"] = why.retry_ms
            if socket.session.revision == 3:
                data["message"] = why.message  # these clients get only the data
            raise NotLetIn(why.message, data) from None
        if socket.recovered:
            where = Whereabouts.of(socket.data)
            if grant is not None:
                same = where.user == grant.user
            else:
                same = self._chat.allows_guests and is_guest(where.user)
                try:
                    self._chat.check_may_enter(where.user, request.peer.limit_key, None)
                except Refused:
                    same = False
            if not same:
                raise NotRecovered
        socket.data.update(auth=auth, grant=grant)

    def _log_refused(self, socket: Socket, why: Refusal) -> None:
        request = socket.handshake.request
        self._log.emit(
            "refused",
            address=request.peer.address,
            transport=socket.session.transport,
            protocol="socket.io",
            path=request.path,
            code=why.code,
            reason=why.message,
        )

    async def _connect(self, socket: Socket) -> None:
        session = socket.session
        auth: Auth = socket.data.pop("auth")
        grant: Grant | None = socket.data.pop("grant")
        # Clients choose its size, and it is not read again.
        socket.handshake.auth = {}
        request = socket.handshake.request
        request.headers = [each for each in request.headers if each[0] in _KEPT_HEADERS]
        limit_key = socket.handshake.request.peer.limit_key
        nick = None if socket.recovered else auth.nick
        login: Login | None
        try:
            if grant is not None:
                login = await self._chat.log_in(grant, limit_key, auth.nick)
            else:  # again, because operators may have acted since `_admit`
                self._chat.check_may_enter("", limit_key, None)
                login = await self._chat.new_guest(limit_key, nick, counted=not socket.recovered)
        except Refused as refused:
            self._log_refused(socket, refused.refusal)
            close = _REFUSALS.get(refused.refusal.code, UNAUTHORIZED)
            bye = msgspec.to_builtins(self._chat.bye(close, str(refused)))
            del bye["on"]
            socket.emit_nowait("bye", bye)
            if not close.reconnect:
                socket.disconnect()
            session.end("forced close", close, str(refused))
            return
        codec = self._codecs[session.revision]
        connection = Connection(
            self._chat,
            f"s{next(self._ids)}",
            session,
            codec,
            socket.start_soon,
            address=socket.handshake.address,
            limit_key=limit_key,
            last_key=lambda: session.peer.limit_key,
            transport=session.transport,
            protocol="socket.io",
            nick=nick,
            end=partial(self._end, socket),
            login=login,
            moved=partial(self._moved, socket),
        )
        client = self._clients[socket] = _Client(connection, socket, auth, codec)
        if isinstance(self._chat.journal, SharedJournal) and socket.pid is not None:
            client.keeper = self._clients_log
            self._kept[record_name(socket.pid)] = client
        if socket.recovered:
            await client.come_back(Whereabouts.of(socket.data))
        else:
            await client.begin()
        client.began()

    def _moved(self, socket: Socket) -> None:
        if (client := self._clients.get(socket)) is not None:
            client.moved()

    def _end(self, socket: Socket, close: Close, reason: str) -> None:
        client = self._clients.get(socket)
        if client is None or client.closing is not None:
            return
        client.closing = close, reason
        try:
            client.connection.notify(self._chat.bye(close, reason))
            if not close.reconnect:
                # A client that gets a DISCONNECT does not reconnect by itself.
                socket.disconnect()
        finally:
            socket.session.end("forced close", close, reason or None)

    async def _disconnect(self, socket: Socket, reason: str) -> None:
        if reason == "client namespace disconnect":
            # Its session, which answers pings, would stay without being in the chat.
            due = trio.current_time() + self._chat.settings.engineio.connect_timeout_seconds
            self._chat.timers.add(due, partial(_end_unjoined, socket.session))
        client = self._clients.pop(socket, None)
        if client is not None:
            keeper, client.keeper = client.keeper, None
            client.note()
            session = socket.session
            recovers = reason in RECOVERABLE
            close, reason = client.closing or (_CLOSES.get(reason, NORMAL), reason)
            client.connection.close(
                close,
                reason,
                Traffic(
                    bytes_in=session.received_bytes,
                    bytes_out=session.sent_bytes,
                    messages_in=session.received_messages,
                    messages_out=session.sent_messages,
                ),
            )
            if keeper is not None and socket.pid is not None:
                self._kept.pop(record_name(socket.pid), None)
                if not recovers:
                    await keeper.drop(socket.pid)

    # ---- commands: plain functions, because most commands have nothing to wait for

    def _chat_message(self, socket: Socket, *args: Any) -> Awaitable[None] | None:
        *given, ack = args
        client = self._clients.get(socket)
        if client is None:
            return None  # it was turned away
        match _without_trailing_nulls(given):
            case [text]:
                fields: Any = {"text": text}
            case [text, str(key)]:
                fields = {"text": text, "key": key}
            case [text, dict(options)]:
                fields = {**options, "text": text}
            case _:
                fields = None
        if isinstance(fields, dict) and fields.get("room") is None:
            fields["room"] = client.room
        return client.perform(commands.Say, "chat message", fields, ack)

    def _command(
        self, kind: type[commands.Command], name: str, socket: Socket, *args: Any
    ) -> Awaitable[None] | None:
        *given, ack = args
        client = self._clients.get(socket)
        if client is None:
            return None
        given = _without_trailing_nulls(given)
        return client.perform(kind, name, given[0] if given else {}, ack)

    def _unknown(self, socket: Socket, event: str, *args: Any) -> Awaitable[None] | None:
        *_, ack = args
        client = self._clients.get(socket)
        if client is None:
            return None
        return client.refuse("There is no such command.", event[:_NAME_CHARACTERS], ack)


class _Client:
    """One socket and its connection of the chat."""

    def __init__(
        self, connection: Connection, socket: Socket, auth: Auth, codec: SocketIoCodec
    ) -> None:
        self.connection = connection
        self.room = ""
        self._first: Membership | None = None
        self.closing: tuple[Close, str] | None = None
        """The close and the reason, if the chat closes it."""
        self.keeper: ChatLog | None = None
        """Keeps the client's state while it is connected; None if no other daemon needs it."""
        self._began = False
        self._keeping = False
        self._handed_over = False
        self._socket = socket
        self._auth = auth
        self._codec = codec

    async def begin(self) -> None:
        """Restore the client's session, if it has one, and join a room."""
        connection, session = self.connection, self._auth.session
        if connection.nick_notice is not None:
            connection.notify(events.Notice(connection.nick_notice))
        if session is not None and connection.grant is None:
            await self._perform(commands.Auth(session=session), "auth")
        if self.closing is not None:
            return
        if connection.authenticated and self._auth.join:
            await self._enter()
        else:
            self._hello({})
        self._tell_faults()

    def _tell_faults(self) -> None:
        for fault in self._auth.faults:
            self.connection.notify(events.Notice(fault, "connect", "bad_request"))

    async def _enter(self) -> None:
        """Join the room that the client asked for, or else the default room."""
        connection, auth = self.connection, self._auth
        default_room = connection.chat.settings.chat.default_room
        backlog = connection.chat.settings.chat.backlog
        limit = backlog if auth.limit is None else auth.limit
        wanted = auth.room or default_room
        for room in dict.fromkeys((wanted, default_room)):
            # The client's position is one in the room that it asked for.
            since = auth.since if room == wanted else None
            command = commands.Join(room=room, since=since, limit=limit, messages=True)
            if await self._join_first(command) or self.closing is not None:
                return
        self._hello({})

    async def come_back(self, where: Whereabouts) -> None:
        """Restore a recovered client's user and rooms. It has been sent what it missed."""
        chat = self.connection.chat
        if where.is_lost(chat.journal):  # before this connection could be closed for it
            self.connection.end(GOING_AWAY, LOST_MESSAGES)
            return
        if self.connection.grant is None:
            session = chat.users.session_of(where.user)
            await self._perform(commands.Auth(session=session), "auth")
        # The room where it began comes first, and direct messages last.
        for key in sorted(where.rooms, key=lambda room: (room != where.room, room.startswith("@"))):
            if self.closing is not None:
                return
            since = commands.Position(where.epoch, where.seqs[key])
            command = commands.Join(room=key, since=since, limit=0)
            if self.room or key.startswith("@"):
                await self._perform(command, "join")
            else:
                await self._join_first(command)
        if not self.room and self.closing is None:
            self._hello({})
        self._tell_faults()

    def note(self, *, settled: bool = True) -> None:
        """Put the client's state where a recovery finds it."""
        if self._first is not None and not self._handed_over:
            data = self._socket.data
            Whereabouts.note(self.connection, self._first, data, settled=settled)

    def hand_over(self) -> None:
        """End here: the client has recovered at another daemon."""
        self.keeper = None
        self._handed_over = True
        Whereabouts.forget(self._socket.data)
        self._socket.supersede()

    # ---- for a recovery at another daemon

    def began(self) -> None:
        """Keep the client's state from now on: it is in its first rooms."""
        self._began = True
        self.moved()

    def moved(self) -> None:
        """Keep the client's state, once for all changes of this moment."""
        if self._began and not self._keeping and self.keeper is not None and self.closing is None:
            self._keeping = True
            self._socket.start_soon(self._keep_soon)

    async def _keep_soon(self) -> None:
        self._keeping = False
        await self._keep()

    async def _keep(self, *, settled: bool = True) -> Outcome:
        """Keep the client's state. Return when that is committed, or a refusal."""
        socket = self._socket
        if self.keeper is None or self._first is None or socket.pid is None:
            return None
        self.note(settled=settled)
        return await self.keeper.keep(Lost(socket.pid, socket.id, [], socket.data, socket.offset))

    async def _move(self, command: commands.Join | commands.Leave, answer: SendAnswer) -> None:
        """Join or leave a room.

        The client is told only when its record no longer says that it is in its former rooms.
        """
        refused = await self._keep(settled=False)
        if isinstance(refused, Refusal):
            answer(refused)
            return
        try:
            pending = perform(self.connection, command, answer)
            if pending is not None:
                await pending
        finally:
            self.moved()

    async def _join_first(self, command: commands.Join) -> bool:
        """Join the client's first room and send ``hello``. Return whether that worked."""
        try:
            reply = await enter(self.connection, command)
        except Refused as refused:
            self._admitted("join")(refused.refusal)
            return False
        self._greet(reply.answer, command.since)
        reply.then()
        return True

    def _greet(self, answer: commands.Entered, since: commands.Position | None) -> None:
        self.room = answer.room
        self._first = self.connection.membership(answer.room)
        seq = since.seq if since is not None and answer.recovered else answer.seq
        if answer.events and (first := events.number(answer.events[0])) is not None:
            seq = first - 1
        if not self._socket.recovered:
            # A client that loses what follows is recovered from before it.
            self._socket.offset = page_offset(answer.epoch, seq)
        self._hello({"joined": replace(answer, events=[])})
        connection = self.connection
        block = encode_answer(answer, self._page, connection.log)
        if block:
            connection.outbox.offer(block, len(answer.events))

    def _page(self, answer: commands.Entered) -> Block:
        # Messages have their current text, so changes are only sent to a client that resumes.
        shown = [
            event
            for event in answer.events
            if answer.recovered or isinstance(event, events.Message)
        ]
        return self._codec.pages.encode("", shown, self.connection.chat.journal.epoch)

    def _hello(self, joined: dict[str, Any]) -> None:
        hello = {**msgspec.to_builtins(self.connection.hello()), **joined}
        del hello["on"]
        # It may list 100 members, so it is not walked through in search of bytes.
        self._socket.emit_nowait("hello", msgspec.Raw(encode(hello)))

    def perform(
        self, kind: type[commands.Command], name: str, fields: Any, ack: Acknowledging
    ) -> Awaitable[None] | None:
        """Carry out a command, whose fields have not been checked.

        Return what must be awaited before the next one; None if nothing.
        """
        try:
            command = msgspec.convert(fields, kind)
        except msgspec.ValidationError as error:
            why = str(error)[:_ERROR_CHARACTERS]
            return self.refuse(f"This is not a {name}: {why}.", name, ack)
        answer = self._answered(name, ack)
        if self.keeper is not None and isinstance(command, commands.Join | commands.Leave):
            return self._move(command, answer)
        pending = perform(self.connection, command, answer, quiet=not ack.wanted)
        if pending is not None and not self.connection.authenticated:
            return self._authenticate(pending)
        return pending

    async def _authenticate(self, pending: Awaitable[None]) -> None:
        """Await a command of a client that has no user yet; if it has one then, let it join."""
        await pending
        if self.connection.authenticated and self._auth.join:
            await self._enter()

    async def _perform(self, command: commands.Command, name: str) -> None:
        """Carry out a command that is a part of the client's admission."""
        pending = perform(self.connection, command, self._admitted(name))
        if pending is not None:
            await pending

    async def refuse(self, why: str, name: str, ack: Acknowledging) -> None:
        """Answer an event that is not a command."""
        refusal = Refusal("bad_request", why)
        self._answered(name, ack)(refusal)
        if seconds := self.connection.refused(refusal, "unknown"):
            await trio.sleep(seconds)

    def _answered(self, name: str, ack: Acknowledging) -> SendAnswer:
        if ack.wanted:
            return partial(_acknowledge, ack, self.connection.log)
        return self._noticed(name)

    def _admitted(self, name: str) -> SendAnswer:
        noticed = self._noticed(name)

        def answered(answer: commands.Result | Refusal) -> None:
            noticed(answer)
            if isinstance(answer, Refusal) and answer.code == "unavailable":
                # As another guest, or without a room, it would not be what it was. It comes back.
                self.connection.end(GOING_AWAY, answer.message)

        return answered

    def _noticed(self, name: str) -> SendAnswer:
        def answered(answer: commands.Result | Refusal) -> None:
            if isinstance(answer, Refusal):
                notice = events.Notice(answer.message, name, answer.code, answer.retry_ms)
                self.connection.notify(notice)

        return answered


def _acknowledge(ack: Acknowledging, log: Log, answer: commands.Result | Refusal) -> None:
    if isinstance(answer, Refusal):
        ack({"error": msgspec.to_builtins(answer)})
        return

    ack(encode_answer(answer, _ok, log))


def _ok(answer: commands.Result) -> msgspec.Raw:
    return msgspec.Raw(encode({"ok": answer}))


def _without_trailing_nulls(args: list[Any]) -> list[Any]:
    """Return the arguments without those that the client left out: JavaScript sends null."""
    while args and args[-1] is None:
        args = args[:-1]
    return args


def _end_unjoined(session: engineio.Session, _now: float) -> None:
    """End a session that is not in the chat any more."""
    connection = session.receiver
    if isinstance(connection, SocketIoConnection) and not connection.sockets:
        connection.end("forced close")


def _given(socket: Socket) -> Auth:
    """Return what a client sent when it connected."""
    given = socket.handshake.auth
    if socket.session.revision == 3:
        # These clients only have the query, and a URL is no place for a secret.
        query = socket.handshake.query
        given = {name: query[name] for name in _IN_QUERIES if name in query}
    auth = Auth()
    for name, (field, read, wanted) in _READERS.items():
        value = given.get(name)
        if value is None or (name in _POSITIONS and value in _NO_POSITION):
            continue
        try:
            setattr(auth, field, read(value))
        except (ValueError, RecursionError):
            auth.faults.append(f"{name} must be {wanted}. It is ignored.")
    return auth


def _read_text(value: Any) -> str:  # a client's
    return msgspec.convert(value, str)


# Some clients have only strings for numbers and objects: those in Java, and all in a query.


def _read_number(value: Any) -> int:  # a client's
    return msgspec.convert(value, int, strict=False)


def _read_flag(value: Any) -> bool:  # a client's
    return msgspec.convert(value, bool, strict=False)


def _read_position(value: Any) -> commands.Position:  # a client's
    if isinstance(value, str):
        return msgspec.json.decode(value, type=commands.Position, strict=False)
    return msgspec.convert(value, commands.Position, strict=False)


_POSITIONS: Final = ("serverOffset", "since")
# What clients of the tutorial send until they have a position.
_NO_POSITION: Final = (0, "0", "", "null", "undefined")
_POSITION: Final = 'a position, such as {"epoch": "5f3a", "seq": 42}'

_READERS: Final[dict[str, tuple[str, Callable[[Any], Any], str]]] = {
    **{name: (name, _read_text, "a text") for name in ("token", "nick", "room", "session")},
    "limit": ("limit", _read_number, "a whole number, such as 20"),
    "join": ("join", _read_flag, "true or false"),
    # The last one counts.
    **dict.fromkeys(_POSITIONS, ("since", _read_position, _POSITION)),
}
"""For each name in ``auth``: its field in `Auth`, what reads its value, and what that is."""

_IN_QUERIES: Final = ("nick", "room", "limit", *_POSITIONS)
