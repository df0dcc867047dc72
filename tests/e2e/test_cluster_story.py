"""The steps of the cluster's story succeed, and docs/cluster.md has their output."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster_story import PAGE, Machines, booted_machines, story
from tests.e2e.sandbox import SandboxError
from tests.e2e.service import Parts
from tests.e2e.test_operations import without_figures


@pytest.fixture
def machines(parts: Parts) -> Iterator[Machines]:
    """Boot four machines; `parts` were built in another one before."""
    try:
        with booted_machines() as machines:
            yield machines
    except SandboxError as error:
        pytest.skip(str(error).splitlines()[-1])


def test_the_documentation_shows_what_happens(machines: Machines, parts: Parts) -> None:
    happened = [f"ok  {line}" for line in story(machines, parts.package)]
    shown = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("ok  ")]
    assert [without_figures(line) for line in shown] == [without_figures(line) for line in happened]
