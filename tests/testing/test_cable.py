"""The pipe is a stream like any other; a cut cable does not notify its peer."""

from __future__ import annotations

import pytest
import trio
from trio.testing import check_two_way_stream, wait_all_tasks_blocked

from chatd.testing.cable import Cable, PipeEnd, pipe


async def test_the_pipe_is_a_stream() -> None:
    async def make() -> tuple[PipeEnd, PipeEnd]:
        await trio.lowlevel.checkpoint()
        return pipe(1000)

    async def make_clogged() -> tuple[PipeEnd, PipeEnd]:
        left, right = pipe(1000)
        await left.send_all(bytes(1000))
        await right.send_all(bytes(1000))
        return left, right

    await check_two_way_stream(make, make_clogged)


async def test_a_plugged_pipe_is_a_stream() -> None:
    async def make() -> tuple[Cable, PipeEnd]:
        await trio.lowlevel.checkpoint()
        left, right = pipe(1000)
        return Cable(left), right

    async def make_clogged() -> tuple[Cable, PipeEnd]:
        left, right = pipe(1000)
        await left.send_all(bytes(1000))
        await right.send_all(bytes(1000))
        return Cable(left), right

    await check_two_way_stream(make, make_clogged)


async def test_the_pipe_holds_no_more_than_its_size() -> None:
    left, right = pipe(10)
    with trio.move_on_after(0):
        await left.send_all(bytes(11))
    sent = []
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await left.send_all(b"x" * 25)
            sent.append(True)

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert not sent
        assert await right.receive_some() == b"x" * 10
        assert await right.receive_some() == b"x" * 10
        assert await right.receive_some() == b"x" * 5
    assert sent


async def test_a_cut_breaks_the_clients_side_at_once(nursery: trio.Nursery) -> None:
    near, _far = pipe()
    cable = Cable(near)
    broken = trio.Event()

    async def receive() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await cable.receive_some()
        broken.set()

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    cable.cut()
    await broken.wait()
    with pytest.raises(trio.BrokenResourceError):
        await cable.send_all(b"anybody there?")


async def test_the_peer_of_a_cut_cable_is_not_notified(nursery: trio.Nursery) -> None:
    near, far = pipe(10)
    cable = Cable(near)
    told: list[bytes] = []

    async def receive() -> None:
        told.append(await far.receive_some())

    nursery.start_soon(receive)
    cable.cut()
    await cable.aclose()
    await far.send_all(b"0123456789")
    with trio.CancelScope() as scope:
        nursery.start_soon(_cancel_when_blocked, scope)
        await far.send_all(b"the pipe is full, and nobody reads")
    assert scope.cancelled_caught
    assert told == []
    await cable.discard()
    await wait_all_tasks_blocked()
    assert told == [b""]


async def test_a_stalled_cable_reads_nothing_and_sends(nursery: trio.Nursery) -> None:
    near, far = pipe()
    cable = Cable(near)
    heard: list[bytes | bytearray] = []

    async def receive() -> None:
        heard.append(await cable.receive_some())
        heard.append(await cable.receive_some())

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    cable.stall()
    await far.send_all(b"one")
    await wait_all_tasks_blocked()
    await far.send_all(b"two")
    await cable.send_all(b"still here")
    assert await far.receive_some() == b"still here"
    await wait_all_tasks_blocked()
    assert heard == []
    cable.flow()
    await wait_all_tasks_blocked()
    assert heard == [b"one", b"two"]


async def test_a_stalled_cable_can_be_cut(nursery: trio.Nursery) -> None:
    near, _far = pipe()
    cable = Cable(near)
    cable.stall()
    broken = trio.Event()

    async def receive() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await cable.receive_some()
        broken.set()

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    cable.cut()
    await broken.wait()


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()
