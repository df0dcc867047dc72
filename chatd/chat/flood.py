"""Flood control: how much a user may send and ask, and all clients of an address together.

`chatd.budgets` says what each thing costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import trio
from msgspec import Meta, json

from chatd.budgets import PAGE, Bucket, Charge, Rate, take
from chatd.model import Refused
from chatd.settings import Limits

if TYPE_CHECKING:
    from chatd.chat.actor import Actor
    from chatd.chat.chat import Chat
    from chatd.chat.user import User

__all__ = ["Flood"]

BURST_SECONDS: Final = 2
"""This many seconds' worth of ``limits.bytes_per_second`` may be sent at once."""

ROOMS_MINUTES: Final = 5
"""As many rooms as may be created in this time may be created at once."""

_Debt: TypeAlias = list[Annotated[int, Meta(ge=0, le=2**53)]]
"""When each of a user's buckets is full, in ms since 1970."""


class _Address:
    """An address: its number of connections, and what all of them may send and ask."""

    __slots__ = (
        "connections",
        "guests",
        "leaving",
        "messages",
        "new_rooms",
        "pages",
        "searching",
    )

    def __init__(self) -> None:
        self.connections = 0
        self.messages = Bucket()
        self.pages = Bucket()
        self.guests = Bucket()
        self.new_rooms = Bucket()
        self.searching = trio.Lock()
        self.leaving = False
        """Whether a timer will check if it can be forgotten."""


class Flood:
    """The buckets of users and addresses. An empty address is not limited."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._addresses: dict[str, _Address] = {}
        # Asking it is a third of the calls of `trio.current_time`.
        self._clock = trio.lowlevel.current_clock()

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
        self._forget_later(address, place)

    def _forget_later(self, address: str, place: _Address) -> None:
        if not place.connections and not place.leaving:
            place.leaving = True
            now = trio.current_time()
            self._chat.timers.add(now + self._full_in(place), partial(self._forget, address))

    def admit_guest(self, address: str) -> None:
        """Count a new guest, or raise Refused if an address brings too many."""
        if not address:
            return
        limits = self._chat.settings.limits
        place = self._addresses.setdefault(address, _Address())
        wait = place.guests.take(1, *_guests(limits))
        self._forget_later(address, place)
        if wait:
            raise Refused("rate_limited", "Too many new guests come from your address.", wait)

    def charge(self, connection: Actor, size: int) -> None:
        """Count a message of ``size`` bytes, or raise Refused if there are too many."""
        limits = self._chat.settings.limits
        user, place = connection.user, self._addresses.get(connection.limit_key)
        charges: list[Charge] = [
            (user.messages, 1, limits.messages_per_second, limits.messages_burst),
            (user.bytes, size, limits.bytes_per_second, _bytes_burst(limits)),
        ]
        if place is not None:
            by_address = limits.messages_per_second_per_address
            charges.append((place.messages, 1, by_address, limits.messages_burst_per_address))
        self._charge(connection, charges, "You are sending messages too fast.")

    def charge_page(self, connection: Actor, pages: int = PAGE) -> None:
        """Count a read of the store or a long list, or raise Refused if there are too many.

        A user is charged one page, an address ``pages``. A connection that has no user yet is
        counted for its address alone.
        """
        limits = self._chat.settings.limits
        rate: Rate = limits.requests_per_second
        burst: Rate = limits.requests_burst
        charges: list[Charge] = []
        if connection.authenticated:
            charges.append((connection.user.pages, PAGE, rate, burst))
        if (place := self._addresses.get(connection.limit_key)) is not None:
            rate, burst = limits.requests_per_second_per_address, limits.requests_burst_per_address
            charges.append((place.pages, pages, rate, burst))
        self._charge(connection, charges, "You are asking too often.")

    def charge_room(self, connection: Actor) -> None:
        """Count a room that is about to be created, or raise Refused if there are too many."""
        limits = self._chat.settings.limits
        charges: list[Charge] = [
            (connection.user.new_rooms, 1, *_rooms(limits.new_rooms_per_minute)),
        ]
        if (place := self._addresses.get(connection.limit_key)) is not None:
            charges.append((place.new_rooms, 1, *_rooms(limits.new_rooms_per_minute_per_address)))
        self._charge(connection, charges, "You are creating rooms too fast.")

    def _charge(self, connection: Actor, charges: Sequence[Charge], message: str) -> None:
        """Make all of these charges, or none and raise Refused."""
        if connection.op and self._chat.settings.limits.operators_exempt:
            return
        if wait := take(charges, self._clock.current_time()):
            # A refused message costs nothing.
            raise Refused("rate_limited", message, wait)

    def count(self, user: User, size: int) -> None:
        """Count a message that the user sent elsewhere, whether or not it still fits.

        So the messages that a user sends at several daemons are limited together. Until the other
        daemons hear of a message, a moment later, each lets its own burst through.

        Args:
            user: The user.
            size: The size of its text, in bytes.
        """
        limits = self._chat.settings.limits
        user.messages.owe(1, limits.messages_per_second, limits.messages_burst)
        user.bytes.owe(size, limits.bytes_per_second, _bytes_burst(limits))

    def debt(self, user: User) -> bytes:
        """Return what a user's buckets lack, for `resume`; empty if they are full."""
        now = self._chat.journal.steady_now()
        lacks = [bucket.full_in(rate, burst) for bucket, rate, burst in self._buckets(user)]
        if not any(lacks):
            return b""
        return json.encode([now + round(seconds * 1000) for seconds in lacks])

    def resume(self, user: User, debt: bytes) -> None:
        """Let a user's buckets lack at least what `debt` returned, less what came in since."""
        if not debt:
            return
        now = self._chat.journal.steady_now()
        try:
            full_at = json.decode(debt, type=_Debt)
        except (ValueError, RecursionError):
            self._chat.damage.note(
                f"the debt of {user.id} in the store is not as chatd has written it, and is left "
                "out: it is written again when the user's last client leaves"
            )
            return
        for (bucket, rate, burst), at in zip(self._buckets(user), full_at, strict=False):
            bucket.lack((at - now) / 1000, rate, burst)

    def _buckets(self, user: User) -> list[tuple[Bucket, Rate, Rate]]:
        """Return a user's buckets, each with its rate and its burst."""
        limits = self._chat.settings.limits
        return [
            (user.messages, limits.messages_per_second, limits.messages_burst),
            (user.bytes, limits.bytes_per_second, _bytes_burst(limits)),
            (user.pages, limits.requests_per_second, limits.requests_burst),
            (user.new_rooms, *_rooms(limits.new_rooms_per_minute)),
        ]

    def searching(self, connection: Actor) -> AbstractAsyncContextManager[object]:
        """Return a lock that an address holds while it searches; one that is free without one."""
        place = self._addresses.get(connection.limit_key)
        return nullcontext() if place is None else place.searching

    def _full_in(self, place: _Address) -> float:
        limits = self._chat.settings.limits
        return max(
            place.messages.full_in(
                limits.messages_per_second_per_address, limits.messages_burst_per_address
            ),
            place.pages.full_in(
                limits.requests_per_second_per_address, limits.requests_burst_per_address
            ),
            place.guests.full_in(*_guests(limits)),
            place.new_rooms.full_in(*_rooms(limits.new_rooms_per_minute_per_address)),
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


def _guests(limits: Limits) -> tuple[Rate, Rate]:
    """Return how many new guests of an address there may be a second, and at once."""
    by_minute, at_once = limits.new_guests_per_minute_per_address, limits.connections_per_address
    if by_minute == "off":
        return "off", "off"
    return by_minute / 60, by_minute if at_once == "off" else at_once


def _bytes_burst(limits: Limits) -> Rate:
    """Return how many bytes a user may send at once: the longest message at least."""
    rate, least = limits.bytes_per_second, limits.message_bytes
    if rate == "off":
        return "off"
    burst = BURST_SECONDS * rate
    if burst < least:
        return least
    return burst


def _rooms(by_minute: Rate) -> tuple[Rate, Rate]:
    """Return how many new rooms there may be a second, and at once."""
    return ("off", "off") if by_minute == "off" else (by_minute / 60, ROOMS_MINUTES * by_minute)
