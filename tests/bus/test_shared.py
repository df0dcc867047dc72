"""The bus on a store that several daemons share: others' events and news come in one order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from chatd.bus import Bus, FannedOut, Submission
from chatd.journal import Unavailable
from chatd.journal.modelled import ModelEngine, ModelStore
from chatd.journal.shared import SharedJournal, open_shared
from chatd.logs import open_log
from chatd.model import Item, Missed, Outcome, Post, Relay, Relayed, Renewed
from chatd.testing.recording import Recording
from tests.bus.test_feed import Member

NOW = 1_700_000_000_000


def post(text: str, room: str = "r") -> Post:
    return Post(room, room, "u", "n", text)


class Answered(Submission):
    def __init__(self, text: str, lines: list[str]) -> None:
        super().__init__(post(text))
        self.text = text
        self.lines = lines

    def resolve(self, outcome: Outcome) -> None:
        self.lines.append(f"answer {self.text}")


class Daemon:
    """A bus on the shared store, and what happened here, as lines."""

    def __init__(self, engine: ModelEngine, journal: SharedJournal) -> None:
        self.engine = engine
        self.journal = journal
        self.lines: list[str] = []
        self.items: list[Item] = []
        self.here: set[str] = set()
        self.bus = Bus(journal, self.fanned_out, open_log(sink=Recording()), neighbours=self)
        self.member = Member()
        self.bus.open_feed("r", "r").subscribe(self.member)

    def fanned_out(self, rooms: Sequence[FannedOut]) -> None:
        self.lines.extend(f"event {event.text}" for events, _ in rooms for event in events)

    async def take_in(self, item: Item) -> None:
        self.items.append(item)
        self.lines.append(type(item).__name__)
        if item == Relayed(1, "fails", b""):
            raise RuntimeError("made up")

    def expects(self, room: str) -> bool:
        return room in self.here

    async def arriving(self, room: str, seq: int) -> None:
        self.lines.append(f"open {room} before {seq}")
        self.bus.open_feed(room, room).set_head(seq - 1)

    def say(self, text: str) -> None:
        self.bus.publish_nowait(Answered(text, self.lines))


@asynccontextmanager
async def open_daemon(store: ModelStore) -> AsyncIterator[Daemon]:
    engine = ModelEngine(store)
    async with open_shared(engine) as journal, trio.open_nursery() as nursery:
        daemon = Daemon(engine, journal)
        nursery.start_soon(daemon.bus.run)
        yield daemon
        daemon.bus.close()


@pytest.fixture
def store() -> ModelStore:
    return ModelStore(lambda: NOW + round(trio.current_time() * 1000))


@pytest.fixture
async def daemons(store: ModelStore) -> AsyncIterator[tuple[Daemon, Daemon]]:
    async with open_daemon(store) as first, open_daemon(store) as second:
        yield first, second


async def test_others_events_and_ones_own_come_in_the_stores_order(
    daemons: tuple[Daemon, Daemon], autojump_clock: MockClock
) -> None:
    first, second = daemons
    first.say("1")
    await first.bus.probe()
    await trio.sleep(1)
    second.say("2")
    await second.bus.probe()
    assert second.lines == ["event 1", "answer 2", "event 2"]
    await trio.sleep(1)
    assert first.lines == ["answer 1", "event 1", "event 2"]
    assert first.bus.fanned_out == second.bus.fanned_out == 2


async def test_news_come_between_the_events(
    daemons: tuple[Daemon, Daemon], autojump_clock: MockClock
) -> None:
    first, second = daemons
    await first.bus.submit_and_wait(Relay("fails", b""))  # the next ones come all the same
    await first.bus.submit_and_wait(post("1"))
    await first.bus.submit_and_wait(Relay("kick", b"x"))
    await first.bus.submit_and_wait(post("2"))
    await trio.sleep(1)
    assert second.lines == first.lines == ["Relayed", "event 1", "Relayed", "event 2"]


async def test_direct_messages_open_their_room_where_a_party_is(
    daemons: tuple[Daemon, Daemon], autojump_clock: MockClock
) -> None:
    first, second = daemons
    second.here.add("@a,b")
    await first.bus.submit_and_wait(post("to b", "@a,b"))
    await first.bus.submit_and_wait(post("to d", "@c,d"))
    await trio.sleep(1)
    assert second.lines == ["open @a,b before 1", "event to b"]
    assert second.bus.fanned_out == 2


async def test_events_that_the_feed_no_longer_has_are_read_from_the_store(
    store: ModelStore, daemons: tuple[Daemon, Daemon], autojump_clock: MockClock
) -> None:
    first, second = daemons
    second.engine.cut_off()
    for number in range(1, 4):
        await first.bus.submit_and_wait(post(str(number)))
    store.trim()
    second.engine.heal()
    await trio.sleep(2)
    assert second.member.got == [1, 2, 3]
    assert second.items == [Missed(2)]


async def test_what_follows_a_gap_in_the_feed_comes_in_its_order(
    store: ModelStore, daemons: tuple[Daemon, Daemon], autojump_clock: MockClock
) -> None:
    first, second = daemons
    second.engine.cut_off()
    await first.bus.submit_and_wait(post("1"))
    await first.bus.submit_and_wait(post("2"))
    store.trim()
    await first.bus.submit_and_wait(Relay("kick", b"x"))
    await first.bus.submit_and_wait(post("3"))
    second.engine.heal()
    await trio.sleep(2)
    assert second.lines == ["event 1", "Missed", "event 2", "Relayed", "event 3"]


async def test_a_lost_tail_is_told_and_what_follows_is_shown(
    store: ModelStore, daemons: tuple[Daemon, Daemon], autojump_clock: MockClock
) -> None:
    first, second = daemons
    await first.bus.submit_and_wait(post("1"))
    await first.bus.submit_and_wait(post("2"))
    await trio.sleep(1)
    store.restart(lose=1)
    await trio.sleep(3)
    [renewed] = second.items
    assert isinstance(renewed, Renewed)
    assert (renewed.position, renewed.lost) == (2, True)
    assert second.bus.fanned_out == 2


async def test_waiting_for_what_others_have_shown(
    daemons: tuple[Daemon, Daemon], autojump_clock: MockClock
) -> None:
    first, second = daemons
    assert await second.bus.caught_up(0)
    assert not await second.bus.caught_up(1)
    first.say("1")
    await first.bus.probe()
    assert await second.bus.caught_up(1)
    await first.journal.commit([post("not answered")])
    with pytest.raises(Unavailable):
        await first.bus.caught_up(2)
    await first.journal.answered([])


async def test_a_daemon_ends_although_the_store_is_away(
    store: ModelStore, autojump_clock: MockClock
) -> None:
    with trio.fail_after(10):
        async with open_daemon(store) as daemon:
            daemon.say("1")
            await daemon.bus.probe()
            store.kill()
            daemon.say("2")
    assert daemon.lines == ["answer 1", "event 1", "answer 2"]
