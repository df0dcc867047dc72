from __future__ import annotations

from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chatd.client import Address, Backoff, dial_url


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("ws://localhost:3000", "localhost:3000", "/"),
        ("ws://chat.example/ws", "chat.example", "/ws"),
        ("wss://chat.example/ws?a=b", "chat.example", "/ws?a=b"),
        ("ws://[::1]:3000", "[::1]:3000", "/"),
        ("ws://me:secret@host:1", "host:1", "/"),
        ("unix:/run/chatd/chat.sock", "localhost", "/ws"),
        ("unix:///run/chatd/chat.sock", "localhost", "/ws"),
    ],
)
def test_urls(url: str, host: str, target: str) -> None:
    address = dial_url(url)
    assert (address.host, address.target) == (host, target)


@pytest.mark.parametrize(
    ("url", "to"), [("ws://h", ("h", 80)), ("wss://h", ("h", 443)), ("ws://[::1]:3", ("::1", 3))]
)
def test_ports(url: str, to: tuple[str, int]) -> None:
    dial = dial_url(url).dial
    assert isinstance(dial, partial)
    assert dial.args == to


@pytest.mark.parametrize("url", ["", "localhost:3000", "http://h", "ws://", "unix:", "ws://h:x"])
def test_no_url(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        dial_url(url)
    assert "\n" not in str(error.value)


def test_a_starting_nick() -> None:
    address = Address(trio.sleep_forever, target="/ws?room=a")
    assert address.beginning(None) == "/ws?room=a"
    assert address.beginning("a b&c") == "/ws?room=a&nick=a%20b%26c"


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_stays_within_its_bounds(attempt: int, chance: float) -> None:
    backoff = Backoff(first_seconds=0.5, most_seconds=30)
    wait = backoff.seconds(attempt, chance)
    assert 0.25 <= wait <= 30
    assert backoff.seconds(attempt + 1, chance) >= wait
    assert 2 <= backoff.after(2000, chance) <= 2.2
