"""Joining and leaving rooms, their members, and the list of rooms."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import Final

from msgspec.structs import replace

from chatd.chat.actor import Actor
from chatd.chat.chat import Chat
from chatd.chat.connection import Connection
from chatd.chat.direct import DIRECT, open_direct, require_membership, resolve
from chatd.chat.names import ROOM_CHARACTERS, as_nick, nick_name
from chatd.chat.pages import QUEUE_SHARE, encoded_bytes, is_ahead, page_size, read_join_page
from chatd.chat.replies import Reply
from chatd.chat.rights import check_may_read, may_read, may_set_topic
from chatd.chat.rooms import Room
from chatd.journal import Unavailable
from chatd.model import Refused
from chatd.protocol import commands, events
from chatd.protocol.pairs import other_of

__all__ = ["join", "leave", "list_rooms", "who"]

MAX_UNREAD: Final = 1000
"""Counting stops here: a larger number is of no use, and counting takes time."""

MAX_ROOMS: Final = 1000
ENTRY_BYTES: Final = 300
"""At most this many rooms are on a page, each estimated at this size in the send queue: a name of
64 characters, doubled by escapes, and the numbers."""


async def join(
    connection: Connection, command: commands.Join, *, members: bool = True
) -> Reply[commands.Entered]:
    """Enter a room, or resume in it. The answer has a page of events; live events follow it.

    Without ``members`` the list of the first hundred is left out of the answer.
    """
    chat, limits = connection.chat, connection.chat.settings.limits
    await connection.outbox.drained()
    name = await resolve(chat, connection.user, command.room)
    check_may_read(connection, name.key)
    memberships = connection.memberships
    direct = name.key.startswith("@")
    if not direct and name.key not in memberships and connection.joined >= limits.rooms_per_client:
        raise Refused(
            "forbidden",
            f"You can be in at most {limits.rooms_per_client} rooms. Leave one of them first.",
        )
    room = await (open_direct(connection, name) if direct else chat.rooms.open(name, connection))
    membership = memberships.get(name.key)
    if membership is None:
        membership = connection.enter(room)
    membership.pause()
    try:
        await caught_up(chat, room, command.since)
        read, unread = await _unread(connection, room.key)
        page = await read_join_page(
            chat.journal,
            room.feed,
            command.since,
            page_size(command.limit),
            limits.send_queue_bytes,
            messages=command.messages,
        )
        # Again, because operators may have acted while the store was read.
        check_may_read(connection, room.key)
    except (Refused, Unavailable):
        if memberships.get(room.key) is membership:
            connection.exit(membership)
        raise
    if memberships.get(room.key) is not membership:
        raise Refused("forbidden", f"You were removed from {room.name}. Join it again.")
    return Reply(
        commands.Entered(
            room=room.name,
            epoch=chat.journal.epoch,
            seq=room.feed.visible,
            topic=room.topic,
            may_set_topic=may_set_topic(connection, room.key),
            members=room.first_members() if members else [],
            member_count=len(room.members),
            events=[events.shape(room.name, event) for event in page.events],
            recovered=page.recovered,
            read=read,
            unread=unread,
        ),
        partial(membership.start, page.seq),
    )


async def caught_up(chat: Chat, room: Room, since: commands.Position | None) -> None:
    """Wait for what another daemon has sent to a client, and which has not come here yet.

    Raises:
        chatd.journal.Unavailable: It has not come within a second, or the store cannot be read.
    """
    if since is not None and is_ahead(chat.journal, room.feed, since):
        await chat.bus.caught_up(await chat.journal.newest())


async def _unread(connection: Actor, room: str) -> tuple[int, int] | tuple[None, None]:
    """Return the user's read mark in a room, and the number of others' messages after it."""
    user = connection.user
    read = user.marks.get(room)
    if read is None and not room.startswith("@"):
        return None, None
    unread = await connection.chat.journal.unread(room, user.id, read or 0, MAX_UNREAD)
    if read is None and not unread:  # nothing is stored between guests: their clients count
        return None, None
    return read or 0, unread


async def leave(connection: Connection, command: commands.Leave) -> Reply[commands.RoomLeft]:
    """Leave a room. No event of the room follows the answer."""
    # The client's earlier messages are fanned out first.
    await connection.flushed()
    membership = await require_membership(connection, command.room)
    if membership.room.direct:
        raise Refused("bad_request", "You cannot leave a room of direct messages.")
    return Reply(commands.RoomLeft(membership.room.name), partial(connection.exit, membership))


async def who(connection: Connection, command: commands.Who) -> Reply[commands.Members]:
    """List the members of a room, a page at a time."""
    chat = connection.chat
    name = await resolve(chat, connection.user, command.room)
    after = None if command.after is None else nick_name(command.after)
    check_may_read(connection, name.key)
    first, limit = after.key if after else "", page_size(command.limit)
    if room := chat.rooms.get(name.key):
        return Reply(commands.Members(room.member_list(first, limit), len(room.members)))
    if not await chat.rooms.exists(name):
        raise Refused("not_found", f"There is no room named {name.display}.")
    members = await chat.roster.members(name.key)
    rest = [each for each in members if as_nick(each.nick).key > first]
    return Reply(commands.Members(rest[:limit], len(members)))


async def list_rooms(connection: Actor, command: commands.Rooms) -> Reply[commands.RoomList]:
    """List the rooms that have members or events, direct messages first, then by name."""
    chat, user = connection.chat, connection.user
    await connection.outbox.drained()
    after = None if command.after is None else await resolve(chat, user, command.after)
    key_after = "" if after is None or after.key.startswith("@") else after.key
    found = chain(await _conversations(connection), await chat.rooms.infos(key_after))
    left = chat.settings.limits.send_queue_bytes // QUEUE_SHARE
    listed: list[commands.RoomInfo] = []
    more = False
    for key, info in found:
        if after is not None and _order(key) <= _order(after.key):
            continue
        if not may_read(connection, key):
            continue
        # The name of a room of two may be longer.
        name = 2 * max(0, len(key) - ROOM_CHARACTERS)
        left -= ENTRY_BYTES + name + encoded_bytes(info.topic)
        if len(listed) == MAX_ROOMS or (left < 0 and listed):
            more = True
            break
        read, unread = await _unread(connection, key)
        listed.append(replace(info, read=read, unread=unread))
    return Reply(commands.RoomList(listed, more))


def _order(key: str) -> tuple[bool, str]:
    """Return the key by which the list of rooms is sorted."""
    return not key.startswith("@"), key


async def _conversations(connection: Actor) -> list[tuple[str, commands.RoomInfo]]:
    """Return the rooms of the user's direct messages."""
    chat, user = connection.chat, connection.user
    prefix = f"{user.id}\0"
    kept = [
        record.name.removeprefix(prefix) for record in await chat.journal.records(DIRECT, prefix)
    ]
    live = [room.key for room in chat.rooms.direct(user.id)]
    entries: list[tuple[str, commands.RoomInfo]] = []
    for key in sorted({*kept, *live}):
        other = other_of(key, user.id)
        here = chat.users.get(other)
        record = None if here else await chat.journal.user(other)
        nick = here.nick.display if here else record.nick if record else None
        if room := chat.rooms.get(key):
            entries.append((key, replace(room.info(), nick=nick)))
        elif head := await chat.journal.head(key):
            entries.append((key, commands.RoomInfo(key, 0, head.seq, head.topic, nick)))
    return entries
