"""Pages that are encoded once for clients that join together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from chatd.gateways.pages import PageEncoder


def test_the_last_page_is_encoded_once_until_another_is_wanted() -> None:
    encoded: list[tuple[str, Sequence[Any]]] = []

    def encode(room: str, page: Sequence[Any]) -> str:
        encoded.append((room, page))
        return f"{room} {page}"

    pages = PageEncoder(encode)
    wanted = [("a", [1, 2], ""), ("a", [1, 3], ""), ("b", [1, 3], ""), ("b", [1, 3], "new epoch")]
    for room, page, epoch in wanted:
        for _ in range(2):
            assert pages.encode(room, list(page), epoch) == f"{room} {page}"
    assert encoded == [(room, page) for room, page, _ in wanted]


def test_a_page_that_cannot_be_encoded_is_not_kept() -> None:
    def encode(room: str, page: Sequence[Any]) -> str:
        if "broken" in page:
            raise ValueError("broken")
        return f"{page}"

    pages = PageEncoder(encode)
    assert pages.encode("a", ["whole"]) == "['whole']"
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            pages.encode("a", ["broken"])
    assert pages.encode("a", ["whole"]) == "['whole']"
