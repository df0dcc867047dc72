"""The fixture `store`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journal.store import FaultyConnection, Store, nothing


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(FaultyConnection, "before", staticmethod(nothing))
    monkeypatch.setattr(FaultyConnection, "after", staticmethod(nothing))
    monkeypatch.setattr(FaultyConnection, "statements", [])
    return Store(tmp_path)
