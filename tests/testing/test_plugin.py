"""The fixture as users of the package get it, in a separate run of pytest.

One run serves all tests here, because starting pytest takes longer than the tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
NAMES = [re.findall(r"^async def (test_\w+)", example, re.MULTILINE)[0] for example in EXAMPLES]

CLOCKS = """
async def test_real(chat):
    pass

async def test_that_stands_still(chat, mock_clock):
    await chat.client("ann", protocol="polling")
"""

# pytest imports test modules in the order of their names: this one first, before anything of the
# others is imported.
FIRST = """
import sys

LOADED = {name for name in sys.modules if name.startswith("chatd")}

def test_nothing_is_imported():
    assert LOADED == {"chatd", "chatd.testing", "chatd.testing.plugin"}
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what pytest prints about the modules above and the examples of docs/testing.md."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    (folder / "test_0.py").write_text(FIRST)
    (folder / "test_clocks.py").write_text(CLOCKS)
    for name, example in zip(NAMES, EXAMPLES, strict=True):
        (folder / f"{name}.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


def test_nothing_is_imported_before_it_is_used(report: str) -> None:
    assert "PASSED test_0.py::test_nothing_is_imported" in report, report


@pytest.mark.parametrize("name", NAMES)
def test_an_example_of_the_docs_passes(report: str, name: str) -> None:
    assert f"PASSED {name}.py::{name}" in report, report


def test_a_clock_may_stand_still(report: str) -> None:
    assert "PASSED test_clocks.py::test_that_stands_still" in report, report


def test_a_real_clock_fails_with_one_line(report: str) -> None:
    assert "FAILED test_clocks.py::test_real" in report
    assert "The fixture chat needs a virtual clock: let the test take autojump_clock too." in report
    assert "Traceback" not in report
