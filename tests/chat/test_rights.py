"""Who may read and write where."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from chatd.chat.names import Pattern
from chatd.chat.rights import check_may_read, check_may_write
from chatd.chat.sanctions import Sanctions
from chatd.chat.tokens import Grant
from chatd.protocol import commands
from chatd.settings import Chat, Settings
from tests.chat.room import open_room, refusal, refused


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
