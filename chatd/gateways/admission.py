"""Whether, and when, a new client may come in; before its opening handshake is answered."""

from __future__ import annotations

from collections.abc import Callable

from chatd.chat import Chat
from chatd.wire.request import Refused, refusal

__all__ = ["let_in"]


async def let_in(chat: Chat, refuses: Callable[[], str | None]) -> None:
    """Return when a new client may come in.

    Args:
        chat: The chat.
        refuses: Returns why new clients are refused; None while they are accepted.

    Raises:
        Refused: They are refused, or too many are coming in.
    """
    why = refuses()
    if why is None:
        admitted = await chat.arrivals.admit()
        why = refuses() if admitted else "too many clients are connecting"
    if why is not None:
        raise Refused(refusal(503, why, [("Retry-After", "1")]))
