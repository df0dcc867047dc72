from __future__ import annotations

from typing import get_args

from chatd.logs.vocabulary import FIELDS, LEVELS, VOCABULARY, Level, Name


def test_the_type_and_the_table_are_one_list() -> None:
    assert get_args(Name) == tuple(VOCABULARY)
    assert get_args(Level) == tuple(LEVELS)


def test_the_table_speaks_of_fields_there_are_and_of_all() -> None:
    spoken_of = {field for meaning in VOCABULARY.values() for field in meaning.fields}
    assert spoken_of == FIELDS
    assert not FIELDS & {"event", "level", "at"}


def test_every_event_is_explained_and_no_field_can_hold_a_token() -> None:
    assert all(meaning.description for meaning in VOCABULARY.values())
    assert not FIELDS & {"token", "session", "key", "secret", "cookie", "query", "headers"}


def test_connection_lines_name_the_connection() -> None:
    fields = {"connection", "user", "nick", "address", "transport", "protocol"}
    for name in ("connect", "disconnect", "message", "join", "leave", "nick", "auth"):
        assert fields <= set(VOCABULARY[name].fields)
