"""One room's fan-out: each event once, in order, to whoever is subscribed when it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from chatd.bus import Topic
from chatd.bus import topic as module
from chatd.model import Event


class Codec:
    """Says events as their numbers, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def encode(self, room: str, items: Sequence[Any]) -> list[Any]:
        self.asked += 1
        return [item.seq if isinstance(item, Event) else item for item in items]


class Outlet:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def offer(self, block: Any, messages: int = 1, /) -> None:
        assert len(block) == messages
        self.got += block

    def offer_droppable(self, block: Any, messages: int = 1, /) -> None:
        self.offer(block, messages)


def events(first: int, last: int, text: str = "x") -> list[Event]:
    return [
        Event(position=seq, room="r", seq=seq, at=0, kind="message", user="u", nick="n", text=text)
        for seq in range(first, last + 1)
    ]


@pytest.fixture
def topic() -> Topic:
    return Topic("r", "R")


async def test_everybody_who_speaks_alike_gets_one_block(topic: Topic) -> None:
    codec, outlets = Codec(), [Outlet() for _ in range(300)]
    for outlet in outlets:
        topic.subscribe(outlet, codec)
    assert await topic.show(events(1, 3)) == 300
    assert codec.asked == 1
    assert all(outlet.got == [1, 2, 3] for outlet in outlets)


async def test_what_was_visible_when_the_topic_opened_is_not_shown_again(topic: Topic) -> None:
    topic.raise_to(2)
    outlet = Outlet()
    topic.subscribe(outlet, Codec())
    assert await topic.show(events(1, 2)) == 0
    await topic.show(events(2, 4))
    assert outlet.got == [3, 4]
    assert topic.visible == 4


async def test_the_tail_gives_what_was_shown_and_knows_how_far_it_reaches(topic: Topic) -> None:
    topic.raise_to(5)
    await topic.show(events(6, 9))
    assert [event.seq for event in topic.after(7) or ()] == [8, 9]
    assert topic.after(9) == []
    assert topic.after(12) == []
    assert [event.seq for event in topic.after(5) or ()] == [6, 7, 8, 9]
    assert topic.after(4) is None


async def test_the_tail_is_bounded_in_events_and_in_bytes(topic: Topic) -> None:
    await topic.show(events(1, 2000))
    assert topic.after(2000 - module.TAIL_EVENTS) is not None
    assert topic.after(2000 - module.TAIL_EVENTS - 1) is None
    await topic.show(events(2001, 2010, text="x" * (module.TAIL_BYTES // 2)))
    assert topic.after(2008) is not None
    assert topic.after(2007) is None


async def test_told_events_pass_over_those_named(topic: Topic) -> None:
    codec, mine, other = Codec(), Outlet(), Outlet()
    subscription = topic.subscribe(mine, codec)
    topic.subscribe(other, codec)
    topic.tell(["ann joined"], {subscription})
    assert (mine.got, other.got) == ([], ["ann joined"])


async def test_who_is_not_live_is_told_and_not_shown(topic: Topic) -> None:
    outlet = Outlet()
    subscription = topic.subscribe(outlet, Codec(), live=False)
    topic.tell(["ann joined"])
    assert await topic.show(events(1, 1)) == 0
    assert (outlet.got, len(topic)) == (["ann joined"], 1)
    topic.follow(subscription)
    topic.tell(["bob joined"])
    assert await topic.show(events(2, 2)) == 1
    assert (outlet.got, len(topic)) == (["ann joined", "bob joined", 2], 1)
    subscription.cancel()
    topic.subscribe(outlet, Codec(), live=False).cancel()
    topic.tell(["cleo joined"])
    assert (len(outlet.got), len(topic)) == (3, 0)


async def test_who_leaves_during_a_long_fan_out_gets_nothing_more_and_who_returns_no_double(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fan-out that checkpoints passes over members that went, also if they are back since."""
    monkeypatch.setattr(module, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(module, "SLICE_SUBSCRIBERS", 1)
    codec = Codec()
    leaver, returner = Outlet(), Outlet()

    class First(Outlet):
        def offer(self, block: Any, messages: int = 1, /) -> None:
            super().offer(block, messages)
            if block == [1]:
                leaving.cancel()
                returning.cancel()
                assert topic.visible == 1  # moved before any offer: a join ends its page there
                topic.subscribe(returner, codec)

    topic.subscribe(First(), codec)
    leaving = topic.subscribe(leaver, codec)
    returning = topic.subscribe(returner, codec)
    await topic.show(events(1, 1))
    assert (leaver.got, returner.got) == ([], [])
    await topic.show(events(2, 2))
    assert (leaver.got, returner.got) == ([], [2])
    assert len(topic) == 2


async def test_a_codec_that_says_nothing_costs_its_subscribers_nothing(topic: Topic) -> None:
    class Silent:
        def encode(self, room: str, items: Sequence[Any]) -> bytes:
            return b""

    outlet = Outlet()
    topic.subscribe(outlet, Silent())
    assert await topic.show(events(1, 1)) == 0
    topic.tell(["joined"])
    assert outlet.got == []


def change(kind: Literal["edit", "delete"], seq: int, of: int, text: str | None = None) -> Event:
    return Event(seq, "r", seq, at=seq * 10, kind=kind, user="u", nick="n", text=text, of=of)


async def test_the_tail_gives_present_words(topic: Topic) -> None:
    await topic.show([*events(1, 2), change("edit", 3, 1, "y" * 10)])
    await topic.show([change("edit", 4, 2, "z")])
    await topic.show([change("edit", 5, 1, "new")])
    tail = topic.after(0)
    assert tail is not None
    assert [(one.text, one.edited) for one in tail] == [
        ("new", 50),
        ("z", 40),
        ("new", None),
        ("z", None),
        ("new", None),
    ]
    await topic.show([change("delete", 6, 1), change("edit", 7, 99, "of what is gone from here")])
    tail = topic.after(0)
    assert tail is not None
    assert [(one.text, one.edited, one.deleted) for one in tail[:6]] == [
        (None, None, True),
        ("z", 40, False),
        (None, None, False),
        ("z", None, False),
        (None, None, False),
        (None, None, False),
    ]


async def test_changed_words_count_as_they_are(topic: Topic) -> None:
    big = "x" * (module.TAIL_BYTES // 2)
    await topic.show([*events(1, 1, text=big), *events(2, 2, text=big), change("delete", 3, 1)])
    await topic.show(events(4, 4, text=big))
    assert topic.after(0) is not None
    await topic.show([change("edit", 5, 2, big + "x")])
    assert topic.after(0) is None
