"""What chatd has to know about a Redis server, and which servers can hold its history."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, Self

from msgspec import Struct

from chatd.journal import Durability, StoreError
from chatd.journal.engine import Condition, Lost
from chatd.journal.redis.resp import Command, ErrorReply, Reply

__all__ = ["QUESTIONS", "Server"]

OLDEST: Final = (7, 0)
"""The first Redis whose scripts have flags (``#!lua``)."""


QUESTIONS: Final[Sequence[Command]] = (("INFO",), ("CONFIG", "GET", "appendfsync"), ("TIME",))
"""What a server is asked; `Server.read` reads the replies."""


class Server(Struct, frozen=True):
    """What chatd has to know about a server before it uses it, and while it does.

    Attributes:
        info: The fields of INFO.
        appendfsync: When the append-only file is written to the disk; None if chatd may not know.
        now: The server's time, in ms since 1970.
    """

    info: dict[str, str]
    appendfsync: str | None
    now: int = 0

    @classmethod
    def read(cls, info: Reply, config: Reply, time: Reply) -> Self:
        """Return what the replies to `QUESTIONS` say. Only the second one may be an error."""
        pairs = (line.partition(":") for line in info.decode(errors="replace").splitlines())
        fields = {name: value for name, colon, value in pairs if colon}
        appendfsync = None
        if not isinstance(config, ErrorReply):
            appendfsync = dict(config).get(b"appendfsync", b"").decode()
        seconds, microseconds = map(int, time)
        return cls(fields, appendfsync, seconds * 1000 + microseconds // 1000)

    @property
    def condition(self) -> Condition:
        """How much memory and how many replicas it has."""
        info = self.info
        memory = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
        limit = int(info.get("maxmemory", 0)) or math.inf
        replicas = sum(
            name.startswith("slave") and "state=online" in value for name, value in info.items()
        )
        return Condition(self.now, memory, limit, replicas)

    @property
    def life(self) -> str:
        """The name of the store's present life. Another process or other data is another life."""
        return self.info.get("run_id", "") + self.info.get("master_replid", "")

    def check(self, address: object, durability: Durability) -> None:
        """Raise an error if the server cannot hold chatd's history.

        Raises:
            StoreError: It has to be configured differently.
            Lost: It is a replica or loads its data at present, or cannot write to its disk.
        """
        info = self.info
        version = info.get("redis_version", "unknown")
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST:
            raise StoreError(f"{address} is Redis {version}: chatd needs 7.0 or newer")
        if info.get("redis_mode") == "sentinel":
            raise StoreError(
                f"history.url: {address} is a Sentinel: write sentinel://{address}/NAME"
            )
        if info.get("loading", "0") != "0":
            raise Lost(f"{address} is loading its data")
        if info.get("role", "master") != "master":
            raise Lost(f"{address} is a replica, not the primary server")
        policy = info.get("maxmemory_policy", "noeviction")
        if info.get("maxmemory", "0") != "0" and policy != "noeviction":
            raise StoreError(
                f"{address} has maxmemory-policy {policy}, which would delete history when its "
                "memory is full: set maxmemory-policy to noeviction"
            )
        if info.get("aof_enabled") != "1":
            raise StoreError(
                f"{address} has no append-only file, so a restart would lose history: set "
                "appendonly to yes"
            )
        if info.get("aof_last_write_status", "ok") != "ok":
            raise Lost(
                f"{address} cannot write its append-only file: make space on its disk, or see its "
                "log"
            )
        if durability == "fsync" and self.appendfsync != "always":
            known = self.appendfsync or "not readable by chatd's user (CONFIG GET)"
            raise StoreError(
                f'history.durability is "fsync", but appendfsync of {address} is {known}: set '
                'appendfsync to always, or history.durability to "commit"'
            )
