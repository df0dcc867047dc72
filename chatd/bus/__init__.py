"""The broadcast bus: collect, commit, answer, fan out; encoded once for all who speak alike."""

from __future__ import annotations

from chatd.bus.bus import Bus, BusStatistics, Shown, Submission
from chatd.bus.topic import Codec, Outlet, Subscription, Topic

__all__ = [
    "Bus",
    "BusStatistics",
    "Codec",
    "Outlet",
    "Shown",
    "Submission",
    "Subscription",
    "Topic",
]
