"""The links of a node: what is asked at the same time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatd.journal import StoreError, Unavailable
from chatd.journal.engine import Lost
from chatd.journal.redis.access import Access
from chatd.journal.redis.client import Client
from chatd.journal.redis.layout import Keys
from chatd.journal.redis.proof import Proof
from chatd.journal.redis.resp import Command, Reply, pack
from tests.journal.redis.scripted import HELLO, scripted
from tests.redis_server import RedisServer, needs_redis

SECONDS = 60  # ends a hang


def client(url: str, timeout: float = 5) -> Client:
    keys = Keys("{chatd}")
    return Client(Access(url), Proof(0, keys.proof), keys, timeout=timeout, durability="commit")


@needs_redis
async def test_what_many_ask_goes_out_together(redis_server: RedisServer) -> None:
    asking = client(redis_server.url)
    await asking.connect(asking.deadline())
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


async def test_who_stops_asking_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task may be cancelled at the moment at which it is its turn to send the questions."""
    asking = client("unix:/nowhere")
    reply = trio.Event()

    async def call(_link: object, commands: Sequence[Command]) -> list[Reply]:
        await reply.wait()
        return [command[1] for command in commands]

    monkeypatch.setattr(asking, "_call", call)
    for _ in range(30):  # which of two tasks runs first is a matter of chance
        reply = trio.Event()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asking.ask, ("ECHO", 1))
                await wait_all_tasks_blocked()
                async with trio.open_nursery() as cancelled:
                    cancelled.start_soon(asking.ask, ("ECHO", 2))
                    await wait_all_tasks_blocked()
                    nursery.start_soon(asking.ask, ("ECHO", 3))
                    await wait_all_tasks_blocked()
                    reply.set()
                    cancelled.cancel_scope.cancel()


@needs_redis
async def test_all_who_ask_hear_that_the_server_is_gone(own_server: RedisServer) -> None:
    asking = client(own_server.url, timeout=0.3)
    await asking.connect(trio.current_time() + SECONDS)
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
    assert await asking.connect(trio.current_time() + SECONDS)
    assert await asking.ask(("PING",)) == [b"PONG"]
    asking.close()


async def test_all_who_ask_hear_that_a_right_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = client("unix:/nowhere")

    async def call(_link: object, commands: Sequence[Command]) -> list[Reply]:
        await trio.lowlevel.checkpoint()
        if not commands:
            raise Lost("there is no connection")
        raise StoreError("chatd's user may not run WAIT")

    async def ask() -> None:
        with pytest.raises(StoreError, match="WAIT"):
            await asking.ask(("PING",))

    monkeypatch.setattr(asking, "_call", call)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)


@needs_redis
async def test_a_feed_that_stays_silent_is_lost(
    redis_server: RedisServer, mock_clock: trio.testing.MockClock
) -> None:
    listening = client(redis_server.url)
    await listening.connect(listening.deadline())

    async def listen() -> None:
        with pytest.raises(Lost):
            await listening.listen(pack([("XREAD", "BLOCK", 0, "STREAMS", "none", "0-0")]), 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        mock_clock.jump(5.9)
        listening.check_listening()
        mock_clock.jump(0.2)
        with pytest.raises(Lost, match="in time on the link that reads the feed"):
            listening.check_listening()


@pytest.mark.parametrize(
    "replies", [b":1\r\n:1\r\n:1\r\n", b"+redis_version:7.0.0\r\n+OK\r\n*1\r\n:1\r\n"]
)
async def test_a_reply_that_no_server_sends_ends_the_attempt_to_connect(replies: bytes) -> None:
    found = b"+role:master\r\n:0\r\n"
    async with scripted(HELLO, found, *4 * [HELLO], replies) as broken:
        connecting = client(f"redis://{broken}")
        with pytest.raises(Lost, match="sent an unexpected reply"):
            await connecting.connect(connecting.deadline())
