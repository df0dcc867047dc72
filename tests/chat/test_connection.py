"""A connection: its rooms, its user, and what its own faults cost."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd.budgets import REFUSALS_BURST, REFUSALS_PER_SECOND
from chatd.chat import Traffic
from chatd.chat.names import Name, Pattern
from chatd.chat.tokens import Grant
from chatd.model import INTERNAL, NORMAL, Close, Refused
from chatd.protocol import commands, events
from chatd.settings import Auth, Chat, Settings
from tests.chat.room import Room, member, open_room


def grant(user: str = "ann", **fields: Any) -> Grant:
    return Grant(user, key="k", expires=2**50, lifetime=2**50, **fields)


@pytest.mark.parametrize("written", ["Lobby", "lobby", "LOBBY", "ｌｏｂｂｙ"])  # noqa: RUF001
async def test_a_membership_is_found_however_the_room_is_written(
    written: str, mock_clock: MockClock
) -> None:
    connection, membership = await member(room="Lobby")
    assert connection.membership(written) is membership


@pytest.mark.parametrize("written", ["hall", "", "a b", "@ann"])
async def test_there_is_none_in_other_rooms(written: str, mock_clock: MockClock) -> None:
    connection, _ = await member()
    assert connection.membership(written) is None


async def test_only_joined_rooms_count(mock_clock: MockClock) -> None:
    connection, _ = await member()
    bob = await connection.chat.new_guest("", "bob")
    assert bob is not None
    name = "@" + ",".join(sorted((connection.user.id, bob.user.id)))
    direct = await connection.chat.rooms.open(Name(name, name))
    connection.enter_direct(direct)
    assert set(connection.memberships) == {"lobby", name}
    assert connection.joined == 1


async def test_without_a_user_asking_for_it_is_refused() -> None:
    async with open_room(Settings(auth=Auth(mode="token"))) as room:
        connection = room.client().connection
        assert not connection.authenticated
        with pytest.raises(Refused) as refused:
            _ = connection.user
        assert refused.value.refusal.code == "unauthorized"


@pytest.mark.parametrize(
    ("granted", "operators", "op"),
    [
        (None, ("ann",), False),
        (grant(), (), False),
        (grant(), ("ann",), True),
        (grant(op=True), (), True),
    ],
)
async def test_who_is_an_operator(
    granted: Grant | None, operators: tuple[str, ...], op: bool, mock_clock: MockClock
) -> None:
    connection, _ = await member()
    connection.grant = granted
    connection.chat.apply(Settings(chat=Chat(operators=operators)))
    assert connection.op == op


async def test_a_token_that_reads_less_leaves_the_other_rooms(room: Room) -> None:
    ann = room.client("ann")
    for name in ("lobby", "hall"):
        await ann.join(name)
    ann.connection.renew_grant(grant(rooms=(Pattern(("lobby",)),)))
    assert set(ann.connection.memberships) == {"lobby"}
    assert ann.told(events.Notice)[-1].text.startswith("You left hall. ")


async def test_a_kicked_client_gets_left_like_the_others(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    for client in (ann, bob):
        await client.join()
    connection = ann.connection
    connection.kick(connection.memberships["lobby"], "kicked")
    left = events.Left("lobby", "ann", connection.user.id, "kicked")
    assert (ann.told(events.Left), bob.told(events.Left)) == ([left], [left])


async def test_a_notice_that_cannot_be_encoded_closes_this_connection_alone(room: Room) -> None:
    class Broken:
        def encode(self, room: str, items: object) -> list[object]:
            raise ValueError("injected")

    ann, bob = room.client("ann"), room.client("bob")
    ann.connection.codec = Broken()
    for client in (ann, bob):
        client.connection.notify(events.Notice("hello"))
    assert ann.closed == [(INTERNAL, INTERNAL.reason)]
    assert (bob.closed, len(bob.got)) == ([], 1)
    [(name, fields)] = [each for each in room.log.records if each[0] == "fault"]
    assert (name, fields["connection"], "injected" in fields["error"]) == ("fault", "c1", True)


async def test_what_a_closed_connection_leaves(mock_clock: MockClock) -> None:
    connection, _ = await member()
    chat, user = connection.chat, connection.user
    close: Close = NORMAL
    connection.close(close, "bye", Traffic(1, 2, 3, 4))
    assert chat.connections == set()
    assert chat.closes == {1000: 1}
    # The room lists the user until the time to come back is over.
    assert list(chat.rooms) == list(user.rooms)
    assert user.connections == set()
    assert chat.users.by_nick("ann") is user


async def test_a_refusal_is_counted_by_command_and_logged_if_it_is_about_rights() -> None:
    async with open_room() as room:
        ann, bob = room.client("ann"), room.client("bob")
        await ann.join()
        await bob.join()
        seq = (await ann.say("mine")).seq
        refused: list[commands.Command] = [
            commands.Topic(room="lobby", text="t"),
            commands.Edit(room="lobby", seq=seq, text="not mine"),
            commands.Delete(room="lobby", seq=seq),
            commands.Kick(nick="ann", room="lobby"),
            commands.Ban(nick="ann"),
            commands.Slow(room="lobby", seconds=5),
            commands.Leave(room="elsewhere"),
            commands.Say(room="lobby", text=""),
        ]
        codes = [(await bob.do(command)).code for command in refused]
        assert codes == ["forbidden"] * 6 + ["not_joined", "bad_request"]
        counted = dict.fromkeys(("topic", "edit", "delete", "kick", "ban", "slow"), 1)
        assert room.chat.refused_commands == {
            **{(name, "forbidden"): 1 for name in counted},
            ("leave", "not_joined"): 1,
            ("say", "bad_request"): 1,
        }
        lines = [fields for name, fields in room.log.records if name == "refused"]
        assert [line["command"] for line in lines] == [*counted]
        assert {(line["nick"], line["code"]) for line in lines} == {("bob", "forbidden")}
        assert [line.get("room") for line in lines] == ["lobby"] * 4 + [None, "lobby"]


async def test_a_client_that_is_refused_again_and_again_is_read_more_slowly(
    autojump_clock: MockClock,
) -> None:
    async with open_room() as room:
        ann, bob = room.client("ann"), room.client("bob")
        began = trio.current_time()
        for _ in range(REFUSALS_BURST):
            await ann.do(commands.Say(room="nowhere", text="x"))
        assert trio.current_time() == began
        for _ in range(REFUSALS_PER_SECOND):
            await ann.do(commands.Say(room="nowhere", text="x"))
        assert trio.current_time() - began == pytest.approx(1, abs=0.1)
        # Others are not.
        began = trio.current_time()
        await bob.do(commands.Say(room="nowhere", text="x"))
        assert trio.current_time() == began


async def test_a_long_nick_is_not_kept() -> None:
    async with open_room() as room:
        ann = room.client("x" * 1_000_000)
        assert len(ann.connection.nick or "") < 100
        assert ann.nick_notice is not None
        assert len(ann.nick_notice) < 100
