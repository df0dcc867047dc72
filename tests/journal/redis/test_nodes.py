"""Two nodes on one server that fails under load: nothing is lost, nothing twice, one order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from chatd.changed import Changed
from chatd.journal import Unavailable
from chatd.journal.redis.engine import RedisEngine
from chatd.journal.shared import SharedJournal, open_shared
from chatd.model import Event, FeedEntry, Post, Receipt
from tests.redis_server import RedisServer, needs_redis

pytestmark = needs_redis

TIMEOUT = 0.5
WRITERS = 3


class _Node:
    """A node, what its feed has shown, and what its writers were told."""

    def __init__(self, journal: SharedJournal, name: str) -> None:
        self.journal = journal
        self.name = name
        self.shown: list[Event] = []
        self.confirmed: dict[str, int] = {}
        self.slowest = 0.0
        self._more = Changed()
        self._commits = trio.Lock()

    async def read(self, committed: trio.MemoryReceiveChannel[Sequence[FeedEntry]]) -> None:
        async for block in committed:
            self.shown += (entry for entry in block if isinstance(entry, Event))
            self._more.notify()

    async def has_shown(self, seq: int) -> None:
        """Wait until the event with this number was shown."""
        while not self.shown or self.shown[-1].seq < seq:
            await self._more.wait()

    async def write(self, writer: int, stopped: Callable[[], bool]) -> None:
        """Say one message after the other, each with its key until it is confirmed."""
        number = 0
        while not stopped():
            key = f"{self.name}-{writer}-{number}"
            post = Post("lobby", "Lobby", f"u{self.name}{writer}", "n", key, key=key)
            while key not in self.confirmed:
                async with self._commits:
                    begin = trio.current_time()
                    try:
                        [outcome] = await self.journal.commit([post])
                    except Unavailable:
                        await self.journal.answered([])
                        outcome = None
                    else:
                        assert isinstance(outcome, Receipt)
                        self.confirmed[key] = outcome.event.seq
                        await self.journal.answered([outcome.event])
                    self.slowest = max(self.slowest, trio.current_time() - begin)
                await trio.sleep(0.002 if outcome else 0.05)
            number += 1


@asynccontextmanager
async def _open(server: RedisServer, name: str) -> AsyncIterator[_Node]:
    engine = RedisEngine(server.url, timeout=TIMEOUT)
    opened = open_shared(engine, timeout_seconds=TIMEOUT)
    async with opened as journal, trio.open_nursery() as tasks:
        node = _Node(journal, name)
        sending, committed = trio.open_memory_channel[Sequence[FeedEntry]](1)
        async with sending:
            journal.start(sending.send, lambda _room: True)
            tasks.start_soon(node.read, committed)
            yield node
            await journal.aclose()


async def _kill(server: RedisServer) -> None:
    for _ in range(2):
        await trio.sleep(0.3)
        server.kill()
        await trio.sleep(0.1)
        await trio.to_thread.run_sync(server.start)


async def _stop(server: RedisServer) -> None:
    await trio.sleep(0.3)
    server.stop()
    await trio.sleep(3 * TIMEOUT)
    server.go_on()


@pytest.mark.parametrize("fail", [_kill, _stop])
async def test_what_was_confirmed_is_shown_once_and_in_one_order(
    own_server: RedisServer, fail: Callable[[RedisServer], Awaitable[None]]
) -> None:
    stopped = False
    async with _open(own_server, "a") as first, _open(own_server, "b") as second:
        nodes = (first, second)
        async with trio.open_nursery() as writers:
            for node in nodes:
                for writer in range(WRITERS):
                    writers.start_soon(node.write, writer, lambda: stopped)
            await fail(own_server)
            await trio.sleep(0.3)
            stopped = True
        head = await first.journal.head("lobby")
        assert head is not None
        with trio.fail_after(60):
            for node in nodes:
                await node.has_shown(head.seq)
        stored = await first.journal.read("lobby", 0, head.seq, 10**6)
    confirmed = first.confirmed | second.confirmed
    assert {event.text: event.seq for event in stored} == confirmed
    assert len(stored) == len(confirmed) > 20
    for node in nodes:
        assert node.shown == stored
        assert node.slowest < 10 * TIMEOUT  # the machine may be busy


async def test_a_node_that_ends_gives_its_lease_up(own_server: RedisServer) -> None:
    async with _open(own_server, "a") as first:
        async with _open(own_server, "b"):
            assert len(await first.journal.nodes()) == 2
        assert [one.node for one in await first.journal.nodes()] == [first.journal.node]
