"""Users: identity, nicks, and returning guests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.bus import Submission
from chatd.journal.memory import MemoryJournal
from chatd.model import Operation, Outcome
from chatd.protocol import commands, events
from chatd.settings import Limits, Settings
from tests.chat.room import Room, Wall, open_room, perform, refused


async def test_a_guest_is_named_at_once(room: Room) -> None:
    client = room.client()
    hello = client.connection.hello()
    assert hello.nick is not None
    assert hello.nick.startswith("guest-")
    assert hello.user is not None
    assert hello.user not in hello.nick
    assert hello.op is False
    assert (hello.limits.message_bytes, hello.limits.messages_burst) == (16384, 20)


async def test_a_taken_or_invalid_first_nick_is_replaced_with_a_notice(room: Room) -> None:
    assert room.client("ann").nick_notice is None
    second = room.client("ANN")
    assert second.nick_notice == "The nick ANN is taken. You are ANN-2."
    third = room.client("a b")
    assert third.nick_notice is not None
    assert third.nick_notice.endswith(f"You are {third.connection.user.nick.display}.")


async def test_a_new_nick_is_announced_once_for_each_shared_room(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    for name in ("a", "b"):
        await ann.join(name)
        await bob.join(name)
    answer = await ann.do(commands.Nick(nick="Anna"))
    assert answer.nick == "Anna"
    told = [(item.room, item.before, item.nick) for item in bob.told(events.NickChange)]
    assert sorted(told) == [("a", "ann", "Anna"), ("b", "ann", "Anna")]
    assert len(ann.told(events.NickChange)) == 2
    members = (await bob.do(commands.Who(room="a"))).members
    assert [member.nick for member in members] == ["Anna", "bob"]
    assert refused(await bob.do(commands.Nick(nick="ann"))) is None  # the old one is free


async def test_a_nick_that_is_taken_is_refused(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    assert refused(await bob.do(commands.Nick(nick="ANN"))) == "nick_taken"
    assert refused(await bob.do(commands.Nick(nick="a b"))) == "bad_request"
    assert (await ann.do(commands.Nick(nick="ANN"))).nick == "ANN"


async def test_two_who_want_one_nick_at_once_do_not_both_get_it(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    answers: list[object] = []
    for client in (ann, bob):
        await perform(client.connection, commands.Nick(nick="x"), answers.append)
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(map(refused, answers), key=str) == [None, "nick_taken"] or sorted(
        map(refused, answers), key=str
    ) == ["nick_taken", None]


async def test_a_chosen_nick_is_held_for_a_while_after_its_user_went(
    room: Room, autojump_clock: MockClock
) -> None:
    ann = room.client("ann")
    session = room.chat.users.session(ann.connection.user)
    ann.close()
    await trio.sleep(599)
    assert room.client("ann").nick_notice is not None
    back = room.client()
    answer = await back.do(commands.Auth(session=session))
    assert (answer.nick, answer.user) == ("ann", ann.connection.user.id)
    back.close()
    await trio.sleep(602)
    assert room.client("ann").nick_notice is None


async def test_an_unused_guest_leaves_no_record(room: Room) -> None:
    for _ in range(100):
        room.client().close()
    assert len(room.chat.users) == 0


class Gated(MemoryJournal):
    """A store whose commits wait for ``gate``."""

    def __init__(self) -> None:
        super().__init__(now=Wall())
        self.gate = trio.Event()
        self.gate.set()

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        await self.gate.wait()
        return await super().commit(batch)


@pytest.mark.parametrize("first", ["ann", None])
async def test_a_nick_that_is_committed_when_its_user_has_gone_is_held_and_then_free(
    autojump_clock: MockClock, first: str | None
) -> None:
    journal = Gated()
    async with trio.open_nursery() as nursery, open_room(journal=journal) as room:
        ann = room.client(first)
        await trio.sleep(5)  # what is remembered of ann is
        journal.gate = trio.Event()
        answers: list[object] = []
        nursery.start_soon(perform, ann.connection, commands.Nick(nick="Zoe"), answers.append)
        await trio.testing.wait_all_tasks_blocked()
        ann.close()
        # It is set aside for her meanwhile.
        assert room.client("zoe").nick_notice is not None
        journal.gate.set()
        await trio.sleep(5)
        assert answers == [commands.Renamed("Zoe")]
        if first is not None:
            assert room.client("ZOE").nick_notice is not None
            assert room.client("ann").nick_notice is None
            record = await journal.user(ann.connection.user.id)
            assert record is not None
            assert (record.nick, record.seen is None) == ("Zoe", False)
        await trio.sleep(602)
        assert room.client("zoe").nick_notice is None


async def test_a_guest_who_became_another_user_keeps_no_nick(autojump_clock: MockClock) -> None:
    journal = Gated()
    async with trio.open_nursery() as nursery, open_room(journal=journal) as room:
        ann, guest = room.client("ann"), room.client()
        journal.gate = trio.Event()
        nursery.start_soon(perform, guest.connection, commands.Nick(nick="zoe"), lambda _: None)
        await trio.testing.wait_all_tasks_blocked()
        session = room.chat.users.session(ann.connection.user)
        await guest.do(commands.Auth(session=session))
        journal.gate.set()
        await trio.sleep(5)
        assert room.client("zoe").nick_notice is None
        assert len(room.chat.users) == 2


async def test_a_guest_with_another_connection_is_not_forgotten(
    room: Room, autojump_clock: MockClock
) -> None:
    first, second, ann = room.client("bob"), room.client(), room.client("ann")
    bob = first.connection.user
    await second.do(commands.Auth(session=room.chat.users.session(bob)))
    await second.join()
    await first.do(commands.Auth(session=room.chat.users.session(ann.connection.user)))
    # The first connection is ann's now; the second is bob still, and so is his nick.
    assert second.connection.user is bob
    assert room.client("bob").nick_notice is not None
    second.close()
    back = room.client()
    await back.do(commands.Auth(session=room.chat.users.session(bob)))
    assert back.connection.user is bob


@pytest.mark.parametrize("nick", ["bob", None])
async def test_a_return_in_time_sends_neither_left_nor_joined(
    room: Room, autojump_clock: MockClock, nick: str | None
) -> None:
    ann, bob = room.client("ann"), room.client(nick)
    session = room.chat.users.session(bob.connection.user)
    await ann.join()
    await bob.join()
    for _ in range(5):
        bob.close()
        await trio.sleep(9)
        bob = room.client()
        await bob.do(commands.Auth(session=session))
        await bob.join()
        await trio.sleep(20)
    assert len(ann.told(events.Joined)) == 1
    assert ann.told(events.Left) == []
    bob.close()
    await trio.sleep(12)
    assert [left.reason for left in ann.told(events.Left)] == ["lost"]


async def test_a_passing_guest_reserves_no_other_users_nick(
    room: Room, autojump_clock: MockClock
) -> None:
    restless = room.client("restless")
    session = room.chat.users.session(restless.connection.user)
    restless.close()
    room.client("ann").close()
    for _ in range(2000):
        await trio.sleep(0.5)
        again = room.client()
        await again.do(commands.Auth(session=session))
        again.close()
    assert room.client("ann").nick_notice is None
    await trio.sleep(2)
    assert len(room.chat.timers) == 1
    assert room.client("restless").nick_notice is not None


async def test_auth_makes_a_guest_the_same_guest_again(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    session = ann.connection.hello().session
    assert session is not None
    await ann.say("x", key="k")
    ann.close()
    back = room.client()
    answer = await back.do(commands.Auth(session=session))
    assert (answer.user, answer.nick) == (ann.connection.user.id, "ann")
    await back.join()
    assert (await back.say("y", key="k")).duplicate  # keys belong to the user
    assert answer.session  # a new secret, for another while
    names = [name for name, _ in room.log.records]
    assert "auth" in names


async def test_auth_after_a_join_is_for_the_same_user_only(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    mine = room.chat.users.session(ann.connection.user)
    others = room.chat.users.session(bob.connection.user)
    await ann.join()
    assert (await ann.do(commands.Auth(session=mine))).user == ann.connection.user.id
    assert refused(await ann.do(commands.Auth(session=others))) == "forbidden"
    assert refused(await ann.do(commands.Auth(session="nonsense"))) == "unauthorized"


async def test_several_connections_are_one_user(room: Room, autojump_clock: MockClock) -> None:
    ann, tab, bob = room.client("ann"), room.client(), room.client("bob")
    await bob.join()
    await tab.do(commands.Auth(session=room.chat.users.session(ann.connection.user)))
    await ann.join()
    await tab.join()
    assert len(bob.told(events.Joined)) == 1
    ann.close()
    await trio.sleep(60)
    assert bob.told(events.Left) == []
    tab.close()
    await trio.sleep(60)
    assert [left.reason for left in bob.told(events.Left)] == ["lost"]


async def test_a_secret_ends_after_its_days_unused(room: Room, autojump_clock: MockClock) -> None:
    day = 24 * 60 * 60
    ann = room.client()
    session = room.chat.users.session(ann.connection.user)
    ann.close()
    await trio.sleep(29 * day)
    back = room.client()
    assert refused(await back.do(commands.Auth(session=session))) is None
    await trio.sleep(20 * day)
    back.close()  # used until now, so the first secret is good for another 30 days
    await trio.sleep(29 * day)
    again = room.client()
    assert refused(await again.do(commands.Auth(session=session))) is None
    again.close()
    await trio.sleep(31 * day)
    assert refused(await room.client().do(commands.Auth(session=session))) == "unauthorized"


async def test_identities_survive_a_restart(
    autojump_clock: MockClock,
) -> None:
    first = MemoryJournal(now=Wall())
    async with open_room(journal=first) as room:
        ann, guest = room.client("ann"), room.client()
        sessions = [room.chat.users.session(c.connection.user) for c in (ann, guest)]
        nicks = [c.connection.user.nick.display for c in (ann, guest)]
        await trio.sleep(5)
    second = MemoryJournal(now=Wall())
    second.key = first.key
    second._users = first._users
    async with open_room(journal=second) as room:
        assert room.client("ann").nick_notice is not None  # held, for its user may come back
        for session, nick in zip(sessions, nicks, strict=True):
            answer = await room.client().do(commands.Auth(session=session))
            assert answer.nick == nick


@pytest.mark.parametrize("hold", [10, 600])
async def test_the_hold_is_the_operators(hold: int, autojump_clock: MockClock) -> None:
    settings = replace(Settings(), chat=replace(Settings().chat, nick_hold_seconds=hold))
    async with open_room(settings) as room:
        room.client("ann").close()
        await trio.sleep(hold - 1)
        assert room.client("ann").nick_notice is not None
        await trio.sleep(3)
        assert room.client("ann").nick_notice is None


async def test_what_could_not_be_saved_once_is_saved_later(
    room: Room, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(submission: Submission) -> None:
        raise ValueError("save")

    with monkeypatch.context() as broken:
        broken.setattr(room.chat.bus, "publish_nowait", fail)
        room.client("ann")
        await trio.sleep(2)
    assert room.chat.users.unsaved
    room.client("bob")
    await trio.sleep(2)
    assert not room.chat.users.unsaved


async def test_an_address_holds_so_many_nicks_and_all_so_many(autojump_clock: MockClock) -> None:
    limits = replace(Limits(), held_nicks_per_address=2, held_nicks=4)
    async with open_room(Settings(limits=limits)) as room:
        users = room.chat.users

        def held() -> list[str]:
            names = [f"{who}{number}" for who in ("ann", "bob", "me") for number in range(4)]
            return [name for name in names if users.by_nick(name) is not None]

        for number in range(4):
            room.client(f"ann{number}", "192.0.2.1").close()
        assert held() == ["ann2", "ann3"]
        # This machine's clients count in all alone.
        for number in range(3):
            room.client(f"me{number}").close()
        assert held() == ["ann3", "me0", "me1", "me2"]
        for number in range(2):
            room.client(f"bob{number}", "192.0.2.2").close()
        assert held() == ["bob0", "bob1", "me1", "me2"]
        # Whoever is back holds nothing; the time is over for the others.
        back = room.client("bob1", "192.0.2.2")
        await trio.sleep(601)
        assert held() == []
        back.close()
        assert len(users) == 1


async def test_who_is_still_listed_in_a_room_keeps_the_nick_for_that_time(
    autojump_clock: MockClock,
) -> None:
    async with open_room(Settings(limits=replace(Limits(), held_nicks=0))) as room:
        ann = room.client("ann")
        await ann.join()
        ann.close()
        assert room.chat.users.by_nick("ann") is not None
        await trio.sleep(11)
        assert room.chat.users.by_nick("ann") is None
