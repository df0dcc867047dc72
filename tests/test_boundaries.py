"""An error in one connection's code costs that connection; everybody else chats on.

The error is injected where the code runs in a task of the bus: in an answer, and in a codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd.gateways.json import JsonCodec, JsonGateway
from chatd.model import Event
from chatd.testing import open_chat

BAD = "bad"


class BugError(Exception):
    pass


@pytest.fixture
def broken_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the codec of chatd.v1 raise for events with the text `BAD`."""
    encode = JsonCodec.encode

    def broken(self: JsonCodec, room: str, items: Sequence[Any]) -> bytes:
        if any(isinstance(item, Event) and item.text == BAD for item in items):
            raise BugError
        return encode(self, room, items)

    monkeypatch.setattr(JsonCodec, "encode", broken)


async def test_an_answer_that_raises_closes_its_connection_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, faults = JsonGateway._answer, [BugError()]

    def broken(self: JsonGateway, mark: Any, value: Any) -> None:
        if getattr(value, "seq", None) == 2 and faults:
            raise faults.pop()
        answer(self, mark, value)

    monkeypatch.setattr(JsonGateway, "_answer", broken)
    async with open_chat() as chat, trio.open_nursery() as nursery:
        ann, bob = await chat.client("ann"), await chat.client("bob", "text")
        assert (await ann.say("one")).seq == 1
        nursery.start_soon(ann.say, "two")
        assert (await ann.lost()).code == 1011
        assert await bob.texts(2) == ["one", "two"]
        await bob.say("three")
        await ann.reconnect()  # and it sends "two" again, by its key
        assert await ann.texts(3) == ["one", "two", "three"]
        [fault] = chat.logged("fault")
        assert fault["nick"] == "ann"
        assert "BugError" in fault["traceback"]


async def test_an_event_that_a_codec_cannot_encode_closes_those_who_use_it_in_the_room(
    autojump_clock: MockClock, broken_codec: None
) -> None:
    async with open_chat() as chat:
        ann, bob = await chat.client("ann", "text"), await chat.client("bob")
        elsewhere = await chat.client("cleo", room="tea")
        await ann.say("one")
        assert await bob.texts(1) == ["one"]
        await ann.say(BAD)
        assert (await bob.lost()).code == 1011
        [fault] = chat.logged("fault")
        assert (fault["room"], fault["seq"]) == ("lobby", 2)
        await elsewhere.say("not concerned")
        await ann.say("three")
        assert await ann.texts(3) == ["one", BAD, "three"]
        await bob.reconnect()
        await ann.say("four")
        assert (await bob.texts(3))[1:] == ["three", "four"]
