"""Which servers are fit to hold chatd's history."""

from __future__ import annotations

import pytest

from chatd.journal import StoreError
from chatd.journal.redis.address import Address
from chatd.journal.redis.server import Server

ADDRESS = Address("redis.example")
FIT = {"redis_version": "7.0.15", "aof_enabled": "1", "run_id": "r", "master_replid": "m"}


@pytest.mark.parametrize(
    ("version", "fits"),
    [("6.2.14", False), ("7.0.0", True), ("7.2.4", True), ("10.1", True), ("x", False)],
)
def test_a_server_must_be_new_enough(version: str, *, fits: bool) -> None:
    server = Server({**FIT, "redis_version": version}, None)
    if fits:
        server.check(ADDRESS, "commit")
        return
    with pytest.raises(StoreError, match=r"redis\.example:6379 is Redis .*: chatd needs 7\.0"):
        server.check(ADDRESS, "commit")


def test_a_server_whose_fsync_is_secret_is_not_trusted_with_it() -> None:
    Server(FIT, None).check(ADDRESS, "commit")
    with pytest.raises(StoreError, match="not readable by chatd's user"):
        Server(FIT, None).check(ADDRESS, "fsync")
    Server(FIT, "always").check(ADDRESS, "fsync")


def test_a_sentinel_is_no_server() -> None:
    with pytest.raises(StoreError, match=r"write sentinel://redis\.example:6379/NAME"):
        Server({**FIT, "redis_mode": "sentinel"}, None).check(ADDRESS, "commit")


def test_another_process_or_other_data_is_another_life() -> None:
    lives = {
        Server(info, None).life
        for info in (FIT, {**FIT, "run_id": "s"}, {**FIT, "master_replid": "n"})
    }
    assert len(lives) == 3
