from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd.engineio import Cookie, Engine, Options, Session
from chatd.engineio.heartbeat import Heartbeat
from chatd.logs import open_log
from chatd.testing.recording import Recording
from chatd.wire.request import Request, Response
from chatd.wire.routes import ANY
from chatd.wire.transport import Peer
from tests.engineio.served import ask, serve, upgrade
from tests.wire.served import MEMORY

OPEN = "EIO=4&transport=polling"


async def test_a_session_opens_by_polling() -> None:
    async with serve() as served:
        poller = await served.poller()
        assert list(poller.handshake) == [
            "sid",
            "upgrades",
            "pingInterval",
            "pingTimeout",
            "maxPayload",
        ]
        assert poller.handshake == {
            "sid": poller.sid,
            "upgrades": ["websocket"],
            "pingInterval": 25000,
            "pingTimeout": 20000,
            "maxPayload": 1000000,
        }
        assert len(poller.sid) == 20
        assert poller.session.transport == "polling"
        assert poller.session.revision == 4
        assert poller.sid not in repr(poller.session)


async def test_the_answer_is_only_the_open_packet() -> None:
    async with serve() as served:
        status, headers, body = await served.ask("GET", OPEN)
        assert status == 200
        assert headers["content-type"] == "text/plain; charset=UTF-8"
        assert headers["cache-control"] == "no-store"
        assert "set-cookie" not in headers
        assert not any(name.startswith("access-control") for name in headers)
        assert body[:1] == b"0"
        json.loads(body[1:])


async def test_a_session_opens_by_websocket() -> None:
    async with serve(ping_interval=0.3, ping_timeout=0.2, max_payload=1000) as served:
        client = await served.websocket()
        opened = await client.hear()
        assert opened[0] == "0"
        said = json.loads(opened[1:])
        assert said == {
            "sid": served.last.session.id,
            "upgrades": [],
            "pingInterval": 300,
            "pingTimeout": 200,
            "maxPayload": 1000,
        }
        assert served.last.session.transport == "websocket"


@pytest.mark.parametrize("options", [{"allow_upgrades": False}, {"transports": ("polling",)}])
async def test_no_upgrade_is_offered_without_websocket(options: dict[str, Any]) -> None:
    async with serve(**options) as served:
        poller = await served.poller()
        assert poller.handshake["upgrades"] == []
        query = f"EIO=4&transport=websocket&sid={poller.sid}"
        status, headers, _ = await upgrade(served.dial(), query)
        assert status == 400
        assert headers["content-type"] == "text/html"


ERRORS = [
    ("GET", "EIO=4", 0, "Transport unknown"),
    ("GET", "EIO=4&transport=abc", 0, "Transport unknown"),
    ("GET", "EIO=4&transport=polling&sid=abc", 1, "Session ID unknown"),
    ("POST", OPEN, 2, "Bad handshake method"),
    ("PUT", OPEN, 2, "Bad handshake method"),
    ("OPTIONS", OPEN, 2, "Bad handshake method"),
    ("GET", "EIO=4&transport=websocket", 3, "Bad request"),
    ("GET", "transport=polling", 5, "Unsupported protocol version"),
    ("GET", "EIO=abc&transport=polling", 5, "Unsupported protocol version"),
    ("GET", "EIO=3&transport=polling", 5, "Unsupported protocol version"),
    ("GET", "EIO=5&transport=polling", 5, "Unsupported protocol version"),
    # Two faults: the first of the order counts.
    ("POST", "EIO=9&transport=abc&sid=abc", 0, "Transport unknown"),
    ("POST", "EIO=9&transport=polling", 2, "Bad handshake method"),
]


@pytest.mark.parametrize(("method", "query", "code", "message"), ERRORS)
async def test_what_is_refused_says_why(method: str, query: str, code: int, message: str) -> None:
    async with serve() as served:
        status, headers, body = await served.ask(method, query)
        assert status == 400
        assert headers["content-type"] == "application/json"
        assert body == f'{{"code":{code},"message":"{message}"}}'.encode()
        assert not served.engine.sessions


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("EIO=4&transport=abc", "Transport unknown"),
        ("EIO=4&transport=websocket&sid=abc", "Session ID unknown"),
        ("EIO=4&transport=polling", "Bad request"),
        ("EIO=3&transport=websocket", "Unsupported protocol version"),
        ("transport=websocket", "Unsupported protocol version"),
    ],
)
async def test_an_upgrade_is_refused_before_the_101(query: str, message: str) -> None:
    async with serve() as served:
        status, headers, body = await upgrade(served.dial(), query)
        assert (status, body.decode()) == (400, message)
        assert headers["content-type"] == "text/html"
        assert not served.came


@pytest.mark.parametrize("version", ["", "EIO&", "EIO=&", "EIO=2&", "EIO=3&", "EIO=33&", "EIO=04&"])
async def test_every_version_but_4_is_revision_3_if_that_is_allowed(version: str) -> None:
    async with serve(allow_eio3=True) as served:
        status, _, body = await served.ask("GET", f"{version}transport=polling")
        assert status == 200
        # Only revision 3 has lengths.
        assert body.partition(b":")[0].isdigit()
        client = await served.websocket(f"{version}transport=websocket")
        assert (await client.hear())[0] == "0"
        assert [recorder.session.revision for recorder in served.came] == [3, 3]
        assert (await served.poller()).session.revision == 4


async def test_a_session_keeps_its_revision() -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller()
        for version in ("EIO=3&", "EIO=5&", "EIO=&"):
            answer = await served.ask("GET", f"{version}transport=polling&sid={poller.sid}")
            assert (answer[0], json.loads(answer[2])["code"]) == (400, 3)
        # Said once it need not be said again.
        assert (await served.ask("POST", f"transport=polling&sid={poller.sid}", body=b"4x"))[
            0
        ] == 200


@pytest.mark.parametrize("origin", ["http://a\x01b", "http://\x7f"])
async def test_an_invalid_origin_is_refused(origin: str) -> None:
    async with serve(cors_origins=["*"]) as served:
        request = f"GET /engine.io/?{OPEN} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n"
        client = served.dial()
        await client.send(request.encode())
        status, _, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (400, 3)


async def test_allow_request_may_refuse() -> None:
    async def asked(request: Request) -> str | None:
        return None if request.query.get("token") == "good" else "who are you?"

    async with serve(allow_request=asked) as served:
        status, _, body = await served.ask("GET", OPEN)
        assert status == 403
        assert json.loads(body) == {"code": 4, "message": "who are you?"}
        status, _, body = await upgrade(served.dial(), "EIO=4&transport=websocket")
        assert (status, body) == (400, b"who are you?")
        status, _, _ = await served.ask("GET", OPEN + "&token=good")
        assert status == 200
        # Node asks it before it looks at the revision.
        _, _, body = await served.ask("GET", "EIO=9&transport=polling")
        assert json.loads(body)["code"] == 4


async def test_allow_request_may_be_a_plain_function() -> None:
    async with serve(allow_request=lambda request: request.query.get("refuse")) as served:
        status, _, body = await served.ask("GET", f"{OPEN}&refuse=why")
        assert (status, json.loads(body)) == (403, {"code": 4, "message": "why"})
        assert (await served.ask("GET", OPEN))[0] == 200


@pytest.mark.parametrize("answer", [True, False, 0, {}])
async def test_an_invalid_answer_of_allow_request_allows_nothing(
    answer: object,
) -> None:
    async with serve(allow_request=lambda _request: answer) as served:
        assert (await served.ask("GET", OPEN))[0] == 500
        assert (await upgrade(served.dial(), "EIO=4&transport=websocket"))[0] == 500
        assert "allow_request must return None" in served.faults[0]
        assert served.came == []


async def test_a_session_more_than_there_may_be_is_refused() -> None:
    async with serve(max_sessions=1) as served:
        first = await served.poller()
        status, headers, _ = await served.ask("GET", OPEN)
        assert (status, headers["retry-after"]) == (503, "10")
        status, _, _ = await upgrade(served.dial(), "EIO=4&transport=websocket")
        assert status == 503
        await first.say("1")
        await served.last.over.wait()
        assert (await served.ask("GET", OPEN))[0] == 200


async def test_the_cookie_is_on_the_first_answer_alone() -> None:
    cookie = Cookie(name="node", secure=True, max_age=60)
    async with serve(cookie=cookie) as served:
        poller = await served.poller()
        client = served.dial()
        _, headers, body = await ask(client, "GET", OPEN)
        sid = json.loads(body[1:])["sid"]
        assert headers["set-cookie"] == (
            f"node={sid}; Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Lax"
        )
        poller.session.send_nowait("x")
        _, headers, _ = await poller.get()
        assert "set-cookie" not in headers


async def test_the_path_may_lack_its_slash() -> None:
    async with serve() as served:
        status, _, _ = await served.dial().ask(f"GET /engine.io?{OPEN} HTTP/1.1")
        assert status == 200
        status, _, _ = await served.dial().ask(f"GET /engine.iox?{OPEN} HTTP/1.1")
        assert status == 404


async def test_another_path() -> None:
    async with serve(path="/socket.io") as served:
        for path in ("/socket.io", "/socket.io/", "/socket.io/default"):
            status, _, _ = await served.dial().ask(f"GET {path}?{OPEN} HTTP/1.1")
            assert status == 200


async def test_an_error_of_the_layer_above_ends_only_its_session(autojump_clock: MockClock) -> None:
    async with serve() as served:
        poller = await served.poller()
        status, _, _ = await poller.post("4boom")
        assert status == 500
        await served.last.over.wait()
        assert served.last.reason == "transport error"
        client = await served.websocket()
        await client.hear()
        await client.text("4boom")
        assert (await client.closed())[0] == 1011
        await served.last.over.wait()
        assert served.last.reason == "transport error"
        assert served.faults == ["ValueError('boom')"] * 2
        assert not served.engine.sessions


async def test_an_error_in_a_heartbeat_ends_only_its_session(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ValueError("heartbeat")

    async with serve() as served:
        client = await served.websocket()
        await client.hear()
        faulty = served.last
        await trio.sleep(10)
        other = await served.websocket()
        await other.hear()
        monkeypatch.setattr(Heartbeat, "look", fail)
        await trio.sleep(16)
        monkeypatch.undo()
        assert (await client.closed())[0] == 1011
        await client.aclose()
        await faulty.over.wait()
        assert served.faults == ["ValueError('heartbeat')"]
        assert await other.hear() == "2"
        await other.text("3")
        await other.text("4still here")
        assert await other.hear() == "4still here"


async def test_what_cannot_open_a_session_leaves_none(autojump_clock: MockClock) -> None:
    async with serve() as served:
        served.fails("opened")
        status, _, _ = await served.ask("GET", OPEN)
        assert status == 500
        client = await served.websocket()
        assert (await client.hear())[0] == "0"
        assert (await client.closed())[0] == 1011
        assert not served.engine.sessions
        assert served.faults == ["ValueError('opened')"] * 2
        served.fails("")
        await served.poller()


async def test_a_failing_end_callback_affects_no_other_session() -> None:
    async with serve() as served:
        served.fails("ended")
        first, second = await served.poller(), await served.poller()
        await first.say("1")
        await served.came[0].over.wait()
        await second.say("1")
        await served.came[1].over.wait()
        assert served.faults == ["ValueError('ended')"] * 2
        assert not served.engine.sessions


async def test_statistics_count_sessions_by_transport_and_reason() -> None:
    async with serve() as served:
        await served.poller()
        ended = await served.poller()
        client = await served.websocket()
        await client.hear()
        await ended.say("1")
        served.came[0].session.send_nowait("12345")
        statistics = served.engine.statistics()
        assert (statistics.polling, statistics.websocket, statistics.opened) == (1, 1, 3)
        assert statistics.ended == {"transport close": 1}
        assert statistics.waiting == len("412345")


async def test_every_session_can_be_ended_at_once() -> None:
    async with serve() as served:
        poller = await served.poller()
        client = await served.websocket()
        await client.hear()
        served.engine.end_all()
        assert (await client.closed())[0] == 1001
        assert await poller.poll() == "1"
        for recorder in served.came:
            await recorder.over.wait()
            assert recorder.reason == "server shutting down"
        assert served.engine.sessions == {}


async def test_a_request_before_the_engine_runs_is_refused() -> None:
    engine = Engine(lambda _session: None, Options(), log=open_log(sink=Recording()))
    request = Request("GET", f"/engine.io/?{OPEN}", [], MEMORY)
    answer = await engine.methods[ANY](request)
    assert isinstance(answer, Response)
    assert answer.status == 503
    assert ("Retry-After", "10") in answer.headers


def client(address: str) -> Peer:
    return Peer(address, "tcp", loopback=False)


async def test_the_sessions_of_an_address_are_limited_whatever_their_transport(
    autojump_clock: MockClock,
) -> None:
    async with serve(max_sessions_per_address=2, ping_interval=10, ping_timeout=5) as served:
        near = "2001:db8:0:1::1", "2001:db8:0:1:ffff::2"  # one household
        assert [(await served.ask("GET", OPEN, peer=client(each)))[0] for each in near] == [
            200,
            200,
        ]
        status, headers, _ = await served.ask("GET", OPEN, peer=client(near[0]))
        assert (status, headers["retry-after"]) == (429, "10")
        query = "EIO=4&transport=websocket"
        assert (await upgrade(served.dial(peer=client(near[0])), query))[0] == 429
        # Others are served, and this machine is not limited.
        assert (await served.ask("GET", OPEN, peer=client("192.0.2.1")))[0] == 200
        assert [(await served.ask("GET", OPEN))[0] for _ in range(4)] == [200] * 4
        # They end because they send nothing.
        await trio.sleep(16)
        assert served.engine.sessions == {}
        assert (await served.ask("GET", OPEN, peer=client(near[0])))[0] == 200


async def test_a_guessed_session_is_counted_and_logged() -> None:
    async with serve() as served:
        for query in ("EIO=4&transport=polling&sid=guess", "EIO=4&transport=websocket&sid=guess"):
            assert (await ask(served.dial(), "GET", query))[0] == 400
            assert (await upgrade(served.dial(), query))[0] == 400
        assert served.engine.statistics().refused["Session ID unknown"] == 4
        lines = [fields for name, fields in served.recording.records if name == "refused"]
        assert len(lines) == 4
        assert lines[0]["reason"] == "Session ID unknown"
        assert lines[0]["address"] == "memory"
        assert "guess" not in str(lines)


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_message_over_the_bound_ends_the_session(transport: str) -> None:
    async with serve(max_message=1000) as served:
        if transport == "polling":
            poller = await served.poller()
            assert (await poller.post("4" + "x" * 999))[0] == 200
            assert (await poller.post("4" + "x" * 2000))[0] == 400
        else:
            websocket = await served.websocket()
            await websocket.hear()
            await websocket.text("4" + "x" * 2000)
            assert (await websocket.closed())[0] == 1009
        await served.last.over.wait()
        assert served.last.reason == "transport error"


def test_opened_cannot_be_async() -> None:
    async def opened(session: Session) -> None:
        pass

    wrong: Any = opened
    with pytest.raises(TypeError, match="must be a plain function"):
        Engine(wrong, Options(), log=open_log(sink=Recording()))
