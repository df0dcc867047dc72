"""The fixture `store`."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatd.journal import pace
from tests.journal.store import FaultyConnection, Store, nothing


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(FaultyConnection, "before", staticmethod(nothing))
    monkeypatch.setattr(FaultyConnection, "after", staticmethod(nothing))
    monkeypatch.setattr(FaultyConnection, "statements", [])
    # A commit of ours may be slow on a machine that others use: that is not what is tested.
    monkeypatch.setattr(pace, "SLOW_SECONDS", 60.0)
    return Store(tmp_path)
