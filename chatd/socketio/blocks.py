"""A packet's block: its messages as the clients of one revision are to have them."""

from __future__ import annotations

from collections.abc import Sequence

from chatd.engineio import Block
from chatd.engineio.packets import Revision
from chatd.socketio.packets import in_ascii

__all__ = ["block_of"]


def block_of(messages: Sequence[str | bytes], revision: Revision) -> Block:
    """Make the block of a packet's messages.

    Revision 3's has JSON in ASCII alone. Of the text of a poll its clients have two ideas (1.x
    takes each character for a byte of UTF-8, engine.io-parser 1.3, and breaks off where it is
    none; 2.x does not), and of this the same.
    """
    if revision == 3:
        messages = [in_ascii(part) if isinstance(part, str) else part for part in messages]
    return Block(messages, revision)
