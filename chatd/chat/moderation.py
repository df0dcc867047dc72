"""Operators' actions on users and rooms: kick, ban, mute, slow, close, and their opposites.

An action is committed before it takes effect, and is logged with the operator's name. It is the
same for an operator of the chat and for the console (the daemon's admin socket).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from chatd.chat.chat import Chat
from chatd.chat.connection import Connection
from chatd.chat.names import Name, log_name, nick_name, room_name, usable_nick
from chatd.chat.removal import erase_room
from chatd.chat.rooms import Room
from chatd.chat.sanctions import Sanction, SanctionKind, network_of
from chatd.model import BANNED, KICKED, Operation, Records, Refusal, Refused
from chatd.protocol import commands, events
from chatd.protocol.pairs import other_of

__all__ = ["moderate"]

MAX_SANCTIONS: Final = 10_000
"""Sanctions are kept in memory and looked up for every client: use a firewall for more of them."""

MAX_SECONDS: Final = 100 * 365 * 24 * 60 * 60
MAX_SLOW_SECONDS: Final = 24 * 60 * 60

REASON_BYTES: Final = 512

GUEST_BITS: Final = 64
"""A ban of IPv6 covers at least a /64: a household has one, and its addresses change."""

_LOOPBACK: Final[dict[int, ipaddress.IPv4Network | ipaddress.IPv6Network]] = {
    4: ipaddress.IPv4Network("127.0.0.0/8"),
    6: ipaddress.IPv6Network("::1/128"),
}

_EVERYWHERE: Final = Name("", "")
"""In place of a room: the whole chat."""


async def moderate(chat: Chat, by: str, command: commands.Moderate) -> commands.Sanctioned:
    """Carry out an operator's command.

    Args:
        chat: the chat.
        by: the operator's user id, or the name of the console.
        command: what to do, and to whom.

    Raises:
        Refused: the command is invalid, its target is not found or protected, or the store failed.
    """
    return await _ACTIONS[type(command)](chat, by, command)


class Target(Struct, frozen=True):
    """The user whom an action is about.

    Attributes:
        user: The user's id.
        nick: The nick.
        guest: Whether it is a guest.
        connections: The user's connections; none if the user is not here.
        addresses: The addresses and networks that limits count the user's connections for, those of
            a while ago too.
    """

    user: str
    nick: str
    guest: bool
    connections: tuple[Connection, ...] = ()
    addresses: frozenset[str] = frozenset()

    @property
    def op(self) -> bool:
        return any(connection.op for connection in self.connections)


# ---- users


async def kick(chat: Chat, by: str, command: commands.Kick) -> commands.Sanctioned:
    """Remove a user from a room, or from the chat; the user may come back."""
    where = await _existing(chat, command.room)
    target = await _target(chat, by, command)
    if not target.connections:
        raise Refused("not_found", f"{target.nick} is not here.")
    if where.key and not any(where.key in each.memberships for each in target.connections):
        raise Refused("not_found", f"{target.nick} is not in {where.display}.")
    _log(chat, "kick", by, command, target=target)
    notice = _kicked(chat, by, where, command.reason)
    _remove(target.connections, where, "kicked", command.reason, notice)
    return commands.Sanctioned(user=target.user)


async def ban(chat: Chat, by: str, command: commands.Ban) -> commands.Sanctioned:
    """Keep a user, or a network, out of a room or of the chat."""
    where = await _existing(chat, command.room)
    if command.network is not None:
        return await _ban_network(chat, by, command, command.network, where)
    target = await _target(chat, by, command)
    sanction = _sanction(chat, "ban", by, command, where, user=target.user, nick=target.nick)
    networks: set[str] = set()
    if target.guest:
        # Guests are anonymous, so their networks are banned too; a subject has a token.
        networks.update(str(network_of(each)) for each in target.addresses)
        networks.update(one.network for one in _with(chat, [target.user], where))
    banned = sorted(networks)
    await _impose(
        chat,
        [sanction, *(replace(sanction, user="", network=one, of=target.user) for one in banned)],
    )
    reached = ", ".join(banned) or ("none" if target.guest else None)
    _log(chat, "ban", by, command, target=target, network=reached)
    removed = dict.fromkeys([*target.connections, *_banned(chat, where.key)])
    _remove(removed, where, "banned", command.reason, _banned_from(chat, where, sanction))
    return commands.Sanctioned(
        user=target.user,
        networks=banned if target.guest else None,
        until=_until(sanction.until),
    )


async def _ban_network(
    chat: Chat, by: str, command: commands.Ban, text: str, where: Name
) -> commands.Sanctioned:
    network = network_of(text)
    if network is None:
        raise Refused(
            "bad_request", "network must be an address, or a network such as 192.0.2.0/24."
        )
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen > GUEST_BITS:
        network = network.supernet(new_prefix=GUEST_BITS)
    if network.overlaps(_LOOPBACK[network.version]):
        raise Refused("forbidden", "Loopback is this machine itself. Ban the user instead.")
    for proxy in chat.settings.http.trusted_proxies:
        trusted = network_of(proxy)
        if trusted and trusted.version == network.version and trusted.overlaps(network):
            raise Refused(
                "forbidden",
                f"{proxy} is in http.trusted_proxies: everyone behind it would be banned.",
            )
    sanction = _sanction(chat, "ban", by, command, where, network=str(network))
    await _impose(chat, [sanction])
    _log(chat, "ban", by, command, network=str(network))
    removed = _banned(chat, where.key)
    _remove(removed, where, "banned", command.reason, _banned_from(chat, where, sanction))
    return commands.Sanctioned(networks=[str(network)], until=_until(sanction.until))


async def unban(chat: Chat, by: str, command: commands.Unban) -> commands.Sanctioned:
    """Lift a network's ban, or a user's with the networks that came with it."""
    where = _where(command.room)
    if command.network is not None:
        network = network_of(command.network)
        of = str(network)
        if isinstance(network, ipaddress.IPv6Network) and network.prefixlen > GUEST_BITS:
            of = str(network.supernet(new_prefix=GUEST_BITS))
        held = chat.sanctions.get("ban", where.key, of)
        found = [held] if held else []
    else:
        found = _of(chat, "ban", command, where)
        found += _with(chat, [one.user for one in found], where)
    return await _lift(chat, "unban", by, command, found)


async def mute(chat: Chat, by: str, command: commands.Mute) -> commands.Sanctioned:
    """Keep a user from writing, in a room or anywhere."""
    where = await _existing(chat, command.room)
    target = await _target(chat, by, command)
    sanction = _sanction(chat, "mute", by, command, where, user=target.user, nick=target.nick)
    await _impose(chat, [sanction])
    _log(chat, "mute", by, command, target=target)
    place = f" in {_named(chat, where.key)}" if where.key else ""
    text = sanction.explained(f"You are muted{place}", sanction.at)
    _notify(target.connections, text)
    return commands.Sanctioned(user=target.user, until=_until(sanction.until))


async def unmute(chat: Chat, by: str, command: commands.Unmute) -> commands.Sanctioned:
    """Lift a user's mute."""
    where = _where(command.room)
    found = _of(chat, "mute", command, where)
    done = await _lift(chat, "unmute", by, command, found)
    place = f" in {_named(chat, where.key)}" if where.key else ""
    for muted in {one.user for one in found}:
        still = [one.room for one in chat.sanctions.all(["mute"]) if one.user == muted]
        if "" in still or (user := chat.users.get(muted)) is None:
            continue
        text = f"You are no longer muted{place}"
        if still and not where.key:
            text += f", except in {', '.join(_named(chat, key) for key in still)}"
        _notify(tuple(user.connections), _with_reason(text, command.reason))
    return done


def _named(chat: Chat, key: str) -> str:
    """Return a room's name as it is written, if that is known."""
    room = chat.rooms.get(key)
    return key if room is None else room.name


# ---- rooms


async def slow(chat: Chat, by: str, command: commands.Slow) -> commands.Sanctioned:
    """Set the seconds between two messages of a user in a room; 0 ends slow mode."""
    where, seconds = await _existing(chat, command.room), command.seconds
    if not 0 <= seconds <= MAX_SLOW_SECONDS:
        raise Refused("bad_request", f"seconds must be from 0 to {MAX_SLOW_SECONDS}.")
    if seconds:
        at = chat.journal.steady_now()
        await _impose(chat, [Sanction("slow", by=by, at=at, room=where.key, seconds=seconds)])
        _log(chat, "slow", by, command)
        done = commands.Sanctioned()
    else:
        done = await _lift_from_room(chat, "slow", by, command, where)
    if room := chat.rooms.get(where.key):
        text = f"Slow mode is off in {room.name}."
        if seconds:
            time = "second" if seconds == 1 else f"{seconds:g} seconds"
            text = f"Slow mode is on in {room.name}: one message every {time}."
        room.feed.broadcast([events.Notice(text)])
    return done


async def close(chat: Chat, by: str, command: commands.Close) -> commands.Sanctioned:
    """Close a room to all but operators; 0 seconds open it again."""
    where = await _existing(chat, command.room)
    if command.seconds == 0:
        return await _lift_from_room(chat, "close", by, command, where)
    sanction = _sanction(chat, "close", by, command, where)
    await _impose(chat, [sanction])
    _log(chat, "close", by, command)
    inside = [each for each in chat.connections if where.key in each.memberships]
    reason = command.reason or "the room is closed"
    removed = [each for each in inside if not each.op]
    _remove(removed, where, "kicked", reason, _kicked(chat, by, where, reason))
    return commands.Sanctioned(until=_until(sanction.until))


async def remove(chat: Chat, by: str, command: commands.Remove) -> commands.Sanctioned:
    """Remove a room's members and its events, or a conversation's by its name with two ids."""
    where, reason = log_name(command.room), command.reason
    _check_reason(reason)
    head = await chat.journal.head(where.key)
    if chat.rooms.get(where.key) is None and (head is None or head.empty):
        raise Refused("not_found", f"There is no room named {where.display}.")
    async with chat.rooms.removing(where):
        _log(chat, "remove", by, command)
        if (room := chat.rooms.get(where.key)) is not None:
            _dissolve(chat, room, reason)
        # What the members said before is committed first, and removed too.
        await chat.bus.probe()
        await erase_room(where.key, chat.bus.submit_and_wait)
    return commands.Sanctioned()


def _dissolve(chat: Chat, room: Room, reason: str | None) -> None:
    inside = [each for each in chat.connections if room.key in each.memberships]
    for connection in inside:
        # Everybody leaves: nobody is told of the others.
        connection.memberships[room.key].stop()
    for connection in inside:
        membership = connection.memberships[room.key]
        if room.direct:
            connection.exit(membership)
            other = chat.users.get(other_of(room.key, connection.user.id))
            gone = f"Your direct messages{f' with {other.nick.display}' if other else ''} were"
        else:
            connection.kick(membership, "kicked")
            gone = f"The room {room.name} was"
        _notify([connection], _with_reason(f"{gone} removed", reason))
    room.clear()


_Action: TypeAlias = Callable[[Chat, str, Any], Awaitable[commands.Sanctioned]]

_ACTIONS: Final[dict[type[commands.Moderate], _Action]] = {
    commands.Kick: kick,
    commands.Ban: ban,
    commands.Unban: unban,
    commands.Mute: mute,
    commands.Unmute: unmute,
    commands.Slow: slow,
    commands.Close: close,
    commands.Remove: remove,
}


# ---- their parts


def _where(room: str | None) -> Name:
    return _EVERYWHERE if room is None else room_name(room)


async def _existing(chat: Chat, room: str | None) -> Name:
    """Return the place of an action: a room that exists, or has a sanction, or the whole chat.

    Raises:
        Refused: there is no such room.
    """
    where = _where(room)
    if where.key and not await chat.rooms.exists(where):
        sanctioned = {one.room for one in chat.sanctions.all()}
        if where.key not in sanctioned:
            raise Refused("not_found", f"There is no room named {where.display}.")
    return where


def _banned(chat: Chat, room: str) -> list[Connection]:
    """Return the connections that are banned from a room now."""
    return [each for each in chat.connections if each.banned(room) is not None]


async def _target(chat: Chat, by: str, command: commands.Sanction) -> Target:
    _check_reason(command.reason)
    users = chat.users
    if command.nick is not None:
        name = nick_name(command.nick.removeprefix("@"))
        user = users.by_nick(name.key)
        if user is None:
            raise Refused("not_found", f"There is no user named {name.display} here.")
    elif command.user is not None:
        user = users.get(command.user)
        if user is None:
            record = await chat.journal.user(command.user)
            if record is None:
                raise Refused("not_found", "There is no user with this id.")
            return Target(record.user, record.nick, not record.subject)
    else:
        raise Refused("bad_request", "Give a nick, a user or a network.")
    target = Target(
        user.id, user.nick.display, not user.subject, tuple(user.connections), users.addresses(user)
    )
    if user.id == by:
        raise Refused("bad_request", "You cannot do this to yourself.")
    if target.op:
        raise Refused("forbidden", f"You cannot do this to {target.nick}, who is an operator.")
    return target


def _check_reason(reason: str | None) -> None:
    if len((reason or "").encode()) > REASON_BYTES:
        raise Refused("too_large", f"Reasons can have at most {REASON_BYTES} bytes.")


def _sanction(
    chat: Chat,
    kind: SanctionKind,
    by: str,
    command: commands.Sanction | commands.Close,
    where: Name,
    *,
    user: str = "",
    nick: str = "",
    network: str = "",
) -> Sanction:
    _check_reason(command.reason)
    at = chat.journal.steady_now()
    until = None
    if command.seconds is not None:
        if not 0 < command.seconds <= MAX_SECONDS:
            raise Refused(
                "bad_request",
                f"seconds must be over 0 and at most {MAX_SECONDS}. Omit it for no end.",
            )
        until = at + int(command.seconds * 1000)
    operator = chat.users.get(by)
    return Sanction(
        kind,
        by=by,
        at=at,
        by_nick="" if operator is None else operator.nick.display,
        room=where.key,
        user=user,
        nick=nick,
        network=network,
        until=until,
        reason=command.reason or "",
    )


def _of(chat: Chat, kind: SanctionKind, command: commands.Sanction, where: Name) -> list[Sanction]:
    """Return a user's sanctions, found by id, by present nick, or by the nick at that time."""
    wanted = {command.user}
    key = None
    if command.nick is not None and (name := usable_nick(command.nick)):
        key = name.key
        if user := chat.users.by_nick(key):
            wanted.add(user.id)
    found: list[Sanction] = []
    for one in chat.sanctions.all([kind]):
        then = usable_nick(one.nick) if one.nick and not one.of else None
        same = then is not None and then.key == key
        if one.room == where.key and one.user and (one.user in wanted or same):
            found.append(one)
    return found


def _with(chat: Chat, users: list[str], where: Name) -> list[Sanction]:
    """Return the networks' bans that came with the bans of these guests."""
    return [
        one
        for one in chat.sanctions.all(["ban"])
        if one.of and one.of in users and one.room == where.key
    ]


async def _commit(chat: Chat, operation: Operation) -> None:
    outcome = await chat.bus.submit_and_wait(operation)
    if isinstance(outcome, Refusal):
        raise Refused(outcome.code, outcome.message, outcome.retry_ms)


async def _impose(chat: Chat, sanctions: list[Sanction]) -> None:
    held = chat.sanctions
    if len(held) + len(sanctions) > MAX_SANCTIONS:
        held.sweep()
        if len(held) + len(sanctions) > MAX_SANCTIONS:
            raise Refused(
                "forbidden",
                f"There are already {MAX_SANCTIONS} bans and other sanctions. Lift some of them.",
            )
    await _commit(chat, Records(put=tuple(sanction.record() for sanction in sanctions)))
    for sanction in sanctions:
        held.add(sanction)


async def _lift(
    chat: Chat,
    action: Literal["unban", "unmute"],
    by: str,
    command: commands.Sanction,
    found: list[Sanction],
) -> commands.Sanctioned:
    if not found:
        raise Refused("not_found", f"There is no such {action.removeprefix('un')}.")
    await _drop(chat, found)
    _log(chat, action, by, command)
    return commands.Sanctioned()


async def _lift_from_room(
    chat: Chat,
    kind: Literal["slow", "close"],
    by: str,
    command: commands.Slow | commands.Close,
    where: Name,
) -> commands.Sanctioned:
    held = chat.sanctions.get(kind, where.key, "")
    await _drop(chat, [held] if held else [])
    _log(chat, kind, by, command)
    return commands.Sanctioned()


async def _drop(chat: Chat, sanctions: list[Sanction]) -> None:
    if sanctions:
        await _commit(chat, Records(drop=tuple((one.kind, one.name) for one in sanctions)))
    for sanction in sanctions:
        chat.sanctions.remove(sanction)


def _remove(
    connections: Iterable[Connection],
    where: Name,
    how: Literal["kicked", "banned"],
    reason: str | None,
    notice: str,
) -> None:
    """Remove connections from the chat, or from a room with a notice that says so."""
    close = KICKED if how == "kicked" else BANNED
    for connection in list(connections):
        if not where.key:
            for each in list(connection.memberships.values()):
                connection.exit(each, how)
            connection.end(close, reason or "")
        elif membership := connection.memberships.get(where.key):
            connection.kick(membership, how)
            _notify([connection], notice)


def _kicked(chat: Chat, by: str, where: Name, reason: str | None) -> str:
    operator = chat.users.get(by)
    name = "" if operator is None else f" by {operator.nick.display}"
    return _with_reason(f"You were kicked from {_named(chat, where.key)}{name}", reason)


def _banned_from(chat: Chat, where: Name, ban: Sanction) -> str:
    return ban.explained(f"You are banned from {_named(chat, where.key)}", ban.at)


def _with_reason(text: str, reason: str | None) -> str:
    return f"{text}: {reason}" if reason else f"{text}."


def _notify(connections: Iterable[Connection], text: str) -> None:
    for connection in connections:
        connection.notify(events.Notice(text))


def _log(
    chat: Chat,
    action: Literal["kick", "ban", "unban", "mute", "unmute", "slow", "close", "remove"],
    by: str,
    command: commands.Sanction | commands.Slow | commands.Close | commands.Remove,
    *,
    target: Target | None = None,
    network: str | None = None,
) -> None:
    nick = user = reason = None
    if isinstance(command, commands.Sanction):
        nick, user = command.nick, command.user
        network = network or command.network
    if not isinstance(command, commands.Slow):
        reason = command.reason
    chat.log.emit(
        action,
        by=by,
        room=command.room,
        target=user if target is None else target.user,
        nick=nick if target is None else target.nick,
        network=network,
        seconds=None if isinstance(command, commands.Remove) else command.seconds,
        reason=reason or None,
    )


def _until(until: int | None) -> Any:
    return None if until is None else events.rfc3339(until)
