"""What a client's calls raise, and why a connection ended."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

from msgspec import Struct

from chatd.model import CLOSES

__all__ = [
    "ChatError",
    "Closed",
    "ConnectError",
    "Ending",
    "Garbled",
    "Refused",
    "may_reconnect",
    "unwrapped",
]


class Ending(Struct, frozen=True):
    """Why a connection ended: the Close frame's code and reason, or 1006 where none came.

    ``reconnect`` tells whether coming back can help, ``retry_ms`` when the daemon asks for it.
    """

    code: int
    reason: str
    reconnect: bool
    retry_ms: int | None = None


class ChatError(Exception):
    """Anything this package raises of its own."""


class Refused(ChatError):  # noqa: N818  what the daemon did
    """The daemon refused a command. ``code`` is for programs, ``message`` for people.

    ``unavailable`` means that it may or may not have happened: say it again with the same key.
    ``retry_ms`` is there where waiting that long helps.
    """

    def __init__(self, code: str, message: str, retry_ms: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_ms = retry_ms


class Garbled(ChatError):  # noqa: N818  what the frame is, not what went wrong
    """The daemon sent what is not `chatd.v1`, for which its connection is dropped."""


class ConnectError(ChatError):
    """There is no connection. ``status`` is the HTTP status, where there was one.

    ``hopeless``: trying again does not help. ``retry_ms``: when it may.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        hopeless: bool = False,
        retry_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.hopeless = hopeless
        self.retry_ms = retry_ms


class Closed(ChatError):  # noqa: N818  what the chat is
    """The chat is over: by `Chat.aclose`, or for a reason that coming back does not mend."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(f"{ending.code}: {ending.reason}")
        self.ending = ending


@contextmanager
def unwrapped() -> Generator[None]:
    """Let the one exception that ended the block out of the groups nurseries made of it."""
    try:
        yield
    except BaseExceptionGroup as group:
        alone: BaseException = group
        while isinstance(alone, BaseExceptionGroup) and len(alone.exceptions) == 1:
            alone = alone.exceptions[0]
        if isinstance(alone, BaseExceptionGroup):
            raise
        _raise(alone)


def _raise(error: BaseException) -> NoReturn:
    context = error.__context__
    try:
        raise error
    finally:
        # Otherwise it would tell of the group, as what was being handled when it happened.
        error.__context__ = context


def may_reconnect(code: int) -> bool:
    """Tell whether to come back after a Close frame with this code.

    Codes a newer daemon may use go by range: 4500 to 4999 are for good.
    """
    if (close := CLOSES.get(code)) is not None:
        return close.reconnect
    return not 4500 <= code <= 4999
