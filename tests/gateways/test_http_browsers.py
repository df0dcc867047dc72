"""Which pages may use the chat by HTTP, and what browsers are told."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from chatd.settings import Auth, Http, Settings
from chatd.testing import Harness, open_chat
from tests.gateways.http_requests import Answer, ask, follow, head_of, refused_stream, say
from tests.gateways.raw import LOOPBACK, Raw

EVIL = "https://evil.example"
OURS = "http://localhost:3000"

EXPOSED = "Chatd-Position, Chatd-Recovered, Chatd-More, Retry-After"

FOREIGN = [
    {"Origin": EVIL},
    {"Origin": EVIL, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
    {"Origin": "http://localhost.evil.example:3000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_a_page_of_another_site_is_refused_whatever_it_sends(
    chat: Harness, autojump_clock: MockClock, headers: dict[str, str]
) -> None:
    answers = [
        await ask(chat, f"{method} {target}", body, {**headers, **kind})
        for target in ("/rooms/lobby", "/rooms", "/rooms/a/b")
        for method, body in (("GET", None), ("POST", "a"), ("OPTIONS", None), ("PUT", "a"))
        for kind in ({"Content-Type": "text/plain"}, {"Content-Type": "application/json"})
    ]
    answers.append(await refused_stream(chat, "/rooms/lobby", headers))
    for answer in answers:
        assert (answer.status, answer.code) == (403, "forbidden")
        assert "http.origins" in answer.json["detail"]
        assert not [name for name in answer.headers if name.startswith("access-control")]
    if headers.get("Origin", "null") != "null":
        assert headers["Origin"] in answers[0].json["detail"]
    assert (await ask(chat, "GET /rooms/lobby")).lines == []
    refused = chat.logged("refused")
    assert len(refused) == len(answers)
    assert {line["setting"] for line in refused} == {"http.origins"}
    assert {line["status"] for line in refused} == {403}


async def test_the_body_is_not_read_first(chat: Harness, autojump_clock: MockClock) -> None:
    raw = Raw(await chat.dial(LOOPBACK))
    headers = {"Origin": EVIL, "Content-Length": "1000"}
    await raw.send(head_of("POST /rooms/lobby", headers))
    with trio.fail_after(1):
        assert Answer(*await raw.answer()).code == "forbidden"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": OURS},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-site"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
        {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_other_pages_may(autojump_clock: MockClock, headers: dict[str, str]) -> None:
    origins = ("same", "loopback", "file", "https://friend.example")
    async with open_chat(Settings(http=Http(origins=origins))) as chat:
        posted = await say(chat, "a", headers=headers)
        got = await ask(chat, "GET /rooms/lobby", None, headers)
        missing = await ask(chat, "GET /rooms/nope", None, headers)
        listed = await ask(chat, "GET /rooms", None, headers)
        stream = await follow(chat, "/rooms/lobby", headers)
        assert (posted.status, got.texts, missing.status) == (201, ["a"], 404)
        for answer in (
            posted.headers,
            got.headers,
            missing.headers,
            listed.headers,
            stream.headers,
        ):
            origin = headers.get("Origin")
            assert answer.get("access-control-allow-origin") == origin
            if origin is not None:
                assert answer["access-control-allow-credentials"] == "true"
                assert answer["access-control-expose-headers"] == EXPOSED


async def test_preflight(chat: Harness, autojump_clock: MockClock) -> None:
    asking = {
        "Origin": "http://localhost:8000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "idempotency-key",
    }
    for target in ("/rooms/lobby", "/rooms"):
        answer = await ask(chat, f"OPTIONS {target}", None, asking)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "http://localhost:8000"
        assert answer.headers["access-control-allow-methods"] == "GET, POST"
        allowed = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
        assert answer.headers["access-control-allow-headers"] == allowed
        assert answer.headers["access-control-max-age"] == "600"
    plain = await ask(chat, "OPTIONS /rooms/lobby")
    assert not [name for name in plain.headers if name.startswith("access-control")]


async def test_a_file_may_not_where_tokens_are_asked_for(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(auth=Auth(mode="token", guests=True))) as chat:
        answer = await say(chat, "a", headers={"Origin": "null", "Sec-Fetch-Mode": "cors"})
        assert answer.code == "forbidden"


async def test_a_name_that_was_made_to_point_here(chat: Harness, autojump_clock: MockClock) -> None:
    headers = {"Host": "evil.example:3000", "Origin": "http://evil.example:3000"}
    for line in ("GET /rooms/lobby", "POST /rooms/lobby", "OPTIONS /rooms/lobby", "GET /rooms"):
        answer = await ask(chat, line, b"", headers)
        assert (answer.status, answer.code) == (421, "bad_request")
        assert "http.hosts" in answer.json["detail"]
