"""The engine: what a store that several daemons share does, as `chatd.journal.shared` needs it.

Each of these daemons is a *node*. The engine is one place that all nodes reach over a network: it
may be away, slow, restarted, or replaced by a copy that lacks the last moments. Each time it
starts anew it has another *life*. `SharedJournal` makes a journal of it: it decides what to do
when the engine does not answer.

* `chatd.journal.redis` has the engine on Redis.
* `chatd.journal.modelled.ModelEngine` is one in the process, for tests, with faults on demand. It
  is the reference for what each operation does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from chatd.journal import Reads, Unavailable
from chatd.journal.retention import Retention
from chatd.model import Entered, FeedEntry, Operation, Outcome, Refusal, Relayed

__all__ = [
    "FEED_ENTRIES",
    "FEED_SECONDS",
    "LEASE_SECONDS",
    "NICK_TAKEN",
    "PERSONAL",
    "REPLICATED",
    "Engine",
    "Fed",
    "Holder",
    "Life",
    "Lost",
    "Node",
    "Stale",
    "Sweep",
]

REPLICATED: Final = frozenset({"ban", "mute", "slow", "close", "forgotten"})
"""Kinds of records that nodes hold in memory: each change of one is an item, `RecordChanged`."""

PERSONAL: Final = frozenset({"mark"})
"""The same, for records that are named by a user, a NUL and more: there is an item only if the user
is at more than one node after the change."""

NICK_TAKEN: Final = Refusal("nick_taken", "This nick is taken.")
"""The outcome of a `Claim` that cannot be had."""

LEASE_SECONDS: Final = 15.0
"""By default, a node is taken for dead when it has not beaten for this long."""

FEED_SECONDS: Final = 5.0
"""For how long `Engine.feed` waits for an entry at most: an empty answer is a life sign."""

FEED_ENTRIES: Final = 256
"""How many entries `Engine.feed` returns at most."""


class Lost(Unavailable):
    """The engine did not answer in time, or the link to it is gone: the outcome is unknown.

    The node must `enter` again before anything else.
    """


class Stale(Unavailable):
    """The engine's life or the node's lease is over: nothing was done; `enter` again."""


class Life(Struct, frozen=True):
    """What a node learns when it enters the present life of the engine."""

    node: str
    """The node's id, new if it has no lease any longer: 16 hexadecimal digits."""
    epoch: str
    """Names this generation of the store's numbers."""
    key: bytes
    """32 random bytes, made with the store, for signing session secrets."""
    position: int
    """The position of the feed's last entry; 0 if there was none yet."""
    origin: str
    """The origin of that entry (see `Fed`); empty if there was none."""
    now: int
    """The engine's time, in ms since 1970."""
    lost: bool = False
    """Whether a new life lacks entries that this node may have shown or answered: the one that it
    read last is not there or is another one, or its last confirmed batch is unknown."""
    former: Mapping[str, int] = {}
    """Former epochs, and the last position of each that is still the same in this one."""


class Fed(Struct, frozen=True, gc=False):
    """An entry of the feed.

    Attributes:
        position: Its position.
        origin: Who wrote it: the node, the number of its batch, and the place in the batch, joined
            with dots. A node's own entries begin with its id and a dot.
        entry: The event or item; None if it is of a room that is not wanted.
    """

    position: int
    origin: str
    entry: FeedEntry | None


class Holder(Struct, frozen=True):
    """Who has a look: see `Claim`.

    Attributes:
        user: The user's id.
        nick: The user's nick as displayed.
        present: Whether the user is at a node; otherwise the nick is held, or is a subject's.
        subject: Whether a token names the user.
    """

    user: str
    nick: str
    present: bool
    subject: bool


class Node(Struct, frozen=True):
    """A node with a lease: its id, when the lease ends (ms), and what it says of itself."""

    node: str
    lease_until: int
    facts: bytes


class Sweep(Struct, frozen=True):
    """What a chunk of retention did.

    Attributes:
        removed: How many events it removed.
        more: Whether there is more to do at once.
        due: When something is due next, in ms since 1970; None if nothing is.
        bytes: The size of what the store holds.
    """

    removed: int
    more: bool
    due: int | None
    bytes: int


class Engine(Reads, Protocol):
    """The operations of a store that several daemons share. One object serves one node.

    Every method that waits raises `Lost` once its deadline has passed or the link is gone, `Stale`
    if the node has to `enter`, and `Unavailable` if the engine refused before anything was
    written. Any may be called while others wait, but one task alone calls `commit` and `void`, and
    one alone calls `feed`; what waits when `enter` is called raises `Lost`. If `commit` or `void`
    is cancelled, that is as `Lost`; any other call may be cancelled without harm.

    The deadlines are the engine's own: ``history.timeout_seconds`` for each call (`feed` waits for
    `FEED_SECONDS` besides). Times are the engine's, in ms since 1970.
    """

    @property
    def lease_seconds(self) -> float:
        """For how long a lease lasts, from the `enter` that began it or from a `beat` on."""
        ...

    async def enter(self, last: tuple[int, str] | None, confirmed: int, facts: bytes) -> Life:
        """Connect to the present life of the engine, or connect again. Everything begins with this.

        The first node that enters a new life gives it a new epoch, and appends a `Renewed` to the
        feed. A node gets another id if its lease is over, or if entries are ``lost`` (see `Life`).
        What it had published under the old one (`Arrive`, `Enter`, `Lease`) is then removed by
        `bury`, and its batches are numbered from 1 again.

        A lease that is not over goes on as it was, and is not extended: a node that tries again and
        again to enter, but gets no answers, must be taken for dead.

        Args:
            last: The position and the origin of the last feed entry that the node has read; None
                at the start.
            confirmed: The number of the last batch, under the present id, whose outcomes the node
                has got; 0 for none.
            facts: What `nodes` returns of this node.
        """
        ...

    async def commit(self, number: int, batch: Sequence[Operation]) -> list[Outcome]:
        """Carry out a whole batch or nothing of it, once, and return the outcomes in its order.

        The same number with the same batch returns the same outcomes again and does nothing; so a
        batch can be sent again after `Lost`. A number that is lower, or was made void, raises
        `Unavailable`; one that skips others, and any number of a node without a lease, `Stale`.

        Events and items get their positions in the order of the batch, without a gap. Only a
        `Restore` has no entries: it appends a `Renewed`, and its events take the positions behind.

        Args:
            number: The number of the batch: 1 for the first of this node's id, then one more each
                time.
            batch: The operations, at least one.
        """
        ...

    async def void(self, node: str, number: int) -> list[Outcome] | None:
        """Settle a batch whose outcome is unknown: return its outcomes, or None if it was not done.

        After None it never will be, even if a copy of it arrives later.

        Args:
            node: The id of this node under which it was sent; it may have another one now.
            number: The number of the batch.
        """
        ...

    async def feed(self, after: int, wanted: Callable[[str], bool]) -> Sequence[Fed | Relayed]:
        """Return the next entries after a position, in order, as soon as there are any.

        Positions have no gap: if the first one is not ``after + 1``, entries are missing. An empty
        answer comes after `FEED_SECONDS`. A `Relayed` was published by another node.

        Args:
            after: The position.
            wanted: Returns whether events of a room, by its key, are of use here. Items always
                are, and so are this node's own events.
        """
        ...

    def publish(self, kind: str, body: bytes) -> None:
        """Send something to the other nodes that may be lost; it never waits and never fails."""
        ...

    async def beat(self, facts: bytes) -> int:
        """Extend the node's lease to `lease_seconds` from now; return the engine's time."""
        ...

    async def bury(self, hold_ms: int) -> bool:
        """Clean up one chunk after nodes whose lease is over; return whether more is left.

        Their users leave their rooms (`Exited`, ``lost``), and those who are at no other node are
        held for ``hold_ms`` more, as by `Depart`. Their records under `Lease` get their end.
        """
        ...

    async def leave(self) -> None:
        """End the node's lease at once, so that another node may bury it. Never raises."""
        ...

    async def sweep(self, retention: Retention) -> Sweep:
        """Remove one chunk of what retention drops, as `Journal.sweep` says.

        A chunk of a room's events is one item, `chatd.model.Swept`. The feed is trimmed too,
        except for its last entry: deleted words leave it within half of ``purge_seconds``.
        """
        ...

    # ---- reading

    async def position(self) -> int:
        """Return the last position that was given to an event or an item."""
        ...

    async def members(self, room: str) -> list[Entered]:
        """Return who is in a room, by user ids, each under the present nick.

        ``position`` is that of the last feed entry before the read, ``first`` is True.
        """
        ...

    async def occupied(self) -> dict[str, tuple[str, int]]:
        """Return the name and the number of members of each room that has any, by its key.

        Without rooms of direct messages.
        """
        ...

    async def holder(self, look: str) -> Holder | None:
        """Return who has a look, in use, held, or as a subject's; None if a guest may have it."""
        ...

    async def nodes(self) -> list[Node]:
        """Return the nodes with a lease, by their ids."""
        ...

    async def aclose(self) -> None:
        """Close the links. A second call does nothing."""
        ...
