"""Count the calls of one `say`: how many of chatd's own functions run, and in how many files.

A real daemon with three members in one room and SQLite runs in a process of its own under
`sys.setprofile`; one member says something, and everything is counted from the first byte that
comes in until nobody is sent anything any more. Functions of the standard library, Trio, msgspec
and other packages are left out. A coroutine that goes on after a wait is a call again, and so is a
comprehension: both are places that a reader has to visit.

    python bench/trace.py                    # every protocol
    python bench/trace.py json --tree        # and the calls, indented, each with its file and line
    python bench/trace.py --checkout ../old  # another checkout's daemon
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from receivers import DIALECTS, PING, PONG, client_frame, connect, server_frame
from servers import UNLIMITED, ServerError, environment, free_port

MEMBERS = 3
TIMES = 9  # a timer that fires in between adds calls, so the most common count is taken
QUIET_SECONDS = 0.1  # nothing comes for so long: everything that the message caused is done
LIMIT_SECONDS = 20.0
NOT_COUNTED = ("client", "testing")
MASK = bytes(4)


# The daemon's process.


def serve_traced(root: Path, arguments: Sequence[str]) -> int:
    """Run the daemon; record calls between the lines `on` and `off` of stdin, and write them."""
    package = f"{root / 'chatd'}/"
    calls: list[tuple[str, int, str, int]] = []
    depths: Counter[int] = Counter()  # of each thread
    recording = False

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if not recording or event not in {"call", "return"}:
            return
        code = frame.f_code
        if not code.co_filename.startswith(package):
            return
        name = code.co_filename.removeprefix(package)
        if name.startswith(tuple(f"{folder}/" for folder in NOT_COUNTED)):
            return
        thread = threading.get_ident()
        if event == "call":
            calls.append((name, code.co_firstlineno, code.co_qualname, depths[thread]))
            depths[thread] += 1
        else:
            depths[thread] -= 1

    def obey() -> None:
        nonlocal recording
        for line in sys.stdin:
            recording = line == "on\n"
            if recording:
                calls.clear()
                depths.clear()
            print(json.dumps(None if recording else calls), flush=True)

    threading.Thread(target=obey, daemon=True).start()
    threading.setprofile(profile)
    sys.setprofile(profile)
    from chatd.__main__ import main  # noqa: PLC0415  after the profile function is set

    return main(["serve", *arguments])


@dataclass(frozen=True, slots=True)
class Call:
    file: str
    line: int
    function: str
    depth: int


class Daemon:
    """The daemon's process, and the switch of its recording."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "log"
        command = [sys.executable, __file__, "--serve", str(checkout), "--"]
        command += ["--listen", f"127.0.0.1:{self.port}"]
        for setting in (*UNLIMITED, f'history.path="{folder / "chatd.db"}"'):
            command += ["--set", setting]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env=environment(checkout, folder),
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while '"event":"ready"' not in self._log.read_text(encoding="utf-8"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"the daemon did not start:\n{self._log.read_text()}")
            time.sleep(0.02)

    def record(self) -> None:
        self._ask("on")

    def recorded(self) -> list[Call]:
        return [Call(*call) for call in self._ask("off")]

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, word: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


# The members, one class for each way to be connected.


class WebSocketMember:
    """A member on a WebSocket; `dialect` says how it enters and what a message is."""

    def __init__(
        self, port: int, target: str, opening: Sequence[tuple[bytes, bytes | None]], sent: str
    ) -> None:
        protocols = ("chatd.v1",) if sent.startswith("{") else ()
        self._socket, self._rest = connect(port, target, opening, protocols)
        self._sent = sent
        self.texts: list[bytes] = []

    def say(self, text: str) -> None:
        frame = client_frame(1, self._sent.replace("TEXT", text).encode(), MASK)
        self._socket.sendall(frame)

    @property
    def readable(self) -> Sequence[socket.socket]:
        return [self._socket]

    def read(self, _readable: socket.socket) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ServerError("the daemon hung up")
        self._rest += data
        while frame := server_frame(self._rest, 0):
            opcode, payload, end = frame
            self._rest = self._rest[end:]
            if opcode == PING:
                self._socket.sendall(client_frame(PONG, payload, MASK))
            self.texts.append(payload)


class PollingMember:
    """A Socket.IO client by long polling: one connection for its polls, one for its posts."""

    def __init__(self, port: int) -> None:
        self.texts: list[bytes] = []
        self._target = "/socket.io/?EIO=4&transport=polling"
        address = ("127.0.0.1", port)
        self._polls = socket.create_connection(address, LIMIT_SECONDS)
        self._posts = socket.create_connection(address, LIMIT_SECONDS)
        self._rest = {self._polls: b"", self._posts: b""}
        self._poll()
        while not self.texts:
            self.read(self._polls)
        opened = json.loads(self.texts.pop()[1:])
        self._target += f"&sid={opened['sid']}"
        self._post("40")
        self._poll()

    def say(self, text: str) -> None:
        self._post(f'420["chat message","{text}",{{"key":"{text}"}}]')

    @property
    def readable(self) -> Sequence[socket.socket]:
        return [self._polls, self._posts]

    def read(self, readable: socket.socket) -> None:
        data = readable.recv(65536)
        if not data:
            raise ServerError("the daemon hung up")
        self._rest[readable] += data
        head, found, body = self._rest[readable].partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if not found or len(body) < int(fields[b"content-length"]):
            return
        self._rest[readable] = b""
        if readable is self._polls:
            packets = body.split(b"\x1e")
            self.texts += packets
            if b"2" in packets:
                self._post("3")
            if "sid=" in self._target:
                self._poll()

    def _poll(self) -> None:
        self._polls.sendall(f"GET {self._target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def _post(self, packet: str) -> None:
        self._posts.sendall(
            f"POST {self._target} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(packet)}\r\n\r\n{packet}".encode()
        )


Member = WebSocketMember | PollingMember


def json_member(port: int) -> Member:
    join = b'{"do":"join","id":1,"room":"lobby"}'
    opening = [(b'{"on":"hello"', join)]
    return WebSocketMember(port, "/", opening, '{"do":"say","id":2,"room":"lobby","text":"TEXT"}')


def text_member(port: int) -> Member:
    return WebSocketMember(port, "/", (), "TEXT")


def socketio_member(port: int) -> Member:
    dialect = DIALECTS["socketio-chat"]
    return WebSocketMember(
        port, dialect.target, dialect.opening, '420["chat message","TEXT",{"key":"TEXT"}]'
    )


PROTOCOLS = {
    "json": json_member,
    "text": text_member,
    "socketio": socketio_member,
    "polling": PollingMember,
}


def receive(members: Sequence[Member], text: str | None) -> None:
    """Read until nothing comes any more; every member must have the text by then."""
    sockets = {each: member for member in members for each in member.readable}
    deadline = time.monotonic() + LIMIT_SECONDS
    missing = list(members) if text is not None else []
    while True:
        readable, _, _ = select.select(list(sockets), (), (), QUIET_SECONDS)
        for each in readable:
            sockets[each].read(each)
        missing = [m for m in missing if not any((text or "").encode() in t for t in m.texts)]
        if not missing and not readable:
            return
        if time.monotonic() > deadline:
            raise ServerError(f"{len(missing)} members were not sent {text!r}")


def trace(protocol: str, checkout: Path) -> list[Call]:
    """Trace one `say` several times; return the calls of the most common count."""
    traces: list[list[Call]] = []
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(checkout, Path(folder))
        try:
            daemon.wait_ready()
            members: list[Member] = []
            for _ in range(MEMBERS):
                members.append(PROTOCOLS[protocol](daemon.port))
                receive(members, None)
            for number in range(TIMES):
                daemon.record()
                members[1].say(f"text {number}")
                receive(members, f"text {number}")
                traces.append(daemon.recorded())
        finally:
            daemon.close()
    ((count, _),) = Counter(map(len, traces)).most_common(1)
    return next(calls for calls in traces if len(calls) == count)


def summary(calls: Sequence[Call]) -> dict[str, int]:
    files = [call.file for call in calls]
    return {
        "calls": len(calls),
        "functions": len({(call.file, call.line, call.function) for call in calls}),
        "files": len(set(files)),
        "changes of file": sum(a != b for a, b in pairwise(files)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="count chatd's own calls of one `say`")
    parser.add_argument("protocols", nargs="*", metavar="PROTOCOL", help=", ".join(PROTOCOLS))
    parser.add_argument("--tree", action="store_true", help="print the calls too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--checkout",
        type=Path,
        default=Path(__file__).resolve().parents[1],
        metavar="FOLDER",
        help="whose daemon is traced; this one's by default",
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args()
    if given.serve is not None:
        return serve_traced(
            given.serve, [each for each in [*given.protocols, *rest] if each != "--"]
        )
    if rest or set(given.protocols) - set(PROTOCOLS):
        parser.error(f"the protocols are {', '.join(PROTOCOLS)}")
    figures: dict[str, dict[str, int]] = {}
    try:
        for protocol in given.protocols or PROTOCOLS:
            calls = trace(protocol, given.checkout.resolve())
            figures[protocol] = summary(calls)
            if given.tree:
                print(f"\n{protocol}")
                for call in calls:
                    print(f"{'  ' * call.depth}{call.function}  {call.file}:{call.line}")
    except ServerError as error:
        print(f"trace: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(figures, indent=2))
        return 0
    names = next(iter(figures.values()))
    print(f"\n{'one say by':12}" + "".join(f"{name:>17}" for name in names))
    for protocol, counts in figures.items():
        print(f"{protocol:12}" + "".join(f"{count:17}" for count in counts.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
