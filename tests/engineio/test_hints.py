from __future__ import annotations

import trio
from trio.testing import MockClock

from chatd.engineio.hints import Hints
from chatd.logs import open_log
from chatd.testing.recording import Recording


async def test_each_cause_is_named_once_a_minute(autojump_clock: MockClock) -> None:
    recording = Recording()
    hints = Hints(open_log(sink=recording))
    for _ in range(3):
        hints.warn("a", detail="first")
        hints.warn("b", detail="second", address="10.0.0.1")
    assert recording.records == [
        ("warning", {"detail": "first"}),
        ("warning", {"detail": "second", "address": "10.0.0.1"}),
    ]
    await trio.sleep(59.9)
    hints.warn("a", detail="first")
    assert len(recording.records) == 2
    await trio.sleep(0.2)
    hints.warn("a", detail="first")
    assert len(recording.records) == 3
