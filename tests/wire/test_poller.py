"""What the poller promises, on pairs of sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatd.wire import poller
from chatd.wire.poller import current_poller

NAME: ContextVar[str] = ContextVar("NAME")

Pairs: TypeAlias = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    """Return a function that makes pairs of connected sockets."""
    opened: list[socket.socket] = []

    def pair() -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair()
        near.setblocking(False)
        opened.extend((near, far))
        return near, far

    yield pair
    for each in opened:
        each.close()


class Watching:
    """A task that watches a socket until ``stop`` or the end arrives."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received: list[bytes] = []
        self.scope = trio.CancelScope()
        self.returned = False
        self.over = trio.Event()
        self.error: BaseException | None = None
        self.also: Callable[[], None] = lambda: None

    def ready(self, _now: float) -> bool:
        self.received.append(self.socket.recv(100))
        self.also()
        return self.received[-1] not in (b"", b"stop")

    async def run(self) -> None:
        with self.scope:
            try:
                await current_poller().watch(self.socket.fileno(), self.ready)
                self.returned = True
                await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                raise
            except BaseException as error:
                self.error = error
        self.over.set()


async def test_what_comes_is_passed_on_until_the_function_returns_false(pairs: Pairs) -> None:
    near, far = pairs()
    watching = Watching(near)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watching.run)
        for word in (b"one", b"two", b"stop"):
            await wait_all_tasks_blocked()
            far.send(word)
        await watching.over.wait()
        far.send(b"later")
        await wait_all_tasks_blocked()
    assert watching.returned
    assert watching.received == [b"one", b"two", b"stop"]
    assert near.recv(100) == b"later"


async def test_all_functions_run_in_one_task(pairs: Pairs, nursery: trio.Nursery) -> None:
    tasks: list[trio.lowlevel.Task] = []
    for _ in range(3):
        near, far = pairs()
        watching = Watching(near)
        watching.also = lambda: tasks.append(trio.lowlevel.current_task())
        nursery.start_soon(watching.run)
        far.send(b"x")
    await wait_all_tasks_blocked()
    assert len(tasks) == 3
    assert len(set(tasks)) == 1
    assert trio.lowlevel.current_task() not in tasks


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
async def test_an_exception_is_raised_in_the_task_that_watches(
    kind: type[BaseException], pairs: Pairs, nursery: trio.Nursery
) -> None:
    near, far = pairs()
    broken, whole = Watching(near), Watching(pairs()[0])
    whole.socket, other = pairs()

    def fail() -> None:
        raise kind("boom")

    broken.also = fail
    nursery.start_soon(broken.run)
    nursery.start_soon(whole.run)
    far.send(b"x")
    await broken.over.wait()
    assert isinstance(broken.error, kind)
    other.send(b"y")
    await wait_all_tasks_blocked()
    assert whole.received == [b"y"]


async def test_a_function_has_the_context_of_its_task(pairs: Pairs, nursery: trio.Nursery) -> None:
    current_poller()
    await wait_all_tasks_blocked()
    seen: list[str] = []
    for name in ("one", "other"):
        near, far = pairs()
        watching = Watching(near)
        watching.also = lambda: seen.append(NAME.get())
        NAME.set(name)
        nursery.start_soon(watching.run)
        far.send(b"x")
    NAME.set("nobody's")
    await wait_all_tasks_blocked()
    assert sorted(seen) == ["one", "other"]


async def test_a_peer_that_closes_or_is_lost_wakes(pairs: Pairs) -> None:
    near, far = pairs()
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        lost, _ = server.accept()
    closed, reset = Watching(near), Watching(lost)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(closed.run)
        nursery.start_soon(reset.run)
        await wait_all_tasks_blocked()
        far.shutdown(socket.SHUT_WR)
        # Closing resets the connection: SO_LINGER with no time.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    assert closed.received == [b""]
    assert isinstance(reset.error, ConnectionResetError)
    lost.close()


async def test_after_a_cancellation_nothing_is_called(pairs: Pairs, nursery: trio.Nursery) -> None:
    near, far = pairs()
    watching = Watching(near)
    nursery.start_soon(watching.run)
    await wait_all_tasks_blocked()
    watching.scope.cancel()
    far.send(b"x")
    await wait_all_tasks_blocked()
    assert watching.over.is_set()
    assert not watching.returned
    assert near.recv(100) == b"x"
    # The socket may be watched again.
    again = Watching(near)
    nursery.start_soon(again.run)
    far.send(b"y")
    await wait_all_tasks_blocked()
    assert again.received == [b"y"]


@pytest.mark.parametrize("word", [b"go on", b"stop"])
async def test_a_function_that_cancels_its_task_is_heard_first(
    pairs: Pairs, nursery: trio.Nursery, word: bytes
) -> None:
    near, far = pairs()
    watching = Watching(near)
    watching.also = watching.scope.cancel
    nursery.start_soon(watching.run)
    far.send(word)
    await watching.over.wait()
    assert watching.returned
    assert watching.scope.cancelled_caught
    far.send(b"later")
    await wait_all_tasks_blocked()
    assert watching.received == [word]


async def test_a_function_may_end_the_watch_of_another_ready_socket(
    pairs: Pairs, nursery: trio.Nursery
) -> None:
    (one, far_of_one), (two, far_of_two) = pairs(), pairs()
    first, second = Watching(one), Watching(two)
    first.also = second.scope.cancel
    second.also = first.scope.cancel
    nursery.start_soon(first.run)
    nursery.start_soon(second.run)
    await wait_all_tasks_blocked()
    far_of_one.send(b"x")
    far_of_two.send(b"x")
    await wait_all_tasks_blocked()
    assert sorted([first.received, second.received]) == [[], [b"x"]]
    assert [first.over.is_set(), second.over.is_set()] in ([True, False], [False, True])


async def test_closing_wakes_and_leaves_no_event_to_a_reused_descriptor(
    pairs: Pairs, nursery: trio.Nursery
) -> None:
    (near, far), (other, far_of_other) = pairs(), pairs()
    watching = Watching(near)
    nursery.start_soon(watching.run)
    await wait_all_tasks_blocked()
    far.send(b"old")
    descriptor = near.fileno()
    copy = os.dup(descriptor)  # Linux reports events of a closed descriptor while a copy is open
    current_poller().notify_closing(descriptor)
    near.close()
    reused = socket.socket(fileno=os.dup2(other.detach(), descriptor))
    reused.setblocking(False)
    await wait_all_tasks_blocked()
    assert isinstance(watching.error, trio.ClosedResourceError)
    after = Watching(reused)
    nursery.start_soon(after.run)
    await wait_all_tasks_blocked()
    assert after.received == []
    far_of_other.send(b"new")
    await wait_all_tasks_blocked()
    assert after.received == [b"new"]
    after.scope.cancel()
    reused.close()
    os.close(copy)


async def test_a_function_may_close_its_own_socket(pairs: Pairs, nursery: trio.Nursery) -> None:
    near, far = pairs()
    watching = Watching(near)

    def close() -> None:
        current_poller().notify_closing(near.fileno())
        near.close()

    watching.also = close
    nursery.start_soon(watching.run)
    await wait_all_tasks_blocked()
    far.send(b"stop")
    await watching.over.wait()
    assert isinstance(watching.error, trio.ClosedResourceError)


async def test_a_socket_has_one_watcher(pairs: Pairs, nursery: trio.Nursery) -> None:
    near, _ = pairs()
    nursery.start_soon(Watching(near).run)
    await wait_all_tasks_blocked()
    second = Watching(near)
    await second.run()
    assert isinstance(second.error, trio.BusyResourceError)


@pytest.mark.parametrize("seconds", [-1.0, 60.0])
async def test_other_tasks_run_after_each_slice(
    pairs: Pairs, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(poller, "_SLICE_SECONDS", seconds)
    turns = 0
    at: list[int] = []
    ends = [pairs() for _ in range(4)]
    for near, _ in ends:
        watching = Watching(near)
        watching.also = lambda: at.append(turns)
        nursery.start_soon(watching.run)
    await wait_all_tasks_blocked()
    for _, far in ends:
        far.send(b"x")
    for _ in range(20):
        await trio.lowlevel.checkpoint()
        turns += 1
    assert len(at) == 4
    # Each step of the poller is in another round; within a round the order is random.
    assert max(at) - min(at) >= 2 if seconds < 0 else max(at) == min(at)
