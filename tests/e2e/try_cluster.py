"""``make cluster``: a cluster on this machine, to try (``python -m tests.e2e.try_cluster``).

A Redis server, three daemons and haproxy run on loopback addresses, with the configurations in
config/cluster/. They end with this program. One that ends before is reported and started again, as
systemd would do it.
"""

from __future__ import annotations

import argparse
import errno
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct

from tests.e2e.reaper import end_with_us

__all__: list[str] = []

ROOT: Final = Path(__file__).resolve().parents[2]
EXAMPLES: Final = ROOT / "config" / "cluster"

NODES: Final = {"node1": "127.0.0.11", "node2": "127.0.0.12", "node3": "127.0.0.13"}
"""The addresses of the examples, with 127.0.0 in place of 192.0.2."""
REDIS: Final = NODES["node1"]
REDIS_PORT: Final = 6379

PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin"
"""Where programs are: haproxy's folder is not in every user's PATH."""

START_SECONDS: Final = 20.0
RESTART_SECONDS: Final = 3.0
"""Long enough to see what happens meanwhile."""
STOP_SECONDS: Final = 15.0
"""More than drain.seconds."""
PAUSE_SECONDS: Final = 0.05  # between two questions: nothing signals that a server is ready

_READYZ: Final = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class TryError(Exception):
    """The cluster cannot run. The message is one line that says what to do."""


class Program(Struct, frozen=True):
    """A program, and how to find out whether it serves.

    Attributes:
        name: Its name for people.
        command: The command that runs it in the foreground.
        log: The file for its output.
        address: Where it listens.
        request: What to send there.
        answers: How the answers of a server that is ready begin.
    """

    name: str
    command: Sequence[str]
    log: Path
    address: tuple[str, int]
    request: bytes = _READYZ
    answers: tuple[bytes, ...] = (b"HTTP/1.1 200 ",)


# ---- the configurations


def programs(folder: Path, port: int) -> list[Program]:
    """Write the configurations, and return the programs in the order in which they start.

    Raises:
        TryError: A file cannot be written.
    """
    try:
        for name in ("redis", *NODES):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        _configure(folder, port)
    except OSError as error:
        raise TryError(f"{error.filename}: {(error.strerror or str(error)).lower()}") from error
    redis = Program(
        "redis",
        (
            *("redis-server", str(folder / "redis.conf")),
            *("--dir", str(folder / "redis"), "--aclfile", str(folder / "users.acl")),
            *("--logfile", "", "--pidfile", ""),
        ),
        folder / "redis.log",
        (REDIS, REDIS_PORT),
        b"PING\r\n",
        (b"-NOAUTH", b"+PONG"),
    )
    nodes = [
        Program(
            name,
            (
                *(sys.executable, "-m", "chatd", "serve", "--config", str(folder / "chatd.toml")),
                *("--listen", f"{address}:3000", "--set", f"metrics.listen={address}:3001"),
                *("--set", f"admin.socket={folder / name / 'admin.sock'}"),
            ),
            folder / f"{name}.log",
            (address, 3000),
        )
        for name, address in NODES.items()
    ]
    haproxy = Program(
        "haproxy",
        ("haproxy", "-db", "-f", str(folder / "haproxy.cfg")),
        folder / "haproxy.log",
        ("127.0.0.1", port),
    )
    return [redis, *nodes, haproxy]


def _configure(folder: Path, port: int) -> None:
    """Write each example into the folder, with this machine's addresses and new passwords."""
    password, of_replicas = secrets.token_urlsafe(), secrets.token_urlsafe()
    changes: dict[str, Mapping[str, str]] = {
        "redis.conf": {
            "bind 127.0.0.1 192.0.2.11": f"bind {REDIS}",
            "REPLICA-PASSWORD": of_replicas,
        },
        "users.acl": {
            ">ADMIN-PASSWORD": f">{secrets.token_urlsafe()}",
            ">REPLICA-PASSWORD": f">{of_replicas}",
            ">PASSWORD": f">{password}",
        },
        "chatd.toml": {
            '"192.0.2.10"': '"127.0.0.1"',  # from where haproxy connects
            '"chat.example.org"': '"localhost", "127.0.0.1"',
            "/etc/chatd/redis-password": str(folder / "redis-password"),
            "192.0.2.": "127.0.0.",
        },
        "haproxy.cfg": {
            "bind :80": "\n    ".join(f"bind {place}" for place in _front(port)),
            "192.0.2.": "127.0.0.",
        },
    }
    if os.geteuid() != 0:
        changes["haproxy.cfg"] = {
            **changes["haproxy.cfg"],
            "    user haproxy\n    group haproxy\n": "",
        }
    _write(folder / "redis-password", f"{password}\n")
    for name, replaced in changes.items():
        text = (EXAMPLES / f"{name}.example").read_text(encoding="utf-8")
        for before, after in replaced.items():
            if before not in text:
                raise TryError(f"config/cluster/{name}.example has no {before!r}")
            text = text.replace(before, after)
        _write(folder / name, text)


def _write(file: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    file.touch(mode=0o600)
    file.write_text(text, encoding="utf-8")


def _front(port: int) -> list[str]:
    """Return the addresses of localhost: a browser may try either."""
    with_ipv6 = _why_taken("::1", 0) is None
    return [f"127.0.0.1:{port}", *([f"[::1]:{port}"] if with_ipv6 else [])]


# ---- what is needed


def check(port: int) -> None:
    """Check that the programs are installed and that their addresses are free.

    Raises:
        TryError: They are not.
    """
    needed = ("redis-server", "haproxy")
    missing = [name for name in needed if shutil.which(name, path=PATH) is None]
    if missing:
        raise TryError(
            f"make cluster needs {' and '.join(missing)}: apt install {' '.join(missing)}"
        )
    for place in _front(port):
        if why := _why_taken(*_parted(place)):
            raise TryError(
                f"{place}: {why}. End the program that listens there, or choose another port: "
                'make cluster ARGS="--port 4000"'
            )
    inside = [(address, each) for address in NODES.values() for each in (3000, 3001)]
    for host, each in [*inside, (REDIS, REDIS_PORT)]:
        if why := _why_taken(host, each):
            raise TryError(f"{host}:{each}: {why}. End the program that listens there.")


def _parted(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    return host.strip("[]"), int(port)


def _why_taken(host: str, port: int) -> str | None:
    """Return why a program cannot listen at an address, or None if it can."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "in use"
        return (error.strerror or str(error)).lower()
    return None


# ---- the programs


@asynccontextmanager
async def running(*programs: Program) -> AsyncIterator[list[int]]:
    """Run programs during the block, which begins when all of them serve; yield their processes.

    Raises:
        TryError: One of them does not start.
    """
    pids: dict[str, int] = {}

    async def start(program: Program, nursery: trio.Nursery) -> None:
        pids[program.name] = await nursery.start(_keep_running, program)

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for program in programs:
                starting.start_soon(start, program, nursery)
        yield [pids[program.name] for program in programs]
        nursery.cancel_scope.cancel()


async def _keep_running(
    program: Program, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a program until cancelled; start it again whenever it ends."""
    with program.log.open("wb") as log:
        async with _started(program, log.fileno()) as process:
            await _until_ready(program, process)
            task_status.started(process.pid)
            status = await process.wait()
        while True:
            how = f"status {status}" if status >= 0 else signal.Signals(-status).name
            say(
                f"{program.name} has ended ({how}) and is started again in {RESTART_SECONDS:.0f} s."
                f" Its log: {shown(program.log)}"
            )
            await trio.sleep(RESTART_SECONDS)
            async with _started(program, log.fileno()) as process:
                say(f"{program.name} is started again: process {process.pid}")
                status = await process.wait()


@asynccontextmanager
async def _started(program: Program, log: int) -> AsyncIterator[trio.Process]:
    """Run a program in a session of its own, where Ctrl+C does not reach it; end it gently."""
    process = await trio.lowlevel.open_process(
        program.command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={**os.environ, "PATH": PATH},
        start_new_session=True,
    )
    end_with_us(process.pid)
    try:
        yield process
    finally:
        with trio.move_on_after(STOP_SECONDS, shield=True):
            process.terminate()
            await process.wait()
        if process.returncode is None:
            process.kill()


async def _until_ready(program: Program, process: trio.Process) -> None:
    """Wait until a program serves.

    Raises:
        TryError: It ended before, or does not serve in time.
    """
    with trio.move_on_after(START_SECONDS):
        while process.poll() is None:
            if (await _ask(program)).startswith(program.answers):
                return
            await trio.sleep(PAUSE_SECONDS)
    lines = program.log.read_text(encoding="utf-8", errors="replace").splitlines()
    why = next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
    raise TryError(f"{program.name} does not start: {why} (its log: {shown(program.log)})")


async def _ask(program: Program) -> bytes:
    try:
        with trio.fail_after(1), trio.socket.socket() as sock:
            await sock.connect(program.address)
            await sock.send(program.request)
            return await sock.recv(100)
    except (OSError, trio.TooSlowError):
        return b""


# ---- for people


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201  this program's output


def shown(path: Path) -> str:
    """Return the path as seen from the current folder."""
    return os.path.relpath(path)


async def run(folder: Path, port: int) -> None:
    """Run the cluster until a signal.

    Raises:
        TryError: It cannot run.
    """
    check(port)
    redis, *nodes, haproxy = programs(folder, port)
    say("Starting a Redis server, three daemons and haproxy …")
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with (
            running(redis) as [redis_pid],
            running(*nodes) as node_pids,
            running(haproxy) as [haproxy_pid],
        ):
            say(f"The chat is at http://localhost:{port}/\n")
            for node, pid in zip(nodes, node_pids, strict=True):
                say(f"{node.name}    http://{node.address[0]}:3000  process {pid}")
            say(f"redis    {REDIS}:{REDIS_PORT}         process {redis_pid}")
            say(f"haproxy                          process {haproxy_pid}\n")
            say("Kill any of them (kill -9 PROCESS): it is started again after some seconds.")
            admin = shown(folder / "node1" / "admin.sock")
            say(f"List the nodes: .venv/bin/chatd ctl --socket {admin} nodes")
            say(f"Configurations, logs and the history: {shown(folder)}")
            say("Press Ctrl+C to stop.\n")
            async for number in signals:
                # A second one ends this program at once, and then the reaper ends the others.
                signal.signal(number, signal.SIG_DFL)
                break
            say("\nStopping …")


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="make cluster", description="A cluster to try.")
    parser.add_argument("--port", type=int, default=3000, help="The chat's port (default: 3000).")
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / ".cache" / "cluster",
        help="The folder for configurations, logs and the history (default: .cache/cluster).",
    )
    options = parser.parse_args()
    try:
        trio.run(run, options.folder.resolve(), options.port)
    except* TryError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        sys.exit(str(error))


if __name__ == "__main__":
    main()
