"""Attack a real daemon, longer and harder than the tests can, and say how it was.

::

    python bench/attack.py                           # all of them, about an hour
    python bench/attack.py --scale 0.05 vanish kill  # a twentieth of two of them

Each attack is one line at the end: ok or FAILED, and its figures. Exits with 1 if one failed. All
load is on loopback.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import resource
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from chatd import client
from chatd.client.errors import unwrapped

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatd-bench"

PAUSE_SECONDS: Final = 0.05
"""Between two messages of the client that is not attacked, but measured."""

CALM_SECONDS: Final = 10.0
"""After an attack; then memory and descriptors must be what they were."""

MEMORY_KIB: Final = 32 * 1024
LATENCY_SECONDS: Final = 0.1

CONNECTIONS: Final = 100_000
KILLS: Final = 1_000
KEPT: Final = Path(tempfile.gettempdir(), "chatd-attack.log")
STORES: Final = 100
"""How many times a store is damaged in another place."""


class FailedError(Exception):
    """An attack succeeded. The message says how."""


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise FailedError(otherwise)


# ---- the daemon, and a client of it


class Daemon:
    """A daemon on a free port. Its log is kept in a file."""

    def __init__(self, folder: Path, *words: str, prefix: tuple[str, ...] = ()) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.store = folder / "chatd.db"
        self.log = folder / "log"
        off = ("messages_per_second", "messages_burst", "bytes_per_second")
        keys = [f"--set=limits.{key}=off" for key in off]
        command = [sys.executable, "-m", "chatd", "serve", f"--listen=127.0.0.1:{self.port}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *command, f"--set=history.path={self.store}", *keys, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=ROOT,
            )

    def until_ready(self) -> bool:
        """Wait until it serves; False if it ended instead."""
        while self.process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as asking:
                    asking.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    if asking.recv(64).startswith(b"HTTP/1.1 200"):
                        return True
            except OSError:
                pass
            time.sleep(0.05)
        return False

    def words(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace")

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) if found else 0

    def sockets(self) -> list[str]:
        """Return its open sockets. It opens files of the store when it first needs them."""
        opened = []
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                opened.append(str(descriptor.readlink()))
        return [each for each in opened if each.startswith("socket:")]

    def end(self) -> int:
        """Drain it, and return its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise FailedError("it did not end within 30 s of SIGTERM") from None


@contextmanager
def daemon(folder: Path, *words: str) -> Generator[Daemon]:
    one = Daemon(folder, *words)
    try:
        check(one.until_ready(), f"it did not start: {one.words()[-500:]}")
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
    check("Traceback" not in one.words(), "there is a traceback in its log")


class Bystander:
    """A client that chats all the time, and the seconds that each of its messages took."""

    def __init__(self, chat: client.Chat) -> None:
        self.seconds: list[float] = []
        self._chat = chat

    async def run(self) -> None:
        while True:
            began = trio.current_time()
            await self._chat.say("hello", room="lobby")
            self.seconds.append(trio.current_time() - began)
            await trio.sleep(PAUSE_SECONDS)

    def p99(self) -> float:
        return sorted(self.seconds)[max(0, math.ceil(len(self.seconds) * 0.99) - 1)]


@asynccontextmanager
async def bystander(one: Daemon) -> AsyncGenerator[Bystander]:
    async with (
        client.connect(f"ws://127.0.0.1:{one.port}", nick="bystander") as chat,
        trio.open_nursery() as nursery,
    ):
        await chat.join("lobby", limit=0)
        there = Bystander(chat)
        nursery.start_soon(there.run)
        yield there
        nursery.cancel_scope.cancel()


# ---- connections that vanish


def open_and_vanish(port: int, count: int) -> None:
    """Open connections, send nothing or half a request, and reset them at once."""
    at_once = struct.pack("ii", 1, 0)  # SO_LINGER without a time: a close resets
    for number in range(count):
        try:
            with socket.create_connection(("127.0.0.1", port), 10) as victim:
                victim.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                if number % 3:
                    victim.sendall(b"GET / HTTP/1.1\r\nHost: local"[: 20 * (number % 3)])
        except OSError:
            pass  # turned away: that is an answer too


async def vanish(folder: Path, scale: float) -> str:
    count = max(1000, int(CONNECTIONS * scale))
    with daemon(folder) as one:
        async with bystander(one) as there:
            await trio.sleep(CALM_SECONDS)
            calm = there.p99()
            memory, sockets = one.memory_kib(), one.sockets()
            there.seconds.clear()
            began = trio.current_time()
            flood = [sys.executable, __file__, "--vanish", str(one.port), str(count)]
            await trio.run_process(flood)
            took, p99, said = trio.current_time() - began, there.p99(), len(there.seconds)
            await trio.sleep(CALM_SECONDS)
            more, left = one.memory_kib() - memory, set(one.sockets()) - set(sockets)
        check(one.process.poll() is None, "it ended")
        check(not left, f"sockets are left: {', '.join(left)}")
        check(more <= MEMORY_KIB, f"its memory grew by {more} KiB")
        words = f"p99 {p99 * 1000:.0f} ms over {said} messages, {calm * 1000:.0f} ms before"
        # On a machine that is busy with something else, it cannot be better than before.
        check(p99 <= max(LATENCY_SECONDS, 2 * calm), words)
        check(one.end() == 0, "it did not end with 0")
    return f"{count} connections in {took:.0f} s; {words}; {more:+d} KiB"


# ---- a store that is meddled with


async def say(chat: client.Chat, text: str) -> bool:
    """Return whether a message was confirmed. It is sent once."""
    try:
        await chat.say(text, room="lobby")
    except client.Refused as refused:
        check(refused.code == "unavailable", f"refused with {refused.code}")
        return False
    return True


async def until_confirmed(chat: client.Chat, text: str) -> None:
    """Say something until it is confirmed: the store recovers by itself."""
    for _ in range(100):
        if await say(chat, text):
            return
        await trio.sleep(0.2)
    raise FailedError(f"{text}: no message was confirmed")


async def texts(chat: client.Chat) -> list[str]:
    """Return the room's messages."""
    found: list[str] = []
    after = 0
    while True:
        page = await chat.history("lobby", after=after, limit=500)
        found += [e.text for e in page.events if isinstance(e, client.Message) and e.text]
        if not page.more:
            return found
        after = max(e.seq for e in page.events if isinstance(e, client.Message) and e.seq)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the write lock of the store, as a forgotten `sqlite3` shell does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full(one: Daemon) -> Generator[None]:
    """Let no file of the daemon grow, as on a full disk."""
    pid = one.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


async def store(folder: Path, scale: float) -> str:
    confirmed: list[str] = []

    async def try_to_say(chat: client.Chat, *some: str) -> int:
        there = [text for text in some if await say(chat, text)]
        confirmed.extend(there)
        return len(there)

    with daemon(folder) as one:
        async with client.connect(f"ws://127.0.0.1:{one.port}", nick="ann") as chat:
            await chat.join("lobby", limit=0)
            await try_to_say(chat, *(f"before {number}" for number in range(100)))
            for name, meddling in (("locked", locked(one.store)), ("full", full(one))):
                with meddling:
                    said = await try_to_say(chat, *(f"{name} {number}" for number in range(3)))
                    check(said == 0, f"{name}: {said} messages were confirmed")
                    check(len(await texts(chat)) >= 100, f"{name}: the history is not readable")
                await until_confirmed(chat, f"after {name}")
                confirmed.append(f"after {name}")
            there = await texts(chat)
            lost = [text for text in confirmed if text not in there]
            check(not lost, f"lost: {lost[:3]}")
        check(one.end() == 0, "it did not end with 0")
    told = await damaged(folder, max(5, int(STORES * scale)))
    return f"locked, full: recovered by itself; {told}; {read_only(folder)}"


async def damaged(folder: Path, count: int) -> str:
    """Damage the store in other places each time: it is refused in a line, or it serves."""
    whole = (folder / "chatd.db").read_bytes()
    refused = served = 0
    for seed in range(count):
        draw = random.Random(seed)
        place = folder / f"damaged-{seed}"
        place.mkdir()
        data = bytearray(whole)
        match seed % 4:
            case 0:  # some bytes
                for _ in range(draw.randrange(1, 50)):
                    data[draw.randrange(len(data))] = draw.randrange(256)
            case 1:  # a page
                start = draw.randrange(0, len(data), 4096)
                data[start : start + 4096] = draw.randbytes(4096)
            case 2:  # cut off
                del data[draw.randrange(len(data)) :]
            case _:  # a hole
                start = draw.randrange(len(data))
                data[start : start + 65536] = bytes(len(data[start : start + 65536]))
        (place / "chatd.db").write_bytes(data)
        one = Daemon(place)
        try:
            if one.until_ready():
                served += 1
                answered = await chat_on_damage(one)
                check(answered, f"seed {seed}: a command got no answer; its log is in {KEPT}")
                check(one.end() in (0, 1), f"seed {seed}: it ended with {one.process.returncode}")
            else:
                refused += 1
                lines = [line for line in one.words().splitlines() if line[:1] != "{"]
                check(one.process.returncode == 1, f"seed {seed}: {one.process.returncode}")
                check(len(lines) == 1, f"seed {seed}: {' | '.join(lines[-4:])}")
            if "Traceback" in one.words():
                shutil.copy(one.log, KEPT)
                raise FailedError(f"seed {seed}: there is a traceback in its log, see {KEPT}")
        finally:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
        shutil.rmtree(place)
    return f"{count} damaged stores: {refused} refused, {served} served"


async def chat_on_damage(one: Daemon) -> bool:
    """Return whether each command gets an answer, whatever is damaged."""
    with trio.move_on_after(60):
        async with client.connect(f"ws://127.0.0.1:{one.port}", nick="ann") as chat:
            for command in (
                partial(chat.join, "lobby", limit=100),
                partial(chat.say, "hello", room="lobby"),
                partial(chat.history, "lobby", before=50),
                partial(chat.search, "lobby", "before"),
            ):
                with suppress(client.Refused):  # an answer too
                    await command()
        return True
    shutil.copy(one.log, KEPT)
    return False


def read_only(folder: Path) -> str:
    """Start on a store that cannot be written, in a mount namespace: it says so in a line."""
    if shutil.which("unshare") is None:
        return "read-only: not tried, there is no unshare"
    mounts = (
        f"mount --bind '{folder}' '{folder}' && mount -o remount,bind,ro '{folder}' && exec \"$@\""
    )
    place = Path(tempfile.mkdtemp(prefix="chatd-attack-log-"))
    one: Daemon | None = None
    try:
        one = Daemon(
            place,
            f"--set=history.path={folder}/chatd.db",
            prefix=(
                *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounts, "sh"),
            ),
        )
        check(not one.until_ready(), "read-only: it serves")
        lines = [line for line in one.words().splitlines() if line[:1] != "{"]
        check(len(lines) == 1 and "read-only" in lines[0].lower(), f"read-only: {lines}")
    finally:
        if one is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        shutil.rmtree(place)
    return "read-only: refused"


# ---- the others are programs and tests of their own


def ran(*command: str, **environ: str) -> str:
    """Run a program; return its last line."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise FailedError(lines[-1])
    return lines[-1].strip("= ")


async def kill(_folder: Path, scale: float) -> str:
    """Kill -9 at seeded moments of the store's work: tests/journal/test_kill.py, more often."""
    count = max(20, int(KILLS * scale))
    command = ("-m", "pytest", "-q", "-n", "logical", "tests/journal/test_kill.py")
    told = await trio.to_thread.run_sync(
        partial(ran, sys.executable, *command, CHATD_KILLS=str(count))
    )
    return f"{count} kills: {told}"


async def autobahn(_folder: Path, scale: float) -> str:
    """Run the cases of RFC 6455, with python2.7, or the one that CHATD_PYTHON2 names."""
    python = os.environ.get("CHATD_PYTHON2", "python2.7")
    if shutil.which(python) is None:
        raise FailedError(f"not run: there is no {python}")
    cases = () if scale >= 1 else ("--cases", "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*")
    folder = CACHE / "autobahn"
    command = ("bench/autobahn.py", f"--python={python}", f"--folder={folder}", *cases)
    return await trio.to_thread.run_sync(partial(ran, sys.executable, *command))


async def worst(_folder: Path, scale: float) -> str:
    """Run attack_worst.py: one address does its worst in each way, a minute each."""
    command = ("bench/attack_worst.py", f"--scale={scale}")
    await trio.to_thread.run_sync(partial(ran, sys.executable, *command))
    return "one address did its worst in each way"


ATTACKS: Final[dict[str, Callable[[Path, float], Awaitable[str]]]] = {
    "autobahn": autobahn,
    "store": store,
    "vanish": vanish,
    "worst": worst,
    "kill": kill,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="attack a real daemon")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(ATTACKS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="a part of the full numbers")
    parser.add_argument("--vanish", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.vanish is not None:
        open_and_vanish(*given.vanish)
        return 0
    failed = 0
    summary = []
    for name in given.attacks or ATTACKS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="chatd-attack-") as folder:
            try:
                with unwrapped():
                    told = f"ok      {trio.run(ATTACKS[name], Path(folder), given.scale)}"
            except FailedError as error:
                failed += 1
                told = f"FAILED  {error}"
        summary.append(f"{name:9} {time.monotonic() - began:5.0f} s  {told}")
        print(summary[-1], flush=True)
    print("", *summary, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
