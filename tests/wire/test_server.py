from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from chatd.wire.request import Request, Response
from chatd.wire.transport import Peer
from tests.wire.served import HANDSHAKE, Client, serve, settings

FEW = settings(limits={"connections": 3, "connections_per_address": 2})


def away(address: str) -> Peer:
    return Peer(address, "tcp", loopback=False)


async def status(client: Client) -> tuple[int, dict[str, str]]:
    status, headers, _ = await client.ask("GET / HTTP/1.1")
    return status, headers


async def test_a_connection_over_the_limit_gets_an_answer_until_another_ends() -> None:
    async with serve(FEW, tcp=False) as served:
        held = [served.dial() for _ in range(3)]
        await held[0].upgrade()
        refused = served.dial()
        code, headers = await status(refused)
        assert (code, headers["connection"]) == (503, "close")
        assert int(headers["retry-after"]) > 0
        await refused.stream.send_eof()
        await refused.rest()
        await held[2].aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await status(served.dial()))[0] == 200
        assert served.server.statistics().refused == {503: 1}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"),  # one household
    ],
)
async def test_an_address_has_its_limit_and_others_are_served(first: str, second: str) -> None:
    async with serve(settings(limits={"connections_per_address": 2}), tcp=False) as served:
        for _ in range(2):
            assert (await status(served.dial(away(first))))[0] == 200
        assert (await status(served.dial(away(second))))[0] == 429
        assert (await status(served.dial(away("192.0.2.2"))))[0] == 200
        assert (await status(served.dial(away("2001:db8:0:2::1"))))[0] == 200


@pytest.mark.parametrize(
    "peer", [Peer("127.0.0.1", "tcp", loopback=True), Peer("unix", "unix", loopback=False)]
)
async def test_loopback_and_unix_have_no_limit_by_address(peer: Peer) -> None:
    async with serve(settings(limits={"connections_per_address": 2}), tcp=False) as served:
        for _ in range(5):
            assert (await status(served.dial(peer)))[0] == 200


async def test_a_flood_over_the_limit_is_turned_away_without_a_word() -> None:
    async with serve(FEW, tcp=False) as served:
        for _ in range(200):
            served.dial()
        await trio.testing.wait_all_tasks_blocked()
        statistics = served.server.statistics()
        assert statistics.open == 3 + 16
        assert statistics.turned_away == 200 - 19


async def test_ids_are_short_and_different() -> None:
    async with serve(tcp=False) as served:
        for _ in range(40):
            await served.dial().upgrade()
        await trio.testing.wait_all_tasks_blocked()
        ids = [chatter.websocket.id for chatter in served.chatters]
        assert ids[:3] == ["c1", "c2", "c3"]
        assert ids[35] == "c10"
        assert len(set(ids)) == 40


async def test_settings_are_taken_up_while_running(autojump_clock: MockClock) -> None:
    async with serve(tcp=False) as served:
        quick = settings(websocket={"ping_interval_seconds": 5, "ping_timeout_seconds": 2})
        served.server.settings = msgspec.structs.replace(quick, limits=FEW.limits)
        client = served.dial()
        await client.upgrade()
        began = trio.current_time()
        assert (await client.closed())[0] == 4002
        assert trio.current_time() - began == 7


async def test_listening_ends_and_connections_live_on() -> None:
    async with serve() as served:
        client = await served.dial_tcp()
        await client.upgrade()
        await client.text("x")
        assert await client.hear() == "x"
        served.listeners[0].close()
        with pytest.raises(OSError, match="attempts to connect"):
            await served.dial_tcp()
        await client.text("y")
        assert await client.hear() == "y"


async def test_a_retiring_server_keeps_no_client_waiting(autojump_clock: MockClock) -> None:
    begun = trio.Event()

    async def slow(request: Request) -> Response:
        begun.set()
        await trio.sleep(5)
        return Response(200, b"still answered")

    async with serve(tcp=False, slow=slow) as served:
        idle, busy, websocket = (served.dial() for _ in range(3))
        assert (await status(idle))[0] == 200
        await websocket.upgrade()
        await busy.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await begun.wait()
        served.server.retire()
        assert await idle.rest() == b""
        assert trio.current_time() == pytest.approx(0, abs=1)
        _, headers, body = await busy.answer()
        assert (headers["connection"], body) == ("close", b"still answered")
        assert await busy.rest() == b""
        _, headers, _ = await served.dial().ask("GET / HTTP/1.1")
        assert headers["connection"] == "close"
        await websocket.text("and I?")
        assert await websocket.hear() == "and I?"


async def test_a_faulty_answer_costs_its_connection_alone() -> None:
    async def faulty(request: Request) -> Response:
        return Response(200, headers=[("X-Split", "a\r\nb: c")])

    async with serve(tcp=False, faulty=faulty) as served:
        client = served.dial()
        await client.send(b"GET /faulty HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await client.rest() == b""
        assert len(served.faults) == 1
        assert (await status(served.dial()))[0] == 200


async def test_statistics() -> None:
    async with serve(tcp=False) as served:
        client = served.dial()
        await client.upgrade()
        await trio.testing.wait_all_tasks_blocked()
        statistics = served.server.statistics()
        assert (statistics.open, statistics.websockets, statistics.accepted) == (1, 1, 1)
        assert (statistics.refused, statistics.turned_away, statistics.waiting) == ({}, 0, 0)


PROXY = Peer("unix", "unix", loopback=False)


async def who(request: Request) -> Response:
    told = f"{request.peer.address} {request.header('host')} {request.secure}"
    return Response(200, told.encode())


async def test_a_trusted_proxys_client() -> None:
    async with serve(tcp=False, who=who) as served:
        client = served.dial(PROXY)
        asked = "GET /who HTTP/1.1\nX-Forwarded-For: 127.0.0.1, 192.0.2.1\nX-Forwarded-Proto: https"
        named = f"{asked}\nX-Forwarded-Host: chat.example.org"
        assert (await client.ask(named))[2] == b"192.0.2.1 chat.example.org True"
        # A connection that the proxy keeps is another client's with the next request.
        assert (await client.ask("GET /who HTTP/1.1"))[2] == b"unix localhost False"
        assert (await client.ask(asked))[2] == b"192.0.2.1 localhost True"
        assert (await client.ask(f"{asked}\nX-Forwarded-Host: a b"))[0] == 400
        [refused] = [fields for name, fields in served.recording.records if name == "refused"]
        assert refused["address"] == "192.0.2.1"


async def test_38_forged_headers_are_ignored_and_warned_of_once() -> None:
    async with serve(tcp=False, who=who) as served:
        forged = (
            "GET /who HTTP/1.1\nX-Forwarded-For: 192.0.2.1\nX-Forwarded-Host: a.example\n"
            "X-Forwarded-Proto: https\nForwarded: for=192.0.2.1"
        )
        for address in ("192.0.2.66", "192.0.2.67"):
            client = served.dial(away(address))
            for _ in range(2):
                assert (await client.ask(forged))[2] == f"{address} localhost False".encode()
        [warning] = [fields for name, fields in served.recording.records if name == "warning"]
        assert (warning["setting"], warning["address"]) == ("http.trusted_proxies", "192.0.2.66")
        assert "x-forwarded-for" in warning["detail"]


async def test_a_proxy_is_believed_in_one_kind_of_header() -> None:
    both = "GET /who HTTP/1.1\nX-Forwarded-For: 192.0.2.1\nForwarded: for=192.0.2.2"
    async with serve(tcp=False, who=who) as served:
        client = served.dial(PROXY)
        assert (await client.ask(both))[2].startswith(b"192.0.2.1 ")
        served.server.settings = settings(http={"forwarded_header": "Forwarded"})
        assert (await client.ask(both))[2].startswith(b"192.0.2.2 ")
        assert [name for name, _ in served.recording.records if name == "warning"] == []


@pytest.mark.parametrize(
    ("believed", "sent", "named"),
    [
        ("X-Forwarded-For", "Forwarded: for=192.0.2.2", "forwarded"),
        ("X-Forwarded-For", "X-Forwarded-Proto: http\nForwarded: for=192.0.2.2", "forwarded"),
        ("Forwarded", "X-Forwarded-For: 192.0.2.2", "x-forwarded-for"),
        ("Forwarded", "X-Forwarded-Host: evil.example", "x-forwarded-host"),
    ],
)
async def test_a_proxy_that_sends_the_other_kind_is_logged_once(
    believed: str, sent: str, named: str
) -> None:
    async with serve(settings(http={"forwarded_header": believed}), tcp=False, who=who) as served:
        for _ in range(2):
            answer = await served.dial(PROXY).ask(f"GET /who HTTP/1.1\n{sent}")
            assert answer[2] == b"unix localhost False"
        [warning] = [fields for name, fields in served.recording.records if name == "warning"]
        assert warning["setting"] == "http.forwarded_header"
        assert f"ignoring {named} " in warning["detail"]


@pytest.mark.parametrize(("trusted", "address"), [(False, "192.0.2.9"), (True, "192.0.2.1")])
async def test_behind_a_proxy_header_its_address_is_the_peer(trusted: bool, address: str) -> None:
    proxies = ["unix", *(["192.0.2.9"] if trusted else [])]
    async with serve(settings(http={"trusted_proxies": proxies}), tcp=False, who=who) as served:
        client = served.dial(PROXY)
        await client.send(b"PROXY TCP4 192.0.2.9 192.0.2.8 1 2\r\n")
        answer = await client.ask("GET /who HTTP/1.1\nX-Forwarded-For: 192.0.2.1")
        assert answer[2] == f"{address} localhost False".encode()


async def test_trust_is_taken_up_while_running() -> None:
    async with serve(tcp=False, who=who) as served:
        client = served.dial(away("192.0.2.66"))
        asked = "GET /who HTTP/1.1\nX-Forwarded-For: 192.0.2.1"
        assert (await client.ask(asked))[2].startswith(b"192.0.2.66 ")
        served.server.settings = settings(http={"trusted_proxies": ["192.0.2.0/24"]})
        assert (await client.ask(asked))[2].startswith(b"192.0.2.1 ")


async def test_the_limit_by_address_applies_to_a_proxys_client() -> None:
    async with serve(settings(limits={"connections_per_address": 2}), tcp=False) as served:
        asked = "GET / HTTP/1.1\nX-Forwarded-For: "
        kept = [served.dial(PROXY) for _ in range(5)]
        answers = [(await client.ask(f"{asked}2001:db8::{n}"))[0] for n, client in enumerate(kept)]
        assert answers == [200, 200, 429, 429, 429]
        # Many clients, each in turn on connections that the proxy keeps: none is held.
        for number in range(10):
            assert (await kept[0].ask(f"{asked}192.0.2.{number}"))[0] == 200
        for client in kept[2:]:
            await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await served.dial(PROXY).ask(f"{asked}2001:db8::9"))[0] == 200
        assert (await served.dial(PROXY).ask("GET / HTTP/1.1"))[0] == 200


async def test_a_websocket_counts_for_the_proxys_client() -> None:
    async with serve(settings(limits={"connections_per_address": 1}), tcp=False) as served:
        client = served.dial(PROXY)
        await client.send(HANDSHAKE.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"))
        assert (await client.answer())[0] == 101
        asked = "GET / HTTP/1.1\nX-Forwarded-For: 192.0.2.1"
        refused = served.dial(PROXY)
        assert (await refused.ask(asked))[0] == 429
        await refused.aclose()
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await served.dial(PROXY).ask(asked))[0] == 200
