"""A redis-server for tests, on a Unix socket in a folder of its own: it opens no port."""

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

from tests.e2e.reaper import end_with_us

__all__ = ["RedisServer", "needs_redis", "new_prefix"]

needs_redis: Final = pytest.mark.skipif(
    shutil.which("redis-server") is None,
    reason="redis-server is not installed: apt install redis-server",
)

_START_SECONDS: Final = 20.0
_numbers = itertools.count()


def new_prefix() -> str:
    """Return a prefix for keys that no other test of this process uses."""
    return f"{{test{next(_numbers)}}}"


class RedisServer:
    """A server, and its process while it runs.

    Args:
        folder: Where its socket and its data are.
        options: Configuration in place of what chatd needs: ``appendonly="no"``.
    """

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder = folder
        self.options = {"appendonly": "yes", "appendfsync": "everysec", **options}
        self.socket = folder / "redis.sock"
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
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self.folder),
            "save": "",
            "logfile": str(self.folder / "redis.log"),
            **self.options,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)
        end_with_us(self._process.pid)
        deadline = time.monotonic() + _START_SECONDS
        # It answers with an error if it wants a password, but not while it reads its data.
        while not self._ping().startswith((b"+PONG", b"-NOAUTH")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError((self.folder / "redis.log").read_text())
            time.sleep(0.005)

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

    def command(self, *words: str) -> str:
        """Return what the server answers to a command."""
        done = subprocess.run(
            ["redis-cli", "-s", str(self.socket), *words],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()
