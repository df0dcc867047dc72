"""Output fits any stream, and cannot control a terminal."""

from __future__ import annotations

import io

from chatd.cli.output import report, write
from chatd.settings import Fault, SettingsError


def test_no_stream_is_too_narrow() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")
    write("grüße\n", stream)
    stream.flush()
    assert raw.getvalue() == b"gr\\xfc\\xdfe\n"


def test_the_caret_stands_under_wide_and_combined_characters() -> None:
    error = SettingsError([Fault(1, 5, "here", "日e\u0301 x", "f")])
    assert report(error) == "f:1:5: error: here\n    日e\u0301 x\n        ^\n"


def test_a_line_cannot_write_to_the_terminal() -> None:
    error = SettingsError([Fault(1, 1, "m\x1b[2J", "\x1b[2J\r", "f\n")])
    assert "\x1b" not in report(error)
    assert report(error).count("\n") == 3
