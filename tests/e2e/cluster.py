"""A Redis and several daemons on it, what can happen to them, and clients that live through it."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from tests.e2e.chatd_process import CHATD, ChatdProcess, ChatdStarter, free_port
from tests.e2e.gate import Gate
from tests.e2e.roamers import (
    JsonRoamer,
    PollingRoamer,
    Roamer,
    SocketIoRoamer,
    TextRoamer,
    read_log,
    until_acknowledged,
)
from tests.redis_server import RedisServer

__all__ = [
    "Balancer",
    "Cluster",
    "Fault",
    "commits_again",
    "cut_a_daemon_off",
    "kill_a_daemon",
    "kill_the_engine",
    "live_through",
    "stop_the_engine",
    "upgrade_a_daemon",
]

Fault: TypeAlias = Callable[[], Awaitable[None]]
"""Something that happens to a cluster, and is over when it returns."""

ANSWER_SECONDS: Final = 4
"""The longest time until an answer. It should be history.timeout_seconds (2), but the machine may
be busy; two time-outs one after the other would take longer than this."""

CALM_SECONDS: Final = 60  # ends a hang

PROTOCOLS: Final = (JsonRoamer, SocketIoRoamer, PollingRoamer, TextRoamer)
NEWER: Final = (str(Path(__file__).with_name("newer_daemon.py")),)

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
    """Daemons on one store: on a Redis of their own, each behind a gate, or on other servers."""

    def __init__(self, folder: Path, start: ChatdStarter, nursery: trio.Nursery) -> None:
        self.redis = RedisServer(folder / "redis")
        self.gates: dict[int, Gate] = {}
        self.daemons: dict[int, ChatdProcess] = {}
        """The running daemons, by their ports."""
        self._folder = folder
        self._start = start
        self._nursery = nursery
        self._settings: dict[str, object] = {}
        self._urls: dict[int, str] = {}

    @property
    def ports(self) -> list[int]:
        return list(self._urls)

    async def open(self, nodes: int, **settings: object) -> None:
        """Start a Redis and daemons on it."""
        await self.start_redis()
        for number in range(nodes):
            gate = Gate(self._folder / f"gate{number}", self.redis.socket)
            await self._nursery.start(gate.run)
            port = free_port()
            self.gates[port], self._urls[port] = gate, f"unix:{gate.path}"
        await self._start_all(settings)

    async def open_at(self, url: str, nodes: int, **settings: object) -> None:
        """Start daemons on servers that run already."""
        self._urls = {free_port(): url for _ in range(nodes)}
        await self._start_all(settings)

    async def _start_all(self, settings: dict[str, object]) -> None:
        self._settings = {
            **UNLIMITED,
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        async with trio.open_nursery() as nursery:
            for port in self.ports:
                nursery.start_soon(self.start, port)

    async def start_redis(self) -> None:
        """Start the server, and return when it answers."""
        await trio.to_thread.run_sync(self.redis.start)

    async def start(self, port: int, program: Sequence[str] = CHATD) -> None:
        """Start a daemon, and return when it serves. ``program`` is another version of chatd."""
        self.daemons[port] = await self._start(self.settings_of(port), port=port, program=program)

    def settings_of(self, port: int) -> dict[str, object]:
        """Return the settings of a daemon."""
        store = {"history.store": "redis", "history.url": self._urls[port]}
        return {**self._settings, **store, "admin.socket": str(self._admin(port))}

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
    """A port that leads to one daemon: to its port or its Unix socket."""

    def __init__(self, behind: int | Path, port: int | None = None) -> None:
        self.behind = behind
        self.port = free_port() if port is None else port

    async def run(
        self, *, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept connections until cancelled."""
        await trio.serve_tcp(self._lead, self.port, host="127.0.0.1", task_status=task_status)

    async def _lead(self, near: trio.SocketStream) -> None:
        try:
            if isinstance(self.behind, Path):
                far = await trio.open_unix_socket(str(self.behind))
            else:
                far = await trio.open_tcp_stream("127.0.0.1", self.behind)
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


async def commits_again(ports: Sequence[int]) -> float:
    """Return after how many seconds all of these daemons acknowledge messages."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for port in ports:
            nursery.start_soon(until_acknowledged, port)
    return trio.current_time() - began


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


async def upgrade_a_daemon(cluster: Cluster, port: int) -> None:
    assert await cluster.daemons.pop(port).stop() == 0
    await cluster.start(port, NEWER)


async def live_through(
    cluster: Cluster,
    faults: Sequence[Fault],
    *,
    calm_seconds: float,
    kinds: Sequence[Callable[[str, Sequence[int]], Roamer]] = PROTOCOLS,
) -> list[Roamer]:
    """Play the faults one after the other, with clients that roam; check what they saw.

    There are three of each kind.
    """
    roamers = [
        kind(f"{letter}{number}", cluster.ports)
        for letter, kind in zip("abcd", kinds, strict=False)
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
