"""Carries out operators' decisions on the clients that are connected to this daemon.

An `Act` is carried out once. A sanction stays in force, from `impose` to `lift`. The decisions are
made in `chatd.chat.moderation`, and `chatd.chat.roster` brings them to every daemon of the chat.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from chatd.chat.sanctions import Sanction, SanctionKind
from chatd.model import BANNED, KICKED
from chatd.protocol import events
from chatd.protocol.pairs import other_of

if TYPE_CHECKING:
    from chatd.chat.chat import Chat
    from chatd.chat.connection import Connection

__all__ = [
    "Act",
    "Dismiss",
    "Dissolve",
    "Kick",
    "Tell",
    "Whisper",
    "carry_out",
    "impose",
    "lift",
    "named",
    "whisper",
    "with_reason",
]


class Tell(Struct, frozen=True, tag=True):
    """Send a notice to a user, by the id, or to a room, by its key; to everybody without both."""

    text: str
    room: str = ""
    user: str = ""


class Kick(Struct, frozen=True, tag=True):
    """Remove a user from a room, with a notice, or from the chat if ``room`` is empty."""

    user: str
    room: str
    reason: str
    notice: str


class Dissolve(Struct, frozen=True, tag=True):
    """Remove all members of a room, by its key: the room is about to be removed."""

    room: str
    reason: str


class Dismiss(Struct, frozen=True, tag=True):
    """Disconnect a user, by the id, and drop what is known of the user in memory."""

    user: str


class Whisper(Struct, frozen=True, tag=True):
    """Send a direct message between guests, which is not stored, to both of them."""

    room: str
    at: int
    nick: str
    user: str
    text: str


Act: TypeAlias = Tell | Kick | Dissolve | Dismiss | Whisper


async def carry_out(chat: Chat, act: Act) -> None:
    """Carry out an act on the clients that are connected here."""
    match act:
        case Tell(text, room, user) if user:
            _notify(_connections(chat, user), text)
        case Tell(text, room):
            await chat.broadcast(events.Notice(text), room or None)
        case Kick(user, room, reason, notice):
            those = [each for each in _connections(chat, user) if not each.op]
            _remove(those, room, "kicked", reason, notice)
        case Dissolve(room, reason):
            _dissolve(chat, room, reason)
        case Dismiss(user):
            _dismiss(chat, user)
        case Whisper():
            whisper(chat, act)


def impose(chat: Chat, sanction: Sanction, networks: Iterable[Sanction] = ()) -> None:
    """Put a sanction into force here, and notify or remove the clients that it affects.

    ``networks`` are the bans of networks that came with a user's ban.
    """
    for each in (sanction, *networks):
        chat.sanctions.add(each)
    room = sanction.room
    match sanction.kind:
        case "ban":
            notice = sanction.explained(f"You are banned from {named(chat, room)}", sanction.at)
            banned = [each for each in chat.connections if each.banned(room) is not None]
            _remove(banned, room, "banned", sanction.reason, notice)
        case "mute":
            place = f" in {named(chat, room)}" if room else ""
            text = sanction.explained(f"You are muted{place}", sanction.at)
            _notify(_connections(chat, sanction.user), text)
        case "slow":
            if (here := chat.rooms.get(room)) is not None:
                seconds = sanction.seconds
                time = "second" if seconds == 1 else f"{seconds:g} seconds"
                text = f"Slow mode is on in {here.name}: one message every {time}."
                here.feed.broadcast([events.Notice(text)])
        case "close":
            reason = sanction.reason or "the room is closed"
            by = f" by {sanction.by_nick}" if sanction.by_nick else ""
            notice = with_reason(f"You were kicked from {named(chat, room)}{by}", reason)
            inside = [each for each in chat.connections if room in each.memberships]
            _remove([each for each in inside if not each.op], room, "kicked", reason, notice)


def lift(chat: Chat, kind: SanctionKind, name: str) -> None:
    """End a sanction here, by its kind and the name of its record."""
    if (sanction := chat.sanctions.held.get((kind, name))) is not None:
        chat.sanctions.remove(sanction)


def named(chat: Chat, key: str) -> str:
    """Return a room's name as it is written, if that is known."""
    room = chat.rooms.get(key)
    return key if room is None else room.name


def with_reason(text: str, reason: str | None) -> str:
    return f"{text}: {reason}" if reason else f"{text}."


def _connections(chat: Chat, user: str) -> list[Connection]:
    here = chat.users.get(user)
    return [] if here is None else list(here.connections)


def _remove(
    connections: Iterable[Connection],
    room: str,
    how: Literal["kicked", "banned"],
    reason: str,
    notice: str,
) -> None:
    """Remove connections from the chat, or from a room with a notice."""
    close = KICKED if how == "kicked" else BANNED
    for connection in connections:
        if not room:
            for each in list(connection.memberships.values()):
                connection.exit(each, how)
            connection.end(close, reason)
        elif membership := connection.memberships.get(room):
            connection.kick(membership, how)
            _notify([connection], notice)


def _dissolve(chat: Chat, key: str, reason: str) -> None:
    room = chat.rooms.get(key)
    if room is None:
        return
    inside = [each for each in chat.connections if key in each.memberships]
    for connection in inside:
        # Everybody leaves: no `left` is sent to the others.
        connection.memberships[key].stop()
    for connection in inside:
        membership = connection.memberships[key]
        if room.direct:
            connection.exit(membership)
            other = chat.users.get(other_of(key, connection.user.id))
            gone = f"Your direct messages{f' with {other.nick.display}' if other else ''} were"
        else:
            connection.kick(membership, "kicked")
            gone = f"The room {room.name} was"
        _notify([connection], with_reason(f"{gone} removed", reason))
    room.clear()


def _dismiss(chat: Chat, user: str) -> None:
    for client in _connections(chat, user):
        for membership in list(client.memberships.values()):
            client.exit(membership, "kicked")
        client.end(KICKED, "your data was deleted, as requested")
    for room in chat.rooms.direct(user):
        for client in list(chat.connections):
            if (inside := client.memberships.get(room.key)) is not None:
                client.exit(inside)
        room.clear()
        if (other := chat.users.get(other_of(room.key, user))) is not None:
            other.marks.pop(room.key, None)
    if (known := chat.users.get(user)) is not None:
        for room in list(known.rooms):
            room.dismiss(known)
    chat.users.erase(user)


def whisper(chat: Chat, act: Whisper) -> None:
    """Send a direct message that is not stored to those of its two users who are here."""
    room = chat.rooms.get(act.room)
    if room is not None:
        message = events.Message(
            room=room.name,
            at=events.rfc3339(act.at),
            nick=act.nick,
            user=act.user,
            text=act.text,
        )
        room.feed.broadcast([message], droppable=False)


def _notify(connections: Iterable[Connection], text: str) -> None:
    for connection in connections:
        connection.notify(events.Notice(text))
