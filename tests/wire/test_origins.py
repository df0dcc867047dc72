from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.wire.origins import check, check_local_host, is_loopback_name
from chatd.wire.request import Request
from chatd.wire.transport import Peer

DEFAULT = ("same", "loopback", "file")
LOCAL = Peer("127.0.0.1", "tcp", loopback=True)
AWAY = Peer("192.0.2.7", "tcp", loopback=False)


def asked(
    origin: str | None,
    host: str = "localhost:3000",
    peer: Peer = LOCAL,
    more: str = "",
    secure: bool = False,
) -> Request:
    headers = [("host", host)]
    if more:
        headers.append((more, "192.0.2.1"))
    if origin is not None:
        headers.append(("origin", origin))
    return Request("GET", "/ws", headers, peer, secure=secure)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "anything"),
        ("http://chat.example.org", "chat.example.org"),
        ("http://chat.example.org", "chat.example.org:80"),
        ("https://chat.example.org", "chat.example.org"),
        ("https://chat.example.org", "CHAT.example.org:443"),
        ("http://chat.example.org:3000", "chat.example.org:3000"),
        ("http://[2001:db8::1]:3000", "[2001:db8::1]:3000"),
        ("http://[2001:db8::1]", "[2001:0DB8:0:0::1]:80"),
        ("http://[::ffff:c000:207]", "192.0.2.7"),
        # The dot ends a complete name: RFC 1034 section 3.1.
        ("http://chat.example.org", "chat.example.org."),
        ("http://chat.example.org.:3000", "chat.example.org:3000"),
        ("https://chat.example.org.", "Chat.Example.Org.:443"),
        ("https://chat.example.org", "chat.example.org:"),
    ],
)
def test_the_same_passes_from_anywhere(origin: str | None, host: str) -> None:
    assert check(asked(origin, host, AWAY), DEFAULT, (), listener_loopback=False) is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://chat.example.org:3001",
        "http://chat.example.org",
        "http://chat.example.org.evil.example:3000",
        "http://evil.example/chat.example.org:3000",
        "http://evil.example#chat.example.org:3000",
        "http://chat.example.org:3000@evil.example",
        "http://chat.example.org:3000, http://evil.example",
        "null",
        "",
        "chat.example.org:3000",
        "http://",
        "http://chat.example.org:port",
        "http://localhost:3000",
        "http://chat.example.org..:3000",
        "http://.:3000",
    ],
)
def test_a_foreign_page_is_refused_by_name(origin: str) -> None:
    request = asked(origin, "chat.example.org:3000", AWAY)
    refusal = check(request, DEFAULT, (), listener_loopback=False)
    assert refusal is not None
    assert refusal.setting == "http.origins"
    assert origin in refusal.message
    assert "http.origins" in refusal.message


def test_same_is_bounded_by_our_names() -> None:
    good = asked("http://chat.example.org:3000", "chat.example.org:3000", AWAY)
    rebound = asked("http://evil.example:3000", "evil.example:3000", AWAY)
    for hosts in (["chat.example.org"], ["chat.example.org:3000"], ["other", "CHAT.example.org"]):
        assert check(good, DEFAULT, hosts, listener_loopback=False) is None
        refusal = check(rebound, DEFAULT, hosts, listener_loopback=False)
        assert refusal is not None
        assert refusal.setting == "http.hosts"
        assert "evil.example:3000" in refusal.message
    assert check(good, DEFAULT, ["chat.example.org:80"], listener_loopback=False) is not None


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:8080",
        "http://127.0.0.1",
        "null",
        "http://[::1]:5000",
        "http://app.localhost:8080",
    ],
)
def test_local_pages_count_only_where_all_is_local(origin: str) -> None:
    assert check(asked(origin), DEFAULT, (), listener_loopback=True) is None
    assert check(asked(origin), DEFAULT, (), listener_loopback=False) is not None
    assert check(asked(origin, peer=AWAY), DEFAULT, (), listener_loopback=True) is not None
    named = asked(origin, "chat.example.org")
    assert check(named, DEFAULT, (), listener_loopback=True) is not None
    for header in ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"):
        forwarded = asked(origin, more=header)
        assert check(forwarded, DEFAULT, (), listener_loopback=True) is not None
    assert check(asked(origin), ["same"], (), listener_loopback=True) is not None


def test_what_a_proxy_passed_on_is_not_local() -> None:
    peer = Peer("127.0.0.1", "tcp", loopback=True, forwarded=True)
    request = asked("http://localhost:8080", peer=peer)
    assert check(request, DEFAULT, (), listener_loopback=True) is not None


@pytest.mark.parametrize(
    ("origin", "host", "passes"),
    [
        ("https://chat.example.org", "chat.example.org", True),
        ("https://chat.example.org:3000", "chat.example.org:3000", True),
        # A page sent without TLS may come from anyone.
        ("http://chat.example.org", "chat.example.org", False),
    ],
)
def test_over_tls_the_port_that_is_not_written_is_443(origin: str, host: str, passes: bool) -> None:
    request = asked(origin, host, AWAY, secure=True)
    assert (check(request, DEFAULT, (), listener_loopback=False) is None) is passes


def named(
    host: str | None, peer: Peer = LOCAL, more: str = "", *, listener_loopback: bool = True
) -> Request:
    headers = [] if host is None else [("host", host)]
    if more:
        headers.append((more, "192.0.2.1"))
    return Request("GET", "/x", headers, peer, listener_loopback=listener_loopback)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:3000", "LOCALHOST.", "app.localhost:3000", "127.0.0.1:3000"),
        *("[::1]:3000", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]:3000", "192.168.1.7", "0.0.0.0"),
        None,
    ],
)
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_on_loopback_local_names_and_addresses_are_ours(host: str | None, address: str) -> None:
    assert check_local_host(named(host, Peer(address, "tcp", loopback=True)), ()) is None


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example:3000", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example"),
        *("notlocalhost", "", ":3000", "127.0.0.1:port", "localhost:99999", "localhost..", "1.2"),
    ],
)
def test_on_loopback_a_name_that_could_be_anywhere_is_not_ours(host: str) -> None:
    refusal = check_local_host(named(host), ())
    assert refusal is not None
    assert (refusal.host, refusal.setting) == (host, "http.hosts")
    assert f'"{host}"' in refusal.message
    assert "http.hosts" in refusal.message
    # Elsewhere every name may be the server's.
    assert check_local_host(named(host, AWAY), ()) is None
    assert check_local_host(named(host, listener_loopback=False), ()) is None
    assert check_local_host(named(host), ["chat.example.org"]) is None
    for header in ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"):
        assert check_local_host(named(host, more=header), ()) is None
    forwarded = Peer("127.0.0.1", "tcp", loopback=True, forwarded=True)
    assert check_local_host(named(host, forwarded), ()) is None


def test_each_word_allows_its_own() -> None:
    assert check(asked("null"), ["loopback"], (), listener_loopback=True) is not None
    assert check(asked("http://localhost:1"), ["file"], (), listener_loopback=True) is not None


def test_a_listed_origin_passes() -> None:
    listed = ["https://chat.example.org"]
    for origin in ("https://chat.example.org", "https://CHAT.example.org:443"):
        assert check(asked(origin, "other", AWAY), listed, (), listener_loopback=False) is None
    for origin in ("http://chat.example.org", "https://chat.example.org:444", "https://a.b"):
        assert check(asked(origin, "other", AWAY), listed, (), listener_loopback=False) is not None


@given(st.text(max_size=40), st.text(max_size=40))
def test_garbage_is_refused_or_passes_and_raises_nothing(origin: str, host: str) -> None:
    check(
        asked(origin, host), [*DEFAULT, "https://a.example"], ["b.example"], listener_loopback=True
    )
    check_local_host(named(host), ())
    is_loopback_name(host)


def test_loopback_names() -> None:
    local = ["localhost", "a.localhost", "127.3.2.1", "::1", "::ffff:127.0.0.1"]
    assert all(map(is_loopback_name, local))
    assert not any(map(is_loopback_name, ["localhost.evil", "128.0.0.1", "::2", "", "0.0.0.0"]))
