"""Servers that a test may kill, and engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import RedisServer


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a short path: that of a Unix socket has 107 bytes at most."""
    return tmp_path_factory.mktemp("own")


@pytest.fixture
def own_server(folder: Path) -> Iterator[RedisServer]:
    """Return a server that the test may kill and stop.

    It writes its file before it answers; with ``everysec`` it answers first if the disk is slow.
    """
    with RedisServer(folder, appendfsync="always") as server:
        yield server
