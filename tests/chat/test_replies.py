"""The outcome of a commit: its answer, later steps, and undoing."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat.replies import Commit
from chatd.model import Event, Outcome, Post, Receipt, Refusal
from chatd.protocol import commands
from tests.chat.room import member

POST = Post("lobby", "lobby", "u", "ann", "x")
EVENT = Event(7, "lobby", 1, 0, "message", "u", "ann", "x")
REFUSAL = Refusal("unavailable", "The store failed.", 1000)


@pytest.mark.parametrize(
    ("outcome", "steps", "unseen"),
    [
        (Receipt(EVENT), ["to_answer", "answer", "then"], 1),
        (Receipt(EVENT, duplicate=True), ["to_answer", "answer", "then"], 0),
        (None, ["to_answer", "answer", "then"], 0),
        (REFUSAL, ["undo", "answer"], 0),
    ],
)
async def test_the_order_of_what_an_outcome_causes(
    outcome: Outcome, steps: list[str], unseen: int, mock_clock: MockClock
) -> None:
    connection, _ = await member()
    done: list[str] = []

    def to_answer(receipt: Any) -> commands.Result:
        done.append("to_answer")
        assert receipt is outcome
        return commands.RoomLeft("lobby")

    commit = Commit(
        POST, to_answer, then=lambda: done.append("then"), undo=lambda: done.append("undo")
    )
    commit.connection, commit.command, commit.quiet = connection, "say", False
    commit.answer = lambda answer: done.append("answer")
    connection.unanswered = 3
    commit.resolve(outcome)
    assert done == steps
    assert (connection.unanswered, connection.unseen) == (2, unseen)
    assert connection.chat.senders == ({7: connection} if unseen else {})
    assert connection.chat.refusals["unavailable"] == ("undo" in done)


async def test_a_log_line_that_cannot_be_written_keeps_no_sender_waiting(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, _ = await member()
    chat = connection.chat
    connection.unseen = 2
    chat.senders = {7: connection, 8: connection}

    def line(*_values: object, **_fields: object) -> bytes:
        raise ValueError("no line")

    monkeypatch.setattr(type(connection.log), "line", line)
    with pytest.raises(ValueError, match="no line"):
        chat._fanned_out([([EVENT], 1), ([replace(EVENT, position=8, seq=2)], 1)])
    assert (connection.unseen, chat.senders) == (0, {})


async def test_the_event_reaches_others_even_if_the_answer_cannot_be_sent(
    mock_clock: MockClock,
) -> None:
    connection, _ = await member()
    done: list[str] = []

    def fail(_answer: object) -> None:
        raise ValueError("injected")

    commit = Commit(POST, lambda _: commands.RoomLeft("lobby"), then=lambda: done.append("then"))
    commit.connection, commit.command, commit.quiet = connection, "say", False
    commit.answer = fail
    with pytest.raises(ValueError, match="injected"):
        commit.resolve(Receipt(EVENT))
    assert done == ["then"]
