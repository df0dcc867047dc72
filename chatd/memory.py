"""The process's memory: what it need not look at again, and what it need not keep."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Final

__all__ = ["hand_back", "settle"]


def settle() -> None:
    """Leave what exists now out of later garbage collections.

    Modules and settings live as long as the process. A full collection that visits them holds the
    event loop for 40 ms.
    """
    gc.collect()
    gc.freeze()


def _trimmer() -> Callable[[int], object] | None:
    trim: Callable[[int], object] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


_trim: Final = _trimmer()


def hand_back() -> None:
    """Return free memory to the system, as malloc_trim(3) does; without glibc do nothing.

    After a peak, glibc keeps most of what was freed. Takes a few milliseconds without the GIL.
    """
    if _trim is not None:
        _trim(0)
