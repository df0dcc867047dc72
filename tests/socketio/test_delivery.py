from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import pytest
import trio
from trio.testing import assert_no_checkpoints

from chatd.bus import Slices
from chatd.engineio import Block
from chatd.socketio.acks import Reply
from chatd.socketio.delivery import Delivery, Selection
from chatd.socketio.recovery import Lost, MemoryLog


class Outlet:
    def __init__(self, revision: Literal[3, 4]) -> None:
        self.revision: Literal[3, 4] = revision
        self.waiting = 0
        self.blocks: list[Block] = []

    def offer(self, block: Block, messages: int = 1, /) -> None:
        assert block.revision == self.revision
        self.blocks.append(block)

    @staticmethod
    def offer_each(outboxes: Iterable[Outlet], block: Block, messages: int = 1, /) -> None:
        for outbox in outboxes:
            outbox.offer(block, messages)

    @property
    def texts(self) -> list[str]:
        return [data.decode() for block in self.blocks for _, data in block._parts]


class Member:
    def __init__(self, name: str, revision: Literal[3, 4] = 4) -> None:
        self.id = name
        self.session = Outlet(revision)
        self.disconnect_reason: str | None = None

    def expect_ack(self, packet_id: int, reply: Reply) -> None: ...

    def forget_ack(self, packet_id: int) -> None: ...


def stage(*members: Member, log: MemoryLog | None = None) -> Any:
    made: Any = Delivery("/", log)
    for member in members:
        made.rooms.add(member)
        made.rooms.join(member, [member.id, "room"])
    return made


async def test_an_event_is_encoded_once_for_each_revision() -> None:
    members = [Member(str(number), 4 if number % 2 else 3) for number in range(10)]
    await stage(*members).emit(Selection(), "x", [1])
    blocks = {id(block) for member in members for block in member.session.blocks}
    assert len(blocks) == 2
    assert all(member.session.texts == ['42["x",1]'] for member in members)


async def test_where_sockets_recover_events_end_in_offsets() -> None:
    log = MemoryLog(clock=trio.current_time)
    old, new = Member("old", 3), Member("new", 4)
    made = stage(old, new, log=log)
    begin = log.head("/")
    await made.emit(Selection(), "x", [])
    first = log.head("/")
    await made.emit(Selection(), "v", ["text"], volatile=True)
    await made.send(new, "y", [b"b"])
    second = log.head("/")
    assert len({begin, first, second}) == 3
    # Revision 3's clients would take it for an argument.
    assert old.session.texts == ['42["x"]', '42["v","text"]']
    assert new.session.texts[:2] == [f'42["x","{first}"]', f'42["v","text","{first}"]']
    assert new.session.texts[2] == f'451-["y",{{"_placeholder":true,"num":0}},"{second}"]'


async def test_what_is_for_one_that_may_come_back_is_logged() -> None:
    log = MemoryLog(clock=trio.current_time)
    member = Member("a")
    made = stage(log=log)
    member.disconnect_reason = "ping timeout"
    await made.send(member, "x", [])
    first = log.head("/")
    member.disconnect_reason = "client namespace disconnect"
    await made.send(member, "x", [])
    assert log.head("/") == first
    events = await log.read("/", first.rpartition(".")[0] + ".0", Lost("pid", "id", [], {}, ""))
    assert events is not None
    assert [(event.messages, set(event.rooms)) for event in events] == [(['2["x"]'], {"a"})]


async def test_a_long_fan_out_lets_others_run_and_skips_a_socket_that_left() -> None:
    members = [Member(str(number)) for number in range(6)]
    made = stage(*members)
    made.slices = Slices(seconds=0.0, recipients=2)

    class Leaving(Outlet):
        def offer(self, block: Block, messages: int = 1, /) -> None:
            super().offer(block, messages)
            made.rooms.leave(members[4], ["room"])
            made.rooms.remove(members[5])

    members[0].session = Leaving(4)
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            await trio.lowlevel.checkpoint()
            others += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await made.emit(Selection(frozenset({"room"})), "x", [])
        nursery.cancel_scope.cancel()
    assert others >= 2
    assert [len(member.session.blocks) for member in members] == [1, 1, 1, 1, 0, 0]


async def test_a_logged_event_reaches_all_sockets_even_after_cancellation() -> None:

    class Slow(MemoryLog):
        async def append(self, *args: Any) -> str:
            scope.cancel()
            await trio.lowlevel.checkpoint()
            return await super().append(*args)

    members = [Member(str(number)) for number in range(4)]
    made = stage(*members, log=Slow(clock=trio.current_time))
    made.slices = Slices(seconds=0.0, recipients=1)
    with trio.CancelScope() as scope:
        await made.emit(Selection(), "x", [])
    assert [len(member.session.blocks) for member in members] == [1, 1, 1, 1]
    with trio.CancelScope() as scope:
        scope.cancel()
        await made.emit(Selection(), "never said", [])
    assert [len(member.session.blocks) for member in members] == [1, 1, 1, 1]


async def test_what_the_log_raises_the_emit_raises_and_nothing_is_sent() -> None:
    class Broken(MemoryLog):
        async def append(self, *args: Any) -> str:
            raise OSError("disk full")

    member = Member("a")
    made = stage(member, log=Broken())
    with pytest.raises(OSError, match="disk full"):
        await made.emit(Selection(), "x", [])
    assert member.session.blocks == []
    with assert_no_checkpoints():
        async with made.lock:
            pass


async def test_emits_at_the_same_time_do_not_wait_a_round_for_each_other() -> None:
    member = Member("a")
    made = stage(member, log=MemoryLog())
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            await trio.lowlevel.checkpoint()
            rounds += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        async with trio.open_nursery() as emits:
            for _ in range(50):
                emits.start_soon(made.emit, Selection(), "x", [])
        nursery.cancel_scope.cancel()
    assert len(member.session.blocks) == 50
    assert rounds < 10
