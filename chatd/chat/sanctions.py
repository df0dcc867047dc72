"""What is held against somebody or over a room: bans, mutes, slow mode, closed rooms.

Each is a record of the journal, so that it outlives the process; here is what is asked at every
door. Nothing here acts: see `chatd.chat.moderation`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from chatd.journal import Journal
from chatd.model import Record, Refused

__all__ = ["KINDS", "Kind", "Sanction", "Sanctions", "network_of"]

Kind: TypeAlias = Literal["ban", "mute", "slow", "close"]

KINDS: Final[tuple[Kind, ...]] = ("ban", "mute", "slow", "close")

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Sanction(Struct, frozen=True, omit_defaults=True):
    """One of them. Times are in ms since 1970; ``until`` None: until it is taken back.

    ``room`` is a fold; empty: everywhere. A ban or a mute is of a ``user``, and a ban may be of a
    ``network`` (in CIDR) in place of one; of the guests there alone, where it came with the ban
    ``of`` a guest.
    ``seconds`` is what slow mode asks for between two messages.
    """

    kind: Kind
    by: str
    at: int
    room: str = ""
    user: str = ""
    nick: str = ""
    network: str = ""
    of: str = ""
    until: int | None = None
    seconds: float = 0
    reason: str = ""

    @property
    def name(self) -> str:
        """Its record's name: what it is of, so that one is kept of each."""
        return f"{self.room}\0{self.user or self.network}"

    def record(self) -> Record:
        return Record(self.kind, self.name, msgspec.json.encode(self), self.until)


def network_of(text: str) -> Network | None:
    """Read an address or a network in CIDR; None where it is neither."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return ipaddress.ip_network((mapped, network.prefixlen - 96), strict=False)
    return network


class Sanctions:
    """All that hold, found by whom or what they are of. ``now`` gives ms since 1970."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._held: dict[tuple[Kind, str], Sanction] = {}
        # By room and prefix length: few lengths are in use, whatever the number of networks.
        self._networks: dict[str, dict[tuple[int, int], dict[int, Sanction]]] = {}

    def __len__(self) -> int:
        return len(self._held)

    async def load(self, journal: Journal) -> None:
        """Take what the store has."""
        for kind in KINDS:
            for record in await journal.records(kind):
                self.add(msgspec.json.decode(record.value, type=Sanction))

    def add(self, sanction: Sanction) -> None:
        """Hold it, in place of what was held of the same."""
        self._held[sanction.kind, sanction.name] = sanction
        if sanction.network:
            length, address = _key(ipaddress.ip_network(sanction.network))
            self._networks.setdefault(sanction.room, {}).setdefault(length, {})[address] = sanction

    def remove(self, sanction: Sanction) -> None:
        """Hold it no more."""
        if self._held.pop((sanction.kind, sanction.name), None) is not None and sanction.network:
            length, address = _key(ipaddress.ip_network(sanction.network))
            lengths = self._networks[sanction.room]
            del lengths[length][address]
            if not lengths[length]:
                del lengths[length]
            if not lengths:
                del self._networks[sanction.room]

    def sweep(self) -> None:
        """Let go of those that have ended: the store does so by itself."""
        for sanction in [one for one in self._held.values() if not self._holds(one)]:
            self.remove(sanction)

    def get(self, kind: Kind, room: str, of: str) -> Sanction | None:
        """Give one by what it is of: a user, a network, or nothing but the room."""
        return self._live(self._held.get((kind, f"{room}\0{of}")))

    def all(self, kinds: Iterable[Kind] = KINDS) -> Iterator[Sanction]:
        """Give those that hold, of these kinds, the newest last."""
        wanted = set(kinds)
        held = [one for one in self._held.values() if one.kind in wanted and self._holds(one)]
        yield from sorted(held, key=lambda one: one.at)

    def ban(self, room: str, user: str, address: str, *, guest: bool) -> Sanction | None:
        """Tell what keeps somebody out of a room; ``""``: out of everything.

        ``address`` is empty where no limit by address holds.
        """
        if not self._held:
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
        """Tell what keeps somebody from saying anything in a room."""
        if not self._held:
            return None
        return self.get("mute", room, user) or self.get("mute", "", user)

    def refused(self, sanction: Sanction, text: str) -> Refused:
        """Return the exception to raise for a sanction, with its reason and its remaining time."""
        code: Literal["banned", "muted", "forbidden"] = "forbidden"
        if sanction.kind == "ban":
            code = "banned"
        elif sanction.kind == "mute":
            code = "muted"
        reason = f": {sanction.reason}" if sanction.reason else ""
        left = None if sanction.until is None else max(1, sanction.until - self._now())
        return Refused(code, f"{text}{reason}", left)

    def _holds(self, sanction: Sanction) -> bool:
        return sanction.until is None or sanction.until > self._now()

    def _live(self, sanction: Sanction | None) -> Sanction | None:
        return sanction if sanction is not None and self._holds(sanction) else None


def _key(network: Network) -> tuple[tuple[int, int], int]:
    return (network.version, network.prefixlen), int(network.network_address)
