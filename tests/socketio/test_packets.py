from __future__ import annotations

import json
import tracemalloc
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatd.engineio import Revision, payloads
from chatd.socketio.errors import PacketError
from chatd.socketio.packets import (
    RESERVED,
    Decoder,
    Packet,
    PacketType,
    encode,
    encode_event,
    make_block,
    with_offset,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
NAMES = st.text().filter(lambda name: name not in RESERVED)
NAMESPACES = st.just("/") | st.text(
    st.characters(exclude_characters=",", exclude_categories=["Cs"]), min_size=1
).map(lambda name: f"/{name}")
IDS = st.none() | st.integers(0, 2**53)


def attachments_of(value: Any) -> int:
    if isinstance(value, bytes):
        return 1
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(attachments_of, value)) if isinstance(value, list) else 0


def forged(value: Any) -> bool:
    """Return whether a value contains something like a placeholder."""
    if isinstance(value, dict):
        return "_placeholder" in value or any(map(forged, value.values()))
    return isinstance(value, list) and any(map(forged, value))


def decoded(*messages: str | bytes, limit: int = 10) -> list[Packet]:
    decoder = Decoder(limit)
    packets = [decoder.add(message) for message in messages]
    return [packet for packet in packets if packet is not None]


@pytest.mark.parametrize(
    ("packet", "messages"),
    [
        (Packet(PacketType.CONNECT), ["0"]),
        (Packet(PacketType.CONNECT, "/", {"sid": "x"}), ['0{"sid":"x"}']),
        (Packet(PacketType.CONNECT, "/admin"), ["0/admin,"]),
        (Packet(PacketType.DISCONNECT, "/admin"), ["1/admin,"]),
        (Packet(PacketType.EVENT, "/", ["hi", 1]), ['2["hi",1]']),
        (Packet(PacketType.EVENT, "/admin", ["hi"], 456), ['2/admin,456["hi"]']),
        (Packet(PacketType.ACK, "/admin", [], 456), ["3/admin,456[]"]),
        (Packet(PacketType.CONNECT_ERROR, "/", {"message": "no"}), ['4{"message":"no"}']),
        (Packet(PacketType.CONNECT_ERROR, "/", "no"), ['4"no"']),
        (
            Packet(PacketType.EVENT, "/", ["hi", b"\1\2"]),
            ['51-["hi",{"_placeholder":true,"num":0}]', b"\1\2"],
        ),
        (
            Packet(PacketType.ACK, "/admin", [{"a": [b"", b"x"]}], 7),
            [
                '62-/admin,7[{"a":[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]}]',
                b"",
                b"x",
            ],
        ),
    ],
)
def test_packets_are_written_as_the_protocol_has_them(
    packet: Packet, messages: list[str | bytes]
) -> None:
    assert encode(packet) == messages
    assert decoded(*messages) == [packet]


@given(NAMESPACES, NAMES, st.lists(VALUES, max_size=4), IDS)
@example("/a", "1", [1], None)
@example("/a", "x", [{"_placeholder": False, "num": b""}], 0)
def test_any_event_survives(
    namespace: str, name: str, args: list[Any], packet_id: int | None
) -> None:
    if forged(args) and attachments_of(args):
        return
    packet = Packet(PacketType.EVENT, namespace, [name, *args], packet_id)
    limit = attachments_of(args)
    assert decoded(*encode(packet), limit=limit) == [packet]
    assert encode_event(name, args, namespace=namespace, packet_id=packet_id) == encode(packet)
    if limit:
        with pytest.raises(PacketError):
            decoded(*encode(packet), limit=limit - 1)


@given(st.lists(VALUES, max_size=4), st.integers(0, 2**53))
def test_any_acknowledgement_survives(args: list[Any], packet_id: int) -> None:
    if forged(args) and attachments_of(args):
        return
    packet = Packet(PacketType.ACK, "/", args, packet_id)
    assert decoded(*encode(packet), limit=100) == [packet]


@given(st.dictionaries(st.text(), SCALARS.filter(lambda value: not isinstance(value, bytes))))
def test_any_auth_survives(auth: dict[str, Any]) -> None:
    packet = Packet(PacketType.CONNECT, "/", auth)
    assert decoded(*encode(packet)) == [packet]


JUNK = st.text() | st.text('0123456[]{}",-/:ae_placeholdrnum\\uD8 ') | st.binary(max_size=4)


@given(st.lists(JUNK, max_size=6))
@example(["5" + "9" * 40 + "-[]"])
@example(["2" + "1" * 5000 + '["a"]'])
@example(["2" + "[" * 100_000])
@example(['51-["a",' + "[" * 500 + '{"_placeholder":true,"num":0}' + "]" * 500 + "]", b"x"])
@example(['2["a",1' + "0" * 6000 + "]"])
@example(['2["a",1e999]'])
def test_anything_is_a_packet_or_the_documented_error(messages: list[str | bytes]) -> None:
    decoder = Decoder()
    try:
        for message in messages:
            packet = decoder.add(message)
            if packet is not None and packet.type is PacketType.EVENT:
                assert packet.data[0] not in RESERVED
    except PacketError:
        pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "9[]",
        "x",
        "2",
        "2{}",
        "2[]",
        "2[{}]",
        "2[null]",
        "2[true]",
        '2["connect"]',
        '2["disconnecting"]',
        '2["newListener"]',
        '2abc["a"]',
        '2-1["a"]',
        "2[",
        '2["a"]x',
        '2["a",NaN]',
        "3[]",
        "31{}",
        "31",
        "0[]",
        '0"x"',
        "0null",
        "1{}",
        '1"x"',
        "4",
        "5[]",
        '5["a"]',
        '5-["a"]',
        '5x-["a"]',
        '511-["a"]',
        '50-["a",{"_placeholder":true,"num":0}]',
        "51-",
        "61-[]",
        '2["a"]\ud800',
        '2["\\ud800" x]',
    ],
)
def test_what_breaks_the_protocol_is_refused(text: str) -> None:
    with pytest.raises(PacketError):
        decoded(text)


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("0/random", Packet(PacketType.CONNECT, "/random")),
        ("01", Packet(PacketType.CONNECT, "/", None, 1)),
        ("0/,", Packet(PacketType.CONNECT, "/")),
        ("0/a?tok=b,", Packet(PacketType.CONNECT, "/a?tok=b")),
        ("2[1,2]", Packet(PacketType.EVENT, "/", [1, 2])),
        ('50-["a"]', Packet(PacketType.EVENT, "/", ["a"])),
        ('2["\\ud83d"]', Packet(PacketType.EVENT, "/", ["\ufffd"])),
        ('2["\\ud83d\\ude00"]', Packet(PacketType.EVENT, "/", ["😀"])),
        (
            '2["a",{"_placeholder":true,"num":0}]',
            Packet(PacketType.EVENT, "/", ["a", {"_placeholder": True, "num": 0}]),
        ),
    ],
)
def test_what_is_odd_and_allowed_is_taken(text: str, packet: Packet) -> None:
    assert decoded(text) == [packet]


def test_attachments_come_right_behind_their_packet() -> None:
    decoder = Decoder()
    with pytest.raises(PacketError):
        decoder.add(b"belongs to nothing")
    decoder = Decoder()
    assert (
        decoder.add('52-["a",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]') is None
    )
    assert decoder.add(b"0") is None
    assert decoder.add(b"1") == Packet(PacketType.EVENT, "/", ["a", b"1", b"0"])
    decoder.add('51-["a",{"_placeholder":true,"num":0}]')
    with pytest.raises(PacketError):
        decoder.add('2["a"]')


@pytest.mark.parametrize("number", ["1", "-1", "0.0", "true", '"0"', "null"])
def test_a_placeholder_names_an_attachment_that_there_is(number: str) -> None:
    with pytest.raises(PacketError):
        decoded(f'51-["a",{{"_placeholder":true,"num":{number}}}]', b"")


@dataclass
class Point:
    x: int
    raw: bytes


def test_json_that_is_encoded_already_is_sent_as_it_is() -> None:
    assert encode_event("e", [msgspec.Raw(b'{"a":[1]}'), b"x"]) == [
        '51-["e",{"a":[1]},{"_placeholder":true,"num":0}]',
        b"x",
    ]


def test_what_is_no_json_of_itself_is_made_json() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    messages = encode_event("a", [Point(1, b"r"), at, {1: (2, bytearray(b"b"))}, float("nan")])
    assert messages[1:] == [b"r", b"b"]
    assert isinstance(messages[0], str)
    assert json.loads(messages[0].partition("-")[2]) == [
        "a",
        {"x": 1, "raw": {"_placeholder": True, "num": 0}},
        "2026-01-02T00:00:00Z",
        {"1": [2, {"_placeholder": True, "num": 1}]},
        None,
    ]


@pytest.mark.parametrize("value", [object(), "\ud800", {"a": {object()}}])
def test_what_cannot_be_json_is_the_callers_fault(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_event("a", [value])


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names_are_not_sent(name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        encode_event(name, [])


def test_the_callers_values_are_not_changed() -> None:
    value = {"a": [b"x"]}
    encode_event("a", [value])
    assert value == {"a": [b"x"]}


PACKETS = [
    Packet(PacketType.EVENT, "/", ["é", {"ключ": "\U0001f600"}], 7),
    Packet(PacketType.ACK, "/комната", ["日本"], 0),
    Packet(PacketType.CONNECT_ERROR, "/", "nicht für dich"),
    Packet(PacketType.EVENT, "/комната", ["é", b"\xe9", "é"]),
]


@pytest.mark.parametrize("packet", PACKETS)
@pytest.mark.parametrize("revision", [3, 4])
def test_a_packet_says_the_same_in_each_revision(packet: Packet, revision: Revision) -> None:
    payload, octets = payloads.encode([make_block(encode(packet), revision)], revision, base64=True)
    assert not octets
    decoder = Decoder()
    came = [decoder.add(part.data) for part in payloads.decode(payload, revision)]
    assert came[-1] == packet


def test_revision_3_is_given_json_in_ascii() -> None:
    said = ["hello", "é € \U0001f600"]
    (text,) = encode(Packet(PacketType.EVENT, "/", said))
    plain, _ = payloads.encode([make_block([text], 4)], 4, base64=False)
    escaped, _ = payloads.encode([make_block([text], 3)], 3, base64=False)
    assert not plain.isascii()
    assert escaped.isascii()
    assert json.loads(escaped.partition(b"42")[2]) == said


def test_an_offset_is_one_more_argument() -> None:
    assert with_offset(['2["a"]'], 'o"') == ['2["a","o\\""]']
    with pytest.raises(TypeError):
        with_offset([b""], "o")


def test_more_values_than_the_bound_are_not_decoded() -> None:
    for value in ("[]", "{}", "1e300", '""', "null", '{"a":1}'):
        text = f'2["x",{",".join([value] * 2000)}]'
        with pytest.raises(PacketError, match="more than 2000 values"):
            Decoder(max_values=2000).add(text)
    text = json.dumps(["x", "a,[b]:" * 5000])
    (packet,) = decoded(f"2{text}")
    assert packet.data == json.loads(text)
    assert Decoder(max_values=3).add(f"2{text}") == packet


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400 + ".0"])
def test_a_number_out_of_range_is_no_json(number: str) -> None:
    with pytest.raises(PacketError):
        decoded(f'2["x",{number}]')


def test_the_size_of_a_packet_is_that_of_its_values_in_memory() -> None:
    for data in (
        ["x"],
        ["x", *[[]] * 500],
        ["x", {str(n): n for n in range(300)}],
        ["x", "é" * 999],
    ):
        decoder = Decoder()
        tracemalloc.start()
        try:
            packet = decoder.add(f"2{json.dumps(data)}")
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert packet is not None
        assert kept <= decoder.size + 200  # the packet itself
    decoder = Decoder()
    decoder.add('51-["x",{"_placeholder":true,"num":0}]')
    decoder.add(b"a" * 5000)
    assert decoder.size > 5000
