"""Everything that is installed is in the lock, with hashes, and it names no place to fetch from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: Final = PROJECT["project"]["optional-dependencies"]
RUN: Final = [*PROJECT["project"]["dependencies"], *EXTRAS["redis"]]

LOCKS: Final = {
    "build": PROJECT["build-system"]["requires"],
    "run": RUN,
    "test": [*RUN, *EXTRAS["test"]],
    "check": [*RUN, *EXTRAS["test"], *EXTRAS["check"]],
    "node": ["pyright"],
    "lock": ["pip-audit", "pip-tools"],
}


def locked(name: str) -> dict[str, str]:
    """Return the versions in a lock, by package."""
    text = (ROOT / ".ci" / "lock" / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", text))


def canonical(requirement: str) -> str:
    """Return the name of a requirement's package, as PEP 503 normalizes it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def test_every_lock_is_here() -> None:
    files = {file.stem for file in (ROOT / ".ci" / "lock").iterdir()}
    assert files == LOCKS.keys()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_pyproject_asks_for_and_each_has_hashes(name: str) -> None:
    versions = locked(name)
    missing = {canonical(each) for each in LOCKS[name]} - versions.keys()
    assert not missing, "run `make lock`"
    text = (ROOT / ".ci" / "lock" / f"{name}.txt").read_text(encoding="utf-8")
    blocks = re.split(r"(?m)^(?=[a-z0-9-]+==)", text)[1:]
    assert len(blocks) == len(versions)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert "://" not in text
    assert not re.search(r"(?m)^ *-", re.sub(r"(?m)^ +--hash=\S+( \\)?$", "", text))


def test_the_locks_agree() -> None:
    everything = locked("check")
    for name in ("build", "run", "test", "node"):
        shared = {each: version for each, version in locked(name).items() if each in everything}
        assert shared == {each: everything[each] for each in shared}
