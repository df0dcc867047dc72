"""A Redis Cluster, in which chatd's slot goes from one server to another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from tests.e2e.chatd_process import free_port
from tests.redis_server import RedisServer

__all__ = ["RedisCluster"]

SLOTS: Final = 16384
SECONDS: Final = 60  # ends a hang
PAUSE_SECONDS: Final = 0.02  # between two questions: nothing signals a change


class RedisCluster:
    """Primary servers that share the slots, and replicas of the first one, which has chatd's slot.

    Args:
        folder: Where their data are.
        primaries: How many primary servers there are. Replicas take over only if there are three.
        replicas: How many replicas there are.
        timeout_ms: When a server that does not answer counts as down.
    """

    def __init__(
        self, folder: Path, primaries: int = 3, replicas: int = 0, *, timeout_ms: int = 1000
    ) -> None:
        number = primaries + replicas
        ports = set[int]()
        while len(ports) < 2 * number:
            ports.add(free_port())
        self._servers = [
            RedisServer(
                folder / f"redis{port}",
                port,
                **{"cluster-enabled": "yes", "cluster-port": str(ports.pop())},
                **{"cluster-node-timeout": str(timeout_ms)},
            )
            for port in [ports.pop() for _ in range(number)]
        ]
        self.primaries: Final = self._servers[:primaries]
        self._owners = [self._servers[0], *self._servers[primaries:]]
        """The server with chatd's slot, which is the first, and its replicas."""
        self.url: Final = "redis://" + ",".join(f"{one.host}:{one.port}" for one in self._servers)
        self.slot = 0
        """The slot of chatd's keys."""

    async def start(self) -> None:
        """Start the servers, and return when all of them know of each other."""
        for server in self._servers:
            await trio.to_thread.run_sync(server.start)
        first, *others = self._servers
        self.slot = int(first.command("CLUSTER", "KEYSLOT", "{chatd}"))
        share = SLOTS // len(self.primaries)
        for number, server in enumerate(self.primaries):
            place = (self.slot // share + number) % len(self.primaries)
            last = SLOTS if place == len(self.primaries) - 1 else (place + 1) * share
            server.command("CLUSTER", "ADDSLOTSRANGE", str(place * share), str(last - 1))
            server.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for server in others:
            bus = server.options["cluster-port"]
            first.command("CLUSTER", "MEET", server.host, str(server.port), bus)
        known = f"cluster_known_nodes:{len(self._servers)}"
        for server in self._servers:
            await _until(_says, server, "cluster_state:ok", known)
        _, *replicas = self._owners
        for replica in replicas:
            replica.command("CLUSTER", "REPLICATE", first.command("CLUSTER", "MYID"))
        for server in self._servers:
            await _until(_knows_replicas, server, len(replicas))
        for replica in replicas:
            await _until(_follows, replica)

    def kill(self) -> None:
        """End all processes."""
        for server in self._servers:
            server.kill()

    async def replace_by_kill(self) -> None:
        """Kill the server with chatd's slot, and start it when a replica has taken over."""
        former = self._owners[0]
        former.kill()
        await self._until_replaced()
        await trio.to_thread.run_sync(former.start)
        await _until(_follows, former)

    async def replace_by_command(self) -> None:
        """Let a replica take over as an administrator does, while all servers run."""
        former, heir, *_ = self._owners
        heir.command("CLUSTER", "FAILOVER")
        await self._until_replaced()
        await _until(_follows, former)

    async def _until_replaced(self) -> None:
        """Wait until a replica has the slot; it is the first of the owners then."""
        former, *replicas = self._owners
        await _until(lambda: any(map(_leads, replicas)))
        self._owners = [*sorted(replicas, key=_leads, reverse=True), former]


async def _until(true: Callable[..., bool], *arguments: object) -> None:
    with trio.fail_after(SECONDS):
        while not await trio.to_thread.run_sync(true, *arguments):  # noqa: ASYNC110  as said above
            await trio.sleep(PAUSE_SECONDS)


def _says(server: RedisServer, *facts: str) -> bool:
    told = server.command("CLUSTER", "INFO").splitlines()
    return all(fact in told for fact in facts)


def _knows_replicas(server: RedisServer, number: int) -> bool:
    return server.command("CLUSTER", "NODES").count("slave ") == number


def _follows(server: RedisServer) -> bool:
    return "master_link_status:up" in server.command("INFO", "replication")


def _leads(server: RedisServer) -> bool:
    return "role:master" in server.command("INFO", "replication")
