"""No member misses an event or gets one twice, whenever they join."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.bus import Slices
from chatd.journal.memory import MemoryJournal
from chatd.model import Event, Operation, Outcome
from chatd.protocol import commands, events
from chatd.protocol.commands import Position
from chatd.settings import Settings
from tests.chat.room import Room, Wall, open_room, perform, seqs

UNLIMITED = replace(Settings().limits, messages_per_second="off", bytes_per_second="off")


async def test_a_member_who_catches_up_gets_ephemeral_events(room: Room) -> None:
    """A list of members that misses a newcomer would stay wrong."""
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await ann.say("before")
    answers: list[Any] = []

    def answered(answer: Any) -> None:
        answers.append(answer)
        bob.stall()  # the answer is on its way

    await perform(bob.connection, commands.Join(room="lobby", limit=0), answered)
    assert [member.nick for member in answers[0].members] == ["ann", "bob"]
    cleo = room.client("cleo")
    await cleo.join()
    await cleo.say("while bob catches up")
    assert [event.nick for event in bob.told(events.Joined)] == ["cleo"]
    assert bob.texts() == []
    bob.read_on()
    await bob.until(lambda: bob.texts() == ["while bob catches up"])
    # Joining again gives the same: no event is missed or sent twice.
    since = Position(answers[0].epoch, 2)
    await perform(bob.connection, commands.Join(room="lobby", since=since), answered)
    await cleo.do(commands.Leave(room="lobby"))
    assert [event.nick for event in bob.told(events.Left)] == ["cleo"]
    bob.read_on()
    await ann.say("after")
    await bob.until(lambda: bob.texts() == ["while bob catches up", "after"])


async def test_joining_again_during_a_fan_out_duplicates_nothing(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.chat.bus.slices = Slices(seconds=-1.0, recipients=1)
    ann, bob, cleo = room.client("ann"), room.client("bob"), room.client("cleo")
    offer = ann.offer

    def amid(block: Any, messages: int = 1, /) -> None:
        offer(block, messages)
        if isinstance(block[0], events.Message):
            membership = bob.connection.membership("lobby")
            assert membership is not None
            membership.pause()
            membership.start(0)

    monkeypatch.setattr(ann, "offer", amid)
    for one in (ann, bob, cleo):
        await one.join()
    await ann.say("once")
    await cleo.until(lambda: cleo.texts() == ["once"])
    assert bob.texts() == ["once"]


async def test_joining_again_just_as_the_send_queue_empties_duplicates_nothing(room: Room) -> None:
    """The task that catches up is woken, and cancelled before it runs."""
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await perform(bob.connection, commands.Join(room="lobby", limit=0), lambda _: bob.stall())
    await wait_all_tasks_blocked()
    membership = bob.connection.membership("lobby")
    assert membership is not None
    bob.read_on()
    membership.pause()
    membership.start(0)
    await ann.say("once")
    await bob.until(lambda: bob.texts() != [])
    await wait_all_tasks_blocked()
    assert bob.texts() == ["once"]


class SlowJournal(MemoryJournal):
    """Slow reads, as in a thread, while the room goes on."""

    def __init__(self) -> None:
        super().__init__(now=Wall())
        self.random = random.Random(7)

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        found = await super().read(room, after, upto, limit)
        await self._linger()
        return found

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        found = await super().read_back(room, before, limit)
        await self._linger()
        return found

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        outcomes = await super().commit(batch)
        await self._linger()
        return outcomes

    async def _linger(self) -> None:
        for _ in range(self.random.randrange(12)):
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("tail", [0, 3, 512])
async def test_two_heads_no_join_doubles_or_loses(autojump_clock: MockClock, tail: int) -> None:
    """Joins and resumes at every moment of commits and fan-outs: each sees each number once."""
    settings = replace(
        Settings(), limits=UNLIMITED, chat=replace(Settings().chat, presence_grace_seconds=0)
    )
    async with open_room(settings, SlowJournal()) as room:
        room.chat.bus.slices = Slices(seconds=-1.0, recipients=3)
        room.chat.bus.tail_events = tail
        speaker = room.client("speaker")
        await speaker.join()
        speaking = True
        epoch = room.chat.journal.epoch
        choose = random.Random(11)

        async def speak() -> None:
            for number in range(400):
                await perform(
                    speaker.connection, commands.Say(room="lobby", text=str(number)), lambda _: None
                )
                for _ in range(choose.randrange(6)):
                    await trio.lowlevel.checkpoint()
            await speaker.until(lambda: len(speaker.texts()) == 400)

        async def come_and_go(number: int) -> None:
            """Comes, sees some, goes, and comes again from there."""
            position: int | None = None
            while speaking:
                client = room.client()
                since = None if position is None else Position(epoch, position)
                joined = await client.join(since=since, limit=choose.randrange(0, 9))
                assert joined.recovered is (since is not None)
                for _ in range(choose.randrange(60)):
                    await trio.lowlevel.checkpoint()
                client.close()
                seen = [*seqs(joined.events), *seqs(client.told(events.Message))]
                start = joined.seq - len(joined.events) if position is None else position
                assert seen == list(range(start + 1, start + 1 + len(seen)))
                position = start + len(seen)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(come_and_go, number)
            await speak()
            speaking = False
