"""The bus on a store that several daemons share: its events come late, and others' among them."""

from __future__ import annotations

from collections.abc import Sequence

import trio
import trio.testing

from chatd.bus import Bus, Submission
from chatd.journal.memory import MemoryJournal
from chatd.logs import open_log
from chatd.model import Event, Operation, Outcome, Post, Receipt
from chatd.testing.recording import Recording


def post(text: str) -> Post:
    return Post("r", "r", "u", "n", text)


class SharedJournal(MemoryJournal):
    """Puts every event on ``committed`` in the store's order; its own once they were answered."""

    def __init__(self) -> None:
        super().__init__(now=lambda: 1)
        self.brings, self._feed = trio.open_memory_channel[list[Event]](100)
        self._own: set[int] = set()
        self._released = trio.Condition()

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        outcomes = await super().commit(batch)
        events = [outcome.event for outcome in outcomes if isinstance(outcome, Receipt)]
        self._own |= {event.position for event in events}
        self.brings.send_nowait(events)
        return outcomes

    async def commit_elsewhere(self, text: str) -> None:
        """Commit as another daemon does."""
        [outcome] = await super().commit([post(text)])
        assert isinstance(outcome, Receipt)
        self.brings.send_nowait([outcome.event])

    async def answered(self, events: list[Event]) -> None:
        if not events:
            await self.brings.send(events)
        async with self._released:
            self._own -= {event.position for event in events}
            self._released.notify_all()

    async def run(self) -> None:
        async for block in self._feed:
            async with self._released:
                while any(event.position in self._own for event in block):
                    await self._released.wait()
            await self._committed.send(block)

    async def aclose(self) -> None:
        self.brings.close()


class Answered(Submission):
    def __init__(self, text: str, lines: list[str]) -> None:
        super().__init__(post(text))
        self.text = text
        self.lines = lines

    def resolve(self, outcome: Outcome) -> None:
        self.lines.append(f"answer {self.text}")


async def test_foreign_and_late_blocks_are_fanned_out_in_the_stores_order() -> None:
    lines: list[str] = []

    def fanned_out(room: str, events: Sequence[Event], receivers: int) -> None:
        lines.extend(f"event {event.text}" for event in events)

    journal = SharedJournal()
    bus = Bus(journal, fanned_out, open_log(sink=Recording()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.run)
        await trio.testing.wait_all_tasks_blocked()
        await journal.commit_elsewhere("1")
        await bus.publish(Answered("2", lines))
        await trio.testing.wait_all_tasks_blocked()
        assert lines == ["answer 2"]  # the store's feed has brought nothing yet
        nursery.start_soon(journal.run)
        await bus.probe()
        assert lines == ["answer 2", "event 1", "event 2"]
        assert bus.fanned_out == 2
        await journal.commit_elsewhere("3")
        await bus.publish(Answered("4", lines))
        await bus.probe()
        assert lines[3:] == ["event 3", "answer 4", "event 4"] or lines[3:] == [
            "answer 4",
            "event 3",
            "event 4",
        ]
        bus.close()


async def test_an_event_of_ones_own_waits_for_its_answer() -> None:
    lines: list[str] = []

    def fanned_out(room: str, events: Sequence[Event], receivers: int) -> None:
        lines.extend(f"event {event.text}" for event in events)

    class Early(SharedJournal):
        async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
            outcomes = await super().commit(batch)
            await trio.testing.wait_all_tasks_blocked()  # the feed brings it before commit returns
            return outcomes

    journal = Early()
    bus = Bus(journal, fanned_out, open_log(sink=Recording()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.run)
        nursery.start_soon(journal.run)
        await bus.publish(Answered("1", lines))
        await bus.probe()
        assert lines == ["answer 1", "event 1"]
        bus.close()
