from __future__ import annotations

import pytest

from chatd.socketio import Answers, Disconnected
from chatd.socketio.acks import AckCollector, Answer, value_of


@pytest.mark.parametrize(
    ("args", "value"), [([], None), ([0], 0), ([[1, 2]], [1, 2]), ([1, 2], (1, 2))]
)
def test_one_argument_is_a_value_and_several_a_tuple(args: list[object], value: object) -> None:
    assert value_of(args) == value


async def test_an_answer_comes_or_its_client_goes() -> None:
    answer = Answer()
    answer.received("a", [1])
    assert await answer.wait() == 1
    answer = Answer()
    answer.lost("a", "ping timeout")
    with pytest.raises(Disconnected, match="ping timeout") as caught:
        await answer.wait()
    assert caught.value.reason == "ping timeout"


async def test_gathering_ends_when_all_have_answered_or_left() -> None:
    gathering = AckCollector(["a", "b", "c", "d"])
    gathering.received("b", [2])
    gathering.received("b", [3])
    gathering.received("a stranger", [4])
    gathering.lost("b", "gone")
    gathering.lost("c", "gone")
    assert gathering.answers() == [("b", 2)]
    assert gathering.answers().missing == ("c", "a", "d")
    gathering.received("a", [])
    gathering.received("d", [1, 2])
    await gathering.wait()
    answers = gathering.answers()
    assert isinstance(answers, Answers)
    assert answers == [("b", 2), ("a", None), ("d", (1, 2))]
    assert answers.missing == ("c",)
    await AckCollector([]).wait()
