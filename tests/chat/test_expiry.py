"""One connection's end by its token, call by call."""

from __future__ import annotations

from typing import Any

from chatd.chat.expiry import Expiry
from chatd.chat.tokens import Grant
from chatd.model import Close


class Bearer:
    def __init__(self) -> None:
        self.said: list[Any] = []
        self.ended: list[int] = []

    def tell(self, *items: Any) -> None:
        self.said += items

    def end(self, close: Close, reason: str) -> None:
        assert reason
        self.ended.append(close.code)


def test_it_is_looked_at_once_a_minute_then_told_then_ended() -> None:
    bearer, wall = Bearer(), [0]
    expiry = Expiry(bearer, Grant("ann", "k", 600_000, 600_000), lambda: wall[0])
    due: float | None = 0.0
    looks: list[float] = []
    while due is not None:
        looks.append(due)
        wall[0] = round(due * 1000)
        due = expiry.fire(due)
    assert looks == [0, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600]
    assert len(bearer.said) == 1
    assert bearer.ended == [4502]
