"""The simulated world: daemons on a store, people, and the promises that are checked on the way."""

from __future__ import annotations

import math
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import trio
from trio.testing import wait_all_tasks_blocked

from chatd.chat.token_keys import read_keys
from chatd.chat.tokens import Keys
from chatd.journal import Retention
from chatd.model import LogEntry
from chatd.settings import Auth, Limits, Settings
from chatd.testing.harness import VIRTUAL_EPOCH_MS
from chatd.testing.node import Node
from tests.simulation.checks import Attempt, Fields, Ledger, RoomView, Violation, expect
from tests.simulation.people import Link, Pending, Person

__all__ = ["PROTOCOLS", "ROOMS", "World"]

ROOMS: Final = ("lobby", "tea", "den")

PROTOCOLS: Final = (
    *("json", "json", "socketio", "socketio", "polling"),
    *("text", "text", "http", "socketio2"),
)
"""What each person speaks."""

OPERATOR: Final = 0
"""The person who has a token and is an operator."""

SCRIPT: Final = PROTOCOLS.index("http")
"""The person who speaks HTTP."""

ANSWER_SECONDS: Final = 0.5
"""No answer may take longer than the store's deadline and this."""

ONE_BATCH: Final = {"say", "edit", "delete", "topic", "read"}
"""Commands that do nothing but wait for one batch of the store."""

# So little may wait for a client that one which does not read is soon too slow.
SETTINGS: Final = Settings(
    auth=Auth(mode="token", guests=True),
    limits=Limits(message_bytes=1024, send_queue_bytes=12_288),
)
PIPE_BYTES: Final = 4096

KEPT: Final = Retention(keep_days="off", keep_events="off", max_bytes="off", user_days="off")

KEYS: Final = Keys(read_keys(b'{"kty":"oct","k":"c2ltdWxhdGlvbnNpbXVsYXRpb25zaW11bGF0aW9uc2ltdQ"}'))

_GREETING: Final = re.compile(r"Hello, I am chatd\. You are (\S+) in #(\S+)\.$")


class World(ABC):
    """One run.

    Attributes:
        nodes: The daemons.
        people: The clients.
        links: All connections that there were.
        ledger: The messages that any client was shown, and those that were acknowledged.
        trace: One line for everything that happened.
        violation: The first broken promise.
        exact: Whether presence is exact: on one machine it is, on several it is eventual.
        keeps_all: Whether nothing was removed from the logs.
        lossy: Whether presence may have been left out, because much waited for a client.
        deadline: How long the store may take to answer, in seconds.
        mended_at: When a fault of the store ended last.
        rest_seconds: After this time without faults everybody's lists of members are right.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.people: list[Person] = []
        self.links: list[Link] = []
        self.trace: list[str] = []
        self.violation: BaseException | None = None
        self.exact = True
        self.keeps_all = True
        self.lossy = False
        self.deadline = 0.0
        self.mended_at = -math.inf
        self.rest_seconds = 12.0
        self.clock_ms = 0
        self.bans: dict[str, float] = {}
        self.mutes: dict[tuple[str, str | None], tuple[float, float]] = {}
        self.texts = 0
        self.scope = trio.CancelScope()
        self.people_tasks: trio.Nursery
        self.ledger = Ledger(None)

    # ---- the run

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Run the daemons during the block, which plays and ends early at a violation."""
        with tempfile.TemporaryDirectory(prefix="chatd-simulation-") as folder:
            async with trio.open_nursery() as daemons:
                self.build(daemons, Path(folder))
                for node in self.nodes:
                    await node.start()
                for number, protocol in enumerate(PROTOCOLS):
                    subject = "boss" if number == OPERATOR else None
                    self.people.append(Person(self, number, protocol, subject=subject))
                with self.scope:
                    async with trio.open_nursery() as self.people_tasks:
                        yield
                        self.people_tasks.cancel_scope.cancel()
                for node in self.nodes:
                    if node.running:
                        await node.kill()
        if self.violation is not None:
            raise self.violation

    @abstractmethod
    def build(self, daemons: trio.Nursery, folder: Path) -> None:
        """Make the daemons, which run in this nursery; files may be in this folder."""

    @abstractmethod
    async def heal(self) -> None:
        """End all faults but those of cables."""

    @staticmethod
    def true_now() -> int:
        """Return the time in ms by a clock that nobody sets."""
        return VIRTUAL_EPOCH_MS + round(trio.current_time() * 1000)

    def now(self) -> int:
        """Return the wall clock's time in ms, which may jump."""
        return self.true_now() + self.clock_ms

    def token(self, subject: str) -> str:
        """Return an operator's token."""
        day = 86_400
        return KEYS.issue(
            subject, now=VIRTUAL_EPOCH_MS - 10 * day * 1000, seconds=100 * day, op=True
        )

    def note(self, link: Link, what: str, fields: Any) -> None:
        """Note something that happened."""
        self.trace.append(f"{trio.current_time():.3f} {link} {what} {fields}")

    @contextmanager
    def noting(self, link: Link, what: str, fields: Any) -> Generator[None]:
        """Note what happens in the block; the first broken promise in it ends the run."""
        self.note(link, what, fields)
        try:
            yield
        except Exception as violation:  # the boundary of the client's reader
            self.broken(violation)

    def broken(self, violation: Exception) -> None:
        """End the run for this violation, unless there was one before."""
        if self.violation is None:
            self.violation = violation
            self.trace.append(f"{trio.current_time():.3f} VIOLATION {violation}")
        self.scope.cancel()

    # ---- promises about single answers

    def attempt(self, person: Person, room: str, key: str | None = None, size: int = 0) -> Attempt:
        """Return a new message with a text that no other has, of at least this size."""
        self.texts += 1
        return Attempt(person.user, room, f"text {self.texts}".ljust(size, "."), key)

    def in_time(self, link: Link, pending: Pending) -> None:
        """Check that an answer which came, or is due, is not late.

        One connection's commands are carried out in order, so the time of those before it does not
        count. A command that reads the store before its batch may meet two faults, one after the
        other: then the time counts from the end of the first one.
        """
        since = max(pending.sent, link.answered_at)
        if not {each.command["do"] for each in (pending, *link.pending.values())} <= ONE_BATCH:
            since = max(since, self.mended_at)
        self._soon(since, f"{pending.command} of {link}")

    def _soon(self, since: float, what: str) -> None:
        """Check that something is not late that has been due since then."""
        seconds = trio.current_time() - since
        expect(
            seconds <= self.deadline + ANSWER_SECONDS,
            f"no late answer: {what} after {seconds:.3f} s",
        )

    def entered(self, link: Link, view: RoomView, since: Fields | None, *, recovered: bool) -> None:
        """Check the answer to a join: what is kept must be recovered."""
        if since is not None:
            expect(
                recovered or not self.keeps_all,
                f"a known position is recovered: {link} in {view.room} from {since}",
            )

    def listed(self, answer: Fields) -> None:
        """Check a list of members: no two have one nick, unless some are at a daemon that died."""
        nicks = [member["nick"].casefold() for member in answer["members"]]
        expect(
            self.excused or len(nicks) == len(set(nicks)),
            f"a nick is one user's: {answer['members']}",
        )

    def continued(  # noqa: B027  nothing to check by default
        self, link: Link, room: str, since: Fields | None, epoch: str
    ) -> None:
        """Check that a client may go on from a position, under an epoch that may be another.

        It always may on a store that loses nothing.
        """

    def not_restored(self, link: Link) -> None:
        """Report a guest who did not become the same guest again."""
        if self.excused:
            return
        raise Violation(f"a session makes a guest the same again: {link}")

    def sanctioned(self, pending: Pending, ok: Fields) -> None:
        """Record an operator's act that was acknowledged, perhaps a long time after it."""
        if self.forgetful:
            return
        command, user, now = pending.command, ok.get("user"), trio.current_time()
        if user is None:
            return
        until = pending.sent + float(command.get("seconds") or 1e9)
        if command["do"] == "ban" and command.get("room") is None:
            self.bans[user] = until
        elif command["do"] == "mute":
            self.mutes[user, command.get("room")] = now, until
        else:
            self.lifted(user)

    def lifted(self, user: str) -> None:
        """Record that the sanctions of a user may have been lifted."""
        self.bans.pop(user, None)
        for key in [key for key in self.mutes if key[0] == user]:
            del self.mutes[key]

    @property
    def forgetful(self) -> bool:
        """Whether what is acknowledged now may be lost."""
        return False

    @property
    def excused(self) -> bool:
        """Whether a daemon may not know yet what happened elsewhere."""
        return False

    @property
    def divided(self) -> bool:
        """Whether daemons commit to two servers, neither of which knows what the other one has."""
        return False

    def may_speak(self, link: Link, pending: Pending) -> None:
        """Check that the sender of an acknowledged message was not muted when it was sent."""
        if self.excused:
            return
        for room in (None, pending.command["room"]):
            at, until = self.mutes.get((link.person.user or "", room), (1e9, 0.0))
            expect(
                not at < pending.sent < until - 1,
                f"a muted user sends nothing: {link} {pending.command}",
            )

    # ---- promises about a moment

    async def idle(self) -> None:
        """Wait until nothing is left to do at this moment, and check what must hold then."""
        await wait_all_tasks_blocked()
        now = trio.current_time()
        nicks: dict[str, str] = {}
        for link in self.links:
            if link.over or not link.clean:
                continue
            for pending in link.pending.values():
                self.in_time(link, pending)
            user = link.person.user
            if not link.ready:
                since = max(link.answered_at, self.mended_at)
                self._soon(since, f"introduction of {link}")
            if not link.ready or user is None:
                continue
            expect(
                self.excused or now >= self.bans.get(user, 0.0) - 1,
                f"a banned user is not connected: {link}, {user}",
            )
            holder = nicks.setdefault(link.person.nick.casefold(), user)
            expect(
                self.divided or holder == user,
                f"a nick is one user's: {link.person.nick} is that of {holder} and {user}",
            )

    async def finish(self) -> None:
        """Let everything come to rest, then compare what everybody knows with the store."""
        for link in self.links:
            link.plug.flow()
        await self.heal()
        for person in self.people:
            if person.link is None or not person.link.clean:
                person.connect(person.node % len(self.nodes))
        await self.rest()
        await self.idle()
        witness = Person(self, len(self.people), "json", subject="witness")
        self.people.append(witness)
        witness.rooms = {room: RoomView(room) for room in ROOMS}
        witness.connect(0)
        await self.idle()
        expect(witness.link is not None and witness.link.ready, "the witness is let in")
        assert witness.link is not None
        for room in ROOMS:
            witness.link.say(self.attempt(witness, room))
        await self.rest()
        await self.idle()
        logs = await self.logs()
        self.ledger.compare(logs, whole=self.keeps_all)
        for link in self.links:
            if not link.over and link.clean and link.ready and link.person.protocol != "text":
                self._all_seen(link, logs)
        for link in self.links:
            # Where events are removed, so are their keys, and the same text can be said again.
            if link.person.protocol == "text" and self.keeps_all:
                self._read_in_order(link, logs)
        await self._same_members(witness)
        for node in self.nodes:
            expect(not node.logged("fault"), f"no fault: {node.logged('fault')}")

    async def rest(self) -> None:
        """Wait until nobody waits for anything, presence included."""
        await trio.sleep(self.rest_seconds)

    async def logs(self) -> dict[str, Sequence[LogEntry]]:
        """Return the logs of all rooms that anybody was shown."""
        journal = self.nodes[0].daemon.chat.journal
        rooms = {*ROOMS, *self.ledger.rooms}
        return {room: await journal.entries(room, 0, 100_000) for room in sorted(rooms)}

    def _all_seen(self, link: Link, logs: dict[str, Sequence[LogEntry]]) -> None:
        for view in (*link.views.values(), *link.direct.values()):
            log = logs.get(view.room, ())
            head = log[-1].seq if log else 0
            if not log and not self.keeps_all:
                continue
            expect(
                view.leaving or view.next in {None, head + 1},
                f"everybody sees everything: {link} of {view}, the log ends at {head}",
            )

    def _read_in_order(self, link: Link, logs: dict[str, Sequence[LogEntry]]) -> None:
        """Compare the lines of a client of plain text with the log, stay by stay."""
        room, seen = "", list[int]()
        plain = {
            entry.text: entry
            for log in logs.values()
            for entry in log
            if entry.kind == "message" and not entry.edited and not entry.deleted
            if not self.ledger.changed_by_loss(entry)
        }
        for line in (*link.lines, None):
            greeting = None if line is None else _GREETING.match(line)
            if line is None or greeting:
                whole = [
                    entry.seq
                    for entry in logs.get(room, ())
                    if seen and seen[0] <= entry.seq <= seen[-1] and entry.text in plain
                ]
                expect(seen == whole, f"all lines in order: {link} in {room}, {seen} of {whole}")
                room, seen = greeting[2] if greeting else "", []
                continue
            entry = plain.get(line.partition(": ")[2])
            if entry is not None and not line.startswith("* ") and entry.room == room:
                seen.append(entry.seq)

    async def _same_members(self, witness: Person) -> None:
        """Compare what everybody knows of the members with what the daemon says."""
        for link in self.links:
            if link.over or not link.clean or not link.ready or self.lossy:
                continue
            for room, view in link.views.items():
                if view.roll is None or view.leaving:
                    continue
                members = await self.members(link.node, room)
                known = dict(view.roll)
                known[link.person.user or ""] = link.person.nick
                expect(
                    known == members, f"the members of {room}: {link} knows {known}, not {members}"
                )

    async def members(self, node: int, room: str) -> dict[str, str]:
        """Return a node's members of a room."""
        found = self.nodes[node].daemon.chat.rooms.get(room)
        members = [] if found is None else found.member_list()
        return {member.user: member.nick for member in members}
