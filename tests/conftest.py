"""Settings of all tests."""

from __future__ import annotations

import os
import signal
from typing import Final

import pytest
from hypothesis import settings

# On a shared machine, deadlines depend on other programs. CI runs more examples of everything.
settings.register_profile("quick", deadline=None, max_examples=60)
settings.register_profile("ci", deadline=None, max_examples=200)
settings.load_profile("ci" if os.environ.get("CI") else "quick")

# A shell's background jobs ignore SIGINT, and so would every program that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each process of pytest-xdist starts with its own part of the tests and, when that is done, takes
# over tests from the end of another part. So the tests with these fixtures come first and mostly
# run one after another: booted systems, then browsers, each of which needs a core.
HEAVY: Final = ({"parts", "machine"}, {"chromium_program", "script"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the heavy tests first, so that the last tests are short."""

    def order(item: pytest.Item) -> int:
        names = set(item.fixturenames) if isinstance(item, pytest.Function) else set()
        return next((i for i, fixtures in enumerate(HEAVY) if names & fixtures), len(HEAVY))

    items.sort(key=order)
