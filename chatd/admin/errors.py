"""A request to the admin socket that is not carried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chatd.model import ErrorCode, Refusal
from chatd.settings import Fault

__all__ = ["AdminError", "error_of"]

_STATUSES: Final[dict[ErrorCode, int]] = {
    "forbidden": 403,
    "not_found": 404,
    "too_large": 413,
    "unavailable": 503,
}


class AdminError(Exception):
    """A request is not carried out.

    Args:
        status: the HTTP status of the answer.
        code: what is wrong, for programs.
        message: what is wrong, for people.
        faults: the errors of the configuration, if it is about one.
    """

    def __init__(self, status: int, code: str, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.faults = faults


def error_of(refusal: Refusal) -> AdminError:
    """Return a refusal of the chat as an error of the admin socket."""
    return AdminError(_STATUSES.get(refusal.code, 400), refusal.code, refusal.message)
