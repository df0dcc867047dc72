"""Which exported entries continue a room's log."""

from __future__ import annotations

import pytest

from chatd.journal.rewrite import unfit
from chatd.model import LogEntry, Restore


@pytest.mark.parametrize(
    ("seqs", "last", "empty", "refusal"),
    [
        ([1, 2, 3], 0, True, None),
        ([5, 6], 0, True, None),  # the beginning was removed by retention
        ([4, 5], 3, False, None),
        ([4, 5], 3, True, None),
        ([5], 3, False, "Lobby: 5 does not follow 3."),
        ([3, 4], 3, False, "Lobby already has an event 3."),
        ([2], 3, True, "Lobby already has an event 2."),
        ([4, 6], 3, False, "Lobby: 6 does not follow 4."),
        ([4, 4], 3, False, "Lobby: 4 does not follow 4."),
    ],
)
def test_entries_continue_the_numbers(
    seqs: list[int], last: int, empty: bool, refusal: str | None
) -> None:
    entries = tuple(LogEntry("Lobby", seq, 0, "message", "u", "n", "x") for seq in seqs)
    found = unfit(Restore("lobby", entries), last, empty=empty)
    assert (None if found is None else found.message) == refusal
