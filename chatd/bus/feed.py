"""A feed: one room's subscribers, its visible head, and a tail of its newest events.

A room has two heads. The committed head is the journal's; the visible head is here. `Feed.advance`
moves the visible head and takes its snapshot of the subscribers in one step without a checkpoint. A
join subscribes in the same step in which it reads the visible head at which its page ends. So every
member receives each event once. No page and no answer contains an event past the visible head.

Ephemeral events (presence, typing) have no number and are in no page, so they are sent even to
members who are still catching up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from chatd.bus.codec import Codec, Outbox, Subscriber, encode
from chatd.bus.fanout import Group
from chatd.logs import Log
from chatd.model import Close, Event

__all__ = ["Feed", "Subscription"]

TAIL_EVENTS: Final = 512
"""How many of the newest events are kept for joins: two batches of the collector, which is what may
be fanned out while a join reads the store."""

TAIL_BYTES: Final = 64 * 1024
"""The same bound in bytes of text, so that ten thousand busy rooms hold at most 640 MiB."""

KEEPING_SUBSCRIBERS: Final = 8
"""The fewest subscribers with which a feed keeps a page that was read from the store. With fewer,
the page would take more memory for each of them than a connection does."""


class Subscription:
    """A subscriber's place in one feed. Subscribing again makes another one."""

    __slots__ = ("_subscriber", "codec", "feed", "outbox")

    def __init__(self, feed: Feed, subscriber: Subscriber) -> None:
        self.feed = feed
        self.codec = subscriber.codec
        self.outbox = subscriber.outbox
        self._subscriber = subscriber

    def end(self, close: Close, reason: str) -> None:
        """Close the subscriber's connection."""
        self._subscriber.end(close, reason)

    def cancel(self) -> None:
        """Leave the feed: nothing is offered after this."""
        self.feed.unsubscribe(self)


Subscriptions: TypeAlias = dict[Codec, dict[Subscription, None]]


class Feed:
    """One room's subscribers, visible head and newest events.

    Args:
        key: The room's key.
        name: The room's name as written, which codecs are given.
        log: See `Bus`.
        tail_events: The most events that are kept in memory.
    """

    __slots__ = (
        "_behind",
        "_live",
        "_log",
        "_receivers",
        "_tail",
        "_tail_bytes",
        "_tail_events",
        "changes",
        "fanned_out_at",
        "key",
        "name",
        "visible",
    )

    def __init__(
        self,
        key: str,
        name: str,
        log: Log,
        *,
        tail_events: int = TAIL_EVENTS,
    ) -> None:
        self.key = key
        self.name = name
        self.visible = 0
        self.fanned_out_at = -math.inf
        """When the last events were fanned out, on Trio's clock."""
        self.changes = 0
        """Grows whenever events become visible, or the store removes or changes some."""
        self._live: Subscriptions = {}
        self._behind: Subscriptions = {}
        # The live subscriptions and their outboxes as fan-outs take them, by codec, from the first
        # fan-out after a change of the subscriptions.
        self._receivers: dict[Codec, tuple[list[Subscription], list[Outbox]]] = {}
        self._tail: deque[Event] = deque()
        self._tail_bytes = 0
        self._log = log
        self._tail_events = tail_events

    def __len__(self) -> int:
        return sum(len(each) for of in (self._live, self._behind) for each in of.values())

    def subscribe(self, subscriber: Subscriber, *, live: bool = True) -> Subscription:
        """Subscribe to ephemeral events and, if ``live``, to the events past the visible head."""
        subscription = Subscription(self, subscriber)
        if live:
            self._go_live(subscription)
        else:
            self._behind.setdefault(subscription.codec, {})[subscription] = None
        return subscription

    def follow(self, subscription: Subscription) -> None:
        """Make a subscription live: it receives the events past the visible head."""
        self.unsubscribe(subscription)
        self._go_live(subscription)

    def _go_live(self, subscription: Subscription) -> None:
        self._live.setdefault(subscription.codec, {})[subscription] = None
        self._receivers.pop(subscription.codec, None)

    def unsubscribe(self, subscription: Subscription) -> None:
        self._receivers.pop(subscription.codec, None)
        for subscriptions in (self._live, self._behind):
            subscribers = subscriptions.get(subscription.codec, {})
            if subscription in subscribers:
                del subscribers[subscription]
                if not subscribers:
                    del subscriptions[subscription.codec]

    def set_head(self, seq: int) -> None:
        """Make the committed head visible. Called once, when the feed has been opened."""
        if seq > self.visible:
            self.visible = seq
            self.drop_tail()

    def drop_tail(self) -> None:
        """Forget the newest events: the store has removed or changed some."""
        self.changes += 1
        self._tail.clear()
        self._tail_bytes = 0

    def after(self, seq: int) -> list[Event] | None:
        """Return the visible events after ``seq``; None if the tail does not reach that far."""
        missing = self.visible - seq
        if missing <= 0:
            return []
        if missing > len(self._tail):
            return None
        return [self._tail[i] for i in range(len(self._tail) - missing, len(self._tail))]

    def keep(self, page: Sequence[Event], changes: int) -> None:
        """Keep the newest page, which was read from the store, for those who join next.

        Args:
            page: Events without a gap. A page that ends before the visible head is not kept.
            changes: The value of ``changes`` before the page was read. If it has grown since, the
                page is not kept.
        """
        if changes != self.changes or len(page) <= len(self._tail):
            return
        first, last = page[0].seq, page[-1].seq
        gapless = last - first == len(page) - 1
        if last == self.visible and gapless and len(self) >= KEEPING_SUBSCRIBERS:
            self._tail.clear()
            self._tail.extend(page)
            self._tail_bytes = sum(map(_size, page))
            self._trim()

    def advance(self, events: Sequence[Event], now: float) -> list[Group[Subscription]]:
        """Move the visible head to the last of these events, and encode them for the subscribers.

        Events that are visible already are left out: a store may bring them again.

        Args:
            events: The events of this room that follow.
            now: The time on Trio's clock.

        Returns:
            The groups to fan out, before another task runs.
        """
        if events[0].seq <= self.visible:
            events = [event for event in events if event.seq > self.visible]
            if not events:
                return []
        self.visible = events[-1].seq
        self.changes += 1
        self.fanned_out_at = now
        self._remember(events)
        groups: list[Group[Subscription]] = []
        for codec, subscriptions in list(self._live.items()):
            snapshot = self._receivers.get(codec)
            if snapshot is None:
                live = list(subscriptions)
                snapshot = self._receivers[codec] = live, [each.outbox for each in live]
            live, outboxes = snapshot
            block = encode(codec, self.name, events, live, self._log)
            if block:
                groups.append(Group(block, len(events), live, outboxes, subscriptions.keys))
        return groups

    def broadcast(
        self,
        items: Sequence[Any],
        exclude: Collection[Subscription] = (),
        *,
        droppable: bool = True,
    ) -> None:
        """Offer ephemeral events to all subscribers.

        Args:
            items: The events.
            exclude: Subscriptions to leave out.
            droppable: Whether slow subscribers may be left out too.
        """
        for codec, subscriptions in [*self._live.items(), *self._behind.items()]:
            block = encode(codec, self.name, items, subscriptions, self._log)
            if not block:
                continue
            for subscription in list(subscriptions):
                if subscription not in exclude:
                    outbox = subscription.outbox
                    offer = outbox.offer_droppable if droppable else outbox.offer
                    offer(block, len(items))

    def _remember(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.kind in ("edit", "delete"):
                self._apply_change(event)
            self._tail.append(event)
            self._tail_bytes += _size(event)
        if len(self._tail) > self._tail_events or self._tail_bytes > TAIL_BYTES:
            self._trim()

    def _trim(self) -> None:
        while len(self._tail) > self._tail_events or self._tail_bytes > TAIL_BYTES:
            self._tail_bytes -= _size(self._tail.popleft())

    def _apply_change(self, change: Event) -> None:
        """Put the current text into a changed message, and into its earlier edits."""
        for place, event in enumerate(self._tail):
            if event.seq == change.of and event.kind == "message":
                gone = change.kind == "delete"
                edited = None if gone else change.at
                new = replace(event, text=change.text, edited=edited, deleted=gone)
            elif event.of == change.of and event.kind == "edit":
                new = replace(event, text=change.text)
            else:
                continue
            self._tail[place] = new
            self._tail_bytes += _size(new) - _size(event)


def _size(event: Event) -> int:
    """Return the bytes of an event's text."""
    text = event.text or ""
    return len(text) if text.isascii() else len(text.encode())
