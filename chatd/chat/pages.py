"""Pages of a room's log: bounded in events and in bytes, and never past what is visible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from chatd.bus import Feed
from chatd.journal import Journal
from chatd.model import Event
from chatd.protocol.commands import Position

__all__ = [
    "QUEUE_SHARE",
    "Caught",
    "catch",
    "fitting",
    "last_messages",
    "missed",
    "newest",
    "page_size",
]

PAGE_EVENTS: Final = 100
MOST_PAGE_EVENTS: Final = 500

QUEUE_SHARE: Final = 4
"""A page's texts fill at most this part of the send queue: doubled by escapes, and with what else
waits, they still fit."""


class Caught(Struct, frozen=True):
    """A join's page, the position at which it ends, and whether it goes on from ``since``."""

    page: Sequence[Event]
    position: int
    recovered: bool


def page_size(limit: int | None) -> int:
    """Clamp what a client asks for."""
    return PAGE_EVENTS if limit is None else max(0, min(limit, MOST_PAGE_EVENTS))


def fitting(page: Sequence[Event], queue_bytes: int, *, back: bool = False) -> Sequence[Event]:
    """Cut a page to what a send queue has room for: at its end, or else at its beginning."""
    room = queue_bytes // QUEUE_SHARE
    for count, event in enumerate(reversed(page) if back else page):
        room -= len(event.text or "")
        if room < 0 and count:
            return page[-count:] if back else page[:count]
    return page


async def missed(
    journal: Journal, feed: Feed, after: int, limit: int, queue_bytes: int
) -> Sequence[Event]:
    """Give the first of what was shown after ``after``, from the feed's tail or from the store."""
    shown = feed.after(after)
    if shown is None:
        shown = await journal.read(feed.key, after, feed.visible, limit)
    return fitting(shown[:limit], queue_bytes)


async def newest(
    journal: Journal, room: str, before: int, limit: int, *, messages: bool = False
) -> list[Event]:
    """Give the last ``limit`` events before a number; where ``messages``, so many messages.

    Whatever was changed so often, a page has no more than so many events.
    """
    count = limit
    while True:
        page = await journal.read_back(room, before, count)
        if not messages:
            return page
        trimmed = last_messages(page, limit)
        if len(trimmed) < len(page) or len(page) < count or count >= MOST_PAGE_EVENTS:
            return trimmed
        count = min(2 * count, MOST_PAGE_EVENTS)


def last_messages(page: list[Event], limit: int) -> list[Event]:
    """Cut a page at its beginning, so that it has ``limit`` messages at most."""
    said = [index for index, event in enumerate(page) if event.kind == "message"]
    if len(said) <= limit:
        return page
    return page[said[-limit] :] if limit else []


async def catch(
    journal: Journal,
    feed: Feed,
    since: Position | None,
    limit: int,
    queue_bytes: int,
    *,
    messages: bool = False,
) -> Caught:
    """Read a join's page: what was missed since a position that holds here, else the newest.

    Where ``messages``, the newest are so many messages and what came between them.

    Raises:
        chatd.journal.Unavailable: the store cannot be read now.

    """
    if since is not None and since.epoch == journal.epoch and 0 <= since.seq <= feed.visible:
        page = await missed(journal, feed, since.seq, max(limit, 1), queue_bytes)
        # What retention took is not there to be given: then this is no recovery.
        if since.seq == feed.visible or (page and page[0].seq == since.seq + 1):
            page = page[:limit]
            return Caught(page, page[-1].seq if page else since.seq, recovered=True)
    while True:
        visible = feed.visible
        last = feed.after(max(0, visible - limit))
        if last is None or (messages and any(event.kind != "message" for event in last)):
            last = await newest(journal, feed.key, visible + 1, limit, messages=messages)
        # Where more was shown than the tail holds while this was read, it is read again.
        if (rest := feed.after(visible)) is not None:
            page = [*last, *rest]
            if not limit:
                page = []
            elif not messages:
                page = page[-limit:]
            page = fitting(page, queue_bytes, back=True)
            return Caught(page, feed.visible, recovered=False)
