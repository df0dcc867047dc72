"""A room's fan-out: each event once, in order, to all current subscribers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import pytest
import trio

from chatd.bus import SLICES, Feed, Slices, fan_out
from chatd.bus import feed as module
from chatd.logs import open_log
from chatd.model import Close, Event
from chatd.testing.recording import Recording


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

    @staticmethod
    def offer_each(outboxes: Iterable[Member], block: Any, messages: int = 1, /) -> None:
        for outbox in outboxes:
            outbox.offer(block, messages)

    def offer_droppable(self, block: Any, messages: int = 1, /) -> None:
        self.offer(block, messages)


def events(first: int, last: int, text: str = "x") -> list[Event]:
    return [
        Event(position=seq, room="r", seq=seq, at=0, kind="message", user="u", nick="n", text=text)
        for seq in range(first, last + 1)
    ]


async def fan_out_to(feed: Feed, batch: Sequence[Event], slices: Slices = SLICES) -> int:
    """Fan events out as the bus does; return how many subscribers they were sent to."""
    groups = feed.advance(batch, trio.current_time())
    await fan_out(groups, slices)
    return sum(len(group.outboxes) for group in groups)


@pytest.fixture
def records() -> Recording:
    return Recording()


@pytest.fixture
def feed(records: Recording) -> Feed:
    return Feed("r", "R", open_log(sink=records))


async def test_subscribers_of_one_codec_get_one_block(feed: Feed) -> None:
    codec = Codec()
    members = [Member(codec) for _ in range(300)]
    for member in members:
        feed.subscribe(member)
    assert await fan_out_to(feed, events(1, 3)) == 300
    assert codec.asked == 1
    assert all(member.got == [1, 2, 3] for member in members)


async def test_what_was_visible_when_the_topic_opened_is_not_shown_again(feed: Feed) -> None:
    feed.set_head(2)
    member = Member()
    feed.subscribe(member)
    assert await fan_out_to(feed, events(1, 2)) == 0
    await fan_out_to(feed, events(2, 4))
    assert member.got == [3, 4]
    assert feed.visible == 4


async def test_the_tail_holds_the_newest_events_and_its_start(feed: Feed) -> None:
    feed.set_head(5)
    await fan_out_to(feed, events(6, 9))
    assert [event.seq for event in feed.after(7) or ()] == [8, 9]
    assert feed.after(9) == []
    assert feed.after(12) == []
    assert [event.seq for event in feed.after(5) or ()] == [6, 7, 8, 9]
    assert feed.after(4) is None


async def test_the_tail_is_bounded_in_events_and_in_bytes(feed: Feed) -> None:
    await fan_out_to(feed, events(1, 2000))
    assert feed.after(2000 - module.TAIL_EVENTS) is not None
    assert feed.after(2000 - module.TAIL_EVENTS - 1) is None
    await fan_out_to(feed, events(2001, 2010, text="x" * (module.TAIL_BYTES // 2)))
    assert feed.after(2008) is not None
    assert feed.after(2007) is None


def crowd(feed: Feed) -> None:
    for _ in range(module.KEEPING_SUBSCRIBERS):
        feed.subscribe(Member())


async def test_the_newest_page_is_kept_where_many_are_subscribed(feed: Feed) -> None:
    feed.set_head(5)
    feed.keep(events(3, 5), feed.changes)
    assert feed.after(2) is None
    crowd(feed)
    feed.keep(events(3, 5), feed.changes)
    assert feed.after(2) == events(3, 5)
    assert feed.after(1) is None
    feed.keep(events(5, 5), feed.changes)
    await fan_out_to(feed, events(6, 6))
    assert feed.after(2) == events(3, 6)
    feed.drop_tail()
    assert feed.after(5) is None


@pytest.mark.parametrize("page", [[], events(1, 4), [*events(2, 3), *events(5, 5)]])
async def test_a_page_that_is_not_the_newest_or_has_a_gap_is_not_kept(
    feed: Feed, page: list[Event]
) -> None:
    feed.set_head(5)
    crowd(feed)
    feed.keep(page, feed.changes)
    assert feed.after(4) is None


async def test_a_page_is_not_kept_if_something_changed_while_it_was_read(feed: Feed) -> None:
    feed.set_head(5)
    crowd(feed)
    changes = feed.changes
    feed.drop_tail()
    feed.keep(events(3, 5), changes)
    assert feed.after(4) is None
    changes = feed.changes
    await fan_out_to(feed, [change("edit", 6, of=4, text="new")])
    feed.keep([*events(3, 5), change("edit", 6, of=4, text="old")], changes)
    assert feed.after(4) is None


async def test_ephemeral_events_skip_excluded_subscribers(feed: Feed) -> None:
    codec = Codec()
    mine, other = Member(codec), Member(codec)
    subscription = feed.subscribe(mine)
    feed.subscribe(other)
    feed.broadcast(["ann joined"], {subscription})
    assert (mine.got, other.got) == ([], ["ann joined"])


async def test_a_subscriber_that_is_not_live_gets_only_ephemeral_events(feed: Feed) -> None:
    member = Member()
    subscription = feed.subscribe(member, live=False)
    feed.broadcast(["ann joined"])
    assert await fan_out_to(feed, events(1, 1)) == 0
    assert (member.got, len(feed)) == (["ann joined"], 1)
    feed.follow(subscription)
    feed.broadcast(["bob joined"])
    assert await fan_out_to(feed, events(2, 2)) == 1
    assert (member.got, len(feed)) == (["ann joined", "bob joined", 2], 1)
    subscription.cancel()
    feed.subscribe(member, live=False).cancel()
    feed.broadcast(["cleo joined"])
    assert (len(member.got), len(feed)) == (3, 0)


async def test_leaving_and_returning_during_a_long_fan_out() -> None:
    """A fan-out that checkpoints passes over members that went, also if they are back since."""
    slices = Slices(seconds=-1.0, recipients=1)
    feed = Feed("r", "R", open_log(sink=Recording()))
    codec = Codec()
    leaver, returner = Member(codec), Member(codec)

    class First(Member):
        def offer(self, block: Any, messages: int = 1, /) -> None:
            super().offer(block, messages)
            if block == [1]:
                leaving.cancel()
                returning.cancel()
                assert feed.visible == 1  # moved before any offer: a join ends its page there
                feed.subscribe(returner)

    feed.subscribe(First(codec))
    leaving = feed.subscribe(leaver)
    returning = feed.subscribe(returner)
    await fan_out_to(feed, events(1, 1), slices)
    assert (leaver.got, returner.got) == ([], [])
    await fan_out_to(feed, events(2, 2), slices)
    assert (leaver.got, returner.got) == ([], [2])
    assert len(feed) == 2


class Broken(Codec):
    """Cannot encode an event whose text is ``bad``, nor the item ``bad``."""

    def encode(self, room: str, items: Sequence[Any]) -> list[Any]:
        if any(getattr(item, "text", item) == "bad" for item in items):
            raise ValueError("a bug")
        return super().encode(room, items)


async def test_a_codec_that_raises_ends_its_live_subscribers_in_this_room_alone(
    feed: Feed, records: Recording
) -> None:
    broken = Broken()
    live, behind, other = Member(broken), Member(broken), Member()
    feed.subscribe(live)
    feed.subscribe(behind, live=False)
    feed.subscribe(other)
    batch = [*events(1, 1), *events(2, 2, text="bad"), *events(3, 3)]
    assert await fan_out_to(feed, batch) == 1
    assert (live.got, live.ended) == ([], [1011])
    assert (behind.ended, other.ended, other.got) == ([], [], [1, 2, 3])
    [(name, fields)] = records.records
    assert (name, fields["room"], fields["seq"]) == ("fault", "R", 2)
    assert "a bug" in fields["traceback"]
    feed.broadcast(["bad"])
    assert (behind.ended, other.got) == ([1011], [1, 2, 3, "bad"])


async def test_an_end_that_raises_as_well_is_logged(feed: Feed, records: Recording) -> None:
    class Stubborn(Member):
        def end(self, close: Close, reason: str) -> None:
            raise ValueError("no goodbye")

    member = Member(Broken())
    feed.subscribe(Stubborn(member.codec))
    feed.subscribe(member)
    assert await fan_out_to(feed, events(1, 1, text="bad")) == 0
    assert member.ended == [1011]
    assert ["no goodbye" in fields["error"] for _, fields in records.records] == [False, True]


async def test_a_block_that_fails_only_as_a_whole_is_logged(feed: Feed, records: Recording) -> None:
    class Small(Codec):
        def encode(self, room: str, items: Sequence[Any]) -> list[Any]:
            if len(items) > 1:
                raise ValueError("too many")
            return super().encode(room, items)

    member = Member(Small())
    feed.subscribe(member)
    await fan_out_to(feed, events(1, 2))
    assert member.ended == [1011]
    assert ["too many" in fields["error"] for _, fields in records.records] == [True]


async def test_a_codec_that_says_nothing_costs_its_subscribers_nothing(feed: Feed) -> None:
    class Silent:
        def encode(self, room: str, items: Sequence[Any]) -> bytes:
            return b""

    member = Member(Silent())
    feed.subscribe(member)
    assert await fan_out_to(feed, events(1, 1)) == 0
    feed.broadcast(["joined"])
    assert member.got == []


def change(kind: Literal["edit", "delete"], seq: int, of: int, text: str | None = None) -> Event:
    return Event(seq, "r", seq, at=seq * 10, kind=kind, user="u", nick="n", text=text, of=of)


async def test_the_tail_gives_present_words(feed: Feed) -> None:
    await fan_out_to(feed, [*events(1, 2), change("edit", 3, 1, "y" * 10)])
    await fan_out_to(feed, [change("edit", 4, 2, "z")])
    await fan_out_to(feed, [change("edit", 5, 1, "new")])
    tail = feed.after(0)
    assert tail is not None
    assert [(one.text, one.edited) for one in tail] == [
        ("new", 50),
        ("z", 40),
        ("new", None),
        ("z", None),
        ("new", None),
    ]
    await fan_out_to(
        feed, [change("delete", 6, 1), change("edit", 7, 99, "from elsewhere in the log")]
    )
    tail = feed.after(0)
    assert tail is not None
    assert [(one.text, one.edited, one.deleted) for one in tail[:6]] == [
        (None, None, True),
        ("z", 40, False),
        (None, None, False),
        ("z", None, False),
        (None, None, False),
        (None, None, False),
    ]


async def test_changed_words_count_as_they_are(feed: Feed) -> None:
    big = "x" * (module.TAIL_BYTES // 2)
    await fan_out_to(
        feed, [*events(1, 1, text=big), *events(2, 2, text=big), change("delete", 3, 1)]
    )
    await fan_out_to(feed, events(4, 4, text=big))
    assert feed.after(0) is not None
    await fan_out_to(feed, [change("edit", 5, 2, big + "x")])
    assert feed.after(0) is None
