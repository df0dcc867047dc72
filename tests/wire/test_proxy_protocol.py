r"""The headers here are written by hand, by haproxy's proxy-protocol.txt, sections 2.1 and 2.2."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.wire.proxy_protocol import Header, ProxyError, parse

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
V4 = bytes([192, 0, 2, 1, 198, 51, 100, 1]) + struct.pack("!HH", 4711, 443)
V6 = (
    ipaddress.ip_address("2001:db8::1").packed
    + ipaddress.ip_address("2001:db8::2").packed
    + struct.pack("!HH", 4711, 443)
)
TLV = b"\x04\x00\x03abc"


def v2(rest: bytes, command: int = 0x21, kind: int = 0x11) -> bytes:
    return SIGNATURE + bytes([command, kind]) + struct.pack("!H", len(rest)) + rest


SOUND = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", "192.0.2.1"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    (b"PROXY TCP6 2001:DB8::1 2001:db8::2 0 443\r\n", "2001:db8::1"),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 1\r\n", "192.0.2.1"),
    (
        b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
        "ffff:" * 7 + "ffff",
    ),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN whatever \x00\xff stands here\r\n", None),
    (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None),
    (v2(V4), "192.0.2.1"),
    (v2(V4 + TLV), "192.0.2.1"),
    (v2(V6, kind=0x21), "2001:db8::1"),
    (v2(V6 + TLV * 1000, kind=0x22), "2001:db8::1"),
    (v2(bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1]) + bytes(20), kind=0x21), "192.0.2.1"),
    (v2(b"/run/a".ljust(108, b"\0") * 2, kind=0x31), None),
    (v2(b"", command=0x20, kind=0x00), None),
    (v2(b"", command=0x20, kind=0x11), None),
    (v2(b"junk", command=0x20, kind=0xFF), None),
    (v2(b"", kind=0x00), None),
    (v2(TLV, kind=0x00), None),
    (v2(V4, kind=0x10), None),
]

UNSOUND = [
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n" + b" " * 80,
    b"PROXY  TCP4 192.0.2.1 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443 \r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n",
    b"PROXY TCP4 192.0.2.01 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 04711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 -1\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.1 4711 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 fe80::2 4711 443\r\n",
    b"PROXY TCP5 192.0.2.1 198.51.100.1 4711 443\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY / HTTP/1.1\r\n",
    b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    b"PROXY " + b"x" * 101,
    v2(V4, command=0x11),
    v2(V4, command=0x22),
    v2(V4, kind=0x41),
    v2(V4, kind=0x13),
    v2(V4[:-1]),
    v2(V4, kind=0x21),
    v2(V6, kind=0x31),
    v2(bytes(16384 - 15)),
]


@pytest.mark.parametrize(("header", "address"), SOUND)
def test_a_sound_header_is_read_in_any_split(header: bytes, address: str | None) -> None:
    whole = Header(len(header), address)
    assert parse(header) == whole
    assert parse(header + b"GET / HTTP/1.1\r\n") == whole
    assert [parse(header[:size]) for size in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize("header", UNSOUND)
def test_an_unsound_header_is_refused_in_any_split(header: bytes) -> None:
    with pytest.raises(ProxyError):
        parse(header)
    refused = False
    for size in range(len(header) + 1):
        try:
            assert parse(header[:size]) is None
            assert not refused
        except ProxyError:
            refused = True
    assert refused


@pytest.mark.parametrize(
    "begin",
    [b"GET / HTTP/1.1\r\n", b"POST", b"PROXYING", b"\x16\x03\x01", b"\r\nGET", b"\r\n\r\n\r"],
)
def test_what_is_no_header_is_left_alone(begin: bytes) -> None:
    assert parse(begin) == Header(0)


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00"]),
    st.binary(max_size=200),
)
def test_garbage_is_a_header_or_none_or_the_one_error(begin: bytes, rest: bytes) -> None:
    data = begin + rest

    def outcome(size: int) -> Header | str | None:
        try:
            return parse(data[:size])
        except ProxyError:
            return "refused"

    # Once it is decided nothing that follows changes it.
    outcomes = [outcome(size) for size in range(len(data) + 1)]
    decided = [each for each in outcomes if each is not None]
    assert decided == [outcomes[-1]] * len(decided)
    assert outcomes[: len(outcomes) - len(decided)] == [None] * (len(outcomes) - len(decided))
