"""What a client may do in a room without being in it: say a message, and read a page."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from chatd.chat.direct import open_direct, resolve
from chatd.chat.names import Name
from chatd.chat.pages import page_size, read_join_page
from chatd.chat.rights import check_may_read
from chatd.chat.rooms import Room
from chatd.chat.rules import rooms
from chatd.chat.rules.messages import say_in
from chatd.chat.visitor import Visitor
from chatd.model import Refusal, Refused
from chatd.protocol import commands, events

__all__ = ["list_rooms", "read", "say"]


async def say(visitor: Visitor, command: commands.Say) -> commands.Said | Refusal:
    """Publish a message in a room, which is made as by ``join``."""
    name = await resolve(visitor.chat, visitor.user, command.room)
    check_may_read(visitor, name.key)
    async with _opened(visitor, name, speaks=True) as room:
        # Again, because operators may have acted while the store was read.
        check_may_read(visitor, name.key)
        outcome: commands.Said | Refusal = await visitor.outcome(
            say_in(visitor, command, room), "say"
        )
        return outcome


async def read(visitor: Visitor, command: commands.Join) -> commands.Entered:
    """Return what ``join`` would answer, without members. No room is made."""
    chat = visitor.chat
    name = await resolve(chat, visitor.user, command.room)
    check_may_read(visitor, name.key)
    if not await chat.rooms.exists(name):
        raise Refused("not_found", f"There is no room named {name.display}.")
    async with _opened(visitor, name) as room:
        epoch = chat.journal.epoch  # of the room's head, whatever happens during the reads
        await rooms.caught_up(chat, room, command.since)
        page = await read_join_page(
            chat.journal,
            room.feed,
            command.since,
            page_size(command.limit),
            chat.settings.limits.send_queue_bytes,
        )
        check_may_read(visitor, name.key)
        return commands.Entered(
            room=room.name,
            epoch=epoch,
            seq=room.feed.visible,
            topic=room.topic,
            events=[events.shape(room.name, event) for event in page.events],
            recovered=page.recovered,
        )


async def list_rooms(visitor: Visitor, command: commands.Rooms) -> commands.RoomList:
    """Return what ``rooms`` answers."""
    return (await rooms.list_rooms(visitor, command)).answer


@asynccontextmanager
async def _opened(visitor: Visitor, name: Name, *, speaks: bool = False) -> AsyncGenerator[Room]:
    """Open a room for a moment. One who speaks brings the other user into a direct room."""
    chat = visitor.chat
    if speaks and name.key.startswith("@"):
        room = await open_direct(visitor, name)
    else:
        room = await chat.rooms.open(name, visitor)
    try:
        yield room
    finally:
        chat.rooms.close_unless_used(room)
