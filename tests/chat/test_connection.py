"""The commands: what each does, what it is answered, and that nobody misses or doubles anything."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.chat import connection as module
from chatd.chat import pages
from chatd.journal import Unavailable
from chatd.journal.memory import MemoryJournal
from chatd.journal.retention import Retention
from chatd.model import Event, Operation, Outcome
from chatd.protocol import commands, events
from chatd.protocol.commands import Position
from chatd.settings import Log as LogSettings
from chatd.settings import Settings
from tests.chat.room import Room, Wall, open_room, perform, refused

UNLIMITED = replace(Settings().limits, messages_per_second="off", bytes_per_second="off")


def seqs(page: Sequence[events.Message]) -> list[Any]:
    return [message.seq for message in page]


# ---- say


async def test_a_message_goes_to_everybody_in_the_room_the_sender_too(room: Room) -> None:
    ann, bob, eve = room.client("ann"), room.client("bob"), room.client("eve")
    await ann.join()
    await bob.join("LOBBY")
    await eve.join("elsewhere")
    said = await ann.say("hi")
    await bob.until(bob.texts)
    assert (said.room, said.seq, said.duplicate) == ("lobby", 1, False)
    [message] = bob.told(events.Message)
    assert (message.room, message.seq, message.nick, message.text) == ("lobby", 1, "ann", "hi")
    assert message.at == said.at
    assert ann.texts() == ["hi"]
    assert eve.texts() == []


async def test_the_answer_comes_before_the_message_it_caused(room: Room) -> None:
    ann = room.client("ann")
    order: list[str] = []
    ann.offer = lambda block, messages=1: order.append("message")  # type: ignore[method-assign]
    await ann.join()
    await perform(
        ann.connection, commands.Say(room="lobby", text="x"), lambda answer: order.append("answer")
    )
    await trio.testing.wait_all_tasks_blocked()
    assert order == ["answer", "message"]


async def test_a_say_holds_up_nothing_that_follows_it(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    answers: list[object] = []
    await perform(ann.connection, commands.Say(room="lobby", text="x"), answers.append)
    await perform(ann.connection, commands.Who(room="lobby"), answers.append)
    assert isinstance(answers[0], commands.Members)
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(answers[1], commands.Said)


async def test_the_same_key_is_said_once_by_one_user(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await bob.join()
    first = await ann.say("one", key="k")
    again = await ann.say("two", key="k")
    other = await bob.say("three", key="k")
    assert (again.seq, again.duplicate) == (first.seq, True)
    assert (other.seq, other.duplicate) == (2, False)
    await bob.until(lambda: len(bob.texts()) == 2)
    assert bob.texts() == ["one", "three"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_request"),
        ("a\x00b", "bad_request"),
        ("\x1b[31m", "bad_request"),
        ("a\rb", "bad_request"),
        ("\x85", "bad_request"),
        ("x" * 16384, None),
        ("x" * 16385, "too_large"),
        ("é" * 8193, "too_large"),
        ("tab\tand\nline", None),
    ],
)
async def test_what_may_be_said(room: Room, text: str, code: str | None) -> None:
    ann = room.client("ann")
    await ann.join()
    assert refused(await ann.say(text)) == code


async def test_line_ends_are_made_one(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    await ann.say("a\r\nb")
    await ann.until(ann.texts)
    assert ann.texts() == ["a\nb"]


@pytest.mark.parametrize("key", ["", "k" * 65, "é" * 33])
async def test_a_key_has_1_to_64_bytes(room: Room, key: str) -> None:
    ann = room.client("ann")
    await ann.join()
    assert refused(await ann.say("x", key=key)) == "bad_request"


async def test_a_reply_names_a_message_of_the_room(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    await ann.say("?")
    assert refused(await ann.say("!", reply_to=2**70)) == "bad_request"
    assert refused(await ann.say("!", reply_to=0)) == "bad_request"
    await ann.say("!", reply_to=1)
    await ann.until(lambda: len(ann.texts()) == 2)
    assert [message.reply_to for message in ann.told(events.Message)] == [None, 1]


async def test_who_is_not_in_a_room_cannot_speak_there(room: Room) -> None:
    ann = room.client("ann")
    assert refused(await ann.say("x")) == "not_joined"
    assert refused(await ann.say("x", room="*")) == "not_joined"


async def test_a_flood_is_refused_with_the_time_to_wait_and_costs_nothing_else(
    room: Room, autojump_clock: MockClock
) -> None:
    ann = room.client("ann")
    await ann.join()
    answers = [await ann.say(str(number)) for number in range(21)]
    assert [refused(answer) for answer in answers] == [None] * 20 + ["rate_limited"]
    wait = answers[-1].retry_ms / 1000
    assert 0 < wait <= 0.2
    await trio.sleep(wait)
    assert refused(await ann.say("now")) is None
    assert refused(await ann.say("again")) == "rate_limited"


async def test_bytes_are_limited_too_and_over_all_connections_of_a_user(room: Room) -> None:
    ann = room.client("ann")
    other = room.client()
    session = room.chat.users.session(ann.connection.user)
    await other.do(commands.Auth(session=session))
    await ann.join()
    await other.join()
    text = "x" * 16384
    assert [refused(await client.say(text)) for client in (ann, other, ann, other, ann)] == [
        *[None] * 4,
        "rate_limited",
    ]


# ---- join, resume


async def test_a_join_gives_the_newest_oldest_first_and_then_lives(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    for number in range(5):
        await ann.say(str(number))
    bob = room.client("bob")
    joined = await bob.join(limit=3)
    assert (joined.seq, joined.recovered, joined.topic) == (5, False, "")
    assert [message.text for message in joined.events] == ["2", "3", "4"]
    assert [member.nick for member in joined.members] == ["ann", "bob"]
    assert joined.member_count == 2
    await ann.say("live")
    await bob.until(bob.texts)
    assert bob.texts() == ["live"]


async def test_a_resume_gives_what_was_missed_then_the_rest_then_what_is_live(room: Room) -> None:
    room.chat.settings = replace(room.chat.settings, limits=UNLIMITED)
    ann, bob = room.client("ann"), room.client("bob")
    first = await ann.join()
    await bob.join()
    for number in range(30):
        await bob.say(str(number))
    back = room.client("ann2")
    joined = await back.join(since=Position(first.epoch, 10), limit=5)
    assert joined.recovered
    assert (seqs(joined.events), joined.seq) == ([11, 12, 13, 14, 15], 30)
    await bob.say("30")
    await back.until(lambda: len(back.texts()) == 16)
    assert back.texts() == [str(number) for number in range(15, 31)]


@pytest.mark.parametrize("limit", [0, 1, 7, 100])
async def test_a_resume_at_the_head_has_missed_nothing(room: Room, limit: int) -> None:
    ann = room.client("ann")
    first = await ann.join()
    await ann.say("x")
    joined = await room.client().join(since=Position(first.epoch, 1), limit=limit)
    assert joined.recovered
    assert joined.events == []


async def test_a_resume_with_limit_0_gets_everything_as_events(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    first = await ann.join()
    await ann.say("x")
    await ann.say("y")
    joined = await bob.join(since=Position(first.epoch, 0), limit=0)
    assert (joined.recovered, joined.events) == (True, [])
    assert bob.texts() == ["x", "y"]


@pytest.mark.parametrize(
    "since", [("other", 1), ("", 3), ("same", 4), ("same", -1), ("same", 2**70)]
)
async def test_a_position_that_is_not_ours_gives_the_newest_and_says_so(
    room: Room, since: tuple[str, int]
) -> None:
    ann = room.client("ann")
    epoch = (await ann.join()).epoch
    for text in ("x", "y", "z"):
        await ann.say(text)
    position = Position(epoch if since[0] == "same" else since[0], since[1])
    joined = await room.client().join(since=position, limit=2)
    assert (joined.recovered, seqs(joined.events), joined.seq) == (False, [2, 3], 3)


async def test_what_retention_took_is_no_recovery(autojump_clock: MockClock) -> None:
    journal = MemoryJournal(now=Wall(), retention=Retention(keep_events=3))
    async with open_room(journal=journal) as room:
        ann = room.client("ann")
        epoch = (await ann.join()).epoch
        for number in range(10):
            await ann.say(str(number))
        await trio.sleep(600)  # the store was swept
        joined = await room.client("bob").join(since=Position(epoch, 2))
        assert (joined.recovered, seqs(joined.events)) == (False, [8, 9, 10])
        joined = await room.client("eve").join(since=Position(epoch, 7))
        assert (joined.recovered, seqs(joined.events)) == (True, [8, 9, 10])


@pytest.mark.parametrize(("limit", "count"), [(None, 100), (10**9, 500), (0, 0), (-5, 0)])
async def test_pages_are_clamped(room: Room, limit: int | None, count: int) -> None:
    room.chat.settings = replace(room.chat.settings, limits=UNLIMITED)
    ann = room.client("ann")
    await ann.join()
    for number in range(600):
        await perform(ann.connection, commands.Say(room="lobby", text=str(number)), lambda _: None)
    await ann.until(lambda: len(ann.texts()) == 600)
    assert len((await room.client().join(limit=limit)).events) == count
    assert len((await ann.do(commands.History(room="lobby", limit=limit))).events) == count


async def test_a_page_fits_the_send_queue(room: Room) -> None:
    room.chat.settings = replace(room.chat.settings, limits=UNLIMITED)
    ann = room.client("ann")
    epoch = (await ann.join()).epoch
    size = room.chat.settings.limits.message_bytes
    for _ in range(40):
        await ann.say("x" * size)
    room_for = room.chat.settings.limits.send_queue_bytes // pages.QUEUE_SHARE // size
    newest = await room.client().join()
    assert seqs(newest.events) == list(range(41 - room_for, 41))
    bob = room.client("bob")
    resumed = await bob.join(since=Position(epoch, 0))
    assert seqs(resumed.events) == list(range(1, room_for + 1))
    await bob.until(lambda: len(bob.texts()) == 40 - room_for)
    page = await ann.do(commands.History(room="lobby", after=0))
    assert (len(page.events), page.more) == (room_for, True)


async def test_joining_again_resumes_without_leaving(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    epoch = (await ann.join()).epoch
    await bob.join()
    await ann.say("x")
    again = await bob.join(since=Position(epoch, 0))
    await ann.say("y")
    await bob.until(lambda: "y" in bob.texts())
    assert ([m.text for m in again.events], bob.texts()) == (["x"], ["x", "y"])
    user = bob.connection.user.id
    assert ann.told(events.Joined) == [events.Joined("lobby", "bob", user, op=False)]


async def test_who_catches_up_is_told_what_no_page_brings(room: Room) -> None:
    """A list of members that misses one who came stays wrong for as long as somebody looks."""
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await ann.say("before")
    answers: list[Any] = []

    def answered(answer: Any) -> None:
        answers.append(answer)
        bob.stall()  # the answer is on its way

    await perform(bob.connection, commands.Join(room="lobby", limit=0), answered)
    assert [member.nick for member in answers[0].members] == ["ann", "bob"]
    cleo = room.client("cleo")
    await cleo.join()
    await cleo.say("while bob catches up")
    assert [event.nick for event in bob.told(events.Joined)] == ["cleo"]
    assert bob.texts() == []
    bob.read_on()
    await bob.until(lambda: bob.texts() == ["while bob catches up"])
    # Joined again, it is the same: nothing is missed meanwhile, and nothing told twice.
    since = Position(answers[0].epoch, 2)
    await perform(bob.connection, commands.Join(room="lobby", since=since), answered)
    await cleo.do(commands.Leave(room="lobby"))
    assert [event.nick for event in bob.told(events.Left)] == ["cleo"]
    bob.read_on()
    await ann.say("after")
    await bob.until(lambda: bob.texts() == ["while bob catches up", "after"])


async def test_joined_again_amid_a_fan_out_doubles_nothing(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatd.bus.fanout.SLICE_SECONDS", -1.0)
    monkeypatch.setattr("chatd.bus.fanout.SLICE_RECEIVERS", 1)
    ann, bob, cleo = room.client("ann"), room.client("bob"), room.client("cleo")
    offer = ann.offer

    def amid(block: Any, messages: int = 1, /) -> None:
        offer(block, messages)
        if isinstance(block[0], events.Message):
            membership = bob.connection.membership("lobby")
            assert membership is not None
            membership.pause()
            membership.start(0)

    monkeypatch.setattr(ann, "offer", amid)
    for one in (ann, bob, cleo):
        await one.join()
    await ann.say("once")
    await cleo.until(lambda: cleo.texts() == ["once"])
    assert bob.texts() == ["once"]


class SlowJournal(MemoryJournal):
    """Reads that take a while, as a thread's do: the room goes on meanwhile."""

    def __init__(self) -> None:
        super().__init__(now=Wall())
        self.random = random.Random(7)

    async def read(self, room: str, after: int, upto: int, limit: int) -> list[Event]:
        found = await super().read(room, after, upto, limit)
        await self._linger()
        return found

    async def read_back(self, room: str, before: int, limit: int) -> list[Event]:
        found = await super().read_back(room, before, limit)
        await self._linger()
        return found

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        outcomes = await super().commit(batch)
        await self._linger()
        return outcomes

    async def _linger(self) -> None:
        for _ in range(self.random.randrange(12)):
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("tail", [0, 3, 512])
async def test_two_heads_no_join_doubles_or_loses(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, tail: int
) -> None:
    """Joins and resumes at every moment of commits and fan-outs: each sees each number once."""
    monkeypatch.setattr("chatd.bus.feed.TAIL_EVENTS", tail)
    monkeypatch.setattr("chatd.bus.fanout.SLICE_SECONDS", -1.0)
    monkeypatch.setattr("chatd.bus.fanout.SLICE_RECEIVERS", 3)
    settings = replace(
        Settings(), limits=UNLIMITED, chat=replace(Settings().chat, presence_grace_seconds=0)
    )
    async with open_room(settings, SlowJournal()) as room:
        speaker = room.client("speaker")
        await speaker.join()
        speaking = True
        epoch = room.chat.journal.epoch
        choose = random.Random(11)

        async def speak() -> None:
            for number in range(400):
                await perform(
                    speaker.connection, commands.Say(room="lobby", text=str(number)), lambda _: None
                )
                for _ in range(choose.randrange(6)):
                    await trio.lowlevel.checkpoint()
            await speaker.until(lambda: len(speaker.texts()) == 400)

        async def come_and_go(number: int) -> None:
            """Comes, sees some, goes, and comes again from there."""
            position: int | None = None
            while speaking:
                client = room.client()
                since = None if position is None else Position(epoch, position)
                joined = await client.join(since=since, limit=choose.randrange(0, 9))
                assert joined.recovered is (since is not None)
                for _ in range(choose.randrange(60)):
                    await trio.lowlevel.checkpoint()
                client.close()
                seen = [*seqs(joined.events), *seqs(client.told(events.Message))]
                start = joined.seq - len(joined.events) if position is None else position
                assert seen == list(range(start + 1, start + 1 + len(seen)))
                position = start + len(seen)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(come_and_go, number)
            await speak()
            speaking = False


async def test_while_the_store_cannot_be_read_a_join_is_refused_and_leaves_nothing(
    autojump_clock: MockClock,
) -> None:
    class Unreadable(MemoryJournal):
        faulty = True

        async def head(self, room: str) -> None:
            if self.faulty:
                raise Unavailable("locked")

    journal = Unreadable(now=Wall())
    async with open_room(journal=journal) as room:
        ann = room.client("ann")
        assert refused(await ann.join()) == "unavailable"
        assert len(room.chat.rooms) == 0
        journal.faulty = False
        assert (await ann.join()).member_count == 1


# ---- leave


async def test_nothing_of_a_room_follows_the_answer_to_leave(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await bob.join()
    assert (await bob.do(commands.Leave(room="Lobby"))).room == "lobby"
    bob.got.clear()
    await ann.say("x")
    assert bob.got == []
    assert ann.told(events.Left)[0].reason == "leave"
    assert refused(await bob.do(commands.Leave(room="lobby"))) == "not_joined"


async def test_an_empty_room_is_forgotten_and_its_log_is_not(room: Room) -> None:
    ann = room.client("ann")
    await ann.join("Quiet")
    await ann.do(commands.Leave(room="quiet"))
    assert len(room.chat.rooms) == 0
    await ann.join("Loud")
    await ann.say("x", room="loud")
    await ann.do(commands.Leave(room="loud"))
    listed = (await ann.do(commands.Rooms())).rooms
    assert [(entry.room, entry.members, entry.seq) for entry in listed] == [("Loud", 0, 1)]
    assert (await ann.join("LOUD")).room == "Loud"


async def test_limits_on_rooms(room: Room) -> None:
    limits = replace(room.chat.settings.limits, rooms_per_client=2, rooms=3)
    room.chat.settings = replace(room.chat.settings, limits=limits)
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join("a")
    await ann.join("b")
    assert refused(await ann.join("c")) == "forbidden"
    assert refused(await ann.join("a")) is None
    await bob.join("c")
    assert refused(await bob.join("d")) == "forbidden"
    assert refused(await bob.join("a")) is None


async def test_rooms_are_made_only_where_that_is_allowed(room: Room) -> None:
    chat = replace(room.chat.settings.chat, create_rooms=False)
    room.chat.settings = replace(room.chat.settings, chat=chat)
    ann = room.client("ann")
    assert refused(await ann.join("new")) == "not_found"
    assert refused(await ann.join("lobby")) is None


# ---- history, who, rooms


async def test_history_pages_both_ways(room: Room) -> None:
    ann = room.client("ann")
    await ann.join()
    for number in range(1, 8):
        await ann.say(str(number))

    async def page(**fields: Any) -> tuple[list[int], bool]:
        answer = await ann.do(commands.History(room="lobby", **fields))
        return seqs(answer.events), answer.more

    assert await page(limit=3) == ([5, 6, 7], True)
    assert await page(before=5, limit=3) == ([2, 3, 4], True)
    assert await page(before=2, limit=3) == ([1], False)
    assert await page(before=10**20, limit=7) == (list(range(1, 8)), False)
    assert await page(before=-3) == ([], False)
    assert await page(after=0, limit=3) == ([1, 2, 3], True)
    assert await page(after=4, limit=3) == ([5, 6, 7], False)
    assert await page(after=10**20) == ([], False)
    assert await page(after=0, limit=0) == ([], True)
    assert await page(after=7, limit=0) == ([], False)
    assert await page(after=-(10**20), limit=2) == ([1, 2], True)


async def test_what_is_asked_of_a_room_that_is_not(room: Room) -> None:
    ann = room.client("ann")
    assert refused(await ann.do(commands.History(room="none"))) == "not_found"
    assert refused(await ann.do(commands.Who(room="none"))) == "not_found"
    assert refused(await ann.do(commands.Who(room="a b"))) == "bad_request"
    assert refused(await ann.do(commands.History(room="#"))) == "bad_request"
    assert refused(await ann.join("*")) == "bad_request"


async def test_who_pages_by_nick(room: Room) -> None:
    clients = [room.client(f"user{number:03}") for number in range(130)]
    for client in clients:
        await client.join()
    ann = clients[0]
    first = await ann.do(commands.Who(room="lobby"))
    assert (len(first.members), first.member_count) == (100, 130)
    rest = await ann.do(commands.Who(room="lobby", after=first.members[-1].nick))
    assert [member.nick for member in rest.members] == [f"user{n:03}" for n in range(100, 130)]
    assert len((await ann.do(commands.Who(room="lobby", after="user003", limit=2))).members) == 2


# ---- the connection itself


async def test_what_a_client_has_unanswered_is_bounded(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNANSWERED", 3)
    ann = room.client("ann")
    await ann.join()
    answers: list[object] = []
    with trio.move_on_after(0) as scope:
        for number in range(4):
            await perform(
                ann.connection, commands.Say(room="lobby", text=str(number)), answers.append
            )
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    assert len(answers) == 3


async def test_the_log_has_what_is_done_to_messages_where_it_has_not_them() -> None:
    async with open_room(Settings(log=LogSettings(messages=False))) as room:
        ann = room.client("ann")
        await ann.join()
        for number in (1, 2):
            await ann.say(str(number))
        await ann.do(commands.Edit(room="lobby", seq=1, text="new"))
        await ann.do(commands.Delete(room="lobby", seq=2))
        await ann.until(lambda: ann.told(events.Delete))
        names = [name for name, _ in room.log.records]
        assert [name for name in names if name in ("message", "edit", "delete")] == [
            "edit",
            "delete",
        ]


async def test_the_log_has_connect_message_and_disconnect(room: Room) -> None:
    ann, bob = room.client("ann"), room.client("bob")
    await ann.join()
    await bob.join()
    await ann.say("secret words")
    await bob.until(bob.texts)
    ann.close()
    lines = {name: fields for name, fields in room.log.records if fields.get("nick") == "ann"}
    who = {"connection": "c1", "nick": "ann", "address": "192.0.2.1", "transport": "memory"}
    for name in ("connect", "join", "message", "disconnect"):
        assert who.items() <= lines[name].items(), name
    assert {"room": "lobby", "seq": 1, "bytes": 12, "receivers": 2}.items() <= lines[
        "message"
    ].items()
    assert {"code": 1006, "reason": "the connection was lost"}.items() <= lines[
        "disconnect"
    ].items()
    assert not any("secret words" in str(fields) for _, fields in room.log.records)


async def test_a_fault_of_the_store_is_answered_and_the_room_goes_on(
    autojump_clock: MockClock,
) -> None:
    class Full(MemoryJournal):
        full = False

        async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
            if self.full:
                raise Unavailable("the disk is full", divisible=True)
            return await super().commit(batch)

    journal = Full(now=Wall())
    async with open_room(journal=journal) as room:
        ann = room.client("ann")
        await ann.join()
        journal.full = True
        assert refused(await ann.say("x", key="k")) == "unavailable"
        assert refused(await ann.do(commands.Nick(nick="anna"))) == "unavailable"
        assert refused(await ann.do(commands.Who(room="lobby"))) is None
        journal.full = False
        assert (await ann.say("x", key="k")).seq == 1
        await ann.until(ann.texts)
        assert ann.texts() == ["x"]
        assert (await ann.do(commands.Nick(nick="anna"))).nick == "anna"
