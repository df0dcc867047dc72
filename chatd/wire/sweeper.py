"""Heartbeats of WebSockets: who was silent is pinged, who stays silent is ended."""

from __future__ import annotations

from typing import Protocol

from chatd.wire.heartbeats import Heartbeats

__all__ = ["Heartbeat", "Rhythm", "Sweeper"]


class Rhythm(Protocol):
    """The settings that count: seconds of silence before a ping, and for its answer."""

    @property
    def ping_interval_seconds(self) -> float: ...

    @property
    def ping_timeout_seconds(self) -> float: ...


class Heartbeat(Protocol):
    """A connection as the sweeper sees it."""

    # When the peer's last byte came, on Trio's clock.
    @property
    def last_heard(self) -> float: ...

    # Whether it is we who are not reading: silence then says nothing of the peer.
    @property
    def holds_peer(self) -> bool: ...

    def ask(self) -> None:
        """Send a ping."""

    def silent(self) -> None:
        """Hear that nothing came since the ping."""


class _Vigil:
    """One connection's heartbeat: pinged after a silence, ended after a longer one."""

    __slots__ = ("_asked", "_heartbeat", "_sweeper")

    def __init__(self, heartbeat: Heartbeat, sweeper: Sweeper) -> None:
        self._heartbeat = heartbeat
        self._sweeper = sweeper
        self._asked = -1.0

    def beat(self, now: float) -> float | None:
        heartbeat, rhythm = self._heartbeat, self._sweeper.rhythm
        heard = now if heartbeat.holds_peer else heartbeat.last_heard
        if heard + rhythm.ping_interval_seconds > now:
            self._asked = -1.0
            return heard + rhythm.ping_interval_seconds
        if self._asked <= heard:
            self._asked = now
            heartbeat.ask()
            return now + rhythm.ping_timeout_seconds
        self._sweeper.discard(heartbeat)
        heartbeat.silent()
        return None


class Sweeper:
    """Keeps the heartbeats of connections that are pinged when they are silent.

    ``rhythm`` may be replaced while running; each connection takes it up when it is next due.
    """

    def __init__(self, rhythm: Rhythm) -> None:
        self.rhythm = rhythm
        self._heartbeats = Heartbeats()
        self._vigils: dict[Heartbeat, _Vigil] = {}

    def __len__(self) -> int:
        return len(self._vigils)

    def add(self, heartbeat: Heartbeat) -> None:
        vigil = self._vigils[heartbeat] = _Vigil(heartbeat, self)
        self._heartbeats.add(vigil, heartbeat.last_heard + self.rhythm.ping_interval_seconds)

    def discard(self, heartbeat: Heartbeat) -> None:
        """Forget a connection."""
        vigil = self._vigils.pop(heartbeat, None)
        if vigil is not None:
            self._heartbeats.discard(vigil)

    async def run(self) -> None:
        """Sweep until cancelled."""
        await self._heartbeats.run()
