from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chatd.engineio import payloads
from chatd.engineio.block import Block
from chatd.engineio.packets import (
    MESSAGE,
    Packet,
    PacketError,
    Revision,
    TooBigError,
)

# No surrogates: they are not valid Unicode. U+001E separates revision 4's packets, whoever sends
# it.
TEXT = st.text(st.characters(codec="utf-8"))
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\x1e"))


def looks_doubled(message: str | bytes) -> bool:
    if isinstance(message, bytes) or message.isascii():
        return False
    try:
        message.encode("latin-1").decode()
    except UnicodeError:
        return False
    return True


def packets(messages: list[str | bytes]) -> list[Packet]:
    return [Packet(MESSAGE, message) for message in messages]


def form(body: bytes) -> bytes:
    return b"".join(payloads.decode_jsonp(body))


def joined(
    messages: list[str | bytes], revision: Revision, *, base64: bool = True
) -> tuple[bytes, bool]:
    return payloads.encode(
        [Block((message,), revision) for message in messages], revision, base64=base64
    )


# Revision 4: engine.io-protocol, "Encoding", https://github.com/socketio/engine.io-protocol


def test_a_payload_of_revision_4() -> None:
    assert joined(["hello", "€"], 4) == ("4hello\x1e4€".encode(), False)
    assert joined(["hello", b"\x01\x02\x03\x04"], 4) == (b"4hello\x1ebAQIDBA==", False)


@given(st.lists(PLAIN | st.binary(), min_size=1))
def test_a_payload_of_revision_4_comes_back(messages: list[str | bytes]) -> None:
    body, octets = joined(messages, 4)
    assert not octets
    assert list(payloads.decode(body, 4)) == packets(messages)


@pytest.mark.parametrize(
    "body",
    [b"", b"abc", b"4a\x1e", b"\x1e4a", b"7", b"\xff", b"b!", b"bAQ", b"bA", b"4a\x1eb*AQI="],
)
def test_what_is_no_payload_of_revision_4(body: bytes) -> None:
    with pytest.raises(PacketError):
        list(payloads.decode(body, 4))


def test_packets_before_a_broken_one_are_given() -> None:
    given_ = payloads.decode(b"4a\x1e4b\x1eabc", 4)
    assert [next(given_), next(given_)] == packets(["a", "b"])
    with pytest.raises(PacketError):
        next(given_)


def test_a_message_may_be_empty() -> None:
    assert list(payloads.decode(b"4\x1eb", 4)) == packets(["", b""])


# Revision 3: engine.io-protocol v3, "Encoding"


def test_a_payload_of_revision_3_counts_utf_16_units() -> None:
    assert joined(["hello", "€"], 3) == ("6:4hello2:4€".encode(), False)
    assert joined(["😀"], 3) == ("3:4😀".encode(), False)


def test_a_binary_payload_of_revision_3_in_text() -> None:
    assert joined(["hello", b"\x01\x02\x03\x04"], 3) == (b"6:4hello10:b4AQIDBA==", False)


def test_a_binary_payload_of_revision_3() -> None:
    body, octets = joined(["€", b"\x01\x02\x03\x04"], 3, base64=False)
    assert octets
    assert body == b"\x00\x04\xff4\xe2\x82\xac" + b"\x01\x05\xff\x04\x01\x02\x03\x04"
    body, octets = joined(["hello", "x" * 99], 3, base64=False)
    assert not octets
    big, _ = joined([b"\x07" * 123], 3, base64=False)
    assert big == b"\x01\x01\x02\x04\xff\x04" + b"\x07" * 123


@given(st.lists(TEXT | st.binary(), min_size=1), st.booleans())
def test_a_payload_of_revision_3_comes_back(messages: list[str | bytes], base64: bool) -> None:
    assume(not any(map(looks_doubled, messages)))
    body, octets = joined(messages, 3, base64=base64)
    given_ = payloads.decode_octets(body) if octets else payloads.decode(body, 3)
    assert list(given_) == packets(messages)


def test_a_text_that_its_client_doubled() -> None:
    # As socket.io-client 1.x writes it, and 2.x.
    for text in ("4€", "4é", "4\U0001f600 and é", "4plain"):
        doubled = text.encode().decode("latin-1")
        for body in (doubled, text):
            units = len(body.encode("utf-16-le")) // 2
            (packet,) = payloads.decode(f"{units}:{body}".encode(), 3)
            assert packet.data == text[1:]


def test_an_empty_payload_of_revision_3() -> None:
    assert list(payloads.decode(b"0:", 3)) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"abc",
        b":4",
        b"6:4hell",
        b"1:4x",
        b"-1:4",
        b"1",
        b"99999999999999:4",
        "٣:4ab".encode(),
        b"1:7",
        b"2:4a0:",
        b"2:b9",
        b"5:b4AQI",
        "2:4😀".encode(),
        "9:4😀".encode(),
        b"\xff",
    ],
)
def test_what_is_no_payload_of_revision_3(body: bytes) -> None:
    with pytest.raises(PacketError):
        list(payloads.decode(body, 3))


@pytest.mark.parametrize(
    "body",
    [
        b"\x02\x01\xff4",
        b"\x00\xff4",
        b"\x00\x0a\xff4",
        b"\x00\x02\xff4",
        b"\x00\x01",
        b"\x01\x01\xff\x02",
        b"\x00\x02\xff4\xff",
        b"\x00" + b"\x09" * 20 + b"\xff",
        b"\x00",
    ],
)
def test_what_is_no_binary_payload(body: bytes) -> None:
    with pytest.raises(PacketError):
        list(payloads.decode_octets(body))


# Any bytes

DECODERS: list[Callable[[bytes], Iterator[Packet]]] = [
    lambda body: payloads.decode(body, 4),
    lambda body: payloads.decode(body, 3),
    payloads.decode_octets,
    lambda body: payloads.decode(form(body), 3),
]


@given(st.binary() | st.from_regex(rb"\A([0-9]{1,2}:[b4]?.{0,9}){1,4}\Z", fullmatch=True))
def test_any_bytes_give_packets_or_the_one_error(body: bytes) -> None:
    for decode in DECODERS:
        try:
            for packet in decode(body):
                assert 0 <= packet.type <= 6
        except PacketError:
            pass


# JSONP: engine.io's transports/polling-jsonp


def test_jsonp_is_javascript() -> None:
    assert payloads.encode_jsonp(b"4a", "0") == b'___eio[0]("4a");'
    assert payloads.encode_jsonp(b"4a", "1);alert(2") == b'___eio[12]("4a");'
    script = payloads.encode_jsonp('4"\u2028\u2029\\\n'.encode(), "7")
    assert script == rb'___eio[7]("4\"\u2028\u2029\\\n");'


@given(TEXT)
def test_jsonp_comes_back_as_json(text: str) -> None:
    script = payloads.encode_jsonp(text.encode(), "0").decode()
    assert "\u2028" not in script
    assert json.loads(script.removeprefix("___eio[0](").removesuffix(");")) == text


@pytest.mark.parametrize(
    "text", ["4plain", "4two\nlines", "4\\n", "4\\\\n and \n", "6:4€ ü", '4["a","b & c = d"]']
)
def test_a_form_of_jsonp(text: str) -> None:
    # As engine.io-client 3's polling-jsonp writes it: escaped newlines twice, newlines once.
    escaped = text.replace("\\n", "\\\\n").replace("\n", "\\n")
    assert form(urlencode({"d": escaped}).encode()).decode() == text


@pytest.mark.parametrize("body", [b"", b"e=4a", b"d=4a&d=4b", b"d=%ff", b"\xff", b"d"])
def test_what_is_no_form(body: bytes) -> None:
    with pytest.raises(PacketError):
        list(payloads.decode(form(body), 3))


def test_a_form_has_plus_for_a_space() -> None:
    assert form(f"d={quote_plus('4a b')}".encode()) == b"4a b"


def test_a_form_is_decoded_in_pieces_however_it_is_cut() -> None:
    text = "a\\n%é\\\\n=+&\U0001f600 \\" * 5000
    body = b"d=" + quote_plus(text).encode()
    assert len(list(payloads.decode_jsonp(body))) > 3
    # engine.io 3's transports/polling-jsonp
    expected = re.sub(r"(\\)?\\n", lambda match: match[0] if match[1] else "\n", text)
    assert form(body).decode() == expected.replace("\\\\n", "\\n")


@pytest.mark.parametrize(
    "body", [b"a=&" * 333_000, b"&" * 9, b"d=%", b"d=%4", b"d=%zz", b"d=a%%41", b"d=%\n", b"d=\n"]
)
def test_a_form_of_many_fields_or_with_half_an_escape_is_refused(body: bytes) -> None:
    with pytest.raises(PacketError):
        form(body)


@pytest.mark.parametrize("revision", [3, 4])
def test_a_packet_over_the_bound_is_refused_before_it_is_decoded(revision: Revision) -> None:
    for message in ("a" * 100, "é" * 50, b"a" * 100):
        body, _ = joined([message], revision)
        assert list(payloads.decode(body, revision, 100)) == packets([message])
        with pytest.raises(TooBigError):
            list(payloads.decode(body, revision, 95))
    octets, binary = joined([b"a" * 100], 3, base64=False)
    assert binary
    assert list(payloads.decode_octets(octets, 100)) == packets([b"a" * 100])
    with pytest.raises(TooBigError):
        list(payloads.decode_octets(octets, 99))
