"""What operators do to people and rooms: kick, ban, mute, slow, close, and back.

Each act is committed before it has its effect, and is logged with who did it. It is the same
whether an operator of the chat does it or somebody at the daemon's console.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from chatd.chat.chat import Chat
from chatd.chat.connection import Connection
from chatd.chat.names import Name, nick_name, room_name
from chatd.chat.sanctions import Kind, Sanction, network_of
from chatd.chat.users import User
from chatd.model import BANNED, KICKED, Drop, Put, Refusal
from chatd.protocol import commands, events

__all__ = ["Deed", "Moderation"]

MOST_SANCTIONS: Final = 10_000
"""Each is asked for at every door, and kept: more is a matter for the network before us."""

MOST_SECONDS: Final = 100 * 365 * 24 * 60 * 60
SLOW_SECONDS: Final = 24 * 60 * 60

REASON_BYTES: Final = 512

GUEST_BITS: Final = 64
"""An IPv6 address says nothing of who has it: a household has a /64."""


class Deed(Struct, frozen=True):
    """What is to be done, and by whom: ``by`` is an operator's user id, or names the console."""

    by: str
    room: str | None = None
    nick: str | None = None
    user: str | None = None
    network: str | None = None
    seconds: float | None = None
    reason: str = ""


class Target(Struct, frozen=True):
    """Whom it concerns. ``networks`` are where a guest's connections come from."""

    user: str
    nick: str
    connections: tuple[Connection, ...]
    guest: bool

    @property
    def op(self) -> bool:
        return any(connection.op for connection in self.connections)

    @property
    def networks(self) -> list[str]:
        return sorted({each.counted_as for each in self.connections if each.counted_as})


class Moderation:
    """The acts of operators, on a chat."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    # ---- people

    async def kick(self, deed: Deed) -> commands.Sanctioned | Refusal:
        """Put somebody out of a room, or of the chat; they may come back."""
        where = self._room(deed)
        target = await self._target(deed)
        if isinstance(where, Refusal):
            return where
        if isinstance(target, Refusal):
            return target
        if not target.connections:
            return Refusal("not_found", f"{target.nick} is not here")
        self._log("kick", deed, target=target)
        self._put_out(target.connections, where, "kicked", deed.reason)
        return commands.Sanctioned(user=target.user)

    async def ban(self, deed: Deed) -> commands.Sanctioned | Refusal:
        """Keep somebody, or a network, out of a room or of everything."""
        where = self._room(deed)
        if isinstance(where, Refusal):
            return where
        if deed.network is not None:
            return await self._ban_network(deed, where)
        target = await self._target(deed)
        if isinstance(target, Refusal):
            return target
        sanction = self._sanction("ban", deed, where, user=target.user, nick=target.nick)
        if isinstance(sanction, Refusal):
            return sanction
        # A guest is whoever comes next from there; a subject is who the token says.
        came = {one.network for one in self._with([target.user], where)}
        networks = sorted(came.union(str(network_of(each)) for each in target.networks))
        if not target.guest:
            networks = []
        sanctions = [sanction] + [
            replace(sanction, user="", network=network, of=target.user) for network in networks
        ]
        if refusal := await self._impose(sanctions):
            return refusal
        self._log("ban", deed, target=target, network=", ".join(networks) or None)
        banned = [*target.connections, *self._banned(where.fold)]
        self._put_out(dict.fromkeys(banned), where, "banned", deed.reason)
        return commands.Sanctioned(
            user=target.user, networks=networks or None, until=_until(sanction.until)
        )

    async def _ban_network(self, deed: Deed, where: Name) -> commands.Sanctioned | Refusal:
        network = network_of(deed.network or "")
        if network is None:
            return Refusal("bad_request", "network is an address or a network such as 192.0.2.0/24")
        if isinstance(network, ipaddress.IPv6Network) and network.prefixlen > GUEST_BITS:
            network = network.supernet(new_prefix=GUEST_BITS)
        if network.overlaps(_LOOPBACK[network.version]):
            return Refusal("forbidden", "loopback is this machine itself: ban the user instead")
        if proxy := self._proxy(network):
            return Refusal(
                "forbidden",
                f"{proxy} is in http.trusted_proxies: everybody behind it would be banned",
            )
        sanction = self._sanction("ban", deed, where, network=str(network))
        if isinstance(sanction, Refusal):
            return sanction
        if refusal := await self._impose([sanction]):
            return refusal
        self._log("ban", deed, network=str(network))
        self._put_out(self._banned(where.fold), where, "banned", deed.reason)
        return commands.Sanctioned(networks=[str(network)], until=_until(sanction.until))

    def _proxy(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str | None:
        for entry in self._chat.settings.http.trusted_proxies:
            proxy = network_of(entry)
            if proxy is not None and proxy.version == network.version and proxy.overlaps(network):
                return entry
        return None

    def _banned(self, room: str) -> list[Connection]:
        """Give who is here and by now may not be."""
        return [each for each in self._connections() if each.banned(room) is not None]

    async def unban(self, deed: Deed) -> commands.Sanctioned | Refusal:
        """Take a ban back: a user's with all that came with it, or a network's."""
        where = self._room(deed)
        if isinstance(where, Refusal):
            return where
        if deed.network is not None:
            network = network_of(deed.network)
            of = str(network)
            if isinstance(network, ipaddress.IPv6Network) and network.prefixlen > GUEST_BITS:
                of = str(network.supernet(new_prefix=GUEST_BITS))
            held = self._chat.sanctions.get("ban", where.fold, of)
            return await self._lift("unban", deed, [held] if held else [])
        found = self._named("ban", deed, where)
        found += self._with([one.user for one in found], where)
        return await self._lift("unban", deed, found)

    def _with(self, users: list[str], where: Name) -> list[Sanction]:
        """Find the networks that came with the bans of these guests."""
        return [
            one
            for one in self._chat.sanctions.all(["ban"])
            if one.of and one.of in users and one.room == where.fold
        ]

    async def mute(self, deed: Deed) -> commands.Sanctioned | Refusal:
        """Let somebody say nothing, in a room or anywhere."""
        where = self._room(deed)
        if isinstance(where, Refusal):
            return where
        target = await self._target(deed)
        if isinstance(target, Refusal):
            return target
        sanction = self._sanction("mute", deed, where, user=target.user, nick=target.nick)
        if isinstance(sanction, Refusal):
            return sanction
        if refusal := await self._impose([sanction]):
            return refusal
        self._log("mute", deed, target=target)
        place = f"in {where.shown} " if where.fold else ""
        self._notice(target.connections, f"you may say nothing {place}now", deed.reason)
        return commands.Sanctioned(user=target.user, until=_until(sanction.until))

    async def unmute(self, deed: Deed) -> commands.Sanctioned | Refusal:
        """Let somebody speak again."""
        where = self._room(deed)
        if isinstance(where, Refusal):
            return where
        found = self._named("mute", deed, where)
        outcome = await self._lift("unmute", deed, found)
        if isinstance(outcome, Refusal):
            return outcome
        still = {one.user for one in self._chat.sanctions.all(["mute"]) if not one.room}
        place = f" in {where.shown}" if where.fold else ""
        for muted in {one.user for one in found} - still:
            if user := self._chat.users.get(muted):
                self._notice(_here(user), f"you may speak again{place}", deed.reason)
        return outcome

    # ---- rooms

    async def slow(self, deed: Deed) -> commands.Sanctioned | Refusal:
        """Have everybody wait between two messages in a room; 0 seconds: no more."""
        where = self._room(deed)
        if isinstance(where, Refusal):
            return where
        seconds = 0.0 if deed.seconds is None else deed.seconds
        if not 0 <= seconds <= SLOW_SECONDS:
            return Refusal("bad_request", f"slow mode has 0 to {SLOW_SECONDS} seconds")
        if not seconds:
            held = self._chat.sanctions.get("slow", where.fold, "")
            done = await self._lift("slow", deed, [held] if held else [], gone_is_fine=True)
        else:
            sanction = Sanction(
                "slow", by=deed.by, at=self._chat.now(), room=where.fold, seconds=seconds
            )
            if refusal := await self._impose([sanction]):
                return refusal
            self._log("slow", deed)
            done = commands.Sanctioned()
        if room := self._chat.rooms.get(where.fold):
            words = f"one message every {seconds:g} seconds" if seconds else "no slow mode any more"
            room.topic.tell([events.Notice(f"{room.name}: {words}")])
        return done

    async def close(self, deed: Deed) -> commands.Sanctioned | Refusal:
        """Put everybody but operators out of a room and keep it shut; 0 seconds: open it again."""
        where = self._room(deed)
        if isinstance(where, Refusal):
            return where
        if deed.seconds == 0:
            held = self._chat.sanctions.get("close", where.fold, "")
            return await self._lift("close", deed, [held] if held else [], gone_is_fine=True)
        sanction = self._sanction("close", deed, where)
        if isinstance(sanction, Refusal):
            return sanction
        if refusal := await self._impose([sanction]):
            return refusal
        self._log("close", deed)
        inside = [each for each in self._connections() if where.fold in each.memberships]
        self._put_out(
            [each for each in inside if not each.op],
            where,
            "kicked",
            deed.reason or "the room is closed",
        )
        return commands.Sanctioned(until=_until(sanction.until))

    # ---- what they are made of

    def _connections(self) -> list[Connection]:
        return [each for each in self._chat.connections if isinstance(each, Connection)]

    def _room(self, deed: Deed) -> Name | Refusal:
        """Give the room it is about; none is everywhere."""
        if deed.room is None:
            return Name("", "")
        return room_name(deed.room)

    async def _target(self, deed: Deed) -> Target | Refusal:
        users = self._chat.users
        if len(deed.reason.encode()) > REASON_BYTES:
            return Refusal("too_large", f"a reason has {REASON_BYTES} bytes at most")
        if deed.nick is not None:
            name = nick_name(deed.nick.removeprefix("@"))
            if isinstance(name, Refusal):
                return name
            user = users.called(name.fold)
            if user is None:
                return Refusal("not_found", f"nobody here is called {name.shown}")
        elif deed.user is not None:
            user = users.get(deed.user)
            if user is None:
                record = await self._chat.journal.user(deed.user)
                if record is None:
                    return Refusal("not_found", "there is no such user")
                return Target(record.user, record.nick, (), not record.subject)
        else:
            return Refusal("bad_request", "whom? give a nick")
        target = Target(user.id, user.nick.shown, _here(user), not user.subject)
        if user.id == deed.by:
            return Refusal("bad_request", "that is you yourself")
        if target.op:
            return Refusal("forbidden", f"{target.nick} is an operator")
        return target

    def _sanction(
        self,
        kind: Kind,
        deed: Deed,
        where: Name,
        *,
        user: str = "",
        nick: str = "",
        network: str = "",
    ) -> Sanction | Refusal:
        if len(deed.reason.encode()) > REASON_BYTES:
            return Refusal("too_large", f"a reason has {REASON_BYTES} bytes at most")
        at = self._chat.now()
        until = None
        if deed.seconds is not None:
            if not 0 < deed.seconds <= MOST_SECONDS:
                return Refusal("bad_request", "seconds are more than 0; without them it stays")
            until = at + int(deed.seconds * 1000)
        return Sanction(
            kind,
            by=deed.by,
            at=at,
            room=where.fold,
            user=user,
            nick=nick,
            network=network,
            until=until,
            reason=deed.reason,
        )

    def _named(self, kind: Kind, deed: Deed, where: Name) -> list[Sanction]:
        """Find what holds of a user, by the id, or by the nick as it was then or is now."""
        wanted = {deed.user}
        fold = None
        if deed.nick is not None and isinstance(name := nick_name(deed.nick), Name):
            fold = name.fold
            if user := self._chat.users.called(fold):
                wanted.add(user.id)
        found: list[Sanction] = []
        for one in self._chat.sanctions.all([kind]):
            then = nick_name(one.nick) if one.nick and not one.of else None
            same = isinstance(then, Name) and then.fold == fold
            if one.room == where.fold and one.user and (one.user in wanted or same):
                found.append(one)
        return found

    async def _impose(self, sanctions: list[Sanction]) -> Refusal | None:
        held = self._chat.sanctions
        if len(held) + len(sanctions) > MOST_SANCTIONS:
            held.sweep()
            if len(held) + len(sanctions) > MOST_SANCTIONS:
                return Refusal("forbidden", f"there are {MOST_SANCTIONS} of these: lift some first")
        for sanction in sanctions:
            outcome = await self._chat.bus.ask(Put(sanction.record()))
            if isinstance(outcome, Refusal):
                return outcome
            held.add(sanction)
        return None

    async def _lift(
        self,
        act: Literal["unban", "unmute", "slow", "close"],
        deed: Deed,
        found: list[Sanction],
        *,
        gone_is_fine: bool = False,
    ) -> commands.Sanctioned | Refusal:
        if not found and not gone_is_fine:
            return Refusal("not_found", "there is none to be taken back")
        for sanction in found:
            outcome = await self._chat.bus.ask(Drop(sanction.kind, sanction.name))
            if isinstance(outcome, Refusal):
                return outcome
            self._chat.sanctions.remove(sanction)
        self._log(act, deed)
        return commands.Sanctioned()

    def _put_out(
        self,
        connections: Iterable[Connection],
        where: Name,
        how: Literal["kicked", "banned"],
        reason: str,
    ) -> None:
        close = KICKED if how == "kicked" else BANNED
        for connection in list(connections):
            if not where.fold:
                for place in list(connection.memberships.values()):
                    connection.exit(place, how)
                connection.end(close, reason)
            elif membership := connection.memberships.get(where.fold):
                connection.put_out(membership, how)
                self._notice([connection], f"you were {how} from {membership.room.name}", reason)

    def _notice(self, connections: Iterable[Connection], text: str, reason: str) -> None:
        for connection in connections:
            connection.tell(events.Notice(f"{text}: {reason}" if reason else text))

    def _log(
        self,
        act: Literal["kick", "ban", "unban", "mute", "unmute", "slow", "close"],
        deed: Deed,
        *,
        target: Target | None = None,
        network: str | None = None,
    ) -> None:
        self._chat.log.emit(
            act,
            by=deed.by,
            room=deed.room,
            target=deed.user if target is None else target.user,
            nick=deed.nick if target is None else target.nick,
            network=network or deed.network,
            seconds=deed.seconds,
            reason=deed.reason or None,
        )


_LOOPBACK: Final[dict[int, ipaddress.IPv4Network | ipaddress.IPv6Network]] = {
    4: ipaddress.IPv4Network("127.0.0.0/8"),
    6: ipaddress.IPv6Network("::1/128"),
}


def _here(user: User) -> tuple[Connection, ...]:
    return tuple(each for each in user.connections if isinstance(each, Connection))


def _until(until: int | None) -> str | None:
    return None if until is None else events.rfc3339(until)
