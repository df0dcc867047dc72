"""The main job on real input: one room over every protocol, nothing lost whatever happens."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from chatd import client
from tests.e2e.chat_page import open_page
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter, free_port
from tests.e2e.chromium import Chromium

UNLIMITED: Final = {
    "limits.messages_per_second": "off",
    "limits.messages_burst": "off",
    "limits.bytes_per_second": "off",
    "log.messages": False,
}


class Wire:
    """Opens streams to a daemon, and can cut the last one."""

    def __init__(self, daemon: Callable[[], ChatdProcess]) -> None:
        self._daemon = daemon
        self._stream: trio.SocketStream | None = None

    async def __call__(self) -> trio.SocketStream:
        self._stream = await trio.open_tcp_stream("localhost", self._daemon().port)
        return self._stream

    async def cut(self) -> None:
        """Drop the connection without a word."""
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)


async def test_all_clients_share_one_room_in_one_order(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    tab = (await open_page(chromium, chatd)).tab
    async with (
        client.connect(chatd.url, nick="json") as json,
        plain_text(chatd, "plain") as plain,
    ):
        await json.join("lobby")
        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(json.say, f"json {number}")
                await plain.send_message(f"plain {number}")
        seen = await take(json, 18)
        assert [event.seq for event in seen] == list(range(1, 19))
        lines: list[str] = []
        while len(lines) < 18:
            line = str(await plain.get_message())
            if not line.startswith("* "):
                lines.append(line)
        assert lines == [f"{event.nick}: {event.text}" for event in seen]
        for event in seen:
            await tab.until_text(str(event.text), within="#log")
        page = await tab.evaluate("document.querySelector('#log').innerText")
        places = [page.index(str(event.text)) for event in seen]
        assert places == sorted(places)


@asynccontextmanager
async def plain_text(chatd: ChatdProcess, nick: str) -> AsyncIterator[WebSocketConnection]:
    """Connect with no subprotocol, and read the greeting."""
    # On our own stream: trio-websocket 0.12.2 does not close its stream if the peer closed first.
    stream = await trio.open_tcp_stream("localhost", chatd.port)
    async with (
        stream,
        trio.open_nursery() as nursery,
        await wrap_client_stream(nursery, stream, "localhost", f"/?nick={nick}") as websocket,
    ):
        assert str(await websocket.get_message()).startswith("Hello, I am chatd. You are ")
        yield websocket


async def take(chat: client.Chat, count: int) -> list[client.Message]:
    """Return the next messages, skipping all other frames."""
    seen: list[client.Message] = []
    while len(seen) < count:
        event = await chat.next_event()
        if isinstance(event, client.Message):
            seen.append(event)
    return seen


CLIENTS: Final = 20
RESUMING: Final = 14
EACH: Final = 400
LANES: Final = 10


async def test_twenty_clients_cut_at_random_miss_and_double_nothing(
    start_chatd: ChatdStarter,
) -> None:
    """14 that resume and 6 that cannot say 400 messages each, while the former are cut."""
    chatd = await start_chatd(UNLIMITED)
    chance = random.Random(2026)
    here = 0
    all_here = trio.Event()
    cuts = 0

    async def everybody_is_here() -> None:
        nonlocal here
        here += 1
        if here == CLIENTS:
            all_here.set()
        await all_here.wait()

    async def speak(number: int) -> None:
        wire = Wire(lambda: chatd)
        backoff = client.Backoff(first_seconds=0.01, most_seconds=0.1)
        async with client.connect(wire, nick=f"json{number}", backoff=backoff) as chat:
            await chat.join("lobby", limit=0)
            await everybody_is_here()

            async def say(lane: int) -> None:
                for message in range(EACH // LANES):
                    await chat.say(f"{lane} {message}")

            async def listen() -> None:
                nonlocal cuts
                seqs: list[int | None] = []
                said: set[tuple[str, str | None]] = set()
                cut_at = chance.randrange(1000)
                while len(seqs) < CLIENTS * EACH:
                    event = await chat.next_event()
                    assert not isinstance(event, client.Gap)
                    if isinstance(event, client.Message):
                        seqs.append(event.seq)
                        said.add((event.nick, event.text))
                        if len(seqs) == cut_at:
                            await wire.cut()
                            cuts += 1
                            cut_at += chance.randrange(100, 3000)
                assert seqs == list(range(1, CLIENTS * EACH + 1))
                assert len(said) == CLIENTS * EACH

            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                for lane in range(LANES):
                    nursery.start_soon(say, lane)

    async def speak_text(number: int) -> None:
        async with plain_text(chatd, f"text{number}") as websocket:
            await everybody_is_here()
            for message in range(EACH):
                await websocket.send_message(f"x {message}")
                # One in flight: the next when it came back.
                while await websocket.get_message() != f"text{number}: x {message}":
                    pass

    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(speak if number < RESUMING else speak_text, number)
    assert cuts > RESUMING


async def test_what_was_acknowledged_outlives_kill_9(start_chatd: ChatdStarter) -> None:
    """Killed during a flood and started again on its file, it has every message it confirmed."""
    port = free_port()
    chatd = await start_chatd(UNLIMITED, port=port)
    said: dict[str, client.Said] = {}
    enough = trio.Event()
    backoff = client.Backoff(first_seconds=0.01, most_seconds=0.1)
    async with client.connect(chatd.url, nick="ann", backoff=backoff) as chat:
        await chat.join("lobby")
        epoch = None

        async def say(lane: int) -> None:
            for message in range(100):
                key = f"{lane} {message}"
                said[key] = await chat.say(key, key=key)
                if len(said) == 400:
                    enough.set()

        async with trio.open_nursery() as nursery:
            for lane in range(20):
                nursery.start_soon(say, lane)
            await enough.wait()
            acknowledged = dict(said)
            assert await chatd.kill() == -9
            chatd = await start_chatd(UNLIMITED, port=port)
        # Every one of the 2,000 came through, the ones that were in flight by their keys.
        seen = await take(chat, 2000)
        assert [event.seq for event in seen] == list(range(1, 2001))
        assert sorted(str(event.text) for event in seen) == sorted(said)
        assert {event.text: event.seq for event in seen} == {k: s.seq for k, s in said.items()}
        epoch = {one.epoch for one in said.values()}
        assert len(epoch) == 1  # the machine did not go down: its numbers are still good
        again = await chat.say("something else", key=next(iter(acknowledged)))
        assert again.duplicate
        assert again.seq == next(iter(acknowledged.values())).seq


async def test_a_slow_client_gets_4001_and_resumes_without_a_gap(
    start_chatd: ChatdStarter,
) -> None:
    # Time enough to drain, for a reader that reads again on a machine that does much else.
    chatd = await start_chatd({**UNLIMITED, "limits.close_seconds": 60})
    text = "x" * 16000
    count = 700  # 11 MB: what the kernel takes for a connection, and the queue's 1 MiB, thrice
    stream = await trio.open_tcp_stream("localhost", chatd.port)
    async with (
        client.connect(chatd.url, nick="ann") as ann,
        stream,
        trio.open_nursery() as nursery,
    ):
        epoch = (await ann.join("lobby")).epoch
        slow = await wrap_client_stream(
            nursery, stream, "localhost", "/ws?nick=slow", subprotocols=["chatd.v1"]
        )
        await slow.get_message()
        await slow.send_message('{"do": "join", "id": 1, "room": "lobby"}')
        await slow.get_message()
        # It stops reading: trio-websocket holds one message and lets the rest wait.
        for _ in range(count):
            await ann.say(text)
        assert len(await take(ann, count)) == count
        told: list[dict[str, Any]] = []
        with pytest.raises(ConnectionClosed) as closed:
            await read_on(slow, told)
        assert closed.value.reason is not None
        assert closed.value.reason.code == 4001
        assert (await chatd.line("disconnect", nick="slow"))["code"] == 4001
        assert (told[-1]["on"], told[-1]["code"], told[-1]["reconnect"]) == ("bye", 4001, True)
        seqs = [event["seq"] for event in told if event["on"] == "message"]
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) < count
        async with client.connect(chatd.url, nick="slow") as back:
            entered = await back.join("lobby", since=client.Position(epoch, seqs[-1]))
            assert entered.recovered
            rest = [event.seq for event in entered.events if isinstance(event, client.Message)]
            rest += [event.seq for event in await take(back, count - seqs[-1] - len(rest))]
            assert rest == list(range(seqs[-1] + 1, count + 1))


async def read_on(websocket: WebSocketConnection, told: list[dict[str, Any]]) -> None:
    """Read until the connection is closed."""
    while True:
        told.append(msgspec.json.decode(await websocket.get_message()))
