"""Events of a log as clients get them, and their numbers."""

from __future__ import annotations

from typing import get_args

import pytest
from msgspec import json

from chatd.model import Event
from chatd.protocol import events
from chatd.protocol.codec import encode, read_frame

AT = "1970-01-01T00:00:00.000Z"
WHO = {"room": "Lobby", "at": AT, "from": "ann", "user": "u"}


def event(kind: str, **fields: object) -> Event:
    start = {"position": 9, "room": "lobby", "seq": 4, "at": 0, "user": "u", "nick": "ann"}
    return Event(**(start | {"kind": kind, "text": None} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("logged", "fields"),
    [
        (
            event("message", text="hi", reply_to=2, edited=1000),
            {"text": "hi", "reply_to": 2, "edited": "1970-01-01T00:00:01.000Z"},
        ),
        (event("message", text=""), {"text": ""}),
        (event("message", deleted=True), {"deleted": True}),
        (event("edit", of=1, text="ho"), {"of": 1, "text": "ho"}),
        (event("edit", of=1), {"of": 1}),
        (event("delete", of=1), {"of": 1}),
        (event("topic", text="tea"), {"text": "tea"}),
        (event("topic"), {"text": ""}),
    ],
)
def test_an_event_of_the_log(logged: Event, fields: dict[str, object]) -> None:
    frame = encode(events.shape("Lobby", logged))
    assert json.decode(frame) == {"on": logged.kind, "seq": 4, **WHO, **fields}
    read = read_frame(frame)
    assert read.on == logged.kind  # type: ignore[union-attr]
    assert events.number(read) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, AT),
        (1_735_689_600_007, "2025-01-01T00:00:00.007Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time(milliseconds: int, text: str) -> None:
    assert events.rfc3339(milliseconds) == text


def test_the_last_number_is_that_of_the_last_event_of_a_log() -> None:
    presence = events.Presence("Lobby", 3)
    message = events.shape("Lobby", event("message", text="hi"))
    assert events.last([message, presence]) == 4
    assert events.last([presence]) is None
    assert events.last([]) is None


def test_every_event_that_is_defined_is_read() -> None:
    defined = {
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, events.EventBase)
    }
    assert set(get_args(events.ServerEvent)) == defined - {events.EventBase, events.Unknown}
