"""A topic: the subscribers of one room, what they have been shown, and the newest of it.

Two heads. A room has a committed head, which is the journal's, and a visible head, which is here.
``show`` moves the visible head and takes its snapshot of the subscribers in one step without a
checkpoint; a join subscribes in the same step in which it reads the visible head at which its page
ends. So no event is shown twice to anybody, and none is missed. Nothing past the visible head is
given to anybody by any other way. What is told and not kept has no number: who is still on the way
to the visible head is told it at once, for no page will bring it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias

import trio
from msgspec.structs import replace

from chatd.model import Event

__all__ = ["Codec", "Outlet", "Subscription", "Topic"]

SLICE_SECONDS: Final = 0.002
"""How long a fan-out may hold the loop: well under the 5 ms at which people's pings notice."""

SLICE_SUBSCRIBERS: Final = 128
"""How many offers go by between two looks at the clock: some 0.3 ms of them."""

TAIL_EVENTS: Final = 512
"""The newest events kept for joins: two batches of the collector, which is what may be shown
while a join reads the store."""

TAIL_BYTES: Final = 64 * 1024
"""The same in bytes of text, so that ten thousand busy rooms hold no more than 640 MiB."""

Block = Any
"""What a codec makes and its outlets take: bytes for a WebSocket, packets for a poll."""


class Codec(Protocol):
    """How events are said to everybody who speaks one (protocol, revision, transport).

    Two codecs are the same if they compare equal: one block is made for all of them.
    """

    def encode(self, room: str, items: Sequence[Any]) -> Block:
        """Say these items of the room, as it is written; empty where nothing is said of them."""
        ...


class Outlet(Protocol):
    """Where blocks go: never blocks, never awaits, never raises."""

    def offer(self, block: Block, messages: int = 1, /) -> None: ...

    def offer_droppable(self, block: Block, messages: int = 1, /) -> None: ...


class Subscription:
    """One outlet's place in one topic. Coming back makes a new one, so the two are told apart."""

    __slots__ = ("codec", "offer", "offer_droppable", "topic")

    def __init__(self, topic: Topic, outlet: Outlet, codec: Codec) -> None:
        self.topic = topic
        self.codec = codec
        self.offer = outlet.offer
        self.offer_droppable = outlet.offer_droppable

    def cancel(self) -> None:
        """Leave the topic: nothing of it is offered after this."""
        self.topic.unsubscribe(self)


Subscriptions: TypeAlias = dict[Codec, dict[Subscription, None]]


class Topic:
    """One room's subscribers and its visible head."""

    __slots__ = ("_behind", "_live", "_tail", "_tail_bytes", "name", "room", "visible")

    def __init__(self, room: str, name: str) -> None:
        self.room = room
        self.name = name
        self.visible = 0
        self._live: Subscriptions = {}
        self._behind: Subscriptions = {}
        self._tail: deque[Event] = deque()
        self._tail_bytes = 0

    def __len__(self) -> int:
        return sum(len(each) for of in (self._live, self._behind) for each in of.values())

    def subscribe(self, outlet: Outlet, codec: Codec, *, live: bool = True) -> Subscription:
        """Offer everything that is told from now on; ``live``, what is shown too.

        What is shown from now on is what lies past the visible head.
        """
        subscription = Subscription(self, outlet, codec)
        subscriptions = self._live if live else self._behind
        subscriptions.setdefault(codec, {})[subscription] = None
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

    def raise_to(self, seq: int) -> None:
        """Take the store's head for visible, when the topic has just been opened."""
        if seq > self.visible:
            self.visible = seq
            self.forget()

    def forget(self) -> None:
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

    async def show(self, events: Sequence[Event]) -> int:
        """Move the visible head to the last of these and offer them to everybody subscribed.

        Returns the number of subscribers it went to. Checkpoints only when it takes long.
        """
        if events[0].seq <= self.visible:
            events = [event for event in events if event.seq > self.visible]
            if not events:
                return 0
        self.visible = events[-1].seq
        self._remember(events)
        snapshot = [(codec, list(live)) for codec, live in self._live.items()]
        count = len(events)
        receivers = 0
        slice_ends = perf_counter() + SLICE_SECONDS
        paused = False
        for codec, subscribers in snapshot:
            block = codec.encode(self.name, events)
            if not block:
                continue
            receivers += len(subscribers)
            for start in range(0, len(subscribers), SLICE_SUBSCRIBERS):
                part = subscribers[start : start + SLICE_SUBSCRIBERS]
                if paused:
                    live = self._live.get(codec, {})
                    part = [subscription for subscription in part if subscription in live]
                for subscription in part:
                    subscription.offer(block, count)
                if perf_counter() > slice_ends:
                    await trio.lowlevel.checkpoint()
                    paused = True
                    slice_ends = perf_counter() + SLICE_SECONDS
        return receivers

    def tell(
        self,
        items: Sequence[Any],
        but: Collection[Subscription] = (),
        *,
        droppable: bool = True,
    ) -> None:
        """Offer what is told and forgotten (presence, typing).

        A slow subscriber goes without it, where it is ``droppable``.
        """
        for codec, subscribers in [*self._live.items(), *self._behind.items()]:
            block = codec.encode(self.name, items)
            if not block:
                continue
            for subscription in list(subscribers):
                if subscription not in but:
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
