"""One connection's end by its token, call by call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import chatd.chat
from chatd.chat.expiry import Expiry
from chatd.chat.tokens import Grant
from chatd.model import Close


class Connection:
    def __init__(self) -> None:
        self.wall = 0
        self.chat = SimpleNamespace(now=lambda: self.wall)
        self.said: list[Any] = []
        self.ended: list[int] = []

    def notify(self, *items: Any) -> None:
        self.said += items

    def end(self, close: Close, reason: str) -> None:
        assert reason
        self.ended.append(close.code)


def test_it_is_checked_once_a_minute_then_announced_then_ended() -> None:
    connection = Connection()
    grant = Grant("ann", "k", 600_000, 600_000)
    expiry = Expiry(cast("chatd.chat.Connection", connection), grant)
    due: float | None = 0.0
    looks: list[float] = []
    while due is not None:
        looks.append(due)
        connection.wall = round(due * 1000)
        due = expiry.fire(due)
    assert looks == [0, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600]
    assert len(connection.said) == 1
    assert connection.ended == [4502]
