"""Who may read and write where."""

from __future__ import annotations

from chatd.chat.names import Pattern
from chatd.chat.rights import refusal_to_read, refusal_to_write
from chatd.chat.tokens import Grant


class Bearer:
    def __init__(self, grant: Grant | None) -> None:
        self.grant = grant


def test_a_guest_may_read_and_write() -> None:
    assert refusal_to_read(Bearer(None), "lobby") is None
    assert refusal_to_write(Bearer(None), "lobby") is None


def test_a_token_lets_do_what_it_says() -> None:
    grant = Grant("ann", "k", 0, 0, rooms=(Pattern(("a",)),), read=(Pattern(("b",)),))
    asked = [
        (refusal_to_read(Bearer(grant), room), refusal_to_write(Bearer(grant), room))
        for room in ("a", "b", "c")
    ]
    assert [(read is None, write is None) for read, write in asked] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert {refusal.code for pair in asked for refusal in pair if refusal} == {"forbidden"}
