"""chatd with an injected fault: ``faulty_daemon.py FAULT serve …``.

``hang``: the fan-out of the word "hang" never ends, while the event loop runs. ``slow-disk``: the
commit of the word "slow" takes 8 seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import trio

from chatd.__main__ import main
from chatd.bus.feed import Feed
from chatd.journal.writer import Writer
from chatd.model import Event

SLOW_SECONDS = 8


def hang() -> None:
    fan_out = Feed.fan_out

    async def hanging(self: Feed, events: Sequence[Event]) -> int:
        if any(event.text == "hang" for event in events):
            await trio.sleep_forever()
        return await fan_out(self, events)

    Feed.fan_out = hanging  # type: ignore[method-assign]


def slow_disk() -> None:
    commit = Writer.commit

    def committing(self: Writer, batch: Sequence[Any]) -> list[Any]:
        if any(getattr(operation, "text", "") == "slow" for operation in batch):
            time.sleep(SLOW_SECONDS)
        return commit(self, batch)

    Writer.commit = committing  # type: ignore[method-assign]


if __name__ == "__main__":
    {"hang": hang, "slow-disk": slow_disk}[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
