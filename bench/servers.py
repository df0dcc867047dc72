"""The servers that are measured: how to install, start and speak to each.

A `Server` is a row of the table. A new peer is one more entry in `SERVERS` and, if its clients
speak differently, one more `Dialect` in receivers.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent
STOP_SECONDS = 5.0


class ServerError(Exception):
    """A server cannot be installed or started; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    dialect: str  # a key of receivers.DIALECTS
    command: Callable[[int, Path], list[str]]  # takes the port and a folder for this run
    packages: tuple[str, ...] = ()  # of a peer; their versions are printed with the figures
    protocol: str = "websocket"
    checkout: Path = BENCH.parent  # whose chatd is run
    ready_seconds: float = 20.0

    @property
    def ours(self) -> bool:
        """Whether it is chatd, which speaks dialects of its own."""
        return self.dialect in ("text", "socketio-chat")


def cache_folder() -> Path:
    """Return the folder for installed peers and stores, outside the repository."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "chatd-bench"


def versions() -> dict[str, str]:
    """Return the pinned version of each package."""
    package = json.loads((BENCH / "package.json").read_text(encoding="utf-8"))
    found: dict[str, str] = package["dependencies"]
    for line in (BENCH / "requirements.txt").read_text(encoding="utf-8").splitlines():
        name, pinned_at, version = line.partition("==")
        if pinned_at:
            found[name] = version
    return found


def installed(kind: str, pins: Sequence[str], commands: Sequence[Sequence[str]]) -> Path:
    """Run the commands in a folder with copies of the pins, unless done before; return it."""
    digest = hashlib.sha256(b"".join((BENCH / pin).read_bytes() for pin in pins)).hexdigest()[:16]
    folder = cache_folder() / f"{kind}-{digest}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when complete, so that an interrupted installation is never used.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="install-") as fresh:
        for pin in pins:
            shutil.copy2(BENCH / pin, fresh)
        for command in commands:
            done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=False)
            if done.returncode:
                words = f"{done.stdout}{done.stderr}".strip()
                raise ServerError(f"`{' '.join(command)}` failed:\n{words}")
        Path(fresh).rename(folder)
        Path(fresh).mkdir()  # for the context manager to remove
    return folder


def node_peer(script: str) -> Path:
    """Install the packages of package-lock.json; return a copy of the script beside them."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing = "node" if node is None else "npm"
        raise ServerError(
            f"the peer {script} needs Node.js 20 or newer with npm, and there is no `{missing}` in "
            "PATH. Install it, or leave the peer out with --servers."
        )
    folder = installed(
        "node",
        ("package.json", "package-lock.json"),
        [(npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts")],
    )
    # An ES module looks for its packages from its own folder upward.
    return Path(shutil.copy2(BENCH / "peers" / script, folder))


def node(script: str) -> Callable[[int, Path], list[str]]:
    def command(port: int, _folder: Path) -> list[str]:
        return ["node", str(node_peer(script)), str(port)]

    return command


def python(script: str) -> Callable[[int, Path], list[str]]:
    """Run a script with the packages of requirements.txt and the Python that runs chatd."""
    kind = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pip = ("venv/bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet")

    def command(port: int, _folder: Path) -> list[str]:
        folder = installed(
            kind,
            ("requirements.txt",),
            [
                (sys.executable, "-m", "venv", "venv"),
                (*pip, "install", "--requirement", "requirements.txt"),
            ],
        )
        # The folder was renamed: the environment's scripts contain its old name, python does not.
        interpreter = folder / "venv" / "bin" / "python"
        return [str(interpreter), str(BENCH / "peers" / script), str(port)]

    return command


def limit(port: int, _folder: Path) -> list[str]:
    return [sys.executable, str(BENCH / "peers" / "sends_server.py"), str(port)]


# One user sends everything and would soon be refused. The numbers of messages, requests and bytes
# are the highest accepted values.
UNLIMITED = (
    "limits.messages_per_second=1000000",
    "limits.messages_burst=1000000",
    "limits.bytes_per_second=1073741824",
    "limits.requests_per_second=1000000",
    "limits.requests_burst=1000000",
    "limits.connections=15000",
)


def chatd(*settings: str) -> Callable[[int, Path], list[str]]:
    def command(port: int, folder: Path) -> list[str]:
        arguments = [sys.executable, "-m", "chatd", "serve", "--listen", f"127.0.0.1:{port}"]
        for setting in (*UNLIMITED, f'history.path="{folder / "chatd.db"}"', *settings):
            arguments += ["--set", setting]
        return arguments

    return command


SERVERS = {
    server.name: server
    for server in (
        Server("node-ws", "echo", node("ws-server.mjs"), ("ws",)),
        Server("socketify", "echo", python("socketify_server.py"), ("socketify",)),
        Server("picows", "echo", python("picows_server.py"), ("picows",)),
        Server("websockets", "echo", python("websockets_server.py"), ("websockets",)),
        Server("sends", "echo", limit),
        Server("chatd-off", "text", chatd('history.store="memory"', "log.messages=false")),
        Server("chatd-on", "text", chatd("log.messages=false")),
        Server("chatd-on-log", "text", chatd()),
        Server(
            "node-socketio", "socketio", node("socketio-server.mjs"), ("socket.io",), "socketio"
        ),
        Server(
            "python-socketio",
            "socketio",
            python("socketio_server.py"),
            ("python-socketio", "uvicorn", "websockets", "uvloop"),
            "socketio",
        ),
        Server(
            "chatd-sio-off",
            "socketio-chat",
            chatd('history.store="memory"', "log.messages=false"),
            protocol="socketio",
        ),
        Server("chatd-sio-on", "socketio-chat", chatd("log.messages=false"), protocol="socketio"),
    )
}


# The servers that ratios refer to, unless --base names others.
PEERS = {
    "websocket": ["node-ws", "socketify", "sends"],
    "socketio": ["node-socketio", "python-socketio"],
}


def environment(checkout: Path, folder: Path) -> dict[str, str]:
    """Return the environment that runs a checkout's chatd, apart from any other daemon."""
    return {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "XDG_STATE_HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Running:
    pid: int
    port: int
    log: Path

    def last_lines(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-15:])


@contextlib.contextmanager
def running(server: Server, core: int | None) -> Iterator[Running]:
    """Run a server on one core with a folder of its own, from ready until it has ended."""
    with fresh_folder() as folder, running_in(folder, server, core) as handle:
        yield handle


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    """Make a folder for a server's store and output, and remove it at the end."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    # In the cache folder, because /tmp may be in memory and a store belongs on a disk.
    with tempfile.TemporaryDirectory(dir=cache, prefix="run-") as name:
        yield Path(name)


@contextlib.contextmanager
def running_in(folder: Path, server: Server, core: int | None) -> Iterator[Running]:
    """Run a server in a folder, which may have the store of an earlier run."""
    port = free_port()
    log = folder / "output"
    command = server.command(port, folder)
    with log.open("wb") as output, pinned(core):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment(server.checkout, folder),
        )
    handle = Running(process.pid, port, log)
    try:
        wait_ready(server, process, handle)
        yield handle
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(server: Server, process: subprocess.Popen[bytes], handle: Running) -> None:
    deadline = time.monotonic() + server.ready_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            words = handle.last_lines()
            raise ServerError(f"{server.name} exited with {process.returncode} at start:\n{words}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", handle.port)):
            return
        time.sleep(0.02)
    raise ServerError(
        f"{server.name} did not listen in {server.ready_seconds:g} s:\n{handle.last_lines()}"
    )


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Pin processes that are started within the block to one core, with all their threads."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
