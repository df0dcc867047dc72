"""Skeletons of UTS 39."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from chatd.chat import confusables
from chatd.chat.confusables import skeleton


@given(st.text(max_size=20))
def test_a_skeleton_is_its_own(text: str) -> None:
    assert skeleton(skeleton(text)) == skeleton(text)


@given(st.text(max_size=20))
def test_a_skeleton_does_not_depend_on_the_form_of_the_text(text: str) -> None:
    assert skeleton(unicodedata.normalize("NFC", text)) == skeleton(text)


def test_the_table_has_its_version_and_its_licence() -> None:
    table = Path(confusables.__file__).with_name("confusables.txt")
    assert "version 13.0.0" in table.read_text("ascii").splitlines()[0]
    assert "Unicode, Inc." in table.with_suffix(".LICENSE").read_text()
