"""What can be asked and done over the admin socket: a table, and a function for each.

A function takes the daemon and its own arguments; it gives an answer or a ``Failure``. Arguments
come as a JSON object (POST) or in the query (GET).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

import trio
from msgspec import Struct

from chatd import __version__
from chatd.admin import answers
from chatd.admin.answers import Failure
from chatd.admin.control import Control
from chatd.admin.moderation import Person, Place, Slow, bans, moderate
from chatd.admin.transfer import forget
from chatd.chat.direct import DIRECT
from chatd.chat.names import room_name
from chatd.logs import Level
from chatd.model import KICKED, Refused
from chatd.protocol import commands
from chatd.protocol.commands import Member
from chatd.protocol.events import rfc3339

__all__ = ["ENDPOINTS", "Endpoint", "Nothing"]

GONE_SECONDS: Final = 0.05
"""Between two looks whether who was sent away has gone, which has a deadline of its own."""

ROWS: Final = 256
"""Rows that are made between two turns of the others: some 1 ms of work."""

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class Who(Struct, frozen=True, forbid_unknown_fields=True):
    room: str | None = None


class Announce(Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    room: str | None = None


class Forgotten(Struct, frozen=True, forbid_unknown_fields=True):
    user: str


class LogLevel(Struct, frozen=True, forbid_unknown_fields=True):
    level: Level


class Endpoint(Struct, frozen=True):
    """One of them: its method, its arguments, what it does."""

    method: Literal["GET", "POST"]
    arguments: type[Struct]
    act: Callable[[Control, Any], Awaitable[Struct]]


async def status(control: Control, _: Nothing) -> answers.Status:
    chat, log = control.chat, control.log.output.statistics()
    counts, http = chat.statistics(), control.http()
    state = "ready" if control.ready else "unavailable"
    return answers.Status(
        version=__version__,
        pid=os.getpid(),
        uptime_seconds=round(trio.current_time() - control.began, 3),
        state="draining" if control.draining else state,
        clients=sum(counts.connections.values()),
        users=counts.users,
        rooms=counts.rooms,
        by_kind=[
            answers.Count(transport, protocol, number)
            for (transport, protocol), number in sorted(counts.connections.items())
        ],
        http_connections=http.open,
        certificate_expires=(
            rfc3339(int(http.expires * 1000)) if http.expires < math.inf else None
        ),
        queue_bytes=counts.waiting,
        store=chat.journal.statistics(),
        epoch=chat.journal.epoch,
        bus=chat.bus.statistics(),
        reload=control.reloads,
        log=answers.LogState(control.log.output.level, log.lines, log.dropped, log.waiting_bytes),
    )


async def rooms(control: Control, _: Nothing) -> answers.Rooms:
    return answers.Rooms([entry for _, entry in await control.chat.rooms.entries()])


async def who(control: Control, arguments: Who) -> answers.Members | Failure:
    chat = control.chat
    if arguments.room is None:
        present = {client.user for client in chat.connections if client.known}
        members = [Member(user.nick.shown, user.id, user.op) for user in present]
        return answers.Members(None, sorted(members, key=lambda member: member.nick))
    try:
        name = room_name(arguments.room)
    except Refused as refused:
        return Failure(400, refused.refusal.code, refused.refusal.message)
    room = chat.rooms.get(name.fold)
    if room is None:
        return answers.Members(name.shown, [])
    return answers.Members(room.name, room.member_list(limit=len(room.members)))


async def connections(control: Control, _: Nothing) -> answers.Connections:
    rows: list[answers.ConnectionEntry] = []
    now, clock = control.now(), trio.current_time()
    for client in list(control.chat.connections):
        rows.append(
            answers.ConnectionEntry(
                id=client.id,
                user=client.user.id if client.known else None,
                nick=client.user.nick.shown if client.known else None,
                address=client.address,
                transport=client.transport,
                protocol=client.protocol,
                since=rfc3339(now - round((clock - client.opened) * 1000)),
                # Who talks to whom is nobody's business.
                rooms=sorted(
                    place.room.name
                    for place in client.memberships.values()
                    if not place.room.direct
                ),
                queue_bytes=client.outbox.waiting,
            )
        )
        if len(rows) % ROWS == 0:
            await trio.lowlevel.checkpoint()
    return answers.Connections(sorted(rows, key=lambda row: (row.since, row.id)))


async def announce(control: Control, arguments: Announce) -> answers.Announced | Failure:
    chat, text = control.chat, arguments.text.replace("\r\n", "\n").strip()
    size, most = len(text.encode()), chat.settings.limits.message_bytes
    if not text or _CONTROLS.search(text):
        return Failure(400, "bad_request", "a text is not empty and has no control characters")
    if size > most:
        return Failure(413, "too_large", f"a text has {most} bytes at most")
    fold = None
    if arguments.room is not None:
        try:
            name = room_name(arguments.room)
        except Refused as refused:
            return Failure(400, refused.refusal.code, refused.refusal.message)
        fold = name.fold
        if chat.rooms.get(fold) is None:
            return Failure(404, "not_found", f"nobody is in {name.shown}")
    receivers = await chat.announce(text, fold)
    control.log.emit("announce", room=arguments.room, receivers=receivers, bytes=size)
    return answers.Announced(receivers)


async def log_level(control: Control, _: Nothing) -> answers.LogLevel:
    return answers.LogLevel(control.log.output.level)


async def set_log_level(control: Control, arguments: LogLevel) -> answers.LogLevel:
    log = control.log
    # Said at whichever level hears it, the one before or the one from now on.
    if log.enabled("loglevel"):
        log.emit("loglevel", state=arguments.level)
        log.output.level = arguments.level
    else:
        log.output.level = arguments.level
        log.emit("loglevel", state=arguments.level)
    return answers.LogLevel(log.output.level)


async def forget_user(control: Control, arguments: Forgotten) -> answers.Nothing | Failure:
    """Remove what a user said and what is kept of them; who is here is sent away first."""
    chat, user = control.chat, arguments.user
    here = [client for client in chat.connections if client.known and client.user.id == user]
    known = here or await chat.journal.user(user) or await chat.journal.records(DIRECT, f"{user}\0")
    if not known and not (await chat.journal.entries_of(user, 0))[0]:
        return Failure(404, "not_found", "there is no such user")
    for client in here:
        client.end(KICKED, "you are forgotten, as was asked for")
    while chat.connections.intersection(here):  # noqa: ASYNC110  each has a deadline of its own
        await trio.sleep(GONE_SECONDS)
    chat.users.erase(user)
    refusal = await forget(chat.journal, user, chat.bus.commit)
    chat.bus.drop_tails()
    control.log.emit("forget", target=user)
    if refusal is not None:
        return Failure(503, refusal.code, refusal.message)
    return answers.Nothing()


async def reload(control: Control, _: Nothing) -> answers.Reloaded | Failure:
    if control.draining:
        return Failure(503, "draining", "the daemon ends")
    result = await control.reload()
    if isinstance(result, answers.Reloaded):
        return result
    message = "the configuration has faults; the one in force stays"
    return Failure(422, "faulty", message, result.faults)


async def drain(control: Control, _: Nothing) -> answers.Draining:
    return control.drain()


ENDPOINTS: Final[Mapping[str, tuple[Endpoint, ...]]] = {
    "/status": (Endpoint("GET", Nothing, status),),
    "/rooms": (Endpoint("GET", Nothing, rooms),),
    "/who": (Endpoint("GET", Who, who),),
    "/connections": (Endpoint("GET", Nothing, connections),),
    "/announce": (Endpoint("POST", Announce, announce),),
    "/loglevel": (Endpoint("GET", Nothing, log_level), Endpoint("POST", LogLevel, set_log_level)),
    "/kick": (Endpoint("POST", Person, moderate(commands.Kick)),),
    "/ban": (Endpoint("POST", Person, moderate(commands.Ban)),),
    "/unban": (Endpoint("POST", Person, moderate(commands.Unban)),),
    "/bans": (Endpoint("GET", Nothing, bans),),
    "/mute": (Endpoint("POST", Person, moderate(commands.Mute)),),
    "/unmute": (Endpoint("POST", Person, moderate(commands.Unmute)),),
    "/slow": (Endpoint("POST", Slow, moderate(commands.Slow)),),
    "/close": (Endpoint("POST", Place, moderate(commands.Close)),),
    "/forget": (Endpoint("POST", Forgotten, forget_user),),
    "/reload": (Endpoint("POST", Nothing, reload),),
    "/drain": (Endpoint("POST", Nothing, drain),),
}
"""Every endpoint there is, by its path. ``admin.routes`` serves it, ``cli.ctl`` asks it."""
