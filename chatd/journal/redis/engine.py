"""The engine on Redis: the batches that one node writes, and the feed that it reads."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import ClassVar, Final

from msgspec.structs import replace

from chatd.histogram import Histogram
from chatd.journal import Durability, StoreError, Unavailable, new_epoch
from chatd.journal.engine import (
    FEED_ENTRIES,
    FEED_SECONDS,
    LEASE_SECONDS,
    Condition,
    Damaged,
    Fed,
    Life,
    Lost,
    Sweep,
)
from chatd.journal.redis.access import Access
from chatd.journal.redis.batch import Batch, Chunk
from chatd.journal.redis.client import Client, call
from chatd.journal.redis.damage import UNREADABLE, damaged
from chatd.journal.redis.layout import FORMAT, Keys, decode_entry
from chatd.journal.redis.prefix import check_prefix, claim_prefix
from chatd.journal.redis.proof import Proof
from chatd.journal.redis.reads import RedisReads, position_of
from chatd.journal.redis.resp import Command, ErrorReply, Prepared
from chatd.journal.redis.scripts import (
    BEAT,
    COMMIT,
    ENTER,
    LEAVE,
    MEND,
    SWEEP,
    TRIM,
    Script,
)
from chatd.journal.redis.sweeping import Sweeper, read_front
from chatd.journal.retention import CHUNK, Retention
from chatd.model import Erase, LogEntry, Operation, Outcome, Post, Relayed, Restore, Wipe

__all__ = ["RedisEngine"]

_FEED_LENGTH: Final = 100_000
"""How many entries of the feed are kept at most: some 20 MB. A node that is further behind reads
the rooms' logs instead."""


class RedisEngine(RedisReads):
    """`chatd.journal.engine.Engine` on one Redis server.

    Args:
        url: Where to find the server; see `chatd.journal.redis.address.parse_url`.
        user: The user to log in as.
        password_file: The file whose first line is the user's password; None not to log in.
        ca_file: For TLS, the certificates that may sign the server's.
        prefix: What the names of all keys begin with.
        chat: The issuer and audience that tokens must name (see `prefix.py`); empty if neither is
            set.
        durability: What a commit has to survive: ``commit`` the end of the server's process,
            ``fsync`` a loss of power too. `enter` compares it with the server's configuration.
        replicas: How many replicas must have a batch before it is confirmed, and anything else
            before it is returned.
        timeout: How long a call waits for its answer, in seconds.
        lease_seconds: How long a node is taken for alive after its last beat.
        now: For tests, the time in ms since 1970 in place of the server's.

    Attributes:
        format: The newest format of the store that this node can read.
    """

    format: ClassVar[int] = FORMAT

    def __init__(
        self,
        url: str,
        *,
        user: str = "default",
        password_file: Path | None = None,
        ca_file: Path | None = None,
        prefix: str = "{chatd}",
        chat: str = "",
        durability: Durability = "commit",
        replicas: int = 0,
        timeout: float = 2.0,
        lease_seconds: float = LEASE_SECONDS,
        now: Callable[[], int] | None = None,
    ) -> None:
        keys = Keys(prefix)
        client = Client(
            Access(url, user=user, password_file=password_file, ca_file=ca_file),
            Proof(replicas, keys.proof),
            keys,
            timeout=timeout,
            durability=durability,
        )
        super().__init__(client, keys, now)
        self._chat = chat
        self.lease_seconds: Final = lease_seconds
        self._life = ""
        self._entered = ""
        """The life that the node entered last. Its links may have been lost since then."""
        self._node = ""
        self._secret = b""
        self._sent: tuple[tuple[str, int, Sequence[Operation]], Batch] | None = None
        """The last batch, with the node's id and its number: it may be sent again, or settled."""
        block_ms = round(FEED_SECONDS * 1000)
        self._xread = Prepared(
            "XREAD", "COUNT", FEED_ENTRIES, "BLOCK", block_ms, "STREAMS", self._keys.feed
        )
        self._sweeper = Sweeper(client, self._keys, self._new_batch, self._execute)
        self._passed: deque[tuple[int, int]] = deque()
        """Times, each with the position of the feed's last entry at that time."""
        self._oldest = 0
        """The first position that the feed keeps."""
        self._purge_ms: int | None = None

    @property
    def proof_seconds(self) -> Histogram:
        """How long replicas took to confirm blocks of the feed."""
        return self._client.proof_seconds

    # ---- the life of the engine

    async def enter(self, last: tuple[int, str] | None, confirmed: int, facts: bytes) -> Life:
        deadline = self._client.deadline()
        life = await self._client.connect(deadline)
        await claim_prefix(self._client, self._keys, self._chat)
        position, origin = last or (0, "")
        if life == self._entered:
            origin, confirmed = "", 0
        else:
            self._passed.clear()  # the new life may not have come so far
            self._oldest = 0
        keys, node = self._keys, self._node or "-"
        enter = call(
            ENTER,
            (keys.meta, keys.feed, keys.nodes, keys.facts, keys.reply(node)),
            *(life, new_epoch(), secrets.token_bytes(32), secrets.token_hex(8), node),
            *(self._clock(), round(self.lease_seconds * 1000), facts, position, origin),
            *(confirmed, self.format),
        )
        with self._client.within(deadline):
            reply = await self._client.write(enter)
        with self._reading(keys.meta):
            node, epoch, self._secret, position, origin, now, lost, raised, *former = reply
            entered = Life(
                node.decode(),
                epoch.decode(),
                self._secret,
                position,
                origin.decode(),
                now,
                bool(lost),
                raised,
                {name.decode(): end for name, end in zip(former[::2], former[1::2], strict=True)},
            )
        self._life = self._entered = life
        self._node = entered.node
        self._set_time(now)
        return entered

    async def check(self) -> None:
        """Connect, and make the checks of `enter`, but do not enter."""
        client = self._client
        await client.connect(client.deadline())
        proof, client.proof = client.proof, Proof(0, self._keys.proof)  # a proof would write
        try:
            replicas = (await client.inspect()).replicas
            if replicas < proof.replicas:
                raise Lost(
                    f"the server has {replicas} replicas, but history.replicas is {proof.replicas}"
                )
            await check_prefix(client, self._keys, self._chat)
        finally:
            client.proof = proof

    def _clock(self) -> int | str:
        """Return the time as scripts take it: nothing for the server's own."""
        return "" if self._now is None else self._now()

    async def beat(self, facts: bytes) -> tuple[int, int]:
        keys = self._keys
        lease_ms = round(self.lease_seconds * 1000)
        beat = call(
            BEAT,
            (keys.meta, keys.nodes, keys.facts, keys.reply(self._node), keys.feed),
            *(self._life, self._node, self._clock(), lease_ms, facts),
        )
        now, position, removed = await self._client.ask_one(beat)
        self._client.check_listening()
        self._set_time(now)
        self._passed.append((now, position))
        if self._purge_ms is not None:
            await self._purge(now - self._purge_ms, removed)
        return now, position

    async def inspect(self) -> Condition:
        condition = await self._client.inspect()
        return condition if self._now is None else replace(condition, now=self._now())

    async def _purge(self, before: int, removed: int) -> None:
        """Purge texts that were deleted before a time from the feed and the append-only file.

        Args:
            before: The time. Of older entries, the feed keeps only the last one.
            removed: When the first deleted text that is still in the file was deleted; 0 if there
                is none.
        """
        while self._passed and self._passed[0][0] <= before:
            self._oldest = self._passed.popleft()[1]
        rewrite = 0 < removed <= before
        keys = self._keys.meta, self._keys.feed
        await self._client.ask(call(TRIM, keys, self._oldest, _FEED_LENGTH, int(rewrite)))
        if rewrite:
            # Refused if a rewrite is already going on, or without the right to it: docs/cluster.md.
            await self._client.replies(("BGREWRITEAOF",))

    async def leave(self, linger_ms: int) -> None:
        until = self._time() + linger_ms if linger_ms else 0  # other nodes' clocks differ a little
        with suppress(Unavailable, StoreError):  # the lease ends by itself
            keys = self._keys.meta, self._keys.nodes
            await self._client.ask(call(LEAVE, keys, self._node, until))

    def close(self) -> None:
        self._client.close()

    # ---- batches

    async def commit(self, number: int, batch: Sequence[Operation]) -> list[Outcome]:
        sending = (self._node, number, batch)
        if self._sent is not None and self._sent[0] == sending:
            made = self._sent[1]  # with the events that `Wipe` and `Erase` read then
        else:
            made = await self._batch(batch)
            self._sent = (sending, made)
        command = self._run(COMMIT, number, made)
        reply = await self._client.write(command)
        if reply == b"void":
            raise Unavailable(f"batch {number} comes too late")
        try:
            return made.outcomes(reply)
        except UNREADABLE as error:
            raise damaged(self._keys, self._keys.reply(self._node)) from error

    async def _batch(self, operations: Sequence[Operation]) -> Batch:
        posts = {Post}.issuperset(map(type, operations))
        batch = Batch(self._keys, self._node, self._secret, posts=posts)
        for place, operation in enumerate(operations):
            if isinstance(operation, (Post, Restore)):
                self._sweeper.grown(operation.room)
            if isinstance(operation, (Wipe, Erase)):
                await self._add_rewrite(batch, operation, operations[:place])
            else:
                batch.add(operation)
        return batch

    async def _add_rewrite(
        self, batch: Batch, operation: Wipe | Erase, earlier: Sequence[Operation]
    ) -> None:
        """Add an operation that changes stored events, which are read here, before the batch.

        If earlier operations of the batch may add such events, the operation does nothing this
        time, and its outcome says that it has not reached its end.
        """
        added = [one for one in earlier if isinstance(one, Post | Restore)]
        if isinstance(operation, Wipe):
            if any(isinstance(one, Restore) or one.user == operation.user for one in added):
                batch.add(operation, [], operation.after)
            else:
                found, upto = await self._scan(operation.user, operation.after)
                batch.add(operation, [_chunk(room, entries) for room, entries in found], upto)
        elif any(one.room == operation.room for one in added):
            batch.add(operation, [], 0)
        else:
            chunk, _ = await read_front(self._client, self._keys, operation.room, CHUNK)
            batch.add(operation, [chunk] if chunk else [], chunk.upto if chunk else None)

    def _run(self, script: Script, number: int | str, batch: Batch) -> Command:
        arguments = (self._life, self._node, number, self._clock(), *batch.arguments)
        return call(script, batch.keys, *arguments)

    async def void(self, node: str, number: int) -> list[Outcome] | None:
        keys = self._keys.fixed(node)
        try:
            reply = await self._client.write(
                call(SWEEP, keys, self._life, node, number, self._clock(), "s")
            )
        except Unavailable as error:
            if isinstance(error.__cause__, ErrorReply) and error.__cause__.code == "OLD":
                return None
            raise
        if reply == b"void" or self._sent is None:
            return None
        with self._reading(self._keys.reply(node)):
            return self._sent[1].outcomes(reply)

    # ---- the feed

    async def feed(self, after: int, wanted: Callable[[str], bool]) -> Sequence[Fed | Relayed]:
        packed = self._xread.pack(b"%d-0" % after)
        reply, pushes = await self._client.listen(packed, FEED_SECONDS)
        own = f"{self._node}.".encode()
        entries: list[Fed] = []
        doubtful: dict[bytes, Fed | None] = {}
        expected = after + 1
        for entry, fields in reply[self._keys.feed] if reply else ():
            position = position_of(entry)
            try:
                chosen = _any if fields[1].startswith(own) else wanted
                fed = decode_entry(position, fields, chosen)
            except UNREADABLE:
                fed = None
            if fed is None or position != expected:
                doubtful[entry] = fed
            else:
                entries.append(fed)
            expected = position + 1
        if doubtful:
            entries = await self._resolve(doubtful, entries)
        found: list[Fed | Relayed] = [*entries]
        for push in pushes:
            match push[-1].split(b"\0", 2):
                case [node, kind, body] if node != self._node.encode():
                    found.append(Relayed(0, kind.decode(errors="replace"), body))
                case _:
                    pass  # this node's own, or nothing that a node has published
        return found

    async def _resolve(
        self, doubtful: Mapping[bytes, Fed | None], entries: Sequence[Fed]
    ) -> list[Fed]:
        """Return the entries of the feed up to the first one that has to be removed.

        Args:
            doubtful: By their ids, those that do not follow the one before, or cannot be read:
                they may have been added by hand.
            entries: The others.
        """
        keys = self._keys
        stay = await self._client.ask_one(call(MEND, (keys.meta, keys.feed), *doubtful))
        sound = list(entries)
        for (entry, fed), stays in zip(doubtful.items(), stay, strict=True):
            number, _, part = entry.partition(b"-")
            position = int(number)
            if not stays:
                # Another entry may have its position by now: it is read next.
                sound = [one for one in sound if one.position < position]
            elif part == b"0":
                sound.append(Fed(position, "", None) if fed is None else fed)
            if fed is None or not stays:
                self.on_damage(
                    f"the entry {entry.decode()} of {keys.feed.decode()} in Redis, which chatd has "
                    f"not written, is {'left out' if stays else 'removed'}: let nobody else write "
                    f"to keys that begin with {keys.prefix}"
                )
        return sorted(sound, key=attrgetter("position"))

    def publish(self, kind: str, body: bytes) -> None:
        published = b"\0".join((self._node.encode(), kind.encode(), body))
        self._client.publish(self._keys.channel, published)

    # ---- retention, and nodes that have gone

    def _new_batch(self) -> Batch:
        return Batch(self._keys, self._node, self._secret)

    async def _execute(self, batch: Batch) -> None:
        """Carry out a batch that has no number: see commit.lua."""
        await self._client.ask_one(self._run(SWEEP, "", batch))

    async def sweep(self, retention: Retention) -> Sweep:
        self._purge_ms = retention.purge_seconds * 500
        try:
            return await self._sweeper.sweep(retention, self._time())
        except UNREADABLE as error:
            raise Damaged(
                f"retention cannot go on: somebody has changed keys under {self._keys.prefix} in "
                f"Redis by hand ({error}): restore a backup of Redis"
            ) from error

    async def bury(self, hold_ms: int) -> bool:
        now = self._time()
        dead = await self._client.ask_one(
            ("ZRANGE", self._keys.nodes, "-inf", now, "BYSCORE", "LIMIT", 0, 1)
        )
        if not dead:
            return False
        node = dead[0].decode(errors="replace")
        fields = await self._client.ask_one(("HRANDFIELD", self._keys.of(node), CHUNK))
        batch = self._new_batch()
        with self._reading(self._keys.of(node)):
            batch.bury(node, fields, now + hold_ms)
        await self._execute(batch)
        return True


def _chunk(room: str, entries: Sequence[LogEntry]) -> Chunk:
    events = [(entry.seq, entry.user, entry.key) for entry in entries]
    return Chunk(room, events[0][0], events, None)


def _any(_room: str) -> bool:
    return True
