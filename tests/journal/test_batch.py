"""One batch inside a transaction: numbers, keys, and rules that only the store can check."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from chatd.journal import NO_MESSAGE, NOT_YOURS, schema
from chatd.journal.batch import Batch
from chatd.journal.maintenance import Watermarks
from chatd.model import (
    EventKind,
    Operation,
    Outcome,
    Post,
    Put,
    Receipt,
    Record,
    Refusal,
    Take,
    Taken,
)

AT = 1000


@pytest.fixture
def cursor() -> Iterator[sqlite3.Cursor]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for statement in (statement for step in schema.STEPS for statement in step):
            connection.execute(statement)
        yield connection.cursor()


def batch_of(cursor: sqlite3.Cursor, *, keyed: bool = False) -> Batch:
    position: int = cursor.execute(schema.POSITION).fetchone()[0]
    return Batch(cursor, Watermarks(position), at=AT, now=lambda: AT, keyed=keyed)


def run(cursor: sqlite3.Cursor, *operations: Operation, keyed: bool = False) -> list[Outcome]:
    return batch_of(cursor, keyed=keyed).run(operations)


def post(
    text: str | None = "x",
    *,
    user: str = "ann",
    kind: EventKind = "message",
    of: int | None = None,
    reply_to: int | None = None,
    key: str | None = None,
    operator: bool = False,
) -> Post:
    return Post("lobby", "Lobby", user, user, text, kind, key, of, reply_to, operator)


def numbers(outcomes: list[Outcome]) -> list[tuple[int, int] | None]:
    return [
        (outcome.event.position, outcome.event.seq) if isinstance(outcome, Receipt) else None
        for outcome in outcomes
    ]


def test_numbers_continue_from_batch_to_batch(cursor: sqlite3.Cursor) -> None:
    tea = Post("tea", "Tea", "ann", "ann", "x")
    assert numbers(run(cursor, post(), tea, post())) == [(1, 1), (2, 1), (3, 2)]
    assert numbers(run(cursor, tea, post())) == [(4, 2), (5, 3)]


def test_numbers_continue_in_more_rooms_than_are_remembered(
    cursor: sqlite3.Cursor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatd.journal.batch.KNOWN_ROOMS", 2)
    marks = Watermarks()
    rooms = [Post(name, name, "ann", "ann", "x") for name in ("a", "b", "c", "a")]
    for expected in (
        [(1, 1), (2, 1), (3, 1), (4, 2)],
        [(5, 3), (6, 2), (7, 2), (8, 4)],
    ):
        batch = Batch(cursor, marks, at=AT, now=lambda: AT, keyed=False)
        assert numbers(batch.run(rooms)) == expected
        marks.position = batch.position


@pytest.mark.parametrize(
    ("second", "outcome"),
    [
        (post(kind="edit", of=1), None),
        (post(kind="edit", of=1, user="bob"), NOT_YOURS),
        (post(kind="edit", of=1, user="bob", operator=True), NOT_YOURS),
        (post(kind="edit", of=2), NO_MESSAGE),
        (post(kind="edit"), NO_MESSAGE),
        (post(kind="edit", of=2**70), NO_MESSAGE),
        (post(None, kind="delete", of=1), None),
        (post(None, kind="delete", of=1, user="bob"), NOT_YOURS),
        (post(None, kind="delete", of=1, user="bob", operator=True), None),
        (post(None, kind="delete", of=-1), NO_MESSAGE),
        (post(reply_to=1, user="bob"), None),
        (post(reply_to=2), NO_MESSAGE),
        (post("tea", kind="topic", user="bob"), None),
    ],
)
def test_what_breaks_a_rule_is_refused_alone(
    cursor: sqlite3.Cursor, second: Post, outcome: Refusal | None
) -> None:
    outcomes = run(cursor, post(), second, post())
    if outcome is None:
        assert numbers(outcomes) == [(1, 1), (2, 2), (3, 3)]
    else:
        assert outcomes[1] == outcome
        assert numbers(outcomes) == [(1, 1), None, (2, 2)]


def test_a_deleted_message_is_gone(cursor: sqlite3.Cursor) -> None:
    outcomes = run(cursor, post(), post(None, kind="delete", of=1), post(kind="edit", of=1))
    assert outcomes[2] == NO_MESSAGE


def test_a_key_that_comes_again_is_looked_for_only_when_it_is_run_again(
    cursor: sqlite3.Cursor,
) -> None:
    run(cursor, post("first", key="k"))
    with pytest.raises(sqlite3.IntegrityError):
        run(cursor, post("again", key="k"))
    [outcome] = run(cursor, post("again", key="k"), keyed=True)
    assert isinstance(outcome, Receipt)
    assert (outcome.duplicate, outcome.event.seq, outcome.event.text) == (True, 1, "first")


def test_a_retried_edit_is_a_duplicate_and_not_refused(cursor: sqlite3.Cursor) -> None:
    edit = post("new", kind="edit", of=1, key="k")
    run(cursor, post(), edit, post(None, kind="delete", of=1))
    [outcome] = run(cursor, edit)
    assert isinstance(outcome, Receipt)
    assert (outcome.duplicate, outcome.event.seq) == (True, 2)


def test_a_record_is_taken_once_and_before_its_end(cursor: sqlite3.Cursor) -> None:
    lasting, ended = Record("k", "a", b"1", AT + 1), Record("k", "b", b"2", AT)
    assert run(
        cursor, Put(lasting), Put(ended), Take("k", "a"), Take("k", "a"), Take("k", "b")
    ) == [None, None, Taken(lasting), Taken(None), Taken(None)]


def test_a_removed_text_is_noted(cursor: sqlite3.Cursor) -> None:
    for operations, removed in (
        ([post(), post("tea", kind="topic"), post(reply_to=1)], False),
        ([post("new", kind="edit", of=1)], True),
        ([post(None, kind="delete", of=1)], True),
    ):
        batch = batch_of(cursor)
        batch.run(operations)
        assert batch.removed_text is removed
