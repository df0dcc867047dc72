"""What is said in rooms, and changed afterwards."""

from __future__ import annotations

import re
from functools import partial
from typing import Final, Literal

from chatd.chat.connection import Answered, Connection
from chatd.chat.credentials import is_kept
from chatd.chat.direct import DIRECT, place
from chatd.chat.membership import Membership
from chatd.chat.rights import check_may_set_topic, check_may_write
from chatd.model import Outcome, Post, Put, Receipt, Record, Refusal, Refused
from chatd.protocol import commands, events

__all__ = ["delete", "edit", "say", "topic"]

KEY_BYTES: Final = 64

TOPIC_BYTES: Final = 1024
"""A topic is told with each room of a list: it is a line, not a page."""

MOST_SEQ: Final = 2**53
"""What every JSON library takes for a whole number."""

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


async def say(connection: Connection, command: commands.Say, answered: Answered) -> None:
    """Say a text: committed first, then answered, then shown to everybody."""
    chat = connection.chat
    membership = await place(connection, command.room)
    check_may_write(connection, membership.room.topic.room)
    text = command.text.replace("\r\n", "\n")
    room, user = membership.room, connection.user
    _check_text(connection, text)
    if command.key is not None and not 1 <= len(command.key.encode()) <= KEY_BYTES:
        raise Refused("bad_request", f"a key has 1 to {KEY_BYTES} bytes")
    if command.reply_to is not None:
        _check_seq(command.reply_to, "reply_to")
    slow = None if connection.op else chat.sanctions.get("slow", room.topic.room, "")
    if slow and (wait := room.slowed(user, slow.seconds)):
        raise Refused("rate_limited", "the room is in slow mode", wait)
    # Last, for a message that is refused costs nothing.
    connection.charge_message(len(text.encode()))
    if slow:
        room.spoke(user)
    if room.direct and not is_kept(room.name):
        _tell(connection, membership, text, answered)
        return
    if room.direct and not room.topic.visible:
        for party in room.name[1:].split(","):
            listed = Put(Record(DIRECT, f"{party}\0{room.name}", b""))
            await connection.publish(listed, _listed)
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
        partial(_said, connection, room.name, answered),
    )


def _listed(outcome: Outcome) -> None:
    """Take the answer to a Put that nobody waits for.

    Where the store did not take it, it mostly does not take what is said either; and it is asked
    of it again with the next message that may be the first.
    """


def _check_text(connection: Connection, text: str) -> None:
    limit = connection.chat.settings.limits.message_bytes
    if len(text.encode()) > limit:
        raise Refused("too_large", f"a message has {limit} bytes at most")
    if not text or _CONTROLS.search(text):
        raise Refused("bad_request", "a text is not empty and has no control characters")


def _check_seq(seq: int, field: str) -> None:
    if not 1 <= seq <= MOST_SEQ:
        raise Refused("bad_request", f"{field} is the number of a message")


def _tell(connection: Connection, membership: Membership, text: str, answered: Answered) -> None:
    """Tell the other guest, and keep nothing of it."""
    chat, room, user = connection.chat, membership.room, connection.user
    at = events.rfc3339(chat.now())
    answered(commands.Said(room=room.name, at=at, kept=False))
    message = events.Message(room=room.name, at=at, nick=user.nick.shown, user=user.id, text=text)
    room.topic.tell([message], droppable=False)
    if chat.settings.log.messages:
        connection.log.emit(
            "message",
            room=room.name,
            bytes=len(text.encode()),
            receivers=len(room.topic),
            text=text if chat.settings.log.bodies else None,
        )


def _said(connection: Connection, room: str, answered: Answered, outcome: Outcome) -> None:
    if isinstance(outcome, Receipt):
        event, duplicate = outcome.event, outcome.duplicate
        if not duplicate:
            connection.said(event.position)
        answered(
            commands.Said(
                room=room,
                epoch=connection.chat.journal.epoch,
                seq=event.seq,
                at=events.rfc3339(event.at),
                duplicate=duplicate,
            )
        )
    elif isinstance(outcome, Refusal):
        answered(outcome)


async def edit(connection: Connection, command: commands.Edit, answered: Answered) -> None:
    """Give a message another text. That it is one's own is checked where it is committed."""
    await _change(connection, command, "edit", command.text.replace("\r\n", "\n"), answered)


async def delete(connection: Connection, command: commands.Delete, answered: Answered) -> None:
    """Take a message away. That one may is checked where it is committed."""
    await _change(connection, command, "delete", None, answered)


async def _change(
    connection: Connection,
    command: commands.Edit | commands.Delete,
    kind: Literal["edit", "delete"],
    text: str | None,
    answered: Answered,
) -> None:
    membership = await place(connection, command.room)
    room, user = membership.room, connection.user
    check_may_write(connection, room.topic.room, muted=kind == "edit")
    _check_seq(command.seq, "seq")
    if text is not None:
        _check_text(connection, text)
    connection.charge_message(len((text or "").encode()))
    await connection.publish(
        Post(
            room=room.topic.room,
            name=room.name,
            user=user.id,
            nick=user.nick.shown,
            text=text,
            kind=kind,
            of=command.seq,
            operator=kind == "delete" and connection.op,
        ),
        partial(_changed, connection, answered),
    )


def _changed(connection: Connection, answered: Answered, outcome: Outcome) -> None:
    if isinstance(outcome, Receipt):
        connection.said(outcome.event.position)
        answered(commands.Changed(outcome.event.seq, events.rfc3339(outcome.event.at)))
    elif isinstance(outcome, Refusal):
        answered(outcome)


async def topic(connection: Connection, command: commands.Topic, answered: Answered) -> None:
    """Say what a room is about: an operator's, and either one's in direct messages."""
    membership = await place(connection, command.room)
    text, room, user = command.text, membership.room, connection.user
    check_may_set_topic(connection, room.topic.room)
    if len(text.encode()) > TOPIC_BYTES:
        raise Refused("too_large", f"a topic has {TOPIC_BYTES} bytes at most")
    if _CONTROLS.search(text) or "\n" in text:
        raise Refused("bad_request", "a topic is one line, without control characters")
    connection.charge_message(len(text.encode()))
    await connection.publish(
        Post(
            room=room.topic.room,
            name=room.name,
            user=user.id,
            nick=user.nick.shown,
            text=text,
            kind="topic",
        ),
        partial(_changed, connection, answered),
    )
