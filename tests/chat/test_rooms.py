"""Coming and going: told once, never to oneself, and not at all where it was but a moment."""

from __future__ import annotations

import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat.tokens import Grant
from chatd.protocol import commands, events
from tests.chat.room import Room


async def test_joined_and_left_are_told_to_the_others(
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


async def test_of_an_operator_it_is_told_that_it_is_one(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    grant = Grant("bob", key="", expires=2**50, lifetime=2**50, op=True)
    bob.connection.renew_grant(grant)
    await bob.join()
    assert [joined.op for joined in ann.told(events.Joined)] == [True]


async def test_who_is_back_in_time_was_never_away(room: Room, autojump_clock: MockClock) -> None:
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


async def test_a_crowd_is_told_as_a_number_once_a_second(
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
