"""Operators' actions on users and rooms: kick, ban, mute, slow, close, and their opposites.

An action is committed before it takes effect, and is logged with the operator's name. It is the
same for an operator of the chat and for the console (the daemon's admin socket).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from chatd.chat.acts import Dissolve, Kick, Tell, named, with_reason
from chatd.chat.chat import Chat
from chatd.chat.names import Name, log_name, nick_name, room_name, usable_nick
from chatd.chat.removal import erase_room
from chatd.chat.sanctions import Sanction, SanctionKind, network_of
from chatd.model import Operation, Records, Refusal, Refused
from chatd.protocol import commands, events

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
        here: Whether the user is connected, to whichever daemon.
        op: Whether others see the user as an operator.
        addresses: The addresses and networks that limits count the user's connections for, those of
            a while ago too.
    """

    user: str
    nick: str
    guest: bool
    here: bool = False
    op: bool = False
    addresses: frozenset[str] = frozenset()


# ---- users


async def kick(chat: Chat, by: str, command: commands.Kick) -> commands.Sanctioned:
    """Remove a user from a room, or from the chat; the user may come back."""
    where = await _existing(chat, command.room)
    target = await _target(chat, by, command)
    if not target.here:
        raise Refused("not_found", f"{target.nick} is not here.")
    if where.key and not await chat.roster.is_in(target.user, where.key):
        raise Refused("not_found", f"{target.nick} is not in {where.display}.")
    operator = chat.users.get(by)
    name = "" if operator is None else f" by {operator.nick.display}"
    notice = with_reason(f"You were kicked from {named(chat, where.key)}{name}", command.reason)
    _log(chat, "kick", by, command, target=target)
    await chat.roster.act(Kick(target.user, where.key, command.reason or "", notice))
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
    reached = ", ".join(banned) or ("none" if target.guest else None)
    await _impose(
        chat,
        [sanction, *(replace(sanction, user="", network=one, of=target.user) for one in banned)],
        partial(_log, chat, "ban", by, command, target=target, network=reached),
    )
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
    log = partial(_log, chat, "ban", by, command, network=str(network))
    await _impose(chat, [sanction], log)
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
        found = await _of(chat, "ban", command, where)
        found += _with(chat, [one.user for one in found], where)
    return await _lift(chat, "unban", by, command, found)


async def mute(chat: Chat, by: str, command: commands.Mute) -> commands.Sanctioned:
    """Keep a user from writing, in a room or anywhere."""
    where = await _existing(chat, command.room)
    target = await _target(chat, by, command)
    sanction = _sanction(chat, "mute", by, command, where, user=target.user, nick=target.nick)
    await _impose(chat, [sanction], partial(_log, chat, "mute", by, command, target=target))
    return commands.Sanctioned(user=target.user, until=_until(sanction.until))


async def unmute(chat: Chat, by: str, command: commands.Unmute) -> commands.Sanctioned:
    """Lift a user's mute."""
    where = _where(command.room)
    found = await _of(chat, "mute", command, where)
    done = await _lift(chat, "unmute", by, command, found)
    place = f" in {named(chat, where.key)}" if where.key else ""
    for muted in {one.user for one in found}:
        mutes = [one for one in chat.sanctions.all(["mute"]) if one.user == muted]
        still = [one.room for one in mutes if one not in found]
        if "" in still:
            continue
        text = f"You are no longer muted{place}"
        if still and not where.key:
            text += f", except in {', '.join(named(chat, key) for key in still)}"
        await chat.roster.act(Tell(with_reason(text, command.reason), user=muted))
    return done


# ---- rooms


async def slow(chat: Chat, by: str, command: commands.Slow) -> commands.Sanctioned:
    """Set the seconds between two messages of a user in a room; 0 ends slow mode."""
    where, seconds = await _existing(chat, command.room), command.seconds
    if not 0 <= seconds <= MAX_SLOW_SECONDS:
        raise Refused("bad_request", f"seconds must be from 0 to {MAX_SLOW_SECONDS}.")
    if seconds:
        at = chat.journal.steady_now()
        sanction = Sanction("slow", by=by, at=at, room=where.key, seconds=seconds)
        await _impose(chat, [sanction], partial(_log, chat, "slow", by, command))
        return commands.Sanctioned()
    done = await _lift_from_room(chat, "slow", by, command, where)
    text = f"Slow mode is off in {named(chat, where.key)}."
    await chat.roster.act(Tell(text, room=where.key))
    return done


async def close(chat: Chat, by: str, command: commands.Close) -> commands.Sanctioned:
    """Close a room to all but operators; 0 seconds open it again."""
    where = await _existing(chat, command.room)
    if command.seconds == 0:
        return await _lift_from_room(chat, "close", by, command, where)
    sanction = _sanction(chat, "close", by, command, where)
    await _impose(chat, [sanction], partial(_log, chat, "close", by, command))
    return commands.Sanctioned(until=_until(sanction.until))


async def remove(chat: Chat, by: str, command: commands.Remove) -> commands.Sanctioned:
    """Remove a room's members and its events, or a conversation's by its name with two ids."""
    where, reason = log_name(command.room), command.reason
    _check_reason(reason)
    head = await chat.journal.head(where.key)
    gone = head is None or head.empty
    if gone and not await chat.roster.is_occupied(where.key):
        raise Refused("not_found", f"There is no room named {where.display}.")
    async with chat.rooms.removing(where):
        _log(chat, "remove", by, command)
        await chat.roster.act(Dissolve(where.key, reason or ""))
        # What the members said before is committed first, and removed too.
        await chat.bus.probe()
        await erase_room(where.key, chat.bus.submit_and_wait)
    return commands.Sanctioned()


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


async def _target(chat: Chat, by: str, command: commands.Sanction) -> Target:
    _check_reason(command.reason)
    users = chat.users
    if command.nick is not None:
        name = nick_name(command.nick.removeprefix("@"))
        wanted = await chat.roster.find(name)
        if wanted is None:
            raise Refused("not_found", f"There is no user named {name.display} here.")
    elif command.user is not None:
        wanted = command.user
    else:
        raise Refused("bad_request", "Give a nick, a user or a network.")
    if (user := users.get(wanted)) is not None:
        target = Target(
            user.id,
            user.nick.display,
            guest=not user.subject,
            here=await chat.roster.is_present(wanted),
            op=user.op,
            addresses=users.addresses(user),
        )
    else:
        record = await chat.journal.user(wanted)
        if record is None:
            raise Refused("not_found", "There is no user with this id.")
        here = await chat.roster.is_present(wanted)
        op = here and wanted in chat.settings.chat.operators
        target = Target(record.user, record.nick, guest=not record.subject, here=here, op=op)
    if target.user == by:
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


async def _of(
    chat: Chat, kind: SanctionKind, command: commands.Sanction, where: Name
) -> list[Sanction]:
    """Return a user's sanctions, found by id, by present nick, or by the nick at that time."""
    wanted = {command.user}
    key = None
    if command.nick is not None and (name := usable_nick(command.nick)):
        key = name.key
        wanted.add(await chat.roster.find(name))
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


async def _impose(chat: Chat, sanctions: list[Sanction], log: Callable[[], None]) -> None:
    """Commit sanctions, log that, and have them in force."""
    held = chat.sanctions
    if len(held) + len(sanctions) > MAX_SANCTIONS:
        held.sweep()
        if len(held) + len(sanctions) > MAX_SANCTIONS:
            raise Refused(
                "forbidden",
                f"There are already {MAX_SANCTIONS} bans and other sanctions. Lift some of them.",
            )
    await _commit(chat, Records(put=tuple(sanction.record() for sanction in sanctions)))
    log()
    chat.roster.imposed(sanctions)


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
    chat.roster.lifted(sanctions)


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
