"""The events that the client itself reports, in order with the daemon's."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from chatd.client.errors import Ending, Refused
from chatd.protocol.commands import Position

__all__ = ["Change", "Gap", "Lost", "Reconnected", "RoomLost"]


class Lost(Struct, frozen=True):
    """The connection is lost. Unless ``reconnect=False``, the client connects again by itself.

    Attributes:
        ending: Why it ended.
    """

    ending: Ending

    @property
    def on(self) -> str:
        """``lost``."""
        return "lost"


class Reconnected(Struct, frozen=True):
    """There is a connection again. The events that were missed come after this.

    Attributes:
        user: The user's id.
        nick: The user's nick.
        same_user: False if the session had expired and this is another user.
    """

    user: str | None
    nick: str | None
    same_user: bool

    @property
    def on(self) -> str:
        """``reconnected``."""
        return "reconnected"


class Gap(Struct, frozen=True):
    """Events of a room are lost: they were removed, or the room's log is another one.

    The next events of the room come from after the gap. `Chat.history` reads what there is.

    Attributes:
        room: The room's name.
        after: The position of the last event before the gap.
    """

    room: str
    after: Position

    @property
    def on(self) -> str:
        """``gap``."""
        return "gap"


class RoomLost(Struct, frozen=True):
    """The daemon refused to let the client join a room again.

    Attributes:
        room: The room's name.
        refused: Why.
    """

    room: str
    refused: Refused

    @property
    def on(self) -> str:
        """``room_lost``."""
        return "room_lost"


Change: TypeAlias = Lost | Reconnected | Gap | RoomLost
"""An event that the client itself reports."""
