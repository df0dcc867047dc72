"""What is said in rooms, and reading it again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Final

from chatd.chat import commands, events
from chatd.chat.connection import Answered, Connection
from chatd.chat.names import room_name
from chatd.chat.pages import fitting, page_size
from chatd.chat.rooms import Room
from chatd.model import Event, Outcome, Post, Receipt, Refusal

__all__ = ["history", "say"]

KEY_BYTES: Final = 64

MOST_SEQ: Final = 2**53
"""What every JSON library takes for a whole number."""

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


async def say(connection: Connection, command: commands.Say, answered: Answered) -> None:
    """Say a text: committed first, then answered, then shown to everybody."""
    chat = connection.chat
    membership = connection.member(command.room)
    if membership is None:
        answered(Refusal("not_joined", f"join {command.room[:64]} first"))
        return
    text = command.text.replace("\r\n", "\n")
    room, user = membership.room, connection.user
    if command.reply_to is not None and not 1 <= command.reply_to <= MOST_SEQ:
        answered(Refusal("bad_request", "reply_to is the number of a message"))
        return
    if refusal := _may_say(connection, text, command.key):
        answered(refusal)
        return
    await connection.publish(
        Post(
            room=room.topic.room,
            name=room.name,
            user=user.id,
            nick=user.nick.shown,
            text=text,
            key=command.key,
            reply_to=command.reply_to,
        ),
        partial(_said, connection, room, chat.journal.epoch, answered),
    )


def _may_say(connection: Connection, text: str, key: str | None) -> Refusal | None:
    limits = connection.chat.settings.limits
    size = len(text.encode())
    if size > limits.message_bytes:
        return Refusal("too_large", f"a message has {limits.message_bytes} bytes at most")
    if not text or _CONTROLS.search(text):
        return Refusal("bad_request", "a text is not empty and has no control characters")
    if key is not None and not 1 <= len(key.encode()) <= KEY_BYTES:
        return Refusal("bad_request", f"a key has 1 to {KEY_BYTES} bytes")
    if wait := connection.user.floods(size, limits):
        return Refusal("rate_limited", "that is too much at once", wait)
    return None


def _said(
    connection: Connection, room: Room, epoch: str, answered: Answered, outcome: Outcome
) -> None:
    if isinstance(outcome, Receipt):
        event, duplicate = outcome.event, outcome.duplicate
        if not duplicate:
            connection.said(event.position)
        at = events.rfc3339(event.at)
        answered(commands.Said(room.name, epoch, event.seq, at, duplicate))
    elif isinstance(outcome, Refusal):
        answered(outcome)


async def history(connection: Connection, command: commands.History, answered: Answered) -> None:
    """Read a page of a room's log, up to what is visible."""
    chat, limit = connection.chat, page_size(command.limit)
    name = room_name(command.room)
    if isinstance(name, Refusal):
        answered(name)
        return
    await connection.outbox.drained()
    if room := chat.rooms.get(name.fold):
        written, visible = room.name, room.topic.visible
    elif head := await chat.journal.head(name.fold):
        written, visible = head.name, head.seq
    else:
        answered(Refusal("not_found", f"there is no room {name.shown}"))
        return
    queue_bytes = chat.settings.limits.send_queue_bytes
    page: Sequence[Event]
    if command.after is not None:
        after = max(0, min(command.after, visible))
        page = fitting(await chat.journal.read(name.fold, after, visible, limit), queue_bytes)
        more = bool(page) and page[-1].seq < visible
    else:
        before = visible + 1 if command.before is None else min(command.before, visible + 1)
        found = await chat.journal.read_back(name.fold, before, limit + 1)
        page = fitting(found[-limit:] if limit else [], queue_bytes, back=True)
        more = len(page) < len(found)
    shaped = [events.shape(written, event) for event in page]
    answered(commands.Page(chat.journal.epoch, shaped, more))
