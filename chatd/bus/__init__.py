"""The broadcast bus: collect, commit, answer, fan out; encoded once for all who speak alike."""

from __future__ import annotations

from chatd.bus.bus import Bus, BusStatistics, Shown, Submission
from chatd.bus.codec import Block, Codec, Subscriber, encode, encode_page, readable
from chatd.bus.fanout import Group, fan_out
from chatd.bus.topic import Subscription, Topic

__all__ = [
    "Block",
    "Bus",
    "BusStatistics",
    "Codec",
    "Group",
    "Shown",
    "Submission",
    "Subscriber",
    "Subscription",
    "Topic",
    "encode",
    "encode_page",
    "fan_out",
    "readable",
]
