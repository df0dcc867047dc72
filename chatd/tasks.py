"""Where every task of this Trio run stands, as text: for a log when something hangs.

faulthandler shows the loop's own stack alone. What hangs is a task, and its stack hangs on its
coroutine.
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
"""The whole tree: some 50 different stacks, which is more than there are kinds of tasks."""

SIBLINGS: Final = 200
"""Looked at in one nursery, which may hold ten thousand connections that all stand alike."""

FRAMES: Final = 24
"""Of one stack, the innermost."""


def task_tree(root: trio.lowlevel.Task | None = None) -> str:
    """Write the tree below ``root`` (None: the whole run's), each task with its stack.

    Siblings that stand alike are written once, with their number. The text is bounded; where more
    is left out, it says so.
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
    for described, number in sorted(alike.items()):  # a nursery's are in no order
        name, *rest = described.split("\n")
        yield name if number == 1 else f"{name} ({number} alike)"
        yield from rest
    if len(children) > SIBLINGS:
        yield f"… and {len(children) - SIBLINGS} more tasks"


def _frames(awaited: Any) -> Iterator[str]:
    """Tell the frames from a coroutine in to what it waits for, outermost first."""
    while awaited is not None:
        match awaited:
            case types.CoroutineType():
                frame, inner = awaited.cr_frame, awaited.cr_await
            case types.GeneratorType():
                frame, inner = awaited.gi_frame, awaited.gi_yieldfrom
            case types.AsyncGeneratorType():
                frame, inner = awaited.ag_frame, awaited.ag_await
            case _:
                # What __anext__ and the like give names its generator to the collector alone.
                awaited = _generator_of(awaited)
                continue
        # Where every task that waits ends, inside Trio.
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
