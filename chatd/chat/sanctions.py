"""Bans, mutes, slow mode and closed rooms.

Each is a record of the journal, so that it outlives the process. This module only looks them up:
`chatd.chat.moderation` imposes and lifts them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from chatd.chat.sessions import is_guest
from chatd.journal import FORGOTTEN, Journal
from chatd.journal.damage import Damage
from chatd.model import Record, Refused

__all__ = [
    "CONSOLE",
    "KINDS",
    "REMEDY",
    "Sanction",
    "SanctionKind",
    "Sanctions",
    "network_of",
    "sanction_of",
    "without",
]

CONSOLE: Final = "console"
"""The operator at the admin socket, beside a sanction and in the log. No user has this id."""

REMEDY: Final = "impose this sanction again, or restore a backup"
"""What to do about a record that should hold a sanction, and cannot be read."""

SanctionKind: TypeAlias = Literal["ban", "mute", "slow", "close"]

KINDS: Final[tuple[SanctionKind, ...]] = ("ban", "mute", "slow", "close")

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Sanction(Struct, frozen=True, omit_defaults=True):
    """A ban, a mute, a room's slow mode, or a closed room.

    Attributes:
        kind: Which of them.
        by: The operator's user id, or the console.
        by_nick: What others call that operator; empty for the console.
        at: When it was imposed, in milliseconds since 1970.
        room: The room's key; empty for the whole chat.
        user: Whom it applies to; empty for a network or a room.
        nick: The user's nick at that time.
        network: The network that is banned, in CIDR notation.
        of: The guest whose ban brought this one of a network with it: it applies only to guests.
        until: When it ends, in milliseconds since 1970; None if it lasts until it is lifted.
        seconds: How long slow mode makes a user wait between two messages.
        reason: What the operator gave as the reason.
    """

    kind: SanctionKind
    by: str
    at: int
    by_nick: str = ""
    room: str = ""
    user: str = ""
    nick: str = ""
    network: str = ""
    of: str = ""
    until: int | None = None
    seconds: float = 0
    reason: str = ""

    def explained(self, text: str, now: int) -> str:
        """Return a sentence: ``text``, by whom, for how long from ``now`` on, and why."""
        by = f" by {self.by_nick}" if self.by_nick else ""
        time = "until further notice" if self.until is None else f"for {_time(self.until - now)}"
        return f"{text}{by} {time}{f': {self.reason}' if self.reason else '.'}"

    @property
    def name(self) -> str:
        """The name of its record. There is one for each room and user or network."""
        return f"{self.room}\0{self.user or self.network}"

    def record(self) -> Record:
        return Record(self.kind, self.name, msgspec.json.encode(self), self.until)


def sanction_of(record: Record) -> Sanction:
    """Return the sanction that a record holds.

    Raises:
        ValueError: It holds none, because somebody has changed it by hand.
    """
    try:
        sanction = msgspec.json.decode(record.value, type=Sanction)
    except RecursionError:
        raise ValueError("It is nested too deeply") from None
    if (sanction.kind, sanction.name, sanction.until) != (record.kind, record.name, record.until):
        raise ValueError("It is the sanction of another record")
    if sanction.network:
        network = network_of(sanction.network)
        if network is None or str(network) != sanction.network:
            raise ValueError(f"{sanction.network[:64]!r} is not a network")
    return sanction


def network_of(text: str) -> Network | None:
    """Return the network that an address or CIDR notation names; None if the text is neither."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return ipaddress.ip_network((mapped, network.prefixlen - 96), strict=False)
    return network


def without(sanction: Sanction, user: str) -> Sanction | None:
    """Return what is left of a sanction when a user is forgotten; None if nothing is.

    A guest's own sanctions go, because the guest cannot come back. The networks that were banned
    along with the guest stay banned for guests. A subject comes back under the same id, so its
    sanctions stay; only the nick of that time goes.
    """
    if sanction.user == user:
        return None if is_guest(user) else replace(sanction, nick="")
    if sanction.of == user:
        return replace(sanction, of=FORGOTTEN, nick="")
    return replace(sanction, by=FORGOTTEN) if sanction.by == user else sanction


class Sanctions:
    """All sanctions, by what they apply to. ``now`` returns milliseconds since 1970."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self.held: dict[tuple[SanctionKind, str], Sanction] = {}
        """All of them, by kind and name; empty in most chats, which then look no further."""
        # By room and prefix length: few lengths are in use, whatever the number of networks.
        self._networks: dict[str, dict[tuple[int, int], dict[int, Sanction]]] = {}

    def __len__(self) -> int:
        return len(self.held)

    async def load(self, journal: Journal, damage: Damage) -> None:
        """Read those that the store has, in place of those that are held.

        Those that cannot be read are not in force.

        Args:
            journal: The store.
            damage: Reports what cannot be read.

        Raises:
            chatd.journal.Unavailable: They cannot be read now. Those that are held stay so.
        """
        records = [record for kind in KINDS for record in await journal.records(kind)]
        for sanction in list(self.held.values()):
            self.remove(sanction)
        for sanction in damage.readable(records, sanction_of, REMEDY):
            self.add(sanction)

    def add(self, sanction: Sanction) -> None:
        """Add a sanction, in place of the one with the same name."""
        self.held[sanction.kind, sanction.name] = sanction
        if sanction.network:
            length, address = _key(ipaddress.ip_network(sanction.network))
            self._networks.setdefault(sanction.room, {}).setdefault(length, {})[address] = sanction

    def remove(self, sanction: Sanction) -> None:
        """Remove a sanction."""
        if self.held.pop((sanction.kind, sanction.name), None) is not None and sanction.network:
            length, address = _key(ipaddress.ip_network(sanction.network))
            lengths = self._networks[sanction.room]
            del lengths[length][address]
            if not lengths[length]:
                del lengths[length]
            if not lengths:
                del self._networks[sanction.room]

    def sweep(self) -> None:
        """Remove those that have ended. The store does so by itself."""
        for sanction in [one for one in self.held.values() if not self._holds(one)]:
            self.remove(sanction)

    def get(self, kind: SanctionKind, room: str, of: str) -> Sanction | None:
        """Return the sanction of a user or a network in a room, or of the room itself."""
        return self._live(self.held.get((kind, f"{room}\0{of}")))

    def all(self, kinds: Iterable[SanctionKind] = KINDS) -> Iterator[Sanction]:
        """Return those of these kinds, the newest last."""
        wanted = set(kinds)
        held = [one for one in self.held.values() if one.kind in wanted and self._holds(one)]
        yield from sorted(held, key=lambda one: one.at)

    def ban(self, room: str, user: str, address: str, *, guest: bool) -> Sanction | None:
        """Return what bans a client from a room or from the chat.

        Args:
            room: The room's key; empty for the chat.
            user: The user's id; empty if it is not known yet.
            address: The client's address or network; empty if limits do not apply to it.
            guest: Whether the client is a guest: only guests are banned along with another guest.
        """
        if not self.held:
            return None
        if user and (held := self.get("ban", room, user)):
            return held
        lengths = self._networks.get(room)
        if lengths is None or not address:
            return None
        parsed = ipaddress.ip_network(address, strict=False)
        bits = int(parsed.network_address)
        for (version, length), networks in lengths.items():
            if version == parsed.version and length <= parsed.prefixlen:
                shift = parsed.max_prefixlen - length
                held = self._live(networks.get(bits >> shift << shift))
                if held is not None and (guest or not held.of):
                    return held
        return None

    def mute(self, room: str, user: str) -> Sanction | None:
        """Return what mutes a user in a room."""
        if not self.held:
            return None
        return self.get("mute", room, user) or self.get("mute", "", user)

    def refused(self, sanction: Sanction, text: str) -> Refused:
        """Return the exception to raise for a sanction; ``text`` begins its message."""
        code: Literal["banned", "muted", "forbidden"] = "forbidden"
        if sanction.kind == "ban":
            code = "banned"
        elif sanction.kind == "mute":
            code = "muted"
        now = self._now()
        left = None if sanction.until is None else max(1, sanction.until - now)
        return Refused(code, sanction.explained(text, now), left)

    def _holds(self, sanction: Sanction) -> bool:
        return sanction.until is None or sanction.until > self._now()

    def _live(self, sanction: Sanction | None) -> Sanction | None:
        return sanction if sanction is not None and self._holds(sanction) else None


def _time(milliseconds: int) -> str:
    """Return a time in its largest unit of which it has two or more, rounded up."""
    count, unit = max(1, -(-milliseconds // 1000)), "second"
    for size, larger in ((60, "minute"), (60, "hour"), (24, "day")):
        if count < 2 * size and count != size:
            break
        count, unit = -(-count // size), larger
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _key(network: Network) -> tuple[tuple[int, int], int]:
    return (network.version, network.prefixlen), int(network.network_address)
