"""What chatd has to know about a Redis server, and which servers can hold its history."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from chatd.journal import Durability, StoreError
from chatd.journal.engine import Lost
from chatd.journal.redis.address import Address

__all__ = ["Server"]

OLDEST: Final = (7, 0)
"""The first Redis whose scripts have flags (``#!lua``)."""


class Server(Struct, frozen=True):
    """What chatd has to know about a server before it uses it.

    Attributes:
        info: The fields of INFO.
        appendfsync: When the append-only file is written to the disk; None if chatd may not know.
    """

    info: dict[str, str]
    appendfsync: str | None

    @property
    def life(self) -> str:
        """The name of the store's present life. Another process or other data is another life."""
        return self.info.get("run_id", "") + self.info.get("master_replid", "")

    def check(self, address: Address, durability: Durability) -> None:
        """Raise an error if the server cannot hold chatd's history.

        Raises:
            StoreError: It has to be configured differently.
            Lost: It is a replica at present.
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
        if info.get("role", "master") != "master":
            raise Lost(f"{address} is a replica")
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
        if durability == "fsync" and self.appendfsync != "always":
            known = self.appendfsync or "not readable by chatd's user (CONFIG GET)"
            raise StoreError(
                f'history.durability is "fsync", but appendfsync of {address} is {known}: set '
                'appendfsync to always, or history.durability to "commit"'
            )
