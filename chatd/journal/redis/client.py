"""The links of a node to Redis, and the meaning of its replies.

* The writing link sends batches, one at a time.
* The reading link waits for the feed, and for what other nodes publish.
* The asking link sends all other commands. Those that come while it awaits an answer are sent
  together after it.
* The publishing link gets no replies.

Whatever the first three return is proven, as `proof.py` says. All four belong to one life of the
server. If one of the first three fails, all are closed, and nothing more is done until
`Client.connect`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Final

import trio

from chatd.histogram import Histogram
from chatd.journal import Durability, StoreError, Unavailable
from chatd.journal.engine import Condition, Damaged, Lost, Stale
from chatd.journal.redis import scripts
from chatd.journal.redis.access import Access
from chatd.journal.redis.address import Address
from chatd.journal.redis.damage import damaged
from chatd.journal.redis.finding import find_primary
from chatd.journal.redis.layout import Keys
from chatd.journal.redis.link import Link, open_link, reading
from chatd.journal.redis.proof import Proof
from chatd.journal.redis.resp import Command, ErrorReply, Push, Reply, pack
from chatd.journal.redis.rights import (
    check_rights,
    is_forbidden,
    needing_rights,
    too_few_rights,
)
from chatd.journal.redis.scripts import Script
from chatd.journal.redis.server import QUESTIONS, Server

__all__ = ["Client", "call"]

_AWAY: Final = frozenset(
    {"LOADING", "MASTERDOWN", "NOSCRIPT", "READONLY", "UNBLOCKED"}
    | {"ASK", "CLUSTERDOWN", "MOVED", "TRYAGAIN"}  # of a Redis Cluster
)
"""The server is not, or not yet, the one that the links were opened to."""

_STALE: Final = {
    "batch": "the store has forgotten this node's last batch",
    "lease": "the store takes this node for dead",
    "life": "the store was restarted, or another one has taken its place",
}
"""Why the node has to enter again, by the word that follows STALE."""

_REFUSED: Final = {
    "BUSY": "it is busy with another client's script: end that with SCRIPT KILL",
    "MISCONF": "it cannot write to its disk: make space there, or see its log",
    "NOREPLICAS": "it has too few replicas for its min-replicas-to-write",
    "OOM": "its memory is full: raise its maxmemory, or lower history.keep_days or "
    "history.max_bytes",
}
"""The server cannot write anything in its present state: why, and the remedy."""


WRITE_QUESTIONS: Final = 256
"""How many questions are sent in one write. More would keep the server from other nodes."""


class _Question:
    """Commands that wait for the asking link, and their replies."""

    __slots__ = ("commands", "error", "replies", "woken")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.replies: list[Reply] | None = None
        self.error: Lost | StoreError | None = None
        self.woken = trio.Event()
        """Set when the question is answered, or when its task has to send those that wait."""

    @property
    def answered(self) -> bool:
        return self.replies is not None or self.error is not None


class Client:
    """The four links.

    Args:
        access: Where to find the server, and as whom to log in.
        proof: What makes sure that replicas have what a reply says.
        keys: The names of the store's keys.
        timeout: How long a call waits for its answer, in seconds.
        durability: What a commit has to survive; `connect` checks that the server grants it.

    Attributes:
        proof: See above; it may be replaced.
        proof_seconds: How long the proofs took of what the reading link received.
    """

    def __init__(
        self,
        access: Access,
        proof: Proof,
        keys: Keys,
        *,
        timeout: float,
        durability: Durability,
    ) -> None:
        self._access = access
        self._address: Address | Access = access  # until the server is found
        self.proof = proof
        self._keys = keys
        self.proof_seconds = Histogram()
        self._timeout = timeout
        self._durability: Durability = durability
        self._writer: Link | None = None
        self._reader: Link | None = None
        self._asker: Link | None = None
        self._publisher: Link | None = None
        self._due: float | None = None
        """By when the reply has to come that the reading link awaits; None if it awaits none."""
        self._questions: list[_Question] = []
        self._asking = False
        """Whether a task sends questions, or has been woken to do so."""

    def deadline(self) -> float:
        """Return the deadline of a call that begins now, on Trio's clock."""
        return trio.current_time() + self._timeout

    async def connect(self, deadline: float) -> str:
        """Open new links in place of the old ones, and return the server's life.

        Args:
            deadline: By when, on Trio's clock.

        Raises:
            Lost: The server cannot be reached in time.
            StoreError: It cannot hold chatd's history, or chatd's user has too few rights.
        """
        self.close()
        source, login = await self._access.read(deadline)
        self._address = address = await find_primary(source, login, self.proof.key, deadline)
        links: list[Link] = []
        try:
            while len(links) < 4:
                links.append(await open_link(address, login, deadline=deadline))
            servers = [self._read(await link.call(*QUESTIONS, deadline=deadline)) for link in links]
            if len({server.life for server in servers}) > 1:
                raise Lost(f"{address} was restarted while chatd connected")
            loads: list[Command] = [("SCRIPT", "LOAD", script.text) for script in scripts.ALL]
            self._permitted(await links[0].call(*loads, deadline=deadline))
            rights = needing_rights(self._keys, self.proof.replicas)
            check_rights(rights, await links[0].call(*rights, deadline=deadline), address)
            await links[1].send(pack((("SUBSCRIBE", self._keys.channel), ("PING",))), deadline)
            replies: list[Reply] = []
            while not replies:  # the reply to SUBSCRIBE is a push, and others may follow it
                replies, _ = _sorted(await links[1].receive(deadline))
            self._permitted(replies)
            await links[3].send(pack((("CLIENT", "REPLY", "OFF"),)), deadline)
        except BaseException:
            for link in links:
                link.close()
            raise
        self._writer, self._reader, self._asker, self._publisher = links
        self._due = None
        return servers[0].life

    async def inspect(self) -> Condition:
        """Check that the server can still hold chatd's history, as `connect` does.

        Raises:
            StoreError: It has to be configured differently.
        """
        return self._read(await self.replies(*QUESTIONS)).condition

    def _read(self, replies: Sequence[Reply]) -> Server:
        info, config, time = replies
        self._permitted((info, time))
        with reading(self._address):
            server = Server.read(info, config, time)
        server.check(self._address, self._durability)
        return server

    def _permitted(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            self._check(reply)

    async def write(self, command: Command) -> Reply:
        """Run a command on the writing link, for one task at a time.

        It has no deadline of its own: the caller's is for a whole batch, which may be sent several
        times.
        """
        [reply] = await self._call(self._writer, [command])
        return await self._checked(command, reply) if isinstance(reply, ErrorReply) else reply

    async def listen(self, packed: bytes, seconds: float) -> tuple[Reply, list[Push]]:
        """Return the reply to a blocking command, or what was published meanwhile, or both.

        For one task at a time. If the reply has not come yet, it is None, and the next call sends
        nothing and waits for it. A reply that is not empty is proven. This has no deadline, because
        one for each call would be a tenth of the CPU time of an entry: `check_listening` detects an
        overdue reply.

        Args:
            packed: The command.
            seconds: How long it blocks.
        """
        link = self._present(self._reader)
        try:
            if self._due is None:
                self._due = self.deadline() + seconds
                await link.send(packed)
            replies, pushes = _sorted(await link.receive())
            reply = None
            if replies:
                reply, self._due = replies[-1], None
            if reply is not None and self.proof.replicas:
                pushes += await self._prove(link)
        except BaseException:
            self._lose(link)
            raise
        return self._check(reply), pushes

    def check_listening(self) -> None:
        """Raise `Lost`, and close all links, if the reply that `listen` awaits is overdue."""
        if self._due is not None and trio.current_time() > self._due:
            self.close()
            raise Lost(f"{self._address} did not answer in time on the link that reads the feed")

    async def _prove(self, link: Link) -> list[Push]:
        """Prove what the reading link has received. Return what is published meanwhile."""
        began, deadline = perf_counter(), self.deadline()
        replies: list[Reply] = []
        pushes: list[Push] = []
        commands = self.proof.commands(deadline)
        await link.send(pack(commands), deadline)
        while len(replies) < len(commands):
            more, published = _sorted(await link.receive(deadline))
            replies += more
            pushes += published
        self.proof.check(replies, self._address)
        self.proof_seconds.observe(perf_counter() - began)
        return pushes

    def publish(self, channel: bytes, body: bytes) -> None:
        """Publish something if it can be sent at once."""
        if self._publisher is not None:
            self._publisher.send_now(("PUBLISH", channel, body))

    async def ask(self, *commands: Command) -> list[Reply]:
        """Run some commands in order, for any task.

        A task that is cancelled while it sends the questions of all still waits for the answers.
        """
        replies = await self.replies(*commands)
        return [
            await self._checked(command, reply) if isinstance(reply, ErrorReply) else reply
            for command, reply in zip(commands, replies, strict=True)
        ]

    async def replies(self, *commands: Command) -> list[Reply]:
        """Do as `ask` does, but return errors as replies."""
        question = _Question(commands)
        self._questions.append(question)
        if self._asking:
            try:
                await question.woken.wait()
            except trio.Cancelled:
                if question in self._questions:
                    self._questions.remove(question)
                    if question.woken.is_set():  # at the moment of the cancellation
                        self._pass_on()
                raise
        if not question.answered:
            await self._ask_waiting()
        if question.error is not None:
            raise question.error
        assert question.replies is not None  # noqa: S101  answered, or an error
        return question.replies

    async def ask_one(self, command: Command) -> Reply:
        """Run one command as `ask` does."""
        [reply] = await self.ask(command)
        return reply

    async def _ask_waiting(self) -> None:
        """Send the first of the waiting commands in one write, and wake the tasks that wait.

        All of them are woken at once. With a lock, they would wake one after the other, each in
        another round of the scheduler, which takes long while many clients connect.
        """
        self._asking = True
        questions, self._questions = (
            self._questions[:WRITE_QUESTIONS],
            self._questions[WRITE_QUESTIONS:],
        )
        try:
            await self._answer(questions)
        finally:
            for question in questions:
                question.woken.set()
            self._pass_on()

    def _pass_on(self) -> None:
        """Let the task of the first waiting question send the next ones, if there are any."""
        self._asking = bool(self._questions)
        if self._asking:
            self._questions[0].woken.set()

    async def _answer(self, questions: Sequence[_Question]) -> None:
        commands = [command for question in questions for command in question.commands]
        deadline = self.deadline()
        try:
            with self.within(deadline, shield=True):
                replies = iter(await self._call(self._asker, commands))
        except (Lost, StoreError) as error:
            for question in questions:
                question.error = type(error)(str(error))
            return
        for question in questions:
            question.replies = [next(replies) for _ in question.commands]

    @contextmanager
    def within(self, deadline: float, *, shield: bool = False) -> Iterator[None]:
        """Raise `Lost` if the block does not end in time.

        Args:
            deadline: By when, on Trio's clock.
            shield: Whether a cancellation from outside lets the block go on.
        """
        with trio.CancelScope(deadline=deadline, shield=shield) as scope:
            yield
        if scope.cancelled_caught:
            raise Lost(f"{self._address} did not answer in time")

    async def _call(self, link: Link | None, commands: Sequence[Command]) -> list[Reply]:
        """Run some commands, until the caller's deadline. Their replies are proven."""
        present = self._present(link)
        try:
            if not self.proof.replicas:
                return await present.call(*commands)
            replies = await present.call(*commands, *self.proof.commands(self.deadline()))
            self.proof.check(replies[len(commands) :], self._address)
        except BaseException:
            self._lose(present)
            raise
        return replies[: len(commands)]

    def _present(self, link: Link | None) -> Link:
        if link is None:
            raise Lost(f"there is no connection to {self._address}")
        return link

    def _lose(self, link: Link) -> None:
        """Close all links because one has failed, unless it has been replaced by then."""
        if link in (self._writer, self._reader, self._asker):
            self.close()

    async def _checked(self, command: Command, reply: ErrorReply) -> Reply:
        """Raise the exception for an error; find out which key has a wrong type."""
        if reply.code == "WRONGTYPE":
            prefix = f"{self._keys.prefix}:".encode()
            named = [one for one in command if isinstance(one, bytes) and one.startswith(prefix)]
            types = await self.replies(*(("TYPE", key) for key in named))
            for key, kind in zip(named, types, strict=True):
                if kind not in {b"none", self._keys.type_of(key).encode()}:
                    raise damaged(self._keys, key)
        return self._check(reply)

    def _check(self, reply: Reply) -> Reply:
        """Return a reply unless it is an error."""
        if not isinstance(reply, ErrorReply):
            return reply
        if is_forbidden(reply):
            self.close()
            raise too_few_rights(self._address, reply)
        if reply.code == "DAMAGED":  # by a script
            key = str(reply).removeprefix("DAMAGED ").partition(" script: ")[0]
            raise damaged(self._keys, key.encode())
        if reply.code == "STALE":
            raise Stale(_STALE.get(str(reply).split()[1], str(reply)))
        if reply.code == "FORMAT":
            self.close()
            raise StoreError(f"a newer chatd wrote the history in {self._address}: update this one")
        if reply.code in _AWAY:
            self.close()
            raise Lost(f"{self._address} is not ready: {reply}")
        if (problem := _REFUSED.get(reply.code)) is not None:
            raise Unavailable(f"{self._address} takes no writes: {problem}") from reply
        if reply.code == "WRONGTYPE" or "user_script:" in str(reply):
            raise Damaged(
                f"{self._address}: {reply}: if somebody has changed keys under "
                f"{self._keys.prefix} by hand, restore a backup of Redis"
            ) from reply
        raise Unavailable(f"{self._address}: {reply}", divisible=True) from reply

    def close(self) -> None:
        """Close the links. What waits for an answer raises `Lost`."""
        for link in (self._writer, self._reader, self._asker, self._publisher):
            if link is not None:
                link.close()
        self._writer = self._reader = self._asker = self._publisher = None


def _sorted(received: Iterable[Reply]) -> tuple[list[Reply], list[Push]]:
    """Return replies and pushes apart from each other."""
    # A call of `list[Reply]` would take 1 µs more: it tries to note the type on the list.
    replies: list[Reply] = []
    pushes: list[Push] = []
    for one in received:
        (pushes if isinstance(one, Push) else replies).append(one)
    return replies, pushes


def call(script: Script, keys: Sequence[bytes], *arguments: bytes | str | int) -> Command:
    """Return the command that runs a script."""
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)
