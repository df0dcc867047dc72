"""The tree of this Trio run's tasks with their stacks, as text: for the log when something hangs.

faulthandler shows only the stack of the event loop. A task's own stack is in its coroutine.
"""

from __future__ import annotations

import gc
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import trio

__all__ = ["task_tree"]

TREE_CHARACTERS: Final = 24_000
"""Of the whole tree: some 50 different stacks, more than there are kinds of tasks."""

SIBLINGS: Final = 200
"""Tasks to describe in one nursery, which may have ten thousand connections in the same place."""

FRAMES: Final = 24
"""Innermost frames of each stack."""


def task_tree(root: trio.lowlevel.Task | None = None) -> str:
    """Return the tree of tasks below ``root``, by default of the whole run, with their stacks.

    Siblings with the same stack are written once, with their number. The text is limited to
    ``TREE_CHARACTERS``, and says what it leaves out.
    """
    root = trio.lowlevel.current_root_task() if root is None else root
    text = "" if root is None else "\n".join(_described(root))
    if len(text) > TREE_CHARACTERS:
        text = f"{text[:TREE_CHARACTERS]}…\n[{len(text)} characters]"
    return text


def _described(task: trio.lowlevel.Task) -> list[str]:
    frames = list(_frames(task.coro))
    lines = [task.name]
    lines += ["  …"] if len(frames) > FRAMES else []
    lines += [f"  {frame}" for frame in frames[-FRAMES:]]
    for nursery in task.child_nurseries:
        lines += [f"    {line}" for line in _children(nursery)]
    return lines


def _children(nursery: trio.Nursery) -> Iterator[str]:
    children = list(nursery.child_tasks)
    alike = Counter("\n".join(_described(child)) for child in children[:SIBLINGS])
    for described, number in sorted(alike.items()):  # a nursery's tasks have no order
        name, *rest = described.split("\n")
        yield name if number == 1 else f"{name} ({number} alike)"
        yield from rest
    if len(children) > SIBLINGS:
        yield f"… and {len(children) - SIBLINGS} more tasks"


def _frames(awaited: Any) -> Iterator[str]:
    """Yield the frames of a coroutine and of its awaited ones, outermost first."""
    while awaited is not None:
        match awaited:
            case types.CoroutineType():
                frame, inner = awaited.cr_frame, awaited.cr_await
            case types.GeneratorType():
                frame, inner = awaited.gi_frame, awaited.gi_yieldfrom
            case types.AsyncGeneratorType():
                frame, inner = awaited.ag_frame, awaited.ag_await
            case _:
                # An awaitable such as __anext__'s: only the garbage collector knows its generator.
                awaited = _generator_of(awaited)
                continue
        # The innermost frame of every waiting task, inside Trio.
        if frame is not None and frame.f_code.co_name != "_real_async_yield":
            code = frame.f_code
            file = "/".join(Path(code.co_filename).parts[-3:])
            yield f"{file}:{frame.f_lineno} {code.co_qualname}"
        awaited = inner


def _generator_of(awaited: Any) -> Any:
    if not type(awaited).__name__.startswith(("async_generator_", "coroutine_wrapper")):
        return None
    kinds = (types.AsyncGeneratorType, types.CoroutineType)
    return next((one for one in gc.get_referents(awaited) if isinstance(one, kinds)), None)
