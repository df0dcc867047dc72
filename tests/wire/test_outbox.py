"""The MUSTs, each with its tests, on sockets and on streams."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from chatd.wire.outbox import Outbox
from chatd.wire.transport import Peer, SocketTransport, StreamTransport, Transport

BOUND = 100_000
PEER = Peer("127.0.0.1", "tcp", loopback=True)


class Bench:
    """An outbox, the other end of its transport, and its callbacks."""

    def __init__(self, nursery: trio.Nursery, kind: str) -> None:
        self.nursery = nursery
        self.calls: list[str] = []
        self.far: trio.abc.ReceiveStream
        self.transport: Transport
        if kind == "socket":
            ours, theirs = socket.socketpair()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            self.far = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
            self.transport = SocketTransport(ours, PEER)
        else:
            # Lockstep: send_all returns when it was received, so that an unread stream is full.
            near, self.far = trio.testing.lockstep_stream_pair()
            self.transport = StreamTransport(near, PEER)
        self.outbox = Outbox(
            self.transport,
            nursery,
            BOUND,
            overflowed=lambda: self.calls.append("overflowed"),
            lost=lambda: self.calls.append("lost"),
        )

    def fill(self, up_to: int = 1) -> bytes:
        """Offer until this number of bytes wait; return all that was offered."""
        offered = b""
        while self.outbox.waiting < up_to:
            block = b"%07d " % len(offered) * 64
            self.outbox.offer(block)
            offered += block
        return offered

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += await self.far.receive_some(65536)
        return data


@pytest.fixture(params=["socket", "stream"])
async def bench(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[Bench]:
    made = Bench(nursery, request.param)
    yield made
    made.outbox.end()
    await made.transport.aclose()
    await made.far.aclose()


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


# 1. Offers never block, never raise, and after the end do nothing


async def test_1_an_offer_to_a_full_transport_returns(bench: Bench) -> None:
    bench.fill()
    bench.outbox.offer(b"x")
    assert bench.outbox.waiting > 1


async def test_1_an_offer_to_a_broken_transport_raises_nothing_and_reports_once(
    bench: Bench,
) -> None:
    await bench.far.aclose()
    for _ in range(3):
        bench.outbox.offer(b"x" * 1000)
        await trio.testing.wait_all_tasks_blocked()
    assert bench.calls == ["lost"]
    assert bench.outbox.waiting == 0


async def test_1_an_offer_after_the_end_does_nothing(bench: Bench) -> None:
    bench.outbox.end()
    before = tasks()
    bench.outbox.offer(b"x" * 10)
    bench.outbox.offer_droppable(b"x" * 10)
    bench.outbox.send_final(b"x" * 10)
    assert bench.outbox.waiting == 0
    assert bench.outbox.sent_bytes == 0
    assert tasks() == before
    assert bench.calls == []


async def test_1_an_offer_to_many_is_one_to_each_of_them(nursery: trio.Nursery) -> None:
    benches = [Bench(nursery, kind) for kind in ("socket", "socket", "socket", "stream", "socket")]
    healthy, full, ended, stream, broken = benches
    offered = full.fill()
    ended.outbox.end()
    await broken.far.aclose()
    Outbox.offer_each([bench.outbox for bench in reversed(benches)], b"to all", 3)
    assert await healthy.read(6) == b"to all"
    assert await stream.read(6) == b"to all"
    assert await full.read(len(offered) + 6) == offered + b"to all"
    assert (ended.outbox.sent_bytes, ended.outbox.waiting) == (0, 0)
    assert [bench.calls for bench in benches] == [[], [], [], [], ["lost"]]
    counted = [bench.outbox.sent_messages for bench in (healthy, stream, ended)]
    assert counted == [3, 3, 0]
    for bench in benches:
        bench.outbox.end()
        await bench.transport.aclose()
        await bench.far.aclose()


async def test_1_an_offer_when_the_nursery_is_closed_raises_nothing() -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery, "stream")
        bench.outbox.end()
    bench.outbox.offer(b"x" * 10)
    await bench.far.aclose()


# 2. Whole blocks, in order


async def test_2_everything_arrives_in_order(bench: Bench) -> None:
    offered = bench.fill(BOUND // 2)
    assert await bench.read(len(offered)) == offered
    bench.outbox.offer(b"behind")
    assert await bench.read(6) == b"behind"


async def test_2_nothing_follows_a_cancelled_writer(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        inner = Bench(nursery, "socket")
        inner.fill()
        nursery.cancel_scope.cancel()
    inner.outbox.offer(b"after")
    assert inner.outbox.waiting == 0
    await inner.transport.aclose()
    data = b""
    while piece := await inner.far.receive_some(65536):
        data += piece
    assert b"after" not in data
    await inner.far.aclose()


# 3. The kernel first, and a writer only while something waits


async def test_3_a_socket_is_written_at_once_and_without_a_task(nursery: trio.Nursery) -> None:
    bench = Bench(nursery, "socket")
    before = tasks()
    bench.outbox.offer(b"now", messages=2)
    assert tasks() == before
    assert bench.outbox.waiting == 0
    assert bench.outbox.sent_messages == 2
    assert await bench.far.receive_some() == b"now"
    await bench.transport.aclose()
    await bench.far.aclose()


async def test_3_the_writer_ends_with_the_queue(bench: Bench) -> None:
    before = tasks()
    offered = bench.fill()
    assert tasks() == before + 1
    await bench.read(len(offered))
    await bench.outbox.drained()
    await trio.testing.wait_all_tasks_blocked()
    assert tasks() == before
    assert bench.outbox.waiting == 0
    assert bench.outbox.sent_bytes == len(offered)


# 4. The bound in bytes, once, and the last word past it


async def test_4_at_the_limit_nothing_more_is_taken_and_it_is_reported_once(bench: Bench) -> None:
    bench.fill(BOUND - 600)
    waiting = bench.outbox.waiting
    for _ in range(3):
        bench.outbox.offer(b"x" * 601)
    bench.outbox.offer(b"small")
    assert bench.calls == ["overflowed"]
    assert bench.outbox.waiting == waiting


async def test_4_the_final_block_reaches_a_peer_that_reads(bench: Bench) -> None:
    offered = bench.fill(BOUND - 600)
    bench.outbox.offer(b"x" * 601)
    bench.outbox.send_final(b"bye" * 1000)
    bench.outbox.send_final(b"again")
    bench.outbox.offer(b"more")
    expected = offered + b"bye" * 1000
    assert await bench.read(len(expected)) == expected
    await bench.outbox.drained()
    assert bench.outbox.waiting == 0
    assert bench.outbox.sent_bytes == len(expected)


async def test_4_the_final_block_of_an_idle_outbox(bench: Bench) -> None:
    bench.outbox.send_final(b"bye")
    bench.outbox.offer(b"more")
    assert await bench.read(3) == b"bye"
    await bench.outbox.drained()
    assert bench.outbox.waiting == 0


async def test_4_a_block_over_the_bound_is_taken_when_nothing_waits(bench: Bench) -> None:
    bench.outbox.offer(b"x" * BOUND * 3)
    assert bench.calls == []
    bench.outbox.offer(b"y" * BOUND)
    assert bench.calls == ["overflowed"]
    assert await bench.read(BOUND * 3) == b"x" * BOUND * 3


async def test_4_droppable_is_left_out_above_half_the_bound(bench: Bench) -> None:
    offered = bench.fill(BOUND // 2 + 1)
    bench.outbox.offer_droppable(b"presence")
    assert bench.outbox.dropped == 1
    assert await bench.read(len(offered)) == offered
    await bench.outbox.drained()
    bench.outbox.offer_droppable(b"presence")
    assert await bench.read(8) == b"presence"


# 5. The same object, and the writer always, where there is no socket


async def test_5_a_stream_is_written_by_the_writer(nursery: trio.Nursery) -> None:
    bench = Bench(nursery, "stream")
    before = tasks()
    bench.outbox.offer(b"one")
    assert bench.outbox.waiting == 3
    assert tasks() == before + 1
    assert await bench.read(3) == b"one"
    await bench.outbox.drained()
    bench.outbox.offer(b"two")
    assert await bench.read(3) == b"two"
    await bench.far.aclose()


# Waiting for it


async def test_the_end_wakes_every_waiting_task(bench: Bench) -> None:
    bench.fill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.outbox.drained)
        nursery.start_soon(bench.outbox.drained)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) > 1
        bench.outbox.end()


async def test_drained_does_not_wait_for_later_offers(bench: Bench) -> None:
    offered = bench.fill()
    done = trio.Event()

    async def wait() -> None:
        await bench.outbox.drained()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        later = bench.fill(BOUND // 2)
        await bench.read(len(offered) + 1)
        await done.wait()
        assert bench.outbox.waiting > 0
        assert len(later) > 0


async def test_room_is_waited_for(bench: Bench) -> None:
    await bench.outbox.room(BOUND * 2)
    offered = bench.fill(BOUND - 2000)
    await bench.outbox.room(10)
    rooms: list[int] = []

    async def wait() -> None:
        await bench.outbox.room(BOUND // 2)
        rooms.append(bench.outbox.waiting)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not rooms
        await bench.read(len(offered))
    assert rooms[0] + BOUND // 2 <= BOUND
    bench.fill(BOUND - 2000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        bench.outbox.end()
    assert len(rooms) == 2


async def test_an_empty_block_is_nothing(bench: Bench) -> None:
    bench.outbox.offer(b"")
    bench.outbox.send_final(b"")
    assert bench.outbox.waiting == 0


# 6. What the protocol itself sends


async def test_6_no_bound_refuses_what_the_protocol_sends(bench: Bench) -> None:
    offered = bench.fill(BOUND - 600)
    bench.outbox.force(b"f" * 1000)
    bench.outbox.hasten(b"ping")
    assert bench.calls == []
    assert bench.outbox.hastening
    # The ping overtakes all but the block under way.
    data = await bench.read(len(offered) + 1004)
    assert data.endswith(b"f" * 1000)
    assert b"ping" in data[: len(offered) // 2]
    await bench.outbox.hastened()
    assert not bench.outbox.hastening
    assert data.replace(b"ping", b"") == offered + b"f" * 1000


async def test_6_a_short_queue_is_not_overtaken(bench: Bench) -> None:
    offered = bench.fill(up_to=5000)
    bench.outbox.hasten(b"ping")
    data = await bench.read(len(offered) + 4)
    assert data == offered + b"ping"


async def test_6_an_empty_outbox_sends_it_at_once(bench: Bench) -> None:
    bench.outbox.hasten(b"ping")
    assert await bench.read(4) == b"ping"
    await bench.outbox.hastened()
    bench.outbox.force(b"next")
    assert await bench.read(4) == b"next"


async def test_6_nothing_is_hastened_after_the_end(bench: Bench) -> None:
    bench.fill(BOUND - 600)
    bench.outbox.hasten(b"ping")
    bench.outbox.end()
    bench.outbox.hasten(b"ping")
    bench.outbox.force(b"more")
    await bench.outbox.hastened()
    assert bench.outbox.waiting == 0


async def test_4_a_block_above_the_bound_is_taken_if_it_is_allowed(bench: Bench) -> None:
    asked: list[int] = []

    def exceed(size: int) -> bool:
        asked.append(size)
        return len(asked) < 3

    bench.outbox.exceed = exceed
    offered = bench.fill(BOUND - 600)
    for _ in range(4):
        bench.outbox.offer(b"x" * 700)
    assert asked == [700] * 3
    assert bench.calls == ["overflowed"]
    assert await bench.read(len(offered) + 1400) == offered + b"x" * 1400


async def test_what_is_held_is_sent_together(bench: Bench) -> None:
    outbox = bench.outbox
    outbox.hold()
    outbox.force(b"one ")
    outbox.offer(b"two ", 3)
    assert (outbox.waiting, outbox.sent_bytes) == (8, 0)
    outbox.release()
    assert await bench.far.receive_some(65536) == b"one two "
    outbox.offer(b"three")
    assert await bench.read(5) == b"three"
    await outbox.drained()
    assert (outbox.sent_bytes, outbox.sent_messages) == (13, 4)


async def test_a_release_of_nothing_sends_nothing(bench: Bench) -> None:
    bench.outbox.hold()
    bench.outbox.release()
    bench.outbox.offer(b"first")
    assert await bench.read(5) == b"first"
