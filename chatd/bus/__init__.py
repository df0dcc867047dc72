"""The broadcast bus: collect, commit, answer, fan out; encoded once for all who speak alike."""

from __future__ import annotations

from chatd.bus.bus import Bus, BusStatistics, FannedOut, Submission
from chatd.bus.codec import Block, Codec, Subscriber, encode, encode_page, readable
from chatd.bus.fanout import Group, fan_out
from chatd.bus.feed import Feed, Subscription

__all__ = [
    "Block",
    "Bus",
    "BusStatistics",
    "Codec",
    "FannedOut",
    "Feed",
    "Group",
    "Submission",
    "Subscriber",
    "Subscription",
    "encode",
    "encode_page",
    "fan_out",
    "readable",
]
