"""A primary Redis server with replicas, the Sentinels that watch it, and failovers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from tests.e2e.chatd_process import free_port
from tests.redis_server import HERE, Machine, RedisServer, Sentinel

__all__ = ["Sentinels"]

SECONDS: Final = 60  # ends a hang


class Sentinels:
    """A redis-server and a Sentinel on each machine. The first server is the primary at first.

    Args:
        folder: Where their data are.
        machines: The machines.
        down_after_ms: When a server that does not answer counts as down.
    """

    def __init__(
        self,
        folder: Path,
        machines: Sequence[Machine] = (HERE,) * 3,
        *,
        down_after_ms: int = 1000,
    ) -> None:
        self.down_after_seconds: Final = down_after_ms / 1000
        self.servers: Final = [
            RedisServer(folder / f"redis{number}", free_port(), machine)
            for number, machine in enumerate(machines)
        ]
        self._sentinels = [
            Sentinel(
                folder / f"sentinel{number}",
                free_port(),
                machine,
                primary=self.servers[0],
                down_after_ms=down_after_ms,
            )
            for number, machine in enumerate(machines)
        ]
        places = ",".join(f"{one.host}:{one.port}" for one in self._sentinels)
        self.url: Final = f"sentinel://{places}/chat"

    async def start(self) -> None:
        """Start all, and return when the Sentinels know the servers and each other."""
        await trio.to_thread.run_sync(self._start)

    def _start(self) -> None:
        primary, *replicas = self.servers
        for server in self.servers:
            server.start()
        for replica in replicas:
            replica.follow(primary)
        for sentinel in self._sentinels:
            sentinel.start()
        deadline = time.monotonic() + SECONDS
        others = str(len(self._sentinels) - 1)
        while any(
            sentinel.facts()["num-other-sentinels"] != others
            or sentinel.facts()["num-slaves"] != str(len(replicas))
            for sentinel in self._sentinels
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def kill(self) -> None:
        """End all processes."""
        for server in (*self._sentinels, *self.servers):
            server.kill()

    def named(self) -> list[RedisServer]:
        """Return the primary server that each Sentinel names."""
        named = [(facts["ip"], facts["port"]) for facts in map(Sentinel.facts, self._sentinels)]
        return [
            next(server for server in self.servers if (server.host, str(server.port)) == place)
            for place in named
        ]

    async def primary(self, *, besides: RedisServer | None = None) -> RedisServer:
        """Return the primary server that most Sentinels name, once it is not a certain one."""
        with trio.fail_after(SECONDS):
            while True:
                named = await trio.to_thread.run_sync(self.named)
                for server in self.servers:
                    if named.count(server) > len(named) // 2 and server is not besides:
                        return server
                await trio.sleep(0.05)

    async def replace_by_kill(self) -> None:
        """Kill the primary server, and start it as a replica of the next one."""
        former = await self.primary()
        former.kill()
        now = await self.primary(besides=former)
        await trio.to_thread.run_sync(former.start)
        await trio.to_thread.run_sync(former.follow, now)

    async def replace_by_stop(self) -> None:
        """Stop the primary server until another is one; then let it go on, as a replica of that."""
        former = await self.primary()
        former.stop()
        now = await self.primary(besides=former)
        former.go_on()
        await trio.to_thread.run_sync(former.follow, now)
