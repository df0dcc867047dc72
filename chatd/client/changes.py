"""What the client tells of itself, among the daemon's events and in order with them."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from chatd.client.errors import Ending, Refused
from chatd.protocol.commands import Position

__all__ = ["Change", "Gap", "Lost", "Reconnected", "RoomLost"]


class Lost(Struct, frozen=True):
    """The connection is gone. The client comes back by itself, unless it was told not to."""

    ending: Ending

    @property
    def on(self) -> str:
        return "lost"


class Reconnected(Struct, frozen=True):
    """There is a connection again; what was missed of each room comes behind this.

    ``same_user`` is false where the daemon did not know the session any more.
    """

    user: str | None
    nick: str | None
    same_user: bool

    @property
    def on(self) -> str:
        return "reconnected"


class Gap(Struct, frozen=True):
    """Events of ``room`` after ``after`` cannot be had: its log is another one, or they are gone.

    What follows goes on from elsewhere; `Chat.history` tells what the room holds now.
    """

    room: str
    after: Position

    @property
    def on(self) -> str:
        return "gap"


class RoomLost(Struct, frozen=True):
    """The daemon refused to let this client back into a room."""

    room: str
    refused: Refused

    @property
    def on(self) -> str:
        return "room_lost"


Change: TypeAlias = Lost | Reconnected | Gap | RoomLost
