"""The clocks of a daemon that a test hastens and sets."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["Clocks"]


class Clocks:
    """A daemon's clocks: its time passes faster, and its wall clock may be wrong.

    Args:
        folder: The test's folder.
        rate: How fast time passes. Every timeout of the daemon is shorter by as much.

    Attributes:
        environ: What to start the daemon with. Daemons that are started one after another have the
            same clocks.
    """

    def __init__(self, folder: Path, *, rate: int = 10) -> None:
        self._file = folder / "days"
        self.environ = {
            "PYTHONPATH": str(Path(__file__).with_name("other_clocks")),
            "CLOCK_FILE": str(self._file),
            "CLOCK_RATE": str(rate),
            "CLOCK_BEGAN": str(time.time_ns()),
        }
        self.set_ahead(0)

    def set_ahead(self, days: float) -> None:
        """Set the wall clock so many days ahead."""
        written = self._file.with_suffix(".new")
        written.write_text(str(days))
        written.replace(self._file)
