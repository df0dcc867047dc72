"""Who somebody is, and what they are called."""

from __future__ import annotations

from functools import partial

from chatd.chat.connection import Answered, Connection
from chatd.chat.names import Name, nick_name
from chatd.chat.users import User
from chatd.model import BANNED, Outcome, Refusal, Remember, UserRecord
from chatd.protocol import commands, events

__all__ = ["auth", "nick"]


async def auth(connection: Connection, command: commands.Auth, answered: Answered) -> None:
    """Be who a token names, or the guest to whom a session's secret was given."""
    if command.token is not None:
        await _by_token(connection, command.token, answered)
    elif command.session is not None:
        await _by_session(connection, command.session, answered)
    else:
        answered(Refusal("bad_request", "auth has a token or a session"))


async def _by_token(connection: Connection, token: str, answered: Answered) -> None:
    chat = connection.chat
    grant = chat.verify(token)
    if isinstance(grant, Refusal):
        _refuse(connection, grant, answered)
        return
    if banned := chat.refusal_to_enter(grant.user, connection.counted_as, grant):
        _shut_out(connection, banned, answered)
        return
    if connection.known and connection.user.subject and connection.user.id == grant.user:
        connection.renew(grant)
        _authenticated(connection, answered)
    elif connection.joined:
        answered(Refusal("forbidden", "another user's token is for before the first join"))
    else:
        came = await chat.users.subject(grant, connection.nick, connection.stranger)
        connection.become(came.user, came.grant)
        _authenticated(connection, answered)
        if came.why_not is not None:
            connection.tell(events.Notice(came.why_not))


async def _by_session(connection: Connection, session: str, answered: Answered) -> None:
    chat = connection.chat
    user = await chat.users.restore(session) if chat.guests else None
    if user is None:
        _refuse(
            connection, Refusal("unauthorized", "this session is not known here, or over"), answered
        )
        return
    if banned := chat.refusal_to_enter(user.id, connection.counted_as, None):
        _shut_out(connection, banned, answered)
        return
    if not connection.known or user is not connection.user:
        if connection.joined:
            answered(Refusal("forbidden", "another user's session is for before the first join"))
            return
        connection.become(user)
    _authenticated(connection, answered)


def _authenticated(connection: Connection, answered: Answered) -> None:
    user, session = connection.user, connection.chat.users.secret(connection.user)
    answered(commands.Identity(user.id, user.nick.shown, connection.op, session))


def _shut_out(connection: Connection, banned: Refusal, answered: Answered) -> None:
    """Answer who is banned, and be done with them: another name is no way around it."""
    _refuse(connection, banned, answered)
    connection.end(BANNED, banned.message)


def _refuse(connection: Connection, refusal: Refusal, answered: Answered) -> None:
    connection.chat.log.emit("refused", reason=refusal.message, **connection.who())
    answered(refusal)


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
    elif wait := connection.floods(0):
        answered(Refusal("rate_limited", "that is too much at once", wait))
    elif not users.claim(user, name):
        answered(Refusal("nick_taken", f"{name.shown} is somebody else"))
    else:
        await connection.publish(
            Remember(UserRecord(user.id, name.shown, None, user.subject)),
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
