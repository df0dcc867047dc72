"""A redis-server for tests, on a Unix socket in a folder of its own, and a Sentinel."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, Self

import pytest
from msgspec import Struct

from tests.e2e.reaper import end_with_us

__all__ = ["HERE", "Machine", "RedisServer", "Sentinel", "needs_redis", "new_prefix"]

needs_redis: Final = pytest.mark.skipif(
    shutil.which("redis-server") is None,
    reason="redis-server is not installed: apt install redis-server",
)

_START_SECONDS: Final = 20.0
_numbers = itertools.count()


def new_prefix() -> str:
    """Return a prefix for keys that no other test of this process uses."""
    return f"{{test{next(_numbers)}}}"


class Machine(Struct, frozen=True):
    """Where servers run.

    Attributes:
        host: The IP address at which other machines find them.
        wrapper: A command that runs theirs: ``("ip", "netns", "exec", "NAME")``.
    """

    host: str = "127.0.0.1"
    wrapper: tuple[str, ...] = ()


HERE: Final = Machine()


class RedisServer:
    """A server, and its process while it runs.

    Args:
        folder: Where its socket and its data are.
        port: Its TCP port; by default it has none.
        machine: Where it runs.
        options: Configuration in place of what chatd needs: ``appendonly="no"``.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        machine: Machine = HERE,
        /,
        **options: str,
    ) -> None:
        self.folder = folder
        self.host = machine.host
        self.port = port
        self.options = {"appendonly": "yes", "appendfsync": "everysec", **options}
        self.socket = folder / "redis.sock"
        self._wrapper = machine.wrapper
        self.url = f"unix:{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the process, and return when it has read its data."""
        self.folder.mkdir(exist_ok=True)
        self.socket.unlink(missing_ok=True)
        command = [*self._wrapper, "redis-server", *self._arguments()]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end_with_us(self._process.pid)
        deadline = time.monotonic() + _START_SECONDS
        # It answers with an error if it wants a password, but not while it reads its data.
        while not self._ping().startswith((b"+PONG", b"-NOAUTH")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError((self.folder / "redis.log").read_text())
            time.sleep(0.005)

    def _arguments(self) -> list[str]:
        fixed = {"save": "", "repl-diskless-sync-delay": "0"}
        options = {**self._common(), **fixed, **self.options}
        words: list[str] = []
        for name, value in options.items():
            words += (f"--{name}", *(value.split() or [""]))
        return words

    def _common(self) -> dict[str, str]:
        """Return the configuration that Sentinels have too."""
        return {
            "bind": self.host,
            "port": str(self.port),
            "protected-mode": "no",
            "unixsocket": str(self.socket),
            "dir": str(self.folder),
            "logfile": str(self.folder / "redis.log"),
        }

    def _ping(self) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(100)
            except OSError:
                return b""

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop the process; the kernel still accepts connections for it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a stopped process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def await_rewrite(self) -> None:
        """Wait until the append-only file has been rewritten."""
        deadline = time.monotonic() + _START_SECONDS
        while "aof_rewrite_in_progress:1" in self.command("INFO", "persistence"):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def follow(self, primary: RedisServer) -> None:
        """Make it a replica; return when it has the primary server's data, and that knows it."""
        self.command("REPLICAOF", primary.host, str(primary.port))
        deadline = time.monotonic() + _START_SECONDS
        known = f"port={self.port},state=online"
        while "master_link_status:up" not in self.command(
            "INFO", "replication"
        ) or known not in primary.command("INFO", "replication"):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def command(self, *words: str) -> str:
        """Return what the server answers to a command."""
        done = subprocess.run(
            ["redis-cli", "-s", str(self.socket), *words],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


class Sentinel(RedisServer):
    """A Sentinel that knows a primary server by the name ``chat``.

    Args:
        folder: Where its socket and its configuration are.
        port: Its TCP port.
        machine: Where it runs.
        primary: The server.
        down_after_ms: When a server that does not answer counts as down.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        machine: Machine,
        *,
        primary: RedisServer,
        down_after_ms: int,
    ) -> None:
        super().__init__(folder, port, machine)
        self._monitoring = (
            f"sentinel monitor chat {primary.host} {primary.port} 2",
            f"sentinel down-after-milliseconds chat {down_after_ms}",
            "sentinel failover-timeout chat 3000",
        )

    def _arguments(self) -> list[str]:
        path = self.folder / "sentinel.conf"  # it keeps what it learns there
        if not path.exists():
            lines = [f"{name} {value}" for name, value in self._common().items()]
            path.write_text("\n".join([*lines, *self._monitoring, ""]))
        return [str(path), "--sentinel"]

    def facts(self) -> dict[str, str]:
        """Return what it knows of the primary server."""
        lines = self.command("SENTINEL", "MASTER", "chat").splitlines()
        return dict(zip(lines[::2], lines[1::2], strict=True))
