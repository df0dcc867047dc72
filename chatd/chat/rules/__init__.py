"""The rule of each command: its permissions, its effect and its answer.

A rule returns a `Reply`, or a `Commit` whose outcome is the answer, or raises Refused. A command
about a room that the connection is in has a plain function, which gets the membership; any other
command may have to wait, and has a coroutine function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import trio

from chatd.budgets import PAGE, SEARCH
from chatd.chat.actor import Actor
from chatd.chat.connection import Connection
from chatd.chat.direct import require_membership
from chatd.chat.membership import Membership
from chatd.chat.replies import Commit, Reply, SendAnswer
from chatd.chat.rules import history, identity, messages, moderation, presence, rooms, visits
from chatd.chat.visitor import Visitor
from chatd.journal import Unavailable
from chatd.model import Refusal, Refused
from chatd.protocol import commands

__all__ = ["COMMANDS", "enter", "perform", "visit"]

Response: TypeAlias = Reply[Any] | Commit

IN_ROOM: Final[dict[type[commands.Command], Callable[[Connection, Any, Membership], Response]]] = {
    commands.Say: messages.say,
    commands.Edit: messages.edit,
    commands.Delete: messages.delete,
    commands.Topic: messages.topic,
    commands.Typing: presence.typing,
}
"""The rules of commands about a room that the connection must be in."""

ELSEWHERE: Final[dict[type[commands.Command], Callable[[Connection, Any], Awaitable[Response]]]] = {
    commands.Auth: identity.auth,
    commands.Nick: identity.nick,
    commands.Join: rooms.join,
    commands.Leave: rooms.leave,
    commands.Who: rooms.who,
    commands.Rooms: rooms.list_rooms,
    commands.History: history.history,
    commands.Search: history.search,
    commands.Read: presence.read,
    commands.Kick: moderation.moderate,
    commands.Ban: moderation.moderate,
    commands.Unban: moderation.moderate,
    commands.Mute: moderation.moderate,
    commands.Unmute: moderation.moderate,
    commands.Slow: moderation.moderate,
    commands.Close: moderation.moderate,
    commands.Remove: moderation.moderate,
    commands.Bans: moderation.bans,
}
"""The rules of all other commands."""

VISITING: Final[dict[type[commands.Command], Callable[[Visitor, Any], Awaitable[Any]]]] = {
    commands.Say: visits.say,
    commands.Join: visits.read,
    commands.Rooms: visits.list_rooms,
}
"""The rules for a client that is there for a single request."""

COMMANDS: Final[dict[str, type[commands.Command]]] = {
    str(command.__struct_config__.tag): command for command in (*IN_ROOM, *ELSEWHERE)
}
"""Every command, by its name."""

_NAMES: Final = {command: name for name, command in COMMANDS.items()}

PAGED: Final = frozenset(
    {
        commands.Auth,
        commands.Join,
        commands.History,
        commands.Search,
        commands.Who,
        commands.Rooms,
        commands.Bans,
    }
)
"""Commands that read the store or a long list, which ``limits.requests_per_second`` bounds."""


def perform(
    connection: Connection,
    command: commands.Command,
    answer: SendAnswer,
    *,
    quiet: bool = False,
) -> Awaitable[None] | None:
    """Carry out one command of a connection.

    Args:
        connection: The connection.
        command: The command.
        answer: Called with the answer or the refusal, now or once the command is committed.
        quiet: Whether the client wants no answer but a refusal. No other answer is then made.

    Returns:
        None if the connection's next command may be performed at once, as after a ``say``.
        Otherwise what must be awaited first. It raises nothing for what a client may send.
    """
    membership = (
        connection.membership(command.room) if isinstance(command, commands.InRoom) else None
    )
    if membership is None:
        return _perform(connection, command, answer, quiet=quiet)
    kind = type(command)
    name = _NAMES[kind]
    connection.chat.commands[name] += 1
    try:
        result = IN_ROOM[kind](connection, command, membership)
    except Refused as refused:
        answer(refused.refusal)
        seconds = connection.refused(refused.refusal, name, membership.room.name)
        return _pause(seconds) if seconds else None
    if isinstance(result, Commit):
        return connection.publish(result, name, answer, quiet=quiet)
    _reply(result, answer, quiet=quiet)
    return None


async def enter(
    connection: Connection, command: commands.Join, *, members: bool = True
) -> Reply[commands.Entered]:
    """Join a room, and return the reply for the caller to send.

    For gateways that have more to send between the answer and the first event. The caller calls
    the reply's ``then`` after that, without a checkpoint. Without ``members`` the list of the
    room's members is left out.

    Raises:
        Refused: as `perform` would answer.
    """
    try:
        with _counted(connection, command):
            return await rooms.join(connection, command, members=members)
    except Refused as refused:
        connection.refused(refused.refusal, _NAMES[commands.Join], command.room)
        raise


async def visit(visitor: Visitor, command: commands.Say | commands.Join | commands.Rooms) -> Any:
    """Carry out the only command of a client that stays in no room, and return its answer.

    ``join`` reads a page and enters nothing.

    Raises:
        Refused: the command is refused.
    """
    try:
        with _counted(visitor, command):
            answer = await VISITING[type(command)](visitor, command)
    except Refused as refused:
        visitor.refused(refused.refusal, _NAMES[type(command)], _room(command))
        raise
    if isinstance(answer, Refusal):  # by the store, and counted by the bus
        raise Refused(answer.code, answer.message, answer.retry_ms)
    return answer


async def _perform(
    connection: Connection, command: commands.Command, answer: SendAnswer, *, quiet: bool
) -> None:
    name = _NAMES[type(command)]
    try:
        with _counted(connection, command):
            if isinstance(command, commands.InRoom):
                membership = await require_membership(connection, command.room)
                result = IN_ROOM[type(command)](connection, command, membership)
            else:
                result = await ELSEWHERE[type(command)](connection, command)
    except Refused as refused:
        answer(refused.refusal)
        refused.then()
        await _pause(connection.refused(refused.refusal, name, _room(command)))
        return
    if isinstance(result, Commit):
        pending = connection.publish(result, name, answer, quiet=quiet)
        if pending is not None:
            await pending
    else:
        _reply(result, answer, quiet=quiet)


async def _pause(seconds: float) -> None:
    if seconds:
        await trio.sleep(seconds)


def _room(command: commands.Command) -> str | None:
    """Return the room that a command is about, as the client wrote it."""
    room: str | None = getattr(command, "room", None)
    return room


@contextmanager
def _counted(connection: Actor, command: commands.Command) -> Iterator[None]:
    """Count a command, and check what holds for every one of its kind."""
    chat, kind = connection.chat, type(command)
    chat.commands[_NAMES[kind]] += 1
    try:
        if not connection.authenticated and kind is not commands.Auth:
            raise Refused("unauthorized", "Authenticate first: send auth with a token.")
        if kind in PAGED:
            chat.flood.charge_page(connection, SEARCH if kind is commands.Search else PAGE)
        if kind is commands.Join and isinstance(connection, Connection):
            with chat.arrivals.joining(connection):
                yield
        else:
            yield
    except Unavailable:
        raise Refused("unavailable", "The store cannot be read now.", 1000) from None


def _reply(reply: Reply[Any], answer: SendAnswer, *, quiet: bool) -> None:
    if not (reply.answer is None or quiet):
        answer(reply.answer)
    reply.then()
