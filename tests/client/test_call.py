"""Commands that wait for answers, without a connection."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.client.call import Call, Calls, retry_seconds
from chatd.client.errors import Garbled, Refused
from chatd.protocol import commands
from chatd.protocol.commands import Answer, Renamed

NICK = commands.Nick(nick="ann")
SAY = commands.Say(room="lobby", text="hi", key="k")


class Wire:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Call[object]] = []

    def send(self, call: Call[object]) -> None:
        self.sent.append(call)

    @property
    def frames(self) -> list[str]:
        return [call.frame for call in self.sent if not call.withdrawn]


async def test_an_answer_goes_to_its_call() -> None:
    calls, wire, taken = Calls(30), Wire(), list[Renamed]()
    first = calls.new(NICK, Renamed, taken.append)
    second = calls.new(SAY, commands.Said, keyed=True)
    calls.send(wire.send, first)
    calls.send(wire.send, second)
    assert wire.frames == [
        '{"do":"nick","id":1,"nick":"ann"}',
        '{"do":"say","id":2,"room":"lobby","text":"hi","key":"k"}',
    ]
    calls.answered(Answer(1, {"nick": "Ann"}))
    assert taken == [Renamed("Ann")]
    assert await calls.outcome(first) == Renamed("Ann")
    assert len(calls) == 1
    calls.answered(Answer(1, {"nick": "Ann"}))  # which nobody waits for any more
    calls.answered(Answer("1", {"nick": "Ann"}))
    assert len(taken) == 1


async def test_a_refusal_is_raised() -> None:
    calls, wire = Calls(30), Wire()
    call = calls.new(NICK, Renamed)
    calls.send(wire.send, call)
    calls.answered(Answer(1, error={"code": "new_code", "message": "No.", "retry_ms": 5}))
    with pytest.raises(Refused) as refused:
        await calls.outcome(call)
    assert (refused.value.code, refused.value.message, refused.value.retry_ms) == (
        ("new_code", "No.", 5)
    )


@pytest.mark.parametrize("answer", [Answer(1, {"nick": 5}), Answer(1), Answer(1, error=[])])
async def test_a_malformed_answer_ends_the_connection_and_the_call(answer: Answer) -> None:
    calls, wire = Calls(30), Wire()
    call = calls.new(NICK, Renamed)
    calls.send(wire.send, call)
    with pytest.raises(Garbled):
        calls.answered(answer)
    with pytest.raises(Garbled):
        await calls.outcome(call)


async def test_the_time_counts_on_a_connection_alone(autojump_clock: MockClock) -> None:
    calls, wire = Calls(30), Wire()

    async def connections() -> None:
        await trio.sleep(1000)
        calls.send(wire.send, call)
        await trio.sleep(29)
        calls.stranded()
        await trio.sleep(1000)
        calls.resend(wire.send, same_user=True)

    call = calls.new(NICK, Renamed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connections)
        with pytest.raises(trio.TooSlowError):
            await calls.outcome(call)
    assert trio.current_time() == 1000 + 29 + 1000 + 30


async def test_only_the_same_user_sends_a_key_again() -> None:
    calls, wire = Calls(30), Wire()
    sent, unsent = (calls.new(SAY, commands.Said, keyed=True) for _ in range(2))
    calls.send(wire.send, sent)
    other = Wire()
    calls.resend(other.send, same_user=False)
    assert other.sent == [unsent]
    with pytest.raises(Refused, match="unauthorized"):
        await calls.outcome(sent)


async def test_a_call_that_is_forgotten_is_not_sent() -> None:
    calls, wire = Calls(30), Wire()
    call = calls.new(NICK, Renamed)
    calls.send(wire.send, call)
    calls.forget(call)
    assert wire.frames == []
    assert len(calls) == 0


async def test_asking_waits_out_what_is_temporary(autojump_clock: MockClock) -> None:
    calls, wire, answers = Calls(30), Wire(), list[Renamed]()

    async def ask() -> None:
        answers.append(await calls.ask(wire.send, NICK, Renamed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        calls.answered(Answer(1, error={"code": "rate_limited", "retry_ms": 7000}))
        await trio.sleep(7)
        await wait_all_tasks_blocked()
        calls.answered(Answer(2, {"nick": "ann"}))
    assert answers == [Renamed("ann")]
    assert trio.current_time() == 7


@pytest.mark.parametrize(
    ("refused", "seconds"),
    [
        (Refused("rate_limited", "", 1500), 1.5),
        (Refused("unavailable", ""), 1.0),
        (Refused("muted", "", 1500), None),
    ],
)
def test_what_is_worth_sending_again(refused: Refused, seconds: float | None) -> None:
    assert retry_seconds(refused) == seconds
