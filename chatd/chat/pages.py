"""Pages of a room's log: bounded in events and in bytes, and never past what is visible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from chatd.bus import Topic
from chatd.chat.commands import Since
from chatd.journal import Journal
from chatd.model import Event

__all__ = ["Caught", "catch", "fitting", "missed", "page_size"]

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
    journal: Journal, topic: Topic, after: int, limit: int, queue_bytes: int
) -> Sequence[Event]:
    """Give the first of what was shown after ``after``, from the topic's tail or from the store."""
    shown = topic.after(after)
    if shown is None:
        shown = await journal.read(topic.room, after, topic.visible, limit)
    return fitting(shown[:limit], queue_bytes)


async def catch(
    journal: Journal, topic: Topic, since: Since | None, limit: int, queue_bytes: int
) -> Caught:
    """Read a join's page: what was missed since a position that holds here, else the newest.

    Raises:
        chatd.journal.Unavailable: the store cannot be read now.

    """
    if since is not None and since.epoch == journal.epoch and 0 <= since.seq <= topic.visible:
        page = await missed(journal, topic, since.seq, max(limit, 1), queue_bytes)
        # What retention took is not there to be given: then this is no recovery.
        if since.seq == topic.visible or (page and page[0].seq == since.seq + 1):
            page = page[:limit]
            return Caught(page, page[-1].seq if page else since.seq, recovered=True)
    while True:
        visible = topic.visible
        newest = topic.after(max(0, visible - limit))
        if newest is None:
            newest = await journal.read_back(topic.room, visible + 1, limit)
        # Where more was shown than the tail holds while this was read, it is read again.
        if (rest := topic.after(visible)) is not None:
            page = [*newest, *rest][-limit:] if limit else []
            page = fitting(page, queue_bytes, back=True)
            return Caught(page, topic.visible, recovered=False)
