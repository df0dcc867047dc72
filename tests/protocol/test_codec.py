"""Frames to values and values to frames; invalid input raises only ValueError."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.model import Refusal
from chatd.protocol import commands, events
from chatd.protocol.codec import encode, read_command, read_frame, read_id, read_result
from chatd.protocol.commands import Answer

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["hello", "message", "edit", "delete", "topic", "presence", "joined", "left", "nick", "bye"]
)
fields = st.sampled_from(["room", "seq", "at", "from", "to", "user", "nick", "text", "code", "of"])


@given(st.binary() | st.text())
def test_any_bytes_are_read_or_refused(frame: bytes | str) -> None:
    with suppress(ValueError):
        read_frame(frame)


@given(names | st.text(), st.dictionaries(fields | st.text(), values, max_size=6))
def test_any_event_is_read(on: str, rest: dict[str, object]) -> None:
    frame = json.dumps(rest | {"on": on})
    event = read_frame(frame)
    assert not isinstance(event, Answer)
    assert event.on == on


@given(st.dictionaries(st.sampled_from(["re", "ok", "error"]) | st.text(), values, max_size=4))
def test_any_object_is_read_or_refused(frame: dict[str, object]) -> None:
    with suppress(ValueError):
        read_frame(json.dumps(frame))


@pytest.mark.parametrize("frame", ["", "{", "[]", "1", "null", b"\xff", '{"on":"message"' * 9])
def test_no_object_is_refused(frame: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expected|decode|truncated"):
        read_frame(frame)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ValueError, match="recursion"):
        read_frame('{"on":"new","x":' + "[" * 100_000 + "]" * 100_000 + "}")


def test_a_message() -> None:
    event = read_frame(
        '{"on":"message","room":"lobby","seq":42,"at":"2025-01-01T12:00:00.500Z",'
        '"from":"ann","user":"g1","text":"hi","new":1}'
    )
    assert isinstance(event, events.Message)
    assert event == events.Message(
        room="lobby",
        seq=42,
        at=datetime(2025, 1, 1, 12, 0, 0, 500_000, UTC),
        nick="ann",
        user="g1",
        text="hi",
    )
    assert event.on == "message"


def test_a_message_that_is_not_kept() -> None:
    event = read_frame(
        '{"on":"message","room":"@a,b","at":"2025-01-01T12:00:00Z","from":"ann","user":"g1",'
        '"text":"psst","kept":false}'
    )
    assert isinstance(event, events.Message)
    assert events.number(event) is None


def test_answers() -> None:
    done = read_frame('{"re":7,"ok":{"nick":"ann"}}')
    assert isinstance(done, Answer)
    assert read_result(done.ok, commands.Renamed) == commands.Renamed("ann")
    refused = read_frame('{"re":7,"error":{"code":"brand_new","message":"m","retry_ms":5}}')
    assert isinstance(refused, Answer)
    assert read_result(refused.error, commands.Fault) == commands.Fault("brand_new", "m", 5)


@pytest.mark.parametrize("ok", [{}, {"epoch": "e", "events": 7}, [], {"epoch": 1, "events": []}])
def test_a_page_that_is_none(ok: object) -> None:
    with pytest.raises(ValueError, match=r"Expected|missing"):
        read_result(ok, commands.Page)


def test_a_page_keeps_what_it_does_not_know() -> None:
    page = read_result({"epoch": "e", "events": [{"on": "new", "seq": 1}, 5]}, commands.Page)
    assert [one.on for one in page.events] == ["new", ""]
    assert events.last(page.events) is None


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_command_is_read_as_it_was_written(text: str) -> None:
    say = commands.Say(id=7, room="lobby", text=text)
    frame = encode(say).decode()
    assert json.loads(frame) == {"do": "say", "id": 7, "room": "lobby", "text": text}
    assert read_command(frame) == say


def test_an_answer_has_two_keys() -> None:
    assert encode(Answer(7, commands.Sanctioned())) == b'{"re":7,"ok":{}}'
    refused = Answer(None, error=Refusal("muted", "Hush."))
    assert encode(refused) == b'{"re":null,"error":{"code":"muted","message":"Hush."}}'


def test_a_command_that_is_refused_may_have_an_id() -> None:
    for frame in ('{"id":7}', '{"do":"dance","id":7}', '{"do":"say","id":7,"room":1}'):
        with pytest.raises(ValueError, match=r"do|Expected"):
            read_command(frame)
        assert read_id(frame) == 7
    assert read_id('{"id":[7]}') is None
    assert read_id("{") is None


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="a key is there twice"):
        read_command('{"do":"leave","room":"a","room":"b"}')


ALWAYS = {
    b'{"on":"hello","server":"chatd","session":null,"user":null,"nick":null,"op":false,'
    b'"limits":{"message_bytes":null,"messages_per_second":null,"messages_burst":null}}': (
        events.Hello("chatd")
    ),
    b'{"on":"joined","room":"r","nick":"n","user":"u","op":false}': events.Joined("r", "n", "u"),
    b'{"on":"bye","code":1001,"reason":"","reconnect":true,"retry_ms":5}': (
        events.Bye(1001, retry_ms=5)
    ),
    b'{"room":"r","epoch":"e","seq":0,"events":[],"recovered":false,"topic":"",'
    b'"may_set_topic":false,"members":[],"member_count":0}': commands.Entered("r", "e", 0, []),
    b'{"room":"r","members":0,"seq":0,"topic":""}': commands.RoomInfo("r"),
    b'{"user":"u","nick":"n","op":false,"session":null}': commands.Identity("u", "n"),
    b'{"epoch":"e","events":[],"more":false}': commands.Page("e", []),
    b'{"events":[],"more":false}': commands.Found([]),
    b'{"nick":"n","user":"u","op":false}': commands.Member("n", "u"),
    b'{"rooms":[]}': commands.RoomList([]),
    b'{"on":"notice","text":"t"}': events.Notice("t"),
}


@pytest.mark.parametrize("frame", ALWAYS)
def test_defaults_that_are_written_and_those_that_are_not(frame: bytes) -> None:
    assert encode(ALWAYS[frame]) == frame


def test_said_shows_whether_it_is_a_duplicate() -> None:
    at = events.rfc3339(0)
    assert encode(commands.Said("r", at, "e", 1)) == (
        b'{"room":"r","at":"1970-01-01T00:00:00.000Z","epoch":"e","seq":1,"duplicate":false}'
    )
    assert encode(commands.Said("r", at, kept=False)) == (
        b'{"room":"r","at":"1970-01-01T00:00:00.000Z","duplicate":false,"kept":false}'
    )
