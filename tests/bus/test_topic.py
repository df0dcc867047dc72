"""One room's fan-out: each event once, in order, to whoever is subscribed when it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import pytest

from chatd.bus import Topic, fanout
from chatd.bus import topic as module
from chatd.logs import Recording, open_log
from chatd.model import Close, Event


class Codec:
    """Says events as their numbers, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def encode(self, room: str, items: Sequence[Any]) -> list[Any]:
        self.asked += 1
        return [item.seq if isinstance(item, Event) else item for item in items]


class Member:
    """A connection that is its own outbox."""

    def __init__(self, codec: Any = None) -> None:
        self.codec = Codec() if codec is None else codec
        self.got: list[Any] = []
        self.ended: list[int] = []

    @property
    def outbox(self) -> Self:
        return self

    def end(self, close: Close, reason: str) -> None:
        self.ended.append(close.code)

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
def records() -> Recording:
    return Recording()


@pytest.fixture
def topic(records: Recording) -> Topic:
    return Topic("r", "R", open_log(sink=records))


async def test_everybody_who_speaks_alike_gets_one_block(topic: Topic) -> None:
    codec = Codec()
    members = [Member(codec) for _ in range(300)]
    for member in members:
        topic.subscribe(member)
    assert await topic.show(events(1, 3)) == 300
    assert codec.asked == 1
    assert all(member.got == [1, 2, 3] for member in members)


async def test_what_was_visible_when_the_topic_opened_is_not_shown_again(topic: Topic) -> None:
    topic.raise_to(2)
    member = Member()
    topic.subscribe(member)
    assert await topic.show(events(1, 2)) == 0
    await topic.show(events(2, 4))
    assert member.got == [3, 4]
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
    codec = Codec()
    mine, other = Member(codec), Member(codec)
    subscription = topic.subscribe(mine)
    topic.subscribe(other)
    topic.tell(["ann joined"], {subscription})
    assert (mine.got, other.got) == ([], ["ann joined"])


async def test_who_is_not_live_is_told_and_not_shown(topic: Topic) -> None:
    member = Member()
    subscription = topic.subscribe(member, live=False)
    topic.tell(["ann joined"])
    assert await topic.show(events(1, 1)) == 0
    assert (member.got, len(topic)) == (["ann joined"], 1)
    topic.follow(subscription)
    topic.tell(["bob joined"])
    assert await topic.show(events(2, 2)) == 1
    assert (member.got, len(topic)) == (["ann joined", "bob joined", 2], 1)
    subscription.cancel()
    topic.subscribe(member, live=False).cancel()
    topic.tell(["cleo joined"])
    assert (len(member.got), len(topic)) == (3, 0)


async def test_who_leaves_during_a_long_fan_out_gets_nothing_more_and_who_returns_no_double(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fan-out that checkpoints passes over members that went, also if they are back since."""
    monkeypatch.setattr(fanout, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(fanout, "SLICE_RECEIVERS", 1)
    codec = Codec()
    leaver, returner = Member(codec), Member(codec)

    class First(Member):
        def offer(self, block: Any, messages: int = 1, /) -> None:
            super().offer(block, messages)
            if block == [1]:
                leaving.cancel()
                returning.cancel()
                assert topic.visible == 1  # moved before any offer: a join ends its page there
                topic.subscribe(returner)

    topic.subscribe(First(codec))
    leaving = topic.subscribe(leaver)
    returning = topic.subscribe(returner)
    await topic.show(events(1, 1))
    assert (leaver.got, returner.got) == ([], [])
    await topic.show(events(2, 2))
    assert (leaver.got, returner.got) == ([], [2])
    assert len(topic) == 2


class Broken(Codec):
    """Cannot encode an event whose text is ``bad``, nor the item ``bad``."""

    def encode(self, room: str, items: Sequence[Any]) -> list[Any]:
        if any(getattr(item, "text", item) == "bad" for item in items):
            raise ValueError("a bug")
        return super().encode(room, items)


async def test_a_codec_that_raises_ends_its_live_subscribers_in_this_room_alone(
    topic: Topic, records: Recording
) -> None:
    broken = Broken()
    live, behind, other = Member(broken), Member(broken), Member()
    topic.subscribe(live)
    topic.subscribe(behind, live=False)
    topic.subscribe(other)
    batch = [*events(1, 1), *events(2, 2, text="bad"), *events(3, 3)]
    assert await topic.show(batch) == 1
    assert (live.got, live.ended) == ([], [1011])
    assert (behind.ended, other.ended, other.got) == ([], [], [1, 2, 3])
    [(name, fields)] = records.records
    assert (name, fields["room"], fields["seq"]) == ("fault", "R", 2)
    assert "a bug" in fields["traceback"]
    topic.tell(["bad"])
    assert (behind.ended, other.got) == ([1011], [1, 2, 3, "bad"])


async def test_an_end_that_raises_as_well_is_logged(topic: Topic, records: Recording) -> None:
    class Stubborn(Member):
        def end(self, close: Close, reason: str) -> None:
            raise ValueError("no goodbye")

    member = Member(Broken())
    topic.subscribe(Stubborn(member.codec))
    topic.subscribe(member)
    assert await topic.show(events(1, 1, text="bad")) == 0
    assert member.ended == [1011]
    assert ["no goodbye" in fields["error"] for _, fields in records.records] == [False, True]


async def test_a_block_that_fails_only_as_a_whole_is_logged(
    topic: Topic, records: Recording
) -> None:
    class Small(Codec):
        def encode(self, room: str, items: Sequence[Any]) -> list[Any]:
            if len(items) > 1:
                raise ValueError("too many")
            return super().encode(room, items)

    member = Member(Small())
    topic.subscribe(member)
    await topic.show(events(1, 2))
    assert member.ended == [1011]
    assert ["too many" in fields["error"] for _, fields in records.records] == [True]


async def test_a_codec_that_says_nothing_costs_its_subscribers_nothing(topic: Topic) -> None:
    class Silent:
        def encode(self, room: str, items: Sequence[Any]) -> bytes:
            return b""

    member = Member(Silent())
    topic.subscribe(member)
    assert await topic.show(events(1, 1)) == 0
    topic.tell(["joined"])
    assert member.got == []


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
