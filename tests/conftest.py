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

# Tests that use these fixtures run one after another, in one of pytest-xdist's processes: each uses
# a whole core, and there can be only one booted systemd.
ONE_AT_A_TIME: Final = frozenset({"chromium_program", "script", "parts", "machine"})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests that must not run side by side into one group of `--dist=loadgroup`."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if isinstance(item, pytest.Function) and ONE_AT_A_TIME & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group("one-at-a-time"))
