"""The verbs of the command line, one module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    # A generic class that can only be subscripted in annotations, and that has no public name.
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001
