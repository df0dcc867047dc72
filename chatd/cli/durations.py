"""Durations as people write them: ``90s``, ``15m``, ``12h``, ``30d``."""

from __future__ import annotations

import argparse
import re
from typing import Final

__all__ = ["duration", "seconds"]

_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}


def duration(text: str) -> int:
    """Return a duration such as ``12h`` in seconds. Raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(
            f"expected a duration such as 90s, 15m, 12h or 30d, not {text!r}"
        )
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def seconds(text: str) -> float:
    """Return a duration such as ``2h``, or a number of seconds, in seconds.

    Raises argparse.ArgumentTypeError.
    """
    if re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,3})?", text):
        return float(text)
    return duration(text)
