"""Nicks that only their owners may have."""

from __future__ import annotations

import pytest

from chatd.chat.names import RESERVED_NICKS, nick_name
from chatd.chat.subjects import Subjects


def known(*operators: str) -> Subjects:
    """Return subjects among whom is carol, whose nick is ``caz``."""
    subjects = Subjects(lambda: operators)
    subjects.learn("carol", nick_name("caz"))
    return subjects


@pytest.mark.parametrize(
    ("nick", "user", "subject", "taken"),
    [
        ("carol", "carol", True, False),
        ("Carol", "dave", True, True),
        ("c\u0430rol", "guest", False, True),  # with a Cyrillic a
        ("caz", "carol", True, False),
        ("caz", "dave", True, False),  # a subject may take another one's nick, but not its id
        ("caz", "guest", False, True),
        ("erin", "guest", False, False),
        ("root", "guest", False, True),
        ("root", "root", True, False),
        ("root", "dave", True, True),
    ],
)
def test_whose_nick_it_is(nick: str, user: str, subject: bool, taken: bool) -> None:
    subjects = known("root")
    assert subjects.is_anothers(nick_name(nick), user, subject=subject) is taken


@pytest.mark.parametrize("nick", RESERVED_NICKS)
def test_nobody_has_a_name_of_the_server(nick: str) -> None:
    for subject in (True, False):
        assert known().is_anothers(nick_name(nick), nick, subject=subject)


def test_a_nick_and_an_id_are_free_once_they_are_forgotten() -> None:
    subjects = known()
    subjects.forget_nicks("carol")
    assert not subjects.is_anothers(nick_name("caz"), "guest", subject=False)
    assert subjects.is_anothers(nick_name("carol"), "guest", subject=False)
    subjects.forget("carol")
    assert not subjects.is_anothers(nick_name("carol"), "guest", subject=False)
