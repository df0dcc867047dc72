"""The daemon as a process: its signals, and its notifications to systemd."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd import service
from chatd.daemon import Daemon, open_daemon
from chatd.journal import Unavailable
from chatd.journal.memory import MemoryJournal
from chatd.logs import open_log
from chatd.model import Operation, Outcome, Post
from chatd.settings import Drain, Settings
from chatd.systemd import Notifier
from chatd.testing.recording import Recording
from tests.gateways.raw import attached_user

SILENT = Notifier({})


class Striking(Recording):
    """A log whose lines of one name send this process a signal, once."""

    def __init__(self, strikes: dict[str, signal.Signals]) -> None:
        super().__init__()
        self.strikes = strikes

    def write(self, entries: Sequence[bytes]) -> None:
        before = len(self.records)
        super().write(entries)
        for name, _ in self.records[before:]:
            if (number := self.strikes.pop(name, None)) is not None:
                os.kill(os.getpid(), number)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.records]


def run_daemon(
    recording: Recording,
    *,
    settings: Settings | None = None,
    journal: Callable[[], Any] | None = None,
    beside: Callable[[], Any] | None = None,
    listen: Callable[[], service.Listeners] = service.Listeners,
    notifier: Notifier = SILENT,
    watchdog: float | None = None,
) -> None:
    """Run ``service.run`` as ``serve`` does, on a virtual clock; its signals are the process's."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            if beside is not None:
                nursery.start_soon(beside)
            await service.run(
                settings or Settings(),
                listen=listen,
                journal=(journal or (lambda: nullcontext(MemoryJournal(now=lambda: 0))))(),
                log=open_log(sink=recording),
                notifier=notifier,
                watchdog=watchdog,
            )
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["opening", "ready", "drain"])
def test_a_signal_at_any_moment_ends_it_cleanly(moment: str, number: signal.Signals) -> None:
    before = signal.getsignal(number)

    @asynccontextmanager
    async def opening() -> AsyncIterator[MemoryJournal]:
        if moment == "opening":
            os.kill(os.getpid(), number)
        await trio.sleep(3)
        yield MemoryJournal(now=lambda: 0)

    strikes = {moment: number}
    if moment == "drain":
        strikes["ready"] = signal.SIGTERM
    recording = Striking(strikes)
    run_daemon(recording, journal=opening)
    assert recording.names[0] == "start"
    assert recording.names[-1] == "stop"
    assert ("drain" in recording.names) == (moment != "opening")
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_it_at_once() -> None:
    took: list[float] = []

    async def watch() -> None:
        began = trio.current_time()
        try:
            await trio.sleep_forever()
        finally:
            took.append(trio.current_time() - began)

    drain = Drain(seconds=3600, delay_seconds=1800)
    recording = Striking({"ready": signal.SIGTERM, "drain": signal.SIGTERM})
    run_daemon(recording, settings=Settings(drain=drain), beside=watch)
    assert recording.names == ["start", "ready", "drain", "stop"]
    assert took == [0]


def test_nothing_listens_until_the_store_is_open() -> None:
    @asynccontextmanager
    async def opening() -> AsyncIterator[MemoryJournal]:
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()
        yield MemoryJournal(now=lambda: 0)

    def listen() -> service.Listeners:
        raise AssertionError("the store is not open")

    recording = Recording()
    run_daemon(recording, journal=opening, listen=listen)
    assert [name for name, _ in recording.records] == ["start", "stop"]


class Told(Notifier):
    """A service manager that records its notifications and their times."""

    def __init__(self) -> None:
        super().__init__({})
        self.words: list[tuple[float, str]] = []

    def _send(self, state: str, descriptors: Sequence[int] = ()) -> bool:
        del descriptors
        self.words.append((trio.current_time(), state))
        return True

    def __iter__(self) -> Iterator[str]:
        return (state for _, state in self.words if not state.startswith("STATUS="))


def test_systemd_is_notified() -> None:
    told = Told()
    run_daemon(Striking({"ready": signal.SIGTERM}), notifier=told)
    assert list(told) == ["READY=1", "STOPPING=1", "EXTEND_TIMEOUT_USEC=10000000"]


def test_systemd_waits_for_a_store_that_is_long_to_open() -> None:
    @asynccontextmanager
    async def migrating() -> AsyncIterator[MemoryJournal]:
        await trio.sleep(35)
        yield MemoryJournal(now=lambda: 0)

    told = Told()
    run_daemon(Striking({"ready": signal.SIGTERM}), journal=migrating, notifier=told)
    assert list(told)[:4] == ["EXTEND_TIMEOUT_USEC=20000000"] * 3 + ["READY=1"]
    assert told.words[0][1] == "STATUS=opening the store"
    assert list(told).count("EXTEND_TIMEOUT_USEC=20000000") == 3


def test_systemd_gets_its_sign_of_life_to_the_end() -> None:
    told = Told()

    async def stop() -> None:
        await trio.sleep(95)
        os.kill(os.getpid(), signal.SIGTERM)

    drain = Settings(drain=Drain(delay_seconds=100))
    run_daemon(Recording(), settings=drain, beside=stop, notifier=told, watchdog=30)
    signs = [at for at, state in told.words if state == "WATCHDOG=1"]
    assert all(b - a <= 15 for a, b in pairwise(signs))
    assert told.words[-1][0] - signs[-1] <= 15
    assert signs[-1] - signs[0] > 150


def test_status_has_clients_rooms_and_store_errors() -> None:
    class Full(MemoryJournal):
        async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
            if any(isinstance(operation, Post) for operation in batch):
                raise Unavailable("the disk is full")
            return await super().commit(batch)

    told = Told()

    async def come() -> None:
        await trio.sleep(1)
        (one,) = started
        client = await attached_user(one, "ann")
        await trio.sleep(6)
        await client.do("say", room="lobby", text="x")
        await trio.sleep(4)
        os.kill(os.getpid(), signal.SIGTERM)
        await client.closed()

    started: list[Daemon] = []
    real = open_daemon

    @asynccontextmanager
    async def noted(*args: Any, **words: Any) -> AsyncIterator[Daemon]:
        async with real(*args, **words) as one:
            started.append(one)
            yield one

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "open_daemon", noted)
        journal = lambda: nullcontext(Full(now=lambda: 0))  # noqa: E731
        run_daemon(Recording(), journal=journal, beside=come, notifier=told)
    states = [state for _, state in told.words if state.startswith("STATUS=")]
    assert states[:2] == ["STATUS=0 clients, 0 rooms", "STATUS=1 clients, 1 rooms"]
    assert "1 clients, 1 rooms; the store is failing" in states[2]
