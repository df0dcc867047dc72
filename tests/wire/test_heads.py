from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.wire.heads import body_length, check_head, check_host, parse_upgrade, tokens
from chatd.wire.request import Refused

PIECES = [b"GET / HTTP/1.1", b"Host: a", b"\r\n", b"\n", b"\r", b" ", b"\t", b"x" * 3000, b"\x16"]


def outcome(data: bytes, step: int) -> int | None:
    """Check a head as it comes, ``step`` bytes at a time; the status it is refused with."""
    buffer = bytearray()
    scanned = 0
    for at in range(0, len(data), step):
        buffer += data[at : at + step]
        end = buffer.find(b"\r\n\r\n")
        try:
            check_head(buffer, end, scanned)
        except Refused as refused:
            return refused.response.status
        if end >= 0:
            return None
        scanned = len(buffer)
    return None


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), st.integers(1, 50))
def test_a_head_is_refused_or_not_in_any_split(head: bytes, step: int) -> None:
    data = b"GET" + head
    whole, split = outcome(data, len(data)), outcome(data, step)
    # Which of several faults is found first may differ; whether there is one may not.
    assert (whole is None) == (split is None)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], 0),
        ([("content-length", "0")], 0),
        ([("content-length", "12")], 12),
        ([("transfer-encoding", "chunked")], -1),
    ],
)
def test_the_length_of_a_body(fields: list[tuple[str, str]], length: int) -> None:
    assert body_length(b"", fields, b"1.1") == length


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 3\r\nContent-Length: 3",
        b"content-length: 3\r\nX: y\r\nCONTENT-LENGTH: 4",
        b"Content-Length: 3, 3",
    ],
)
def test_a_second_length_is_refused_even_if_it_is_the_same(lines: bytes) -> None:
    head = b"POST / HTTP/1.1\r\n" + lines + b"\r\n\r\n"
    with pytest.raises(Refused) as caught:
        body_length(head, [("content-length", "3")], b"1.1")
    assert caught.value.response.status == 400


@pytest.mark.parametrize("host", ["", "localhost:3000", "[::1]:3000", "xn--bcher-kva.example"])
def test_hosts(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "a?b", "a\\b", "bücher.example"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(Refused):
        check_host(host)


def test_tokens() -> None:
    assert tokens("Upgrade,keep-alive , ") == ["upgrade", "keep-alive", ""]
    assert tokens(None) == [""]


FIELDS = [
    *(b"Host: a", b"Upgrade: websocket", b"Connection: Upgrade", b"Content-Length: 0"),
    *(b"Transfer-Encoding: chunked", b"X:", b"X:  a \t b\t", b"X: \xe9", b"X: a\x01b", b"X: \x0b"),
    *(b": a", b"X : a", b"X", b"\xe9: a", b"upgrade:websocket", b"Expect: 100-continue"),
]
LINES = [
    *(b"GET / HTTP/1.1", b"GET /a?b=%20 HTTP/1.1", b"GET /\xe9 HTTP/1.1", b"GET  / HTTP/1.1"),
    *(b"POST / HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/1.1 ", b"GET http://a/ HTTP/1.1"),
]


@given(
    st.sampled_from(LINES),
    st.lists(
        st.sampled_from(FIELDS)
        | st.builds(lambda name, value: name + b":" + value, st.binary(), st.binary())
    ),
)
def test_an_upgrade_is_parsed_as_h11_parses_it(line: bytes, fields: list[bytes]) -> None:
    head = b"\r\n".join([line, b"Host: a", b"Upgrade: websocket", *fields, b"", b""])
    end = head.index(b"\r\n\r\n")
    try:
        check_head(bytearray(head), end, 0)
    except Refused:
        return
    parsed = parse_upgrade(head[: end + 4])
    if parsed is None:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head[: end + 4])
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert type(connection.next_event()) is h11.EndOfMessage
    target, headers = parsed
    assert (event.method, event.target, event.http_version) == (b"GET", target.encode(), b"1.1")
    assert [(name.decode(), value.decode("latin-1")) for name, value in event.headers] == headers


@pytest.mark.parametrize(
    "field", [b"X: 1", b"X:", b"X:  a \t b\t", b"X: \xe9", b"Expect: 100-continue"]
)
def test_an_ordinary_upgrade_is_parsed(field: bytes) -> None:
    head = b"\r\n".join(
        [b"GET /ws?a=b HTTP/1.1", b"Host: a", b"UPGRADE: websocket", field, b"", b""]
    )
    parsed = parse_upgrade(head)
    assert parsed is not None
    assert parsed[0] == "/ws?a=b"
    assert parsed[1][:2] == [("host", "a"), ("upgrade", "websocket")]
