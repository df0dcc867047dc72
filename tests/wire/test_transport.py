from __future__ import annotations

import socket
import ssl
from collections import deque

import pytest
import trio
import trio.testing

from chatd.wire.transport import Block, Peer, SocketTransport, StreamTransport

PEER = Peer("unix", "unix", loopback=False)


async def test_a_socket_carries_bytes_both_ways_and_ends() -> None:
    ours, theirs = socket.socketpair()
    transport, far = SocketTransport(ours, PEER), SocketTransport(theirs, PEER)
    big = bytes(range(256)) * 8192
    got = bytearray()

    async def read() -> None:
        while data := await far.recv(8192):
            got.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await transport.send_all(big)
        await transport.send_eof()
    assert got == big
    await transport.aclose()
    await transport.aclose()
    await far.aclose()


async def test_a_socket_takes_what_it_can_of_many_blocks() -> None:
    ours, theirs = socket.socketpair()
    transport, far = SocketTransport(ours, PEER), SocketTransport(theirs, PEER)
    blocks: deque[Block] = deque([b"one", memoryview(b"-two"), *[b"."] * 100])
    sent = await transport.send_some(blocks)
    assert 7 < sent <= 107
    assert (await far.recv(8192)).startswith(b"one-two.")
    await transport.aclose()
    await far.aclose()


async def test_the_other_ends_death_is_a_broken_resource() -> None:
    ours, theirs = socket.socketpair()
    transport = SocketTransport(ours, PEER)
    theirs.close()
    with pytest.raises(trio.BrokenResourceError):
        await transport.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await transport.send_some(deque([b"x"]))
    await transport.aclose()


async def test_a_peer_that_acknowledges_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        transport = SocketTransport(near, PEER)
        transport.give_up_after(1.5)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500
        await transport.aclose()
    ours, theirs = socket.socketpair()
    transport = SocketTransport(ours, PEER)
    transport.give_up_after(1.5)  # a Unix socket's peer is on this machine
    await transport.aclose()
    theirs.close()


async def test_closing_wakes_who_waits() -> None:
    ours, theirs = socket.socketpair()
    transport = SocketTransport(ours, PEER)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await transport.recv(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await transport.aclose()
    theirs.close()


@pytest.mark.parametrize("kind", ["socket", "stream"])
async def test_a_cancelled_close_closes(kind: str) -> None:
    near, far = trio.testing.memory_stream_pair()
    ours, theirs = socket.socketpair()
    transport = SocketTransport(ours, PEER) if kind == "socket" else StreamTransport(near, PEER)
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.aclose()
    if kind == "socket":
        assert theirs.recv(10) == b""
    else:
        assert await far.receive_some() == b""
    ours.close()
    theirs.close()


async def test_a_stream_knows_whether_it_is_tls() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    assert not StreamTransport(ours, PEER).secure
    tls = trio.SSLStream(theirs, ssl.create_default_context(), server_hostname="a")
    assert StreamTransport(tls, PEER).secure


async def test_a_stream_joins_what_waits_up_to_a_bound() -> None:
    near, far = trio.testing.memory_stream_pair()
    transport = StreamTransport(near, PEER)
    assert transport.plain is None
    blocks: deque[Block] = deque([b"x" * 40_000] * 10)
    assert await transport.send_some(blocks) == 80_000
    assert await far.receive_some() == b"x" * 80_000


async def test_a_stream_sends_a_large_block_in_pieces() -> None:
    near, far = trio.testing.memory_stream_pair()
    transport = StreamTransport(near, PEER)
    assert await transport.send_some(deque([b"a" * 200_000, b"b"])) == 65_536
    assert await transport.send_some(deque([b"small", b"b" * 200_000])) == 5
    assert await far.receive_some(100_000) == b"a" * 65_536 + b"small"
    await transport.aclose()
    await far.aclose()
