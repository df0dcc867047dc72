"""A Redis and several daemons on it, what can happen to them, and clients that live through it."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from tests.e2e.chatd_process import ChatdProcess, ChatdStarter, free_port
from tests.e2e.gate import Gate
from tests.e2e.roamers import (
    JsonRoamer,
    PollingRoamer,
    Roamer,
    SocketIoRoamer,
    TextRoamer,
    read_log,
)
from tests.redis_server import RedisServer

__all__ = [
    "Balancer",
    "Cluster",
    "Fault",
    "cut_a_daemon_off",
    "kill_a_daemon",
    "kill_the_engine",
    "live_through",
    "stop_the_engine",
]

Fault: TypeAlias = Callable[[], Awaitable[None]]
"""Something that happens to a cluster, and is over when it returns."""

ANSWER_SECONDS: Final = 2.5
"""The longest time until an answer, with the default of history.timeout_seconds."""

CALM_SECONDS: Final = 60  # ends a hang

PROTOCOLS: Final = (JsonRoamer, SocketIoRoamer, PollingRoamer, TextRoamer)
EACH: Final = 3
"""How many clients speak each protocol."""

UNLIMITED: Final[dict[str, object]] = {
    "limits.messages_per_second": "off",
    "limits.messages_burst": "off",
    "limits.bytes_per_second": "off",
    "limits.requests_per_second": "off",
    "limits.requests_burst": "off",
    "log.messages": False,
}


class Cluster:
    """A Redis and daemons on it, each behind a gate of its own."""

    def __init__(self, folder: Path, start: ChatdStarter, nursery: trio.Nursery) -> None:
        self.redis = RedisServer(folder / "redis")
        self.gates: dict[int, Gate] = {}
        self.daemons: dict[int, ChatdProcess] = {}
        """The running daemons, by their ports."""
        self._folder = folder
        self._start = start
        self._nursery = nursery
        self._settings: dict[str, object] = {}

    @property
    def ports(self) -> list[int]:
        return list(self.gates)

    async def open(self, nodes: int, **settings: object) -> None:
        self._settings = {
            **UNLIMITED,
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        await self.start_redis()
        for number in range(nodes):
            gate = Gate(self._folder / f"gate{number}", self.redis.socket)
            await self._nursery.start(gate.run)
            self.gates[free_port()] = gate
        async with trio.open_nursery() as nursery:
            for port in self.gates:
                nursery.start_soon(self.start, port)

    async def start_redis(self) -> None:
        """Start the server, and return when it answers."""
        await trio.to_thread.run_sync(self.redis.start)

    async def start(self, port: int) -> None:
        """Start a daemon, and return when it serves."""
        settings = {"history.store": "redis", "history.url": f"unix:{self.gates[port].path}"}
        settings["admin.socket"] = str(self._admin(port))
        self.daemons[port] = await self._start({**self._settings, **settings}, port=port)

    async def kill(self, port: int) -> None:
        """Kill a daemon."""
        await self.daemons.pop(port).kill()

    async def administer(self, port: int, method: str, path: str, **fields: object) -> Any:
        """Send a request to a daemon's admin socket; return the answer."""
        body = json.dumps(fields) if fields else ""
        request = f"{method} {path} HTTP/1.1\r\nHost: chatd\r\nConnection: close\r\n"
        request += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        async with await trio.open_unix_socket(str(self._admin(port))) as stream:
            await stream.send_all(request.encode())
            answer = b"".join([piece async for piece in stream]).decode()
        assert answer.startswith("HTTP/1.1 200 "), answer
        return json.loads(answer.partition("\r\n\r\n")[2])

    def _admin(self, port: int) -> Path:
        return self._folder / f"admin{port}"


class Balancer:
    """A port that leads to that of one daemon."""

    def __init__(self, port_behind: int) -> None:
        self.port_behind = port_behind
        self.port = free_port()

    async def run(
        self, *, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept connections until cancelled."""
        await trio.serve_tcp(self._lead, self.port, host="127.0.0.1", task_status=task_status)

    async def _lead(self, near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream("127.0.0.1", self.port_behind)
        except OSError:
            return
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, near, far, nursery.cancel_scope)
            nursery.start_soon(self._copy, far, near, nursery.cancel_scope)

    async def _copy(
        self, source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope
    ) -> None:
        with suppress(trio.BrokenResourceError):
            async for piece in source:
                await sink.send_all(piece)
        both.cancel()


async def kill_a_daemon(cluster: Cluster) -> None:
    port = random.choice(cluster.ports)
    await cluster.kill(port)
    await trio.sleep(0.5)
    await cluster.start(port)


async def kill_the_engine(cluster: Cluster) -> None:
    cluster.redis.kill()
    await trio.sleep(0.3)
    await cluster.start_redis()


async def stop_the_engine(cluster: Cluster, seconds: float) -> None:
    cluster.redis.stop()
    await trio.sleep(seconds)
    cluster.redis.go_on()


async def cut_a_daemon_off(cluster: Cluster, seconds: float) -> None:
    gate = random.choice(list(cluster.gates.values()))
    gate.shut()
    await trio.sleep(seconds)
    gate.open()


async def live_through(
    cluster: Cluster, faults: Sequence[Fault], *, calm_seconds: float
) -> list[Roamer]:
    """Play the faults one after the other, with twelve clients that roam; check what they saw."""
    roamers: list[Roamer] = [
        kind(f"{kind.__name__[0].lower()}{number}", cluster.ports)
        for kind in PROTOCOLS
        for number in range(EACH)
    ]
    async with trio.open_nursery() as nursery:
        for roamer in roamers:
            nursery.start_soon(roamer.roam)
        for fault in faults:
            await trio.sleep(calm_seconds)
            await fault()
        await trio.sleep(calm_seconds)
        for roamer in roamers:
            roamer.talking = False
        with trio.fail_after(CALM_SECONDS):
            for roamer in roamers:
                await roamer.finished.wait()
            log = await read_log(cluster.ports[0])
            while True:
                for roamer in roamers:
                    await roamer.until(max(log))
                # What was said without waiting for an answer may have come meanwhile.
                if log == (log := await read_log(cluster.ports[0])):
                    break
        nursery.cancel_scope.cancel()
    for roamer in roamers:
        roamer.check(log)
        assert roamer.slowest <= ANSWER_SECONDS, f"{roamer.name}: {roamer.slowest:.2f} s"
    return roamers
