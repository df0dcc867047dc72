"""Who somebody is, and what they are called."""

from __future__ import annotations

from functools import partial

from chatd.chat import commands
from chatd.chat.connection import Answered, Connection
from chatd.chat.names import Name, nick_name
from chatd.chat.users import User
from chatd.model import Outcome, Refusal, Remember, UserRecord

__all__ = ["auth", "nick"]


async def auth(connection: Connection, command: commands.Auth, answered: Answered) -> None:
    """Make the guest that a connection began as the guest to whom the secret was given."""
    chat = connection.chat
    user = await chat.users.restore(command.session)
    if user is None:
        answered(Refusal("unauthorized", "this session is not known here, or over"))
        return
    if user is not connection.user:
        if connection.joined:
            answered(Refusal("forbidden", "another user's session is for before the first join"))
            return
        connection.become(user)
    answered(commands.Authenticated(user.id, user.nick.shown, user.op, chat.users.secret(user)))


async def nick(connection: Connection, command: commands.Nick, answered: Answered) -> None:
    """Call the user something else, once that is committed: it holds across a restart.

    What was said before is seen under the old nick before it, what follows under the new one.
    """
    await connection.settled()
    user, users = connection.user, connection.chat.users
    name = nick_name(command.nick)
    if isinstance(name, Refusal):
        answered(name)
    elif name == user.nick and user.chosen:
        answered(commands.Renamed(name.shown))
    elif wait := user.floods(0, connection.chat.settings.limits):
        answered(Refusal("rate_limited", "that is too much at once", wait))
    elif not users.claim(user, name):
        answered(Refusal("nick_taken", f"{name.shown} is somebody else"))
    else:
        await connection.publish(
            Remember(UserRecord(user.id, name.shown, None)),
            partial(_renamed, connection, user, name, answered),
        )
        await connection.settled()


def _renamed(
    connection: Connection, user: User, name: Name, answered: Answered, outcome: Outcome
) -> None:
    chat = connection.chat
    if isinstance(outcome, Refusal):
        chat.users.unclaim(user, name)
        answered(outcome)
        return
    old = user.nick.shown
    for room in user.rooms:
        room.strike(user)
    chat.users.rename(user, name)
    answered(commands.Renamed(name.shown))
    chat.log.emit("nick", old=old, **connection.who())
    for room in user.rooms:
        room.rename(user, old)
