"""The contract of docs/http.md on the real process, over real sockets, part by part."""

from __future__ import annotations

import json
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from chatd import client
from chatd.testing import Harness
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.programs import chatd_says
from tests.e2e.test_tokens import issued
from tests.gateways.http_requests import Answer, ask, follow, head_of, refused_stream, say
from tests.gateways.raw import Raw

EVIL = {"Origin": "https://evil.example"}

ADMIN = "admin.sock"

NOBODY = 65534
"""The uid of a user that every system has."""


def from_address(address: str) -> dict[str, str]:
    """Return the header with which a proxy on this machine passes on a client's address."""
    return {"X-Forwarded-For": address}


@contextmanager
def full_disk(chatd: ChatdProcess) -> Iterator[None]:
    """Let every write of a daemon to a file fail, until the end of the block."""
    before = resource.prlimit(chatd.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(chatd.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(chatd.pid, resource.RLIMIT_FSIZE, before)


class Port:
    """A daemon's port, to which the requests of `http_requests` go in place of a harness."""

    def __init__(self, chatd: ChatdProcess) -> None:
        self._port = chatd.port

    async def dial(self, _peer: object = None) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self._port)


class UnixSocket:
    """A daemon's Unix socket, likewise."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def dial(self, _peer: object = None) -> trio.SocketStream:
        return await trio.open_unix_socket(self._path)


class Contract:
    """What each part of the test needs: the daemon, and headers of users."""

    def __init__(
        self, chatd: ChatdProcess, socket: Path, operator: client.Chat, token: str, late: str
    ) -> None:
        self.chatd = chatd
        self.chat = cast("Harness", Port(chatd))
        self.admin = chatd.history.with_name(ADMIN)
        self.socket = socket
        self.operator = operator
        self.token = token
        self.ann = {"Authorization": f"Bearer {token}"}
        self.late = {"Authorization": f"Bearer {late}"}

    async def methods(self) -> None:
        got = await ask(self.chat, "GET /rooms/lobby")
        head = await ask(self.chat, "HEAD /rooms/lobby", None, {"Accept": "text/event-stream"})
        assert (got.status, head.status, head.body) == (200, 200, b"")
        assert head.headers["content-type"] == "application/x-ndjson"
        options = await ask(self.chat, "OPTIONS /rooms/lobby")
        assert (options.status, options.body) == (204, b"")
        put = await ask(self.chat, "PUT /rooms/lobby", "x")
        assert (put.status, put.code) == (405, "bad_request")
        assert put.headers["allow"] == "GET, HEAD, OPTIONS, POST"

    async def names(self) -> None:
        said = await say(self.chat, "x", "a%2Fb+%C3%A9", headers=self.ann)
        assert said.json["room"] == "a/b+\u00e9"
        assert (await ask(self.chat, "GET /rooms/a/b")).status == 404
        assert (await ask(self.chat, "GET /rooms/a%2Fb+%C3%A9?what=ever")).texts == ["x"]
        listed = (await ask(self.chat, "GET /rooms")).json["rooms"]
        assert "a/b+\u00e9" in [room["room"] for room in listed]
        assert (await ask(self.chat, "GET /rooms/unknown")).code == "not_found"
        assert "unknown" not in (await ask(self.chat, "GET /rooms")).body.decode()

    async def identity(self) -> None:
        by_token = (await say(self.chat, "x", "who", headers=self.ann)).json
        assert (by_token["user"], by_token["nick"]) == ("ann", "ann")
        cookie = {"Cookie": f"token={self.token}"}
        assert (await say(self.chat, "x", "who", headers=cookie)).json["user"] == "ann"
        async with client.connect(self.chatd.url, nick="guest") as guest:
            session = {"Authorization": f"Bearer {guest.identity.session}"}
            same = (await say(self.chat, "x", "who", headers=session)).json
            assert (same["user"], same["nick"]) == (guest.identity.user, "guest")
            taken = await say(self.chat, "x", "who", "guest")
            assert (taken.status, taken.code) == (409, "nick_taken")
            direct = (await say(self.chat, "x", "@guest", "ci")).json
            assert (direct["kept"], "seq" in direct) == (False, False)
            by_ids = ",".join(sorted([direct["user"], str(guest.identity.user)]))
            assert direct["room"] == f"@{by_ids}"
            assert (await say(self.chat, "x", f"@{by_ids}", "ci")).status == 201
        bad = await say(self.chat, "x", "who", headers={"Authorization": "Bearer x"})
        assert (bad.status, bad.headers["www-authenticate"]) == (401, "Bearer")
        in_url = await ask(self.chat, f"POST /rooms/who?token={self.token}", "x")
        assert in_url.json["nick"].startswith("guest-")
        users = [(await say(self.chat, "x", "who", "ci")).json["user"] for _ in range(2)]
        assert users[0] == users[1]
        assert (await say(self.chat, "x", "who")).json["nick"].startswith("guest-")

    async def nicks_of_an_address(self) -> None:
        here, elsewhere = from_address("192.0.2.8"), from_address("198.51.100.8")
        for number in range(8):
            line = f"GET /rooms/lobby?nick=job{number}"
            assert (await ask(self.chat, line, None, here)).status == 200
        ninth = await say(self.chat, "x", "nicks", "job8", headers=here)
        assert (ninth.status, ninth.code) == (429, "rate_limited")
        assert "retry-after" in ninth.headers
        assert (await refused_stream(self.chat, "/rooms/nicks?nick=job8", here)).status == 429
        assert (await say(self.chat, "x", "nicks", "job7", headers=here)).status == 201
        assert (await say(self.chat, "x", "nicks", "job7", headers=elsewhere)).code == "nick_taken"
        assert (await say(self.chat, "x", "nicks", "job8", headers=elsewhere)).status == 201

    async def limits_of_an_address(self) -> None:
        here, elsewhere = from_address("192.0.2.9"), from_address("198.51.100.9")
        # Each user may say much more. A second later, the address may say one more.
        said = 0
        while (answer := await say(self.chat, "x", "crowd", f"c{said % 4}", here)).status == 201:
            said += 1
            assert said < 100
        assert (answer.status, answer.code, said >= 3) == (429, "rate_limited", True)
        assert "retry-after" in answer.headers
        assert (await say(self.chat, "x", "crowd", headers=elsewhere)).status == 201
        crowded = from_address("192.0.2.10")
        streams = [await follow(self.chat, "/rooms/crowd", crowded) for _ in range(10)]
        for target in ("/rooms/crowd", "/rooms/lobby?nick=other"):
            more = await refused_stream(self.chat, target, crowded)
            assert (more.status, more.code) == (429, "rate_limited")
        for stream in streams:
            await stream.aclose()
        await self.operator.ban(network="203.0.113.0/24")
        banned = await say(self.chat, "x", "crowd", headers=from_address("203.0.113.9"))
        assert (banned.status, banned.code) == (403, "banned")

    async def unix_socket(self) -> None:
        chat = cast("Harness", UnixSocket(self.socket))
        users = [(await say(chat, "x", "box", "box")).json["user"] for _ in range(2)]
        assert users[0] == users[1]
        assert (await say(self.chat, "x", "box", "box")).code == "nick_taken"
        if os.geteuid():
            return  # only root can be another user
        self.socket.chmod(0o666)
        curl = ["curl", "-s", "-d", "x", "--unix-socket", str(self.socket)]
        for nick, code in (("box", "nick_taken"), ("other", None)):
            command = [*curl, f"http://localhost/rooms/box?nick={nick}"]
            done = await trio.run_process(command, capture_stdout=True, user=NOBODY)
            assert json.loads(done.stdout).get("code") == code

    async def forgotten(self) -> None:
        users = []
        for _ in range(3):
            said = await say(self.chat, "x", "forgotten", "secret")
            assert said.json["nick"] == "secret"
            users.append(said.json["user"])
            forget = ("ctl", "--socket", self.admin, "forget", users[-1])
            assert await chatd_says(*forget) == (0, b"Done.\n", "")
        assert len(set(users)) == 3
        assert (await ask(self.chat, "GET /rooms/forgotten")).texts == [None, None, None]

    async def browsers(self) -> None:
        for headers in (EVIL, {"Sec-Fetch-Site": "cross-site"}):
            for line in ("POST /rooms/lobby", "GET /rooms/lobby", "GET /rooms"):
                assert (await ask(self.chat, line, b"", headers)).code == "forbidden"
        ours = {"Origin": "http://localhost:3000"}
        allowed = await ask(self.chat, "GET /rooms", None, ours)
        assert allowed.headers["access-control-allow-origin"] == ours["Origin"]
        for answer in (allowed, await ask(self.chat, "GET /rooms/unknown", None, EVIL)):
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert answer.headers["vary"] == "Origin, Accept, Authorization, Cookie"
        preflight = await ask(self.chat, "OPTIONS /rooms/lobby", None, ours)
        assert preflight.headers["access-control-max-age"] == "600"
        assert preflight.headers["access-control-allow-methods"] == "GET, POST"
        assert preflight.headers["access-control-allow-headers"] == (
            "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
        )
        assert allowed.headers["access-control-expose-headers"] == (
            "Chatd-Position, Chatd-Recovered, Chatd-More, Retry-After"
        )
        elsewhere = await ask(self.chat, "GET /rooms", None, {"Host": "evil.example"})
        assert (elsewhere.status, elsewhere.code) == (421, "bad_request")

    async def messages(self) -> None:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await say(self.chat, "a=b%20\n", "texts", headers=form)).status == 201
        kind = {"Content-Type": "application/json", "Idempotency-Key": '"k"'}
        body = json.dumps({"text": "once", "reply_to": 1})
        said = [await ask(self.chat, "POST /rooms/texts", body, kind) for _ in range(2)]
        assert [answer.status for answer in said] == [201, 200]
        assert said[1].json["duplicate"] is True
        differs = await ask(self.chat, "POST /rooms/texts", '{"text": "x", "key": "other"}', kind)
        assert (differs.status, differs.code) == (400, "bad_request")
        assert (await ask(self.chat, "GET /rooms/texts")).texts == ["a=b%20", "once"]
        for headers in (
            {"Content-Type": "multipart/form-data; boundary=x"},
            {"Content-Encoding": "gzip"},
            {"Content-Type": "text/plain; charset=latin-1"},
        ):
            assert (await say(self.chat, "x", "texts", headers=headers)).status == 415
        raw = Raw(await self.chat.dial())
        await raw.send(head_of("POST /rooms/texts", {"Content-Length": "70000"}))
        assert (await raw.answer())[0] == 413
        assert await raw.rest() == b""
        await raw.aclose()

    async def pages(self) -> None:
        start = (await ask(self.chat, "GET /rooms/lobby")).headers["chatd-position"]
        for text in ("1", "2", "3"):
            await say(self.chat, text, headers=self.ann)
        page = await ask(self.chat, f"GET /rooms/lobby?since={start}&limit=2")
        assert page.headers["content-type"] == "application/x-ndjson"
        assert page.headers["chatd-recovered"] == page.headers["chatd-more"] == "true"
        assert page.texts == ["1", "2"]
        rest = await ask(self.chat, f"GET /rooms/lobby?since={page.headers['chatd-position']}")
        assert (rest.texts, "chatd-more" in rest.headers) == (["3"], False)
        gone = await ask(self.chat, "GET /rooms/lobby?since=gone&limit=1")
        assert (gone.texts, gone.headers["chatd-recovered"]) == (["3"], "false")

    async def streams(self) -> None:
        stream = await follow(self.chat, "/rooms/live?nick=fan", {"Accept-Encoding": "gzip"})
        assert "content-encoding" not in stream.headers
        assert await stream.block() == {"retry": "2000"}
        assert await stream.page() == []
        assert stream.headers["x-accel-buffering"] == "no"
        members = await self.operator.who("live")
        assert [member.nick for member in members.members] == ["fan"]
        await self.operator.join("live")  # which is not sent to the stream
        await say(self.chat, "one\nmore", "live", headers=self.ann)
        block = await stream.block()
        assert (set(block), json.loads(block["data"])["text"]) == ({"id", "data"}, "one\nmore")
        await stream.aclose()
        await say(self.chat, "two", "live", headers=self.ann)
        again = await follow(self.chat, "/rooms/live", {"Last-Event-ID": stream.last_id})
        assert [event["text"] for event in await again.page()] == ["two"]
        await again.aclose()
        reset = await follow(self.chat, "/rooms/live?since=gone")
        assert [event["on"] for event in await reset.page()] == ["reset", "message", "message"]
        await reset.aclose()

    async def slow_reader(self) -> None:
        slow = await follow(self.chat, "/rooms/slow?nick=slow")
        await slow.page()
        # More than the kernel's buffers at both ends and the daemon's queue hold.
        texts = [f"{number}".ljust(16_000, "x") for number in range(60)]
        for text in texts:
            assert (await say(self.chat, text, "slow", headers=self.ann)).status == 201
        *seen, bye = await slow.end()
        assert (bye["on"], bye["code"], slow.retry) == ("bye", 4001, bye["retry_ms"])
        assert len(seen) < len(texts)
        await slow.aclose()
        again = await follow(self.chat, "/rooms/slow", {"Last-Event-ID": slow.last_id})
        seen += await again.page()
        while len(seen) < len(texts):
            seen.append(await again.event())
        assert [event["text"] for event in seen] == texts
        await again.aclose()

    async def silence(self) -> None:
        stream = await follow(self.chat, "/rooms/silence")
        await stream.page()
        await stream.comment()
        await stream.aclose()

    async def ends(self) -> None:
        kicked = await follow(self.chat, "/rooms/ends?nick=kicked")
        banned = await follow(self.chat, "/rooms/ends?nick=banned")
        await self.operator.kick(nick="kicked", reason="loud")
        await self.operator.ban(nick="banned", room="ends")
        for stream, nick, bye in ((kicked, "kicked", 4500), (banned, "banned", 4501)):
            assert (await stream.end())[-1]["code"] == bye
            assert stream.ended
            await stream.aclose()
            again = await refused_stream(self.chat, f"/rooms/ends?nick={nick}")
            assert (again.status, again.code) == (
                403,
                "forbidden" if nick == "kicked" else "banned",
            )
            assert (await say(self.chat, "x", "ends", nick)).status == 403
        await self.operator.mute(user="ann", room="ends")
        assert (await say(self.chat, "x", "ends", headers=self.ann)).code == "muted"
        expired = await follow(self.chat, "/rooms/ends", self.late)
        assert (await expired.end())[-1]["code"] == 4502
        await expired.aclose()

    async def unavailable(self) -> None:
        key = {**self.ann, "Idempotency-Key": "full"}
        with full_disk(self.chatd):
            full = await say(self.chat, "x", "full", headers=key)
            assert (full.status, full.code) == (503, "unavailable")
            assert (await ask(self.chat, "GET /rooms/lobby")).status == 200
        said = [(await say(self.chat, "x", "full", headers=key)).status for _ in range(2)]
        assert said == [201, 200]

    async def drain(self) -> None:
        """Drain the daemon while it has read a part of the heads of three requests."""
        late = []
        for line in ("POST /rooms/lobby", "GET /rooms/lobby", "GET /rooms"):
            raw = Raw(await self.chat.dial())
            begun, rest = head_of(line, {"Content-Length": "0"})[:-2], b"\r\n"
            # Both are in one packet: when the first one is answered, the daemon has read both.
            await raw.send(head_of("GET /rooms") + begun)
            assert (await raw.answer())[0] == 200
            late.append((raw, rest))
        stays = await follow(self.chat, "/rooms/lobby")
        await stays.page()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.chatd.stop)
            [bye] = await stays.end()
            assert (bye["code"], stays.retry, stays.ended) == (1001, bye["retry_ms"], True)
            await stays.aclose()
            for raw, rest in late:
                await raw.send(rest)
                answer = Answer(*await raw.answer())
                assert (answer.status, answer.code) == (503, "unavailable")
                assert answer.headers["retry-after"] == "1"
                await raw.aclose()


@pytest.fixture
def socket() -> Iterator[Path]:
    """Return the path of a Unix socket in a folder that other users can enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "chat.sock"


async def test_every_part_of_the_contract(
    start_chatd: ChatdStarter, tmp_path: Path, socket: Path, token_settings: dict[str, Any]
) -> None:
    settings = {
        "auth.cookie": "token",
        "http.trusted_proxies": ["127.0.0.1"],
        "limits.connections_per_address": 10,
        "limits.new_guests_per_minute_per_address": "off",
        "limits.messages_burst": 1000,
        "limits.messages_burst_per_address": 3,
        "limits.messages_per_second_per_address": 1,
        "limits.bytes_per_second": "off",
        "limits.send_queue_bytes": 4 * 16_384 + 4096,
        "limits.close_seconds": 60,  # for a slow reader on a busy machine
        "admin.socket": str(tmp_path / ADMIN),
    }
    chatd = await start_chatd({**token_settings, **settings}, listen=[f"unix:{socket}"])
    boss = await issued(tmp_path, "--user", "boss", "--op")
    token = await issued(tmp_path, "--user", "ann")
    late = await issued(tmp_path, "--user", "late", "--expires", "10s")
    async with client.connect(chatd.url, token=boss) as operator:
        contract = Contract(chatd, socket, operator, token, late)
        async with trio.open_nursery() as nursery:
            for part in (
                contract.methods,
                contract.names,
                contract.identity,
                contract.nicks_of_an_address,
                contract.limits_of_an_address,
                contract.unix_socket,
                contract.forgotten,
                contract.browsers,
                contract.messages,
                contract.pages,
                contract.streams,
                contract.slow_reader,
                contract.silence,
                contract.ends,
            ):
                nursery.start_soon(part)
        lines = [line for line in chatd.lines if line["event"] == "message"]
        assert {line["transport"] for line in lines} == {"http"}
        await contract.unavailable()
        await contract.drain()
    for event in ("connect", "disconnect"):
        lines = [line for line in chatd.lines if line["event"] == event]
        streams = {line["nick"] for line in lines if line["transport"] == "sse"}
        assert {"fan", "kicked", "banned", "slow", "late"} <= streams
