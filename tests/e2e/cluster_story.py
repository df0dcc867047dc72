"""The promises of docs/cluster.md, tried on four machines: ``python -m tests.e2e.cluster_story``.

Each machine is a booted system. The first has haproxy; the others have a node, a Redis server and a
Sentinel each. They are set up with the commands of docs/cluster.md, and a chat is moved to them.
Then all goes wrong that the page speaks of, while clients talk without a pause. At the end the chat
is moved back to one machine. The program prints a line for each step that succeeds and ends at the
first that fails. docs/cluster.md contains these lines.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.e2e.sandbox import (
    ROOT,
    Sandbox,
    SandboxError,
    WheelsError,
    fetch_packages,
    why_not,
    with_version,
)
from tests.e2e.service import (
    Parts,
    Steady,
    apt_install,
    booted,
    client,
    configure,
    copy_examples,
    program,
    run_documented,
    steady,
)

__all__ = ["Machines", "booted_machines", "story"]

PAGE: Final = ROOT / "docs" / "cluster.md"

FRONT: Final = "192.0.2.10"
NODES: Final = {"chat1": "192.0.2.11", "chat2": "192.0.2.12", "chat3": "192.0.2.13"}

PASSWORDS: Final = {
    "PASSWORD": "of-the-nodes",
    "ADMIN_PASSWORD": "of-the-administrator",
    "REPLICA_PASSWORD": "of-the-replicas",
}
FORMER: Final = {"ann": "hello from SQLite", "bob": "hello from here too"}
"""What is said before the chat moves to Redis."""
MOVE: Final = "## Moving a chat to Redis and back"
REDIS_FOLDER: Final = "/var/lib/redis"

DOWN_AFTER_SECONDS: Final = 5  # sentinel.conf.example
MOST_SECONDS: Final = 10  # for a message, on a busy machine
SECONDS: Final = 60  # ends a hang


class Node(NamedTuple):
    """A machine with a node, a Redis server and a Sentinel."""

    host: str
    address: str
    machine: Sandbox


class Machines:
    """The machine with haproxy, and those with nodes."""

    def __init__(self, front: Sandbox, nodes: Sequence[Node]) -> None:
        self.front: Final = front
        self.nodes: Final = list(nodes)

    def each(self, do: Callable[[Node], object]) -> None:
        """Do something on all machines with nodes at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(do, self.nodes))


@contextmanager
def booted_machines() -> Iterator[Machines]:
    """Boot the machines, on one network, and install Debian's packages.

    Raises:
        SandboxError: The packages cannot be fetched.
    """
    with ExitStack() as stack:
        front = stack.enter_context(booted("front"))
        nodes = [
            Node(host, address, stack.enter_context(booted(host)))
            for host, address in NODES.items()
        ]
        front.open_network(f"{FRONT}/24")
        for node in nodes:
            front.connect(node.machine, node.host, f"{node.address}/24")
        balancer = fetch_packages(front, "haproxy")
        servers = fetch_packages(front, "redis-server", "redis-sentinel")
        machines = Machines(front, nodes)
        front.install_files(balancer)
        machines.each(lambda node: node.machine.install_files(servers))
        yield machines


def story(machines: Machines, package: Path) -> Iterator[str]:
    """Run all steps on machines without chatd; yield a line for each step that succeeds."""
    yield set_up(machines, package)
    yield moved_to_redis(machines)
    yield chat(machines)
    with steady(machines.front, FRONT, "80", "0.02") as clients:
        yield upgrade(machines, with_version(package, "0.1.1"), clients)
        yield engine_killed(machines, clients)
        yield failed_over(machines, clients)
        yield password_changed(machines, clients)
        yield disk_full(machines, clients)
        yield machine_gone(machines, clients)
        # Last, because nodes look at Redis' configuration every 30 s.
        yield evicting(machines, clients)
        clients.end()
        yield nothing_lost(clients)
    yield moved_back(machines, clients)


# ---- the machines


def run_everywhere(machines: Machines, heading: str, block: int = 0, **variables: str) -> None:
    """Run a block of commands below a heading of docs/cluster.md on all machines with nodes."""

    def run(node: Node) -> None:
        words = {"NAME": "chat.example.org", "ADDRESS": node.address, **PASSWORDS, **variables}
        run_documented(node.machine, PAGE, heading, block, **words)

    machines.each(run)


def redis(node: Node, *words: str) -> str:
    """Return the answer of a Redis server to an administrator."""
    login = ("env", f"REDISCLI_AUTH={PASSWORDS['ADMIN_PASSWORD']}")
    return node.machine.run(*login, "redis-cli", *words).strip()


def primary(machines: Machines) -> Node:
    """Return the node with the primary Redis server, by what the Sentinels say."""
    ask = ("redis-cli", "-p", "26379", "sentinel", "get-master-addr-by-name", "chatd")
    address = machines.nodes[0].machine.run(*ask).split()[0]
    (found,) = (node for node in machines.nodes if node.address == address)
    return found


def listed(node: Node) -> list[dict[str, Any]]:
    """Return what ``chatd ctl nodes`` lists."""
    answer = json.loads(node.machine.run("chatd", "ctl", "--json", "nodes"))
    nodes: list[dict[str, Any]] = answer["nodes"]
    return nodes


def failure(node: Node) -> str:
    """Return why a node could not use Redis the last time."""
    return node.machine.journal("CHATD_STATE=failed")[-1]["CHATD_DETAIL"]


def until_ready(machines: Machines, status: int = 200) -> None:
    """Wait until all nodes answer ``/readyz`` so."""

    def wait(node: Node) -> None:
        node.machine.client(*program("until_ready", "3000", str(status), node.address))

    machines.each(wait)


def until_replicated(machines: Machines) -> None:
    """Wait until the primary Redis server has both replicas, which nothing signals."""
    login = f"REDISCLI_AUTH={PASSWORDS['ADMIN_PASSWORD']}"
    both = f"{login} redis-cli info replication | grep -c state=online"
    waiting = f"until [ $({both}) = 2 ]; do sleep 0.2; done"
    primary(machines).machine.run("timeout", str(SECONDS), "sh", "-c", waiting)


# ---- from nothing to a chat


def set_up(machines: Machines, package: Path) -> str:
    begun = time.monotonic()

    def prepare(node: Node) -> None:
        # A small disk, to be filled later.
        small = ("-t", "tmpfs", "-o", "size=64m,mode=0750", "tmpfs", REDIS_FOLDER)
        node.machine.run("mount", *small)
        node.machine.run("chown", "redis:redis", REDIS_FOLDER)
        node.machine.run("hostnamectl", "hostname", node.host)
        apt_install(node.machine, package)
        copy_examples(node.machine)

    machines.each(prepare)
    for heading in ("### Redis", "### Replicas and Sentinel"):
        run_everywhere(machines, heading)
    copy_examples(machines.front)
    run_documented(machines.front, PAGE, "### The load balancer")
    seconds = time.monotonic() - begun
    return f"set-up: three machines with {package.name}, Redis and Sentinel: {seconds:.0f} s"


def moved_to_redis(machines: Machines) -> str:
    first = machines.nodes[0]
    for nick, text in FORMER.items():
        first.machine.client(*client(nick, text))

    def become_nodes() -> None:
        for heading in ("### Nodes", "#### Nodes with Sentinel"):
            run_everywhere(machines, heading)

    lines = move(machines, first, become_nodes)
    run_everywhere(machines, "#### Start a node")
    until_ready(machines)
    assert texts(first, "hall") == [*FORMER.values()]
    return f"from SQLite to Redis: {lines} lines moved; three nodes go on with them"


def moved_back(machines: Machines, clients: Steady) -> str:
    first = machines.nodes[0]

    def leave_redis() -> None:
        configure(first.machine, 'store = "sqlite"')
        first.machine.run("mv", "/var/lib/chatd/chatd.db", "/var/lib/chatd/former.db")

    lines = move(machines, first, leave_redis)
    first.machine.run("systemctl", "restart", "chatd")
    first.machine.client(*client("kim", "hello again", at=f"{first.address}:3000"))
    assert texts(first, "hall") == [*FORMER.values(), "hello from haproxy", "hello again"]
    assert len(texts(first, "lobby")) == clients.met["said"]
    return f"from Redis to SQLite: {lines} lines moved; one daemon goes on with them"


def move(machines: Machines, node: Node, choose_store: Callable[[], None]) -> int:
    """Move the chat to another store, at one node; return how many lines were moved."""
    apart = 'addresses = ["unix:/run/chatd/move.sock"]'
    machines.each(lambda each: each.machine.run("systemctl", "stop", "chatd"))
    configure(node.machine, apart)
    run_documented(node.machine, PAGE, MOVE, 0)
    choose_store()
    configure(node.machine, apart)
    told = run_documented(node.machine, PAGE, MOVE, 1)
    configure(node.machine, f'addresses = ["{node.address}:3000"]')
    moved = re.search(r"^(\d+) lines were imported\.$", told, re.MULTILINE)
    assert moved is not None, told
    return int(moved[1])


def texts(node: Node, room: str) -> list[str]:
    """Return the texts of a room's messages."""
    lines = map(json.loads, node.machine.run("chatd", "export", room).splitlines())
    return [line["text"] for line in lines if line["on"] == "message"]


def chat(machines: Machines) -> str:
    with ExitStack() as stack:
        listeners = []
        for node in machines.nodes:
            command = client(f"at{node.host}", at=f"{node.address}:3000")
            listener = stack.enter_context(machines.front.start_client(*command))
            assert listener.stdout is not None
            listener.stdout.readline()  # the greeting
            listeners.append(listener)
        # haproxy sends clients to a node once two of its checks, a second apart, have succeeded.
        machines.front.client(*program("until_ready", "80", "200", FRONT))
        machines.front.client(*client("eve", "hello from haproxy", at=FRONT))
        for listener in listeners:
            assert listener.stdout is not None
            while json.loads(listener.stdout.readline()) != "eve: hello from haproxy":
                pass
            listener.terminate()
    return "chat: a message by haproxy is received at all three nodes"


def upgrade(machines: Machines, package: Path, clients: Steady) -> str:
    for node in machines.nodes:
        apt_install(node.machine, package)
        until_ready(machines)
    slowest = clients.slowest()
    assert slowest < MOST_SECONDS
    return f"upgrade, one node after another: the slowest message took {slowest:.1f} s"


# ---- Redis


def engine_killed(machines: Machines, clients: Steady) -> str:
    node = primary(machines)
    node.machine.run("systemctl", "kill", "--signal=KILL", "redis-server")
    slowest = clients.slowest()
    assert primary(machines) is node
    return f"kill -9 of Redis, which systemd starts again: the slowest message took {slowest:.1f} s"


def failed_over(machines: Machines, clients: Steady) -> str:
    node = primary(machines)
    node.machine.run("systemctl", "stop", "redis-server")
    slowest = clients.slowest()
    node.machine.run("systemctl", "start", "redis-server")
    assert primary(machines) is not node
    assert DOWN_AFTER_SECONDS < slowest < DOWN_AFTER_SECONDS + MOST_SECONDS
    return f"failover to a replica: the slowest message took {slowest:.1f} s"


def password_changed(machines: Machines, clients: Steady) -> str:
    for block in range(3):  # both passwords in Redis, the new one in the nodes, the old one gone
        run_everywhere(machines, "### Passwords and certificates", block, NEW_PASSWORD="new")
    machines.each(lambda node: redis(node, "client", "kill", "user", "chatd"))
    slowest = clients.slowest()
    assert slowest < MOST_SECONDS
    return f"a new password, without a restart: the slowest message took {slowest:.1f} s"


def disk_full(machines: Machines, clients: Steady) -> str:
    until_replicated(machines)
    node = primary(machines)
    ballast = f"{REDIS_FOLDER}/ballast"
    node.machine.run("sh", "-c", f"! dd if=/dev/zero of={ballast} bs=64k 2>/dev/null")
    until_ready(machines, 503)
    slowest = clients.slowest()
    reasons = node.machine.journal("CHATD_EVENT=store")
    assert any("disk" in entry.get("CHATD_DETAIL", "") for entry in reasons)
    assert primary(machines) is not node
    node.machine.run("rm", ballast)
    assert slowest < DOWN_AFTER_SECONDS + MOST_SECONDS
    return (
        f"the disk of Redis full, failover to a replica: the slowest message took {slowest:.1f} s"
    )


def evicting(machines: Machines, clients: Steady) -> str:
    node = primary(machines)
    policy = ("config", "set", "maxmemory-policy")
    redis(node, *policy, "allkeys-lru")
    begun = time.monotonic()
    until_ready(machines, 503)
    noticed = time.monotonic() - begun
    assert "maxmemory-policy allkeys-lru" in failure(machines.nodes[0])
    redis(node, *policy, "noeviction")
    begun = time.monotonic()
    until_ready(machines)
    mended = time.monotonic() - begun
    clients.slowest()
    return (
        f"maxmemory-policy allkeys-lru: nothing is accepted after {noticed:.0f} s; noeviction "
        f"again: accepted after {mended:.1f} s"
    )


# ---- a machine


def machine_gone(machines: Machines, clients: Steady) -> str:
    """Pull the cable of the machine with the most clients, among those with a replica."""
    until_replicated(machines)
    first = primary(machines)
    loads = {node["host"]: node["clients"] or 0 for node in listed(first)}
    others = (node for node in machines.nodes if node is not first)
    gone = max(others, key=lambda node: loads[node.host])
    machines.front.disconnect(gone.host)
    machines.nodes.remove(gone)
    begun = time.monotonic()
    slowest = clients.slowest()
    # Nothing signals the end of a lease.
    waiting = f"while chatd ctl nodes | grep -q {gone.host}; do sleep 0.2; done"
    first.machine.run("timeout", str(SECONDS), "sh", "-c", waiting)
    seconds = time.monotonic() - begun
    return (
        f"a machine gone: the slowest message took {slowest:.1f} s; the users of its node left "
        f"after {seconds:.0f} s"
    )


def nothing_lost(clients: Steady) -> str:
    met = clients.met
    assert met["alike"], met
    assert met["gaps"] == 0
    assert "refused" not in met["asked"]
    return f"in all, {met['said']} messages acknowledged; each received once, in order"


def main() -> None:
    """Run the story and print its lines."""
    if reason := why_not():
        sys.exit(reason)
    try:
        with tempfile.TemporaryDirectory() as folder:
            package = Parts(Path(folder)).package
            with booted_machines() as machines:
                for line in story(machines, package):
                    print(f"ok  {line}", flush=True)  # noqa: T201  this program's output
    except (SandboxError, WheelsError) as missing:
        sys.exit(str(missing))


if __name__ == "__main__":
    main()
