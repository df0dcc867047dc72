"""Make a run repeatable: the same seed gives the same run, whatever the machine does meanwhile."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import ModuleType
from typing import Final
from unittest.mock import patch

import trio
from trio._core import _run

from chatd.chat import Connection
from chatd.chat.membership import Membership
from chatd.chat.rooms import Room
from chatd.socketio import Connection as SocketIoConnection
from chatd.wire.websocket import WebSocket

__all__ = ["deterministic"]

IN_SETS: Final = (Connection, Membership, Room, SocketIoConnection, WebSocket)
"""What stands in sets that are iterated over: by default their order is that of addresses."""


@contextmanager
def deterministic(seed: int) -> Generator[None]:
    """Take chance out of everything that runs in the block, one call of `trio.run`.

    * Trio shuffles the tasks that are ready, but by a generator that is seeded here.
    * Ids, keys and secrets come from a generator too.
    * Slices of time are measured by Trio's clock, which is virtual.
    * Sets of connections and the like are in the order in which their members came.
    """
    source = random.Random(seed)
    with ExitStack() as patches:
        patches.enter_context(patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True))
        patches.enter_context(patch.object(os, "urandom", source.randbytes))
        patches.enter_context(patch.object(random, "_urandom", source.randbytes))
        for module in _modules_that_measure():
            patches.enter_context(patch.object(module, "perf_counter", trio.current_time))
        number = _numbering()
        for kind in IN_SETS:
            patches.enter_context(patch.object(kind, "__hash__", number))
        random.seed(seed)
        _run._r.seed(seed)
        yield


@cache
def _modules_that_measure() -> list[ModuleType]:
    modules = list(sys.modules.items())
    return [
        module
        for name, module in modules
        if name.startswith("chatd.") and hasattr(module, "perf_counter")
    ]


def _numbering() -> Callable[[object], int]:
    """Return a hash that numbers objects as they come, and keeps them: ids are used again."""
    numbers: dict[int, tuple[int, object]] = {}

    def number(one: object) -> int:
        found = numbers.get(id(one))
        if found is None:
            found = numbers[id(one)] = (len(numbers), one)
        return found[0]

    return number
