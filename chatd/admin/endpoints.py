"""The endpoints of the admin socket: a table, and a function for each.

A function takes the daemon and its own arguments, which come as a JSON object (POST) or in the
query (GET). It returns the answer, or raises AdminError, or Refused where the chat refuses.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, Literal

import trio
from msgspec import Meta, Struct
from msgspec.structs import asdict

from chatd import __version__
from chatd.admin import answers
from chatd.admin.control import DaemonControl
from chatd.admin.errors import AdminError
from chatd.admin.moderation import (
    RemovalArguments,
    RoomArguments,
    SlowArguments,
    UserArguments,
    bans,
    moderate,
)
from chatd.admin.transfer import bar, forget, is_known
from chatd.chat.acts import Dismiss, Tell
from chatd.chat.names import room_name
from chatd.chat.users import DAY_SECONDS
from chatd.journal.engine import Node
from chatd.journal.shared import SharedJournal
from chatd.logs import Level
from chatd.nodes import facts_of
from chatd.protocol import commands
from chatd.protocol.commands import Member
from chatd.protocol.events import rfc3339
from chatd.reload import Reloaded
from chatd.settings import SettingsError

__all__ = ["ENDPOINTS", "Endpoint", "NoArguments"]

ROWS: Final = 256
"""Rows made between two checkpoints: about 1 ms of work."""

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class NoArguments(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class WhoArguments(Struct, frozen=True, forbid_unknown_fields=True):
    room: str | None = None


class AnnounceArguments(Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    room: str | None = None


class ForgetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    user: str


class TokenArguments(Struct, frozen=True, forbid_unknown_fields=True):
    user: str
    seconds: Annotated[int, Meta(ge=1, le=10**9)]
    rooms: list[str] | None = None
    read: list[str] = []
    op: bool = False
    nick: str | None = None


class LogLevelArguments(Struct, frozen=True, forbid_unknown_fields=True):
    level: Level


class ClockArguments(Struct, frozen=True, forbid_unknown_fields=True):
    action: Literal["confirm"]


class Endpoint(Struct, frozen=True):
    """A method of a path: the type of its arguments, and its handler."""

    method: Literal["GET", "POST"]
    arguments: type[Struct]
    act: Callable[[DaemonControl, Any], Awaitable[Struct]]


async def status(control: DaemonControl, _: NoArguments) -> answers.Status:
    chat, log = control.chat, control.log.output.statistics()
    counts, http, bus = chat.statistics(), control.http(), chat.bus.statistics()
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
        store=answers.StoreState(
            **asdict(chat.journal.statistics()),
            waiting_blocks=bus.waiting_blocks,
            problem=control.store_problem,
        ),
        epoch=chat.journal.epoch,
        bus=bus,
        reload=control.reloads,
        log=answers.LogState(control.log.output.level, log.lines, log.dropped, log.waiting_bytes),
    )


async def rooms(control: DaemonControl, _: NoArguments) -> answers.Rooms:
    return answers.Rooms([entry for _, entry in await control.chat.rooms.infos()])


async def who(control: DaemonControl, arguments: WhoArguments) -> answers.Members:
    chat = control.chat
    if arguments.room is None:
        found: dict[str, Member] = {}
        for key in await chat.roster.occupied():
            found |= {member.user: member for member in await chat.roster.members(key)}
        present = {client.user for client in chat.connections if client.authenticated}
        for each in chat.rooms:
            present.update(user for user in each.members if not each.has_here(user))
        found |= {user.id: Member(user.nick.display, user.id, user.op) for user in present}
        return answers.Members(None, sorted(found.values(), key=lambda member: member.nick))
    name = room_name(arguments.room)
    room = chat.rooms.get(name.key)
    if room is None:
        if not await chat.rooms.exists(name):
            raise AdminError(404, "not_found", f"There is no room named {name.display}.")
        return answers.Members(name.display, await chat.roster.members(name.key))
    return answers.Members(room.name, room.member_list(limit=len(room.members)))


async def connections(control: DaemonControl, _: NoArguments) -> answers.Connections:
    rows: list[answers.ConnectionEntry] = []
    now, clock = control.chat.now(), trio.current_time()
    for client in list(control.chat.connections):
        rows.append(
            answers.ConnectionEntry(
                id=client.id,
                user=client.user.id if client.authenticated else None,
                nick=client.user.nick.display if client.authenticated else None,
                address=client.address,
                transport=client.transport,
                protocol=client.protocol,
                since=rfc3339(now - round((clock - client.opened) * 1000)),
                # Not the direct messages: who talks to whom is private.
                rooms=sorted(
                    membership.room.name
                    for membership in client.memberships.values()
                    if not membership.room.direct
                ),
                queue_bytes=client.outbox.waiting,
            )
        )
        if len(rows) % ROWS == 0:
            await trio.lowlevel.checkpoint()
    return answers.Connections(sorted(rows, key=lambda row: (row.since, row.id)))


async def announce(control: DaemonControl, arguments: AnnounceArguments) -> answers.Announced:
    chat, text = control.chat, arguments.text.replace("\r\n", "\n").strip()
    size, most = len(text.encode()), chat.settings.limits.message_bytes
    if not text or _CONTROLS.search(text):
        message = "The text must not be empty or contain control characters."
        raise AdminError(400, "bad_request", message)
    if size > most:
        raise AdminError(413, "too_large", f"The text can have at most {most} bytes.")
    room = ""
    if arguments.room is not None:
        name = room_name(arguments.room)
        room = name.key
        if not await chat.roster.is_occupied(room):
            raise AdminError(404, "not_found", f"{name.display} has no members.")
    receivers = sum(not room or room in each.memberships for each in chat.connections)
    await chat.roster.act(Tell(text, room))
    control.log.emit("announce", room=arguments.room, receivers=receivers, bytes=size)
    return answers.Announced(receivers)


async def log_level(control: DaemonControl, _: NoArguments) -> answers.LogLevel:
    return answers.LogLevel(control.log.output.level)


async def set_log_level(control: DaemonControl, arguments: LogLevelArguments) -> answers.LogLevel:
    log = control.log
    # Logged at whichever level writes it, the old one or the new one.
    if log.output.enabled["loglevel"]:
        log.emit("loglevel", state=arguments.level)
        log.output.level = arguments.level
    else:
        log.output.level = arguments.level
        log.emit("loglevel", state=arguments.level)
    return answers.LogLevel(log.output.level)


async def clock(control: DaemonControl, _: NoArguments) -> answers.Clock:
    chat = control.chat
    ends_by = chat.journal.steady_now()
    jump = chat.journal.statistics().clock_jump_seconds
    return answers.Clock(rfc3339(chat.now()), rfc3339(ends_by), jump)


async def confirm_clock(control: DaemonControl, _: ClockArguments) -> answers.Clock:
    control.chat.bus.confirm_clock()
    return await clock(control, NoArguments())


async def forget_user(control: DaemonControl, arguments: ForgetArguments) -> answers.Done:
    """Remove a user's messages and records, after disconnecting the user."""
    chat, user, ask = control.chat, arguments.user, control.chat.bus.submit_and_wait
    if chat.users.get(user) is None and not await is_known(chat.journal, user):
        raise AdminError(404, "not_found", f"There is no user {user}.")
    last = chat.journal.steady_now() + chat.settings.auth.session_days * DAY_SECONDS * 1000
    await bar(chat.journal, user, ask, until=last)
    await control.forget_clients(user)
    here = {each for each in chat.connections if each.authenticated and each.user.id == user}
    await chat.roster.act(Dismiss(user))
    while here & chat.connections:  # each has its own deadline
        await chat.disconnected.wait()
    try:
        await forget(chat.journal, user, ask)
        await chat.sanctions.load(chat.journal, chat.damage)
    finally:
        chat.bus.drop_tails()
        control.log.emit("forget", target=user)
    return answers.Done()


async def nodes(control: DaemonControl, _: NoArguments) -> answers.Nodes:
    """List the daemons that share the store."""
    journal = control.chat.journal
    if not isinstance(journal, SharedJournal):
        raise AdminError(404, "not_found", "This daemon has a store of its own, and is alone.")
    return answers.Nodes([_node_entry(journal, node) for node in await journal.nodes()])


def _node_entry(journal: SharedJournal, node: Node) -> answers.NodeEntry:
    here = node.node == journal.node
    lease_seconds = round((node.lease_until - journal.steady_now()) / 1000, 1)
    if (facts := facts_of(node.facts)) is None:
        return answers.NodeEntry(node.node, here, lease_seconds)
    return answers.NodeEntry(
        node.node,
        here,
        lease_seconds,
        facts.version,
        facts.host,
        facts.clients,
        facts.lag,
        facts.epoch,
        facts.lost_positions,
        None if facts.clock_ms is None else facts.clock_ms / 1000,
        None if facts.proof_ms is None else facts.proof_ms / 1000,
    )


async def reindex(control: DaemonControl, _: NoArguments) -> answers.Done:
    """Make the index of words again, in the background."""
    control.chat.bus.reindex()
    return answers.Done()


async def token(control: DaemonControl, arguments: TokenArguments) -> answers.Token:
    """Issue a token, signed with the first private key."""
    chat = control.chat
    if chat.settings.auth.mode == "open":
        raise AdminError(
            403,
            "forbidden",
            "The daemon takes no tokens. `chatd token --new-key --output FILE` makes a key and says"
            " how to use it.",
        )
    issued = chat.keys.issue(
        arguments.user,
        now=chat.now(),
        seconds=arguments.seconds,
        rooms=arguments.rooms,
        read=arguments.read,
        op=arguments.op,
        nick=arguments.nick,
        expected=chat.settings.auth,
    )
    control.log.emit(
        "token",
        target=arguments.user,
        seconds=arguments.seconds,
        detail="an operator's" if arguments.op else None,
    )
    return answers.Token(issued)


async def reload(control: DaemonControl, _: NoArguments) -> Reloaded:
    if control.draining:
        raise AdminError(503, "draining", "The daemon is stopping.")
    try:
        return await control.reload()
    except SettingsError as error:
        message = "The configuration has errors and was not applied."
        raise AdminError(422, "faulty", message, error.faults) from error


async def drain(control: DaemonControl, _: NoArguments) -> answers.Draining:
    return control.drain()


ENDPOINTS: Final[Mapping[str, tuple[Endpoint, ...]]] = {
    "/status": (Endpoint("GET", NoArguments, status),),
    "/rooms": (Endpoint("GET", NoArguments, rooms),),
    "/who": (Endpoint("GET", WhoArguments, who),),
    "/connections": (Endpoint("GET", NoArguments, connections),),
    "/announce": (Endpoint("POST", AnnounceArguments, announce),),
    "/loglevel": (
        Endpoint("GET", NoArguments, log_level),
        Endpoint("POST", LogLevelArguments, set_log_level),
    ),
    "/clock": (
        Endpoint("GET", NoArguments, clock),
        Endpoint("POST", ClockArguments, confirm_clock),
    ),
    "/kick": (Endpoint("POST", UserArguments, moderate(commands.Kick)),),
    "/ban": (Endpoint("POST", UserArguments, moderate(commands.Ban)),),
    "/unban": (Endpoint("POST", UserArguments, moderate(commands.Unban)),),
    "/bans": (Endpoint("GET", NoArguments, bans),),
    "/mute": (Endpoint("POST", UserArguments, moderate(commands.Mute)),),
    "/unmute": (Endpoint("POST", UserArguments, moderate(commands.Unmute)),),
    "/slow": (Endpoint("POST", SlowArguments, moderate(commands.Slow)),),
    "/close": (Endpoint("POST", RoomArguments, moderate(commands.Close)),),
    "/remove": (Endpoint("POST", RemovalArguments, moderate(commands.Remove)),),
    "/nodes": (Endpoint("GET", NoArguments, nodes),),
    "/reindex": (Endpoint("POST", NoArguments, reindex),),
    "/forget": (Endpoint("POST", ForgetArguments, forget_user),),
    "/token": (Endpoint("POST", TokenArguments, token),),
    "/reload": (Endpoint("POST", NoArguments, reload),),
    "/drain": (Endpoint("POST", NoArguments, drain),),
}
"""Every endpoint by its path: served by ``admin.routes``, requested by ``cli.ctl``."""
