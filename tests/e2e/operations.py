"""The promises of docs/operations.md, tried in a booted system: ``python -m tests.e2e.operations``.

It prints a line for each step that succeeds and ends at the first that fails. docs/operations.md
contains these lines.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import trio

from tests.e2e.sandbox import Sandbox, WheelsError, why_not
from tests.e2e.service import (
    CONFIGURATION,
    LIMITS,
    PROGRAM,
    Parts,
    Steady,
    apt_install,
    booted,
    client,
    configure,
    lost_nothing,
    program,
    steady,
)
from tests.e2e.socketio_clients import Client, Clients, ClientsError, install_clients

__all__ = ["story"]

RESTARTS: Final = 5
BACKLOG: Final = 20  # chat.backlog
DRAIN_SECONDS: Final = 10  # drain.seconds

BY_BACKLOG: Final = ("1.7", "2.0", "2.5")
BY_POSITION: Final = ("3.1", "4.0")
BY_RECOVERY: Final = ("4.8",)
"""Versions of Socket.IO's client, by the way they resume."""

WAYS: Final = (["polling"], ["websocket"], ["polling", "websocket"])


def story(machine: Sandbox, package: Path, script: Path) -> Iterator[str]:
    """Run all steps in a machine without chatd; yield a line for each step that succeeds.

    ``script`` runs Socket.IO's own clients.
    """
    yield install(machine, package)
    yield start(machine)
    with machine.start_client(*client("ann")) as ann:
        yield chat(machine, ann)
        yield reload(machine)
        yield broken_file(machine)
        yield exposure(machine)
        yield from restarts(machine, script)
        heard = ann.communicate()[0].splitlines()
    # No reload closed the connection; the first restart did.
    assert heard[-1] == json.dumps({"closed": 1001})
    yield hung_bus(machine)
    yield slow_disk(machine)
    yield reboot(machine)
    yield stop(machine)


# ---- from nothing to a chat


def install(machine: Sandbox, package: Path) -> str:
    version = re.split(r"[ ()]+", machine.run("systemctl", "--version").splitlines()[0])[2]
    debian = machine.run("cat", "/etc/debian_version").strip()
    begun = time.monotonic()
    apt_install(machine, package)
    seconds = time.monotonic() - begun
    machine.run("systemctl", "is-active", "chatd")
    machine.run("systemctl", "is-enabled", "chatd")
    where = f"Debian {debian}, systemd {version}, no network"
    return f"install: apt install ./{package.name}: {seconds:.1f} s ({where})"


def start(machine: Sandbox) -> str:
    configure(machine, LIMITS)
    machine.run("systemctl", "stop", "chatd")
    begun = time.monotonic()
    machine.run("systemctl", "start", "chatd")
    seconds = time.monotonic() - begun
    assert greeting(machine, "amy") == "Hello, I am chatd. You are amy in #hall."
    shown = machine.properties("chatd", "ActiveState", "NRestarts", "StatusText")
    assert shown.pop("StatusText").endswith(" rooms")
    assert shown == {"ActiveState": "active", "NRestarts": "0"}
    owner = machine.run("stat", "--format=%A %U %G", "/var/lib/chatd", "/run/chatd")
    assert owner.splitlines() == ["drwx------ chatd chatd", "drwxr-xr-x chatd chatd"]
    return f"start: systemctl start returns when clients are served: {seconds:.1f} s"


def chat(machine: Sandbox, ann: subprocess.Popen[str]) -> str:
    until(ann, "Hello, I am chatd. You are ann in #hall.")
    heard = machine.client(*client("bob", "hello ann")).splitlines()
    until(ann, "bob: hello ann")
    assert heard[-1] == json.dumps("bob: hello ann")
    return "chat: ann and bob both receive bob's message"


def until(one: subprocess.Popen[str], frame: str) -> None:
    """Read a client's output up to this frame."""
    assert one.stdout is not None
    for line in one.stdout:
        if line == json.dumps(frame) + "\n":
            return
    raise AssertionError(f"it ended without {frame!r}")


def greeting(machine: Sandbox, nick: str) -> str:
    """Connect a client and return its greeting."""
    first: str = json.loads(machine.client(*client(nick, "hello")).splitlines()[0])
    return first


# ---- a changed configuration


def reload(machine: Sandbox) -> str:
    begun = machine.properties("chatd", "MainPID")
    times = 3
    for number in range(times):
        configure(machine, f'greeting = "greeting {number} for {{nick}}"')
        machine.run("systemctl", "reload", "chatd")
        assert greeting(machine, f"fay{number}") == f"greeting {number} for fay{number}"
    assert machine.properties("chatd", "MainPID") == begun
    return (
        "reload: the changed greeting applies to the first connection after it, "
        f"{times} times of {times}"
    )


def broken_file(machine: Sandbox) -> str:
    begun = machine.properties("chatd", "MainPID")
    before = greeting(machine, "gil").replace("gil", "gus")
    configure(machine, 'greeting = "never"')
    configure(machine, "backlog = 501")
    machine.run("systemctl", "reload", "chatd", status=1)
    assert greeting(machine, "gus") == before
    line = machine.run("grep", "-n", "^backlog = ", CONFIGURATION).partition(":")[0]
    shown = machine.properties("chatd", "ActiveState", "NRestarts", "StatusText")
    fault = shown.pop("StatusText").partition("configuration refused: ")[2]
    assert fault.startswith(f"{CONFIGURATION}:{line}:11: chat.backlog: ")
    assert shown == {"ActiveState": "active", "NRestarts": "0"}
    (refused,) = machine.journal("CHATD_EVENT=reload_refused")
    assert refused["CHATD_DETAIL"].startswith(f"{CONFIGURATION}:{line}:11: chat.backlog")

    configure(machine, f"backlog = {BACKLOG}")
    configure(machine, 'greeting = "mended"')
    machine.run("systemctl", "reload", "chatd")
    assert greeting(machine, "hal") == "mended"
    assert "refused" not in machine.properties("chatd", "StatusText")["StatusText"]
    assert machine.properties("chatd", "MainPID") == begun
    place = fault.partition(", not ")[0]
    return f"broken file: the reload fails, nothing changes: {place}"


def exposure(machine: Sandbox) -> str:
    # It warns about unknown directives, and exits with 0 all the same.
    units = ("chatd.service", "chatd.socket", "chatd@one.service")
    assert machine.run("sh", "-c", f"systemd-analyze verify {' '.join(units)} 2>&1") == ""
    # The threshold is in tenths: an exposure of at most 1.1.
    for unit in ("chatd.service", "chatd@one.service"):
        told = machine.run("systemd-analyze", "security", "--threshold=11", unit)
    owner = machine.run("stat", "--format=%A %U %G", "/etc/chatd", CONFIGURATION)
    assert owner.splitlines() == ["drwxr-x--- root chatd", "-rw-r----- root chatd"]
    found = re.search(r"Overall exposure level .*: ([0-9.]+)", told)
    assert found is not None
    return f"security: systemd-analyze security: exposure {found[1]}"


# ---- restarts and a kill, under clients that do not pause


class Comer:
    """A Socket.IO client in the room in which numbers are said."""

    def __init__(self, version: str, client: Client) -> None:
        self.version: Final = version
        self._client: Final = client
        self._numbers: list[int] = []

    async def arrive(self, *, recovered: bool = False) -> None:
        """Wait until it is connected and has received a number."""
        assert await self._client.hears("connect") == [recovered]
        await self._hear()

    async def come_back(self, *, killed: bool = False) -> None:
        """Wait until it has reconnected after a lost connection, at its first attempt."""
        await self._client.hears("disconnect")
        # A killed daemon has no sessions to recover.
        await self.arrive(recovered=self.version in BY_RECOVERY and not killed)
        assert self._client.heard("connect_error") == []

    async def hear_until(self, last: int) -> list[list[int]]:
        """Return all numbers received, split where one does not follow its predecessor."""
        while self._numbers[-1] != last:
            await self._hear()
        assert self._client.heard("disconnect") == self._client.heard("chat message") == []
        return runs(self._numbers)

    async def _hear(self) -> None:
        text, *_ = await self._client.hears("chat message")
        self._numbers.append(int(text))


def runs(numbers: Sequence[int]) -> list[list[int]]:
    """Return the numbers, split where one does not follow its predecessor."""
    starts = [0, *(place for place, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1)]
    return [list(numbers[a:b]) for a, b in pairwise([*starts, len(numbers)])]


def restarts(machine: Sandbox, script: Path) -> Iterator[str]:
    with steady(machine) as clients:
        yield from trio.run(_restarts, machine, script, clients)


async def _restarts(machine: Sandbox, script: Path, clients: Steady) -> list[str]:
    """Run the restarts; blocking calls run in threads while Socket.IO's clients are read."""
    in_thread = trio.to_thread.run_sync
    away = 0.0
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            node = await Clients.start(script, nursery, before=machine.on_its_network())
            try:
                comers = await arrive(node)
                for number in range(RESTARTS):
                    plain = machine.start_client(*client(f"plain{number}", room="lobby"))
                    await in_thread(read_backlog, plain)
                    begun = trio.current_time()
                    await in_thread(machine.run, "systemctl", "restart", "chatd")
                    for comer in comers:
                        await comer.come_back()
                    away = max(away, trio.current_time() - begun)
                    await in_thread(clients.until_back)
                    assert await in_thread(read_rest, plain) == 1001
                begun = trio.current_time()
                await in_thread(machine.run, "systemctl", "kill", "--signal=KILL", "chatd")
                await in_thread(machine.client, *client("kim", "back"))
                killed = trio.current_time() - begun
                for comer in comers:
                    await comer.come_back(killed=True)
                await in_thread(clients.until_back)
                await in_thread(clients.end)
                heard = {comer: await comer.hear_until(clients.met["said"] - 1) for comer in comers}
            finally:
                await node.aclose()

    met = clients.met
    returns = RESTARTS + 1
    lost_nothing(clients)
    assert met["returns"] == returns
    # About a second, and more on a busy machine. A restart that waited for the end of
    # drain.seconds would take longer than this.
    assert met["longest"] < DRAIN_SECONDS
    assert killed < DRAIN_SECONDS
    shown = machine.properties("chatd", "NFileDescriptorStore", "ActiveState", "NRestarts")
    assert shown == {"NFileDescriptorStore": "2", "ActiveState": "active", "NRestarts": "1"}
    for comer, parts in heard.items():
        if comer.version in BY_BACKLOG:
            # After each reconnection the backlog comes first, then what follows it.
            assert len(parts) <= returns + 1
            assert all(len(part) >= BACKLOG for part in parts[1:])
        else:
            assert len(parts) == 1, (comer.version, [(part[0], part[-1]) for part in parts])
    connections, longest = met["asked"]["answered"], met["longest"]
    return [
        f"{RESTARTS} restarts: {connections} connections, none refused; longest {longest:.1f} s",
        f"JSON: {met['said']} messages acknowledged; each received once, in order",
        f"Socket.IO {', '.join(BY_RECOVERY)}: recovered; nothing missed, nothing twice",
        f"Socket.IO {', '.join(BY_POSITION)}: resumed by `since`; nothing missed, nothing twice",
        f"Socket.IO {', '.join(BY_BACKLOG)}: connected at once, with the last {BACKLOG} messages",
        f"plain text: connected at once, with the last {BACKLOG} messages",
        f"each Socket.IO client by polling, WebSocket and upgrade: back in {away:.1f} s at most",
        f"SIGKILL: back after {killed:.1f} s; no acknowledged message is lost",
    ]


async def arrive(node: Clients) -> list[Comer]:
    """Connect a client of each version by each transport to the room in which numbers are said."""
    comers = [
        Comer(
            version,
            await node.open(
                f"client-{version}",
                "http://127.0.0.1:3000",
                way,
                resume=version not in BY_BACKLOG,
            ),
        )
        for version in (*BY_BACKLOG, *BY_POSITION, *BY_RECOVERY)
        for way in WAYS
    ]
    for comer in comers:
        await comer.arrive()
    return comers


def read_backlog(plain: subprocess.Popen[str]) -> None:
    """Read a plain-text client's greeting, the backlog, and a message after it."""
    assert plain.stdout is not None
    assert json.loads(plain.stdout.readline()) == "mended"
    heard: list[int] = []
    while len(heard) <= BACKLOG:
        heard += said(plain.stdout.readline())
    assert len(runs(heard)) == 1


def read_rest(plain: subprocess.Popen[str]) -> int | None:
    """Read the numbers that follow; return the code of its Close frame."""
    with plain:
        assert plain.stdout is not None
        *lines, last = plain.stdout
    assert len(runs([number for line in lines for number in said(line)])) == 1
    code: int | None = json.loads(last)["closed"]
    return code


def said(line: str) -> list[int]:
    """Return the number that the talker said in this line, or None."""
    nick, _, text = json.loads(line).partition(": ")
    return [int(text)] if nick == "talker" else []


# ---- faults


@contextmanager
def faulty(machine: Sandbox, fault: str, watchdog: str) -> Iterator[None]:
    """Make the service start a daemon with this fault; it still runs after the block."""
    drop_in = "/run/systemd/system/chatd.service.d/fault.conf"
    machine.copy_in(Path(__file__).with_name("faulty_daemon.py"), "/opt")
    machine.run("mkdir", "-p", str(Path(drop_in).parent))
    start = f"{PROGRAM} /opt/faulty_daemon.py {fault} serve --config {CONFIGURATION}"
    machine.write(
        drop_in,
        f"[Service]\nWatchdogSec={watchdog}\nExecStart=\n"
        f"ExecStart={start} --set history.durability='fsync'\n",
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "chatd")
    yield
    machine.run("rm", drop_in)
    machine.run("systemctl", "daemon-reload")


def hung_bus(machine: Sandbox) -> str:
    with faulty(machine, "hang", watchdog="2s"):
        machine.client(*client("hugo", "well"))
        begun = time.monotonic()
        with machine.start_client(*client("ivo", "hang")) as waiting:
            waiting.communicate()  # ends with the daemon
        machine.client(*client("joe", "well again"))
        seconds = time.monotonic() - begun
        assert machine.properties("chatd", "NRestarts") == {"NRestarts": "1"}
    (hang,) = machine.journal("CHATD_EVENT=hang")
    assert "faulty_daemon.py" in hang["CHATD_TASKS"]
    assert "Bus._fan_out" in hang["CHATD_TASKS"]
    assert "Bus._collect" in hang["MESSAGE"]
    assert hang["PRIORITY"] == "3"
    told = " ".join(entry["MESSAGE"] for entry in machine.journal())
    assert "Watchdog timeout (limit 2s)!" in told
    assert "Fatal Python error: Aborted" in told
    # The message had been committed before the hang.
    assert "ivo: hang" in machine.client(*client("kay", "after"))
    return (
        f"hung bus: killed by WatchdogSec=2s, serving again after {seconds:.1f} s; "
        "its task tree is in the journal"
    )


def slow_disk(machine: Sandbox) -> str:
    with faulty(machine, "slow-disk", watchdog="2s"):
        begun = time.monotonic()
        with machine.start_client(*client("lea", "slow")) as waiting:
            machine.client(*program("until_ready", "3000", "503"))
            assert machine.properties("chatd", "ActiveState") == {"ActiveState": "active"}
            told, _ = waiting.communicate()
        seconds = time.monotonic() - begun
        assert "lea: slow" in told
        machine.client(*program("until_ready", "3000", "200"))
        assert machine.properties("chatd", "NRestarts") == {"NRestarts": "0"}
    return (
        f"slow disk: not killed by WatchdogSec=2s in a commit of {seconds:.1f} s; "
        "/readyz was 503 meanwhile"
    )


# ---- the end, and after it


def reboot(machine: Sandbox) -> str:
    machine.client(*client("dan", "before the reboot"))
    machine.reboot()  # returns when the boot has ended
    machine.run("systemctl", "is-active", "chatd")
    frames = machine.client(*client("eve", "after it")).splitlines()
    assert json.dumps("dan: before the reboot") in frames
    return "reboot: started by itself, with the messages from before"


def stop(machine: Sandbox) -> str:
    number = 1000
    with machine.start_client(*program("crowd", "127.0.0.1", "3000", str(number))) as crowd:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == "ready\n"
        begun = time.monotonic()
        machine.run("systemctl", "stop", "chatd")
        seconds = time.monotonic() - begun
        byes = json.loads(crowd.communicate()[0])
    assert seconds < DRAIN_SECONDS
    assert len(byes) == number
    assert {(bye["code"], bye["reconnect"]) for bye in byes} == {(1001, True)}
    waits = [bye["retry_ms"] for bye in byes]
    # Spread over two seconds, because there are a thousand.
    assert max(waits) - min(waits) > 1500
    assert len(set(waits)) > 500
    shown = machine.properties("chatd", "Result", "ExecMainStatus", "ActiveState")
    assert shown == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}
    return (
        f"stop: with {number} clients {seconds:.1f} s of {DRAIN_SECONDS}; they are told to "
        f"reconnect after {min(waits)} to {max(waits)} ms"
    )


def main() -> None:
    """Run the story and print its lines."""
    if reason := why_not():
        sys.exit(reason)
    try:
        script = install_clients()
        with tempfile.TemporaryDirectory() as folder:
            package = Parts(Path(folder)).package
            with booted() as machine:
                for line in story(machine, package, script):
                    print(f"ok  {line}", flush=True)  # noqa: T201  this program's output
    except (ClientsError, WheelsError) as missing:
        sys.exit(str(missing))


if __name__ == "__main__":
    main()
