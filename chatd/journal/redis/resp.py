"""RESP3, the protocol of Redis: packs commands and parses replies, by hiredis.

Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, cast

import hiredis

__all__ = ["Command", "ErrorReply", "Prepared", "ProtocolError", "Push", "Replies", "Reply", "pack"]

Command: TypeAlias = tuple[bytes | str | int, ...]
"""A command's name and its arguments. A string is sent as UTF-8."""

Reply: TypeAlias = Any
"""None, bytes, an integer, a float, a bool, a list, a dict, an `ErrorReply`, or a `Push`."""

Push: TypeAlias = hiredis.PushNotification
"""A list that comes between replies: a message that was published to a channel."""

_INCOMPLETE: Final = object()

# hiredis' type stub allows commands of one word only.
_pack: Final = cast("Callable[[Command], bytes]", hiredis.pack_command)


class ErrorReply(Exception):  # noqa: N818  a reply; raised where none was expected
    """The reply to a command that Redis refuses.

    Attributes:
        code: The first word, which programs read: ``NOSCRIPT``, ``LOADING``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code: Final = message.partition(" ")[0]


class ProtocolError(Exception):
    """The peer does not speak RESP."""


def pack(commands: Iterable[Command]) -> bytes:
    """Return the bytes of some commands, for one write."""
    return b"".join(map(_pack, commands))


class Prepared:
    """A command of which only the last argument changes: the others are packed once."""

    __slots__ = ("_head",)

    def __init__(self, *arguments: bytes | str | int) -> None:
        self._head = _pack((*arguments, b"")).removesuffix(b"$0\r\n\r\n")

    def pack(self, last: bytes) -> bytes:
        """Return the bytes of the command with its last argument."""
        return b"%b$%d\r\n%b\r\n" % (self._head, len(last), last)


class Replies:
    """Finds the replies in a stream of bytes."""

    __slots__ = ("_reader",)

    def __init__(self) -> None:
        self._reader = hiredis.Reader(
            replyError=ErrorReply, protocolError=ProtocolError, notEnoughData=_INCOMPLETE
        )

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies and the pushes that are complete with these bytes.

        Raises:
            ProtocolError: This is not RESP. Nothing can be read any more.
        """
        self._reader.feed(data)
        replies = []
        try:
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                replies.append(reply)
        except TypeError as error:  # a list as a key of a map
            raise ProtocolError(str(error)) from error
        return replies
