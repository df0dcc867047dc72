"""What all tests share."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# On a shared machine a deadline tells of the neighbours. CI runs more examples of everything.
settings.register_profile("quick", deadline=None, max_examples=60)
settings.register_profile("ci", deadline=None, max_examples=200)
settings.load_profile("ci" if os.environ.get("CI") else "quick")

# A shell's background jobs ignore Ctrl-C, and so would every program that a test starts from one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
