"""A feed: the subscribers of one room, what they have been shown, and the newest of it.

Two heads. A room has a committed head, which is the journal's, and a visible head, which is here.
``show`` moves the visible head and takes its snapshot of the subscribers in one step without a
checkpoint; a join subscribes in the same step in which it reads the visible head at which its page
ends. So no event is shown twice to anybody, and none is missed. Nothing past the visible head is
given to anybody by any other way. What is told and not kept has no number: who is still on the way
to the visible head is told it at once, for no page will bring it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from chatd.bus.codec import Codec, Subscriber, encode
from chatd.bus.fanout import Group, fan_out
from chatd.logs import Log
from chatd.model import Close, Event

__all__ = ["Feed", "Subscription"]

TAIL_EVENTS: Final = 512
"""The newest events kept for joins: two batches of the collector, which is what may be shown
while a join reads the store."""

TAIL_BYTES: Final = 64 * 1024
"""The same in bytes of text, so that ten thousand busy rooms hold no more than 640 MiB."""


class Subscription:
    """A subscriber's place in one feed. Coming back makes a new one, so the two differ."""

    __slots__ = ("_subscriber", "codec", "feed", "offer", "offer_droppable")

    def __init__(self, feed: Feed, subscriber: Subscriber) -> None:
        self.feed = feed
        self.codec = subscriber.codec
        self.offer = subscriber.outbox.offer
        self.offer_droppable = subscriber.outbox.offer_droppable
        self._subscriber = subscriber

    def end(self, close: Close, reason: str) -> None:
        """Close the subscriber's connection."""
        self._subscriber.end(close, reason)

    def cancel(self) -> None:
        """Leave the feed: nothing of it is offered after this."""
        self.feed.unsubscribe(self)


Subscriptions: TypeAlias = dict[Codec, dict[Subscription, None]]


class Feed:
    """One room's subscribers and its visible head."""

    __slots__ = ("_behind", "_live", "_log", "_tail", "_tail_bytes", "key", "name", "visible")

    def __init__(self, key: str, name: str, log: Log) -> None:
        self.key = key
        self.name = name
        self.visible = 0
        self._live: Subscriptions = {}
        self._behind: Subscriptions = {}
        self._tail: deque[Event] = deque()
        self._tail_bytes = 0
        self._log = log

    def __len__(self) -> int:
        return sum(len(each) for of in (self._live, self._behind) for each in of.values())

    def subscribe(self, subscriber: Subscriber, *, live: bool = True) -> Subscription:
        """Offer everything that is told from now on; ``live``, what is shown too.

        What is shown from now on is what lies past the visible head.
        """
        subscription = Subscription(self, subscriber)
        subscriptions = self._live if live else self._behind
        subscriptions.setdefault(subscription.codec, {})[subscription] = None
        return subscription

    def follow(self, subscription: Subscription) -> None:
        """Offer what is shown from now on to one that was not live."""
        self.unsubscribe(subscription)
        self._live.setdefault(subscription.codec, {})[subscription] = None

    def unsubscribe(self, subscription: Subscription) -> None:
        for subscriptions in (self._live, self._behind):
            subscribers = subscriptions.get(subscription.codec, {})
            if subscription in subscribers:
                del subscribers[subscription]
                if not subscribers:
                    del subscriptions[subscription.codec]

    def set_head(self, seq: int) -> None:
        """Take the store's head for visible, when the feed has just been opened."""
        if seq > self.visible:
            self.visible = seq
            self.drop_tail()

    def drop_tail(self) -> None:
        """Let go of the tail: what the store removed is not to be given from here."""
        self._tail.clear()
        self._tail_bytes = 0

    def after(self, seq: int) -> list[Event] | None:
        """Give what was shown after ``seq``, or None where the tail does not reach back so far."""
        missing = self.visible - seq
        if missing <= 0:
            return []
        if missing > len(self._tail):
            return None
        return [self._tail[i] for i in range(len(self._tail) - missing, len(self._tail))]

    async def fan_out(self, events: Sequence[Event]) -> int:
        """Move the visible head to the last of these and offer them to everybody subscribed.

        Returns the number of subscribers it went to. Checkpoints only when it takes long.
        """
        if events[0].seq <= self.visible:
            events = [event for event in events if event.seq > self.visible]
            if not events:
                return 0
        self.visible = events[-1].seq
        self._remember(events)
        groups: list[Group[Subscription]] = []
        receivers = 0
        for codec, subscriptions in list(self._live.items()):
            live = list(subscriptions)
            block = encode(codec, self.name, events, live, self._log)
            if block:
                receivers += len(live)
                groups.append((block, live, partial(self._subscribed, codec)))
        await fan_out(groups, len(events))
        return receivers

    def _subscribed(self, codec: Codec) -> Container[Subscription]:
        return self._live.get(codec, {})

    def broadcast(
        self,
        items: Sequence[Any],
        exclude: Collection[Subscription] = (),
        *,
        droppable: bool = True,
    ) -> None:
        """Offer what is told and forgotten (presence, typing).

        A slow subscriber goes without it, where it is ``droppable``.
        """
        for codec, subscriptions in [*self._live.items(), *self._behind.items()]:
            block = encode(codec, self.name, items, subscriptions, self._log)
            if not block:
                continue
            for subscription in list(subscriptions):
                if subscription not in exclude:
                    offer = subscription.offer_droppable if droppable else subscription.offer
                    offer(block, len(items))

    def _remember(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.kind in ("edit", "delete"):
                self._reword(event)
            self._tail.append(event)
            self._tail_bytes += len(event.text or "")
        while len(self._tail) > TAIL_EVENTS or self._tail_bytes > TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft().text or "")

    def _reword(self, change: Event) -> None:
        """Give the changed message its present words, and each edit of it that came before."""
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
            self._tail_bytes += len(new.text or "") - len(event.text or "")
