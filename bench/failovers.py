"""Failovers of Redis under clients that move from daemon to daemon: what `cluster_faults.py` runs.

There is a redis-server, a Sentinel and a daemon on each of three machines. The machines are network
namespaces if the primary server is to be cut off.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import trio
from msgspec import Struct, field

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machines import Network, open_network

from tests.e2e.chatd_process import CHATD, ChatdStarter
from tests.e2e.cluster import Balancer, Cluster, Fault, commits_again, live_through
from tests.e2e.roamers import JsonRoamer, Log, Roamer, WebSocketPipe
from tests.e2e.sentinels import Sentinels
from tests.redis_server import HERE, Machine, RedisServer

__all__ = ["run_failovers"]

MACHINES: Final = 3
FAILOVER_SECONDS: Final = 2.0
"""How long after a server counts as down the daemons must acknowledge messages again."""

PING_SECONDS: Final = 1.0
"""How often Sentinels look after a server: the end of a process is noticed at once, but silence
only from the next time on."""

CUT_SECONDS: Final = 3.0
"""How much longer than until the failover a machine is cut off."""

IN_FLIGHT_SECONDS: Final = 0.2
"""After it is cut off, a server may still answer what the replicas confirmed before."""

WHOLE_SECONDS: Final = 60  # ends a hang


class Spread(Cluster):
    """A daemon on each machine, which clients reach on this one."""

    def __init__(
        self,
        folder: Path,
        start: ChatdStarter,
        nursery: trio.Nursery,
        machines: Sequence[Machine],
    ) -> None:
        super().__init__(folder, start, nursery)
        self._machines = machines

    def port_on(self, host: str) -> int:
        """Return the port of the daemon on a machine."""
        return next(
            port
            for port, machine in zip(self.ports, self._machines, strict=True)
            if machine.host == host
        )

    def store_of(self, port: int) -> str:
        """Return what a daemon has logged about the store."""
        lines = [line for line in self.daemons[port].lines if line["event"] == "store"]
        return "\n".join(map(json.dumps, lines))

    async def start(self, port: int, program: Sequence[str] = CHATD) -> None:
        machine = self._machines[self.ports.index(port)]
        path = self._folder / f"daemon{port}"
        self.daemons[port] = await self._start(
            self.settings_of(port),
            port=port,
            listen=[f"unix:{path}"],
            wrapper=machine.wrapper,
            program=program,
        )
        if machine.wrapper:
            await self._nursery.start(Balancer(path, port=port).run)


# ---- clients


class _Stay(Struct):
    """What a client heard in one stretch, up to where it could not resume."""

    epoch: str
    heard: list[tuple[int, str]] = field(default_factory=list)
    bye: int | None = None
    """The code with which a daemon ended its last connection."""


class LosingRoamer(JsonRoamer):
    """A client of ``chatd.v1`` that lives through losses.

    Attributes:
        stays: What it heard: a new one begins where the log had lost something that it knew.
        lost_said: How many messages were lost that had been acknowledged to it.
        lost_heard: How many messages were lost that it had heard.
    """

    def __init__(self, name: str, ports: Sequence[int]) -> None:
        super().__init__(name, ports)
        self.stays: list[_Stay] = []
        self.lost_said = self.lost_heard = 0

    def _joined(self, joined: dict[str, Any]) -> None:
        if not self.stays or not joined["recovered"]:
            self.stays.append(_Stay(joined["epoch"]))
            self.heard = self.stays[-1].heard
        self.stays[-1].bye = None
        super()._joined(joined)
        self.stays[-1].epoch = joined["epoch"]

    def _told(self, event: dict[str, Any]) -> None:
        if self.stays and event["on"] == "epoch":
            self.stays[-1].epoch = event["epoch"]
        if self.stays and event["on"] == "bye":
            self.stays[-1].bye = event["code"]
        super()._told(event)

    def check(self, log: Log) -> None:
        """Fail unless it was told of each loss, and has heard all of the log since the last one."""
        self.lost_said = sum(log.get(seq) != text for text, seq in self.said.items())
        for stay, after in itertools.pairwise(self.stays):
            lost = [(seq, text) for seq, text in stay.heard if log.get(seq) != text]
            if lost:
                assert lost == stay.heard[-len(lost) :], f"{self.name}: lost in the middle: {lost}"
                assert stay.epoch != after.epoch, f"{self.name}: a loss under the same epoch"
                assert stay.bye in (None, 1001), f"{self.name}: a loss, and {stay.bye}"
                self.lost_heard += len(lost)
        first = self.heard[0][0]
        assert self.heard == [one for one in sorted(log.items()) if one[0] >= first], self.name


class Witness:
    """A client that stays at one daemon as long as it is let.

    Attributes:
        acknowledged: When it was acknowledged something, on Trio's clock.
        heard: When it heard a message.
        bye: The code with which the daemon ended the connection.
    """

    def __init__(self, port: int) -> None:
        self.acknowledged: list[float] = []
        self.heard: list[float] = []
        self.bye: int | None = None
        self._port = port

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with WebSocketPipe.open(self._port, "/ws?nick=witness", ["chatd.v1"]) as pipe:
            await pipe.send(json.dumps({"do": "join", "id": 0, "room": "lobby"}))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._say, pipe)
                while self.bye is None:
                    frame = json.loads(await pipe.receive())
                    if frame.get("re") == 0:
                        task_status.started()
                    elif "ok" in frame:
                        self.acknowledged.append(trio.current_time())
                    elif frame.get("on") == "message":
                        self.heard.append(trio.current_time())
                    elif frame.get("on") == "bye":
                        self.bye = frame["code"]
                nursery.cancel_scope.cancel()

    async def _say(self, pipe: WebSocketPipe) -> None:
        for number in itertools.count(1):
            text = f"witness {number} {time.time()}"
            say = {"do": "say", "id": number, "room": "lobby", "text": text, "key": text}
            await pipe.send(json.dumps(say))
            await trio.sleep(0.05)


# ---- failovers


class Failovers:
    """What can happen to the primary server.

    Attributes:
        seconds: For each kind of failover, how long it took each time until all daemons that can
            reach the next primary server acknowledged messages again.
    """

    def __init__(
        self, cluster: Spread, servers: Sentinels, network: Network | None, replicas: int
    ) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._cluster = cluster
        self._servers = servers
        self._network = network
        self._replicas = replicas

    async def kill(self) -> None:
        """Kill the primary server, and start it again after the failover."""
        former = await self._servers.primary()
        former.kill()
        await self._await_failover("killed", former, self._cluster.ports)
        await trio.to_thread.run_sync(former.start)
        await self._await_replicas()

    async def stop(self) -> None:
        """Stop the primary server, and let it go on after the failover, as the primary it was."""
        former = await self._servers.primary()
        former.stop()
        await self._await_failover("stopped", former, self._cluster.ports)
        former.go_on()
        await self._await_replicas()

    async def cut_off(self) -> None:
        """Cut the primary server and its daemon off from all others, until after the failover."""
        assert self._network is not None
        former = await self._servers.primary()
        port = self._cluster.port_on(former.host)
        witness = Witness(port)
        async with trio.open_nursery() as nursery:
            await nursery.start(witness.run)
            cut = trio.current_time()
            self._network.cut_off(former.host)
            others = [one for one in self._cluster.ports if one != port]
            await self._await_failover("cut off", former, others)
            await trio.sleep(CUT_SECONDS)
            healed = trio.current_time()
            self._network.connect(former.host)
            await self._await_replicas()
            await commits_again([port])
            nursery.cancel_scope.cancel()
        since = cut + IN_FLIGHT_SECONDS
        wrong = [
            when - cut for when in (*witness.acknowledged, *witness.heard) if since < when < healed
        ]
        if self._replicas:
            assert not wrong, f"cut off, and acknowledged or shown after {wrong} s"
            assert witness.bye is None, (
                f"closed with {witness.bye}:\n{self._cluster.store_of(port)}"
            )
        else:
            assert wrong, "cut off, and nothing was lost: the test says nothing"
            assert witness.bye == 1001, f"lost {len(wrong)}, and not told: {witness.bye}"

    async def _await_failover(self, kind: str, former: RedisServer, ports: Sequence[int]) -> None:
        self.seconds.setdefault(kind, []).append(await commits_again(ports))
        await self._servers.primary(besides=former)

    async def _await_replicas(self) -> None:
        """Wait until the primary server has all others as replicas."""
        with trio.fail_after(WHOLE_SECONDS):
            while True:
                primary = await self._servers.primary()
                facts = await trio.to_thread.run_sync(primary.command, "INFO", "replication")
                if facts.count("state=online") == MACHINES - 1 and "role:master" in facts:
                    return
                await trio.sleep(0.1)


async def run_failovers(count: int, replicas: int, down_after: float, *, isolate: bool) -> str:
    """Play some failovers; return what happened, as a sentence.

    Args:
        count: How many.
        replicas: The value of ``history.replicas``.
        down_after: After how many seconds Sentinels take a server for down.
        isolate: Whether each machine is a network namespace, and every second failover is because
            the primary server's is cut off.
    """
    began = time.monotonic()
    networked: AbstractContextManager[Network | None] = (
        open_network(MACHINES) if isolate else nullcontext()
    )
    with tempfile.TemporaryDirectory() as name, networked as network:
        folder = Path(name)
        machines = [HERE] * MACHINES if network is None else network.machines
        servers = Sentinels(folder, machines, down_after_ms=round(down_after * 1000))
        async with trio.open_nursery() as nursery:
            starter = ChatdStarter(folder, nursery)
            cluster = Spread(folder, starter, nursery, machines)
            failovers = Failovers(cluster, servers, network, replicas)
            kinds: list[Callable[[], Awaitable[None]]] = [failovers.kill, failovers.stop]
            if isolate:
                kinds = [failovers.cut_off, failovers.kill, failovers.cut_off, failovers.stop]
            faults: list[Fault] = list(itertools.islice(itertools.cycle(kinds), count))
            try:
                await servers.start()
                await cluster.open_at(
                    *(servers.url, MACHINES),
                    history__replicas=replicas,
                    cluster__patience_seconds=3600,  # so that 1001 can only mean a loss
                )
                if replicas:
                    roamers = await live_through(cluster, faults, calm_seconds=1.5)
                else:
                    losing = [LosingRoamer] * 4
                    roamers = await live_through(cluster, faults, calm_seconds=1.5, kinds=losing)
            finally:
                servers.kill()
                await starter.aclose()
                nursery.cancel_scope.cancel()
    times = "; ".join(
        f"{kind} {len(seconds)} times: {min(seconds):.2f} to {max(seconds):.2f} s"
        for kind, seconds in failovers.seconds.items()
    )
    told = (
        f"{count} failovers in {time.monotonic() - began:.0f} s; a server counts as down after "
        f"{down_after:g} s, and until all daemons commit again it takes, with the primary server "
        f"{times}. {_losses(roamers)}"
    )
    for kind, seconds in failovers.seconds.items():
        most = down_after + FAILOVER_SECONDS + PING_SECONDS * (kind != "killed")
        if max(seconds) > most:
            raise SystemExit(f"{told}. Too slow: {kind}, it may take {most:g} s")
    return told


def _losses(roamers: Sequence[Roamer]) -> str:
    said = sum(len(roamer.said) for roamer in roamers)
    losing = [roamer for roamer in roamers if isinstance(roamer, LosingRoamer)]
    if not losing:
        return (
            f"{said} messages acknowledged, and each of {len(roamers)} clients got all of them "
            "once, in one order"
        )
    lost_said, lost_heard = (
        sum(counts)
        for counts in zip(*((one.lost_said, one.lost_heard) for one in losing), strict=True)
    )
    return (
        f"{lost_said} of {said} acknowledged messages were lost, and {lost_heard} that one of "
        f"{len(losing)} clients had heard, each time with a new epoch; all that was said later "
        "came to all"
    )
