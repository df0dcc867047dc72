"""A chat over lost connections: it reconnects, resumes, and sends unanswered messages again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd import client

Script: TypeAlias = Any
"""The fixture of conftest.py, which no test module can import from."""

Said: TypeAlias = Callable[..., dict[str, Any]]

AT = "2025-01-01T00:00:00.000Z"


async def test_it_comes_back_resumes_and_says_again(
    script: Script, message: Said, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in(1, [message(1)])
        await to.say(message(2))
        lost = await to.asked("say")
        await to.drop()
        to = await script.greet(user="g7", nick="guest-7", session="secret-7")
        assert "nick" not in to.path
        await to.know()
        joined = await to.let_in(4, [message(3), message(4)], recovered=True)
        assert joined["since"] == {"epoch": "e1", "seq": 2}
        await to.say(message(5))
        again = await to.asked("say")
        assert again == lost
        await to.answer(again, room="lobby", epoch="e1", seq=2, at=AT, duplicate=True)

    script.run(daemon)
    async with client.connect(script.dial, nick="ann") as chat:
        await chat.join("lobby")
        said = await chat.say("are you there?")
        assert (said.seq, said.duplicate) == (2, True)
        kinds = [await chat.next_event() for _ in range(6)]
    assert [one.on for one in kinds] == [
        "message",
        "lost",
        "reconnected",
        "message",
        "message",
        "message",
    ]
    assert [one.seq for one in kinds if isinstance(one, client.Message)] == [2, 3, 4, 5]
    assert kinds[1] == client.Lost(client.Ending(1006, "the connection was lost", reconnect=True))
    assert kinds[2] == client.Reconnected("g1", "ann", same_user=True)


async def test_what_is_said_while_away_waits(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in()
        await to.drop()
        to = await script.greet()
        await to.know()
        await to.let_in(recovered=True)
        first, second = await to.asked("say"), await to.asked("say")
        assert [first["text"], second["text"]] == ["one", "two"]
        assert first["key"] != second["key"]
        await to.answer(first, room="lobby", epoch="e1", seq=1, at=AT)
        await to.answer(second, room="lobby", epoch="e1", seq=2, at=AT)

    script.run(daemon)
    async with client.connect(script.dial, reconnect=False) as chat:
        await chat.join("lobby")
        await chat.lost()
        assert not chat.connected
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chat.say, "one")
            await wait_all_tasks_blocked()
            nursery.start_soon(chat.say, "two")
            # Longer than any answer may take: only a living connection is waited for so.
            await trio.sleep(600)
            await chat.reconnect()
        assert chat.connected
        assert chat.ending is None


async def test_numbers_that_come_twice_are_dropped(
    script: Script, message: Said, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in(2, [message(2)])
        for seq in (1, 2, 3, 3, 2, 4):
            await to.say(message(seq))

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        await chat.join("lobby")
        seqs = [one.seq async for one in _messages(chat, 2)]
        assert seqs == [3, 4]
        assert chat.statistics().duplicates == 4


async def test_another_log_is_reported(
    script: Script, message: Said, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in(9, [message(9)])
        await to.drop()
        to = await script.greet()
        await to.know()
        await to.let_in(3, [message(2), message(3)], epoch="e2")
        await to.say(message(4))
        await to.drop()
        to = await script.greet()
        await to.know()
        # And one with an empty page: the gap is reported all the same.
        joined = await to.let_in(0, epoch="e3")
        assert joined["since"] == {"epoch": "e2", "seq": 4}
        history = await to.asked("history")
        await to.answer(history, epoch="e3", events=[], more=False)

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        await chat.join("lobby")
        events = [await chat.next_event() for _ in range(9)]
        assert chat.position("lobby") == client.Position("e3", 0)
    assert [one.on for one in events] == [
        *("lost", "reconnected", "gap", "message", "message", "message"),
        *("lost", "reconnected", "gap"),
    ]
    assert events[2] == client.Gap("lobby", client.Position("e1", 9))
    assert events[8] == client.Gap("lobby", client.Position("e2", 4))


async def test_a_session_that_is_over(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in()
        await to.asked("say")
        await to.drop()
        to = await script.greet(user="g7", nick="guest-7", session="secret-7")
        await to.refuse(await to.asked("auth"), "unauthorized")
        await to.answer(await to.asked("nick"), nick="ann")
        await to.let_in(recovered=True)
        unsent = await to.asked("say")
        await to.answer(unsent, room="lobby", epoch="e1", seq=1, at=AT)

    refused = []
    script.run(daemon)
    async with client.connect(script.dial, nick="ann", reconnect=False) as chat:
        await chat.join("lobby")

        async def doubtful() -> None:
            with pytest.raises(
                client.Refused, match="whether this message was sent is not known"
            ) as why:
                await chat.say("with the old user's key")
            refused.append(why.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(doubtful)
            await chat.lost()
            nursery.start_soon(chat.say, "not sent before")
            await wait_all_tasks_blocked()
            await chat.reconnect()
        assert chat.identity == client.Identity("g7", "ann", op=False, session="secret-7")
        assert (await chat.next_event()).on == "lost"
        assert await chat.next_event() == client.Reconnected("g7", "ann", same_user=False)
    assert refused == ["unauthorized"]


async def test_a_session_of_an_earlier_run(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.greet(user="g7", nick="guest-7", session="secret-7")
        assert to.path == "/ws"
        await to.know("kept", user="g1", nick="ann")

    script.run(daemon)
    async with client.connect(script.dial, session="kept", nick="ann") as chat:
        assert chat.identity == client.Identity("g1", "ann", op=False, session="kept")


async def test_a_room_that_does_not_let_it_back(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in()
        await to.let_in(room="other")
        await to.drop()
        to = await script.greet()
        await to.know()
        await to.refuse(await to.asked("join"), "rate_limited", retry_ms=4000)
        await to.refuse(await to.asked("join"), "banned")
        await to.let_in(recovered=True)

    script.run(daemon)
    async with client.connect(script.dial, reconnect=False) as chat:
        await chat.join("lobby")
        await chat.join("other")
        await chat.lost()
        began = trio.current_time()
        await chat.reconnect()
        assert trio.current_time() - began == 4
        assert chat.joined == ("lobby",)
        events = [await chat.next_event() for _ in range(3)]
    assert isinstance(events[2], client.RoomLost)
    assert (events[2].room, events[2].refused.code) == ("other", "banned")


async def test_a_slow_reader_gets_the_rest_from_the_log(
    script: Script, message: Said, autojump_clock: MockClock
) -> None:
    live = trio.Event()

    async def daemon() -> None:
        to = await script.greet()
        await to.let_in()
        for seq in range(1, 31):
            await to.say(message(seq))
        await to.say({"on": "joined", "room": "lobby", "nick": "eve", "user": "g3"})
        live.set()
        seq = 0
        while seq < 30:
            command = await to.asked("history")
            page = range(command["after"] + 1, min(command["after"] + command["limit"], 30) + 1)
            await to.answer(
                command, epoch="e1", events=[message(one) for one in page], more=page[-1] < 30
            )
            seq = page[-1]
        await to.say(message(31))

    script.run(daemon)
    async with client.connect(script.dial, events=16) as chat:
        await chat.join("lobby")
        await live.wait()
        await wait_all_tasks_blocked()
        assert chat.statistics().waiting_events == 16
        assert [one.seq async for one in _messages(chat, 31)] == list(range(1, 32))
        assert chat.statistics().late > 0
        assert chat.statistics().waiting_events == 0


async def test_a_hole_is_read_from_the_log(
    script: Script, message: Said, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in()
        await to.say(message(1))
        await to.say(message(4))
        await to.refuse(await to.asked("history"), "rate_limited", retry_ms=500)
        command = await to.asked("history")
        assert command["after"] == 1
        # The events in between are gone.
        await to.answer(command, epoch="e1", events=[message(3), message(4)], more=False)

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        await chat.join("lobby")
        events = [await chat.next_event() for _ in range(4)]
    assert [one.on for one in events] == ["message", "gap", "message", "message"]
    assert events[1] == client.Gap("lobby", client.Position("e1", 1))


async def test_it_waits_as_the_daemon_asks(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.say(
            {
                "on": "bye",
                "code": 1001,
                "reason": "restarting",
                "reconnect": True,
                "retry_ms": 20_000,
            }
        )
        await to.close(1001, "restarting")
        to = await script.greet()
        await to.know()

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        began = trio.current_time()
        assert (await chat.next_event()).on == "bye"
        lost = await chat.next_event()
        assert lost == client.Lost(client.Ending(1001, "restarting", True, 20_000))
        assert (await chat.next_event()).on == "reconnected"
        assert 20 <= trio.current_time() - began <= 22.5


async def test_it_tries_again_less_and_less_often(
    script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.drop()
        script.refusing = OSError("nobody there")
        await trio.sleep(200)
        script.refusing = None
        to = await script.greet()
        await to.know()

    script.run(daemon)
    backoff = client.Backoff(first_seconds=1, most_seconds=20)
    async with client.connect(script.dial, backoff=backoff) as chat:
        await chat.lost()
        while not chat.connected:
            await chat.next_event()
    waits = [
        after - before for before, after in zip(script.dialed, script.dialed[1:], strict=False)
    ]
    for wait, most in zip(waits, [1, 2, 4, 8, 16, *[20] * 20], strict=False):
        assert most / 2 <= wait <= most
    assert len(waits) > 8


async def test_reconnecting_by_hand_fails_aloud(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.drop()

    script.run(daemon)
    async with client.connect(script.dial, reconnect=False) as chat:
        await chat.lost()
        script.refusing = OSError("nobody there")
        with pytest.raises(client.ConnectError, match="nobody there"):
            await chat.reconnect()
        assert not chat.connected
        script.refusing = None

        async def again() -> None:
            to = await script.greet()
            await to.know()

        script.run(again)
        await chat.reconnect()
        assert chat.connected


async def test_reconnecting_drops_a_connection_that_lives(
    script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        assert await to.closed() == 1006
        to = await script.greet()
        await to.know()

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        await chat.reconnect()
        assert chat.connected
        assert chat.statistics().connections == 2


async def test_a_connection_lost_while_it_resumes(
    script: Script, message: Said, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in(1, [message(1)])
        await to.drop()
        to = await script.greet()
        await to.know()
        await to.asked("join")
        await to.drop()
        to = await script.greet()
        await to.know()
        joined = await to.let_in(2, [message(2)], recovered=True)
        assert joined["since"] == {"epoch": "e1", "seq": 1}

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        await chat.join("lobby")
        assert [one.seq async for one in _messages(chat, 1)] == [2]
        await wait_all_tasks_blocked()
        assert chat.statistics().unanswered == 0


async def test_leaving_while_it_resumes(script: Script, autojump_clock: MockClock) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.let_in()
        await to.drop()
        to = await script.greet()
        await to.know()
        await to.asked("join")
        resuming.set()
        assert await to.closed() == 1000

    resuming = trio.Event()
    script.run(daemon)
    async with client.connect(script.dial) as chat:
        await chat.join("lobby")
        await resuming.wait()
    with pytest.raises(client.Closed):
        await chat.rooms()


async def test_a_frame_that_cannot_be_read_ends_the_connection(
    script: Script, autojump_clock: MockClock
) -> None:
    async def daemon() -> None:
        to = await script.greet()
        await to.say("{")
        to = await script.greet()
        await to.know()

    script.run(daemon)
    async with client.connect(script.dial) as chat:
        lost = await chat.next_event()
        assert isinstance(lost, client.Lost)
        assert lost.ending.code == 1002
        assert (await chat.next_event()).on == "reconnected"


async def _messages(chat: client.Chat, count: int) -> AsyncGenerator[client.Message]:
    while count:
        event = await chat.next_event()
        if isinstance(event, client.Message):
            count -= 1
            yield event
