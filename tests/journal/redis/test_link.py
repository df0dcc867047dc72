"""Links: logging in, deadlines, and that a link that failed stays closed."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trustme

from chatd.journal import StoreError
from chatd.journal.engine import Lost
from chatd.journal.redis.address import Address
from chatd.journal.redis.link import Link, Login, open_link
from tests.journal.redis.scripted import HELLO, scripted
from tests.redis_server import RedisServer, needs_redis


async def test_replies_come_in_the_order_of_the_commands() -> None:
    async with scripted(HELLO, b"+a\r\n:1\r\n", b"+b\r\n") as address:
        link = await open_link(address, Login())
        assert await link.call(("A",), ("B",)) == [b"a", 1]
        assert await link.call(("C",)) == [b"b"]
        link.close()
        link.close()
        with pytest.raises(Lost, match=r"127\.0\.0\.1:\d+ is closed"):
            await link.call(("D",))


async def test_an_error_of_a_command_is_a_reply() -> None:
    async with scripted(HELLO, b"-ERR no\r\n+b\r\n") as address:
        link = await open_link(address, Login())
        error, after = await link.call(("A",), ("B",))
        assert (str(error), after) == ("ERR no", b"b")
        link.close()


@pytest.mark.parametrize("reply", [b"close", b"HTTP/1.1 400\r\n", b"+a\r\n+b\r\n"])
async def test_a_broken_link_is_lost(reply: bytes) -> None:
    async with scripted(HELLO, reply) as address:
        link = await open_link(address, Login())
        with pytest.raises(Lost, match="broke"):
            await link.call(("A",))
        with pytest.raises(Lost, match="is closed"):
            await link.call(("A",))


async def test_no_answer_in_time_closes_the_link(autojump_clock: object) -> None:
    async with scripted(HELLO) as address:
        link = await open_link(address, Login())
        begin = trio.current_time()
        with pytest.raises(Lost, match="did not answer in time"):
            await link.call(("A",), deadline=begin + 2)
        assert trio.current_time() == begin + 2
        with pytest.raises(Lost, match="is closed"):
            await link.call(("A",))


async def test_a_cancelled_call_closes_the_link() -> None:
    async with scripted(HELLO) as address:
        link = await open_link(address, Login())
        with trio.move_on_after(0):
            await link.call(("A",))
        with pytest.raises(Lost, match="is closed"):
            await link.call(("A",))


async def test_a_call_ends_when_another_task_closes_the_link() -> None:
    async with scripted(HELLO) as address, trio.open_nursery() as nursery:
        link = await open_link(address, Login())

        async def lost() -> None:
            with pytest.raises(Lost):
                await link.call(("A",))

        nursery.start_soon(lost)
        await trio.testing.wait_all_tasks_blocked()
        link.close()


async def test_nobody_is_there(tmp_path: Path) -> None:
    for address in (Address("127.0.0.1", 1), Address(path=str(tmp_path / "none"))):
        with pytest.raises(Lost, match=f"cannot connect to {address}: .*") as lost:
            await open_link(address, Login())
        assert "\n" not in str(lost.value)


async def test_a_name_with_several_addresses_has_one_reason() -> None:
    with pytest.raises(Lost, match=r"cannot connect to localhost:1: Connection refused$"):
        await open_link(Address("localhost", 1), Login())


async def test_a_server_that_is_stopped_has_a_deadline(autojump_clock: object) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = Address("127.0.0.1", listener.socket.getsockname()[1])
    with pytest.raises(Lost, match="did not answer in time"):
        await open_link(address, Login(), deadline=trio.current_time() + 2)
    await listener.aclose()


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (b"-NOAUTH HELLO must be called\r\n", "set history.password_file"),
        (b"-WRONGPASS invalid\r\n", "check history.user and history.password_file"),
        (b"-ERR unknown command 'HELLO'\r\n", "chatd needs Redis 7.0"),
        (b"-NOPROTO unsupported\r\n", "chatd needs Redis 7.0"),
        (b"-DENIED Redis is running in protected mode\r\n", "give its user a password"),
        (b"HTTP/1.1 400\r\n", "not a Redis server"),
        (b"\x15\x03\x03\0\x02\x02\x46", "write rediss:// for redis://"),
    ],
)
async def test_a_server_that_lets_nobody_in_is_a_fault_of_the_store(
    reply: bytes, remedy: str
) -> None:
    async with scripted(reply) as address:
        with pytest.raises(StoreError, match=remedy):
            await open_link(address, Login())


async def test_the_password_is_in_no_error() -> None:
    reply = b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'u' 'hunter2'\r\n"
    async with scripted(reply) as address:
        with pytest.raises(StoreError, match=r"chatd needs Redis 7\.0") as refused:
            await open_link(address, Login("u", "hunter2"))
    assert "hunter2" not in str(refused.value)


async def test_a_server_with_too_many_clients_is_waited_for() -> None:
    async with scripted(b"-ERR max number of clients reached\r\n") as address:
        with pytest.raises(Lost, match="not ready: ERR max number of clients"):
            await open_link(address, Login())


async def test_a_server_that_still_reads_its_data_is_waited_for() -> None:
    async with scripted(b"-LOADING Redis is loading\r\n") as address:
        with pytest.raises(Lost, match="not ready"):
            await open_link(address, Login())


async def test_tls_checks_the_servers_certificate() -> None:
    ca = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    async with scripted(HELLO, b"+a\r\n", tls=server) as address:
        secure = Address(address.host, address.port, tls=trusting)
        link = await open_link(secure, Login())
        assert await link.call(("A",)) == [b"a"]
        link.close()


async def test_tls_refuses_a_certificate_of_nobody_knows_whom() -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(server)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, serve, [trio.SSLListener(listener, server)])
        port = listener.socket.getsockname()[1]
        address = Address("127.0.0.1", port, tls=ssl.create_default_context())
        with pytest.raises(StoreError, match=r"is not trusted: .*: check history\.tls_ca_file"):
            await open_link(address, Login())
        nursery.cancel_scope.cancel()


@needs_redis
async def test_a_user_logs_in_with_a_password(own_server: RedisServer) -> None:
    own_server.command("ACL", "SETUSER", "chatd", "on", ">secret", "~*", "+@all")
    own_server.command("CONFIG", "SET", "requirepass", "other")
    address = Address(path=str(own_server.socket))
    link: Link = await open_link(address, Login("chatd", "secret"))
    assert await link.call(("ACL", "WHOAMI")) == [b"chatd"]
    link.close()
    for login, remedy in (
        (Login(), "history.password_file"),
        (Login("chatd", "wrong"), "'chatd'"),
        (Login(password="wrong"), "'default'"),
    ):
        with pytest.raises(StoreError, match=remedy):
            await open_link(address, login)


@needs_redis
async def test_much_is_sent_and_received_at_once(redis_server: RedisServer) -> None:
    link = await open_link(Address(path=str(redis_server.socket)), Login())
    data = bytes(range(256)) * 4096
    assert await link.call(*(("ECHO", data) for _ in range(8))) == [data] * 8
    link.close()
