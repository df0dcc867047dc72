"""A ban of somebody who has just left, by each protocol and address."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from chatd.chat.moderation import moderate
from chatd.model import Refused
from chatd.protocol import commands
from chatd.settings import Settings
from chatd.testing import Harness, open_chat
from chatd.wire.transport import Peer
from tests.gateways.raw import Json, Raw, handshake

HOME = Peer("203.0.113.7", "tcp", loopback=False)
AWAY = Peer("2001:db8:1:2:3:4:5:6", "tcp", loopback=False)
ELSEWHERE = Peer("198.51.100.9", "tcp", loopback=False)


@pytest.fixture
async def chat() -> AsyncIterator[Harness]:
    async with open_chat(Settings()) as chat:
        yield chat


async def ask(chat: Harness, peer: Peer, sid: str, body: str | None = None) -> str:
    """Poll, or POST packets, from an address; return the body of the response."""
    target = f"/socket.io/?EIO=4&transport=polling{f'&sid={sid}' if sid else ''}"
    method, data = ("GET", b"") if body is None else ("POST", body.encode())
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    async with await chat.dial(peer) as stream:
        await stream.send_all(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        received = b""
        async for piece in stream:
            received += piece
    return received.partition(b"\r\n\r\n")[2].decode()


async def by_websocket(chat: Harness, peer: Peer, path: str = "/ws?nick=eve") -> Raw:
    client = Json(await chat.dial(peer))
    await client.send(handshake(path, {"Sec-WebSocket-Protocol": "chatd.v1"}))
    assert (await client.answer())[0] == 101
    return client


async def ban(chat: Harness) -> list[str] | None:
    done = await moderate(chat.daemon.chat, "console", commands.Ban(nick="eve"))
    return done.networks


async def test_a_client_that_polled_from_two_addresses(
    chat: Harness, autojump_clock: MockClock
) -> None:
    sid = json.loads((await ask(chat, HOME, ""))[1:])["sid"]
    await ask(chat, HOME, sid, '40{"nick":"eve"}')
    await ask(chat, HOME, sid)
    await ask(chat, AWAY, sid, '42["chat message","hi"]')
    # It leaves.
    await ask(chat, AWAY, sid, "1")
    await trio.sleep(1)
    assert await ban(chat) == ["2001:db8:1:2::/64", "203.0.113.7/32"]


async def test_a_client_that_polls_elsewhere_is_banned_where_it_is(
    chat: Harness, autojump_clock: MockClock
) -> None:
    sid = json.loads((await ask(chat, HOME, ""))[1:])["sid"]
    await ask(chat, HOME, sid, '40{"nick":"eve"}')
    await ask(chat, AWAY, sid)
    network = commands.Ban(network=AWAY.address)
    await moderate(chat.daemon.chat, "console", network)
    assert '"code":4501' in await ask(chat, HOME, sid)


@pytest.mark.parametrize("path", ["/ws?nick=eve", "/ws?nick=eve&room=garden"])
async def test_a_client_of_websockets(chat: Harness, autojump_clock: MockClock, path: str) -> None:
    eve = await by_websocket(chat, AWAY, path)
    await eve.aclose()
    await trio.sleep(300)
    assert await ban(chat) == ["2001:db8:1:2::/64"]
    neighbour = Peer("2001:db8:1:2::ffff", "tcp", loopback=False)
    again = await by_websocket(chat, neighbour, "/ws?nick=new")
    assert (await again.closed())[0] == 4501
    assert (await (await by_websocket(chat, ELSEWHERE, "/ws?nick=bob")).hear())[:15]


async def test_one_whose_nick_is_no_longer_held_is_not_found(
    chat: Harness, autojump_clock: MockClock
) -> None:
    eve = await by_websocket(chat, HOME)
    await eve.aclose()
    await trio.sleep(601)
    with pytest.raises(Refused, match="There is no user named eve here"):
        await ban(chat)
