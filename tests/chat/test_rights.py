"""Permissions to read and write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from trio.testing import wait_all_tasks_blocked

from chatd.chat.names import Pattern
from chatd.chat.rights import check_may_read, check_may_write
from chatd.chat.sanctions import Sanctions
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Grant, Keys
from chatd.protocol import commands, events
from chatd.settings import Auth, Chat, Settings
from tests.chat.room import Room, auth, open_room, refusal, refused

KEYS = Keys(read_keys(new_key(symmetric=True).encode()))
SETTINGS = Settings(auth=Auth(mode="token", guests=True), chat=Chat(operators=("root",)))


class Connection:
    op = False

    def __init__(self, grant: Grant | None, *rules: str) -> None:
        self.grant = grant
        settings = Settings(chat=Chat(rules=rules))
        self.chat = SimpleNamespace(settings=settings, sanctions=Sanctions(lambda: 0))
        self.user = SimpleNamespace(id="guest" if grant is None else grant.user)

    def may(self, room: str) -> tuple[bool, bool]:
        return not refusal(check_may_read, self, room), not refusal(check_may_write, self, room)


def grant(user: str = "ann", **fields: object) -> Grant:
    return Grant(user, "k", 0, 0, **fields)  # type: ignore[arg-type]


def test_a_guest_may_read_and_write() -> None:
    assert Connection(None).may("lobby") == (True, True)


def test_a_token_lets_do_what_it_says() -> None:
    connection = Connection(grant(rooms=(Pattern(("a",)),), read=(Pattern(("b",)),)))
    assert [connection.may(room) for room in "abc"] == [(True, True), (True, False), (False, False)]
    refusals = [refusal(check_may_read, connection, "c"), refusal(check_may_write, connection, "c")]
    assert [each.code for each in refusals if each] == ["forbidden", "forbidden"]


@pytest.mark.parametrize(
    ("rule", "of_guests", "of_bob", "of_ann"),
    [
        ("news write=ann", (True, False), (True, False), (True, True)),
        ("news read=users", (False, False), (True, True), (True, True)),
        ("news read=users write=ann,cleo", (False, False), (True, False), (True, True)),
        ("n*s read=operators", (False, False), (False, False), (False, False)),
        ("* write=operators", (True, False), (True, False), (True, False)),
        ("other read=operators", (True, True), (True, True), (True, True)),
    ],
)
def test_rules_of_the_configuration(
    rule: str, of_guests: tuple[bool, bool], of_bob: tuple[bool, bool], of_ann: tuple[bool, bool]
) -> None:
    assert Connection(None, rule).may("news") == of_guests
    assert Connection(grant("bob"), rule).may("news") == of_bob
    assert Connection(grant("ann"), rule).may("news") == of_ann


def test_the_first_rule_that_fits_counts_and_operators_may() -> None:
    rules = ("staff-news read=everybody", "staff-* read=operators")
    connection = Connection(None, *rules)
    assert connection.may("staff-news") == (True, True)
    assert connection.may("staff-only") == (False, False)
    connection.op = True
    assert connection.may("staff-only") == (True, True)


def test_direct_messages_are_not_the_rules_affair() -> None:
    assert Connection(None, "* read=operators").may("@a,b") == (True, True)


async def test_rules_hold_for_every_command() -> None:
    rules = ("staff read=operators", "news write=operators")
    async with open_room(Settings(chat=Chat(rules=rules))) as room:
        ann = room.client("ann")
        for asked in (
            commands.Join(room="staff"),
            commands.History(room="Staff"),
            commands.Search(room="staff", query="x"),
            commands.Who(room="staff"),
        ):
            assert refused(await ann.do(asked)) == "forbidden"
        await ann.join("news")
        for command in (
            commands.Say(room="news", text="x"),
            commands.Edit(room="news", seq=1, text="x"),
            commands.Delete(room="news", seq=1),
            commands.Typing(room="news", on=True),
        ):
            assert refused(await ann.do(command)) == "forbidden"


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with open_room(SETTINGS, keys=KEYS) as room:
        yield room


async def test_rooms_that_a_token_does_not_name_are_closed_to_it(room: Room) -> None:
    there = room.client()
    for name in ("team-a", "news", "other"):
        await there.join(name)
        await there.say("hello", name)
    ann = await room.subject("ann", rooms=["Team-*"], read=["news"])
    for command in (
        commands.Join(room="other"),
        commands.Who(room="other"),
        commands.History(room="other"),
        commands.Search(room="other", query="hello"),
    ):
        assert refused(await ann.do(command)) == "forbidden"
    for name in ("team-a", "NEWS"):
        assert (await ann.join(name)).seq == 1
        assert len((await ann.do(commands.History(room=name))).events) == 1
    listed = (await ann.do(commands.Rooms())).rooms
    assert [entry.room for entry in listed] == ["news", "team-a"]
    assert (await ann.say("hi", "team-a")).seq == 2


async def test_where_one_may_only_read_nothing_is_said_or_changed(room: Room) -> None:
    ann = await room.subject("ann", read=["news"])
    await ann.join("news")
    for command in (
        commands.Say(room="news", text="hi"),
        commands.Edit(room="news", seq=1, text="hi"),
        commands.Delete(room="news", seq=1),
        commands.Topic(room="news", text="hi"),
        commands.Typing(room="news", on=True),
    ):
        assert refused(await ann.do(command)) == "forbidden"
    assert refused(await ann.do(commands.Read(room="news", seq=0))) is None


async def test_direct_messages_are_asked_for_like_rooms(room: Room) -> None:
    ann = await room.subject("ann", rooms=["lobby"])
    bob, carol = await room.subject("bob"), await room.subject("carol", rooms=["lobby", "@*"])
    assert refused(await ann.say("psst", "@bob")) == "forbidden"
    assert refused(await ann.join("@bob")) == "forbidden"
    assert (await bob.say("psst", "@ann")).seq == 1
    await carol.say("psst", "@bob")
    await wait_all_tasks_blocked()
    assert (ann.texts(), bob.texts()) == ([], ["psst", "psst"])


async def test_a_token_that_lets_read_less_leads_out_of_the_rooms(room: Room) -> None:
    ann, there = await room.subject("ann"), room.client("bob")
    for name in ("lobby", "team"):
        await ann.join(name)
        await there.join(name)
    await auth(ann, room.token("ann", rooms=["lobby"]))
    assert set(ann.connection.memberships) == {"lobby"}
    assert (
        ann.told(events.Notice)[0].text
        == "You left team. Your token does not let you read in this room."
    )
    assert [(left.room, left.nick) for left in there.told(events.Left)] == [("team", "ann")]
    await there.say("secret", "team")
    await there.say("open", "lobby")
    await ann.until(ann.texts)
    assert ann.texts() == ["open"]
