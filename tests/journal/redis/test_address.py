"""URLs of servers, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from chatd.journal import StoreError
from chatd.journal.redis.address import Address, parse_url


def one(url: str) -> Address:
    source = parse_url(url)
    assert source.service == ""
    [address] = source.addresses
    return address


def test_a_url_names_a_server() -> None:
    assert one("redis://localhost") == Address("localhost", 6379)
    assert one("redis://10.0.0.1:7000/") == Address("10.0.0.1", 7000)
    assert one("redis://[::1]:7000") == Address("::1", 7000)
    assert one("unix:/run/redis/redis.sock") == Address(path="/run/redis/redis.sock")
    assert one("unix:///run/redis.sock") == Address(path="/run/redis.sock")
    assert one("redis://localhost").tls is None
    assert one("rediss://redis.example").tls is not None


def test_a_url_names_several_servers_or_sentinels() -> None:
    several = parse_url("redis://a,b:7000,[::1]")
    assert several.addresses == (Address("a"), Address("b", 7000), Address("::1"))
    assert several.service == ""
    sentinels = parse_url("sentinel://a,b:7000/chat")
    assert sentinels.addresses == (Address("a", 26379), Address("b", 7000))
    assert sentinels.service == "chat"
    assert str(sentinels) == "a:26379, b:7000"
    assert parse_url("sentinels://a/chat").addresses[0].tls is not None


def test_an_address_is_written_as_people_know_it() -> None:
    assert str(one("redis://[::1]:7000")) == "[::1]:7000"
    assert str(one("rediss://redis.example")) == "redis.example:6379"
    assert str(one("unix:/run/redis.sock")) == "unix:/run/redis.sock"


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("http://localhost", "sentinel://HOST:PORT/NAME, sentinels://HOST:PORT/NAME or unix:/PATH"),
        ("", "write redis://HOST:PORT"),
        ("redis://", "write redis://HOST:PORT"),
        ("redis://host/chat", "write redis://HOST:PORT and nothing else"),
        ("redis://host?db=1", "write redis://HOST:PORT"),
        ("redis://host:70000", "there is no port 70000"),
        ("redis://host:0", "there is no port 0"),
        ("redis://redis..example", "label"),
        ("redis://[::1", "write redis://HOST:PORT"),
        ("redis://a,,b", "write redis://HOST:PORT"),
        ("sentinel://a,b", "write sentinel://HOST:PORT/NAME and nothing else"),
        ("sentinel://a/b/c", "write sentinel://HOST:PORT/NAME and nothing else"),
        ("redis://:secret@host", "history.password_file"),
        ("unix:redis.sock", "the socket's whole path"),
        ("redis://:secret/7@host", "history.password_file"),
        ("sentinel://:secret@a,b/name", "history.password_file"),
        ("reddis://user:secret@host", "history.password_file"),
    ],
)
def test_another_url_is_refused_with_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(StoreError, match=r"^history\.url") as refused:
        parse_url(url)
    assert remedy in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_certificates_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(StoreError, match=r"^history\.tls_ca_file: .*ca\.pem"):
        parse_url("rediss://host", path)
    path.write_text("no certificate")
    with pytest.raises(StoreError, match=r"^history\.tls_ca_file: .*ca\.pem"):
        parse_url("rediss://host", path)
    trustme.CA().cert_pem.write_to_path(path)
    found = parse_url("rediss://host", path)
    [address] = found.addresses
    assert address.tls is not None
    assert address.tls.get_ca_certs()
