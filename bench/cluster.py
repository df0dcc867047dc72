"""Measure two servers that share one Redis: their CPU time for one message, chatd's and its peer's.

Each round starts a Redis with an append-only file and two servers on it, for each kind of server in
turn, and one chatd on SQLite. The servers and Redis are on one core, the load is on another.
README.md explains the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from fanout import SPARE_DESCRIPTORS, allow_descriptors, cores
from receivers import Phase, cpu_ns
from results import as_json, results
from servers import (
    BENCH,
    Running,
    Server,
    ServerError,
    cache_folder,
    chatd,
    node,
    pinned,
    running,
    versions,
)

PEER = "node-redis"
OURS = "chatd-redis"
ALONE = "chatd-sqlite"

NODES = 2
LOAD_SPARE_SECONDS = 90.0  # for connecting, on a machine that has other work
REDIS_SECONDS = 10.0
MESSAGE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Scenario:
    """How many clients each node has, and how many messages are in flight in each phase."""

    clients: int
    in_flight: tuple[int, ...]


SCENARIOS = (Scenario(1, (1,)), Scenario(10, (1, 64)), Scenario(50, (64,)), Scenario(100, (1,)))


@contextlib.contextmanager
def redis(core: int | None) -> Iterator[tuple[int, Path]]:
    """Run a redis-server; yield its pid and its socket."""
    program = shutil.which("redis-server")
    if program is None:
        raise ServerError("redis-server is not installed (Debian: apt install redis-server)")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="redis-") as folder:
        path = Path(folder) / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(path), "--dir", folder, "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "everysec"]
        with pinned(core):
            process = subprocess.Popen(
                [program, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        try:
            deadline = time.monotonic() + REDIS_SECONDS
            while not path.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError("redis-server did not start")
                time.sleep(0.02)
            yield process.pid, path
        finally:
            process.kill()
            process.wait()


def servers_on(kind: str, path: Path) -> list[Server]:
    """Return the servers of a kind that share the Redis at ``path``."""
    if kind == PEER:

        def command(port: int, folder: Path) -> list[str]:
            return [*node("socketio-redis-server.mjs")(port, folder), str(path)]

        return [Server(PEER, "socketio", command)] * NODES
    store = ('history.store="redis"', f'history.url="unix:{path}"')
    if kind == ALONE:
        return [Server(ALONE, "socketio-chat", chatd("log.messages=false"))]
    return [Server(OURS, "socketio-chat", chatd("log.messages=false", *store))] * NODES


@contextlib.contextmanager
def cluster(kind: str, core: int | None) -> Iterator[tuple[list[Running], int, str]]:
    """Run the servers of a kind on a Redis; yield them, Redis' pid, and the clients' dialect."""
    with contextlib.ExitStack() as stack:
        pid, path = stack.enter_context(redis(core))
        servers = servers_on(kind, path)
        handles = [stack.enter_context(running(server, core)) for server in servers]
        yield handles, pid, servers[0].dialect


def load(
    kind: str, scenario: Scenario, core: int | None, load_core: int | None, seconds: float
) -> list[Phase]:
    """Run the load of a scenario once; return one phase for each number in flight."""
    with cluster(kind, core) as (handles, beside, dialect):
        command = [sys.executable, str(BENCH / "receivers.py"), "--dialect", dialect]
        command += ["--port", *(str(handle.port) for handle in handles)]
        command += ["--pid", *(str(handle.pid) for handle in handles), "--beside", str(beside)]
        command += ["--receivers", str(NODES * scenario.clients), "--bytes", str(MESSAGE_BYTES)]
        command += ["--warm-up", str(seconds / 2), "--seconds", str(seconds)]
        command += ["--in-flight", *map(str, scenario.in_flight)]
        limit = LOAD_SPARE_SECONDS + len(scenario.in_flight) * 1.5 * seconds
        try:
            with pinned(load_core):
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=limit, check=False
                )
        except subprocess.TimeoutExpired:
            raise ServerError(f"{kind}: the load did not finish within {limit:g} s") from None
        if done.returncode:
            words = "\n".join(handle.last_lines() for handle in handles)
            raise ServerError(f"{kind}: the run is void\n{done.stderr.strip()}\n{words}")
        return [Phase(**phase) for phase in json.loads(done.stdout)]


def wake_ups(pids: Sequence[int]) -> int:
    """Return how often the threads of processes have waited: their voluntary context switches."""
    return sum(
        int(line.split()[1])
        for pid in pids
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text(encoding="utf-8").splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    )


def idle(core: int | None, seconds: float) -> str:
    """Return what two nodes and Redis cost without clients, as a sentence.

    What a wake-up costs depends on the machine, and most of all on a virtual one, so they are
    counted too.
    """
    with cluster(OURS, core) as (handles, beside, _):
        time.sleep(2)  # what follows a start
        pids = [handle.pid for handle in handles]
        nodes, store, woken = cpu_ns(pids), cpu_ns([beside]), wake_ups(pids)
        began = time.monotonic()
        time.sleep(seconds)
        elapsed = time.monotonic() - began
        each = (cpu_ns(pids) - nodes) / len(pids) / elapsed / 1e7
        rate = (wake_ups(pids) - woken) / len(pids) / elapsed
        used = (cpu_ns([beside]) - store) / elapsed / 1e7
    return (
        f"idle for {elapsed:.0f} s: {each:.2f} % of a core a node, with {rate:.1f} wake-ups a "
        f"second; {used:.2f} % for Redis"
    )


def table(found: dict[tuple[Scenario, int], dict[str, list[Phase]]]) -> str:
    lines = [
        f"{'':34}{'CPU, µs a message':>26}{'ratio to':>12}{'Redis, µs':>11}{'latency, ms':>18}",
    ]
    words = f"{'clients, in flight':18}{'servers':16}{'min':>8}{'median':>9}{'max':>9}{PEER:>12}"
    lines.append(f"{words}{'a message':>11}{'p50':>9}{'p99':>9}")
    for (scenario, in_flight), by_kind in found.items():
        lines.append("")
        for kind, phases in by_kind.items():
            costs = [phase.server_cpu_ns / phase.messages / 1000 for phase in phases]
            peers = by_kind.get(PEER, [])
            paired = [
                own / (peer.server_cpu_ns / peer.messages / 1000)
                for own, peer in zip(costs, peers, strict=False)
            ]
            ratio = f"{median(paired):.2f}" if paired else "-"
            beside = median(phase.beside_cpu_ns / phase.messages / 1000 for phase in phases)
            where = f"2 x {scenario.clients}, {in_flight}"
            lines.append(
                f"{where:18}{kind:16}{min(costs):8.0f}{median(costs):9.0f}{max(costs):9.0f}"
                f"{ratio:>12}{beside:11.0f}"
                f"{median(phase.p50_us for phase in phases) / 1000:9.2f}"
                f"{median(phase.p99_us for phase in phases) / 1000:9.2f}"
            )
    return "\n".join(lines)


def written(found: dict[tuple[Scenario, int], dict[str, list[Phase]]]) -> str:
    """Return the costs as JSON."""
    listed = []
    for (scenario, in_flight), by_kind in found.items():
        costs = {
            kind: [phase.server_cpu_ns / phase.messages / 1000 for phase in phases]
            for kind, phases in by_kind.items()
        }
        busy = {kind: [phase.load_busy for phase in phases] for kind, phases in by_kind.items()}
        shape = f"{NODES} nodes, {scenario.clients} clients at each, {in_flight} in flight"
        listed += results(shape, "µs a message", costs, [PEER], busy)
    return as_json(listed)


def setting(rounds: int, seconds: float) -> str:
    pins = versions()
    adapter = "@socket.io/redis-streams-adapter"
    return (
        f"{NODES} nodes; socket.io {pins['socket.io']}, {adapter} {pins[adapter]}, "
        f"redis {pins['redis']}\n{rounds} rounds of {seconds:g} s; {MESSAGE_BYTES} bytes of text"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure two servers that share one Redis.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measured phase")
    parser.add_argument("--idle", type=float, default=20, help="seconds without clients; 0: none")
    parser.add_argument("--kinds", nargs="+", choices=[PEER, OURS, ALONE], default=[PEER, OURS])
    parser.add_argument("--json", action="store_true", help="print the costs as JSON")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    core, load_core = cores()
    found: dict[tuple[Scenario, int], dict[str, list[Phase]]] = defaultdict(
        lambda: defaultdict(list)
    )
    try:
        allow_descriptors(NODES * max(each.clients for each in SCENARIOS) + SPARE_DESCRIPTORS)
        if not arguments.json:
            print(setting(arguments.rounds, arguments.seconds))
        for number in range(arguments.rounds):
            for scenario in SCENARIOS:
                for kind in arguments.kinds:
                    phases = load(kind, scenario, core, load_core, arguments.seconds)
                    for phase in phases:
                        found[scenario, phase.in_flight][kind].append(phase)
            print(f"round {number + 1}", file=sys.stderr)
        if arguments.json:
            print(written(found))
            return 0
        print(table(found))
        if arguments.idle:
            print(idle(core, arguments.idle))
    except ServerError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
