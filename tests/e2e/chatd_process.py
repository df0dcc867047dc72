"""The real daemon as a process: started, observed through its log, ended by a signal."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Final, TypeAlias

import trio

from tests.e2e.reaper import end_with_us

__all__ = ["CHATD", "ChatdProcess", "ChatdStarter", "Line", "free_port"]

Line: TypeAlias = dict[str, Any]
"""A line of the daemon's log, decoded from JSON."""

# These end a hang and are no measure of speed: a busy machine is slow. No test waits this long.
START_SECONDS: Final = 60
LINE_SECONDS: Final = 60
END_SECONDS: Final = 60

CHATD: Final = ("-m", "chatd")

# Below Linux's ephemeral ports (ip_local_port_range begins at 32768): a client that connects while
# the daemon is away could be given the daemon's own port and connect to itself. Each process of
# pytest-xdist (gw0, gw1 …) has its own range, since a port is free until a daemon listens.
_PORTS_EACH: Final = 1000
_PROCESS: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_FIRST_PORT: Final = 20000 + _PROCESS % 12 * _PORTS_EACH
# Each port in turn, because a test that needs several starts to listen after it has them all.
_PORTS: Final = cycle(random.sample(range(_FIRST_PORT, _FIRST_PORT + _PORTS_EACH), _PORTS_EACH))


def free_port() -> int:
    """Return a port that is free on 127.0.0.1 and, where there is IPv6, on [::1]."""
    while True:
        port = next(_PORTS)
        if all(_is_free(family, port) for family in (socket.AF_INET, socket.AF_INET6)):
            return port


def _is_free(family: socket.AddressFamily, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.bind(("127.0.0.1" if family == socket.AF_INET else "::1", port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


class ChatdProcess:
    """A running daemon. Its log must be read (``read_log``) for the methods that wait."""

    def __init__(self, process: trio.Process, port: int, history: Path) -> None:
        self.port: Final = port
        self.history: Final = history
        self.url: Final = f"ws://localhost:{port}"
        self.page: Final = f"http://localhost:{port}/"
        self.lines: Final[list[Line]] = []
        """The log so far."""
        self.noise: Final[list[str]] = []
        """Everything else on stderr so far: tracebacks, crashes, Python's warnings."""
        self._process: Final = process
        self._news = trio.Event()
        self._log_ended = False

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def read_log(self) -> None:
        """Read its log until it ends."""
        assert self._process.stderr is not None
        rest = b""
        async with self._process.stderr as stream:
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line)
                self._wake()
        if rest:
            self._take(rest)
        self._log_ended = True
        self._wake()

    async def line(self, event: str, **fields: object) -> Line:
        """Return the first line of the log with this event and these fields; wait for it."""
        seen = 0
        with trio.move_on_after(LINE_SECONDS):
            while True:
                for line in self.lines[seen:]:
                    if line["event"] == event and fields.items() <= line.items():
                        return line
                seen = len(self.lines)
                if self._log_ended:
                    break
                await self._news.wait()
        raise AssertionError(f"no line {event} {fields or ''} in the log:\n{self.log()}")

    def log(self) -> str:
        """Return everything it wrote, for the message of a failed assertion."""
        return "\n".join([*map(json.dumps, self.lines), *self.noise])

    async def stop(self) -> int:
        """Drain and end it (SIGTERM); return its exit status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> int:
        """Kill it (SIGKILL); return its exit status, -9."""
        self.signal(signal.SIGKILL)
        return await self.ended()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait until it has ended and its log is read; return its exit status."""
        with trio.move_on_after(END_SECONDS) as scope:
            status = await self._process.wait()
            while not self._log_ended:
                await self._news.wait()
            return status
        assert scope.cancelled_caught
        raise AssertionError(f"still running after {END_SECONDS} s:\n{self.log()}")

    async def aclose(self) -> None:
        """Kill it, unless it has ended."""
        with trio.CancelScope(shield=True):
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()

    def _take(self, line: bytes) -> None:
        try:
            self.lines.append(json.loads(line))
        except ValueError:
            self.noise.append(line.decode(errors="backslashreplace"))

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


class ChatdStarter:
    """Starts the daemons of one test, which share one history, and ends them after it."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.started: Final[list[ChatdProcess]] = []
        self._folder: Final = folder
        self._nursery: Final = nursery

    async def __call__(
        self,
        settings: Mapping[str, object] | None = None,
        *,
        port: int | None = None,
        environ: Mapping[str, str] | None = None,
        config: Path | None = None,
        listen: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        program: Sequence[str] = CHATD,
    ) -> ChatdProcess:
        """Start ``python -m chatd serve`` with these settings and wait until it serves.

        It listens on a port of localhost, and on the addresses in ``listen``. ``wrapper`` is a
        command that runs its command.
        """
        chatd = await self.begin(
            settings,
            port=port,
            environ=environ,
            config=config,
            listen=listen,
            wrapper=wrapper,
            program=program,
        )
        with trio.move_on_after(START_SECONDS):
            await chatd.line("ready")
            return chatd
        raise AssertionError(f"not ready in {START_SECONDS} s:\n{chatd.log()}")

    async def begin(
        self,
        settings: Mapping[str, object] | None = None,
        *,
        port: int | None = None,
        environ: Mapping[str, str] | None = None,
        config: Path | None = None,
        listen: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        program: Sequence[str] = CHATD,
    ) -> ChatdProcess:
        """Start it without waiting, for a daemon that is expected to fail.

        ``program`` is what Python is given to run in place of chatd.
        """
        port = free_port() if port is None else port
        history = self._folder / "chatd.db"
        command = [*wrapper, sys.executable, "-W", "error", *program, "serve"]
        for address in (f"localhost:{port}", *listen):
            command += ["--listen", address]
        if config is not None:
            command += ["--config", str(config)]
        for key, value in {"history.path": str(history), **(settings or {})}.items():
            command += [
                "--set",
                f"{key}={json.dumps(value)}",
            ]  # JSON's scalars and lists are valid TOML
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=self._folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._folder),
                "LANG": "C.UTF-8",
                **(environ or {}),
            },
        )
        end_with_us(process.pid)
        chatd = ChatdProcess(process, port, history)
        self.started.append(chatd)
        self._nursery.start_soon(chatd.read_log)
        return chatd

    async def aclose(self) -> None:
        """End all daemons. Fail on an internal error, or output other than log lines."""
        for chatd in self.started:
            await chatd.aclose()
        for chatd in self.started:
            faults = [line for line in chatd.lines if line["event"] == "fault"]
            assert not faults, f"the daemon logged an internal error:\n{chatd.log()}"
            assert not chatd.noise, (
                f"the daemon wrote something that is not a log line:\n{chatd.log()}"
            )
