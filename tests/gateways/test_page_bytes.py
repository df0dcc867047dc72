"""Pages are cut by the bytes that they take on the way, so that no client is too slow for one."""

from __future__ import annotations

from typing import Literal, TypeAlias

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from chatd import client
from chatd.settings import Limits, Settings
from chatd.testing import Harness, TextClient, open_chat

Protocol: TypeAlias = Literal["json", "text", "socketio", "polling"]

FREE = replace(
    Limits(), messages_per_second="off", bytes_per_second="off", requests_per_second="off"
)
TEXTS = {
    "emoji": "\U0001f600" * 4096,
    "two bytes": "é" * 8192,
    "quotes": '"' * 16384,
    "lines": "x" + "\n" * 16382 + "x",
}


async def fill(chat: Harness, text: str, count: int) -> None:
    ann = await chat.client("ann")
    for _ in range(count):
        await ann.say(text)
    await ann.aclose()
    await chat.wait_idle()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("protocol", ["json", "text", "socketio", "polling"])
async def test_a_page_of_the_largest_messages_never_makes_a_client_too_slow(
    autojump_clock: MockClock, protocol: Protocol, text: str
) -> None:
    async with open_chat(settings=Settings(limits=FREE)) as chat:
        await fill(chat, text, 64)
        bob = await chat.client("bob", protocol)
        if not isinstance(bob, TextClient):
            page = await bob.history("lobby", limit=64)
            assert page.more
        await chat.wait_idle()
        assert [line for line in chat.logged("disconnect") if line["code"] != 1000] == []


@pytest.mark.parametrize("protocol", ["json", "socketio", "polling"])
async def test_a_resume_over_many_pages_misses_nothing(
    autojump_clock: MockClock, protocol: Protocol
) -> None:
    async with open_chat(settings=Settings(limits=FREE)) as chat:
        bob = await chat.client("bob", protocol)
        await chat.cut(bob)
        await fill(chat, TEXTS["emoji"], 64)
        # The cable that was cut is too slow, rightly.
        cut = len(chat.logged("disconnect"))
        await bob.reconnect()
        for _ in range(64):
            message = await bob.next("message")
            assert isinstance(message, client.Message)
            assert message.text == TEXTS["emoji"]
        assert chat.logged("disconnect")[cut:] == []


async def test_a_page_of_many_small_messages_fits_the_smallest_queue(
    autojump_clock: MockClock,
) -> None:
    limits = replace(FREE, message_bytes=1024, send_queue_bytes=4 * 1024 + 4096)
    async with open_chat(settings=Settings(limits=limits)) as chat:
        await fill(chat, "hi", 300)
        protocols: tuple[Protocol, ...] = ("json", "polling")
        for protocol in protocols:
            bob = await chat.client("bob", protocol)
            assert not isinstance(bob, TextClient)
            assert (await bob.history("lobby", limit=500)).more
            await bob.aclose()
        assert [line for line in chat.logged("disconnect") if line["code"] == 4001] == []
