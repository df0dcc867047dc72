"""Frames of the daemon's to values; whatever comes, nothing is raised but ``Garbled``."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from chatd.client import protocol
from chatd.client.errors import Garbled
from chatd.client.protocol import Answer, command, decode

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
def test_any_bytes_are_read_or_garbled(frame: bytes | str) -> None:
    with suppress(Garbled):
        decode(frame)


@given(names | st.text(), st.dictionaries(fields | st.text(), values, max_size=6))
def test_any_event_is_read(on: str, rest: dict[str, object]) -> None:
    frame = json.dumps(rest | {"on": on})
    event = decode(frame)
    assert not isinstance(event, Answer)
    assert event.on == on


@given(st.dictionaries(st.sampled_from(["re", "ok", "error"]) | st.text(), values, max_size=4))
def test_any_object_is_read_or_garbled(frame: dict[str, object]) -> None:
    with suppress(Garbled):
        decode(json.dumps(frame))


@pytest.mark.parametrize("frame", ["", "{", "[]", "1", "null", b"\xff", '{"on":"message"' * 9])
def test_no_object_is_garbled(frame: str | bytes) -> None:
    with pytest.raises(Garbled):
        decode(frame)


def test_deep_nesting_is_garbled() -> None:
    with pytest.raises(Garbled):
        decode('{"on":"new","x":' + "[" * 100_000 + "]" * 100_000 + "}")


def test_a_message() -> None:
    event = decode(
        '{"on":"message","room":"lobby","seq":42,"at":"2025-01-01T12:00:00.500Z",'
        '"from":"ann","user":"g1","text":"hi","new":1}'
    )
    assert isinstance(event, protocol.Message)
    assert event == protocol.Message(
        room="lobby",
        seq=42,
        at=datetime(2025, 1, 1, 12, 0, 0, 500_000, UTC),
        nick="ann",
        user="g1",
        text="hi",
    )
    assert event.on == "message"


def test_a_message_that_is_not_kept() -> None:
    event = decode(
        '{"on":"message","room":"@a,b","at":"2025-01-01T12:00:00Z","from":"ann","user":"g1",'
        '"text":"psst","kept":false}'
    )
    assert isinstance(event, protocol.Message)
    assert protocol.number(event) is None


def test_answers() -> None:
    done = decode('{"re":7,"ok":{"nick":"ann"}}')
    assert isinstance(done, Answer)
    assert protocol.result(done.ok, protocol.Renamed) == protocol.Renamed("ann")
    refused = decode('{"re":7,"error":{"code":"brand_new","message":"m","retry_ms":5}}')
    assert isinstance(refused, Answer)
    assert refused.error == protocol.Fault("brand_new", "m", 5)


def test_a_page_that_is_none() -> None:
    for ok in (b"{}", b'{"epoch":"e","events":7}', b"[]", b'{"epoch":1,"events":[]}'):
        with pytest.raises(Garbled):
            protocol.result(Raw(ok), protocol.Page)


def test_a_page_keeps_what_it_does_not_know() -> None:
    page = protocol.result(Raw(b'{"epoch":"e","events":[{"on":"new","seq":1},5]}'), protocol.Page)
    assert [one.on for one in page.events] == ["new", ""]
    assert protocol.last(page.events) is None


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_command_leaves_out_what_is_none(text: str) -> None:
    frame = json.loads(command("say", 7, {"room": "lobby", "text": text, "key": None}))
    assert frame == {"do": "say", "id": 7, "room": "lobby", "text": text}
