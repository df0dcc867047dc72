"""What holds for every command: the order of answers and events, bounds, faults of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat import rules
from chatd.chat.actor import MAX_UNANSWERED
from chatd.chat.rules import COMMANDS
from chatd.journal import Unavailable
from chatd.journal.memory import MemoryJournal
from chatd.model import Operation, Outcome, Refusal
from chatd.protocol import commands
from tests.chat.room import Room, Wall, open_room, perform, refused


async def test_the_answer_comes_before_the_message_it_caused(room: Room) -> None:
    ann = room.client("ann")
    order: list[str] = []
    ann.offer = lambda block, messages=1: order.append("message")  # type: ignore[method-assign]
    await ann.join()
    await perform(
        ann.connection, commands.Say(room="lobby", text="x"), lambda answer: order.append("answer")
    )
    await trio.testing.wait_all_tasks_blocked()
    assert order == ["answer", "message"]


async def test_a_say_holds_up_nothing_that_follows_it(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    answers: list[object] = []
    await perform(ann.connection, commands.Say(room="lobby", text="x"), answers.append)
    await perform(ann.connection, commands.Who(room="lobby"), answers.append)
    assert isinstance(answers[0], commands.Members)
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(answers[1], commands.Said)


async def test_a_client_that_wants_no_answer_still_gets_refusals(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    answers: list[object] = []
    for text in ("x", ""):
        say = commands.Say(room="lobby", text=text)
        assert rules.perform(ann.connection, say, answers.append, quiet=True) is None
    who = rules.perform(ann.connection, commands.Who(room="lobby"), answers.append, quiet=True)
    assert who is not None
    await who
    await trio.testing.wait_all_tasks_blocked()
    (answer,) = answers
    assert isinstance(answer, Refusal)
    assert answer.code == "bad_request"
    assert ann.connection.unanswered == 0


async def test_the_commands_that_a_client_has_unanswered_are_bounded(room: Room) -> None:
    unlimited = replace(
        room.chat.settings.limits, messages_per_second="off", bytes_per_second="off"
    )
    room.chat.settings = replace(room.chat.settings, limits=unlimited)
    ann = room.client("ann")
    await ann.join()
    answers: list[object] = []
    with trio.move_on_after(0) as scope:
        for number in range(MAX_UNANSWERED + 1):
            say = commands.Say(room="lobby", text=str(number))
            await perform(ann.connection, say, answers.append)
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    assert len(answers) == MAX_UNANSWERED


async def test_a_store_error_is_answered_and_the_room_goes_on(
    autojump_clock: MockClock,
) -> None:
    class Full(MemoryJournal):
        full = False

        async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
            if self.full:
                raise Unavailable("the disk is full", divisible=True)
            return await super().commit(batch)

    journal = Full(now=Wall())
    async with open_room(journal=journal) as room:
        ann = room.client("ann")
        await ann.join()
        journal.full = True
        assert refused(await ann.say("x", key="k")) == "unavailable"
        assert refused(await ann.do(commands.Nick(nick="anna"))) == "unavailable"
        assert refused(await ann.do(commands.Who(room="lobby"))) is None
        journal.full = False
        assert (await ann.say("x", key="k")).seq == 1
        await ann.until(ann.texts)
        assert ann.texts() == ["x"]
        assert (await ann.do(commands.Nick(nick="anna"))).nick == "anna"


def test_every_command_has_a_rule() -> None:
    assert set(COMMANDS.values()) == set(get_args(commands.AnyCommand))
