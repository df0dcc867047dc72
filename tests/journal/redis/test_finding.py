"""URLs of servers, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from chatd.journal import StoreError
from chatd.journal.redis.finding import Address, find


def test_a_server_is_found_by_its_url() -> None:
    assert find("redis://localhost") == Address("localhost", 6379)
    assert find("redis://10.0.0.1:7000/") == Address("10.0.0.1", 7000)
    assert find("redis://[::1]:7000") == Address("::1", 7000)
    assert find("unix:/run/redis/redis.sock") == Address(path="/run/redis/redis.sock")
    assert find("unix:///run/redis.sock") == Address(path="/run/redis.sock")
    assert find("rediss://redis.example").tls is not None


def test_an_address_is_written_as_people_know_it() -> None:
    assert str(find("redis://[::1]:7000")) == "[::1]:7000"
    assert str(find("rediss://redis.example")) == "redis.example:6379"
    assert str(find("unix:/run/redis.sock")) == "unix:/run/redis.sock"


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("sentinel://a,b/name", "supports neither Sentinel nor Redis Cluster"),
        ("http://localhost", "write redis://HOST:PORT, rediss://HOST:PORT or unix:/PATH"),
        ("", "write redis://HOST:PORT"),
        ("redis://", "write redis://HOST:PORT and nothing else"),
        ("redis://host/chat", "write redis://HOST:PORT and nothing else"),
        ("redis://host?db=1", "write redis://HOST:PORT and nothing else"),
        ("redis://host:70000", "Port out of range"),
        ("redis://redis..example", "label"),
        ("redis://[::1", "Invalid IPv6 URL"),
        ("redis://:secret@host", "history.password_file"),
        ("unix:redis.sock", "the socket's whole path"),
        ("redis://:secret/7@host", "history.password_file"),
        ("sentinel://:secret@a,b/name", "history.password_file"),
        ("reddis://user:secret@host", "history.password_file"),
    ],
)
def test_another_url_is_refused_with_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(StoreError, match=r"^history\.url") as refused:
        find(url)
    assert remedy in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_certificates_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(StoreError, match=r"^history\.tls_ca_file: .*ca\.pem"):
        find("rediss://host", path)
    path.write_text("no certificate")
    with pytest.raises(StoreError, match=r"^history\.tls_ca_file: .*ca\.pem"):
        find("rediss://host", path)
    trustme.CA().cert_pem.write_to_path(path)
    found = find("rediss://host", path)
    assert found.tls is not None
    assert found.tls.get_ca_certs()
