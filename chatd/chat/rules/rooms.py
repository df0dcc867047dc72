"""Being in rooms: join and resume, leave, and who and what is there."""

from __future__ import annotations

from chatd.chat import commands, events
from chatd.chat.connection import Answered, Connection
from chatd.chat.names import nick_name, room_name
from chatd.chat.pages import catch, page_size
from chatd.journal import Unavailable
from chatd.model import Refusal

__all__ = ["join", "leave", "list_rooms", "who"]


async def join(connection: Connection, command: commands.Join, answered: Answered) -> None:
    """Enter a room, or resume in it. The answer's page comes first, live events after it."""
    chat, limits = connection.chat, connection.chat.settings.limits
    name = room_name(command.room)
    if isinstance(name, Refusal):
        answered(name)
        return
    memberships = connection.memberships
    if name.fold not in memberships and len(memberships) >= limits.rooms_per_client:
        answered(Refusal("forbidden", f"{limits.rooms_per_client} rooms at once are enough"))
        return
    await connection.outbox.drained()
    room = await chat.rooms.open(name)
    if isinstance(room, Refusal):
        answered(room)
        return
    membership = memberships.get(name.fold)
    if membership is None:
        membership = connection.enter(room)
    membership.stop()
    try:
        caught = await catch(
            chat.journal,
            room.topic,
            command.since,
            page_size(command.limit),
            limits.send_queue_bytes,
        )
    except Unavailable:
        connection.exit(membership)
        raise
    answered(
        commands.Joined(
            room=room.name,
            epoch=chat.journal.epoch,
            seq=room.topic.visible,
            topic="",
            members=room.member_list(),
            member_count=len(room.members),
            events=[events.shape(room.name, event) for event in caught.page],
            recovered=caught.recovered,
        )
    )
    membership.start(caught.position)


async def leave(connection: Connection, command: commands.Leave, answered: Answered) -> None:
    """Leave a room; nothing of it follows the answer."""
    # What was said before the leaving is seen before it.
    await connection.settled()
    membership = connection.member(command.room)
    if membership is None:
        answered(Refusal("not_joined", f"you are not in {command.room[:64]}"))
        return
    membership.stop()
    answered(commands.Left(membership.room.name))
    connection.exit(membership)


async def who(connection: Connection, command: commands.Who, answered: Answered) -> None:
    """Tell who is in a room, a page at a time."""
    chat = connection.chat
    name = room_name(command.room)
    after = None if command.after is None else nick_name(command.after)
    if isinstance(name, Refusal):
        answered(name)
    elif isinstance(after, Refusal):
        answered(after)
    elif room := chat.rooms.get(name.fold):
        members = room.member_list(after.fold if after else "", page_size(command.limit))
        answered(commands.Members(members, len(room.members)))
    elif await chat.journal.head(name.fold):
        answered(commands.Members([], 0))
    else:
        answered(Refusal("not_found", f"there is no room {name.shown}"))


async def list_rooms(connection: Connection, _command: commands.Rooms, answered: Answered) -> None:
    """Tell which rooms have members or events."""
    await connection.outbox.drained()
    answered(commands.RoomList(await connection.chat.rooms.entries()))
