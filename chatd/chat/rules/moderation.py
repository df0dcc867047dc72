"""Commands that only operators may give."""

from __future__ import annotations

from chatd.chat import moderation
from chatd.chat.connection import Connection
from chatd.chat.replies import Reply
from chatd.model import Refused
from chatd.protocol import commands

__all__ = ["moderate"]


async def moderate(
    connection: Connection, command: commands.Moderate
) -> Reply[commands.Sanctioned]:
    """Carry out an operator's command."""
    if not connection.op:
        raise Refused("forbidden", "Only operators can do this.")
    # The operator's earlier messages are fanned out before the command takes effect.
    await connection.flushed()
    return Reply(await moderation.moderate(connection.chat, connection.user.id, command))
