"""Members of a room on plain sockets, so that no code of chatd's own is on the client's side.

`PROTOCOLS` has one for each way to connect. `add_members` connects them to the room `lobby`.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Sequence

from receivers import DIALECTS, PING, PONG, TEXT, BenchError, client_frame, connect, server_frame

LIMIT_SECONDS = 20.0
MASK = bytes(4)


class WebSocketMember:
    """A member on a WebSocket; `sent` is what it sends to say `TEXT`."""

    def __init__(
        self, port: int, target: str, opening: Sequence[tuple[bytes, bytes | None]], sent: str
    ) -> None:
        protocols = ("chatd.v1",) if sent.startswith("{") else ()
        self._socket, self._rest = connect(port, target, opening, protocols)
        self._sent = sent
        self.texts: list[bytes] = []
        self._parse()

    def say(self, text: str) -> None:
        self.send(self._sent.replace("TEXT", text))

    def send(self, payload: str) -> None:
        self._socket.sendall(client_frame(TEXT, payload.encode(), MASK))

    @property
    def readable(self) -> Sequence[socket.socket]:
        return [self._socket]

    def close(self) -> None:
        self._socket.close()

    def read(self, _readable: socket.socket) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise BenchError("the daemon closed the connection")
        self._rest += data
        self._parse()

    def _parse(self) -> None:
        while frame := server_frame(self._rest, 0):
            opcode, payload, end = frame
            self._rest = self._rest[end:]
            if opcode == PING:
                self._socket.sendall(client_frame(PONG, payload, MASK))
            elif payload == b"2":  # Engine.IO's ping
                self.send("3")
            else:
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

    def close(self) -> None:
        self._polls.close()
        self._posts.close()

    def read(self, readable: socket.socket) -> None:
        data = readable.recv(65536)
        if not data:
            raise BenchError("the daemon closed the connection")
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


def json_member(port: int, room: str = "lobby") -> Member:
    join = f'{{"do":"join","id":1,"room":"{room}"}}'.encode()
    opening = [(b'{"on":"hello"', join)]
    return WebSocketMember(
        port, "/", opening, f'{{"do":"say","id":2,"room":"{room}","text":"TEXT"}}'
    )


def text_member(port: int, room: str = "lobby") -> Member:
    return WebSocketMember(port, f"/?room={room}", (), "TEXT")


def socketio_member(port: int, room: str = "lobby") -> Member:
    dialect = DIALECTS["socketio-chat"]
    (opened, _), *others = dialect.opening
    opening = [(opened, f'40{{"room":"{room}"}}'.encode()), *others]
    return WebSocketMember(
        port, dialect.target, opening, '420["chat message","TEXT",{"key":"TEXT"}]'
    )


def polling_member(port: int, _room: str = "lobby") -> Member:
    return PollingMember(port)


PROTOCOLS = {
    "json": json_member,
    "text": text_member,
    "socketio": socketio_member,
    "polling": polling_member,
}

# The number of frames that a sender receives beside the message itself.
ANSWERS = {"json": 1, "text": 0, "socketio": 1, "polling": 1}


def add_members(
    members: list[Member], protocol: str, port: int, count: int, room: str = "lobby"
) -> None:
    """Connect more members; return when all are in the room and nothing more arrives."""
    for _ in range(count):
        members.append(PROTOCOLS[protocol](port, room))
        read_until_quiet(members, 0)
    read_until_quiet(members)


def exchange(members: Sequence[Member], text: str, answers: int) -> None:
    """Let the middle member say something; wait until all have it and its answers have come."""
    sender = members[len(members) // 2]
    for member in members:
        member.texts.clear()
    missing = set(members)
    sender.say(text)
    _read(members, lambda: _has(missing, sender, text.encode(), answers))


def _has(missing: set[Member], sender: Member, text: bytes, answers: int) -> bool:
    for member in list(missing):
        wanted = 1 + answers if member is sender else 1
        if len(member.texts) >= wanted and any(text in each for each in member.texts):
            missing.remove(member)
    return not missing


def read_until_quiet(members: Sequence[Member], seconds: float = 0.1) -> None:
    """Read until nothing has arrived for this time."""
    sockets = {each: member for member in members for each in member.readable}
    while readable := select.select(list(sockets), (), (), seconds)[0]:
        for each in readable:
            sockets[each].read(each)


def _read(members: Sequence[Member], done: Callable[[], bool]) -> None:
    sockets = {each: member for member in members for each in member.readable}
    deadline = time.monotonic() + LIMIT_SECONDS
    while not done():
        readable, _, _ = select.select(list(sockets), (), (), 1)
        for each in readable:
            sockets[each].read(each)
        if time.monotonic() > deadline:
            raise BenchError(f"after {LIMIT_SECONDS:g} s some members do not have the message")
