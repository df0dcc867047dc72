"""Socket.IO's own clients, in a Node.js process controlled by lines (clients/client.mjs)."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from tests.e2e.reaper import end_with_us
from tests.e2e.sandbox import cache_folder
from tests.e2e.socketio_server import READY

__all__ = ["ROOT", "Client", "Clients", "ClientsError", "SocketIOServer", "install_clients"]

CLIENTS: Final = Path(__file__).with_name("clients")
ROOT: Final = Path(__file__).parents[2]

# These end a hang and are no measure of speed. No test waits this long.
HEAR_SECONDS: Final = 90
START_SECONDS: Final = 60

Channel: TypeAlias = tuple[trio.MemorySendChannel[list[Any]], trio.MemoryReceiveChannel[list[Any]]]


class ClientsError(Exception):
    """The clients cannot be installed; the message is the reason."""


def install_clients() -> Path:
    """Install the packages of the lock file unless present; return the script beside them.

    Raises ClientsError.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise ClientsError("Node.js with npm is not installed (Debian: apt install nodejs npm)")
    files = [CLIENTS / name for name in ("package.json", "package-lock.json", "client.mjs")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    folder = cache_folder() / "chatd-tests" / f"clients-{digest}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            for file in files:
                shutil.copy(file, fresh)
            options = ["--no-audit", "--no-fund", "--ignore-scripts"]
            installed = subprocess.run(
                [npm, "ci", *options], cwd=fresh, capture_output=True, text=True, check=False
            )
            if installed.returncode:
                raise ClientsError(f"npm ci did not work:\n{installed.stderr.strip()}")
            try:
                fresh.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another run has just done the same
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder / "client.mjs"


class SocketIOServer:
    """A running ``socketio_server.py``. Starting and stopping it blocks.

    ``environ`` is added to its environment.
    """

    def __init__(
        self,
        port: int,
        options: Mapping[str, Any],
        folder: Path,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.port: Final = port
        self.url: Final = f"http://127.0.0.1:{port}"
        self._stderr: Final = folder / "stderr"
        self.reasons: dict[str, str] = {}
        """The reason why each socket disconnected, by its id; known once the server has ended."""
        program = ["-W", "error", "-m", "tests.e2e.socketio_server"]
        with self._stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, *program, str(port), json.dumps(options)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **(environ or {})},
            )
        end_with_us(self._process.pid)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == READY, self.noise()

    def end(self, number: signal.Signals) -> None:
        """End it: SIGTERM drains, SIGINT cancels, SIGKILL kills. Fail on an internal error."""
        self._process.send_signal(number)
        out, _ = self._process.communicate(timeout=START_SECONDS)
        assert not self.noise()
        if number != signal.SIGKILL:
            assert self._process.returncode == 0
            self.reasons = json.loads(out)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def close(self) -> None:
        """Kill it, unless it has ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def noise(self) -> str:
        """Return its stderr, such as tracebacks and faults."""
        return self._stderr.read_text(errors="backslashreplace")


class Client:
    """One socket of a real client."""

    def __init__(self, clients: Clients, name: str) -> None:
        self._clients = clients
        self._name = name

    async def hears(self, event: str) -> list[Any]:
        """Wait for the next event of this name; return its arguments.

        Beside events: ``connect`` (whether it recovered), ``connect_error``, ``error``,
        ``disconnect``, and ``upgrading`` and ``upgrade`` of the first connection below.
        """
        return await self._clients.next(self._name, event)

    def heard(self, event: str) -> list[list[Any]]:
        """Return the arguments of all received events of this name that were not awaited."""
        return self._clients.waiting(self._name, event)

    async def emit(self, *args: Any) -> None:
        """Emit an event."""
        await self._clients.tell({"do": "emit", "socket": self._name, "args": args})

    async def request(self, *args: Any) -> list[Any]:
        """Emit an event; return its acknowledgement."""
        number = await self.ask(*args)
        return await self._clients.next(number, None)

    async def ask(self, *args: Any) -> int:
        """Emit an event that asks for an acknowledgement; return its number without waiting."""
        number = self._clients.number()
        line = {"do": "emit", "socket": self._name, "args": args, "re": number}
        await self._clients.tell(line)
        return number

    def answered(self, number: int) -> bool:
        """Return whether this event was acknowledged."""
        return bool(self._clients.waiting(number, None))

    async def id(self) -> str:
        """Return its id, as the server reports it."""
        socket_id, _, _ = await self.request("who")
        return str(socket_id)

    async def do(self, what: str, **fields: Any) -> None:
        """Call another function of the driver: ``connect``, ``disconnect`` or ``cut``."""
        await self._clients.tell({"do": what, "socket": self._name, **fields})


class Clients:
    """A process with real clients. ``read`` must run; ``aclose`` ends it."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._channels: dict[tuple[str | int | None, str | None], Channel] = {}
        self._numbers = 0
        self._noise = b""

    @classmethod
    async def start(
        cls, script: Path, nursery: trio.Nursery, *, before: Sequence[str] = ()
    ) -> Clients:
        """Start it, with ``before`` before its command; ``nursery`` runs its reader."""
        process = await trio.lowlevel.open_process(
            [*before, "node", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        end_with_us(process.pid)
        clients = cls(process)
        nursery.start_soon(clients._read)
        nursery.start_soon(clients._read_noise)
        return clients

    async def open(
        self,
        version: str,
        url: str,
        transports: Sequence[str],
        *,
        burst: int = 0,
        resume: bool = False,
        **options: Any,
    ) -> Client:
        """Open a socket of this version without waiting. ``options`` are the library's."""
        name = f"{version} {self.number()}"
        options = {
            "transports": transports,
            "forceNew": True,
            "reconnectionDelay": 20,
            "reconnectionDelayMax": 100,
            "randomizationFactor": 0,
            **options,
        }
        line = {"do": "open", "socket": name, "version": version, "url": url, "options": options}
        await self.tell({**line, "burst": burst, "resume": resume})
        return Client(self, name)

    async def connect(
        self, version: str, url: str, transports: Sequence[str], **options: Any
    ) -> Client:
        """Open a socket and wait until it is connected and, where possible, upgraded."""
        client = await self.open(version, url, transports, **options)
        await client.hears("connect")
        if len(transports) > 1:
            assert await client.hears("upgrade") == ["websocket"]
        return client

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    async def tell(self, line: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(_written(line)).encode() + b"\n")

    async def next(self, name: str | int | None, event: str | None) -> list[Any]:
        with trio.move_on_after(HEAR_SECONDS):
            return await self._channel(name, event)[1].receive()
        others = {key: self.waiting(*key)[:5] for key in list(self._channels)}
        others = {key: heard for key, heard in others.items() if heard}
        noise = self._noise.decode(errors="backslashreplace")
        raise AssertionError(f"{name}: no {event or 'answer'}; got {others}\n{noise}")

    def waiting(self, name: str | int | None, event: str | None) -> list[list[Any]]:
        heard = []
        while True:
            try:
                heard.append(self._channel(name, event)[1].receive_nowait())
            except trio.WouldBlock:
                return heard

    def stop(self) -> None:
        """Stop the process (SIGSTOP), like a machine that sleeps."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    async def aclose(self) -> None:
        """Kill it, unless it has ended."""
        with trio.CancelScope(shield=True):
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()

    def _channel(self, name: str | int | None, event: str | None) -> Channel:
        key = name, event
        if key not in self._channels:
            self._channels[key] = trio.open_memory_channel[list[Any]](math.inf)
        return self._channels[key]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                told = json.loads(line, object_hook=_read_bytes)
                name = told["re"] if "re" in told else told["socket"]
                self._channel(name, told.get("on"))[0].send_nowait(told["args"])

    async def _read_noise(self) -> None:
        assert self._process.stderr is not None
        async for data in self._process.stderr:
            self._noise += data


def _written(value: Any) -> Any:
    match value:
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case Mapping():
            return {key: _written(item) for key, item in value.items()}
        case list() | tuple():
            return [_written(item) for item in value]
        case _:
            return value


def _read_bytes(found: dict[str, Any]) -> Any:
    return base64.b64decode(found["$bytes"]) if found.keys() == {"$bytes"} else found
