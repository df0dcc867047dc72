"""What the pages for users show is tried: programs, configurations, and where each is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from chatd.settings import load

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

RUN: Final = {
    "README.md": ("client/test_docs.py", "testing/test_docs.py", "e2e/test_tutorial.py"),
    "client.md": ("client/test_docs.py",),
    "engineio.md": ("socketio/test_docs.py",),
    "socketio-migration.md": ("socketio/test_docs.py",),
    "socketio.md": ("socketio/test_docs.py",),
    "testing.md": ("testing/test_docs.py",),
}
"""The pages with programs in Python, and the modules that run all of them."""


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [str(each) for each in found]


def test_the_programs_of_every_page_are_run() -> None:
    assert {page.name for page in PAGES if blocks(page, "python")} == RUN.keys()
    for page, modules in RUN.items():
        for module in modules:
            assert page in (ROOT / "tests" / module).read_text()


CONFIGURATIONS: Final = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "toml"))
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_configuration_is_valid(configuration: str, tmp_path: Path) -> None:
    path = tmp_path / "chatd.toml"
    path.write_text(configuration)
    load(path)


def test_there_are_configurations() -> None:
    assert len(CONFIGURATIONS) >= 6
