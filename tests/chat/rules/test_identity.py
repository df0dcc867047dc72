"""Identity by a token or a session."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.chat import users
from chatd.chat.expiry import Expiry
from chatd.chat.marks import MARK
from chatd.chat.replies import Commit, Reply
from chatd.chat.rules import identity
from chatd.chat.sanctions import Sanction
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.chat.users import Users
from chatd.journal import Unavailable
from chatd.journal.memory import MemoryJournal
from chatd.model import (
    BANNED,
    INTERNAL,
    UNAUTHORIZED,
    Record,
    Refusal,
    Refused,
    Remember,
    UserRecord,
)
from chatd.protocol import commands, events
from chatd.settings import Auth, Chat, Settings
from tests.chat.room import Room, Wall, auth, member, open_room, refusal, refused

KEY = read_keys(new_key(symmetric=True).encode())[0]
KEYS = Keys([KEY])
SETTINGS = Settings(auth=Auth(mode="token", guests=True), chat=Chat(operators=("root",)))
ALONE = Settings(auth=Auth(mode="token"))


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with open_room(SETTINGS, keys=KEYS) as room:
        yield room


@pytest.fixture
async def alone() -> AsyncIterator[Room]:
    """Return a chat without guests."""
    async with open_room(ALONE, keys=KEYS) as room:
        yield room


async def test_a_token_identifies_its_user(room: Room) -> None:
    ann = await room.subject("Ann")
    assert ann.connection.hello().user == "Ann"
    assert ann.connection.hello().nick == "Ann"
    assert ann.connection.hello().session is None
    assert ann.connection.hello().op is False
    second = await room.subject("Ann", "other")
    assert second.connection.user is ann.connection.user
    assert room.log.records[0][1]["user"] == "Ann"


async def test_a_guest_becomes_who_the_token_names(room: Room) -> None:
    client = room.client("ann")
    guest = client.connection.user
    answer = await auth(client, room.token("ann"))
    # The nick that the guest held is the subject's now.
    assert answer == commands.Identity("ann", "ann", False, None)
    assert room.chat.users.get(guest.id) is None
    assert len(room.chat.users) == 1
    await client.join()
    other = room.client("bob")
    assert [(m.nick, m.user) for m in (await other.join()).members] == [
        ("ann", "ann"),
        ("bob", other.connection.user.id),
    ]


async def test_the_nick_is_the_kept_one_or_the_wish_or_the_tokens_or_the_name(room: Room) -> None:
    assert (await room.subject("u1")).connection.user.nick.display == "u1"
    assert (await room.subject("u2", None, nick="Two")).connection.user.nick.display == "Two"
    token = room.token("u3", nick="Three")
    wishing = room.client("tri")
    assert (await auth(wishing, token)).nick == "tri"
    await wishing.do(commands.Nick(nick="Trinity"))
    wishing.close()
    assert (await auth(room.client("x"), token)).nick == "Trinity"
    assert (await room.subject("u4", "a b")).connection.user.nick.display == "u4"


async def test_a_taken_first_nick_is_replaced_with_a_notice(room: Room) -> None:
    room.client("ann")
    came = await room.subject("ann")
    assert came.nick_notice == "The nick ann is taken. You are ann-2."
    room.client("bob")
    by_command = room.client()
    assert (await auth(by_command, room.token("bob"))).nick == "bob-2"
    assert by_command.told(events.Notice)[0].text == "The nick bob is taken. You are bob-2."


@pytest.mark.parametrize("asked", ["ann", "ANN", "Annie", "root"])
async def test_no_guest_takes_a_subjects_name(room: Room, asked: str) -> None:
    ann = await room.subject("ann")
    await ann.do(commands.Nick(nick="Annie"))
    guest = room.client("bob")
    assert refused(await guest.do(commands.Nick(nick=asked))) == "nick_taken"
    assert room.client(asked).nick_notice == f"The nick {asked} is taken. You are {asked}-2."


async def test_a_subjects_last_name_is_kept_from_guests_when_all_is_forgotten_but_the_store(
    autojump_clock: MockClock,
) -> None:
    journal = MemoryJournal(now=Wall())
    async with open_room(SETTINGS, journal, KEYS) as room:
        ann = await room.subject("ann")
        await ann.do(commands.Nick(nick="Annie"))
        await ann.do(commands.Nick(nick="Anna"))
        ann.close()
        await trio.sleep(1000)
        assert len(room.chat.users) == 0
        for asked in ("ann", "Anna"):
            assert room.client(asked).nick_notice is not None
        # Another subject may have that nick by now, but the command names no user.
        bob = await room.subject("bob")
        assert refused(await bob.do(commands.Nick(nick="ann"))) == "nick_taken"
        assert (await bob.do(commands.Nick(nick="anna"))).nick == "anna"
        assert room.client("Annie").nick_notice is None
    assert await journal.subjects() == [
        UserRecord("ann", "Anna", await seen(journal, "ann"), True),
        UserRecord("bob", "anna", None, True),
    ]
    journal = copied(journal)
    async with open_room(Settings(), journal, KEYS) as room:
        for asked in ("ann", "anna", "bob"):
            assert room.client(asked).nick_notice is not None


async def seen(journal: MemoryJournal, user: str) -> int | None:
    record = await journal.user(user)
    assert record is not None
    return record.seen


def copied(journal: MemoryJournal) -> MemoryJournal:
    """Make a store with the same users: what a restart leaves."""
    fresh = MemoryJournal(now=Wall())
    fresh._users = journal._users
    return fresh


async def test_a_guest_cannot_look_like_a_subject_nor_a_subject_like_a_guest(room: Room) -> None:
    guest = room.client("bob")
    refused = refusal(
        room.chat.keys.issue, guest.connection.user.id, now=room.chat.now(), seconds=9
    )
    assert refused is not None
    assert refused.code == "bad_request"


async def test_a_user_can_connect_while_the_store_cannot_be_read() -> None:
    class Broken(MemoryJournal):
        async def user(self, user: str) -> UserRecord | None:
            raise Unavailable("broken")

        async def records(self, kind: str, prefix: str = "", limit: int = -1) -> list[Record]:
            if kind == MARK:
                raise Unavailable("broken")
            return []

    async with open_room(SETTINGS, Broken(now=Wall()), KEYS) as room:
        assert (await room.subject("ann")).connection.user.nick.display == "ann"


async def test_read_marks_are_the_subjects_own_again(autojump_clock: MockClock) -> None:
    async with open_room(SETTINGS, keys=KEYS) as room:
        ann = await room.subject("ann")
        await ann.join()
        await ann.say("hi")
        await ann.until(ann.texts)
        await ann.do(commands.Read(room="lobby", seq=1))
        ann.close()
        await trio.sleep(1000)
        assert (await (await room.subject("ann")).join()).read == 1


async def test_read_marks_survive_a_restart(
    autojump_clock: MockClock,
) -> None:
    journal = MemoryJournal(now=Wall())
    async with open_room(SETTINGS, journal, KEYS) as room:
        ann, bob = await room.subject("ann"), room.client("bob")
        session = room.chat.users.session(bob.connection.user)
        for one in (ann, bob):
            await one.join()
        for _ in range(4):
            await ann.say("hi")
        for one in (ann, bob):
            await one.do(commands.Read(room="lobby", seq=3))
            one.close()
        await wait_all_tasks_blocked()
    async with open_room(SETTINGS, journal, KEYS) as room:
        bob = room.client()
        await bob.do(commands.Auth(session=session))
        assert bob.connection.user.nick.display == "bob"  # held, so it is known since the start
        for one in (await room.subject("ann"), bob):
            assert (await one.join()).read == 3
            assert (await one.do(commands.Read(room="lobby", seq=2))).seq == 3


async def test_a_bad_token_is_refused_and_logged_without_a_word_of_it(room: Room) -> None:
    ann = room.client("ann")
    token = room.token("ann")
    bad = f"{token[:-8]}AAAAAAAA"
    answer = await auth(ann, bad)
    assert refused(answer) == "unauthorized"
    assert ann.connection.user.nick.display == "ann"
    [line] = [fields for name, fields in room.log.records if name == "refused"]
    assert line["reason"] == answer.message
    assert token[:20] not in repr(answer) + repr(room.log.records)


async def test_auth_wants_a_token_or_a_session(room: Room) -> None:
    assert refused(await room.client().do(commands.Auth())) == "bad_request"


async def test_another_user_is_for_before_the_first_join_and_the_same_at_any_time(
    room: Room,
) -> None:
    ann = await room.subject("ann")
    await ann.join()
    assert refused(await auth(ann, room.token("bob"))) == "forbidden"
    assert (await auth(ann, room.token("ann", op=True))).op is True
    assert ann.connection.op
    guest = room.client()
    await guest.join()
    assert refused(await auth(guest, room.token("bob"))) == "forbidden"
    changing = await room.subject("carol")
    assert (await auth(changing, room.token("bob"))).user == "bob"
    assert (await changing.join()).member_count == 3


async def test_tokens_are_refused_in_open_mode() -> None:
    async with open_room(keys=KEYS) as room:
        assert refused(await auth(room.client(), room.token("ann"))) == "unauthorized"


async def test_sessions_are_for_guests_only(room: Room) -> None:
    guest = room.client("bob")
    session = room.chat.users.session(guest.connection.user)
    subject = await room.subject("ann")
    assert room.chat.users.session(subject.connection.user) is None
    assert (await subject.do(commands.Auth(session=session))).nick == "bob"
    assert (subject.connection.grant, subject.connection.op) == (None, False)
    room.chat.settings = ALONE
    nobody = room.client()
    assert refused(await nobody.do(commands.Auth(session=session))) == "unauthorized"


async def test_operators_are_named_by_the_configuration_or_the_token(room: Room) -> None:
    root = await room.subject("root")
    assert root.connection.hello().op
    by_token = await room.subject("ann", op=True)
    plain = await room.subject("ann")
    assert by_token.connection.op
    assert not plain.connection.op
    await plain.join()
    await by_token.join()
    await root.join()
    shown = (await plain.do(commands.Who(room="lobby"))).members
    assert [(member.nick, member.op) for member in shown] == [("ann", True), ("root", True)]
    by_token.close()
    shown = (await plain.do(commands.Who(room="lobby"))).members
    assert [member.op for member in shown] == [False, True]
    guest = room.client("bob")
    assert not guest.connection.op


async def test_an_unauthenticated_client_may_only_auth(alone: Room) -> None:
    client = alone.client("ann")
    hello = client.connection.hello()
    assert (hello.user, hello.nick, hello.session, hello.op) == (None, None, None, False)
    for command in (
        commands.Join(room="lobby"),
        commands.Leave(room="lobby"),
        commands.Say(room="lobby", text="hi"),
        commands.History(room="lobby"),
        commands.Search(room="lobby", query="hi"),
        commands.Who(room="lobby"),
        commands.Rooms(),
        commands.Nick(nick="ann"),
        commands.Typing(room="lobby", on=True),
        commands.Read(room="lobby", seq=0),
    ):
        assert refused(await client.do(command)) == "unauthorized"
    assert (await auth(client, alone.token("ann"))).user == "ann"
    assert (await client.join()).room == "lobby"
    client.close()
    nobody = alone.client()
    nobody.close()
    assert alone.log.records[-1][0] == "disconnect"
    assert "user" not in alone.log.records[-1][1]


async def test_a_client_that_does_not_auth_in_time_is_closed(
    alone: Room, autojump_clock: MockClock
) -> None:
    late, known = alone.client(), alone.client()
    await trio.sleep(9.9)
    await auth(known, alone.token("ann"))
    assert late.closed == []
    await trio.sleep(0.2)
    assert late.closed == [(UNAUTHORIZED, "not authenticated in time")]
    await trio.sleep(100)
    assert known.closed == []
    late.close()
    assert len(alone.chat.timers) == 1
    known.close()
    await trio.sleep(1000)
    assert len(alone.chat.timers) == 0


async def test_a_taken_nick_comes_with_a_free_one(room: Room, autojump_clock: MockClock) -> None:
    holder, other = room.client("ann"), room.client("bob")
    answer = await other.do(commands.Nick(nick="Ann"))
    assert answer == Refusal("nick_taken", "The nick Ann is taken. Try Ann-2.")
    holder.close()
    answer = await other.do(commands.Nick(nick="Ann"))
    text = "The nick Ann is reserved for a user who left recently. Try Ann-2."
    assert answer == Refusal("nick_taken", text)
    assert await other.do(commands.Nick(nick="Ann-2")) == commands.Renamed("Ann-2")


async def test_a_tokens_expiry_is_announced_and_closes(
    room: Room, autojump_clock: MockClock
) -> None:
    client = await room.subject("ann", seconds=3600)
    await trio.sleep(3539)
    assert client.told(events.Notice) == []
    await trio.sleep(2)
    [notice] = client.told(events.Notice)
    assert notice == events.Notice(
        "Your token expires in 60 seconds. Send a new one with auth.", do="auth"
    )
    await trio.sleep(58)
    assert client.closed == []
    await trio.sleep(2)
    assert client.closed == [(UNAUTHORIZED, "your token has expired")]


async def test_a_short_tokens_expiry_is_announced_in_its_last_tenth(
    room: Room, autojump_clock: MockClock
) -> None:
    client = await room.subject("ann", seconds=50)
    await trio.sleep(44)
    assert client.told(events.Notice) == []
    await trio.sleep(2)
    assert client.told(events.Notice)[0].text.startswith("Your token expires in 5 seconds")
    await trio.sleep(5)
    assert len(client.closed) == 1


async def test_a_renewed_token_keeps_the_connection(room: Room, autojump_clock: MockClock) -> None:
    client = await room.subject("ann", seconds=100)
    await client.join()
    await trio.sleep(95)
    await auth(client, room.token("ann", seconds=100))
    await trio.sleep(80)
    assert client.closed == []
    assert len(client.told(events.Notice)) == 1
    assert len(room.chat.timers) == 1
    await trio.sleep(25)
    assert len(client.told(events.Notice)) == 2
    assert len(client.closed) == 1
    client.close()


async def test_a_wall_clock_that_is_set_is_noticed(room: Room, autojump_clock: MockClock) -> None:
    client = await room.subject("ann", seconds=36_000)
    await trio.sleep(1)
    assert isinstance(room.chat.now, Wall)
    room.chat.now.ahead = 35_990_000
    await trio.sleep(61)
    assert len(client.closed) == 1


async def test_an_error_in_an_expiry_ends_only_its_connection(
    room: Room, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Expiry, now: float) -> float | None:
        raise ValueError("expiry")

    other = await room.subject("bob", seconds=36_000)
    await trio.sleep(1)
    monkeypatch.setattr(Expiry, "fire", fail)
    client = await room.subject("ann", seconds=36_000)
    await trio.sleep(1)
    assert client.closed == [(INTERNAL, INTERNAL.reason)]
    [fault] = [fields for name, fields in room.log.records if name == "fault"]
    assert (fault["error"], fault["user"]) == ("ValueError('expiry')", "ann")
    monkeypatch.undo()
    assert other.closed == []
    await other.join()


async def test_removing_a_key_closes_the_users_of_its_tokens(room: Room) -> None:
    other = read_keys(new_key(symmetric=True).encode())[0]
    ann = await room.subject("ann")
    room.chat.use_keys(Keys([other, KEY]))
    bob, guest = await room.subject("bob"), room.client()
    assert ann.closed == []
    room.chat.use_keys(Keys([other]))
    assert ann.closed == [(UNAUTHORIZED, "the key of your token is gone")]
    assert (bob.closed, guest.closed) == ([], [])


# ---- the rules by themselves


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ("bob", None),
        ("ANN", None),
        ("a b", "bad_request"),
        ("", "bad_request"),
        ("taken", "nick_taken"),
        ("TAKEN", "nick_taken"),
    ],
)
async def test_which_nicks_are_committed(
    wanted: str, code: str | None, mock_clock: MockClock
) -> None:
    connection, membership = await member()
    users, user = connection.chat.users, connection.user
    await connection.chat.new_guest("", "taken")
    if code is not None:
        with pytest.raises(Refused) as refused:
            await identity.nick(connection, commands.Nick(nick=wanted))
        assert refused.value.refusal.code == code
        return
    commit = await identity.nick(connection, commands.Nick(nick=wanted))
    assert isinstance(commit, Commit)
    assert commit.operation == Remember(UserRecord(user.id, wanted, None))
    assert commit.barrier
    # It is reserved, but not the user's before it is committed.
    assert users.by_nick(wanted.lower()) is user
    assert user.nick.display == "ann"
    assert commit.to_answer(None) == commands.Renamed(wanted)
    assert commit.then is not None
    commit.then()
    assert user.nick.display == wanted
    assert [each.nick for each in membership.room.member_list()] == [wanted]


async def test_the_nick_that_the_user_has_needs_no_commit(mock_clock: MockClock) -> None:
    connection, _ = await member()
    reply = await identity.nick(connection, commands.Nick(nick="ann"))
    assert reply == Reply(commands.Renamed("ann"))


async def test_a_nick_that_is_not_committed_is_free_again(mock_clock: MockClock) -> None:
    connection, _ = await member()
    commit = await identity.nick(connection, commands.Nick(nick="bob"))
    assert isinstance(commit, Commit)
    assert commit.undo is not None
    commit.undo()
    assert connection.chat.users.by_nick("bob") is None
    assert connection.user.nick.display == "ann"


async def test_a_banned_user_is_answered_and_then_closed(mock_clock: MockClock) -> None:
    connection, _ = await member()
    chat, closed = connection.chat, []
    connection.end = lambda close, reason: closed.append((close, reason))
    eve = await chat.new_guest("", "eve")
    assert eve is not None
    chat.sanctions.add(Sanction("ban", by="root", at=0, user=eve.user.id))
    session = chat.users.session(eve.user)
    with pytest.raises(Refused) as caught:
        await identity.auth(connection, commands.Auth(session=session))
    assert (caught.value.refusal.code, closed) == ("banned", [])
    caught.value.then()
    assert closed == [(BANNED, "You are banned until further notice.")]


# ---- nicks that look alike


ALIKE = "аdmin"  # noqa: RUF001  with a Cyrillic a


async def test_a_nick_that_looks_like_anothers_is_taken(room: Room) -> None:
    ann, bob = room.client("admin"), room.client(ALIKE)
    assert bob.connection.user.nick.display == f"{ALIKE}-2"
    assert refused(await bob.do(commands.Nick(nick=ALIKE))) == "nick_taken"
    assert refused(await bob.do(commands.Nick(nick="ADMIN"))) == "nick_taken"
    assert refused(await ann.do(commands.Nick(nick=ALIKE))) is None  # its own
    assert refused(await bob.do(commands.Nick(nick="admin"))) == "nick_taken"
    assert refused(await ann.do(commands.Nick(nick="ann"))) is None
    assert refused(await bob.do(commands.Nick(nick="admin"))) is None


async def test_a_held_nick_keeps_its_look(room: Room, autojump_clock: MockClock) -> None:
    room.client("admin").close()
    bob = room.client("bob")
    assert refused(await bob.do(commands.Nick(nick=ALIKE))) == "nick_taken"
    await trio.sleep(601)
    assert refused(await bob.do(commands.Nick(nick=ALIKE))) is None


async def test_no_guest_looks_like_a_subject_or_an_operator(autojump_clock: MockClock) -> None:
    async with open_room(SETTINGS, keys=KEYS) as room:
        subject = await room.subject("scope", nick="Paypal")
        subject.close()
        await trio.sleep(10_000)
        guest = room.client("guest")
        for nick in ("ѕсоре", "раураl", "rооt"):  # noqa: RUF001
            assert refused(await guest.do(commands.Nick(nick=nick))) == "nick_taken"
            assert room.client(nick).connection.user.nick.display == f"{nick}-2"


@pytest.mark.parametrize("nick", ["console", "Forgotten", "соnsоlе", "chatd", "system"])  # noqa: RUF001
async def test_names_of_the_server_are_nobodys(room: Room, nick: str) -> None:
    ann = room.client(nick)
    assert ann.connection.user.nick.display == f"{nick}-2"
    assert refused(await ann.do(commands.Nick(nick=nick))) == "nick_taken"


async def test_made_up_nicks_never_look_alike(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["grnmaaaaaaaaaaaaa", "gmrnaaaaaaaaaaaaa", "gbbbbbbbbbbbbbbbb"])
    monkeypatch.setattr(users, "new_user", lambda: next(ids))
    first, second = room.client(), room.client()
    assert first.connection.user.nick.display == "guest-rnmaa"
    assert second.connection.user.nick.display == "guest-bbbbbbbbbbbbbbbb"


async def test_old_stores_may_have_nicks_that_look_alike(autojump_clock: MockClock) -> None:
    async with open_room() as room:
        journal, now = room.chat.journal, room.chat.now()
        for user, nick in (("gaaaaaaaaaaaaaaaa", "admin"), ("gbbbbbbbbbbbbbbbb", ALIKE)):
            await room.chat.bus.submit_and_wait(Remember(UserRecord(user, nick, now)))
        again = Users(room.chat)
        await again.load()
        assert len(again) == 1
        assert len(await journal.present(0)) == 2
