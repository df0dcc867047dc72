"""Functions of the application: each may be async, or plain if it never waits.

Code that calls several of them, and needs a task only if one of them waits, is a generator
(`Steps`), which yields what must be awaited. Until then it runs wherever it is called. The rest is
left to a task, which calls `go_on`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from inspect import isawaitable
from typing import Any, TypeAlias, TypeVar

__all__ = ["Steps", "call", "go_on"]

R = TypeVar("R")

Steps: TypeAlias = Generator[Awaitable[Any], Any, R]
"""Yields what must be awaited, and is sent its result, or has its exception raised."""


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function, async or plain, and return what it returns."""
    result = function(*args)
    return await result if isawaitable(result) else result


async def go_on(steps: Steps[None], pending: Awaitable[Any]) -> None:
    """Await what steps have yielded, and run the rest of them. Raises what they raise."""
    try:
        while True:
            try:
                result = await pending
            except Exception as error:
                pending = steps.throw(error)
            else:
                pending = steps.send(result)
    except StopIteration:
        return
