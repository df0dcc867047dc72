"""Pages of a room's log: bounded in events and in bytes, and never past the visible head."""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Final

from msgspec import Struct

from chatd.bus import Feed
from chatd.journal import Journal
from chatd.model import Event
from chatd.protocol.commands import Position

__all__ = [
    "QUEUE_SHARE",
    "JoinPage",
    "encoded_bytes",
    "fitting",
    "is_ahead",
    "last_messages",
    "page_size",
    "read_after",
    "read_join_page",
    "read_latest",
]

PAGE_EVENTS: Final = 100
MAX_PAGE_EVENTS: Final = 500

QUEUE_SHARE: Final = 4
"""A page fills at most this fraction of the send queue: it fits there together with what else
waits, such as the list of a room's members."""

EVENT_BYTES: Final = 256
"""An event without its text: names, numbers and the time."""


class JoinPage(Struct, frozen=True):
    """A join's page, the number at which it ends, and whether it continues from ``since``."""

    events: Sequence[Event]
    seq: int
    recovered: bool


def page_size(limit: int | None) -> int:
    """Return the number of events for a client's ``limit``: 100 by default, 500 at most."""
    return PAGE_EVENTS if limit is None else max(0, min(limit, MAX_PAGE_EVENTS))


def encoded_bytes(text: str) -> int:
    """Return the bytes that a text takes in a send queue, in whatever protocol, at most.

    Socket.IO 1 and 2 take the most: JSON in ASCII, with 12 bytes for an emoji.
    """
    return len(encode_basestring_ascii(text)) - 2  # without its quotes


def fitting(page: Sequence[Event], queue_bytes: int, *, back: bool = False) -> Sequence[Event]:
    """Return as many events of a page as fit into a send queue, but at least one.

    They are its first ones, or with ``back`` its last.
    """
    left = queue_bytes // QUEUE_SHARE
    for count, event in enumerate(reversed(page) if back else page):
        left -= EVENT_BYTES + encoded_bytes(event.text or "")
        if left < 0 and count:
            return page[-count:] if back else page[:count]
    return page


async def read_after(
    journal: Journal, feed: Feed, after: int, limit: int, queue_bytes: int
) -> Sequence[Event]:
    """Return the first visible events after a number, from the feed's tail or from the store."""
    events = feed.after(after)
    if events is None:
        changes = feed.changes
        events = await journal.read(feed.key, after, feed.visible, limit)
        feed.keep(events, changes)
    return fitting(events[:limit], queue_bytes)


async def read_latest(
    journal: Journal, room: str, before: int, limit: int, *, messages: bool = False
) -> list[Event]:
    """Return the last ``limit`` events before a number, or, with ``messages``, as many messages.

    However often messages were changed, a page has no more than `MAX_PAGE_EVENTS` events.
    """
    count = limit
    while True:
        page = await journal.read_back(room, before, count)
        if not messages:
            return page
        trimmed = last_messages(page, limit)
        if len(trimmed) < len(page) or len(page) < count or count >= MAX_PAGE_EVENTS:
            return trimmed
        count = min(2 * count, MAX_PAGE_EVENTS)


def last_messages(page: list[Event], limit: int) -> list[Event]:
    """Return the end of a page that has at most ``limit`` messages."""
    messages = [index for index, event in enumerate(page) if event.kind == "message"]
    if len(messages) <= limit:
        return page
    return page[messages[-limit] :] if limit else []


def is_ahead(journal: Journal, feed: Feed, since: Position) -> bool:
    """Return whether a position has not come here yet, or does not exist."""
    known = since.epoch == journal.epoch or since.epoch in journal.former
    return not known or since.seq > feed.visible


async def _stands(journal: Journal, feed: Feed, since: Position) -> bool:
    """Return whether a position stands for what the log has there now.

    One of a former epoch does if the first event from there on is older than the epoch's end.
    """
    if not 0 <= since.seq <= feed.visible:
        return False
    if since.epoch == journal.epoch:
        return True
    ended = journal.former.get(since.epoch)
    if ended is None or not since.seq:
        return ended is not None
    found = await journal.read(feed.key, since.seq - 1, feed.visible, 1)
    return bool(found) and found[0].position <= ended


async def read_join_page(
    journal: Journal,
    feed: Feed,
    since: Position | None,
    limit: int,
    queue_bytes: int,
    *,
    messages: bool = False,
) -> JoinPage:
    """Return what was missed since a position, if that is possible, else the latest events.

    Args:
        journal: The store.
        feed: The room's feed.
        since: The client's position.
        limit: The number of events.
        queue_bytes: The size of the client's send queue.
        messages: Whether ``limit`` counts only messages, if the page does not begin at ``since``.

    Raises:
        chatd.journal.Unavailable: the store cannot be read now.
    """
    if since is not None and await _stands(journal, feed, since):
        page = await read_after(journal, feed, since.seq, max(limit, 1), queue_bytes)
        # If retention removed the next event, the client has missed something for good.
        if since.seq == feed.visible or (page and page[0].seq == since.seq + 1):
            page = page[:limit]
            return JoinPage(page, page[-1].seq if page else since.seq, recovered=True)
    while True:
        visible, changes = feed.visible, feed.changes
        last = feed.after(max(0, visible - limit))
        if last is None or (messages and any(event.kind != "message" for event in last)):
            last = await read_latest(journal, feed.key, visible + 1, limit, messages=messages)
            feed.keep(last, changes)
        # If more events became visible during the read than the tail holds, read again.
        if (rest := feed.after(visible)) is not None:
            page = [*last, *rest]
            if not limit:
                page = []
            elif not messages:
                page = page[-limit:]
            page = fitting(page, queue_bytes, back=True)
            return JoinPage(page, feed.visible, recovered=False)
