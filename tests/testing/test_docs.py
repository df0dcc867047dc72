"""The tests of README.md and docs/testing.md, run by pytest as they are, each in its own file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_every_test_of_the_docs_passes(tmp_path: Path) -> None:
    [configuration] = blocks("README.md", "ini")
    assert blocks("docs/testing.md", "ini") == [configuration]
    name, _, content = configuration.partition("\n")
    (tmp_path / name.removeprefix("# ")).write_text(content)
    tests = [
        *(each for each in blocks("README.md", "python") if "def test_" in each),
        *blocks("docs/testing.md", "python"),
    ]
    assert len(tests) >= 6
    for number, test in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{len(tests)} passed" in done.stdout
