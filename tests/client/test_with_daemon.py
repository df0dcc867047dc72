"""The client against the daemon itself, over cables that are cut and inboxes that are small."""

from __future__ import annotations

from typing import TypeVar

import pytest
import trio
from msgspec import structs
from trio.testing import MockClock

from chatd import client
from chatd.settings import Auth, Chat, Limits, Settings
from chatd.testing import open_chat
from chatd.testing.cable import Cable

_T = TypeVar("_T")

FAST = Settings(
    limits=Limits(messages_per_second="off", messages_burst="off", bytes_per_second="off")
)


async def test_a_slow_reader_misses_nothing(autojump_clock: MockClock) -> None:
    async with open_chat(FAST) as harness:
        ann = await harness.client("ann")
        async with client.connect(harness.dial, nick="bob", events=16) as bob:
            await bob.join("lobby")
            for number in range(300):
                await ann.say(str(number))
            await harness.wait_idle()
            assert bob.statistics().late > 0
            assert await _texts(bob, 300) == [str(number) for number in range(300)]
            await ann.say("the last")
            assert await _texts(bob, 1) == ["the last"]


async def test_more_was_missed_than_a_page_holds(autojump_clock: MockClock) -> None:
    async with open_chat(FAST) as harness:
        ann = await harness.client("ann")
        bob = await harness.client("bob")
        await ann.say("before")
        assert await bob.texts(1) == ["before"]
        await harness.cut(bob)
        for number in range(700):
            await ann.say(str(number))
        await bob.reconnect()
        assert await bob.texts(700) == [str(number) for number in range(700)]
        assert bob.chat.statistics().duplicates == 0


async def test_a_later_run_continues_where_the_first_ended(autojump_clock: MockClock) -> None:
    async with open_chat(FAST) as harness:
        ann = await harness.client("ann")
        async with client.connect(harness.dial, nick="bob") as bob:
            await bob.join("lobby")
            await bob.say("I am here", key="k1")
            assert await _texts(bob, 1) == ["I am here"]
            session, since = bob.identity.session, bob.position("lobby")
        await ann.say("are you there?")
        async with client.connect(harness.dial, session=session) as bob:
            assert bob.identity.nick == "bob"
            entered = await bob.join("lobby", since=since)
            assert entered.recovered
            assert [one.text for one in entered.events if isinstance(one, client.Message)] == [
                "are you there?"
            ]
            answered = await bob.say("yes", reply_to=2)
            page = await bob.history("lobby", after=2)
            assert [
                (one.seq, one.reply_to) for one in page.events if isinstance(one, client.Message)
            ] == [(answered.seq, 2)]
            again = await bob.say("I am here", key="k1")
            assert (again.seq, again.duplicate) == (1, True)


async def test_it_comes_back_by_itself(autojump_clock: MockClock) -> None:
    cables: list[Cable] = []

    async with open_chat(FAST) as harness:

        async def dial() -> Cable:
            cables.append(await harness.dial())
            return cables[-1]

        ann = await harness.client("ann")
        async with client.connect(dial, nick="bob") as bob:
            await bob.join("lobby")
            for number in range(5):
                cables[-1].cut()
                await ann.say(str(number))
                assert await _texts(bob, 1) == [str(number)]
                # The missed message comes with the join; later steps must be done too.
                await harness.wait_idle()
            assert (bob.identity.nick, bob.statistics().connections) == ("bob", 6)


async def _texts(chat: client.Chat, count: int) -> list[str | None]:
    texts: list[str | None] = []
    while len(texts) < count:
        event = await chat.next_event()
        if isinstance(event, client.Message):
            texts.append(event.text)
    return texts


BY_TOKEN = Settings(auth=Auth(mode="token"), limits=FAST.limits)


async def test_a_token_identifies_the_user_across_lost_connections(
    autojump_clock: MockClock,
) -> None:
    async with open_chat(BY_TOKEN) as harness:
        cables: list[Cable] = []

        async def dial() -> Cable:
            cables.append(await harness.dial())
            return cables[-1]

        async with client.connect(dial, nick="annie", token=harness.token("ann")) as ann:
            assert ann.identity == client.Identity("ann", "annie")
            await ann.join("lobby")
            await ann.nick("Anna")
            cables[-1].cut()
            await ann.say("back")
            assert await _texts(ann, 1) == ["back"]
            assert ann.identity == client.Identity("ann", "Anna")


async def test_a_function_gives_a_fresh_token_before_the_last_one_ends(
    autojump_clock: MockClock,
) -> None:
    async with open_chat(BY_TOKEN) as harness:
        given: list[str] = []

        async def fresh() -> str:
            await trio.sleep(1)
            given.append(harness.token("ann", seconds=600))
            return given[-1]

        async with client.connect(harness.dial, token=fresh) as ann:
            await ann.join("lobby")
            await trio.sleep(3600)
            assert ann.connected
            # Each is renewed a minute before its end.
            assert len(given) == 7
            await ann.say("still here")
            assert await _texts(ann, 1) == ["still here"]
        await harness.wait_idle()
        assert [line["code"] for line in harness.logged("disconnect")] == [1000]


async def test_a_token_that_is_refused_ends_it_for_good_without_a_word_of_it(
    autojump_clock: MockClock,
) -> None:
    async with open_chat(BY_TOKEN) as harness:
        token = harness.token("ann", seconds=1)
        await trio.sleep(62)
        with pytest.raises(client.Closed) as caught:
            async with client.connect(harness.dial, token=token):
                raise AssertionError("it was let in")
        assert caught.value.ending == client.Ending(
            4502, "This token is not valid: it has expired.", reconnect=False
        )


async def test_a_token_that_ends_unrenewed_ends_the_chat(autojump_clock: MockClock) -> None:
    async with (
        open_chat(BY_TOKEN) as harness,
        client.connect(harness.dial, token=lambda: harness.token("ann", seconds=100)) as renewing,
    ):
        async with client.connect(harness.dial, token=harness.token("ann", seconds=100)) as ann:
            await trio.sleep(99)
            assert [(await ann.next_event()).on for _ in range(3)] == ["notice", "bye", "lost"]
            with pytest.raises(client.Closed, match="4502"):
                await ann.next_event()
        assert renewing.connected


RULED = Settings(
    auth=Auth(mode="token", guests=True), chat=Chat(operators=("root",)), limits=FAST.limits
)


async def _next(chat: client.Chat, kind: type[_T]) -> _T:
    while not isinstance(event := await chat.next_event(), kind):
        pass
    return event


async def test_what_was_said_is_changed_found_and_marked(autojump_clock: MockClock) -> None:
    async with (
        open_chat(RULED) as harness,
        client.connect(harness.dial, token=harness.token("ann")) as ann,
        client.connect(harness.dial, nick="bob") as bob,
    ):
        await ann.join("lobby")
        await bob.join("lobby")
        said = await ann.say("good mornign")
        assert said.seq is not None
        changed = await ann.edit("lobby", said.seq, "good morning")
        edit = await _next(bob, client.Edit)
        assert (edit.of, edit.text, edit.seq) == (said.seq, "good morning", changed.seq)
        (found,) = (await bob.search("lobby", "morning")).events
        assert isinstance(found, client.Message)
        assert found.text == "good morning"
        ann.typing("lobby")
        assert (await _next(bob, client.Typing)).active
        assert await bob.read("lobby", said.seq) == said.seq
        entered = await bob.join("lobby", limit=1, messages=True)
        assert (entered.read, entered.unread) == (said.seq, 0)
        assert [one.on for one in entered.events] == ["message", "edit"]
        await ann.delete("lobby", said.seq)
        assert (await _next(bob, client.Delete)).of == said.seq
        page = await bob.history("lobby", limit=1, messages=True)
        assert [one.deleted for one in page.events if isinstance(one, client.Message)] == [True]


async def test_an_operator_keeps_order(autojump_clock: MockClock) -> None:
    async with (
        open_chat(RULED) as harness,
        client.connect(harness.dial, token=harness.token("root")) as root,
        client.connect(harness.dial, nick="bob") as bob,
    ):
        await root.join("lobby")
        await bob.join("lobby")
        await root.topic("lobby", "tea")
        assert (await _next(bob, client.Topic)).text == "tea"
        muted = await root.mute(nick="bob", seconds=60, reason="calm down")
        assert muted.user == bob.identity.user
        assert muted.until is not None
        with pytest.raises(client.Refused, match="muted"):
            await bob.say("but")
        await root.unmute(nick="bob")
        await root.slow("lobby", 30)
        await bob.say("one")
        with pytest.raises(client.Refused, match="rate_limited"):
            await bob.say("two")
        await root.slow("lobby", 0)
        await root.ban(room="lobby", nick="bob")
        assert (await _next(bob, client.Left)).reason == "banned"
        with pytest.raises(client.Refused, match="banned"):
            await bob.join("lobby")
        await root.unban(room="lobby", nick="bob")
        await root.close_room("lobby", seconds=10)
        with pytest.raises(client.Refused, match="closed"):
            await bob.join("lobby")
        await root.kick(nick="bob")
        with pytest.raises(client.Closed, match="4500"):
            await _next(bob, client.Joined)


async def test_more_rooms_than_a_page_has(autojump_clock: MockClock) -> None:
    limits = structs.replace(
        FAST.limits,
        rooms_per_client=2000,
        new_rooms_per_minute="off",
        requests_burst="off",
        requests_per_second="off",
    )
    async with (
        open_chat(Settings(limits=limits)) as harness,
        client.connect(harness.dial) as ann,
    ):
        for number in range(1001):
            await ann.join(f"room{number:04}", limit=0)
        assert [one.room for one in await ann.rooms()] == [f"room{n:04}" for n in range(1001)]


async def test_direct_messages_are_resumed_without_a_join(
    autojump_clock: MockClock,
) -> None:
    cables: list[Cable] = []
    async with open_chat(RULED) as harness:

        async def dial() -> Cable:
            cables.append(await harness.dial())
            return cables[-1]

        async with (
            client.connect(harness.dial, token=harness.token("ann")) as ann,
            client.connect(dial, nick="bob", reconnect=False) as bob,
        ):
            await bob.join("lobby")
            for text in ("one", "two"):
                await ann.say(text, room="@bob")
                assert await _texts(bob, 1) == [text]
            cables[-1].cut()
            await bob.lost()
            for number in range(300):
                await ann.say(str(number), room="@bob")
            await bob.reconnect()
            assert await _texts(bob, 300) == [str(number) for number in range(300)]
            await ann.say("live", room="@bob")
            assert await _texts(bob, 1) == ["live"]
            assert bob.joined == ("lobby",)
            await bob.say("in the only room that is joined")
