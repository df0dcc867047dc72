"""Finding the primary server: by Sentinels, among several servers, in a Redis Cluster."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

from chatd.journal import StoreError
from chatd.journal.engine import Lost
from chatd.journal.redis import finding
from chatd.journal.redis.address import Address, Source
from chatd.journal.redis.finding import find_primary
from chatd.journal.redis.link import Login
from tests.journal.redis.scripted import HELLO, scripted

NOBODY = Address("127.0.0.1", 1)


def sentinel_says(
    primary: Address, epoch: int, *, flags: str = "master", former: Address | None = None
) -> bytes:
    about = former or primary
    facts = {"ip": about.host, "port": about.port, "flags": flags, "config-epoch": epoch}
    words = "".join(f"+{name}\r\n+{value}\r\n" for name, value in facts.items())
    named = f"*2\r\n+{primary.host}\r\n+{primary.port}\r\n"
    return f"{named}%{len(facts)}\r\n{words}".encode()


def server_says(role: str, found: str = ":1") -> bytes:
    return f"+role:{role}\r\n{found}\r\n".encode()


async def primary(
    *addresses: Address, service: str = "", login: Login | None = None, seconds: float = 10
) -> Address:
    source = Source(addresses, service)
    deadline = trio.current_time() + seconds
    return await find_primary(source, login or Login(), b"{chatd}:m", deadline)


async def test_the_latest_failover_that_a_sentinel_knows_counts() -> None:
    async with scripted(HELLO, server_says("master")) as server, AsyncExitStack() as stack:
        behind, present, under_way = [
            await stack.enter_async_context(scripted(HELLO, says))
            for says in (
                sentinel_says(NOBODY, 4),
                sentinel_says(server, 5),
                sentinel_says(server, 5, flags="master,s_down,o_down", former=NOBODY),
            )
        ]
        assert await primary(behind, NOBODY, present, under_way, service="chat") == server


async def test_a_sentinel_that_does_not_answer_costs_no_deadline() -> None:
    async with (
        scripted() as silent,
        scripted(HELLO, server_says("master")) as server,
        scripted(HELLO, sentinel_says(server, 1)) as answers,
    ):
        began = trio.current_time()
        assert await primary(silent, answers, service="chat") == server
        assert trio.current_time() - began < 5


async def test_sentinels_are_asked_again_while_they_wait_for_the_server() -> None:
    async with scripted(HELLO, server_says("master")) as server:
        waiting = sentinel_says(NOBODY, 4, flags="master,s_down")
        async with (
            scripted(HELLO, waiting, HELLO, sentinel_says(server, 5)) as one,
            scripted(HELLO, waiting, HELLO, waiting) as other,
        ):
            assert await primary(one, other, service="chat") == server


async def test_a_sentinel_gets_the_login_only_if_it_asks() -> None:
    noauth = b"-NOAUTH HELLO must be called\r\n"
    login = Login("chatd", "secret")
    for asking in ((HELLO,), (noauth, HELLO)):
        async with (
            scripted(HELLO, server_says("master")) as server,
            scripted(*asking, sentinel_says(server, 1)) as sentinel,
        ):
            assert await primary(sentinel, service="chat", login=login) == server
    async with scripted(noauth, b"-WRONGPASS invalid\r\n") as guarded:
        with pytest.raises(StoreError, match=r"password of the user 'chatd'"):
            await primary(guarded, service="chat", login=login)
    async with scripted(noauth, noauth) as guarded:
        with pytest.raises(StoreError, match=r"set history\.password_file"):
            await primary(guarded, service="chat")


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (b"_\r\n-ERR No such master with that name\r\n", "does not know 'chat'"),
        (
            b"-ERR unknown command 'SENTINEL'\r\n" * 2,
            r"is not a Sentinel: write redis://127\.0\.0\.1:",
        ),
    ],
)
async def test_a_sentinel_that_does_not_know_the_name_is_a_wrong_configuration(
    reply: bytes, remedy: str
) -> None:
    async with scripted(HELLO, reply) as sentinel:
        with pytest.raises(StoreError, match=remedy):
            await primary(sentinel, service="chat")
    # If another one may know it, it is not certain.
    async with scripted(HELLO, reply) as sentinel:
        with pytest.raises(Lost, match=f"{remedy}.*; cannot connect to"):
            await primary(sentinel, NOBODY, service="chat", seconds=0.1)


@pytest.mark.parametrize(
    "reply",
    [
        b"_\r\n%1\r\n+ip\r\n+127.0.0.1\r\n",
        b"*2\r\n+127.0.0.1\r\n+1\r\n%1\r\n+ip\r\n+127.0.0.1\r\n",
        b"*2\r\n+127.0.0.1\r\n+http\r\n+OK\r\n",
        b"+OK\r\n+OK\r\n",
        b":1\r\n:1\r\n",
    ],
)
async def test_a_reply_that_no_sentinel_sends_is_an_error_of_that_sentinel(reply: bytes) -> None:
    async with scripted(HELLO, reply) as broken:
        with pytest.raises(Lost, match=r"the Sentinel at .* sent an unexpected reply"):
            await primary(broken, service="chat")
    async with (
        scripted(HELLO, server_says("master")) as server,
        scripted(HELLO, reply) as broken,
        scripted(HELLO, sentinel_says(server, 1)) as sentinel,
    ):
        assert await primary(broken, sentinel, service="chat") == server


@pytest.mark.parametrize("named", [Address("a..b"), Address("127.0.0.1", 2**70)])
async def test_what_a_sentinel_names_may_be_no_address(named: Address) -> None:
    async with scripted(HELLO, sentinel_says(named, 1)) as broken:
        with pytest.raises(Lost, match="cannot connect to"):
            await primary(broken, service="chat")


@pytest.mark.parametrize("reply", [b":1\r\n:1\r\n", b"+role:master\r\n-MOVED\r\n"])
async def test_a_reply_that_no_server_sends_is_an_error_of_that_server(reply: bytes) -> None:
    async with scripted(HELLO, reply) as broken:
        with pytest.raises(Lost, match="sent an unexpected reply"):
            await primary(broken)


async def test_of_several_servers_the_primary_one_is_taken() -> None:
    async with (
        scripted(HELLO, server_says("slave")) as replica,
        scripted(HELLO, server_says("master")) as master,
    ):
        assert await primary(NOBODY, replica, master) == master
    async with scripted(HELLO, server_says("slave")) as replica:
        with pytest.raises(Lost, match=r"cannot connect to .*; .* is a replica"):
            await primary(NOBODY, replica, seconds=0.1)


@pytest.mark.parametrize("error", ["CLUSTERDOWN The cluster is down", "LOADING Redis is loading"])
async def test_a_former_primary_server_that_starts_is_passed_over(error: str) -> None:
    async with (
        scripted(HELLO, server_says("master", f"-{error}")) as former,
        scripted(HELLO, server_says("master")) as present,
    ):
        assert await primary(former, present) == present
    async with scripted(HELLO, server_says("master", f"-{error}")) as former:
        with pytest.raises(Lost, match=f"is not ready: {error}"):
            await primary(former)


async def test_of_two_primary_servers_every_node_takes_the_same() -> None:
    async with AsyncExitStack() as stack:
        masters = [
            await stack.enter_async_context(scripted(HELLO, server_says("master")))
            for _ in range(3)
        ]
        assert await primary(*masters) == masters[0]


async def test_a_cluster_is_asked_for_the_server_of_the_slot() -> None:
    async with scripted(HELLO, server_says("master")) as there:
        moved = server_says("master", f"-MOVED 7 {there}")
        async with scripted(HELLO, moved) as here:
            assert await primary(here) == there
    async with scripted(HELLO, server_says("master")) as there:
        moved = server_says("master", f"-MOVED 7 :{there.port}")  # the same host
        async with scripted(HELLO, moved) as here:
            assert await primary(here) == there


async def test_a_cluster_whose_servers_disagree_is_waited_for() -> None:
    async with AsyncExitStack() as stack:
        next_one = NOBODY
        for _ in range(finding.REDIRECTIONS):
            moved = server_says("master", f"-MOVED 7 {next_one}")
            next_one = await stack.enter_async_context(scripted(HELLO, moved))
        with pytest.raises(Lost, match="Redis Cluster that is being changed"):
            await primary(next_one)


async def test_there_is_a_deadline(autojump_clock: MockClock) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    silent = Address("127.0.0.1", listener.socket.getsockname()[1])
    for service in ("", "chat"):
        began = trio.current_time()
        with pytest.raises(Lost, match="did not answer in time"):
            await primary(silent, service=service)
        assert trio.current_time() - began == 10
    await listener.aclose()
