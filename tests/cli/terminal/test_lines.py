"""Formatting events for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd import client
from chatd.cli.terminal import lines

AT = datetime(2026, 11, 25, 12, 1, tzinfo=UTC)
CLOCK = f"{AT.astimezone():%H:%M}"


def message(**fields: Any) -> client.Message:
    known: dict[str, Any] = {
        "room": "lobby",
        "seq": 5,
        "at": AT,
        "nick": "ann",
        "user": "u1",
        "text": "hello",
    }
    return client.Message(**(known | fields))


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, "#5 ann: hello"),
        ({"seq": None}, "ann: hello"),
        ({"reply_to": 3}, "#5 ann (to #3): hello"),
        ({"text": None, "deleted": True}, "#5 ann: (deleted)"),
        ({"edited": AT}, "#5 ann: hello (edited)"),
        ({"text": "a\nbob: b"}, "#5 ann: a\n  bob: b"),
        ({"text": "a\u2028#6 bob: b"}, "#5 ann: a\n  #6 bob: b"),
        (
            {"text": "\x1b[2Jboo\x07"},
            "#5 ann: \N{REPLACEMENT CHARACTER}[2Jboo\N{REPLACEMENT CHARACTER}",
        ),
        ({"text": "[bold]no markup[/]"}, "#5 ann: [bold]no markup[/]"),
    ],
)
def test_a_message(fields: dict[str, Any], shown: str) -> None:
    assert lines.message(message(**fields), again=True).plain == f"{CLOCK} {shown}"


def test_a_message_from_another_room() -> None:
    assert lines.message(message(), "@bob").plain == f"{CLOCK} [@bob] #5 ann: hello"


@given(st.text())
def test_no_message_can_imitate_another_line_or_control_the_terminal(
    text: str,
) -> None:
    first, *later = lines.message(message(text=text)).plain.split("\n")
    assert first.startswith(f"{CLOCK} #5 ann: ")
    assert all(line.startswith("  ") for line in later)
    assert all(
        char.isprintable() or ord(char) > 159 for char in "".join([first, *later]) if char != "\t"
    )


def test_the_users_own_nick_is_highlighted() -> None:
    said = lines.message(message(text="Bob, bobby and bob."), me="bob")
    marked = [
        said.plain[span.start : span.end] for span in said.spans if span.style == "bold reverse"
    ]
    assert marked == ["Bob", "bob"]


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (
            client.Edit(room="r", seq=6, of=5, at=AT, nick="ann", user="u", text="new"),
            "ann changed #5: new",
        ),
        (client.Delete(room="r", seq=6, of=5, at=AT, nick="ann", user="u"), "ann deleted #5"),
        (
            client.Topic(room="r", seq=6, at=AT, nick="ann", user="u", text="tea"),
            "ann set the topic: tea",
        ),
        (client.Topic(room="r", seq=6, at=AT, nick="ann", user="u"), "ann removed the topic"),
        (client.Joined(room="r", nick="ann", user="u"), "ann joined"),
        (client.Left(room="r", nick="ann", user="u", reason="leave"), "ann left"),
        (client.Left(room="r", nick="ann", user="u", reason="lost"), "ann disconnected"),
        (client.Left(room="r", nick="ann", user="u", reason="kicked"), "ann was kicked"),
        (client.Left(room="r", nick="ann", user="u", reason="a newer one"), "ann left"),
        (client.NickChange(room="r", user="u", before="ann", nick="Anna"), "ann is now Anna"),
        (client.Presence(room="r", total=101), "101 members"),
    ],
)
def test_other_events(event: lines.Activity, shown: str) -> None:
    assert lines.activity(event, "garden", at=AT).plain == f"{CLOCK} [garden] * {shown}"


def test_rooms() -> None:
    assert lines.room(client.RoomInfo("lobby", 3, topic="tea", unread=2)) == (
        "lobby, 3 here, 2 unread: tea"
    )
    assert lines.room(client.RoomInfo("@u1,u2", nick="bob")) == "@bob"
