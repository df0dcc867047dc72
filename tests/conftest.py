"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# On a shared machine a deadline tells of the neighbours. CI runs more examples of everything.
settings.register_profile("quick", deadline=None, max_examples=60)
settings.register_profile("ci", deadline=None, max_examples=200)
settings.load_profile("ci" if os.environ.get("CI") else "quick")
