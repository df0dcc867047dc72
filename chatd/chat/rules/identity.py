"""Who a user is, and what others call them."""

from __future__ import annotations

from functools import partial

from chatd.chat.connection import Connection
from chatd.chat.names import nick_name
from chatd.chat.replies import Commit, Reply
from chatd.model import BANNED, Refusal, Refused, Remember, UserRecord
from chatd.protocol import commands, events

__all__ = ["auth", "nick"]


async def auth(
    connection: Connection, command: commands.Auth
) -> Reply[commands.Identity] | Reply[Refusal]:
    """Become the user that a token names, or the guest to whom a session was issued."""
    try:
        if command.token is not None:
            return await _by_token(connection, command.token)
        if command.session is not None:
            return await _by_session(connection, command.session)
    except Refused as refused:
        refusal = refused.refusal
        if refusal.code in ("unauthorized", "banned"):
            connection.log.emit("refused", reason=refusal.message)
        if refusal.code == "banned":
            # No second try under another name.
            return Reply(refusal, partial(connection.end, BANNED, refusal.message))
        raise
    raise Refused("bad_request", "auth has a token or a session")


async def _by_token(connection: Connection, token: str) -> Reply[commands.Identity]:
    chat = connection.chat
    grant = chat.verify(token)
    chat.check_may_enter(grant.user, connection.counted_as, grant)
    if connection.known and connection.user.subject and connection.user.id == grant.user:
        connection.renew(grant)
        return Reply(_identity(connection))
    if connection.joined:
        raise Refused("forbidden", "another user's token is for before the first join")
    came = await chat.users.subject(grant, connection.nick, connection.stranger)
    connection.become(came.user, came.grant)
    if came.why_not is None:
        return Reply(_identity(connection))
    return Reply(_identity(connection), partial(connection.tell, events.Notice(came.why_not)))


async def _by_session(connection: Connection, session: str) -> Reply[commands.Identity]:
    chat = connection.chat
    user = await chat.users.restore(session) if chat.guests else None
    if user is None:
        raise Refused("unauthorized", "this session is not known here, or over")
    chat.check_may_enter(user.id, connection.counted_as, None)
    if not connection.known or user is not connection.user:
        if connection.joined:
            raise Refused("forbidden", "another user's session is for before the first join")
        connection.become(user)
    return Reply(_identity(connection))


def _identity(connection: Connection) -> commands.Identity:
    user = connection.user
    session = connection.chat.users.secret(user)
    return commands.Identity(user.id, user.nick.shown, connection.op, session)


async def nick(connection: Connection, command: commands.Nick) -> Commit | Reply[commands.Renamed]:
    """Change the user's nick once that is committed, so that it survives a restart.

    What was said before is seen under the old nick, and before the change.
    """
    await connection.flushed()
    user, users = connection.user, connection.chat.users
    name = nick_name(command.nick)
    if name == user.nick and user.chosen:
        return Reply(commands.Renamed(name.shown))
    connection.charge_message(0)
    if not users.claim(user, name):
        raise Refused("nick_taken", f"{name.shown} is somebody else")
    old = user.nick.shown

    def rename(_: None) -> commands.Renamed:
        nonlocal old
        old = user.nick.shown  # another connection of the user may have been quicker
        for room in user.rooms:
            room.strike(user)
        users.rename(user, name)
        for one in user.connections:
            one.bind_log()
        return commands.Renamed(name.shown)

    def tell_rooms() -> None:
        connection.log.emit("nick", old=old)
        for room in user.rooms:
            room.rename(user, old)

    return Commit(
        Remember(UserRecord(user.id, name.shown, None, user.subject)),
        rename,
        then=tell_rooms,
        undo=partial(users.unclaim, user, name),
        barrier=True,
    )
