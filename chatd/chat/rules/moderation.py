"""What only operators may do to people and rooms."""

from __future__ import annotations

from chatd.chat.connection import Answered, Connection
from chatd.chat.moderation import moderate
from chatd.model import Refused
from chatd.protocol import commands

__all__ = ["act"]


async def act(
    connection: Connection,
    command: commands.Sanction | commands.Slow | commands.Close,
    answered: Answered,
) -> None:
    """Carry out an operator's command. Anybody else's is refused and logged."""
    if not connection.op:
        connection.log.emit(
            "refused",
            reason=f"no operator: {command.__struct_config__.tag}",
            code="forbidden",
            room=command.room,
        )
        raise Refused("forbidden", "that is the operators' to do")
    # What was said before it is seen before it.
    await connection.settled()
    answered(await moderate(connection.chat, connection.user.id, command))
