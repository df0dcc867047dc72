"""Commands about messages: say, edit, delete, topic."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from chatd.chat.actor import Actor
from chatd.chat.acts import Whisper, whisper
from chatd.chat.connection import Connection
from chatd.chat.direct import DIRECT
from chatd.chat.membership import Membership
from chatd.chat.replies import Commit, Reply
from chatd.chat.rights import check_may_set_topic, check_may_write
from chatd.chat.rooms import Room
from chatd.chat.sessions import is_kept
from chatd.model import Post, Put, Receipt, Record, Refused
from chatd.protocol import commands, events
from chatd.protocol.pairs import users_of

if TYPE_CHECKING:
    from chatd.chat.chat import Chat

__all__ = [
    "check_key",
    "check_seq",
    "delete",
    "edit",
    "message_size",
    "say",
    "say_in",
    "topic",
    "topic_size",
]

KEY_BYTES: Final = 64

TOPIC_BYTES: Final = 1024
"""A topic is sent with each room of a list: it is a line, not a page."""

MAX_SEQ: Final = 2**53
"""The largest integer that every JSON library reads exactly (RFC 8259 section 6)."""

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def say(
    connection: Connection, command: commands.Say, membership: Membership
) -> Commit | Reply[commands.Said]:
    """Publish a message."""
    return say_in(connection, command, membership.room)


def say_in(connection: Actor, command: commands.Say, room: Room) -> Commit | Reply[commands.Said]:
    """Publish a message in a room that the client may read."""
    chat, user = connection.chat, connection.user
    check_may_write(connection, room.key)
    text, key, reply_to = command.text.replace("\r\n", "\n"), command.key, command.reply_to
    size = message_size(text, chat.settings.limits.message_bytes)
    if key is not None:
        check_key(key)
    if reply_to is not None:
        check_seq(reply_to, "reply_to")
    slow = None
    if chat.sanctions.held and not connection.op:
        slow = chat.sanctions.get("slow", room.key, "")
    if slow and (wait := room.slow_mode_wait(user, slow.seconds)):
        raise Refused("rate_limited", "This room is in slow mode.", wait)
    # Last, because a message that is refused costs nothing.
    chat.flood.charge(connection, size)
    if slow:
        room.spoke(user.id)
    if room.direct and not is_kept(room.name):
        return _ephemeral(connection, room, text)

    nick = user.nick.display
    return Commit(
        Post(room.key, room.name, user.id, nick, text, "message", key, None, reply_to),
        partial(_said, chat, room),
        before=_listings(room.name) if room.direct and not room.feed.visible else (),
    )


def _said(chat: Chat, room: Room, receipt: Receipt) -> commands.Said:
    event = receipt.event
    return commands.Said(
        room=room.name,
        epoch=chat.journal.epoch,
        seq=event.seq,
        at=events.rfc3339(event.at),
        duplicate=receipt.duplicate,
    )


def edit(connection: Connection, command: commands.Edit, membership: Membership) -> Commit:
    """Replace the text of a message. Whether it is the user's own is checked in the commit."""
    text = command.text.replace("\r\n", "\n")
    return _change(connection, command, membership, "edit", text)


def delete(connection: Connection, command: commands.Delete, membership: Membership) -> Commit:
    """Delete a message. Whether the user may is checked in the commit."""
    return _change(connection, command, membership, "delete", None)


def _change(
    connection: Connection,
    command: commands.Edit | commands.Delete,
    membership: Membership,
    kind: Literal["edit", "delete"],
    text: str | None,
) -> Commit:
    room, user = membership.room, membership.user
    check_may_write(connection, room.key, muted=kind == "edit")
    check_seq(command.seq, "seq")
    limit = connection.chat.settings.limits.message_bytes
    connection.chat.flood.charge(connection, 0 if text is None else message_size(text, limit))
    return Commit(
        Post(
            room=room.key,
            name=room.name,
            user=user.id,
            nick=user.nick.display,
            text=text,
            kind=kind,
            of=command.seq,
            operator=kind == "delete" and connection.op,
        ),
        _changed,
    )


def topic(connection: Connection, command: commands.Topic, membership: Membership) -> Commit:
    """Set a room's topic: operators, and either user of direct messages."""
    text, room, user = command.text, membership.room, membership.user
    check_may_set_topic(connection, room.key)
    connection.chat.flood.charge(connection, topic_size(text))
    return Commit(
        Post(
            room=room.key,
            name=room.name,
            user=user.id,
            nick=user.nick.display,
            text=text,
            kind="topic",
        ),
        _changed,
    )


def _changed(receipt: Receipt) -> commands.Changed:
    return commands.Changed(receipt.event.seq, events.rfc3339(receipt.event.at))


def message_size(text: str, limit: int) -> int:
    """Return the text's size in bytes. Raise Refused if it cannot be a message."""
    size = len(text) if text.isascii() else len(text.encode())
    if size > limit:
        raise Refused("too_large", f"Messages can have at most {limit} bytes.")
    # Printable text, which most messages are, has no controls: two short looks at it, and no regex.
    if not text or (not text.isprintable() and _CONTROLS.search(text)):
        raise Refused("bad_request", "Messages cannot be empty or contain control characters.")
    return size


def topic_size(text: str) -> int:
    """Return the text's size in bytes. Raise Refused if it cannot be a topic."""
    size = len(text.encode())
    if size > TOPIC_BYTES:
        raise Refused("too_large", f"Topics can have at most {TOPIC_BYTES} bytes.")
    if _CONTROLS.search(text) or "\n" in text:
        raise Refused("bad_request", "Topics have a single line, without control characters.")
    return size


def check_key(key: str) -> None:
    """Raise Refused if a sender cannot choose this key."""
    if not 1 <= len(key.encode()) <= KEY_BYTES:
        raise Refused("bad_request", f"Keys have 1 to {KEY_BYTES} bytes.")


def check_seq(seq: int, field: str) -> None:
    """Raise Refused if no message can have this number."""
    if not 1 <= seq <= MAX_SEQ:
        raise Refused("bad_request", f"{field} must be the number of a message.")


def _listings(room: str) -> list[Put]:
    """Return the operations that add a new conversation to the lists of its two users.

    If the store fails, they come again with the next message that may be the first.
    """
    return [Put(Record(DIRECT, f"{user}\0{room}", b"")) for user in users_of(room)]


def _ephemeral(connection: Actor, room: Room, text: str) -> Commit | Reply[commands.Said]:
    """Send a direct message between guests, which is not stored."""
    chat, user = connection.chat, connection.user
    act = Whisper(room.key, chat.now(), user.nick.display, user.id, text)

    def log() -> None:
        if chat.settings.log.messages:
            connection.log.emit(
                "message",
                room=room.name,
                bytes=len(text.encode()),
                receivers=len(room.feed),
                text=text if chat.settings.log.bodies else None,
            )

    said = commands.Said(room=room.name, at=events.rfc3339(act.at), kept=False)
    if (relay := chat.roster.whispering(act)) is not None:
        return Commit(relay, lambda _: said, then=log)

    def send() -> None:
        whisper(chat, act)
        log()

    return Reply(said, send)
