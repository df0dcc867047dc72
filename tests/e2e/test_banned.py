"""A banned user stays out, whatever they try, until the ban ends, on the real daemon.

Their address comes from the trusted proxy, as behind nginx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import trio

from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.logs import now_ms
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.socketio_clients import Clients
from tests.gateways.raw import Json, handshake

EVE: Final = {"X-Forwarded-For": "203.0.113.7"}
NEIGHBOUR: Final = {"X-Forwarded-For": "203.0.113.8"}


class Person(Json):
    """A client of ``chatd.v1`` that goes by these headers."""

    @classmethod
    async def come(
        cls, chatd: ChatdProcess, headers: Mapping[str, str], people: AsyncExitStack, nick: str = ""
    ) -> Person:
        stream = await people.enter_async_context(
            await trio.open_tcp_stream("localhost", chatd.port)
        )
        person = cls(stream)
        fields = {"Sec-WebSocket-Protocol": "chatd.v1", **headers}
        await person.send(handshake(f"/ws?nick={nick}" if nick else "/ws", fields))
        assert (await person.answer())[0] == 101
        return person

    async def code(self) -> int:
        """Return the code of its close."""
        return (await self.closed())[0]


async def test_a_ban_holds_whatever_is_tried(
    start_chatd: ChatdStarter, clients: Clients, tmp_path: Path
) -> None:
    async with AsyncExitStack() as people:
        await tell(start_chatd, clients, people, tmp_path)


async def tell(
    start_chatd: ChatdStarter, clients: Clients, people: AsyncExitStack, tmp_path: Path
) -> None:
    """Run all steps."""
    key = tmp_path / "key.jwk"
    key.write_text(new_key(symmetric=True))
    token = Keys(read_keys(key.read_bytes())).issue("root", now=now_ms(), seconds=600, op=True)
    settings = {
        "auth.mode": "token",
        "auth.guests": True,
        "auth.key_files": [str(key)],
        "http.trusted_proxies": ["127.0.0.1", "::1"],
    }
    chatd = await start_chatd(settings)
    root = await Person.come(chatd, {"Authorization": f"Bearer {token}"}, people)
    assert (await root.next())["op"] is True
    eve = await Person.come(chatd, EVE, people, "eve")
    session = (await eve.next())["session"]
    assert "ok" in await eve.do("join", room="lobby")
    said = await eve.do("say", room="lobby", text="hello")
    position = {"epoch": said["ok"]["epoch"], "seq": 0}
    url = f"http://localhost:{chatd.port}"
    ages: Sequence[tuple[str, list[str]]] = (
        ("client-2.5", ["polling"]),
        ("client-2.5", ["websocket"]),
        ("client-4.8", ["polling"]),
        ("client-4.8", ["polling", "websocket"]),
    )
    sockets = [
        await clients.open(age, url, ways, extraHeaders=EVE, query={"nick": "eve2"})
        for age, ways in ages
    ]
    for socket in sockets:
        await socket.hears("hello")
    answer = await root.do("ban", nick="eve", seconds=60, reason="enough")
    assert answer["ok"]["networks"] == ["203.0.113.7/32"]
    # All their open connections are closed and do not reconnect by themselves.
    assert await eve.code() == 4501
    for socket in sockets:
        assert await socket.hears("disconnect") == ["io server disconnect"]

    async def tries() -> list[str]:
        """Try every way in; return the answer to each."""
        told: list[str] = []
        for nick in ("eve", "innocent"):
            again = await Person.come(chatd, EVE, people, nick)
            told.append(str(await again.code()))
        # The same session from elsewhere, and its position.
        again = await Person.come(chatd, NEIGHBOUR, people)
        await again.next()
        told.append((await again.do("auth", session=session))["error"]["code"])
        told.append(str(await again.code()))
        again = await Person.come(chatd, EVE, people)
        told.append(str(await again.code()))
        for age, ways in ages:
            auth = {"nick": "new", "since": position, "room": "lobby"}
            socket = await clients.open(
                age, url, ways, extraHeaders=EVE, auth=auth, query={"nick": "new"}
            )
            event = "error" if age.startswith("client-2") else "connect_error"
            [error] = await socket.hears(event)
            data = error if age.startswith("client-2") else error["data"]
            told.append(data["code"])
            assert data["retry_ms"] <= 60_000
            await socket.do("disconnect")
        return told

    assert await tries() == ["4501", "4501", "banned", "4501", "4501", *["banned"] * 4]
    # The neighbours are let in all the while, and it holds across a restart.
    neighbour = await Person.come(chatd, NEIGHBOUR, people, "neighbour")
    assert "ok" in await neighbour.do("join", room="lobby")
    assert await chatd.stop() == 0
    chatd = await start_chatd(settings, port=chatd.port)
    assert await tries() == ["4501", "4501", "banned", "4501", "4501", *["banned"] * 4]
    # After its end they are let in again, as who they were.
    root = await Person.come(chatd, {"Authorization": f"Bearer {token}"}, people)
    await root.next()
    assert "ok" in await root.do("ban", nick="eve", seconds=1)
    neighbour = await Person.come(chatd, NEIGHBOUR, people)
    await neighbour.next()
    refused = await neighbour.do("auth", session=session)
    await trio.sleep(refused["error"]["retry_ms"] / 1000)  # as long as the refusal says
    back = await Person.come(chatd, EVE, people)
    assert (await back.next())["on"] == "hello"
    assert (await back.do("auth", session=session))["ok"]["nick"] == "eve"
    resumed = await back.do("join", room="lobby", since=position)
    assert (resumed["ok"]["recovered"], resumed["ok"]["events"][0]["text"]) == (True, "hello")
    for age, ways in ages:
        socket = await clients.open(age, url, ways, extraHeaders=EVE)
        await socket.hears("hello")
