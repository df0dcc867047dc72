"""The keys at an issuer's address: rotated, down, slow, garbage; fetched from a TLS server."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import trio
from joserfc.jwk import RSAKey
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.chat.issuer import (
    AGAIN_SECONDS,
    AWAY_SECONDS,
    FETCH_BYTES,
    REFRESH_SECONDS,
    RETRY_SECONDS,
    FetchError,
    IssuerKeys,
    fetch_keys,
)
from chatd.chat.token_keys import Key, read_key_set
from chatd.logs import open_log
from chatd.model import Refused
from chatd.testing.recording import Recording
from tests.chat.issuers import RSA, Answer, give, published, served
from tests.wire.certificates import client_context

URL = "https://idp.example.org/keys"

OLD = published(RSA.as_dict(private=False, kid="old"))
NEW = published(RSAKey.generate_key(2048, private=False).as_dict(kid="new"))


# ---- when they are fetched


class Issuer:
    """An issuer, whose set is in memory. ``asked`` counts the fetches."""

    def __init__(self) -> None:
        self.set: bytes | None = OLD
        self.asked: list[str] = []
        self.slow = trio.Event()
        self.slow.set()
        self.used: list[list[str]] = []
        self.recording = Recording()
        log = open_log(sink=self.recording, now=lambda: 0)
        self.keys = IssuerKeys(self._use, log, self.fetch)

    def _use(self, keys: Sequence[Key]) -> None:
        self.used.append([key.names[-1] for key in keys])

    async def fetch(self, url: str) -> list[Key]:
        self.asked.append(url)
        await self.slow.wait()
        if self.set is None:
            raise FetchError("connection refused")
        return read_key_set(self.set)

    def logged(self) -> list[tuple[str, Any]]:
        return [
            (name, fields.get("detail", fields.get("total")))
            for name, fields in self.recording.records
        ]


@pytest.fixture
async def issuer(nursery: trio.Nursery) -> AsyncIterator[Issuer]:
    one = Issuer()
    nursery.start_soon(one.keys.run)
    yield one
    nursery.cancel_scope.cancel()


async def test_they_are_fetched_at_once_and_again_from_time_to_time(
    issuer: Issuer, autojump_clock: MockClock
) -> None:
    await wait_all_tasks_blocked()
    assert issuer.asked == []
    issuer.keys.follow(URL)
    await wait_all_tasks_blocked()
    assert (issuer.asked, issuer.used) == ([URL], [["old"]])
    await trio.sleep(REFRESH_SECONDS + 1)
    assert (len(issuer.asked), len(issuer.used)) == (2, 1)
    issuer.set = NEW
    await trio.sleep(REFRESH_SECONDS)
    assert issuer.used == [["old"], ["new"]]
    assert issuer.logged() == [("keys", 1), ("keys", 1)]


async def test_a_token_with_an_unknown_key_has_them_fetched_again(
    issuer: Issuer, autojump_clock: MockClock
) -> None:
    issuer.keys.follow(URL)
    await wait_all_tasks_blocked()
    issuer.set = NEW
    await issuer.keys.look_again()
    assert issuer.used == [["old"], ["new"]]
    # That brought something, so another rotation is found at once too.
    issuer.set = OLD
    await issuer.keys.look_again()
    assert (issuer.used[-1], len(issuer.asked)) == (["old"], 3)


async def test_made_up_keys_do_not_have_the_issuer_asked_for_each(
    issuer: Issuer, autojump_clock: MockClock
) -> None:
    issuer.keys.follow(URL)
    await wait_all_tasks_blocked()
    asked = len(issuer.asked)
    for _ in range(100):
        await issuer.keys.look_again()
    assert len(issuer.asked) == asked + 1
    await trio.sleep(AGAIN_SECONDS)
    await issuer.keys.look_again()
    assert len(issuer.asked) == asked + 2


async def test_all_who_wait_share_one_fetch(
    issuer: Issuer, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    issuer.slow = trio.Event()
    issuer.keys.follow(URL)
    async with trio.open_nursery() as waiting:
        for _ in range(50):
            waiting.start_soon(issuer.keys.look_again)
        await wait_all_tasks_blocked()
        issuer.slow.set()
    assert (issuer.asked, issuer.used) == ([URL], [["old"]])


async def test_an_issuer_that_is_down_keeps_the_old_keys_and_is_logged_once(
    issuer: Issuer, autojump_clock: MockClock
) -> None:
    issuer.keys.follow(URL)
    await wait_all_tasks_blocked()
    issuer.set = None
    await trio.sleep(REFRESH_SECONDS + 10 * RETRY_SECONDS)
    assert issuer.used == [["old"]]
    with pytest.raises(Refused) as caught:
        await issuer.keys.look_again()
    # Nobody knows whether such a token is valid, so its client may come again.
    assert caught.value.refusal.code == "unavailable"
    assert caught.value.refusal.retry_ms
    issuer.set = OLD
    await trio.sleep(RETRY_SECONDS)
    await issuer.keys.look_again()
    assert issuer.logged() == [
        ("keys", 1),
        (
            "warning",
            "The keys of tokens cannot be fetched: connection refused. The old keys stay in use.",
        ),
        ("keys", 1),
    ]
    assert len(issuer.used) == 1


async def test_one_that_is_down_at_the_start_is_asked_again(
    issuer: Issuer, autojump_clock: MockClock
) -> None:
    issuer.set = None
    issuer.keys.follow(URL)
    with pytest.raises(Refused, match="cannot be fetched now"):
        await issuer.keys.look_again()
    asked = len(issuer.asked)
    for _ in range(20):
        with pytest.raises(Refused, match="cannot be fetched now"):
            await issuer.keys.look_again()
    assert len(issuer.asked) == asked
    issuer.set = OLD
    await trio.sleep(AWAY_SECONDS)
    await issuer.keys.look_again()
    assert issuer.used == [["old"]]


async def test_another_address_takes_the_place_of_the_old_one_when_it_answers(
    issuer: Issuer, autojump_clock: MockClock
) -> None:
    issuer.keys.follow(URL)
    await wait_all_tasks_blocked()
    issuer.set = None
    issuer.keys.follow("https://other.example.org/")
    await wait_all_tasks_blocked()
    assert (issuer.asked[-1], issuer.used) == ("https://other.example.org/", [["old"]])
    issuer.set = NEW
    issuer.keys.follow("https://other.example.org/")  # a reload asks at once
    await wait_all_tasks_blocked()
    assert issuer.used == [["old"], ["new"]]
    issuer.keys.follow(None)
    assert issuer.used[-1] == []
    await trio.sleep(REFRESH_SECONDS * 2)
    assert len(issuer.asked) == 3
    await issuer.keys.look_again()


async def test_who_waits_for_an_address_that_was_left_waits_no_longer(
    issuer: Issuer, autojump_clock: MockClock
) -> None:
    issuer.keys.follow(URL)
    await wait_all_tasks_blocked()
    with trio.fail_after(60):
        async with trio.open_nursery() as waiting:
            waiting.start_soon(issuer.keys.look_again)
            issuer.keys.follow(None)


async def test_a_bug_costs_one_fetch(issuer: Issuer, autojump_clock: MockClock) -> None:
    async def broken(url: str) -> list[Key]:
        raise ValueError("broken")

    whole, issuer.keys.fetch = issuer.keys.fetch, broken
    issuer.keys.follow(URL)
    await wait_all_tasks_blocked()
    assert [name for name, _ in issuer.recording.records] == ["fault", "warning"]
    issuer.keys.fetch = whole
    await trio.sleep(AWAY_SECONDS)
    await issuer.keys.look_again()
    assert issuer.used == [["old"]]


async def test_each_address_that_fails_is_logged(issuer: Issuer, autojump_clock: MockClock) -> None:
    issuer.set = None
    for host in ("one", "two"):
        issuer.keys.follow(f"https://{host}.example.org/")
        issuer.keys.follow(f"https://{host}.example.org/")
        await trio.sleep(RETRY_SECONDS * 3)
    assert [name for name, _ in issuer.logged()] == ["warning", "warning"]


async def test_what_comes_from_an_address_that_was_left_is_dropped(
    issuer: Issuer, autojump_clock: MockClock
) -> None:
    issuer.slow = trio.Event()
    issuer.keys.follow(URL)
    await wait_all_tasks_blocked()
    issuer.keys.follow(None)
    issuer.slow.set()
    await wait_all_tasks_blocked()
    assert issuer.used == []


# ---- how they are fetched


def redirect(target: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/there":
            give(handler, OLD)
        else:
            give(handler, b"", 302, Location=target)

    return answer


async def names(url: str) -> list[str]:
    return [key.names[-1] for key in await fetch_keys(url, client_context())]


async def test_a_set_is_fetched() -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append((handler.path, handler.headers["Accept"]))
        give(handler, OLD)

    with served(answer) as url:
        assert await names(url) == ["old"]
    assert seen == [("/keys?a=b", "application/jwk-set+json, application/json")]


async def test_a_redirect_on_the_same_host_is_followed() -> None:
    with served(redirect("/there")) as url:
        assert await names(url) == ["old"]


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send a byte now and then: each is in time, but the whole never comes."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            if DONE.wait(0.05):
                break
    except OSError:
        pass


DONE = threading.Event()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (partial(give, body=b"<!doctype html>"), "it is neither JSON"),
        (partial(give, body=b"{}"), "it is not a set of keys (JWKS)"),
        (partial(give, body=b'{"keys": []}'), "it is a set of keys without a usable one"),
        (partial(give, body=b"\xff" * (FETCH_BYTES + 1)), "the answer has over 262144 bytes"),
        (partial(give, body=b"", status=503), "the answer is 503"),
        (redirect("/keys"), "it redirects too often"),
        (redirect("https://evil.example.org/"), "it redirects to another host"),
        (redirect("https://localhost:1/"), "it redirects to another host"),
        (redirect("http://localhost/"), "it redirects to another host"),
        (redirect(""), "it redirects too often"),
        (lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n"), "the answer is not HTTP"),
        (lambda handler: None, "remote end closed connection without response"),
        (
            lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
            "it is neither JSON",
        ),
    ],
)
async def test_what_is_no_set_is_said(answer: Answer, why: str) -> None:
    with served(answer) as url, pytest.raises(FetchError) as caught:
        await names(url)
    assert str(caught.value).startswith(why)


async def test_a_slow_issuer_is_given_up() -> None:
    with served(drip) as url, pytest.raises(FetchError, match=r"no whole answer within 0\.2 "):
        await fetch_keys(url, client_context(), seconds=0.2)
    DONE.set()


async def test_an_issuer_is_known_by_its_certificate() -> None:
    with served(partial(give, body=OLD)) as url:
        with pytest.raises(FetchError, match="its certificate is not valid: "):
            await fetch_keys(url)
        with pytest.raises(FetchError, match="its certificate is not valid: "):
            await names(url.replace("localhost", "127.0.0.1"))


async def test_one_that_is_not_there_is_said() -> None:
    with pytest.raises(FetchError, match="connection refused"):
        await names("https://127.0.0.1:1/")
    with pytest.raises(FetchError):
        await names(f"https://{'a' * 70}.example.org/")
