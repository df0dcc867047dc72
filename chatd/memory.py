"""The process's memory: what it need not look at again, and what it need not keep."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["hand_back", "prepare", "settle"]

_C: Final = ctypes.CDLL(None)
_madvise: Final[Callable[[ctypes.c_void_p, ctypes.c_size_t, int], int] | None] = getattr(
    _C, "madvise", None
)
_trim: Final[Callable[[int], int] | None] = getattr(_C, "malloc_trim", None)
_mallopt: Final[Callable[[int, int], int] | None] = getattr(_C, "mallopt", None)
"""glibc's; other C libraries do not have them."""

_MADV_COLLAPSE: Final = 25
"""An advice of madvise(2), since Linux 6.1."""

_HUGE_BYTES: Final = 2 * 1024 * 1024
"""The size of a huge page on most processors."""

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""Parameters of mallopt(3)."""

_MAPS: Final = Path("/proc/self/maps")

_MAPPED_BYTES: Final = 128 * 1024
_ARENAS: Final = 2

_THRESHOLDS: Final = (20_000, 100, 20)
"""See gc.set_threshold: how many more objects must exist, and how many collections of one
generation go before one of the next. What clients leave behind needs hardly any collection, so
there is little to find. With Python's own (700, 10, 10) an eighth of the time of a connect went
into it, and with (5000, 20, 20) a fifteenth, because the second generation's collections visited
each new object again, for 25 ms at a time. A client by Socket.IO adds 150 objects, so a collection
comes with every 130 clients and takes 3 ms."""


def prepare() -> None:
    """Have large blocks go back to the system when they are freed.

    With each such block that is freed, glibc raises the size from which blocks are mapped, up to
    32 MiB, and it has an arena of its own for each thread. After an address had posted bodies of
    1 MB for 20 s, the process was larger by 29 MiB. With these settings it is 2 to 12 MiB.
    """
    if _mallopt is not None:
        _mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        _mallopt(_M_ARENA_MAX, _ARENAS)


def settle() -> None:
    """Leave what exists now out of later garbage collections, and have fewer of them.

    Modules and settings live as long as the process. A full collection that visits them holds the
    event loop for 40 ms.

    What exists is also moved to huge pages. While a quiet daemon waits, the processor forgets where
    its small pages are: to find them again takes a tenth of a message's time at a node of a shared
    store.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    _move_to_huge_pages()


def _move_to_huge_pages() -> None:
    """Move the heap to huge pages, as far as the system can. Takes some 25 ms."""
    if _madvise is None or not _MAPS.exists():
        return
    for line in _MAPS.read_text().splitlines():
        addresses, mode, _, _, inode, *name = line.split()
        if mode == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            start, end = (int(each, 16) for each in addresses.split("-"))
            start, end = -(-start // _HUGE_BYTES) * _HUGE_BYTES, end // _HUGE_BYTES * _HUGE_BYTES
            if start < end:
                size = ctypes.c_size_t(end - start)
                _madvise(ctypes.c_void_p(start), size, _MADV_COLLAPSE)


def hand_back() -> None:
    """Return free memory to the system, as malloc_trim(3) does; without glibc do nothing.

    After a peak, glibc keeps most of what was freed. Takes a few milliseconds without the GIL.
    """
    if _trim is not None:
        _trim(0)
