"""The broadcast bus: it collects submissions, commits and answers them, and fans events out.

* `chatd.bus.bus`: the order of all this, two tasks, and the two channels that join them. It also
  says why a subscriber has an outbox in place of a third channel.
* `chatd.bus.feed`: one room's subscribers and its visible head.
* `chatd.bus.codec`: blocks that many connections share, and what happens if a codec raises.
* `chatd.bus.fanout`: the loop that offers a block to many.
"""

from __future__ import annotations

from chatd.bus.bus import Bus, BusStatistics, FannedOut, Neighbours, Submission
from chatd.bus.codec import Block, Codec, Outbox, Subscriber, encode, encode_page
from chatd.bus.fanout import SLICES, Group, Slices, fan_out
from chatd.bus.feed import Feed, Subscription

__all__ = [
    "SLICES",
    "Block",
    "Bus",
    "BusStatistics",
    "Codec",
    "FannedOut",
    "Feed",
    "Group",
    "Neighbours",
    "Outbox",
    "Slices",
    "Submission",
    "Subscriber",
    "Subscription",
    "encode",
    "encode_page",
    "fan_out",
]
