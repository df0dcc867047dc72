"""Whose data is under a prefix."""

from __future__ import annotations

import pytest

from chatd.journal import StoreError
from chatd.journal.redis.engine import RedisEngine
from tests.redis_server import RedisServer, needs_redis, new_prefix

pytestmark = needs_redis


async def enter(server: RedisServer, prefix: str, chat: str = "") -> None:
    engine = RedisEngine(server.url, prefix=prefix, chat=chat, timeout=60)
    try:
        await engine.enter(None, 0, b"facts")
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("m", ("SET", "x")),
        ("m", ("HSET", "user", "1")),
        ("u", ("HSET", "user", "1")),
        ("f", ("RPUSH", "job")),
        ("looks", ("ZADD", "1", "x")),
    ],
)
async def test_somebody_elses_data_is_refused(
    redis_server: RedisServer, name: str, make: tuple[str, ...]
) -> None:
    prefix, (command, *values) = new_prefix(), make
    redis_server.command(command, f"{prefix}:{name}", *values)
    with pytest.raises(StoreError, match=f":{name} in Redis is not chatd's: set another"):
        await enter(redis_server, prefix)
    assert redis_server.command("KEYS", f"{prefix}*") == f"{prefix}:{name}"


async def test_data_beside_the_prefix_is_none_of_our_business(redis_server: RedisServer) -> None:
    prefix = new_prefix()
    redis_server.command("SET", f"other{prefix}", "x")
    redis_server.command("SET", f"{prefix}:of another program", "x")
    for _ in range(2):
        await enter(redis_server, prefix)


async def test_a_type_that_changed_later_is_found_at_the_next_start(
    redis_server: RedisServer,
) -> None:
    prefix = new_prefix()
    await enter(redis_server, prefix)
    redis_server.command("SET", f"{prefix}:held", "x")
    with pytest.raises(StoreError, match=":held in Redis"):
        await enter(redis_server, prefix)


async def test_another_chat_is_refused(redis_server: RedisServer) -> None:
    prefix = new_prefix()
    await enter(redis_server, prefix)  # an open chat, which then gets tokens
    await enter(redis_server, prefix, "issuer a")
    await enter(redis_server, prefix, "issuer a")
    for other, named in (("issuer b", "issuer b"), ("", "any issuer and audience")):
        with pytest.raises(StoreError, match=f"with issuer a, but .* with {named}") as refused:
            await enter(redis_server, prefix, other)
    # The message says how to go on if it is the same chat after all.
    assert f"redis-cli HDEL {prefix}:m chat" in str(refused.value)
    redis_server.command("HDEL", f"{prefix}:m", "chat")
    await enter(redis_server, prefix, "issuer b")
