"""Commands, events and the end of a chat, against a scripted daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd import client

Script: TypeAlias = Any
"""The fixture of conftest.py, which no test module can import from."""

Said: TypeAlias = Callable[..., dict[str, Any]]


async def test_hello_names_the_guest(script: Script, autojump_clock: MockClock) -> None:
    script.run(script.greet)
    async with client.connect(script.dial, nick="ann") as chat:
        assert chat.identity == client.Identity("g1", "ann", op=False, session="secret-1")
        assert chat.hello is not None
        assert chat.hello.limits.message_bytes == 16384
        assert chat.connected


async def test_the_nick_that_is_wished_for_is_in_the_target(
    script: Script, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    paths = []

    async def daemon() -> None:
        connection = await script.greet()
        paths.append(connection.path)

    script.run(daemon)
    async with client.connect(client.Address(script.dial, target="/?room=x"), nick="a&b ü"):
        assert paths == ["/?room=x&nick=a%26b%20%C3%BC"]


async def test_commands_and_answers(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.greet()
        command = await to.asked("rooms")
        await to.answer(command, rooms=[{"room": "lobby", "members": 2, "seq": 7, "topic": ""}])
        command = await to.asked("who")
        assert command["room"] == "lobby"
        assert "after" not in command
        await to.answer(
            command, members=[{"nick": "bob", "user": "g2", "op": False}], member_count=1
        )
        await to.answer(await to.asked("nick"), nick="anna")
        await to.answer(await to.asked("leave"), room="lobby")
        await to.know("another", user="g9", nick="zoe")

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        assert await chat.rooms() == [client.RoomInfo("lobby", 2, 7)]
        assert await chat.who("lobby") == client.Members([client.Member("bob", "g2")], 1)
        assert await chat.nick("Anna") == "anna"
        assert chat.identity.nick == "anna"
        await chat.leave("lobby")
        assert (await chat.auth("another")).user == "g9"
        assert chat.identity == client.Identity("g9", "zoe", op=False, session="another")


async def test_a_page_with_events_of_a_newer_daemon(
    script: Script, message: Said, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        command = await to.asked("history")
        assert (command["before"], command["limit"]) == (9, 2)
        events = [{"on": "sung", "seq": 7}, message(8, "hi")]
        await to.answer(command, epoch="e1", events=events, more=True)

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        page = await chat.history("lobby", before=9, limit=2)
    assert page.more
    first, second = page.events
    assert first == client.Unknown(name="sung", fields={"on": "sung", "seq": 7})
    assert isinstance(second, client.Message)
    assert (second.text, second.nick, second.at.isoformat()) == (
        "hi",
        "bob",
        "2025-01-01T00:00:00+00:00",
    )


async def test_answers_may_overtake_one_another(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.greet()
        first = await to.asked("say")
        second = await to.asked("who")
        await to.answer(second, members=[], member_count=0)
        await to.answer(first, room="lobby", epoch="e1", seq=3, at="2025-01-01T00:00:00.000Z")

    order: list[str] = []
    script.run(daemon)
    async with client.connect(script.dial) as chat:

        async def say() -> None:
            assert (await chat.say("x", room="lobby")).seq == 3
            order.append("say")

        async def who() -> None:
            await chat.who("lobby")
            order.append("who")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            await wait_all_tasks_blocked()
            nursery.start_soon(who)
    assert order == ["who", "say"]


async def test_a_refusal_is_raised(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.refuse(await to.asked("say"), "rate_limited", retry_ms=1200)

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        with pytest.raises(client.Refused) as refused:
            await chat.say("x", room="lobby")
    assert refused.value.code == "rate_limited"
    assert refused.value.retry_ms == 1200
    assert str(refused.value) == "rate_limited: it is rate_limited"


async def test_say_takes_the_one_room_that_is_joined(
    script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in(room="Lobby")
        command = await to.asked("say")
        assert command["room"] == "Lobby"
        assert 1 <= len(command["key"]) <= 64
        await to.answer(command, room="Lobby", epoch="e1", seq=1, at="2025-01-01T00:00:00Z")
        await to.let_in(room="other")

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        with pytest.raises(ValueError, match="Joined rooms: none"):
            await chat.say("x")
        await chat.join("lobby")
        await chat.say("x")
        await chat.join("other")
        with pytest.raises(ValueError, match="Joined rooms: Lobby, other"):
            await chat.say("x")


async def test_events_come_in_order_after_their_page(
    script: Script, message: Said, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in(2, [message(1), message(2)])
        await to.say(message(3))
        await to.say({"on": "joined", "room": "lobby", "nick": "eve", "user": "g3"})
        await to.say({"on": "nick", "room": "lobby", "user": "g1", "from": "ann", "to": "anna"})
        await to.say({"on": "from_the_future", "x": 1})
        await to.say({"re": None, "error": {"code": "bad_request", "message": "unreadable"}})

    script.run(daemon)
    async with client.connect(script.dial, nick="ann") as chat:
        entered = await chat.join("lobby")
        assert [one.on for one in entered.events] == ["message", "message"]
        assert (await chat.next_event()).on == "message"
        assert chat.position("lobby") == client.Position("e1", 3)
        assert await chat.next_event() == client.Joined(room="lobby", nick="eve", user="g3")
        change = await chat.next_event()
        assert isinstance(change, client.NickChange)
        assert (change.before, change.nick, chat.identity.nick) == ("ann", "anna", "anna")
        assert (await chat.next_event()).on == "from_the_future"
        assert await chat.next_event() == client.Notice(text="unreadable")
        with pytest.raises(trio.WouldBlock):
            chat.next_event_nowait()


async def test_iteration_ends_when_the_chat_is_left(
    script: Script, message: Said, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.say(message(1, room="elsewhere"))
        assert await to.closed() == 1000

    script.run(daemon)
    heard = []
    async with client.connect(script.dial) as chat:
        async for event in chat:
            heard.append(event.on)
            await chat.aclose()
        with pytest.raises(client.Closed):
            await chat.next_event()
        with pytest.raises(client.Closed):
            await chat.rooms()
        with pytest.raises(client.Closed):
            await chat.reconnect()
    assert heard == ["message"]


@pytest.mark.parametrize("code", [4500, 4501, 4502, 1008, 1009, 4567])
async def test_a_close_for_good_ends_it(
    code: int, script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.asked("say")
        await to.close(code, "out with you")

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        with pytest.raises(client.Closed) as closed:
            await chat.say("x", room="lobby")
        assert closed.value.ending == client.Ending(code, "out with you", reconnect=False)
        with pytest.raises(client.Closed):
            async for _ in chat:
                pass
        assert await chat.lost() == closed.value.ending


async def test_no_answer_in_time(script: Script, autojump_clock: MockClock) -> None:
    script.run(script.greet)
    deadlines = client.Deadlines(answer=7, ping=None)
    async with client.connect(script.dial, deadlines=deadlines) as chat:
        began = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await chat.rooms()
        assert trio.current_time() - began == 7
        assert chat.statistics().unanswered == 0


async def test_no_hello_in_time(script: Script, autojump_clock: MockClock) -> None:
    script.run(script.accept)
    with pytest.raises(client.ConnectError, match="no answer in time"):
        async with client.connect(script.dial, deadlines=client.Deadlines(answer=7)):
            pass
    assert trio.current_time() == 7


async def test_banned_at_the_door(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.accept()
        await to.close(4501, "banned")

    script.run(daemon)
    with pytest.raises(client.Closed, match="4501: banned"):
        async with client.connect(script.dial):
            pass


async def test_the_blocks_own_exception_comes_out_alone(
    script: Script, autojump_clock: MockClock
) -> None:
    script.run(script.greet)
    with pytest.raises(KeyError, match="mine"):
        async with client.connect(script.dial):
            raise KeyError("mine")


async def test_a_cancelled_block_does_not_wait_for_the_daemon(
    script: Script, autojump_clock: MockClock
) -> None:
    script.run(script.greet)
    began = trio.current_time()
    with trio.move_on_after(3):
        async with client.connect(script.dial):
            await trio.sleep_forever()
    assert trio.current_time() - began == 3


async def test_a_command_that_is_cancelled_is_not_sent_later(
    script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.drop()
        to = await script.greet()
        await to.know()
        await to.answer(await to.asked("rooms"), rooms=[])

    script.run(daemon)
    async with client.connect(script.dial, reconnect=False) as chat:
        await chat.lost()
        with trio.move_on_after(5):
            await chat.say("never mind", room="lobby")
        await chat.reconnect()
        assert await chat.rooms() == []


async def test_the_inbox_must_hold_a_page(script: Script) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        async with client.connect(script.dial, events=15):
            pass
