"""A user of the chat, as the rules and the rooms see one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import trio

from chatd.budgets import Bucket
from chatd.chat.names import Name
from chatd.timers import Timer

if TYPE_CHECKING:
    from chatd.chat.connection import Connection
    from chatd.chat.rooms import Room

__all__ = ["ADDRESSES", "User"]

ADDRESSES: Final = 8
"""This many addresses of a guest are remembered: a ban takes them in."""


class User:
    """A user, over all their connections."""

    __slots__ = (
        "addresses",
        "bytes",
        "chosen",
        "connections",
        "forgotten",
        "hold",
        "id",
        "marks",
        "messages",
        "new_rooms",
        "nick",
        "op_elsewhere",
        "pages",
        "place",
        "released",
        "rooms",
        "since",
        "subject",
    )

    def __init__(self, user_id: str, nick: Name, *, chosen: bool, subject: bool = False) -> None:
        self.id = user_id
        self.nick = nick
        self.subject = subject
        """Whether a token names this user; otherwise it is a guest."""
        self.chosen = chosen
        """Whether the user asked for the nick. Only then is it held and saved."""
        self.place = ""
        """Where the clients of a guest are who chose a nick by HTTP: `Peer.place`."""
        self.connections: set[Connection] = set()
        self.addresses: dict[str, float] = {}
        """The addresses and networks of connections that ended, and when, the last one last."""
        self.rooms: dict[Room, None] = {}
        """The rooms that the user is in, in the order of entering."""
        self.marks: dict[str, int] = {}
        """The last number that the user has read, by the room's key."""
        self.forgotten = False
        """Whether nothing is to be saved of the user any longer."""
        self.op_elsewhere = False
        """Whether the user is in a room as an operator, at any daemon, as far as is known here."""
        self.since = trio.current_time()
        self.released: float | None = None
        """When the last connection ended, on Trio's clock; None while present."""
        self.hold: Timer | None = None
        """Drops the user when the nick is no longer reserved; None while present."""
        self.messages = Bucket()
        self.bytes = Bucket()
        self.pages = Bucket()
        self.new_rooms = Bucket()

    @property
    def op(self) -> bool:
        """Whether others see the user as an operator: one of the connections is an operator's."""
        return self.op_elsewhere or self.is_op_here

    @property
    def is_op_here(self) -> bool:
        """Whether one of the connections to this daemon is an operator's."""
        for connection in self.connections:  # noqa: SIM110  a generator takes three times as long
            if connection.op:
                return True
        return False

    def merge_marks(self, marks: Mapping[str, int]) -> None:
        """Add stored read marks. A mark never moves back."""
        for room, seq in marks.items():
            self.marks[room] = max(seq, self.marks.get(room, 0))

    def note_addresses(self, addresses: Iterable[str]) -> None:
        """Remember from where a guest came last."""
        if self.subject:
            return
        for address in addresses:
            self.addresses.pop(address, None)
            self.addresses[address] = trio.current_time()
        while len(self.addresses) > ADDRESSES:
            del self.addresses[next(iter(self.addresses))]
