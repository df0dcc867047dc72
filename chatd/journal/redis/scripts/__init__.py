"""The scripts that run inside Redis. Comments at the beginning of each explain it."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

from msgspec import Struct

__all__ = [
    "ALL",
    "BEAT",
    "COMMIT",
    "ENTER",
    "LEAVE",
    "MEND",
    "PAGE",
    "PLACES",
    "PROVE",
    "RIGHTS",
    "SWEEP",
    "TRIM",
    "UNREAD",
    "Script",
]


_ALLOW_OOM: Final = "#!lua flags=allow-oom\n"


class Script(Struct, frozen=True):
    """A script, and the digest by which Redis calls it."""

    text: str
    sha: str


def _script(*names: str, flags: str = "") -> Script:
    """Return the script in some files, one after the other.

    Args:
        names: The files.
        flags: The script's first line. Without ``allow-oom`` Redis does not begin a script that
            writes while its memory is full, so that none fails between two writes.
    """
    text = flags + "".join(files(__name__).joinpath(f"{name}.lua").read_text() for name in names)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


ENTER: Final = _script("damage", "enter", flags=_ALLOW_OOM)
MEND: Final = _script("damage", "mend", flags=_ALLOW_OOM)
BEAT: Final = _script("beat")
LEAVE: Final = _script("leave")
TRIM: Final = _script("trim")
_BATCH: Final = ("damage", "overlay", "commit", "others", "run")
COMMIT: Final = _script(*_BATCH, flags="#!lua\n")
SWEEP: Final = _script(*_BATCH, flags=_ALLOW_OOM)
"""`COMMIT` for batches that make room when memory is full, or that take next to none."""
PAGE: Final = _script("page")
PLACES: Final = _script("places")
UNREAD: Final = _script("unread")
PROVE: Final = _script("prove")
RIGHTS: Final = _script("rights", flags=_ALLOW_OOM)

ALL: Final = (ENTER, BEAT, LEAVE, TRIM, MEND, COMMIT, SWEEP, PAGE, PLACES, UNREAD, PROVE, RIGHTS)
