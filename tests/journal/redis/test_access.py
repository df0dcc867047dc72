"""Passwords and certificates that change while a node runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chatd.journal import StoreError, Unavailable
from chatd.journal.redis.access import Access
from chatd.journal.redis.engine import RedisEngine
from chatd.journal.shared import open_shared
from chatd.model import Post
from tests.redis_server import RedisServer, needs_redis

POST = Post("r", "R", "u", "n", "text")


def new_password(server: RedisServer, *rules: str) -> None:
    server.command("ACL", "SETUSER", "chatd", "on", "~*", "&*", "+@all", *rules)


def end_links(server: RedisServer) -> None:
    server.command("CLIENT", "KILL", "USER", "chatd")


async def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for access, key in (
        (Access("redis://localhost", password_file=missing), "history.password_file: .*missing"),
        (Access("rediss://localhost", ca_file=missing), "history.tls_ca_file: .*missing"),
        (Access("nonsense"), "history.url: nonsense"),
    ):
        with pytest.raises(StoreError, match=key):
            await access.read(trio.current_time() + 10)


@needs_redis
async def test_a_password_changes_without_an_outage(
    own_server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("old\n")
    new_password(own_server, ">old")
    engine = RedisEngine(own_server.url, user="chatd", password_file=file, timeout=60)
    async with open_shared(engine) as journal:
        assert await journal.commit([POST])
        await journal.answered([])
        new_password(own_server, ">new")
        file.write_text("new\n")
        new_password(own_server, "<old")
        assert await journal.commit([POST])  # the links are still those of the old password
        await journal.answered([])
        end_links(own_server)
        while not journal.reconnects:
            await journal.changed.wait()
        assert await journal.commit([POST])


@needs_redis
async def test_a_password_that_is_refused_is_an_outage_until_the_file_has_the_new_one(
    own_server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("old\n")
    new_password(own_server, ">old")
    engine = RedisEngine(own_server.url, user="chatd", password_file=file, timeout=60)
    async with open_shared(engine) as journal:
        new_password(own_server, ">new", "<old")
        end_links(own_server)
        while "check history.user and history.password_file" not in journal.reason:
            await journal.changed.wait()
        with pytest.raises(Unavailable, match="refuses the password of the user 'chatd'"):
            await journal.commit([POST])
        await journal.answered([])
        file.write_text("new\n")
        while journal.down_since is not None:
            await journal.changed.wait()
        assert await journal.commit([POST])
