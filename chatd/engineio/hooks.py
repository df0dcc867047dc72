"""Functions of the application: each may be async, or plain if it never waits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["call"]


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function, async or plain, and return what it returns."""
    result = function(*args)
    return await result if inspect.isawaitable(result) else result
