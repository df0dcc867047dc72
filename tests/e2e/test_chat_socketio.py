"""The chat with Socket.IO's own clients of every version, beside other clients."""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import Any

import pytest
import trio

from chatd import client
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.socketio_clients import ROOT, Client, Clients
from tests.e2e.test_process import text_chat

WAYS = {
    "1.7": ["websocket"],
    "2.0": ["polling"],
    "2.5": ["polling", "websocket"],
    "3.1": ["polling"],
    "4.0": ["websocket"],
    "4.8": ["polling"],
}


async def come(clients: Clients, chatd: ChatdProcess, version: str) -> Client:
    """Connect a client of this version, with its name as the nick."""
    nick = {"nick": f"v{version}"}
    url = f"http://localhost:{chatd.port}"
    one = await clients.open(f"client-{version}", url, WAYS[version], query=nick, auth=nick)
    [hello] = await one.hears("hello")
    assert (hello["nick"], hello["joined"]["room"]) == (f"v{version}", "lobby")
    return one


async def test_all_clients_share_one_room_in_one_order(
    chatd: ChatdProcess, clients: Clients
) -> None:
    sockets = [await come(clients, chatd, version) for version in WAYS]
    async with (
        client.connect(chatd.url, nick="json") as json,
        text_chat(chatd, "plain") as plain,
    ):
        await json.join("lobby")
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(json.say, f"json {number}")
                await plain.send_message(f"plain {number}")
                for socket in sockets:
                    await socket.emit("chat message", f"socket {number}")
        count = 5 * (len(sockets) + 2)
        order: list[tuple[str, str]] = []
        while len(order) < count:
            event = await json.next_event()
            if isinstance(event, client.Message):
                order.append((event.nick, str(event.text)))
        for socket in sockets:
            heard = [await socket.hears("chat message") for _ in range(count)]
            assert [(about["from"], text) for text, about, *_ in heard] == order
            assert [about["seq"] for _, about, *_ in heard] == list(range(1, count + 1))
        lines: list[str] = []
        while len(lines) < count:
            line = str(await plain.get_message())
            if not line.startswith("* "):
                lines.append(line)
        assert lines == [f"{nick}: {text}" for nick, text in order]


async def test_python_socketio_polls_into_a_room_with_a_backlog(chatd: ChatdProcess) -> None:
    if not all(map(importlib.util.find_spec, ("socketio", "aiohttp"))):
        pytest.skip("there is no python-socketio[asyncio-client]")
    texts = [f"message {number}" for number in range(20)]
    async with client.connect(chatd.url, nick="ann") as ann:
        await ann.join("lobby")
        for text in texts:
            await ann.say(text)
    program = [sys.executable, "-m", "tests.e2e.backlog_client", str(chatd.port), str(len(texts))]
    ran = await trio.run_process(program, cwd=ROOT, capture_stdout=True)
    assert json.loads(ran.stdout) == texts


async def test_it_is_acknowledged_and_said_once(chatd: ChatdProcess, clients: Clients) -> None:
    for version in WAYS:
        socket = await come(clients, chatd, version)
        [first] = await socket.request("chat message", "hi", version)
        [again] = await socket.request("chat message", "hi", {"key": version})
        assert (first["ok"]["seq"], first["ok"]["duplicate"]) == (again["ok"]["seq"], False)
        assert again["ok"]["duplicate"] is True
        [refused] = await socket.request("join", {"room": "*"})
        assert refused["error"]["code"] == "bad_request"
        await socket.emit("say", {"room": "nowhere", "text": "x"})
        [notice] = await socket.hears("notice")
        assert (notice["do"], notice["code"]) == ("say", "not_joined")


async def test_they_come_back_by_themselves_after_a_drain(
    start_chatd: ChatdStarter, clients: Clients
) -> None:
    chatd = await start_chatd()
    sockets = [await come(clients, chatd, version) for version in WAYS]
    assert await chatd.stop() == 0
    for version, socket in zip(WAYS, sockets, strict=True):
        # Nothing can be sent between two polls.
        if "websocket" in WAYS[version]:
            [bye] = await socket.hears("bye")
            assert (bye["code"], bye["reconnect"]) == (1001, True)
    chatd = await start_chatd(port=chatd.port)
    for socket in sockets:
        [hello] = await socket.hears("hello")
        assert hello["joined"]["room"] == "lobby"
    async with client.connect(chatd.url, nick="json") as json:
        await json.join("lobby")
        await json.say("welcome back")
        for socket in sockets:
            text, *_ = await socket.hears("chat message")
            assert text == "welcome back"


async def test_clients_that_can_recover_do_so_across_a_restart(
    start_chatd: ChatdStarter, clients: Clients
) -> None:
    """Socket.IO's own connection state recovery, by polling and by WebSocket."""
    chatd = await start_chatd()
    sockets = [await come(clients, chatd, "4.8")]
    nick = {"nick": "other"}
    url = f"http://localhost:{chatd.port}"
    sockets.append(await clients.open("client-4.8", url, ["websocket"], auth=nick))
    for socket in sockets:
        assert await socket.hears("connect") == [False]
    [hello] = await sockets[1].hears("hello")
    greetings: list[dict[str, Any]] = []
    async with client.connect(chatd.url, nick="json") as json:
        await json.join("lobby")
        await json.say("seen")
        for socket in sockets:
            text, *_ = await socket.hears("chat message")
            assert text == "seen"
    assert await chatd.stop() == 0
    chatd = await start_chatd(port=chatd.port)
    async with client.connect(chatd.url, nick="json2") as json:
        await json.join("lobby")
        await json.say("said after the restart")
        for socket in sockets:
            assert await socket.hears("connect") == [True]
            greetings.append((await socket.hears("hello"))[0])
            text, *_ = await socket.hears("chat message")
            assert text == "said after the restart"
        assert greetings[1]["user"] == hello["user"]
