"""The user of a request: a token's user, a guest with a session, or the guest of an address."""

from __future__ import annotations

from functools import partial

from chatd.chat import Chat, Login
from chatd.chat.sessions import is_guest
from chatd.gateways.credentials import admitted, authorization, bearer
from chatd.journal import Unavailable
from chatd.model import Refused
from chatd.wire.request import Request

__all__ = ["log_in"]


async def log_in(chat: Chat, request: Request) -> Login:
    """Return the user of a request, whose nick is held from now on.

    Secrets in the URL are ignored.

    Args:
        chat: The chat.
        request: The request. If a page sent it, that page was found to be allowed.

    Raises:
        Refused: The token or session is invalid, the user is banned, guests are not allowed, or
            the nick is not free.
    """
    try:
        login = await _log_in(chat, request)
    except Unavailable:
        raise Refused("unavailable", "The store cannot be read now.", 1000) from None
    chat.users.visit(login.user, request.peer.limit_key)
    return login


async def _log_in(chat: Chat, request: Request) -> Login:
    limit_key = request.peer.limit_key
    nick = request.query.get("nick")
    check = partial(_check_guest, chat, limit_key)
    secret = authorization(request)
    if secret is not None and is_guest(secret.partition(".")[0]):
        user = await chat.users.restore(secret, check) if chat.allows_guests else None
        if user is None:
            raise Refused("unauthorized", "This session is not valid, or has expired.")
        return Login(user, None)
    token = bearer(request, chat.settings) if secret is None else secret
    grant = await admitted(chat, request, token)
    if grant is not None:
        return await chat.log_in(grant, limit_key, nick)
    if not chat.allows_guests:
        message = "Guests are not allowed. Send a token: Authorization: Bearer TOKEN."
        raise Refused("unauthorized", message)
    return Login(await chat.users.guest_of(request.peer.place, nick, check), None)


def _check_guest(chat: Chat, limit_key: str, user: str) -> None:
    chat.check_may_enter(user, limit_key, None)
