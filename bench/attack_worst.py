"""One address does its worst, each kind of attack in turn, while a second client chats.

::

    python bench/attack_worst.py                      # a minute each
    python bench/attack_worst.py --scale 0.05 names   # three seconds of one of them
    python bench/attack_worst.py --exempt             # from loopback, without limits by address

The address is one that a trusted proxy names (a PROXY header on a Unix socket). An attack must
leave the second client a p99 under 100 ms, and ten seconds later the daemon's memory within 32 MiB
of what it was. Each attack is one line; exits with 1 if one did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import trio
from fanout import cores
from servers import free_port, pinned

ROOT: Final = Path(__file__).resolve().parent.parent
SECONDS: Final = 60.0
CALM_SECONDS: Final = 10.0
P99_SECONDS: Final = 0.1
MEMORY_KIB: Final = 32 * 1024
PAUSE_SECONDS: Final = 0.05  # between two messages of the second client
ADDRESS: Final = "198.51.100.7"
CONNECTIONS: Final = 100
MESSAGES: Final = 2000  # in the store

Attack: TypeAlias = Callable[["Dialer"], Awaitable[None]]


# ---- the attacking side


class Dialer:
    """Connects as a client of the daemon, from one address or from loopback."""

    def __init__(self, folder: Path, port: int, *, exempt: bool) -> None:
        self._path = str(folder / "chat.sock")
        self._port = port
        self._exempt = exempt

    @asynccontextmanager
    async def dial(self) -> AsyncGenerator[trio.abc.Stream]:
        stream: trio.abc.Stream
        if self._exempt:
            stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        else:
            stream = await trio.open_unix_socket(self._path)
        async with stream:
            if not self._exempt:
                await stream.send_all(f"PROXY TCP4 {ADDRESS} 192.0.2.1 1234 80\r\n".encode())
            yield stream

    @asynccontextmanager
    async def websocket(
        self, target: str, protocol: str = "chatd.v1"
    ) -> AsyncGenerator[trio.abc.Stream]:
        """Ask for a WebSocket. The answer is not read."""
        async with self.dial() as stream:
            head = (
                f"GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            )
            if protocol:
                head += f"Sec-WebSocket-Protocol: {protocol}\r\n"
            await stream.send_all(f"{head}\r\n".encode())
            yield stream


def frame(payload: str | bytes, opcode: int = 1) -> bytes:
    """Return a client's frame, with a mask of zeros."""
    data = payload.encode() if isinstance(payload, str) else payload
    size = len(data)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes((0x80 | opcode,)) + length + b"\0\0\0\0" + data


def request(method: str, target: str, body: bytes = b"", kind: str = "text/plain") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n"
    if body:
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


async def drain(stream: trio.abc.Stream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some(65536):
            pass


async def flood(stream: trio.abc.Stream, make: Callable[[int], bytes]) -> None:
    """Send without end, and read whatever comes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, stream)
        for number in range(1 << 60):
            await stream.send_all(make(number))


async def many(times: int, attack: Callable[[int], Awaitable[None]]) -> None:
    """Attack on so many connections at once, again and again."""

    async def again(number: int) -> None:
        while True:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                try:
                    await attack(number)
                except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        for number in range(times):
            nursery.start_soon(again, number)


async def on_websocket(
    dialer: Dialer, make: Callable[[int], bytes], *, target: str = "/ws", protocol: str = "chatd.v1"
) -> None:
    async def one(_number: int) -> None:
        async with dialer.websocket(target, protocol) as stream:
            await flood(stream, make)

    await many(CONNECTIONS, one)


SOCKETIO: Final = "/socket.io/?EIO=4&transport=websocket"


async def on_socketio(dialer: Dialer, make: Callable[[int], bytes]) -> None:
    await on_websocket(
        dialer, lambda number: make(number) if number else frame("40"), target=SOCKETIO, protocol=""
    )


async def names(dialer: Dialer) -> None:
    """Say to rooms with long names that one is not in, by JSON and by Socket.IO."""

    def by_json(number: int) -> bytes:
        name = f"{number:08}" * 7500
        return frame(json.dumps({"do": "say", "id": number, "room": name, "text": "x"}))

    def by_socketio(number: int) -> bytes:
        return frame("42" + json.dumps(["say", {"room": f"{number:08}" * 7500, "text": "x"}]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(on_websocket, dialer, by_json)
        nursery.start_soon(on_socketio, dialer, by_socketio)


async def auths(dialer: Dialer) -> None:
    """Connect to Socket.IO with as many JSON values as fit, and hold the connection."""

    async def one(number: int) -> None:
        size = 65_000 if number % 2 else 900_000
        async with dialer.websocket(SOCKETIO, "") as stream:
            await stream.send_all(frame('40{"x":[' + "[]," * (size // 3) + "0]}"))
            await drain(stream)

    await many(2 * CONNECTIONS, one)


async def sessions(dialer: Dialer) -> None:
    """Open polling sessions over kept connections."""
    opening = request("GET", "/socket.io/?EIO=4&transport=polling")

    async def one(_number: int) -> None:
        async with dialer.dial() as stream:
            await flood(stream, lambda _number: opening * 10)

    await many(10, one)


async def opened(stream: trio.abc.Stream, revision: int = 4) -> str:
    """Open a polling session, and return its id."""
    await stream.send_all(request("GET", f"/socket.io/?EIO={revision}&transport=polling"))
    answer = await stream.receive_some(65536)
    return bytes(answer.partition(b'"sid":"')[2].partition(b'"')[0]).decode()


async def posting(dialer: Dialer, revision: int, bodies: Sequence[bytes], kind: str) -> None:
    jsonp = "&j=0" if "form" in kind else ""

    async def one(number: int) -> None:
        async with dialer.dial() as stream:
            sid = await opened(stream, revision)
            target = f"/socket.io/?EIO={revision}&transport=polling&sid={sid}{jsonp}"
            await stream.send_all(request("POST", target, bodies[number % len(bodies)], kind))
            await stream.receive_some(65536)

    await many(CONNECTIONS // 2, one)


async def forms(dialer: Dialer) -> None:
    """Post forms of many fields, and of many escapes."""
    bodies = [b"a=&" * 333_000, b"d=" + b"%41" * 333_000, b"d=" + b"\\n" * 490_000]
    await posting(dialer, 3, bodies, "application/x-www-form-urlencoded")


async def payloads(dialer: Dialer) -> None:
    """Post payloads of many packets, and chunks of one byte."""
    bodies = [b"3\x1e" * 490_000 + b"3", b"b" + b"A" * 990_000, ("4" + "é" * 490_000).encode()]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(posting, dialer, 4, bodies, "text/plain")
        nursery.start_soon(chunks, dialer)


async def chunks(dialer: Dialer) -> None:
    async def one(_number: int) -> None:
        async with dialer.dial() as stream:
            sid = await opened(stream)
            head = request("POST", f"/socket.io/?EIO=4&transport=polling&sid={sid}").decode()
            await stream.send_all(
                head.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n").encode()
            )
            await flood(stream, lambda _number: b"1\r\nx\r\n" * 1000)

    await many(CONNECTIONS // 10, one)


async def values(dialer: Dialer) -> None:
    """Send JSON of as many and as dear values as fit, by Socket.IO and by chatd.v1."""
    kinds = ["[]", "{}", "1e300", '{"a":1}', '"\\ud800"', "1.2345678901234567e-300", "[" * 30000]
    few = ['42["x",' + ",".join([kind] * min(1900, 65_000 // len(kind))) + "]" for kind in kinds]
    full = ['42["x",' + ",".join([kind] * (65_000 // (len(kind) + 1))) + "]" for kind in kinds]
    frames = [frame(text) for text in (*few, *full)]
    doubled = [
        frame('{"do":"say","room":"a","text":"b","x":[' + ",".join([kind] * count) + "]}")
        for kind in ('{"a":1}', "1e300", "[]")
        for count in (600, 8000)
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(on_socketio, dialer, lambda number: frames[number % len(frames)])
        nursery.start_soon(on_websocket, dialer, lambda number: doubled[number % len(doubled)])


async def refusals(dialer: Dialer) -> None:
    """Send what is refused, many frames at a time, in every protocol."""
    unknown = [frame("/nothing") * 800, frame("") * 1300, frame("/join a b") * 800]
    nonsense = [frame("{}") * 1000, frame("") * 1300, frame('{"do":"leave","room":"x"}') * 300]
    events = [frame('42["nothing"]') * 500, frame('42["say",{}]') * 500]
    control = [frame("", 9) * 1300, frame("", 10) * 1300]
    text = partial(on_websocket, dialer, lambda number: unknown[number % 3], protocol="")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(text)
        nursery.start_soon(on_websocket, dialer, lambda number: nonsense[number % 3])
        nursery.start_soon(on_websocket, dialer, lambda number: control[number % 2])
        nursery.start_soon(on_socketio, dialer, lambda number: events[number % 2])


async def requests(dialer: Dialer) -> None:
    """Ask for paths that there are not, guess sessions, and connect without asking anything."""
    asked = [request("GET", f"/nothing/{number}") * 20 for number in range(3)]
    asked.append(request("GET", "/socket.io/?EIO=4&transport=polling&sid=guess") * 20)
    asked.append(request("GET", "/") * 20)

    async def one(number: int) -> None:
        async with dialer.dial() as stream:
            if number % 2:
                await flood(stream, lambda each: asked[each % len(asked)])

    await many(CONNECTIONS, one)


async def guests(dialer: Dialer) -> None:
    """Come as one new guest after the other, each with a nick."""

    async def one(number: int) -> None:
        nick = f"n{number}-{time.monotonic_ns()}"
        async with dialer.websocket(f"/ws?nick={nick}") as stream:
            await stream.receive_some(65536)

    await many(20, one)


async def reads(dialer: Dialer) -> None:
    """Read the store: search, page, list, join, leave."""
    asked: list[dict[str, object]] = [
        {"do": "search", "room": "lobby", "query": "the " * 60},
        {"do": "search", "room": "lobby", "query": "message"},
        {"do": "history", "room": "lobby", "limit": 500},
        {"do": "rooms"},
        {"do": "who", "room": "lobby", "limit": 500},
        {"do": "join", "room": "lobby", "limit": 500},
        {"do": "leave", "room": "lobby"},
        {"do": "read", "room": "@gaaaaaaaaaaaaaaaa,gbbbbbbbbbbbbbbbb", "seq": 1},
    ]
    frames = [frame(json.dumps({"id": 1, **each})) for each in asked]
    await on_websocket(dialer, lambda number: frames[number % len(frames)])


async def pages(dialer: Dialer) -> None:
    """Say emoji, join again and again, and read slowly or not at all."""
    text = "\U0001f600" * 4096
    said = frame(json.dumps({"do": "say", "room": "lobby", "text": text}))
    join = frame(json.dumps({"do": "join", "room": "lobby", "limit": 500}))

    async def one(number: int) -> None:
        async with dialer.websocket("/ws") as stream:
            await stream.send_all(join)
            while True:
                await stream.send_all(said if number % 4 == 0 else join)
                if number % 2:
                    await trio.sleep(0.1)
                else:
                    await stream.receive_some(65536)

    await many(CONNECTIONS, one)


ATTACKS: Final[dict[str, Attack]] = {
    "names": names,
    "auths": auths,
    "sessions": sessions,
    "forms": forms,
    "payloads": payloads,
    "values": values,
    "refusals": refusals,
    "requests": requests,
    "guests": guests,
    "reads": reads,
    "pages": pages,
}


# ---- the measuring side


def resident(pid: int) -> int:
    """Return a process's resident memory in KiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0])


class Witness:
    """The second client: how long each of its messages took until it came back."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.seconds: list[float] = []
        self._stream = stream
        self._buffer = bytearray()

    async def until(self, mark: bytes) -> None:
        while mark not in self._buffer:
            # What others say is of no interest, but a mark may be cut.
            del self._buffer[: -len(mark)]
            data = await self._stream.receive_some(1 << 20)
            if not data:
                raise ConnectionError("the second client was disconnected")
            self._buffer += data
        self._buffer.clear()

    async def chat(self) -> None:
        await self.until(b'"hello"')
        await self._stream.send_all(frame('{"do":"join","id":1,"room":"quiet"}'))
        await self.until(b'"re":1')
        for number in range(1 << 60):
            mark = f"mark {number} ".encode()
            began = time.perf_counter()
            command = {"do": "say", "room": "quiet", "text": mark.decode()}
            await self._stream.send_all(frame(json.dumps(command)))
            await self.until(mark)
            self.seconds.append(time.perf_counter() - began)
            await trio.sleep(max(PAUSE_SECONDS, 0.2 - self.seconds[-1]))


async def fill(dialer: Dialer) -> None:
    """Give the store something to read."""
    async with dialer.websocket("/ws") as stream:
        reader = Witness(stream)
        await reader.until(b'"hello"')
        await stream.send_all(frame('{"do":"join","id":1,"room":"lobby"}'))
        await reader.until(b'"re":1')
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.until, f'"re":"{MESSAGES - 1}"'.encode())
            for number in range(MESSAGES):
                text = f"message {number}: " + "the quick brown fox jumps over the lazy dog " * 4
                command = {"do": "say", "id": str(number), "room": "lobby", "text": text}
                await stream.send_all(frame(json.dumps(command)))


@contextmanager
def running(folder: Path, port: int, *settings: str) -> Generator[int]:
    """Run a daemon on the store in this folder; give its process id."""
    command = [sys.executable, "-m", "chatd", "serve"]
    command += ["--listen", f"127.0.0.1:{port}", "--listen", f"unix:{folder}/chat.sock"]
    for setting in (f'history.path="{folder}/chatd.db"', 'admin.socket="off"', *settings):
        command += ["--set", setting]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = folder / "log"
    with log.open("wb") as output, pinned(cores()[0]):
        daemon = subprocess.Popen(command, stderr=output, env=environment)
    try:
        while b'"ready"' not in log.read_bytes():
            if daemon.poll() is not None:
                words = log.read_text(encoding="utf-8")
                sys.exit(f"attack_worst: the daemon did not start:\n{words}")
            time.sleep(0.1)
        yield daemon.pid
    finally:
        daemon.terminate()
        daemon.wait()


def played(name: str, given: argparse.Namespace) -> bool:
    """Play one attack on a fresh daemon. Return whether it held."""
    with tempfile.TemporaryDirectory(prefix="chatd-worst-") as made:
        folder, port = Path(made), free_port()
        dialer = Dialer(folder, port, exempt=True)
        unlimited = ('limits.messages_per_second="off"', 'limits.bytes_per_second="off"')
        with running(folder, port, *unlimited):
            trio.run(fill, dialer)
        attack = [sys.executable, __file__, "--attack", name, made, str(port)]
        attack += ["--exempt"] * given.exempt
        with running(folder, port) as pid:
            return trio.run(measured, name, pid, dialer, attack, given)


async def measured(
    name: str, pid: int, dialer: Dialer, command: Sequence[str], given: argparse.Namespace
) -> bool:
    seconds = SECONDS * given.scale
    async with dialer.websocket("/ws") as stream, trio.open_nursery() as nursery:
        witness = Witness(stream)
        nursery.start_soon(witness.chat)
        await trio.sleep(1)
        before, peak = resident(pid), 0
        witness.seconds.clear()
        with pinned(cores()[1]):
            process = await trio.lowlevel.open_process(command)
        try:
            ends = trio.current_time() + seconds
            while trio.current_time() < ends:
                peak = max(peak, resident(pid))
                await trio.sleep(0.2)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        took = sorted(witness.seconds)
        await trio.sleep(given.calm)
        after = resident(pid)
        nursery.cancel_scope.cancel()
    took = took or [seconds]
    p99 = took[int(len(took) * 0.99)]
    grown = after - before
    slow, big = p99 >= given.p99, grown > MEMORY_KIB
    print(
        f"{name:10} {'FAILED' if slow or big else 'ok':6} p50 {took[len(took) // 2] * 1e3:6.1f} ms,"
        f" p99 {p99 * 1e3:6.1f} ms, at most {took[-1] * 1e3:6.1f} ms of {len(took)};"
        f" memory {before // 1024} MiB, {peak // 1024} at most, {grown / 1024:+.1f} afterwards",
        flush=True,
    )
    return not (slow or big)


async def attacking(name: str, folder: Path, port: int, *, exempt: bool) -> None:
    with trio.move_on_after(10 * SECONDS):
        await ATTACKS[name](Dialer(folder, port, exempt=exempt))


def main() -> int:
    parser = argparse.ArgumentParser(description="One address does its worst.")
    parser.add_argument("attacks", nargs="*", choices=[*ATTACKS, []], help="default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="of a minute each")
    parser.add_argument("--calm", type=float, default=CALM_SECONDS, help="seconds afterwards")
    parser.add_argument("--p99", type=float, default=P99_SECONDS, help="in seconds, at most")
    parser.add_argument("--exempt", action="store_true", help="attack from loopback")
    parser.add_argument("--attack", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        name, folder, port = given.attack
        trio.run(partial(attacking, name, Path(folder), int(port), exempt=given.exempt))
        return 0
    # As Ctrl-C: the daemon and the attacking process end first.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        held = [played(name, given) for name in given.attacks or ATTACKS]
    except KeyboardInterrupt:
        return 130
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
