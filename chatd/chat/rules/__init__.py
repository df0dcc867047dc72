"""The rules of each command: what it does, to whom it is allowed, what it is answered.

A rule takes the connection, the command and whom to answer. It answers once: before it returns
where it reads, and when the store has confirmed where it writes; ``typing`` has no answer but a
refusal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from chatd.chat.connection import Answered, Connection
from chatd.chat.rules import history, identity, messages, moderation, presence, rooms
from chatd.journal import Unavailable
from chatd.model import Refusal, Refused
from chatd.protocol import commands

__all__ = ["RULES", "perform"]

RULES: Final[
    dict[type[commands.Command], Callable[[Connection, Any, Answered], Awaitable[None]]]
] = {
    commands.Auth: identity.auth,
    commands.Nick: identity.nick,
    commands.Join: rooms.join,
    commands.Leave: rooms.leave,
    commands.Who: rooms.who,
    commands.Rooms: rooms.list_rooms,
    commands.Say: messages.say,
    commands.Edit: messages.edit,
    commands.Delete: messages.delete,
    commands.Topic: messages.topic,
    commands.History: history.history,
    commands.Search: history.search,
    commands.Typing: presence.typing,
    commands.Read: presence.read,
    commands.Kick: moderation.act,
    commands.Ban: moderation.act,
    commands.Unban: moderation.act,
    commands.Mute: moderation.act,
    commands.Unmute: moderation.act,
    commands.Slow: moderation.act,
    commands.Close: moderation.act,
}
"""Every command there is, and its rule."""

_NAMES: Final = {kind: str(kind.__struct_config__.tag) for kind in RULES}


ASKING: Final = frozenset(
    {
        commands.Auth,
        commands.Join,
        commands.History,
        commands.Search,
        commands.Who,
        commands.Rooms,
    }
)
"""What makes the store or a long list be read, and so may be asked only so often."""


async def perform(connection: Connection, command: commands.Command, answered: Answered) -> None:
    """Carry out one command, after those that came before it on the same connection.

    Raises nothing for what a client may send. Waits while too much of this client's is unanswered,
    or while the bus is full; its reader waits with it.
    """
    chat = connection.chat

    def counted(answer: commands.Result | Refusal) -> None:
        if isinstance(answer, Refusal):
            chat.refusals[answer.code] += 1
        answered(answer)

    kind = type(command)
    chat.commands[_NAMES[kind]] += 1
    try:
        if not (connection.known or isinstance(command, commands.Auth)):
            raise Refused("unauthorized", "say who you are first: auth with a token")
        if kind in ASKING and connection.known:
            connection.charge_page()
        await RULES[kind](connection, command, counted)
    except Refused as refused:
        counted(refused.refusal)
    except Unavailable:
        counted(Refusal("unavailable", "the store cannot be read now", 1000))
