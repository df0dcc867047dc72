"""Who somebody is, and what they are called."""

from __future__ import annotations

from functools import partial

from chatd.chat.connection import Answered, Connection
from chatd.chat.names import Name, nick_name
from chatd.chat.users import User
from chatd.model import BANNED, Outcome, Refusal, Refused, Remember, UserRecord
from chatd.protocol import commands, events

__all__ = ["auth", "nick"]


async def auth(connection: Connection, command: commands.Auth, answered: Answered) -> None:
    """Be who a token names, or the guest to whom a session's secret was given."""
    try:
        if command.token is not None:
            await _by_token(connection, command.token, answered)
        elif command.session is not None:
            await _by_session(connection, command.session, answered)
        else:
            raise Refused("bad_request", "auth has a token or a session")
    except Refused as refused:
        refusal = refused.refusal
        if refusal.code in ("unauthorized", "banned"):
            connection.log.emit("refused", reason=refusal.message)
        answered(refusal)
        # A banned user gets no second try under another name.
        if refusal.code == "banned":
            connection.end(BANNED, refusal.message)


async def _by_token(connection: Connection, token: str, answered: Answered) -> None:
    chat = connection.chat
    grant = chat.verify(token)
    chat.check_may_enter(grant.user, connection.counted_as, grant)
    if connection.known and connection.user.subject and connection.user.id == grant.user:
        connection.renew(grant)
        _authenticated(connection, answered)
    elif connection.joined:
        raise Refused("forbidden", "another user's token is for before the first join")
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
        raise Refused("unauthorized", "this session is not known here, or over")
    chat.check_may_enter(user.id, connection.counted_as, None)
    if not connection.known or user is not connection.user:
        if connection.joined:
            raise Refused("forbidden", "another user's session is for before the first join")
        connection.become(user)
    _authenticated(connection, answered)


def _authenticated(connection: Connection, answered: Answered) -> None:
    user, session = connection.user, connection.chat.users.secret(connection.user)
    answered(commands.Identity(user.id, user.nick.shown, connection.op, session))


async def nick(connection: Connection, command: commands.Nick, answered: Answered) -> None:
    """Call the user something else, once that is committed: it holds across a restart.

    What was said before is seen under the old nick before it, what follows under the new one.
    """
    await connection.settled()
    user, users = connection.user, connection.chat.users
    name = nick_name(command.nick)
    if name == user.nick and user.chosen:
        answered(commands.Renamed(name.shown))
        return
    connection.charge_message(0)
    if not users.claim(user, name):
        raise Refused("nick_taken", f"{name.shown} is somebody else")
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
    for one in user.connections:
        one.bind_log()
    connection.log.emit("nick", old=old)
    for room in user.rooms:
        room.rename(user, old)
