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
from chatd.bus.bus import Bus
from chatd.journal.writer import Writer
from chatd.model import Event

SLOW_SECONDS = 8


def hang() -> None:
    show = Bus._show

    async def hanging(self: Bus, block: Sequence[Event]) -> None:
        if any(event.text == "hang" for event in block):
            await trio.sleep_forever()
        await show(self, block)

    Bus._show = hanging  # type: ignore[method-assign]


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
