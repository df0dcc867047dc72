"""When systemd gets a sign of life, and when it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from chatd.bus import Bus, FannedOut, Submission
from chatd.journal.memory import MemoryJournal
from chatd.logs import open_log
from chatd.model import Operation, Outcome, Post
from chatd.systemd import Notifier
from chatd.testing.recording import Recording
from chatd.watchdog import Watchdog

SECONDS = 40


class Manager(Notifier):
    """Notes when it is given a sign of life; would kill after ``SECONDS`` without one."""

    def __init__(self) -> None:
        super().__init__({})
        self.signs: list[float] = []

    def watchdog(self) -> bool:
        self.signs.append(trio.current_time())
        return True

    @property
    def killed(self) -> bool:
        times = [*self.signs, trio.current_time()]
        return any(b - a > SECONDS for a, b in pairwise(times))


class Disk(MemoryJournal):
    """A store whose commits wait for ``spins``, optionally in a thread."""

    def __init__(self) -> None:
        super().__init__(now=lambda: 0)
        self.spins = trio.Event()
        self.spins.set()
        self.in_thread = False
        self._inside = False

    @property
    def writer_blocked(self) -> bool:
        return self._inside

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        self._inside = self.in_thread
        await self.spins.wait()
        self._inside = False
        return await super().commit(batch)


class Scene:
    def __init__(self) -> None:
        self.disk = Disk()
        self.manager = Manager()
        self.log = Recording()
        self.bus = Bus(self.disk, self._shown, open_log(sink=self.log))

    def _shown(self, rooms: Sequence[FannedOut]) -> None:
        pass

    async def say(self) -> None:
        post = Post(room="r", name="r", user="u", nick="n", text="x", key=None)
        await self.bus.publish(Submission(post))

    @property
    def hangs(self) -> list[dict[str, object]]:
        return [fields for name, fields in self.log.records if name == "hang"]


@asynccontextmanager
async def watched() -> AsyncIterator[Scene]:
    scene = Scene()
    log = open_log(sink=scene.log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.bus.run)
        nursery.start_soon(Watchdog(scene.bus, scene.manager, log, seconds=SECONDS).run)
        yield scene
        nursery.cancel_scope.cancel()


async def test_a_working_bus_notifies_twice_in_the_interval(autojump_clock: MockClock) -> None:
    async with watched() as scene:
        began = trio.current_time()
        await trio.sleep(100)
        assert [sign - began for sign in scene.manager.signs] == [0, 20, 40, 60, 80, 100][:-1]
        assert scene.hangs == []
        assert scene.bus.available


async def test_a_hanging_fan_out_is_logged_and_stops_the_notifications(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def _fan_out(_: Bus) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Bus, "_fan_out", _fan_out)
    async with watched() as scene:
        await trio.sleep(SECONDS - 1)
        # Before systemd strikes, once, and with what hangs.
        (hang,) = scene.hangs
        assert SECONDS / 4 <= float(str(hang["seconds"])) < SECONDS / 2
        assert "_fan_out" in str(hang["tasks"])
        assert "test_watchdog.py" in str(hang["tasks"])
        await trio.sleep(10 * SECONDS)
        assert len(scene.hangs) == 1
        assert scene.manager.signs == []


async def test_a_collector_that_hangs_outside_the_disk_is_not_fed(
    autojump_clock: MockClock,
) -> None:
    async with watched() as scene:
        await trio.sleep(1)
        scene.disk.spins = trio.Event()
        await scene.say()
        await trio.sleep(10 * SECONDS)
        assert len(scene.manager.signs) == 1
        assert scene.manager.killed
        assert len(scene.hangs) == 1


async def test_a_slow_disk_is_not_killed_but_sends_new_clients_away(
    autojump_clock: MockClock,
) -> None:
    async with watched() as scene:
        scene.disk.in_thread = True
        scene.disk.spins = trio.Event()
        await scene.say()
        await trio.sleep(4)
        assert scene.bus.available
        await trio.sleep(10 * SECONDS)
        assert not scene.bus.available
        assert scene.bus.stalled_for > 10 * SECONDS
        scene.disk.spins.set()
        await trio.sleep(SECONDS)
        assert scene.bus.available
        assert not scene.manager.killed
        assert scene.hangs == []


async def test_a_second_hang_is_logged_again(autojump_clock: MockClock) -> None:
    async with watched() as scene:
        for _ in range(2):
            scene.disk.spins = trio.Event()
            await scene.say()
            await trio.sleep(SECONDS)
            scene.disk.spins.set()
            await trio.sleep(SECONDS)
        assert len(scene.hangs) == 2


async def test_the_drains_last_moments_are_fed(autojump_clock: MockClock) -> None:
    async with watched() as scene:
        scene.bus.close()
        await trio.sleep(10 * SECONDS)
        assert not scene.manager.killed
        assert scene.hangs == []
