"""Runs a decoder on the worst input that its bounds let through, once for each name on stdin.

`tests.e2e.test_decoders` runs this under Valgrind and counts the instructions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from chatd.budgets import JSON_VALUES
from chatd.chat.names import nick_name, room_name
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import TOKEN_BYTES, Keys
from chatd.engineio import payloads
from chatd.engineio.packets import PacketError, Revision
from chatd.model import Refused
from chatd.protocol.codec import read_command, read_id
from chatd.settings import Settings
from chatd.socketio.packets import Decoder
from chatd.wire.frames import FrameReader
from chatd.wire.heads import HEAD_BYTES
from chatd.wire.request import Request
from chatd.wire.transport import Peer

SIZE: Final = Settings().max_message_bytes
PAYLOAD: Final = Settings().engineio.max_payload_bytes
READ: Final = 8192
PEER: Final = Peer("192.0.2.1", "tcp", loopback=False)

VALUES: Final = {
    "lists": "[]",
    "objects": "{}",
    "fields": '{"a":1}',
    "large floats": "1e300",
    "small floats": "1.2345678901234567e-300",
    "long floats": "0." + "1" * 300,
    "integers": "12345678901234567890",
    "long integers": "1" * 4000,
    "escapes": '"\\\\u00e9\\\\u20ac"'.replace("\\\\", "\\"),
    "half pairs": '"\\\\ud800"'.replace("\\\\", "\\"),
    "strings": '"a"',
}


def filled(head: str, value: str, tail: str) -> Iterator[str]:
    """Make a text with as many of these values as pass, and one with as many as there is room."""
    room = (SIZE - len(head) - len(tail)) // (len(value) + 1)
    marks = 1 + sum(map(value.count, ",[{:"))
    for count in (min(room, (JSON_VALUES - 20) // marks), room):
        yield head + ",".join([value] * count) + tail


def json_command(text: str) -> None:
    try:
        read_command(text)
    except ValueError:
        read_id(text)


def socketio_packet(text: str) -> None:
    with suppress(PacketError, ValueError):
        Decoder(max_values=JSON_VALUES).add(text)


def first(pieces: Iterator[Any]) -> None:
    with suppress(PacketError):
        next(pieces)


def payload(body: bytes, revision: Revision) -> None:
    first(payloads.decode(body, revision, SIZE))


def form(body: bytes) -> None:
    first(payloads.decode_jsonp(body))


def request(name: str, value: str) -> None:
    asked = Request("GET", f"/?{value}" if name == "query" else "/", [(name, value)], PEER)
    asked.query.get("nick")
    asked.header(name)


def refused(make: Callable[[str], object], text: str) -> None:
    with suppress(Refused):
        make(text)


def frames(data: bytes) -> None:
    FrameReader(SIZE).feed(data, 128)


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    for name, value in VALUES.items():
        for few, text in zip(
            ("", " over the bound"),
            filled('{"do":"say","room":"a","text":"b","x":[', value, "]}"),
            strict=True,
        ):
            yield f"chatd.v1, {name}{few}", partial(json_command, text)
        for few, text in zip(("", " over the bound"), filled('2["x",', value, "]"), strict=True):
            yield f"Socket.IO, {name}{few}", partial(socketio_packet, text)
    for name, text in {
        "brackets": "[" * SIZE,
        "commas in text": '["chat message","' + "a,b:{[" * (SIZE // 7) + '"]',
        "quotes in text": '["chat message","' + '\\"' * (SIZE // 2 - 20) + '"]',
        "half pairs in text": '["chat message","' + "\\ud800" * (SIZE // 6 - 10) + '"]',
        "quotes": '"' * SIZE,
    }.items():
        yield f"Socket.IO, {name}", partial(socketio_packet, f"2{text}")
        yield f"chatd.v1, {name}", partial(json_command, text)
    for name, body in {
        "pongs": b"3\x1e" * (PAYLOAD // 2),
        "base64": b"b" + b"A" * (PAYLOAD - 1),
        "text": b"4" + "\u20ac".encode() * (PAYLOAD // 3),
        "emoji": b"4" + "\U0001f600".encode() * (PAYLOAD // 4),
    }.items():
        yield f"a payload, {name}", partial(payload, body, 4)
    for name, body in {
        "pongs": b"1:3" * (PAYLOAD // 3),
        "two bytes": f"{PAYLOAD // 2}:4".encode() + "\xe9".encode() * (PAYLOAD // 2),
        "emoji": f"{PAYLOAD // 2}:4".encode() + "\U0001f600".encode() * (PAYLOAD // 4),
    }.items():
        yield (
            f"a payload of revision 3, {name}",
            partial(payload, body, 3),
        )
    for name, body in {
        "fields": b"a=&" * (PAYLOAD // 3),
        "escapes": b"d=" + b"%41" * (PAYLOAD // 3),
        "equals": b"d=" + b"=" * PAYLOAD,
        "newlines": b"d=" + b"\\n" * (PAYLOAD // 2),
        "doubled newlines": b"d=" + b"\\\\n" * (PAYLOAD // 3),
    }.items():
        yield f"a piece of a form, {name}", partial(form, body)
    for name, opcode in (("empty texts", 0x81), ("pongs", 0x8A), ("fragments", 0x00)):
        begun = b"\x01\x80\0\0\0\0" if not opcode else b""
        data = begun + bytes((opcode, 0x80, 0, 0, 0, 0)) * (READ // 6)
        yield f"a read of frames, {name}", partial(frames, data)
    head = b"\x81\xfe" + (READ - 8).to_bytes(2, "big") + b"mask"
    yield "a read of a long frame", partial(frames, head + b"x" * (READ - 8))
    line = HEAD_BYTES // 2
    yield "a query of escapes", partial(request, "query", "%41" * (line // 3))
    yield "a query of fields", partial(request, "query", "a=&" * (line // 3))
    keys = Keys(read_keys(new_key(symmetric=True).encode()))
    for name, token in {
        "dots": "." * TOKEN_BYTES,
        "letters": "A" * (TOKEN_BYTES - 2) + "..",
        "a part": f"{'eyJ' * (TOKEN_BYTES // 4)}.e30.AAAA",
    }.items():
        yield f"a token, {name}", partial(refused, lambda text: keys.verify(text, 0), token)
    for name, text in {
        "letters": "\u1e9e\u0130" * 16,
        "ideographs": "\u4e00" * 32,
        "wide": "\uff21" * 32,
        "marks": "e\u0301" * 16,
    }.items():
        yield f"a nick, {name}", partial(refused, nick_name, text)
        yield f"a room, {name}", partial(refused, room_name, text + text)


CASES: Final = dict(cases())


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    room_name("warm")
    for name, run in CASES.items():
        if not name.startswith(("a nick", "a room")):  # these would be in the cache
            run()
    say("ready")
    for name in sys.stdin:
        CASES[name.rstrip("\n")]()
        say("done")


if __name__ == "__main__":
    main()
