"""What only operators may do to people and rooms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from chatd.chat.connection import Answered, Connection
from chatd.chat.moderation import Deed, Moderation
from chatd.model import Refusal
from chatd.protocol import commands

__all__ = ["act"]

_ACTS: Final[
    dict[
        type[commands.Moderate],
        Callable[[Moderation, Deed], Awaitable[commands.Sanctioned | Refusal]],
    ]
] = {
    commands.Kick: Moderation.kick,
    commands.Ban: Moderation.ban,
    commands.Unban: Moderation.unban,
    commands.Mute: Moderation.mute,
    commands.Unmute: Moderation.unmute,
    commands.Slow: Moderation.slow,
    commands.Close: Moderation.close,
}


async def act(connection: Connection, command: commands.Moderate, answered: Answered) -> None:
    """Do it where an operator asks for it. Whoever else does is refused, and noted."""
    room: str | None = getattr(command, "room", None)
    if not connection.op:
        connection.chat.log.emit(
            "refused",
            reason=f"no operator: {command.__struct_config__.tag}",
            code="forbidden",
            room=room,
            **connection.who(),
        )
        answered(Refusal("forbidden", "that is the operators' to do"))
        return
    # What was said before it is seen before it.
    await connection.settled()
    deed = Deed(
        by=connection.user.id,
        room=room,
        nick=getattr(command, "nick", None),
        user=getattr(command, "user", None),
        network=getattr(command, "network", None),
        seconds=getattr(command, "seconds", None),
        reason=getattr(command, "reason", None) or "",
    )
    answered(await _ACTS[type(command)](Moderation(connection.chat), deed))
