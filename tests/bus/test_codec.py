"""A page for a codec that raises: readable, so that no client asks for it again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatd.bus import encode_page
from chatd.logs import open_log
from chatd.model import Event
from chatd.testing.recording import Recording


class Picky:
    """Encodes numbers and texts, but not the text ``bad``, and nothing from the user ``nobody``."""

    def encode(self, room: str, items: Sequence[Any]) -> list[tuple[int, str | None]]:
        for item in items:
            if item.text == "bad" or item.nick == "nobody":
                raise ValueError("a bug")
        return [(item.seq, item.text) for item in items]


def event(seq: int, text: str, nick: str = "ann") -> Event:
    return Event(seq, "r", seq, 0, "message", "u", nick, text)


def test_a_page_has_what_cannot_be_encoded_without_its_text_or_not_at_all() -> None:
    records = Recording()
    page = [event(1, "a"), event(2, "bad"), event(3, "b", "nobody"), event(4, "c")]
    block = encode_page(Picky(), "R", page, open_log(sink=records))
    assert block == [(1, "a"), (2, None), (4, "c")]
    assert [fields["seq"] for _, fields in records.records] == [2, 3, 3]


def test_a_page_that_can_be_encoded_is_as_it_is() -> None:
    records = Recording()
    assert encode_page(Picky(), "R", [event(1, "a")], open_log(sink=records)) == [(1, "a")]
    assert records.records == []
