"""The steps of operations succeed, and docs/operations.md has their output."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.operations import story
from tests.e2e.sandbox import ROOT, Sandbox
from tests.e2e.service import Parts


def test_the_documentation_shows_what_happens(
    bare_machine: Sandbox, parts: Parts, script: Path
) -> None:
    happened = [f"ok  {line}" for line in story(bare_machine, parts.package, script)]
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    shown = [line for line in text.splitlines() if line.startswith("ok  ")]
    assert [without_figures(line) for line in shown] == [without_figures(line) for line in happened]


def without_figures(line: str) -> str:
    """Leave out what is another from machine to machine, and from run to run."""
    return re.sub(r"\d[\w.,~+-]*", "0", line)
