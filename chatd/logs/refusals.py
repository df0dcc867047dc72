"""How many ``refused`` lines an address may cause: a client must not fill the disk with them."""

from __future__ import annotations

from typing import Final

__all__ = ["Refusals"]

BURST: Final = 30
SECONDS_EACH: Final = 1.0
"""An address that was quiet may cause so many lines at once, and then one each so many seconds."""

ADDRESSES: Final = 10_000
"""Of more addresses, those that were refused last the longest ago are forgotten: 200 bytes each."""


class Refusals:
    """Counts the ``refused`` lines of each address, and says which are left out.

    A line that is written again says in ``omitted`` how many were left out before it.
    """

    def __init__(self) -> None:
        # When the lines so far are paid for, in Unix milliseconds, and how many were left out.
        self._addresses: dict[str, tuple[float, int]] = {}

    def take(self, address: str, now: int) -> int | None:
        """Return how many lines were left out before this one; None if it is left out too."""
        paid, omitted = self._addresses.pop(address, (0.0, 0))
        each = SECONDS_EACH * 1000
        # The wall clock may have been set back.
        paid = min(max(paid, now - BURST * each), now)
        leaves_out = paid + each > now
        if len(self._addresses) >= ADDRESSES:
            del self._addresses[next(iter(self._addresses))]
        self._addresses[address] = (paid, omitted + 1) if leaves_out else (paid + each, 0)
        return None if leaves_out else omitted
