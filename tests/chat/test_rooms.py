"""Presence: announced once, never to the user, and not for short absences."""

from __future__ import annotations

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.chat.names import room_name
from chatd.chat.tokens import Grant
from chatd.model import Refused
from chatd.protocol import commands, events
from tests.chat.room import Room, at_once


async def test_joined_and_left_go_to_the_other_members(
    room: Room, autojump_clock: MockClock
) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await bob.join()
    user = bob.connection.user.id
    assert ann.told(events.Joined) == [events.Joined("lobby", "bob", user, op=False)]
    assert bob.told(events.Joined) == []
    bob.close()
    await trio.sleep(9)
    assert ann.told(events.Left) == []
    await trio.sleep(3)
    assert ann.told(events.Left) == [events.Left("lobby", "bob", user, "lost")]


async def test_joined_says_whether_the_user_is_an_operator(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    grant = Grant("bob", key="", expires=2**50, lifetime=2**50, op=True)
    bob.connection.renew_grant(grant)
    await bob.join()
    assert [joined.op for joined in ann.told(events.Joined)] == [True]


async def test_who_joins_is_sent_the_members_as_they_are_now(
    room: Room, autojump_clock: MockClock
) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await bob.join()

    async def listed() -> list[tuple[str, bool]]:
        """Join with another connection of ann's user, and return the members in the answer."""
        other = room.client("eve")
        await other.do(commands.Auth(session=room.chat.users.session(ann.connection.user)))
        joined = await other.join()
        other.close()
        return [(each.nick, each.op) for each in joined.members]

    assert await listed() == [("ann", False), ("bob", False)]
    await bob.do(commands.Nick(nick="aaron"))
    assert await listed() == [("aaron", False), ("ann", False)]
    grant = Grant("bob", key="", expires=2**50, lifetime=2**50, op=True)
    bob.connection.renew_grant(grant)
    assert await listed() == [("aaron", True), ("ann", False)]
    bob.connection.renew_grant(replace(grant, op=False))
    assert await listed() == [("aaron", False), ("ann", False)]
    operator = room.client("op")
    operator.connection.switch_user(bob.connection.user, grant)
    assert await listed() == [("aaron", True), ("ann", False)]
    operator.close()
    assert await listed() == [("aaron", False), ("ann", False)]
    bob.close()
    await trio.sleep(60)
    assert await listed() == [("ann", False)]


async def test_who_joins_is_sent_the_first_hundred_members(room: Room) -> None:
    nicks = [f"nick{number:03}" for number in range(120)]
    for nick in nicks[:110]:
        await room.client(nick).join()
    # In the middle of the list, behind its end, and before its beginning.
    there = nicks[:110]
    for nick in ("nick050a", *nicks[110:], "ann"):
        joined = await room.client(nick).join()
        there.append(nick)
        assert [each.nick for each in joined.members] == sorted(there)[:100]


async def test_a_short_absence_is_not_announced(room: Room, autojump_clock: MockClock) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await bob.join()
    session = room.chat.users.session(bob.connection.user)
    bob.close()
    await trio.sleep(5)
    back = room.client()
    await back.do(commands.Auth(session=session))
    await back.join()
    await trio.sleep(60)
    assert len(ann.told(events.Joined)) == 1
    assert ann.told(events.Left) == []


async def test_in_a_large_room_only_the_total_is_sent_once_a_second(
    room: Room, autojump_clock: MockClock
) -> None:
    limits = replace(room.chat.settings.limits, presence_members=5)
    room.chat.settings = replace(room.chat.settings, limits=limits)
    first = room.client("first")
    await first.join()
    others = [room.client() for _ in range(20)]
    for client in others:
        await client.join()
    assert len(first.told(events.Joined)) == 4  # up to the fifth member each is told
    await trio.sleep(3)
    totals = first.told(events.Presence)
    assert [total.total for total in totals] == [6, 21]
    for client in others[:5]:
        client.close()
    await trio.sleep(20)
    assert first.told(events.Left) == []
    assert first.told(events.Presence)[-1].total == 16


async def test_clients_that_open_rooms_at_the_same_time_do_not_wait_for_each_other(
    room: Room,
) -> None:
    rooms = room.chat.rooms
    for name in ("den", "garden"):
        opened = at_once(rooms.open(room_name(name)))
        assert rooms.get(name) is opened


async def test_nobody_enters_a_room_while_it_is_imported(
    room: Room, autojump_clock: MockClock
) -> None:
    rooms, den = room.chat.rooms, room_name("den")
    ann = room.client("ann")
    async with trio.open_nursery() as nursery, rooms.importing(den):
        nursery.start_soon(ann.join, "den")
        await wait_all_tasks_blocked()
        assert rooms.get("den") is None
        # Other rooms can be entered meanwhile, and one import is enough.
        bob = room.client("bob")
        assert isinstance(await bob.join("garden"), commands.Entered)
        with pytest.raises(Refused, match="being imported"):
            async with rooms.importing(den):
                pass
    assert (entered := rooms.get("den")) is not None
    assert list(entered.members) == [ann.connection.user]


async def test_the_list_of_rooms_begins_after_a_key_and_is_made_as_it_is_read(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    for name in ("b", "d", "f"):
        await ann.join(name)
        await ann.say("kept", name)
        await ann.do(commands.Leave(room=name))
    for name in ("a", "c", "d"):
        await bob.join(name)
    rooms = room.chat.rooms
    listed = await rooms.infos()
    assert next(listed)[0] == "a"
    # Whoever leaves while it is read is not listed any more.
    await bob.do(commands.Leave(room="c"))
    assert [(key, info.members, info.seq) for key, info in listed] == [
        ("b", 0, 1),
        ("d", 1, 1),
        ("f", 0, 1),
    ]
    assert [key for key, _ in await rooms.infos("b")] == ["d", "f"]
    assert list(await rooms.infos("f")) == []
