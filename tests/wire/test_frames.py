from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import events
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from chatd.wire import frames
from chatd.wire.frames import Closing, Fault, FrameReader, Item, Ping
from tests.wire.served import masked

MAX = 70_000
KEYS = st.binary(min_size=4, max_size=4)


def read(data: bytes, limit: int = MAX) -> list[Item]:
    return FrameReader(limit).feed(data)


def in_pieces(data: bytes, cuts: list[int], limit: int = MAX) -> list[Item]:
    reader = FrameReader(limit)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[a:b] for a, b in pairwise(places)]
    return [item for piece in pieces for item in reader.feed(piece)]


messages = st.one_of(
    st.text(max_size=300),
    st.binary(max_size=300),
    st.text(min_size=30, max_size=60).map(lambda text: text * 40),
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Any]]:
    """Frames of whole and fragmented messages with pings in between, and their meaning."""
    wire = b""
    meaning: list[Any] = []
    for _ in range(draw(st.integers(0, 4))):
        message = draw(messages)
        kind = 1 if isinstance(message, str) else 2
        payload = message.encode() if isinstance(message, str) else message
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        places = [0, *cuts, len(payload)]
        parts = [payload[a:b] for a, b in pairwise(places)]
        for index, part in enumerate(parts):
            final = 0x80 if index == len(parts) - 1 else 0
            wire += masked(final | (0 if index else kind), part, draw(KEYS))
            if not final and draw(st.booleans()):
                word = draw(st.binary(max_size=125))
                wire += masked(0x89, word, draw(KEYS))
                meaning.append(Ping(bytes((0x8A, len(word))) + word))
        meaning.append(message)
    return wire, meaning


@given(conversations(), st.lists(st.integers(0, 5000), max_size=20))
def test_any_split_gives_the_same(conversation: tuple[bytes, list[Any]], cuts: list[int]) -> None:
    wire, meaning = conversation
    assert in_pieces(wire, cuts) == read(wire) == meaning


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=10))
def test_garbage_gives_an_error_or_nothing_in_any_split(data: bytes, cuts: list[int]) -> None:
    items = in_pieces(data, cuts)
    assert items == read(data)
    assert not any(isinstance(item, Fault) for item in items[:-1])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 8, 9, 10, 128, 129, 130, 136, 137, 138, 193]),
            st.binary(max_size=130),
        ),
        max_size=6,
    ),
    st.lists(st.integers(0, 900), max_size=10),
)
def test_nearly_frames_give_the_same_in_any_split(
    wire: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(masked(head, payload) for head, payload in wire)
    assert in_pieces(data, cuts) == read(data)


@given(messages)
def test_what_wsproto_sends_is_read(message: str | bytes) -> None:
    client = Connection(ConnectionType.CLIENT)
    event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
    assert read(client.send(event)) == [message]


@given(st.text(max_size=70_000).filter(lambda text: text != ""))
def test_wsproto_reads_what_is_sent(message: str) -> None:
    client = Connection(ConnectionType.CLIENT)
    payload = message.encode()
    client.receive_data(frames.text(payload) + frames.ping() + frames.binary(payload))
    received = list(client.events())
    text = "".join(event.data for event in received if isinstance(event, TextMessage))
    data = b"".join(bytes(event.data) for event in received if isinstance(event, BytesMessage))
    assert text == message
    assert data == payload
    assert [e.payload for e in received if isinstance(e, events.Ping)] == [b""]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_lengths_at_their_borders(size: int) -> None:
    assert read(masked(0x81, b"x" * size)) == ["x" * size]
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frames.text(b"x" * size))
    assert "".join(e.data for e in client.events() if isinstance(e, TextMessage)) == "x" * size


BROKEN: list[tuple[str, bytes, int]] = [
    *((f"rsv{bit}", masked(0x81 | bit, b"hi"), 1002) for bit in (0x40, 0x20, 0x10)),
    *((f"opcode {code}", masked(0x80 | code, b""), 1002) for code in (3, 4, 5, 6, 7)),
    *((f"opcode {code}", masked(0x80 | code, b""), 1002) for code in (11, 12, 13, 14, 15)),
    ("no mask", frames.text(b"hi"), 1002),
    ("no mask on a ping", frames.ping(), 1002),
    ("a fragmented ping", masked(0x09, b"hi"), 1002),
    ("a fragmented close", masked(0x08, b""), 1002),
    ("a long ping", masked(0x89, b"x" * 126), 1002),
    ("a long close", masked(0x88, b"\x03\xe8" + b"x" * 124), 1002),
    ("continuation of nothing", masked(0x80, b"hi"), 1002),
    ("continuation of nothing, more to come", masked(0x00, b"hi"), 1002),
    ("continuation after the end", masked(0x81, b"a") + masked(0x80, b"b"), 1002),
    ("text within text", masked(0x01, b"a") + masked(0x81, b"b"), 1002),
    ("binary within text", masked(0x01, b"a") + masked(0x82, b"b"), 1002),
    ("16 bits for 5", b"\x81\xfe\x00\x05" + b"\0" * 4 + b"hello", 1002),
    ("64 bits for 300", b"\x81\xff" + (300).to_bytes(8, "big") + b"\0" * 304, 1002),
    ("the 64th bit", b"\x81\xff" + (1 << 63).to_bytes(8, "big"), 1002),
    ("2^62 bytes", b"\x81\xff" + (1 << 62).to_bytes(8, "big"), 1009),
    ("one byte too many", masked(0x82, b"x" * (MAX + 1)), 1009),
    ("too many in 4-byte text", masked(0x81, "\N{GRINNING FACE}".encode() * (MAX // 4 + 1)), 1009),
    ("too many in two", masked(0x02, b"x" * MAX) + masked(0x80, b"x"), 1009),
    ("text of half a character", masked(0x81, b"\xf0\x9f\x98"), 1007),
    ("a surrogate", masked(0x81, b"\xed\xa0\x80"), 1007),
    ("an overlong slash", masked(0x81, b"\xc0\xaf"), 1007),
    ("over U+10FFFF", masked(0x81, b"\xf4\x90\x80\x80"), 1007),
    ("half a character at the end", masked(0x01, b"\xe2\x82") + masked(0x80, b""), 1007),
    ("a bad byte in the first fragment", masked(0x01, b"\xff"), 1007),
    ("close with one byte", masked(0x88, b"\x03"), 1002),
    ("close with a bad reason", masked(0x88, b"\x03\xe8\xff"), 1007),
    *(
        (f"close with {code}", masked(0x88, code.to_bytes(2, "big")), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ),
]


@pytest.mark.parametrize(("data", "code"), [row[1:] for row in BROKEN], ids=[r[0] for r in BROKEN])
def test_a_broken_rule_is_found_at_once_and_nothing_follows(data: bytes, code: int) -> None:
    items = read(masked(0x81, b"before") + data + masked(0x81, b"after"))
    fault = items[-1]
    assert items[0] == "before"
    assert isinstance(fault, Fault)
    assert fault.close.code == code
    assert "after" not in items
    by_bytes = in_pieces(masked(0x81, b"before") + data[:2000], list(range(2007)))
    if len(data) <= 2000:
        assert by_bytes == items


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1011, 1013, 3000, 3999, 4999])
def test_codes_that_may_be_sent(code: int) -> None:
    payload = code.to_bytes(2, "big") + "tschüß".encode()
    answer = frames.close(code, "tschüß")
    assert read(masked(0x88, payload)) == [Closing(code, "tschüß", answer)]
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(answer)
    [event] = client.events()
    assert isinstance(event, CloseConnection)
    assert (event.code, event.reason) == (code, "tschüß")


@pytest.mark.parametrize("character", ["a", "ü", "€", "\N{GRINNING FACE}"])
def test_a_long_reason_is_cut_between_two_characters(character: str) -> None:
    frame = frames.close(1000, character * 124)
    assert len(frame) <= 127
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frame)
    [event] = client.events()
    assert isinstance(event, CloseConnection)
    assert event.reason == character * (123 // len(character.encode()))


def test_nothing_is_read_after_a_close_frame() -> None:
    reader = FrameReader(MAX)
    items = reader.feed(masked(0x88, b"") + masked(0x81, b"after"))
    assert items == [Closing(1005, "", b"\x88\x00")]
    assert reader.feed(masked(0x81, b"after")) == []


def test_pongs_are_dropped() -> None:
    assert read(masked(0x8A, b"p") + masked(0x81, b"x") + masked(0x8A, b"")) == ["x"]


def test_bad_text_is_found_before_its_frame_ends() -> None:
    reader = FrameReader(MAX)
    frame = masked(0x81, b"x" * 50 + b"\xff" + b"x" * 50)
    assert reader.feed(frame[:50]) == []
    items = reader.feed(frame[50:70])
    assert isinstance(items[0], Fault)
    assert items[0].close.code == 1007


@pytest.mark.parametrize("payload", [b"", b"x"])
def test_fragments_without_end_are_too_big(payload: bytes) -> None:
    """800,000 of them: the reader says no after some thousand, and keeps nothing."""
    reader = FrameReader(MAX)
    assert reader.feed(masked(0x01, payload)) == []
    one = masked(0x00, payload)
    count = 0
    items: list[Item] = []
    while not items:
        items = reader.feed(one * 100)
        count += 100
    assert isinstance(items[0], Fault)
    assert items[0].close.code == 1009
    assert count <= 4 * MAX // 128 + 200
    assert reader.feed(one * 1000) == []


def test_an_honest_client_may_cut_the_largest_message_into_pieces_of_64() -> None:
    payload = b"x" * MAX
    pieces = [payload[at : at + 64] for at in range(0, MAX, 64)]
    wire = masked(0x01, pieces[0]) + b"".join(masked(0x00, piece) for piece in pieces[1:])
    assert read(wire + masked(0x80, b"")) == [payload.decode()]


def test_a_whole_message_may_have_exactly_the_limit() -> None:
    assert read(masked(0x81, b"x" * 100), limit=100) == ["x" * 100]
    small = read(masked(0x81, b"x" * 101), limit=100)
    assert isinstance(small[0], Fault)
    assert small[0].close.code == 1009


@pytest.mark.parametrize("payload", [b"\xff", b"caf\xc3", b"\xed\xa0\x80"])
def test_a_small_text_frame_that_is_not_utf8_is_a_fault(payload: bytes) -> None:
    (fault,) = read(masked(0x81, payload))
    assert isinstance(fault, Fault)
    assert fault.close.code == 1007


@given(st.lists(st.tuples(st.sampled_from([0x81, 0x82, 0x89, 0x8A]), st.binary(max_size=9))))
def test_a_limited_number_of_frames_at_a_time_is_the_same(sent: list[tuple[int, bytes]]) -> None:
    data = b"".join(masked(head, payload if head != 0x81 else b"x") for head, payload in sent)
    whole = read(data)
    reader = FrameReader(MAX)
    items = reader.feed(data, 3)
    while reader.pending:
        items += reader.feed(b"", 3)
    assert items == whole
