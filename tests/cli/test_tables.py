"""Tables: aligned, and without control characters."""

from __future__ import annotations

import sys

import pytest

from chatd.cli import tables

ROOMS = {
    "rooms": [
        {"room": "lobby", "members": 12, "seq": 3, "topic": "[bold]hi[/bold]"},
        {"room": "日本", "members": 0, "seq": 40_000, "topic": "\x1b[31mred"},
    ]
}


def test_plain_text_is_aligned_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_rooms(ROOMS)
    assert capsys.readouterr().out.splitlines() == [
        "ROOM   MEMBERS  MESSAGES  TOPIC",
        "lobby  12       3         [bold]hi[/bold]",
        "日本     0        40000     \N{REPLACEMENT CHARACTER}[31mred",
    ]


def test_a_terminal_gets_the_same_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "100")
    tables.show_rooms(ROOMS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["lobby", "12", "3", "[bold]hi[/bold]"]
    assert "\x1b[31m" not in lines[2]


@pytest.mark.parametrize(
    ("size", "written"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10_240, "10 KiB"), (1 << 50, "1024 TiB")],
)
def test_sizes(size: int, written: str) -> None:
    assert tables._size(size) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(5.9, "5 s"), (61, "1 min"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations(seconds: float, written: str) -> None:
    assert tables._duration(seconds) == written


def test_a_clock_that_jumped_says_by_what_time_things_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wall, ends_by = "2029-02-06T00:00:00.000Z", "2026-11-29T00:00:00.000Z"
    tables.show_clock({"wall": wall, "ends_by": ends_by, "jump_seconds": 69_120_000.0})
    assert capsys.readouterr().out.splitlines() == [
        f"clock     {wall}",
        "trusted   no: it jumped by 800 d 0 h ahead",
        f"ends by   {ends_by}: bans, sessions and retention go by this time",
    ]
    tables.show_clock({"wall": wall, "ends_by": wall, "jump_seconds": 0.0})
    assert capsys.readouterr().out.splitlines()[1] == "trusted   yes"


def test_what_is_wrong_with_a_store_is_shown() -> None:
    store = {
        "problem": "nothing listens",
        "log_held_seconds": 61.0,
        "log_bytes": 10_240,
        "clock_jump_seconds": -7200.0,
    }
    assert [words for _, words in tables._troubles(store)] == [
        "nothing listens",
        "a reader has held 10 KiB of write-ahead log for 1 min",
        "the wall clock jumped by 2 h 0 min back: see chatd ctl clock",
    ]


def test_no_topic_forges_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    topic = "a\u2028forged\u2029b\x85c\x0bd\re\nf"
    tables.show_rooms({"rooms": [{"room": "lobby", "members": 1, "seq": 1, "topic": topic}]})
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({}, "Done."),
        ({"user": "ann"}, "Done."),
        ({"networks": ["192.0.2.7/32"]}, "Done, including 192.0.2.7/32."),
        (
            {"user": "g", "networks": []},
            "Done. No address of this guest is known, so they may come back as another guest.",
        ),
    ],
)
def test_a_ban_says_whom_it_reaches(
    answer: dict[str, object], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.show_done(answer)
    assert capsys.readouterr().out == f"{line}\n"
