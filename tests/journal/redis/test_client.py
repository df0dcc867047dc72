"""The links of a node: what is asked at the same time."""

from __future__ import annotations

import pytest
import trio

from chatd.journal import Unavailable
from chatd.journal.engine import Lost
from chatd.journal.redis.access import Access
from chatd.journal.redis.client import Client
from chatd.journal.redis.proof import Proof
from tests.redis_server import RedisServer, needs_redis


def client(server: RedisServer, timeout: float = 5) -> Client:
    return Client(Access(server.url), Proof(0, b"proof"), timeout=timeout, durability="commit")


@needs_redis
async def test_what_many_ask_goes_out_together(redis_server: RedisServer) -> None:
    asking = client(redis_server)
    await asking.connect(b"channel", asking.deadline())
    answers: dict[int, object] = {}

    async def ask(number: int) -> None:
        answers[number] = await asking.ask(("ECHO", number), ("ECHO", f"{number}!"))

    async def ask_in_vain() -> None:
        with pytest.raises(Unavailable, match="unknown command"):
            await asking.ask(("NONSENSE",))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, number)
            nursery.start_soon(ask_in_vain)
    assert answers == {n: [b"%d" % n, b"%d!" % n] for n in range(20)}
    asking.close()
    with pytest.raises(Lost, match="no connection"):
        await asking.ask(("PING",))


@needs_redis
async def test_all_who_ask_hear_that_the_server_is_gone(own_server: RedisServer) -> None:
    asking = client(own_server, timeout=0.3)
    await asking.connect(b"channel", asking.deadline())
    own_server.stop()
    lost: list[int] = []

    async def ask(number: int) -> None:
        with pytest.raises(Lost):
            await asking.ask(("PING",))
        lost.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(ask, number)
    assert sorted(lost) == [0, 1, 2]
    own_server.go_on()
    assert await asking.connect(b"channel", asking.deadline())
    assert await asking.ask(("PING",)) == [b"PONG"]
    asking.close()
