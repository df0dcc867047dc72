"""The fixture `store`, and a redis-server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journal.store import FaultyConnection, Store, nothing
from tests.redis_server import RedisServer


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(FaultyConnection, "before", staticmethod(nothing))
    monkeypatch.setattr(FaultyConnection, "after", staticmethod(nothing))
    monkeypatch.setattr(FaultyConnection, "statements", [])
    return Store(tmp_path)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a server that runs all the time; each test uses a prefix of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server
