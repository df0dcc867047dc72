"""The limit: a server that is nothing but a loop of `send` of the same frame to all clients.

Usage: sends_server.py PORT. It keeps nothing, checks nothing, and takes whole frames for granted:
what it needs for one delivery is what Python and the kernel need for one `send`.
"""

from __future__ import annotations

import base64
import hashlib
import select
import socket
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
TEXT = 0x1


def accept(listener: socket.socket) -> socket.socket | None:
    """Accept a connection, and answer its opening handshake; None if the client is gone."""
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = client.recv(8192)
        if not data:
            client.close()
            return None
        head += data
    lines = [line.partition(b": ") for line in head.split(b"\r\n")]
    key = next(value for name, _, value in lines if name.lower() == b"sec-websocket-key")
    digest = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + digest + b"\r\n\r\n"
    )
    return client


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return the opcodes and payloads of a client's frames, each shorter than 64 KiB."""
    found = []
    at = 0
    while at < len(data):
        opcode, size, body = data[at] & 0xF, data[at + 1] & 0x7F, at + 2
        if size == 126:
            size, body = int.from_bytes(data[body : body + 2], "big"), body + 2
        mask, body = data[body : body + 4], body + 4
        repeated = (mask * (size // 4 + 1))[:size]
        masked = int.from_bytes(data[body : body + size], "big")
        payload = (masked ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
        found.append((opcode, payload))
        at = body + size
    return found


def framed(payload: bytes) -> bytes:
    size = len(payload)
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return head + payload


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in epoll.poll():
            if descriptor == listener.fileno():
                if (client := accept(listener)) is not None:
                    clients[client.fileno()] = client
                    epoll.register(client, select.EPOLLIN)
                continue
            data = clients[descriptor].recv(8192)
            if not data:
                epoll.unregister(descriptor)
                clients.pop(descriptor).close()
                continue
            for opcode, payload in frames(data):
                if opcode == TEXT:
                    frame = framed(payload)
                    for receiver in clients.values():
                        receiver.send(frame)


if __name__ == "__main__":
    main()
