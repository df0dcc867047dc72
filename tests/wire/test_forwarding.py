from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.wire.forwarding import TrustedProxies, client_address, forwarded
from chatd.wire.transport import Peer

PROXY = Peer("unix", "unix", loopback=False)
TRUSTED = TrustedProxies(["unix", "10.0.0.0/8", "2001:db8:99::/48", "127.0.0.1"])


def asker(*values: str, name: str = "x-forwarded-for") -> Peer:
    headers = [(name, value) for value in values]
    return forwarded(headers, PROXY, TRUSTED, standard=name == "forwarded").peer


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["[2001:DB8::1]:4711"], "2001:db8::1"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        # Forged entries are to the left of the proxy's own.
        (["127.0.0.1, 192.0.2.1"], "192.0.2.1"),
        (["unix:, 192.0.2.1"], "192.0.2.1"),
        (["127.0.0.1", "192.0.2.1"], "192.0.2.1"),
        (["192.0.2.9", "192.0.2.1, 10.1.1.1,10.2.2.2"], "192.0.2.1"),
        (["192.0.2.9, 192.0.2.1, 2001:db8:99::7, unix:"], "192.0.2.1"),
        (["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        (["garbage, 10.2.2.2"], "10.2.2.2"),
    ],
)
def test_the_rightmost_that_is_no_proxy_asks(values: list[str], address: str) -> None:
    peer = asker(*values)
    assert (peer.address, peer.kind, peer.forwarded) == (address, "unix", True)
    assert not peer.loopback
    assert not peer.exempt


@pytest.mark.parametrize("value", ["unknown", "_hidden", "garbage", "192.0.2.1, <script>", "1.2.3"])
def test_a_client_without_an_address_counts_as_the_proxy(value: str) -> None:
    assert asker(value) == Peer("unix", "unix", loopback=False, forwarded=True)
    assert asker(value).limit_key == "unix"


def test_a_local_client_is_loopback_and_still_forwarded() -> None:
    peer = asker("127.0.0.1")
    assert (peer.loopback, peer.forwarded, peer.exempt) == (True, True, True)


def test_a_flood_of_hops_is_cut() -> None:
    assert asker(", ".join(["192.0.2.1", *["10.0.0.1"] * 2000])).address == "10.0.0.1"


def test_the_last_host_and_scheme_count() -> None:
    headers = [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-host", "evil.example, chat.example.org:8443"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-proto", "HTTPS"),
    ]
    told = forwarded(headers, PROXY, TRUSTED)
    assert (told.host, told.secure) == ("chat.example.org:8443", True)
    assert forwarded([("x-forwarded-proto", "http")], PROXY, TRUSTED) == (PROXY, None, False)
    assert forwarded([("x-forwarded-host", "")], PROXY, TRUSTED) == (PROXY, None, None)


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (["for=192.0.2.1"], "192.0.2.1"),
        (['For="[2001:db8::1]:4711";proto=http;by=203.0.113.43'], "2001:db8::1"),
        (["for=127.0.0.1, for=192.0.2.1;proto=https"], "192.0.2.1"),
        (['for="a, for=127.0.0.1", for=192.0.2.1 , for=10.0.0.1'], "192.0.2.1"),
        (['for="\\1\\92.0.2.1"'], "192.0.2.1"),
        # A malformed entry of the client's has its own header line.
        (['for="', "for=192.0.2.1"], "192.0.2.1"),
    ],
)
def test_the_standards_header(values: list[str], address: str) -> None:
    assert asker(*values, name="forwarded").address == address


@pytest.mark.parametrize("value", ['for="', "for", "for=192.0.2.1;;", "=", 'for="a, for=192.0.2.1'])
def test_a_malformed_header_exempts_no_client(value: str) -> None:
    assert asker(value, name="forwarded") == Peer("unix", "unix", loopback=False, forwarded=True)


def test_host_and_scheme_of_the_standards_header() -> None:
    headers = [("forwarded", 'host=evil.example, for=192.0.2.1;host="a.example:1";proto=https')]
    told = forwarded(headers, PROXY, TRUSTED, standard=True)
    assert (told.peer.address, told.host, told.secure) == ("192.0.2.1", "a.example:1", True)


def test_only_the_kind_of_header_that_the_proxy_writes_is_read() -> None:
    headers = [
        ("forwarded", "for=192.0.2.1;host=a.example;proto=http"),
        ("x-forwarded-for", "192.0.2.2"),
        ("x-forwarded-host", "b.example"),
        ("x-forwarded-proto", "https"),
    ]
    for present in (headers, headers[::-1]):
        told = forwarded(present, PROXY, TRUSTED)
        assert (told.peer.address, told.host, told.secure) == ("192.0.2.2", "b.example", True)
        told = forwarded(present, PROXY, TRUSTED, standard=True)
        assert (told.peer.address, told.host, told.secure) == ("192.0.2.1", "a.example", False)
    # The kind that it does not write was invented by the client.
    assert forwarded(headers[:1], PROXY, TRUSTED) == (PROXY, None, None)
    assert forwarded(headers[1:], PROXY, TRUSTED, standard=True) == (PROXY, None, None)


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        (PROXY, True),
        (Peer("10.9.9.9", "tcp", loopback=False), True),
        (Peer("127.0.0.1", "tcp", loopback=True), True),
        (Peer("127.0.0.2", "tcp", loopback=True), False),
        (Peer("192.0.2.1", "tcp", loopback=False), False),
        (Peer("memory", "memory", loopback=True), False),
        # The Unix proxy's PROXY header spoke: its client is no proxy by that.
        (Peer("192.0.2.1", "unix", loopback=False, forwarded=True), False),
        (Peer("10.9.9.9", "unix", loopback=False, forwarded=True), True),
    ],
)
def test_trusted_proxies(peer: Peer, trusted: bool) -> None:
    assert TRUSTED.trusts(peer) is trusted
    assert not TrustedProxies([]).trusts(peer)


@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from(["x-forwarded-for", "x-forwarded-host", "forwarded"]),
            st.text('for=";,\\[]:.0129afunix _%', max_size=60) | st.text(max_size=40),
        ),
        max_size=4,
    ),
)
def test_garbage_raises_nothing_and_exempts_no_client(
    standard: bool, headers: list[tuple[str, str]]
) -> None:
    last = ("forwarded", "for=192.0.2.1") if standard else ("x-forwarded-for", "192.0.2.1")
    told = forwarded([*headers, last], PROXY, TRUSTED, standard=standard)
    assert told.peer.address == "192.0.2.1"
    peer = forwarded(headers, PROXY, TRUSTED, standard=standard).peer
    assert peer.address in ("unix", client_address(peer.address))
