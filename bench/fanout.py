"""Measure fan-out: the server's CPU time for one delivery, of chatd and its peers in one run.

Each round starts every server in turn (A B C A B C …) as a fresh process on a core of its own,
connects the receivers from another process on another core, warms up, and reads the server's CPU
clock (user and system) around the measured phases. README.md explains the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from receivers import Phase
from results import Figures
from servers import (
    BENCH,
    PEERS,
    SERVERS,
    Running,
    Server,
    ServerError,
    pinned,
    running,
    versions,
)

SPARE_DESCRIPTORS = 200  # beyond the receivers' own: for libraries, logs and the server's reserve
LOAD_SPARE_SECONDS = 30.0  # for connecting, and for the messages in flight when a phase ends


@dataclass(frozen=True, slots=True)
class Plan:
    servers: list[Server]
    bases: list[str]
    receivers: int
    bytes: int
    in_flight: list[int]
    rounds: int
    warm_up: float
    seconds: float
    budget: float
    json: bool


def cores() -> tuple[int | None, int | None]:
    """Return a core for the server and one for the load, or None for both on a single core."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else (None, None)


def allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count > hard:
        raise ServerError(f"{count} descriptors are needed and the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def load(plan: Plan, server: Server, handle: Running, core: int | None) -> list[Phase]:
    """Run the load against one server and return one phase for each number in flight."""
    command = [sys.executable, str(BENCH / "receivers.py")]
    command += ["--port", str(handle.port), "--pid", str(handle.pid), "--dialect", server.dialect]
    command += ["--receivers", str(plan.receivers), "--bytes", str(plan.bytes)]
    command += ["--warm-up", str(plan.warm_up), "--seconds", str(plan.seconds)]
    command += ["--in-flight", *map(str, plan.in_flight)]
    limit = LOAD_SPARE_SECONDS + len(plan.in_flight) * (plan.warm_up + plan.seconds)
    with pinned(core):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    try:
        output, complaint = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        words = f"the load did not finish within {limit:g} s\n{handle.last_lines()}"
        raise ServerError(f"{server.name}: the run is void\n{words}") from None
    finally:
        process.kill()  # has no effect on an ended process
    if process.returncode:
        words = f"{complaint.strip()}\n{handle.last_lines()}".strip()
        raise ServerError(f"{server.name}: the run is void\n{words}")
    return [Phase(**phase) for phase in json.loads(output)]


def measure(plan: Plan) -> list[dict[str, list[Phase]]]:
    """Return the phases of each server, one dict for each round."""
    server_core, load_core = cores()
    started = time.monotonic()
    rounds: list[dict[str, list[Phase]]] = []
    longest = 0.0
    while len(rounds) < plan.rounds:
        if rounds and time.monotonic() - started + longest > plan.budget:
            print(
                f"{len(rounds)} of {plan.rounds} rounds fitted into {plan.budget:g} s.",
                file=sys.stderr,
            )
            break
        round_started = time.monotonic()
        found: dict[str, list[Phase]] = {}
        for server in plan.servers:
            with running(server, server_core) as handle:
                found[server.name] = load(plan, server, handle, load_core)
        rounds.append(found)
        longest = max(longest, time.monotonic() - round_started)
        print(f"round {len(rounds)}: {time.monotonic() - round_started:.1f} s", file=sys.stderr)
    return rounds


def cost(phase: Phase) -> float:
    """Return the server's CPU time for one delivery in microseconds."""
    return phase.server_cpu_ns / phase.deliveries / 1000


def column(base: str, words: str) -> str:
    return f"  {words:>{max(len(base), 8)}}"


def heads(bases: list[str]) -> tuple[str, str]:
    over = f"{'':20}{'server CPU, µs a delivery':>26}"
    over += "".join(column(base, "ratio to") for base in bases)
    over += f"{'of it':>8}{'messages':>10}{'latency, ms':>18}{'busy, %':>14}"
    under = f"{'server':20}{'min':>8}{'median':>9}{'max':>9}"
    under += "".join(column(base, base) for base in bases)
    under += f"{'system':>8}"
    under += f"{'a second':>10}{'p50':>9}{'p99':>9}{'server':>8}{'load':>6}"
    return over, under


def table(plan: Plan, rounds: list[dict[str, list[Phase]]]) -> str:
    lines = []
    for index, in_flight in enumerate(plan.in_flight):
        lines += ["", f"{in_flight} in flight, {plan.receivers} receivers", *heads(plan.bases)]
        phases: defaultdict[str, list[Phase]] = defaultdict(list)
        for found in rounds:
            for name, measured in found.items():
                phases[name].append(measured[index])
        for name, measured in phases.items():
            costs = [cost(phase) for phase in measured]
            ratios = ""
            for base in plan.bases:
                pairs = zip(costs, phases.get(base, []), strict=base in phases)
                paired = [own / cost(peer) for own, peer in pairs]
                ratios += column(base, f"{median(paired):.2f}" if paired else "-")
            busy = median(phase.server_cpu_ns / phase.seconds / 1e7 for phase in measured)
            load_busy = 100 * median(phase.load_busy for phase in measured)
            lines.append(
                f"{name:20}{min(costs):8.3f}{median(costs):9.3f}{max(costs):9.3f}{ratios}"
                f"{median(phase.server_system_share for phase in measured):8.0%}"
                f"{median(phase.messages / phase.seconds for phase in measured):10.0f}"
                f"{median(phase.p50_us for phase in measured) / 1000:9.2f}"
                f"{median(phase.p99_us for phase in measured) / 1000:9.2f}"
                f"{busy:8.0f}{load_busy:6.0f}"
            )
            others = sum(phase.other_frames for phase in measured)
            if others:
                lines.append(f"{'':20}{others} other frames arrived during the measurement")
    deliveries = sum(p.deliveries for found in rounds for each in found.values() for p in each)
    lines += ["", f"{deliveries} deliveries measured: each arrived once, in order and unchanged."]
    return "\n".join(lines)


def figures(plan: Plan, rounds: list[dict[str, list[Phase]]]) -> Figures:
    """Return the cost of a delivery in each phase."""
    found = Figures()
    for index, in_flight in enumerate(plan.in_flight):
        shape = f"fan-out to {plan.receivers}, {in_flight} in flight"
        for each in rounds:
            for name, phases in each.items():
                phase = phases[index]
                found.add(shape, "µs a delivery", name, cost(phase), phase.load_busy)
    return found


def setting(plan: Plan) -> str:
    server_core, load_core = cores()
    where = "nothing pinned, because there is only one core"
    if server_core is not None:
        where = f"server on core {server_core}, load on core {load_core}"
    node = shutil.which("node")
    interpreters = f"Python {platform.python_version()}, no Node"
    if node is not None:
        asked = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
        interpreters = f"Python {platform.python_version()}, Node {asked.stdout.strip()}"
    version = versions()
    packages = [name for server in plan.servers for name in server.packages]
    peers = ", ".join(f"{name} {version[name]}" for name in packages) or "no peers"
    return (
        f"{interpreters}; {peers}; {where}\n"
        f"{plan.rounds} rounds; for each phase {plan.warm_up:g} s warm-up, {plan.seconds:g} s "
        f"measured; {plan.bytes} bytes of text"
    )


def checkout_named(argument: str) -> tuple[str, Path]:
    name, _, folder = argument.partition("=")
    return name, Path(folder).resolve(strict=True)


def arguments() -> Plan:
    parser = argparse.ArgumentParser(description="Measure the server's CPU time for one delivery.")
    parser.add_argument(
        "--protocol",
        choices=PEERS,
        default="websocket",
        help="the servers to run, unless --servers names them",
    )
    parser.add_argument("--servers", nargs="+", choices=SERVERS)
    parser.add_argument("--base", nargs="+", default=[], help="the servers that ratios are to")
    parser.add_argument(
        "--receivers", type=int, default=500, help="how many; the sender is one of them"
    )
    parser.add_argument(
        "--checkout",
        action="append",
        default=[],
        type=checkout_named,
        metavar="NAME=FOLDER",
        help="run another checkout's chatd too, as chatd-on@NAME and so on",
    )
    parser.add_argument("--bytes", type=int, default=64, help="of a message's text (at least 9)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=float, default=0.6, help="seconds before each phase")
    parser.add_argument("--seconds", type=float, default=1.2, help="of each measured phase")
    parser.add_argument(
        "--budget",
        type=float,
        default=120,
        help="seconds; a round that would exceed them does not start",
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 short rounds, to see whether it works"
    )
    parser.add_argument("--json", action="store_true", help="print the costs as JSON")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.warm_up, given.seconds = 2, 0.2, 0.4
    if given.bytes < 9 or min(given.receivers, given.rounds, *given.in_flight) < 1:
        parser.error("--bytes must be at least 9; --receivers, --rounds and --in-flight at least 1")
    of_protocol = [name for name, server in SERVERS.items() if server.protocol == given.protocol]
    servers: list[Server] = []
    for server in (SERVERS[name] for name in given.servers or of_protocol):
        servers.append(server)
        if server.ours:
            for name, checkout in given.checkout:
                servers.append(replace(server, name=f"{server.name}@{name}", checkout=checkout))
    if unknown := set(given.base) - {server.name for server in servers}:
        parser.error(f"--base: {', '.join(unknown)} is not among the servers of this run")
    return Plan(
        servers=servers,
        bases=given.base or PEERS[given.protocol],
        receivers=given.receivers,
        bytes=given.bytes,
        in_flight=given.in_flight,
        rounds=given.rounds,
        warm_up=given.warm_up,
        seconds=given.seconds,
        budget=given.budget,
        json=given.json,
    )


def main() -> int:
    plan = arguments()
    # A terminated run (a time limit in CI) leaves no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        allow_descriptors(plan.receivers + SPARE_DESCRIPTORS)
        if plan.json:
            figures(plan, measure(plan)).print(plan.bases, json=True)
        else:
            print(setting(plan))
            print(table(plan, measure(plan)))
    except ServerError as error:
        print(f"fanout: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
