"""The exceptions of the client, and why a connection ended."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

from msgspec import Struct

from chatd.model import CLOSES, LOST
from chatd.protocol.events import Bye

__all__ = [
    "ChatError",
    "Closed",
    "ConnectError",
    "Ending",
    "Garbled",
    "Refused",
    "may_reconnect",
    "unwrapped",
    "with_bye",
]


class Ending(Struct, frozen=True):
    """Why a connection ended.

    Attributes:
        code: The code of the Close frame (RFC 6455 section 7.4), or 1006 if there was none.
        reason: Why, for people.
        reconnect: True if connecting again can help.
        retry_ms: After how many milliseconds the daemon asks the client to reconnect; None if it
            does not say.
    """

    code: int
    reason: str
    reconnect: bool
    retry_ms: int | None = None


class ChatError(Exception):
    """The base of all exceptions of this package."""


class Refused(ChatError):  # noqa: N818  an answer, not an error
    """The daemon refused a command.

    Attributes:
        code: Why, for programs: see "Errors" in docs/protocol.md. With ``unavailable`` the command
            may have been carried out: send a message again with the same key.
        message: Why, for people.
        retry_ms: After how many milliseconds the command may succeed; None if waiting does not
            help.
    """

    def __init__(self, code: str, message: str, retry_ms: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_ms = retry_ms


class Garbled(ChatError):  # noqa: N818  what the frame is, not what went wrong
    """The daemon sent a frame that is not ``chatd.v1``. Its connection is dropped."""


class ConnectError(ChatError):
    """A connection could not be made.

    Attributes:
        status: The status of the HTTP response; None if there was none.
        hopeless: True if trying again does not help.
        retry_ms: After how many milliseconds it may help; None if that is not known.
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
    """The chat is over: it was closed by `Chat.aclose`, or the daemon ended it for good.

    Attributes:
        ending: Why the last connection ended.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__(f"{ending.code}: {ending.reason}")
        self.ending = ending


@contextmanager
def unwrapped() -> Generator[None]:
    """Raise the exception that ended the block without the groups that nurseries put it in.

    Several exceptions stay a group.
    """
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
        # Otherwise the group would be the context, as what was being handled at that time.
        error.__context__ = context


def may_reconnect(code: int) -> bool:
    """Return whether connecting again can help after a Close frame with this code.

    The codes 4500 to 4999 are final, also those that only a later version of the daemon has.
    """
    if (close := CLOSES.get(code)) is not None:
        return close.reconnect
    return not 4500 <= code <= 4999


def with_bye(ending: Ending, bye: Bye) -> Ending:
    """Return ``ending`` with the details of the daemon's ``bye``."""
    cut_short = ending.code == LOST.code
    return Ending(
        bye.code if cut_short else ending.code,
        bye.reason if cut_short else ending.reason,
        bye.reconnect,
        bye.retry_ms,
    )
