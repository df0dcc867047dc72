"""An error in a gateway or a codec ends its own connections, and no others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd import client
from chatd.chat.expiry import Expiry
from chatd.chat.moderation import moderate
from chatd.gateways import json, socketio, text
from chatd.gateways.http import stream
from chatd.model import Post
from chatd.protocol import commands, events
from chatd.settings import Auth, Settings
from chatd.testing import Harness, open_chat
from chatd.testing.clients import PROTOCOLS

CODECS: dict[str, type[Any]] = {
    "json": json.JsonCodec,
    "text": text.TextCodec,
    "socketio": socketio.SocketIoCodec,
    "polling": socketio.SocketIoCodec,
    "http": stream.EventStreamCodec,
}


def other(protocol: str) -> str:
    return "text" if protocol == "json" else "json"


def fail(*_args: object) -> Any:
    raise ValueError("injected")


def break_codec(
    monkeypatch: pytest.MonkeyPatch, protocol: str, breaks: Callable[[Any], bool]
) -> None:
    """Make a protocol's codec raise for some items."""
    codec = CODECS[protocol]
    encode = codec.encode

    def broken(self: Any, room: str, items: Any) -> Any:
        if any(breaks(item) for item in items):
            fail()
        return encode(self, room, items)

    monkeypatch.setattr(codec, "encode", broken)


def injected(chat: Harness) -> list[dict[str, Any]]:
    return [line for line in chat.logged("fault") if "injected" in line["error"]]


async def chats_on(witness: Any) -> None:
    """See that a client's next message comes back to it."""
    await witness.say("still here")
    while (await witness.next("message")).text != "still here":
        pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_event_that_a_codec_cannot_encode(
    protocol: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    break_codec(monkeypatch, protocol, lambda item: getattr(item, "text", None) == "poison")
    async with open_chat() as chat:
        witness = await chat.client("witness", other(protocol))
        victims = [await chat.client(f"victim{number}", protocol) for number in range(2)]
        elsewhere = await chat.client("elsewhere", protocol, room="elsewhere")
        await witness.say("poison")
        for victim in victims:
            assert (await victim.lost()).code == 1011
        await chats_on(witness)
        faults = injected(chat)
        assert [(line["room"], line["seq"]) for line in faults] == [("lobby", 1)]
        assert "ValueError" in faults[0]["traceback"]
        await chats_on(elsewhere)
        # On a page the event has no text, so that no client loops.
        await victims[0].reconnect()
        await chats_on(victims[0])


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_stored_text_that_nobody_can_encode(
    protocol: str, autojump_clock: MockClock
) -> None:
    async with open_chat() as chat:
        bus = chat.daemon.chat.bus
        post = Post(room="lobby", name="lobby", user="ann", nick="ann", text="\ud800")
        await bus.submit_and_wait(post)
        fine = Post(room="lobby", name="lobby", user="ann", nick="ann", text="fine")
        await bus.submit_and_wait(fine)
        one: Any = await chat.client("one", protocol)
        if protocol == "text":
            await one.say("/history 9")
        else:
            page = await one.history("lobby")
            assert [getattr(event, "text", "") for event in page.events] == [None, "fine"]
        await chats_on(one)
        faults = [line for line in chat.logged("fault") if "connection" in line]
        assert {line["seq"] for line in faults} == {1}


@pytest.mark.parametrize(
    ("protocol", "owner", "name"),
    [
        ("json", json.JsonGateway, "_answer"),
        ("text", text.TextGateway, "_answer"),
        ("socketio", socketio, "_acknowledge"),
        ("polling", socketio, "_acknowledge"),
    ],
)
async def test_an_answer(
    protocol: str,
    owner: Any,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    async with open_chat() as chat:
        witness = await chat.client("witness", other(protocol))
        victim = await chat.client("victim", protocol)

        # By plain text a message has no answer.
        line = "/who" if protocol == "text" else "hello"

        async def say() -> None:
            with suppress(client.ChatError, trio.BrokenResourceError):
                await victim.say(line)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say)
                assert (await victim.lost()).code == 1011
                nursery.cancel_scope.cancel()
            await chats_on(witness)
        assert injected(chat)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_notice_from_elsewhere(
    protocol: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    break_codec(
        monkeypatch,
        protocol,
        lambda item: isinstance(item, events.Notice) and "muted" in item.text,
    )
    async with open_chat() as chat:
        witness = await chat.client("witness", other(protocol))
        victim = await chat.client("victim", protocol)
        done = await moderate(chat.daemon.chat, "console", commands.Mute(nick="victim"))
        assert done.user is not None
        assert (await victim.lost()).code == 1011
        await chats_on(witness)
        assert injected(chat)


@pytest.mark.parametrize(
    ("protocol", "gateway", "name"),
    [
        ("json", json.JsonGateway, "ended"),
        ("text", text.TextGateway, "ended"),
        ("socketio", socketio.SocketIoGateway, "_disconnect"),
        ("polling", socketio.SocketIoGateway, "_disconnect"),
        ("http", stream.RoomStream, "ended"),
    ],
)
async def test_the_end_of_a_connection(
    protocol: str,
    gateway: type[Any],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    monkeypatch.setattr(gateway, name, fail)
    async with open_chat() as chat:
        witness = await chat.client("witness", other(protocol))
        victim = await chat.client("victim", protocol)
        await victim.aclose()
        await chat.wait_idle()
        await chats_on(witness)
        assert injected(chat)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_goodbye(
    protocol: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    if protocol == "text":
        monkeypatch.setattr(text.TextGateway, "goodbye_frames", fail)
    elif protocol == "http":
        monkeypatch.setattr(stream.EventStreamCodec, "goodbye", fail)
    else:
        break_codec(monkeypatch, protocol, lambda item: isinstance(item, events.Bye))
    async with open_chat() as chat:
        witness = await chat.client("witness", other(protocol))
        victim = await chat.client("victim", protocol)
        await moderate(chat.daemon.chat, "console", commands.Kick(nick="victim"))
        await victim.lost()
        await chats_on(witness)
        assert injected(chat)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_timer(
    protocol: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    settings = Settings(auth=Auth(mode="token", guests=True))
    fire, calls = Expiry.fire, count()

    def broken(self: Expiry, now: float) -> float | None:
        if next(calls):
            fail()
        return fire(self, now)

    monkeypatch.setattr(Expiry, "fire", broken)
    async with open_chat(settings) as chat:
        witness = await chat.client("witness", other(protocol))
        victim = await chat.client("victim", protocol, token=chat.token("victim"))
        assert (await victim.lost()).code == 1011
        await chats_on(witness)
        assert injected(chat)
