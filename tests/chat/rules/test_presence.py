"""Typing and read marks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat.replies import Reply
from chatd.chat.rules import presence
from chatd.model import Put, Refused
from chatd.protocol import commands, events
from chatd.settings import Limits, Settings
from tests.chat.room import Client, Room, delete, member, open_room, perform, refused

FAST = replace(Limits(), messages_per_second="off", bytes_per_second="off")


async def test_typing_goes_to_the_other_members(
    room: Room, ann: Client, bob: Client, autojump_clock: MockClock
) -> None:
    second = room.client()
    second.connection.switch_user(ann.connection.user)
    await second.join()
    for on in (True, True, False, False):
        await _typing(ann, on=on)
    told = [event.active for event in bob.told(events.Typing)]
    assert told == [True, False]
    assert bob.told(events.Typing)[0].nick == "ann"
    assert ann.told(events.Typing) == second.told(events.Typing) == []
    # Turning it on and off is announced at a limited rate.
    await _typing(ann, on=True)
    assert len(bob.told(events.Typing)) == 2
    await trio.sleep(presence.TYPING_SECONDS)
    await _typing(ann, on=True)
    assert len(bob.told(events.Typing)) == 3


async def test_typing_needs_a_joined_room(ann: Client) -> None:
    answer = await ann.do(commands.Typing(room="elsewhere", on=True))
    assert refused(answer) == "not_joined"


async def test_a_large_room_gets_no_typing(autojump_clock: MockClock) -> None:
    settings = Settings(limits=replace(Limits(), presence_members=1))
    async with open_room(settings) as room:
        ann, bob = room.client("ann"), room.client("bob")
        await ann.join()
        await bob.join()
        await _typing(ann, on=True)
        assert bob.told(events.Typing) == []


async def _typing(client: Client, *, on: bool) -> None:
    def answered(answer: Any) -> None:
        raise AssertionError(answer)

    await perform(client.connection, commands.Typing(room="lobby", on=on), answered)


# ---- read


async def test_read_marks_are_kept_and_never_go_back(
    room: Room, ann: Client, bob: Client, autojump_clock: MockClock
) -> None:
    for number in range(5):
        await bob.say(str(number))
    await ann.say("mine")
    second = room.client()
    second.connection.switch_user(ann.connection.user)
    marked = await ann.do(commands.Read(room="lobby", seq=2))
    assert (marked.room, marked.seq) == ("lobby", 2)
    assert [event.seq for event in second.told(events.Read)] == [2]
    assert ann.told(events.Read) == bob.told(events.Read) == []
    assert (await ann.do(commands.Read(room="lobby", seq=1))).seq == 2
    joined = await second.join()
    assert (joined.read, joined.unread) == (2, 3)
    entry = (await second.do(commands.Rooms())).rooms[0]
    assert (entry.read, entry.unread) == (2, 3)
    await bob.do(delete(4))
    assert (await second.join()).unread == 2
    # Without a read mark there is no count.
    joined = await bob.join()
    assert (joined.read, joined.unread) == (None, None)


async def test_read_marks_outlive_the_process(
    room: Room, ann: Client, autojump_clock: MockClock
) -> None:
    await ann.say("x")
    await ann.do(commands.Read(room="lobby", seq=1))
    secret = room.chat.users.session(ann.connection.user)
    ann.close()
    await trio.sleep(3600)
    assert room.chat.users.get(ann.connection.user.id) is None
    again = room.client()
    await again.do(commands.Auth(session=secret))
    assert (await again.join()).read == 1


@pytest.mark.parametrize(
    ("room_name", "seq", "code"),
    [("lobby", 2, "bad_request"), ("lobby", -1, "bad_request"), ("elsewhere", 1, "not_joined")],
)
async def test_what_cannot_be_read(ann: Client, room_name: str, seq: int, code: str) -> None:
    await ann.say("x")
    assert refused(await ann.do(commands.Read(room=room_name, seq=seq))) == code


# ---- the rules by themselves


@pytest.mark.parametrize(
    ("steps", "sent"),
    [
        ([(0, True)], [True]),
        ([(0, False)], []),
        ([(0, True), (0.5, True)], [True]),
        ([(0, True), (1.1, True)], [True, True]),
        ([(0, True), (0.1, False)], [True, False]),
        ([(0, True), (0.1, False), (0.2, False)], [True, False]),
    ],
)
async def test_how_often_typing_is_sent(
    steps: list[tuple[float, bool]], sent: list[bool], mock_clock: MockClock
) -> None:
    connection, membership = await member()
    broadcast: list[bool] = []
    membership.room.feed = cast(
        "Any",
        SimpleNamespace(broadcast=lambda items, exclude: broadcast.extend(i.active for i in items)),
    )
    began = trio.current_time()
    for at, on in steps:
        mock_clock.jump(began + at - trio.current_time())
        reply = presence.typing(connection, commands.Typing(room="lobby", on=on), membership)
        assert reply == Reply(None)
    assert broadcast == sent


@pytest.mark.parametrize(
    ("mark", "seq", "result"),
    [(0, 3, 3), (2, 3, 3), (3, 3, "reply"), (4, 3, "reply"), (0, 6, "refused"), (0, -1, "refused")],
)
async def test_a_read_mark_only_moves_forward(
    mark: int, seq: int, result: int | str, mock_clock: MockClock
) -> None:
    connection, membership = await member()
    user, membership.room.feed.visible = connection.user, 5
    if mark:
        user.marks["lobby"] = mark
    command = commands.Read(room="lobby", seq=seq)
    if result == "refused":
        with pytest.raises(Refused, match="seq must be from 0 to 5"):
            await presence.read(connection, command)
        return
    returned = await presence.read(connection, command)
    if isinstance(returned, Reply):
        assert (result, returned.answer) == ("reply", commands.ReadMark("lobby", mark))
        return
    assert isinstance(returned.operation, Put)
    assert returned.operation.record.value == b"3"
    assert returned.to_answer(None) == commands.ReadMark("lobby", result)  # type: ignore[arg-type]
    assert user.marks["lobby"] == result
    # If the store refuses it, the mark goes back.
    assert returned.undo is not None
    returned.undo()
    assert user.marks["lobby"] == mark
