"""What clients may take: what each thing costs that a client can make, and who may have how much.

| thing | costs | one client | one address | all |
| --- | --- | --- | --- | --- |
| a connection | 20 KiB, `CONNECTION_SECONDS` | | connections_per_address | connections |
| a session of Engine.IO | 25 KiB | | connections_per_address | sessions |
| a guest | 2 KiB | one | new_guests_per_minute_per_address | connections |
| a nick held for a guest who left | 2 KiB | one | held_nicks_per_address | held_nicks |
| a nick that a guest chose by HTTP | 2 KiB | | `NICKS_OF_A_PLACE` | held_nicks |
| a room | 2 KiB, its log | new_rooms_per_minute | new_rooms_per_minute_per_address | rooms |
| a membership | 0.5 KiB | rooms_per_client | | |
| a name in the cache of names | 1.3 KiB | | | 4,096 names |
| a request by HTTP | `REQUEST_SECONDS` | | share_per_address | |
| a message, whatever it says | `MESSAGE_SECONDS`, `BYTE_SECONDS` | `Slice` | share_per_address | |
| a chunk of a body, a packet of a POST | 128 bytes and its own | four times the bound | | |
| a fragment of a message | 128 bytes and its own | four times the bound | | |
| a decoded JSON value | `VALUE_BYTES` | `JSON_VALUES` | | |
| an event that waits for its handler | its decoded bytes | receive_queue_bytes | | |
| what waits to be sent | its encoded bytes | send_queue_bytes | | |
| a message that is said | | messages_per_second | messages_per_second_per_address | |
| a page or a list | `PAGE` | requests_per_second | requests_per_second_per_address | 2 threads |
| a search | `SEARCH` pages | as one page | as a page, one at a time | 1 thread |
| a refusal | a moment | `REFUSALS_PER_SECOND` | share_per_address | |

Keys are those of ``[limits]``; seconds are of the event loop's time. An address is an IPv4 address
or the /64 of an IPv6 address (``Peer.limit_key``). Clients of this machine, by loopback or by a
Unix socket without a proxy, have none: the limits of one client and of all apply to them.

Nothing that one client sends may hold the event loop for more than 5 ms: what is handled without
waiting is handled in slices (`SLICE_ITEMS`, `Slice`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import trio

__all__ = [
    "BYTE_SECONDS",
    "CHUNK_SECONDS",
    "CONNECTION_SECONDS",
    "FRAME_SECONDS",
    "JSON_VALUES",
    "MESSAGE_SECONDS",
    "NICKS_OF_A_PLACE",
    "PAGE",
    "REFUSALS_BURST",
    "REFUSALS_PER_SECOND",
    "REQUEST_SECONDS",
    "SEARCH",
    "SLICE_ITEMS",
    "TLS_SECONDS",
    "VALUE_BYTES",
    "Bucket",
    "Charge",
    "Pace",
    "Rate",
    "Slice",
    "json_values",
    "take",
]

# ---- the time of the event loop

CONNECTION_SECONDS: Final = 0.001
TLS_SECONDS: Final = 0.002
REQUEST_SECONDS: Final = 0.0005
MESSAGE_SECONDS: Final = 0.00015
FRAME_SECONDS: Final = 2e-6
CHUNK_SECONDS: Final = 3e-5
BYTE_SECONDS: Final = 6e-8
"""What a connection, its TLS handshake, a request, a message, a frame of WebSocket or a chunk of
HTTP, and a byte take, at most, on one core of a small server."""

BURST_SECONDS: Final = 0.05
"""An address that was quiet may take its share of this time at once: some 70 requests."""

SLICE_ITEMS: Final = 16
SLICE_BYTES: Final = 1024
"""Other tasks run after this many items of one client, or after 16 times as many bytes: no item
takes much over 0.1 ms, and a byte 60 ns."""


class Pace:
    """Whether an address takes more than its share of the event loop's time, and by how much.

    It says how long to wait before what its clients sent is handled.
    """

    __slots__ = ("_paid",)

    def __init__(self) -> None:
        self._paid = -math.inf
        """When everything that was taken so far is paid for, on Trio's clock."""

    def spend(self, seconds: float, share: float | Literal["off"]) -> None:
        """Record that ``seconds`` of the loop's time are taken; ``share`` of it is allowed."""
        if share != "off":
            self._paid = max(self._paid, trio.current_time() - BURST_SECONDS) + seconds / share

    @property
    def debt(self) -> float:
        """The seconds to wait until it is paid for; 0 if it is."""
        return max(0.0, self._paid - trio.current_time())

    @property
    def idle(self) -> bool:
        """Whether it is like a new one."""
        return self._paid == -math.inf or self._paid <= trio.current_time() - BURST_SECONDS


class Slice:
    """Says when a task that handles much of one client's input should let other tasks run."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = SLICE_ITEMS

    def over(self, size: int = 0) -> bool:
        """Record an item of ``size`` bytes. Return whether other tasks should run before the next.

        It is then a new slice.
        """
        self._left -= 1 + size // SLICE_BYTES
        if self._left > 0:
            return False
        self._left = SLICE_ITEMS
        return True


# ---- what is asked for


NICKS_OF_A_PLACE: Final = 8
"""How many nicks guests of one address may choose by HTTP at a time: one for each script. This also
holds for clients of this machine, whose places are the loopback address and the users of a Unix
socket."""

PAGE: Final = 1
SEARCH: Final = 5
"""What a page and a search take of the requests that an address may make."""

REFUSALS_PER_SECOND: Final = 100
REFUSALS_BURST: Final = 200
"""How many commands of one client are refused without a pause. After that its next command is read
a moment later. Honest clients are refused a few at a time."""


Rate: TypeAlias = float | Literal["off"]


class Bucket:
    """A token bucket: ``rate`` tokens a second come in, and at most ``burst`` are kept.

    Either may be "off": then nothing is limited. A full bucket allows an amount over the burst, and
    is then in debt.
    """

    __slots__ = ("at", "tokens")

    def __init__(self) -> None:
        self.tokens = math.inf
        self.at = -math.inf
        """When it had these tokens, on Trio's clock."""

    def take(self, amount: float, rate: Rate, burst: Rate) -> int:
        """Spend an amount and return 0, or spend nothing and return the milliseconds to wait."""
        return take([(self, amount, rate, burst)], trio.current_time())

    def owe(self, amount: float, rate: Rate, burst: Rate) -> None:
        """Spend an amount even if there is too little: nothing can be taken until that is paid.

        The debt is at most one burst, however much is spent.
        """
        if self.take(amount, rate, burst) and burst != "off":
            self.tokens = max(self.tokens - amount, -burst)

    def put_back(self, amount: float) -> None:
        """Undo a `take`."""
        self.tokens += amount

    def full_in(self, rate: Rate, burst: Rate) -> float:
        """Return the seconds until it is full, and so like a new one; 0 if it is full."""
        if rate == "off" or burst == "off":
            return 0
        seconds = (burst - self.tokens) / rate - (trio.current_time() - self.at)
        # Whole milliseconds: a timer that is due within the clock's rounding would fire forever.
        return math.ceil(seconds * 1000) / 1000 if seconds > 0 else 0

    def lack(self, seconds: float, rate: Rate, burst: Rate) -> None:
        """Let it be full in so many seconds at the earliest."""
        if rate != "off" and burst != "off" and seconds > self.full_in(rate, burst):
            self.tokens, self.at = burst - seconds * rate, trio.current_time()


Charge: TypeAlias = tuple[Bucket, float, Rate, Rate]
"""What is taken of a bucket, the tokens that it gets a second, and how many it keeps."""


def take(charges: Sequence[Charge], now: float) -> int:
    """Take from all of these buckets and return 0, or from none and return the ms to wait.

    ``now`` is the time on Trio's clock.
    """
    wait = 0.0
    for bucket, amount, rate, burst in charges:
        if rate == "off" or burst == "off":
            continue
        tokens = bucket.tokens + (now - bucket.at) * rate
        if tokens >= burst:
            tokens = burst
        elif tokens < amount:
            wait = max(wait, (min(amount, burst) - tokens) / rate)
        bucket.tokens, bucket.at = tokens - amount, now
    if wait:
        for bucket, amount, rate, burst in charges:
            if not (rate == "off" or burst == "off"):
                bucket.tokens += amount
        return math.ceil(wait * 1000)
    return 0


# ---- JSON

JSON_VALUES: Final = 2000
"""JSON values in one message of a chat client. The largest command has some 20."""

VALUE_BYTES: Final = 128
"""The memory of one decoded JSON value without its text: an object with one field takes 232 bytes,
and has two of `json_values`' marks."""

_MARKS: Final = ",[{:"


def json_values(text: str, most: int) -> int:
    """Return at least as many as the values that a JSON text has, without decoding it.

    What is counted are the marks before values: ``,`` ``[`` ``{`` and ``:``. Above ``most`` the
    number is not exact.
    """
    marks = sum(map(text.count, _MARKS))
    if marks < most:
        return marks + 1
    # Text may contain as many commas as it likes: only marks outside of strings count.
    bare = text.replace("\\\\", "").replace('\\"', "")
    if bare.count('"') > 2 * most:
        return most + 1
    return 1 + sum(map("".join(bare.split('"')[::2]).count, _MARKS))
