"""Flood control: how much a user may send and ask, and all clients of an address may send."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import trio

from chatd.model import Refused

if TYPE_CHECKING:
    from chatd.chat.chat import Chat
    from chatd.chat.connection import Connection

__all__ = ["Bucket", "Flood"]

BURST_SECONDS: Final = 2
"""This many seconds' worth of ``limits.bytes_per_second`` may be sent at once."""


class Bucket:
    """A token bucket: ``rate`` tokens a second come in, and at most ``burst`` are kept.

    Either may be "off": then nothing is limited. A full bucket allows an amount over the burst, and
    is then in debt.
    """

    __slots__ = ("_at", "_tokens")

    def __init__(self) -> None:
        self._tokens = math.inf
        self._at = -math.inf

    def take(
        self, amount: float, rate: float | Literal["off"], burst: float | Literal["off"]
    ) -> int:
        """Spend an amount and return 0, or spend nothing and return the milliseconds to wait."""
        if rate == "off" or burst == "off":
            return 0
        now = trio.current_time()
        tokens = min(burst, self._tokens + (now - self._at) * rate)
        self._tokens, self._at = tokens, now
        missing = min(amount, burst) - tokens
        if missing > 0:
            return math.ceil(missing / rate * 1000)
        self._tokens -= amount
        return 0

    def put_back(self, amount: float) -> None:
        """Undo a `take`."""
        self._tokens += amount

    def full_in(self, rate: float | Literal["off"], burst: float | Literal["off"]) -> float:
        """Return the seconds until it is full, and so like a new one; 0 if it is full."""
        if rate == "off" or burst == "off":
            return 0
        seconds = (burst - self._tokens) / rate - (trio.current_time() - self._at)
        # Whole milliseconds: a timer that is due within the clock's rounding would fire forever.
        return math.ceil(seconds * 1000) / 1000 if seconds > 0 else 0


class _Address:
    """An address: its number of connections, and their common allowance of messages."""

    __slots__ = ("connections", "leaving", "messages")

    def __init__(self) -> None:
        self.connections = 0
        self.messages = Bucket()
        self.leaving = False
        """Whether a timer will check if it can be forgotten."""


class Flood:
    """The buckets of users and addresses. An empty address is not limited."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._addresses: dict[str, _Address] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def enter(self, address: str) -> None:
        if address:
            self._addresses.setdefault(address, _Address()).connections += 1

    def exit(self, address: str) -> None:
        """Record that a connection ended. An address without any is forgotten after a while."""
        if not address:
            return
        place = self._addresses[address]
        place.connections -= 1
        if not place.connections and not place.leaving:
            place.leaving = True
            now = trio.current_time()
            self._chat.timers.add(now + self._full_in(place), partial(self._forget, address))

    def charge(self, connection: Connection, size: int) -> None:
        """Count a message of ``size`` bytes, or raise Refused if there are too many."""
        limits = self._chat.settings.limits
        if connection.op and limits.operators_exempt:
            return
        user, place = connection.user, self._addresses.get(connection.limit_key)
        by_address = 0
        if place is not None:
            by_address = place.messages.take(
                1, limits.messages_per_second_per_address, limits.messages_burst_per_address
            )
        by_count = user.messages.take(1, limits.messages_per_second, limits.messages_burst)
        rate = limits.bytes_per_second
        burst = 0 if rate == "off" else max(limits.message_bytes, BURST_SECONDS * rate)
        by_size = user.bytes.take(size, rate, burst)
        if not (by_address or by_count or by_size):
            return
        # A refused message costs nothing.
        if place is not None and not by_address:
            place.messages.put_back(1)
        if not by_count:
            user.messages.put_back(1)
        if not by_size:
            user.bytes.put_back(size)
        wait = max(by_address, by_count, by_size)
        raise Refused("rate_limited", "You are sending messages too fast.", wait)

    def charge_page(self, connection: Connection) -> None:
        """Count a page or a list, or raise Refused if there are too many."""
        limits = self._chat.settings.limits
        if connection.op and limits.operators_exempt:
            return
        pages = connection.user.pages
        if wait := pages.take(1, limits.requests_per_second, limits.requests_burst):
            raise Refused("rate_limited", "You are asking too often.", wait)

    def _full_in(self, place: _Address) -> float:
        limits = self._chat.settings.limits
        return place.messages.full_in(
            limits.messages_per_second_per_address, limits.messages_burst_per_address
        )

    def _forget(self, address: str, now: float) -> float | None:
        """Forget an address without connections, unless a new bucket would allow more."""
        place = self._addresses[address]
        if not place.connections and (seconds := self._full_in(place)):
            return now + seconds
        place.leaving = False
        if not place.connections:
            del self._addresses[address]
        return None
