"""The admin socket's HTTP: no web page reaches it, and every refusal is JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.admin.administered import administered


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "", "chatd.evil"])
@pytest.mark.parametrize("target", ["/status", "/metrics", "/nothing"])
async def test_a_host_that_is_not_ours_is_421(
    autojump_clock: MockClock, host: str, target: str
) -> None:
    async with administered() as one:
        status, headers, body = await one.raw(f"GET {target}", host=host)
        assert (status, headers["content-type"]) == (421, "application/json")
        assert json.loads(body)["error"]["code"] == "misdirected"


@pytest.mark.parametrize("host", ["chatd", "localhost", "localhost:9", "chatd:80"])
async def test_its_own_names(autojump_clock: MockClock, host: str) -> None:
    async with administered() as one:
        assert (await one.raw("GET /status", host=host))[0] == 200


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_what_a_form_can_send_is_not_taken(autojump_clock: MockClock, kind: str) -> None:
    async with administered() as one:
        status, _, _ = await one.raw("POST /drain", b"{}", kind=kind)
        assert status == 415
        assert not one.stop.is_set()
        assert (await one.raw("POST /drain", b"{}", kind="Application/JSON; charset=utf-8"))[
            0
        ] == 200
        assert one.stop.is_set()


async def test_every_refusal_is_json(autojump_clock: MockClock) -> None:
    async with administered() as one:
        assert await one.refused("GET /nothing") == (404, "not_found")
        assert await one.refused("GET /") == (404, "not_found")
        assert await one.refused("GET /drain") == (405, "bad_request")
        status, headers, _ = await one.raw("POST /status", b"{}")
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        assert await one.refused("POST /announce", {"text": "x" * (1 << 20)}) == (
            413,
            "bad_request",
        )
        assert await one.refused("POST /announce", {"text": "x", "txet": "y"}) == (
            *(400, "bad_request"),
        )
        assert await one.refused("POST /announce", [1]) == (400, "bad_request")
        status, headers, _ = await one.raw("POST /announce", b"[" * 200_000)
        assert (status, headers["content-type"]) == (400, "application/json")


async def test_health_and_metrics_are_there_too(autojump_clock: MockClock) -> None:
    async with administered() as one:
        assert (await one.raw("GET /healthz"))[::2] == (200, b"alive\n")
        assert (await one.raw("GET /readyz"))[::2] == (200, b"ready\n")
        assert b"chatd_build_info" in (await one.raw("GET /metrics"))[2]
        one.stop.set()
        assert (await one.raw("GET /healthz"))[0] == 200
        assert (await one.raw("GET /readyz"))[0] == 503


@given(
    body=st.binary(max_size=60) | st.text(max_size=30).map(lambda text: json.dumps(text).encode())
)
async def test_garbage_is_refused_and_nothing_else(body: bytes) -> None:
    async with administered() as one:
        status, headers, answer = await one.raw("POST /announce", body)
        assert (status, headers["content-type"]) == (400, "application/json")
        assert json.loads(answer)["error"]["code"] == "bad_request"
        assert one.chat.logged("fault") == []
