from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from chatd.logs import open_log
from chatd.model import SILENT, Close
from chatd.settings import WebSocket as Options
from chatd.testing.recording import Recording
from chatd.timers import Timers
from chatd.wire.keepalive import KeepAlive
from chatd.wire.websocket import WebSocket


class Peer:
    """A connection whose peer may answer pings, after ``answers`` seconds."""

    def __init__(self, answers: float | None = None) -> None:
        self.answers = answers
        self.last_heard = trio.current_time()
        self.busy = False
        self.pinged: list[float] = []
        self.over = trio.Event()
        self.closed_at = 0.0

    def ping(self) -> bool:
        self.pinged.append(trio.current_time())
        if self.answers is not None:
            self.last_heard = trio.current_time() + self.answers
        return False

    def end(self, close: Close) -> None:
        assert close is SILENT
        self.closed_at = trio.current_time()
        self.over.set()


class KeepAlives:
    """Keeps peers alive by ``options``, which may be replaced."""

    def __init__(self) -> None:
        self.timers = Timers(open_log(sink=Recording()))
        self.options = Options(ping_interval_seconds=25, ping_timeout_seconds=20)

    def add(self, peer: Peer) -> None:
        keep_alive = KeepAlive(cast("WebSocket", peer), lambda: self.options)
        due = peer.last_heard + self.options.ping_interval_seconds
        self.timers.add(due, keep_alive.fire)


@pytest.fixture
async def kept(nursery: trio.Nursery) -> AsyncIterator[KeepAlives]:
    made = KeepAlives()
    nursery.start_soon(made.timers.run)
    yield made
    nursery.cancel_scope.cancel()


async def test_a_silent_peer_is_pinged_and_then_closed(
    autojump_clock: MockClock, kept: KeepAlives
) -> None:
    began = trio.current_time()
    peer = Peer()
    kept.add(peer)
    await peer.over.wait()
    assert [at - began for at in peer.pinged] == [25]
    assert peer.closed_at - began == 45
    assert len(kept.timers) == 0


@pytest.mark.parametrize("delay", [0.0, 5.0])
async def test_a_peer_that_answers_lives(
    autojump_clock: MockClock, kept: KeepAlives, delay: float
) -> None:
    peer = Peer(answers=delay)
    kept.add(peer)
    await trio.sleep(3600)
    assert not peer.over.is_set()
    assert len(peer.pinged) == pytest.approx(3600 / (25 + delay), abs=1)


async def test_a_peer_that_speaks_is_not_pinged(
    autojump_clock: MockClock, kept: KeepAlives
) -> None:
    peer = Peer()
    kept.add(peer)
    for _ in range(100):
        await trio.sleep(20)
        peer.last_heard = trio.current_time()
    assert peer.pinged == []


async def test_a_peer_that_is_not_being_read_is_not_silent(
    autojump_clock: MockClock, kept: KeepAlives
) -> None:
    peer = Peer()
    peer.busy = True
    kept.add(peer)
    await trio.sleep(1000)
    assert not peer.over.is_set()
    peer.busy = False
    await peer.over.wait()


async def test_many_at_once_and_one_in_between(autojump_clock: MockClock, kept: KeepAlives) -> None:
    peers = [Peer() for _ in range(300)]
    for peer in peers:
        kept.add(peer)
    await trio.sleep(10)
    late = Peer()
    kept.add(late)
    for peer in peers:
        await peer.over.wait()
    assert not late.over.is_set()
    await late.over.wait()
    assert late.closed_at - peers[0].closed_at == pytest.approx(10)


async def test_other_options_apply_from_the_next_call(
    autojump_clock: MockClock, kept: KeepAlives
) -> None:
    began = trio.current_time()
    peer = Peer()
    kept.add(peer)
    kept.options = Options(ping_interval_seconds=5, ping_timeout_seconds=2)
    await peer.over.wait()
    assert peer.closed_at - began == 27
    second = Peer()
    kept.add(second)
    await second.over.wait()
    assert second.closed_at - peer.closed_at == pytest.approx(7)


class Outbox:
    """What a slow peer has yet to take."""

    def __init__(self) -> None:
        self.hastening = True
        self.sent_bytes = 0


class SlowPeer(Peer):
    """A peer whose ping waits behind a large message."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox()

    def ping(self) -> bool:
        super().ping()
        return True


async def test_a_peer_that_takes_what_was_sent_before_the_ping_is_not_silent(
    autojump_clock: MockClock, kept: KeepAlives
) -> None:
    peer = SlowPeer()
    kept.add(peer)
    for _ in range(100):
        await trio.sleep(5)
        peer.outbox.sent_bytes += 1
    assert not peer.over.is_set()
    assert len(peer.pinged) == 1
    # It has the ping now, and as long as any peer to answer it.
    peer.outbox.hastening = False
    began = trio.current_time()
    await peer.over.wait()
    assert 20 <= peer.closed_at - began <= 40


async def test_a_peer_that_takes_nothing_before_the_ping_is_silent(
    autojump_clock: MockClock, kept: KeepAlives
) -> None:
    peer = SlowPeer()
    kept.add(peer)
    began = trio.current_time()
    await peer.over.wait()
    assert peer.closed_at - began == 45
