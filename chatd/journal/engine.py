"""The engine: the server of a store that several daemons share, as `chatd.journal.shared` needs it.

Each of these daemons is a *node*. All nodes reach the engine over a network. It may be out of
reach, slow or restarted, or replaced by a replica that lacks the last changes. Each start, and each
replica that takes over, begins another *life*. `SharedJournal` makes a journal of the engine, and
decides what to do when it does not answer.

* `chatd.journal.redis` has the engine on Redis.
* `chatd.journal.modelled.ModelEngine` is an engine in the process, for tests, with faults on
  demand. It is the reference for each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from chatd.histogram import Histogram
from chatd.journal import Reads, Unavailable
from chatd.journal.retention import Retention
from chatd.model import Entered, FeedEntry, Operation, Outcome, Refusal, Relayed

__all__ = [
    "FEED_ENTRIES",
    "FEED_SECONDS",
    "FORMER_EPOCHS",
    "LEASE_SECONDS",
    "NICK_TAKEN",
    "PERSONAL",
    "REPLICATED",
    "Condition",
    "Damaged",
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
"""The outcome of a `Claim` of a nick that another user has."""

FORMER_EPOCHS: Final = 1000
"""How many former epochs are known. No position of an earlier one can be resumed."""

LEASE_SECONDS: Final = 15.0
"""By default, a node is taken for dead after this time without a `beat`."""

FEED_SECONDS: Final = 5.0
"""How long `Engine.feed` waits for an entry at most. An empty answer is a sign of life."""

FEED_ENTRIES: Final = 256
"""How many entries `Engine.feed` returns at most."""


class Lost(Unavailable):
    """The engine did not answer in time, or the link to it is gone: the outcome is unknown.

    The node must `enter` again before anything else.
    """


class Damaged(Unavailable):
    """Somebody has changed the store's data by hand, so that this call cannot be carried out.

    The message names the place and the remedy. Other calls may succeed.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, divisible=True)


class Stale(Unavailable):
    """The engine's life or the node's lease is over: nothing was done; `enter` again."""


class Life(Struct, frozen=True):
    """What a node learns when it enters the present life of the engine."""

    node: str
    """The node's id, 16 hexadecimal digits. It is a new one if the node's lease was over."""
    epoch: str
    """The name of this generation of the store's numbers."""
    key: bytes
    """32 random bytes, made with the store, for signing session secrets."""
    position: int
    """The position of the feed's last entry; 0 if there was none yet."""
    origin: str
    """The origin of that entry (see `Fed`); empty if there was none."""
    now: int
    """The engine's time, in ms since 1970."""
    lost: bool = False
    """Whether a new life lacks entries that this node may have shown or answered: the last entry
    that it read is missing or differs, or its last confirmed batch is unknown."""
    raised: int = 0
    """The format to which this node has raised the store's, because all nodes with a lease can read
    it; 0 if it has not."""
    former: Mapping[str, int] = {}
    """The last `FORMER_EPOCHS` earlier epochs, each with the last position that it shares with this
    one."""


class Fed(Struct, frozen=True, gc=False):
    """An entry of the feed.

    Attributes:
        position: Its position.
        origin: Its source: the node, the number of the batch, and the place in the batch, joined
            by dots. The origins of a node's own entries begin with its id and a dot.
        entry: The event or item; None if it belongs to a room that is not wanted, or is unknown.
        unknown: Whether this version of chatd does not know this kind of entry.
    """

    position: int
    origin: str
    entry: FeedEntry | None
    unknown: bool = False


class Holder(Struct, frozen=True):
    """The user who has a look (see `Claim`).

    Attributes:
        user: The user's id.
        nick: The user's nick as displayed.
        present: Whether the user is connected to a node; otherwise the nick is held, or is a
            subject's.
        subject: Whether a token names the user.
    """

    user: str
    nick: str
    present: bool
    subject: bool


class Node(Struct, frozen=True):
    """A node with a lease: its id, when the lease ends (ms since 1970), and its facts."""

    node: str
    lease_until: int
    facts: bytes


class Condition(Struct, frozen=True):
    """What an engine reports of itself.

    Attributes:
        now: Its time, in ms since 1970.
        memory: How many bytes its data takes.
        memory_limit: How many bytes it may take; infinity without a limit.
        replicas: How many replicas are connected to it.
    """

    now: int
    memory: int
    memory_limit: float
    replicas: int


class Sweep(Struct, frozen=True):
    """The result of one chunk of retention.

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
    if the node has to `enter`, and `Unavailable` if the engine refused before anything was written;
    that is `Damaged` where data are not as chatd has written them. `StoreError` means that the
    server has to be configured differently; then, too, the node has to `enter`. Methods may be
    called while others wait, but only one task may call `commit` and `void`, and only one may call
    `feed`. Calls that wait when `close` or `enter` is called raise `Lost`. If `commit`, `void` or
    `feed` is cancelled, the effect is that of `Lost`; any other call may be cancelled without harm.

    The deadlines are the engine's own: ``history.timeout_seconds`` for each call. `commit` and
    `void` have none: their caller has one for both together, and calls `close` when it has passed.
    `feed` may take `FEED_SECONDS` longer, and then as long as a call for the replicas to confirm
    what it returns; if it takes longer still, the next `beat` raises `Lost`, and so does `feed`.
    Times are the engine's, in ms since 1970.

    Attributes:
        on_damage: Called with the place and the remedy where data were damaged and a call goes on
            without them.
    """

    on_damage: Callable[[str], None]

    @property
    def lease_seconds(self) -> float:
        """How long a lease lasts, from the `enter` that began it, or from a `beat`."""
        ...

    @property
    def proof_seconds(self) -> Histogram:
        """How long replicas took to confirm what `feed` returned; empty if none have to."""
        ...

    async def enter(self, last: tuple[int, str] | None, confirmed: int, facts: bytes) -> Life:
        """Connect to the present life of the engine, for the first time or again. Call this first.

        The first node that enters a new life gives it a new epoch, and appends a `Renewed` to the
        feed. A node gets a new id if its lease is over, or if entries are ``lost`` (see `Life`).
        `bury` then removes what the node had published under the old id (`Arrive`, `Enter`,
        `Lease`), and the node numbers its batches from 1 again.

        The format of the store rises to the newest one that all nodes with a lease can read.

        A lease that is not over is kept, but not extended: a node that enters again and again
        without getting an answer must be taken for dead.

        Args:
            last: The position and the origin of the last feed entry that the node has read; None
                at the start.
            confirmed: The number of the last batch, under the present id, whose outcomes the node
                has got; 0 for none.
            facts: The node's own description of itself, which `nodes` returns.

        Raises:
            StoreError: The server must be configured differently, or this version of chatd cannot
                read the format of the store.
        """
        ...

    async def commit(self, number: int, batch: Sequence[Operation]) -> list[Outcome]:
        """Carry out a batch once, as a whole or not at all, and return the outcomes in its order.

        The same number with the same batch does nothing and returns the same outcomes again, so a
        batch can be sent again after `Lost`. A lower number, or one that was made void, raises
        `Unavailable`. A number that skips others raises `Stale`, as does a node without a lease.

        Events and items get their positions in the order of the batch, without a gap. The events of
        a `Restore` have no entries in the feed: it appends a `Renewed`, and its events take the
        positions after that.

        Args:
            number: The number of the batch: 1 for the first under the node's id, then one more
                each time.
            batch: The operations, at least one.
        """
        ...

    async def void(self, node: str, number: int) -> list[Outcome] | None:
        """Settle a batch whose outcome is unknown: return its outcomes, or None if it was not done.

        After None, the batch never will be done, even if a copy of it arrives later.

        Args:
            node: This node's id when the batch was sent; it may have a new one now.
            number: The number of the batch.
        """
        ...

    async def feed(self, after: int, wanted: Callable[[str], bool]) -> Sequence[Fed | Relayed]:
        """Return the next entries after a position, in order, as soon as there are any.

        Positions have no gap: if the first one is not ``after + 1``, entries are missing. Without
        entries, the answer is empty after `FEED_SECONDS`. A `Relayed` that is not in a `Fed` was
        published by another node.

        Args:
            after: The position.
            wanted: Returns whether this node needs the events of a room, by its key. It always gets
                items and its own events.
        """
        ...

    def publish(self, kind: str, body: bytes) -> None:
        """Send the other nodes something that may get lost. It never waits and never fails."""
        ...

    async def beat(self, facts: bytes) -> tuple[int, int]:
        """Extend the node's lease to `lease_seconds` from now.

        Return the engine's time, and the position of the feed's last entry.
        """
        ...

    async def inspect(self) -> Condition:
        """Check that the engine can still hold the store as promised, as `enter` does.

        Raises:
            StoreError: It cannot; the message names the setting to change.
        """
        ...

    async def bury(self, hold_ms: int) -> bool:
        """Clean up one chunk after nodes whose lease is over; return whether more is left.

        The nodes' users leave their rooms (`Exited`, ``lost``). The nicks of users who are at no
        other node are held for ``hold_ms``, as by `Depart`. The nodes' `Lease` records get an end.
        """
        ...

    async def leave(self, linger_ms: int) -> None:
        """End the node's lease after this time at the latest; another node then buries it.

        Until then, users who reconnect to other nodes have not left their rooms. Never raises.
        """
        ...

    async def sweep(self, retention: Retention) -> Sweep:
        """Remove one chunk of what retention drops, as `Journal.sweep` says.

        A chunk of a room's events is one item, `chatd.model.Swept`. The feed is trimmed too,
        except for its last entry: deleted words leave it within half of ``purge_seconds``.
        """
        ...

    # ---- reading

    async def position(self) -> int:
        """Return the position that was last given to an event or an item."""
        ...

    async def members(self, room: str) -> list[Entered]:
        """Return the members of a room, sorted by user id, each with the present nick.

        Their ``position`` is that of the last feed entry before the read; ``first`` is True.
        """
        ...

    async def occupied(self) -> dict[str, tuple[str, int]]:
        """Return the name and the number of members of each room that has any, by its key.

        Rooms of direct messages are left out.
        """
        ...

    async def holder(self, look: str) -> Holder | None:
        """Return the user who has a look, in use, held, or as a subject. None if it is free."""
        ...

    async def nodes(self) -> list[Node]:
        """Return the nodes with a lease, sorted by id."""
        ...

    def close(self) -> None:
        """Close the links at once, until `enter` opens others. A second call does nothing."""
        ...
