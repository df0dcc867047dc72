"""The bytes of events, and their digests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chatd.journal.engine import Fed
from chatd.journal.redis.layout import (
    LETTERS,
    Keys,
    decode_entry,
    decode_event,
    decode_log_entry,
    digest_of,
    ending,
    middle,
)
from chatd.model import Event, EventKind, LogEntry

_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["\0", "\1", "\1A", "\1B\0", "é", ""]
)
_numbers = st.integers(1, 2**53)
_maybe = st.none() | _numbers
_kinds: st.SearchStrategy[EventKind] = st.sampled_from(["message", "edit", "delete", "topic"])


@given(
    event=st.builds(
        Event,
        position=_numbers,
        room=st.just("lobby"),
        seq=_numbers,
        at=_numbers,
        kind=_kinds,
        user=_names,
        nick=_names,
        text=st.none() | _names,
        of=_maybe,
        reply_to=_maybe,
        edited=_maybe,
        deleted=st.booleans(),
    ),
    key=st.none() | _names.filter(bool),
)
def test_an_event_comes_back_from_its_record(event: Event, key: str | None) -> None:
    head = f"{LETTERS[event.kind]}{event.position} {event.at} {event.edited or 0}"
    beside = middle(event.user, event.nick, event.of, event.reply_to, key)
    record = f"{head} {int(event.deleted)} {beside}{ending(event.text)}".encode()
    assert decode_event("lobby", event.seq, record) == event
    assert decode_log_entry("Lobby", event.seq, record) == LogEntry(
        *("Lobby", event.seq, event.at, event.kind, event.user, event.nick, event.text),
        *(event.of, event.reply_to, event.edited, event.deleted, key),
    )
    assert beside.count("\0") == 4  # the scripts look for them


def test_an_entry_of_another_room_is_not_decoded() -> None:
    fields = [b"o", b"n.1.0", b"k", b"E", b"1", b"lobby", b"2", b"3", b"3", b"no record"]
    assert decode_entry(7, fields, lambda room: room == "other").entry is None


def test_an_item_of_a_newer_version_is_left_out() -> None:
    fields = [b"o", b"n.1.0", b"k", b"Z", b"1", b"what is new"]
    assert decode_entry(7, fields, lambda _room: True) == Fed(7, "n.1.0", None, unknown=True)


def test_an_exit_for_a_reason_of_a_newer_version_is_left_out() -> None:
    values = (b"lobby", b"u1", b"ann", b"bored", b"1", b"0")
    pairs = [one for number, value in enumerate(values, 1) for one in (b"%d" % number, value)]
    fields = [b"o", b"n.1.0", b"k", b"O", *pairs]
    assert decode_entry(7, fields, lambda _room: True) == Fed(7, "n.1.0", None, unknown=True)


def test_all_keys_are_in_one_hash_slot() -> None:
    keys = Keys("{chatd}")
    assert all(key.startswith(b"{chatd}:") for key in keys.fixed("n"))
    assert len(set(keys.fixed("n"))) == len(keys.fixed("n"))
    assert keys.room("}{ö") == "{chatd}:r:}{ö".encode()


def test_digests_depend_on_each_part_and_on_the_stores_key() -> None:
    key = bytes(32)
    digests = {
        digest_of(key, "a", "b", "c"),
        digest_of(key, "ab", "", "c"),
        digest_of(key, "a", "bc", ""),
        digest_of(bytes([1] * 32), "a", "b", "c"),
    }
    assert len(digests) == 4
    assert {len(digest) for digest in digests} == {14}
