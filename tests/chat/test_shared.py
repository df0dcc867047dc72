"""Daemons that share a store are one chat: nicks, members, direct messages, operators."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.chat.acts import Dismiss, Tell
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.journal import Unavailable
from chatd.journal.shared import SharedJournal
from chatd.model import BANNED, GOING_AWAY, KICKED, Entered, Put, Record, Refused, Relay
from chatd.protocol import commands, events
from chatd.settings import Auth, Settings
from chatd.settings import Chat as ChatSettings
from tests.chat.nodes import open_node, open_nodes
from tests.chat.room import Client, perform, promote, refused

TOKENS = Settings(auth=Auth(mode="token", guests=True))


def keys() -> Keys:
    return Keys(read_keys(new_key(symmetric=True).encode()))


def left(client: Client) -> list[tuple[str, str]]:
    return [(event.nick, event.reason) for event in client.told(events.Left)]


async def test_messages_reach_members_at_every_node_in_one_order(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join()
        await bob.join()
        for number in range(10):
            await ann.say(f"a{number}")
            await bob.say(f"b{number}")
        await wait_all_tasks_blocked()
        assert len(ann.texts()) == 20
        assert ann.texts() == bob.texts()


async def test_a_nick_belongs_to_one_user_of_all_nodes(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann = await one.guest("ann")
        second = await two.guest("ANN")
        assert second.nick_notice == "The nick ANN is taken. You are ANN-2."
        assert refused(await second.do(commands.Nick(nick="ann"))) == "nick_taken"
        assert (await ann.do(commands.Nick(nick="Zoe"))).nick == "Zoe"
        assert (await second.do(commands.Nick(nick="ann"))).nick == "ann"


async def test_a_new_nick_is_told_at_every_node(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join()
        await bob.join()
        await ann.do(commands.Nick(nick="Zoe"))
        await ann.say("x")
        await wait_all_tasks_blocked()
        for client in (ann, bob):
            told = [(event.before, event.nick) for event in client.told(events.NickChange)]
            assert told == [("ann", "Zoe")]
            assert [item.nick for item in client.told(events.Message)] == ["Zoe"]
            members = (await client.do(commands.Who(room="lobby"))).members
            assert [member.nick for member in members] == ["bob", "Zoe"]


async def test_a_held_nick_is_held_at_every_node(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann = await one.guest("ann")
        session = one.chat.users.session(ann.connection.user)
        ann.close()
        await trio.sleep(300)
        assert (await two.guest("ann")).nick_notice is not None
        back = await two.guest()
        answer = await back.do(commands.Auth(session=session))
        assert (answer.nick, answer.user) == ("ann", ann.connection.user.id)
        back.close()
        await trio.sleep(602)
        assert (await one.guest("ann")).nick_notice is None


async def test_members_of_all_nodes_are_listed(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join()
        await wait_all_tasks_blocked()
        answer = await bob.join()
        assert [member.nick for member in answer.members] == ["ann", "bob"]
        await wait_all_tasks_blocked()
        assert [event.nick for event in ann.told(events.Joined)] == ["bob"]
        assert bob.told(events.Joined) == []
        eve = await one.guest("eve")
        assert (await eve.do(commands.Who(room="lobby"))).member_count == 2
        await bob.do(commands.Leave(room="lobby"))
        await wait_all_tasks_blocked()
        assert left(ann) == [("bob", "leave")]
        assert (await ann.do(commands.Who(room="lobby"))).member_count == 1


async def test_the_list_of_rooms_counts_the_members_at_all_nodes(
    autojump_clock: MockClock,
) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join("Den")
        await ann.join("lobby")
        await ann.say("x")
        await wait_all_tasks_blocked()
        listed = (await bob.do(commands.Rooms())).rooms
        assert [(each.room, each.members, each.seq) for each in listed] == [
            ("Den", 1, 0),
            ("lobby", 1, 1),
        ]
        members = (await bob.do(commands.Who(room="den"))).members
        assert [member.nick for member in members] == ["ann"]
        # It is the same room, however its name is written.
        answer = await bob.join("DEN")
        assert (answer.room, answer.member_count) == ("Den", 2)


async def test_who_comes_back_at_another_node_has_not_left(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join()
        await bob.join()
        session = two.chat.users.session(bob.connection.user)
        bob.close()
        await trio.sleep(5)
        back = await one.guest()
        await back.do(commands.Auth(session=session))
        await back.join()
        await trio.sleep(60)
        assert len(ann.told(events.Joined)) == 1
        assert left(ann) == []
        back.close()
        await trio.sleep(11)
        assert left(ann) == [("bob", "lost")]


async def test_users_of_a_dead_node_leave(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, store):
        ann = await one.guest("ann")
        await ann.join()
        async with open_node(store) as three:
            for nick in ("bob", "eve"):
                client = await three.guest(nick)
                await client.join()
            session = three.chat.users.session(client.connection.user)
            await wait_all_tasks_blocked()
            three.engine.cut_off()
            three.running.cancel()
        back = await two.guest()
        await back.do(commands.Auth(session=session))
        await back.join()
        await trio.sleep(20)
        assert left(ann) == [("bob", "lost")]
        assert (await back.do(commands.Who(room="lobby"))).member_count == 2


async def test_a_direct_message_finds_its_user_at_any_node(autojump_clock: MockClock) -> None:
    journal_keys = keys()
    async with open_nodes(TOKENS, journal_keys) as (one, two, _):
        ann, bob = await one.subject("ann"), await two.guest("bob")
        said = await ann.say("hi", "@bob")
        await wait_all_tasks_blocked()
        assert bob.texts() == ["hi"]
        await bob.say("hello", "@ann")
        await wait_all_tasks_blocked()
        assert ann.texts() == bob.texts() == ["hi", "hello"]
        assert said.seq == 1
        assert refused(await ann.say("hi", "@nobody")) == "not_found"


async def test_a_conversation_that_a_message_opens_has_its_topic(
    autojump_clock: MockClock,
) -> None:
    journal_keys = keys()
    async with open_nodes(TOKENS, journal_keys) as (one, two, _):
        ann, bob = await one.subject("ann"), await two.subject("bob")
        said = await ann.say("hi", "@bob")
        await ann.do(commands.Topic(room=said.room, text="plans"))
        bob.close()
        await wait_all_tasks_blocked()
        assert two.chat.rooms.get(said.room) is None
        await two.subject("bob")
        await ann.say("are you back?", said.room)
        await wait_all_tasks_blocked()
        room = two.chat.rooms.get(said.room)
        assert room is not None
        assert (room.topic, room.feed.visible) == ("plans", 3)


async def test_what_guests_say_to_each_other_is_not_kept(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        said = await ann.say("psst", "@bob")
        assert said.kept is False
        await wait_all_tasks_blocked()
        assert ann.texts() == bob.texts() == ["psst"]
        await bob.say("yes", said.room)
        await wait_all_tasks_blocked()
        assert ann.texts() == bob.texts() == ["psst", "yes"]


async def test_what_a_guest_says_while_the_other_opens_the_room_arrives(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        read = two.chat.journal.members  # type: ignore[attr-defined]  # both have a SharedJournal

        async def slowly(room: str) -> list[Entered]:
            await trio.sleep(1)
            found: list[Entered] = await read(room)
            return found

        monkeypatch.setattr(two.chat.journal, "members", slowly)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bob.do, commands.Join(room="@ann"))
            await wait_all_tasks_blocked()
            await ann.do(commands.Say(room="@bob", text="psst"))
        await wait_all_tasks_blocked()
        assert bob.texts() == ["psst"]


async def test_read_marks_reach_the_user_at_other_nodes(autojump_clock: MockClock) -> None:
    journal_keys = keys()
    async with open_nodes(TOKENS, journal_keys) as (one, two, _):
        here, there = await one.subject("ann"), await two.subject("ann")
        await here.join()
        await there.join()
        await here.say("x")
        await here.do(commands.Read(room="lobby", seq=1))
        await wait_all_tasks_blocked()
        assert [event.seq for event in there.told(events.Read)] == [1]
        assert here.told(events.Read) == []
        assert (await there.join()).read == 1


@pytest.mark.parametrize("kind", ["ban", "mark"])
async def test_a_record_that_cannot_be_read_is_left_out_at_every_node(
    kind: str, autojump_clock: MockClock
) -> None:
    async with open_nodes(TOKENS, keys()) as (one, two, _):
        ann = await one.subject("ann")
        await two.subject("ann")
        await two.chat.bus.submit_and_wait(Put(Record(kind, "ann\0ann", b"garbage")))
        await wait_all_tasks_blocked()
        for node in (one, two):
            states = [fields["state"] for event, fields in node.log.records if event == "store"]
            assert states == ["damaged"]
            assert not [event for event, _ in node.log.records if event == "fault"]
        assert ann.closed == []


async def test_a_ban_is_in_force_at_every_node(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        op, bob = await one.guest("root"), await two.guest("bob", "192.0.2.7")
        promote(op)
        await bob.join()
        await op.join()
        await op.do(commands.Ban(nick="bob", reason="spam"))
        await wait_all_tasks_blocked()
        assert [close for close, _ in bob.closed][:1] == [BANNED]
        assert left(op) == [("bob", "banned")]
        for node in (one, two):
            assert node.chat.sanctions.get("ban", "", bob.connection.user.id) is not None
            # Only the other node knew the address.
            assert node.chat.sanctions.get("ban", "", "192.0.2.7/32") is not None
        await op.do(commands.Unban(nick="bob"))
        await wait_all_tasks_blocked()
        assert not two.chat.sanctions.held


async def test_a_kick_reaches_its_user_at_another_node(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        op, bob = await one.guest("root"), await two.guest("bob")
        promote(op)
        await bob.join()
        await op.join()
        assert refused(await op.do(commands.Kick(nick="bob", room="den"))) == "not_found"
        await op.do(commands.Kick(nick="bob", room="lobby", reason="rude"))
        await wait_all_tasks_blocked()
        assert left(bob) == left(op) == [("bob", "kicked")]
        assert bob.told(events.Notice)[-1].text == "You were kicked from lobby by root: rude"
        await op.do(commands.Kick(nick="bob"))
        await wait_all_tasks_blocked()
        assert [close for close, _ in bob.closed] == [KICKED]


@pytest.mark.parametrize("lifted", [False, True])
async def test_a_mute_and_slow_mode_hold_at_every_node(
    autojump_clock: MockClock, lifted: bool
) -> None:
    async with open_nodes() as (one, two, _):
        op, bob = await one.guest("root"), await two.guest("bob")
        promote(op)
        await bob.join()
        await op.do(commands.Mute(nick="bob"))
        await op.do(commands.Slow(room="lobby", seconds=60))
        await wait_all_tasks_blocked()
        assert refused(await bob.say("x")) == "muted"
        if lifted:
            await op.do(commands.Unmute(nick="bob"))
            await op.do(commands.Slow(room="lobby", seconds=0))
            await wait_all_tasks_blocked()
            assert [refused(await bob.say("x")) for _ in range(2)] == [None, None]
        texts = [event.text for event in bob.told(events.Notice)]
        assert len(texts) == (4 if lifted else 2)


async def test_slow_mode_counts_what_a_user_said_elsewhere(autojump_clock: MockClock) -> None:
    journal_keys = keys()
    async with open_nodes(TOKENS, journal_keys) as (one, two, _):
        op, here, there = (
            await one.guest("root"),
            await one.subject("ann"),
            await two.subject("ann"),
        )
        promote(op)
        await op.join()
        await here.join()
        await op.do(commands.Slow(room="lobby", seconds=60))
        await here.say("x")
        await there.join()
        assert refused(await there.say("y")) == "rate_limited"
        await trio.sleep(60)
        assert refused(await there.say("y")) is None
        await wait_all_tasks_blocked()
        assert refused(await here.say("z")) == "rate_limited"


async def test_a_room_is_closed_and_removed_at_every_node(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        op, bob = await one.guest("root"), await two.guest("bob")
        promote(op)
        await bob.join("den")
        await bob.say("x", "den")
        await op.do(commands.Close(room="den", reason="late"))
        await wait_all_tasks_blocked()
        assert left(bob) == [("bob", "kicked")]
        assert bob.told(events.Notice)[-1].text == "You were kicked from den by root: late"
        assert refused(await bob.join("den")) == "forbidden"
        await op.do(commands.Close(room="den", seconds=0))
        await wait_all_tasks_blocked()
        assert len((await bob.join("den")).events) == 1
        await op.do(commands.Remove(room="den"))
        await wait_all_tasks_blocked()
        assert left(bob) == [("bob", "kicked")] * 2
        assert len((await bob.join("den")).events) == 0


async def test_a_notice_to_all_reaches_every_node(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await bob.join()
        await one.chat.roster.act(Tell("to all"))
        await one.chat.roster.act(Tell("to the lobby", room="lobby"))
        await wait_all_tasks_blocked()
        assert [event.text for event in ann.told(events.Notice)] == ["to all"]
        assert [event.text for event in bob.told(events.Notice)] == ["to all", "to the lobby"]


async def test_a_forgotten_user_is_gone_from_every_node(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join()
        await bob.join()
        await one.chat.roster.act(Dismiss(bob.connection.user.id))
        await wait_all_tasks_blocked()
        assert [close for close, _ in bob.closed] == [KICKED]
        assert left(ann) == [("bob", "kicked")]
        bob.close()
        await wait_all_tasks_blocked()
        assert two.chat.users.get(bob.connection.user.id) is None
        assert (await one.guest("bob")).nick_notice is None


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("act", b'{"type":"Promote","user":"u"}'),
        ("act", b"garbage"),
        ("act", b"[" * 100_000),
        ("typing", b'{"room":1}'),
    ],
)
async def test_what_only_a_newer_version_can_read_is_left_out_and_counted(
    kind: str, body: bytes, autojump_clock: MockClock
) -> None:
    async with open_nodes() as (one, two, _):
        ann = await one.guest("ann")
        await ann.join()
        await two.chat.bus.submit_and_wait(Relay(kind, body))
        await wait_all_tasks_blocked()
        assert isinstance(one.chat.journal, SharedJournal)
        assert one.chat.journal.unknown == 1
        await ann.say("still here")


async def test_typing_is_sent_to_other_nodes(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join()
        await bob.join()
        await perform(ann.connection, commands.Typing(room="lobby", on=True), print)
        await wait_all_tasks_blocked()
        assert [(event.nick, event.active) for event in bob.told(events.Typing)] == [("ann", True)]
        assert ann.told(events.Typing) == []


async def test_what_a_node_missed_is_read_again(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, store):
        ann, bob, eve = await one.guest("ann"), await two.guest("bob"), await two.guest("eve")
        for client in (ann, bob, eve):
            await client.join()
        await wait_all_tasks_blocked()
        one.engine.lose_answers()
        eve.close()
        await bob.say("x")
        promote(bob)
        await bob.do(commands.Slow(room="lobby", seconds=9))
        await trio.sleep(11)
        store.trim()
        one.engine.heal()
        await trio.sleep(5)
        assert ann.texts() == ["x"]
        assert left(ann) == [("eve", "lost")]
        members = (await ann.do(commands.Who(room="lobby"))).members
        assert [member.nick for member in members] == ["ann", "bob"]
        assert one.chat.sanctions.get("slow", "lobby", "") is not None


async def test_what_could_not_be_read_again_is_read_without_further_news(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_nodes() as (one, two, store):
        ann, bob, eve = await one.guest("ann"), await two.guest("bob"), await two.guest("eve")
        for client in (ann, bob, eve):
            await client.join()
        await wait_all_tasks_blocked()
        one.engine.lose_answers()
        bob.close()
        await trio.sleep(11)
        await eve.say("x")
        store.trim()
        members, failures = one.engine.members, iter((True, True))

        async def members_at_the_third_try(room: str) -> list[Entered]:
            if next(failures, False):
                raise Unavailable("the memory is full")
            return await members(room)

        monkeypatch.setattr(one.engine, "members", members_at_the_third_try)
        one.engine.heal()
        await trio.sleep(5)
        assert next(failures, None) is None
        assert left(ann) == [("bob", "lost")]


async def test_who_lost_the_nick_with_the_lease_gets_another(autojump_clock: MockClock) -> None:
    short = Settings(chat=ChatSettings(nick_hold_seconds=0))
    async with open_nodes(short) as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join()
        await bob.join()
        await wait_all_tasks_blocked()
        two.engine.cut_off()
        await trio.sleep(30)
        assert refused(await ann.do(commands.Nick(nick="bob"))) is None
        two.engine.heal()
        await trio.sleep(20)
        members = (await ann.do(commands.Who(room="lobby"))).members
        assert [member.nick for member in members] == ["bob", "bob-2"]
        assert bob.connection.user.nick.display == "bob-2"


async def test_a_guest_who_comes_while_the_store_is_away_is_refused_at_once(
    autojump_clock: MockClock,
) -> None:
    """Also while an earlier batch waits for the store to come back."""
    async with open_nodes() as (one, _, _):
        ann = await one.guest("ann")
        await ann.join()
        async with trio.open_nursery() as nursery:
            one.engine.cut_off()
            nursery.start_soon(ann.do, commands.Say(room="lobby", text="x"))
            await wait_all_tasks_blocked()
            one.engine.break_link()
            await wait_all_tasks_blocked()
            began = trio.current_time()
            with pytest.raises(Refused, match="cannot reach its store"):
                await one.guest("bob")
            assert trio.current_time() == began


async def test_a_subjects_nick_is_no_guests_at_any_node(autojump_clock: MockClock) -> None:
    journal_keys = keys()
    async with open_nodes(TOKENS, journal_keys) as (one, two, _):
        ann = await one.subject("ann", "Zoe")
        assert ann.connection.user.nick.display == "Zoe"
        for nick in ("ann", "zoe"):
            assert (await two.guest(nick)).nick_notice is not None
        ann.close()
        await trio.sleep(1000)
        for nick in ("ann", "zoe"):
            assert (await two.guest(nick)).nick_notice is not None


async def test_debt_follows_a_user_to_another_node(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann = await one.guest("ann")
        session = one.chat.users.session(ann.connection.user)
        await ann.join()
        while refused(await ann.say("x")) is None:
            pass
        ann.close()
        back = await two.guest()
        await back.do(commands.Auth(session=session))
        await back.join()
        assert refused(await back.say("x")) == "rate_limited"


async def test_a_user_at_two_nodes_has_one_rate(autojump_clock: MockClock) -> None:
    journal_keys = keys()
    async with open_nodes(TOKENS, journal_keys) as (one, two, _):
        here, there = await one.subject("ann"), await two.subject("ann")
        await here.join()
        await there.join()
        said = 0
        while refused(await here.say("x")) is None:
            said += 1
        await wait_all_tasks_blocked()
        assert said == one.chat.settings.limits.messages_burst
        assert refused(await there.say("x")) == "rate_limited"


async def test_a_new_lease_brings_everybody_back(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, _):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join()
        await bob.join()
        await wait_all_tasks_blocked()
        two.engine.cut_off()
        await trio.sleep(30)
        assert left(ann) == [("bob", "lost")]
        two.engine.heal()
        await trio.sleep(20)
        members = (await ann.do(commands.Who(room="lobby"))).members
        assert [member.nick for member in members] == ["ann", "bob"]
        assert (await one.guest("bob")).nick_notice is not None
        await ann.say("x")
        await trio.sleep(1)
        assert bob.texts() == ["x"]


async def test_a_position_that_this_node_has_not_reached_is_waited_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_nodes() as (one, two, _):
        gate, feed = trio.Event(), two.engine.feed

        async def late(*args: Any) -> Any:
            fed = await feed(*args)
            await gate.wait()
            return fed

        ann, bob = await one.guest("ann"), await two.guest("bob")
        await bob.join()
        await ann.join()
        await wait_all_tasks_blocked()
        monkeypatch.setattr(two.engine, "feed", late)
        epoch = (await ann.say("x")).epoch
        await ann.say("y")
        since = commands.Position(epoch, 2)
        assert refused(await bob.join(since=since)) == "unavailable"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_open_in, 0.5, gate)
            answer = await bob.join(since=since)
        assert (answer.recovered, answer.events) == (True, [])
        assert not (await bob.join(since=commands.Position(epoch, 3))).recovered


async def _open_in(seconds: float, gate: trio.Event) -> None:
    await trio.sleep(seconds)
    gate.set()


@pytest.mark.parametrize("lose", [0, 1])
async def test_a_position_of_a_former_epoch_is_good_for_what_was_not_lost(
    autojump_clock: MockClock, lose: int
) -> None:
    async with open_nodes() as (one, two, store):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join()
        await wait_all_tasks_blocked()
        said = [await ann.say(text) for text in ("x", "y", "z")]
        store.restart(lose)
        await trio.sleep(5)
        eve = await one.guest("eve")
        await eve.join()
        await eve.say("w")
        answers = []
        for each in said:
            since = commands.Position(each.epoch, each.seq)
            answers.append((await bob.join(since=since)).recovered)
        assert answers == [True, True, not lose]
        assert not (await bob.join(since=commands.Position("other", 1))).recovered
        assert [close for close, _ in ann.closed] == [GOING_AWAY] * lose
        assert len(ann.told(events.Epoch)) == 1 - lose


async def test_a_new_epoch_is_told(autojump_clock: MockClock) -> None:
    async with open_nodes() as (one, two, store):
        ann, bob = await one.guest("ann"), await two.guest("bob")
        await ann.join()
        await bob.join()
        await ann.say("x")
        store.restart()
        await trio.sleep(5)
        told = [event.epoch for event in ann.told(events.Epoch)]
        assert told == [event.epoch for event in bob.told(events.Epoch)]
        assert told == [one.chat.journal.epoch]
        assert refused(await bob.say("y")) is None
        await trio.sleep(1)
        assert ann.texts() == ["x", "y"]
