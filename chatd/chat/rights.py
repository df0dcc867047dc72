"""Who may read and write where: the one place that is asked, whatever a right depends on."""

from __future__ import annotations

from typing import Protocol

from chatd.chat.tokens import Grant
from chatd.model import Refusal

__all__ = ["refusal_to_read", "refusal_to_write"]


class Bearer(Protocol):
    """A connection, as far as its rights are concerned. ``grant`` None: it is a guest's."""

    @property
    def grant(self) -> Grant | None: ...


def refusal_to_read(bearer: Bearer, room: str) -> Refusal | None:
    """Tell why a connection may not read the room of this fold; None: it may."""
    if bearer.grant is None or bearer.grant.may_read(room):
        return None
    return Refusal("forbidden", "your token does not let you read there")


def refusal_to_write(bearer: Bearer, room: str) -> Refusal | None:
    """Tell why a connection may not say or change anything in the room; None: it may."""
    if bearer.grant is None or bearer.grant.may_write(room):
        return None
    return Refusal("forbidden", "your token does not let you write there")
