"""Attacks on the wire, over loopback: refused in time, while all other clients are served."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from chatd.settings import Settings
from tests.wire.served import Client, Served, masked, serve, settings

QUICK = settings(
    limits={"handshake_seconds": 1.0, "close_seconds": 1.0, "connections_per_address": 2000},
    websocket={"ping_interval_seconds": 1, "ping_timeout_seconds": 1},
)


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@asynccontextmanager
async def besieged(configured: Settings = QUICK) -> AsyncIterator[Served]:
    """Serve, with a client who came before and must be answered; afterwards all is as it was."""
    async with serve(configured) as served:
        witness = await served.dial_tcp()
        await witness.upgrade()
        await exchange(witness)
        tasks = trio.lowlevel.current_statistics().tasks_living
        descriptors = descriptors_open()
        times: list[float] = []
        with trio.CancelScope() as watching:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, witness, times)
                yield served
                with trio.fail_after(60):
                    # No event says when the server has noticed the last of them.
                    while served.server.statistics().open > 1:  # noqa: ASYNC110  # as said
                        await trio.sleep(0.01)
                watching.cancel()
        # Attacker and witness share a loop, on a machine that does much else: a limit of a hang.
        times.sort()
        assert times[int(len(times) * 0.99)] < 1
        for client in served.clients[1:]:
            await trio.aclose_forcefully(client.stream)
        assert trio.lowlevel.current_statistics().tasks_living <= tasks
        assert descriptors_open() <= descriptors
        assert served.faults == []


async def exchange(client: Client) -> None:
    await client.text("are you there?")
    while True:
        frame = await client.frame()
        assert frame is not None
        if frame == (0x81, b"are you there?"):
            return


async def watch(client: Client, times: list[float]) -> None:
    while True:
        began = trio.current_time()
        await exchange(client)
        times.append(trio.current_time() - began)
        await trio.sleep(0.005)


@pytest.mark.parametrize("begun", [b"", b"GET /ws HTTP/1.1\r\nHost: "])
async def test_1_slow_handshakes_are_closed_in_time(begun: bytes) -> None:
    async with besieged() as served:
        began = trio.current_time()
        clients = [await served.dial_tcp() for _ in range(200)]

        async def drip(client: Client) -> None:
            try:
                await client.send(begun)
                while True:
                    await client.send(b"a" if begun else b"")
                    await trio.sleep(0.2)
            except trio.BrokenResourceError:
                pass

        async def outlast(client: Client, dripping: trio.CancelScope) -> None:
            await client.rest()
            dripping.cancel()

        async with trio.open_nursery() as nursery:
            for client in clients:

                async def attack(client: Client = client) -> None:
                    with trio.CancelScope() as scope:
                        async with trio.open_nursery() as pair:
                            pair.start_soon(outlast, client, scope)
                            pair.start_soon(drip, client)

                nursery.start_soon(attack)
        assert trio.current_time() - began < 4


async def test_5_connections_that_are_reset_at_once_leave_nothing() -> None:
    async with besieged() as served:
        port = served.listeners[0].port
        for _ in range(20):
            for _ in range(100):
                with socket.create_connection(("127.0.0.1", port)) as victim:
                    # Closing resets: SO_LINGER with no time.
                    victim.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.lowlevel.checkpoint()
        with trio.fail_after(60):
            # The kernel keeps them, with nobody at the other end, until the server takes them.
            while served.server.statistics().accepted <= 2000:  # noqa: ASYNC110  no event says so
                await trio.sleep(0.01)
        assert served.server.statistics().refused == {}


@pytest.mark.parametrize("network", ["192.0.2.1", "2001:db8::{:x}"])
async def test_6_a_flood_from_one_network_leaves_room_for_others(network: str) -> None:
    proxied = settings(
        limits={"connections_per_address": 20, "handshake_seconds": 20.0},
        http={"trusted_proxies": ["127.0.0.1"]},
        websocket={"ping_interval_seconds": 1, "ping_timeout_seconds": 1},
    )
    async with besieged(proxied) as served:
        flood = [await served.dial_tcp() for _ in range(200)]
        told: list[int] = []
        for number, client in enumerate(flood):
            address = network.format(number)
            told.append((await client.ask(f"GET / HTTP/1.1\nX-Forwarded-For: {address}"))[0])
        assert told == [200] * 20 + [429] * 180
        other = await served.dial_tcp()
        assert (await other.ask("GET / HTTP/1.1\nX-Forwarded-For: 192.0.2.2"))[0] == 200
        assert served.server.statistics().refused == {429: 180}
        for client in [*flood, other]:
            await client.aclose()


async def test_9_a_frame_of_2_to_the_62_is_refused_at_once() -> None:
    async with besieged() as served:
        client = await served.dial_tcp()
        await client.upgrade()
        await client.send(b"\x81\xff" + (1 << 62).to_bytes(8, "big"))
        assert (await client.closed())[0] == 1009
        await client.aclose()


@pytest.mark.parametrize("payload", [b"", b"x"])
async def test_11_fragments_without_end_are_refused(payload: bytes) -> None:
    async with besieged() as served:
        client = await served.dial_tcp()
        await client.upgrade()
        await client.send(masked(0x01, payload))
        flood = masked(0x00, payload) * 10_000

        async def pour() -> None:
            try:
                for _ in range(80):
                    await client.send(flood)
            except trio.BrokenResourceError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            assert (await client.closed())[0] == 1009
            nursery.cancel_scope.cancel()
        await client.aclose()


@pytest.mark.parametrize("opcode", [0x89, 0x8A, 0x88])
async def test_13_floods_of_control_frames_are_bounded(opcode: int) -> None:
    async with besieged() as served:
        client = await served.dial_tcp()
        await client.upgrade()
        tasks = trio.lowlevel.current_statistics().tasks_living
        flood = masked(opcode, b"" if opcode == 0x88 else b"p" * 100) * 1000
        most = 0
        with trio.move_on_after(1):
            try:
                while True:
                    await client.send(flood)
                    most = max(most, trio.lowlevel.current_statistics().tasks_living)
            except trio.BrokenResourceError:
                pass
        # A pong may wait for the kernel in the outbox: that is one writer.
        assert most <= tasks + 1
        assert served.server.statistics().waiting < 1000
        await client.aclose()


async def test_16_half_a_frame_and_then_silence_is_closed() -> None:
    async with besieged() as served:
        client = await served.dial_tcp()
        await client.upgrade()
        await client.send(masked(0x81, b"x" * 100)[:50])
        assert (await client.closed())[0] == 4002
        await client.aclose()
