from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from chatd.wire.listener import Listener, ListenError, open_listeners
from chatd.wire.transport import SocketTransport

HAS_IPV6 = Path("/proc/net/if_inet6").exists() and "00000000000000000000000000000001" in Path(
    "/proc/net/if_inet6"
).read_text(encoding="ascii")


@asynccontextmanager
async def accepting(listener: Listener) -> AsyncIterator[list[SocketTransport]]:
    came: list[SocketTransport] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.accept, came.append, lambda: None)
        try:
            yield came
        finally:
            nursery.cancel_scope.cancel()
            for transport in came:
                transport._socket.close()


async def arrival(came: list[SocketTransport]) -> SocketTransport:
    while not came:
        await trio.testing.wait_all_tasks_blocked(0.001)
    return came.pop()


async def through(listener: Listener, client: trio.SocketStream) -> SocketTransport:
    async with client, accepting(listener) as came:
        transport = await arrival(came)
        await client.send_all(b"hello")
        assert await transport.recv(100) == b"hello"
        await transport.send_all(b"x" * 1000)
        assert await client.receive_some(1000) == b"x" * 1000
        await transport.aclose()
        return transport


async def test_localhost_is_both_loopbacks_on_one_port() -> None:
    listeners = open_listeners(["localhost:0"])
    port = listeners[0].port
    expected = [f"127.0.0.1:{port}", f"[::1]:{port}"][: 2 if HAS_IPV6 else 1]
    assert [listener.address for listener in listeners] == expected
    assert all(listener.loopback for listener in listeners)
    for listener in listeners:
        host = listener.socket.getsockname()[0]
        transport = await through(listener, await trio.open_tcp_stream(host, port))
        assert (transport.peer.address, transport.peer.loopback) == (host, True)
        assert transport.listener_loopback
        listener.close()
        listener.close()


async def test_any_ipv4_address_is_no_loopback_listener() -> None:
    (listener,) = open_listeners(["0.0.0.0:0"])
    transport = await through(listener, await trio.open_tcp_stream("127.0.0.1", listener.port))
    assert not transport.listener_loopback
    assert transport.peer.loopback
    listener.close()


async def test_the_kernel_takes_little_for_a_peer_that_does_not_read() -> None:
    (listener,) = open_listeners(["127.0.0.1:0"])
    client = await trio.open_tcp_stream("127.0.0.1", listener.port)
    async with client, accepting(listener) as came:
        transport = await arrival(came)
        assert transport.plain is not None
        taken = 0
        with suppress(BlockingIOError):
            while taken < 4_000_000:
                taken += transport.plain.send(b"x" * 65_536)
        assert taken < 1_000_000
        await transport.aclose()
    listener.close()


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
async def test_any_ipv6_address_takes_ipv4_too() -> None:
    (listener,) = open_listeners(["[::]:0"])
    for host in ("127.0.0.1", "::1"):
        transport = await through(listener, await trio.open_tcp_stream(host, listener.port))
        assert transport.peer.address == host
    listener.close()


async def test_a_unix_socket_has_its_mode_and_goes_with_us(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    (listener,) = open_listeners([f"unix:{path}"], 0o660)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    transport = await through(listener, await trio.open_unix_socket(path))
    assert (transport.peer.kind, transport.peer.loopback) == ("unix", False)
    assert (transport.peer.uid, transport.peer.place) == (os.getuid(), f"uid {os.getuid()}")
    assert listener.address == f"unix:{path}"
    listener.close()
    assert not path.exists()


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    (listener,) = open_listeners([f"unix:{path}"])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_living_daemons_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    (first,) = open_listeners([f"unix:{path}"])
    with pytest.raises(ListenError, match="another program listens there"):
        open_listeners([f"unix:{path}"])
    assert path.exists()
    first.close()


def test_a_file_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ListenError, match="is not a socket"):
        open_listeners([f"unix:{path}"])
    assert path.read_text() == "mine"


def test_another_daemons_new_socket_is_not_removed_by_our_end(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    (first,) = open_listeners([f"unix:{path}"])
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        first.close()
        assert path.exists()


def test_an_address_in_use_is_reported_and_nothing_stays_open() -> None:
    (first,) = open_listeners(["127.0.0.1:0"])
    with pytest.raises(ListenError) as caught:
        open_listeners(["127.0.0.1:0", first.address])
    message = str(caught.value)
    assert f"{first.address} is in use by another program" in message
    assert f"sport = :{first.port}" in message
    assert "\n" not in message
    first.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("192.0.2.1:3000", "does not have this address"),
        ("unix:/nowhere/chat.sock", "the folder does not exist"),
        ("no.such.host.invalid:3000", "no such host"),
        ("3000", "is not an address"),
        ("localhost", "is not an address"),
        ("localhost:http", "is not an address"),
        ("127.0.0.1:70000", "is not an address"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(address: str, said: str) -> None:
    with pytest.raises(ListenError, match=said) as caught:
        open_listeners([address])
    assert "\n" not in str(caught.value)


async def test_without_descriptors_accepting_pauses_and_continues(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """accept(2) fails as long as it must; the loop neither ends nor spins."""
    (listener,) = open_listeners(["127.0.0.1:0"])
    told: list[float] = []
    came: list[SocketTransport] = []
    real = listener.socket

    class Starved:
        def fileno(self) -> int:
            return real.fileno()

        def accept(self) -> object:
            if len(told) < 3:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return real.accept()

    listener.socket = Starved()  # type: ignore[assignment]  # all that accepting uses of it
    arrived = trio.Event()

    def welcome(transport: SocketTransport) -> None:
        came.append(transport)
        arrived.set()

    with socket.create_connection(("127.0.0.1", listener.port)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.accept, welcome, lambda: told.append(trio.current_time()))
            await arrived.wait()
            nursery.cancel_scope.cancel()
    assert told[2] - told[0] == pytest.approx(0.2)
    came[0]._socket.close()
    listener.socket = real
    listener.close()


async def test_a_closed_listener_ends_its_loop() -> None:
    (listener,) = open_listeners(["127.0.0.1:0"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.accept, lambda transport: None, lambda: None)
        await trio.testing.wait_all_tasks_blocked()
        listener.close()
