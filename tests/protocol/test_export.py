"""The lines of an export are read as they were written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.model import LogEntry, Record, UserRecord
from chatd.protocol.export import read_line, write_lines, write_records, write_users

TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
LINES_OF_ALL_KINDS = st.builds(
    LogEntry,
    room=st.just("Lobby"),
    seq=st.integers(1, 2**53),
    at=st.integers(0, 253_402_300_799_999),
    kind=st.sampled_from(["message", "edit", "delete", "topic"]),
    user=st.text(st.characters(exclude_categories=["Cs"])),
    nick=st.text(st.characters(exclude_categories=["Cs"])),
    text=TEXTS,
    of=st.none() | st.integers(1, 2**53),
    reply_to=st.none() | st.integers(1, 2**53),
    edited=st.none() | st.integers(0, 253_402_300_799_999),
    deleted=st.booleans(),
    key=TEXTS,
)


@given(LINES_OF_ALL_KINDS)
def test_a_line_is_read_as_it_was_written(line: LogEntry) -> None:
    text = write_lines([line])
    assert text.count(b"\n") == 1
    assert read_line(text) == line


NAMES = st.text(st.characters(exclude_categories=["Cs"]))
TIMES = st.integers(0, 253_402_300_799_999)


@given(st.builds(Record, NAMES, NAMES, NAMES.map(str.encode), st.none() | TIMES))
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert read_line(write_records([record])) == record


@given(st.builds(UserRecord, NAMES, NAMES, TIMES, st.just(True)))
def test_a_user_is_read_as_it_was_written(user: UserRecord) -> None:
    assert read_line(write_users([user], now=0)) == user


def test_who_is_present_was_seen_now() -> None:
    present = UserRecord("ann", "Ann", None, subject=True)
    assert read_line(write_users([present], now=7)) == UserRecord("ann", "Ann", 7, subject=True)


@given(st.binary() | st.text().map(str.encode))
def test_garbage_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expected|missing|truncated|utf-8|Input"):
        read_line(text)


def test_a_time_has_a_zone() -> None:
    line = write_lines([LogEntry("Lobby", 1, 0, "message", "u", "n", "x")])
    with pytest.raises(ValueError, match="has no time zone"):
        read_line(line.replace(b"Z", b""))
