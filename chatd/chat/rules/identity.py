"""Commands about identity: ``auth`` and ``nick``."""

from __future__ import annotations

from functools import partial

from chatd.chat.connection import Connection
from chatd.chat.names import nick_name
from chatd.chat.replies import Commit, Reply
from chatd.model import BANNED, GOING_AWAY, Refused
from chatd.protocol import commands, events

__all__ = ["auth", "nick"]


async def auth(connection: Connection, command: commands.Auth) -> Reply[commands.Identity]:
    """Become the user that a token names, or the guest to whom a session was issued."""
    try:
        if command.token is not None:
            return await _by_token(connection, command.token)
        if command.session is not None:
            return await _by_session(connection, command.session)
    except Refused as refused:
        refusal = refused.refusal
        if refusal.code == "banned":
            # The answer comes first, and then the end: no second try under another name.
            refused.then = partial(connection.end, BANNED, refusal.message)
        elif refusal.code == "unavailable" and not connection.authenticated:
            # It may connect again, which it may not once its time to authenticate is over.
            refused.then = partial(connection.end, GOING_AWAY, refusal.message)
        raise
    raise Refused("bad_request", "auth needs a token or a session.")


async def _by_token(connection: Connection, token: str) -> Reply[commands.Identity]:
    chat = connection.chat
    grant = await chat.admit(token, connection.limit_key)
    if connection.authenticated and connection.user.subject and connection.user.id == grant.user:
        connection.renew_grant(grant)
        return Reply(_identity(connection))
    if connection.joined:
        raise Refused("forbidden", "You are in a room as another user. Connect again.")
    login = await chat.log_in(
        grant, connection.limit_key, connection.nick, connection.provisional_guest
    )
    connection.switch_user(login.user, login.grant)
    if login.nick_notice is None:
        return Reply(_identity(connection))
    return Reply(
        _identity(connection), partial(connection.notify, events.Notice(login.nick_notice))
    )


async def _by_session(connection: Connection, session: str) -> Reply[commands.Identity]:
    chat = connection.chat

    def check(user_id: str) -> None:
        chat.check_may_enter(user_id, connection.limit_key, None)
        if connection.joined and user_id != connection.user.id:
            raise Refused("forbidden", "You are in a room as another user. Connect again.")

    user = await chat.users.restore(session, check) if chat.allows_guests else None
    if user is None:
        raise Refused("unauthorized", "This session is not valid, or has expired.")
    if not connection.authenticated or user is not connection.user:
        connection.switch_user(user)
    return Reply(_identity(connection))


def _identity(connection: Connection) -> commands.Identity:
    user = connection.user
    session = connection.chat.users.session(user)
    return commands.Identity(user.id, user.nick.display, connection.op, session)


async def nick(connection: Connection, command: commands.Nick) -> Commit | Reply[commands.Renamed]:
    """Change the user's nick once that is committed, so that it survives a restart.

    Earlier messages are fanned out under the old nick, before the change.
    """
    await connection.flushed()
    user, users, roster = connection.user, connection.chat.users, connection.chat.roster
    name = nick_name(command.nick)
    if name == user.nick and user.chosen:
        return Reply(commands.Renamed(name.display))
    connection.chat.flood.charge(connection, 0)
    if not users.claim(user, name):
        raise Refused("nick_taken", users.taken(user.id, name))

    def rename() -> None:
        old = user.nick.display
        user.chosen = True
        users.rename(user, name)
        connection.log.emit("nick", old=old)
        roster.renamed(user, old)

    return Commit(
        roster.renaming(user, name),
        lambda _: commands.Renamed(name.display),
        then=rename,
        undo=partial(users.unclaim, user, name),
        barrier=True,
    )
