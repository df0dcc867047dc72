"""Flood control by address: what is said over all the connections that come from one."""

from __future__ import annotations

from chatd.chat.limits import Bucket
from chatd.chat.users import User
from chatd.settings import Limits

__all__ = ["Flood"]


class _Place:
    """An address: how many connections come from it, and what they may still say."""

    __slots__ = ("connections", "messages")

    def __init__(self) -> None:
        self.connections = 0
        self.messages = Bucket()


class Flood:
    """The buckets of addresses, by whom limits count them for; empty is whom they do not count."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def restless(self) -> bool:
        """Whether an address is remembered from which nobody is here."""
        return any(not place.connections for place in self._places.values())

    def enter(self, address: str) -> None:
        if address:
            self._places.setdefault(address, _Place()).connections += 1

    def exit(self, address: str) -> None:
        if address:
            self._places[address].connections -= 1

    def says(self, user: User, address: str, size: int, limits: Limits) -> int:
        """Give the milliseconds until a user may say ``size`` bytes from there; 0: now."""
        rate, burst = limits.messages_per_second_per_address, limits.messages_burst_per_address
        place = self._places.get(address)
        if place is not None and (wait := place.messages.wait(1, rate, burst)):
            return wait
        wait = user.floods(size, limits)
        if place is not None and not wait:
            place.messages.spend(1)
        return wait

    def sweep(self, limits: Limits) -> None:
        """Forget addresses from which nobody is here, once there is nothing to remember of them."""
        rate, burst = limits.messages_per_second_per_address, limits.messages_burst_per_address
        for address, place in list(self._places.items()):
            if not place.connections and place.messages.full(rate, burst):
                del self._places[address]
