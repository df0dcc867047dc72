"""Counts and reports data of a store that somebody has changed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from chatd.journal.retention import OperatorLog
from chatd.model import Record

__all__ = ["Damage"]

_T = TypeVar("_T")

MOST: Final = 1000
"""How much damage is remembered, so that each is reported once. No more is reported."""


class Damage:
    """Counts damaged data, and reports each once.

    Args:
        report: Where to report what operators should know.

    Attributes:
        found: How often damaged data were found.
    """

    def __init__(self, report: OperatorLog) -> None:
        self.found = 0
        self._report = report
        self._reported: set[str] = set()

    def note(self, detail: str) -> None:
        """Count damaged data, and report them unless they have been.

        Args:
            detail: Which data they are, and what to do about them.
        """
        self.found += 1
        if detail not in self._reported and len(self._reported) < MOST:
            self._reported.add(detail)
            self._report("store", state="damaged", detail=detail)

    def readable(
        self, records: Iterable[Record], decode: Callable[[Record], _T], remedy: str
    ) -> list[_T]:
        """Return what records hold. Those that cannot be read are left out and reported.

        Args:
            records: The records.
            decode: Returns what a record holds, or raises ValueError or RecursionError.
            remedy: What becomes of a record that is left out, or what operators should do about it.
        """
        found: list[_T] = []
        for record in records:
            try:
                found.append(decode(record))
            except (ValueError, RecursionError):
                self.note(
                    f"the record {record.kind} {record.name!r} of the store is not as chatd has "
                    f"written it, and is left out: {remedy}"
                )
        return found
