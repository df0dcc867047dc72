"""Session secrets: they cannot be forged without the key, and only valid ones are accepted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chatd.chat.sessions import (
    Session,
    derived_user,
    forgotten_record,
    is_derived,
    is_guest,
    new_user,
    sign_session,
    verify_session,
)

KEY = bytes(range(32))


def test_what_was_sealed_opens() -> None:
    user = new_user()
    assert verify_session(KEY, sign_session(KEY, user, 1_750_000_000)) == Session(
        user, 1_750_000_000
    )


def test_another_key_opens_nothing() -> None:
    assert verify_session(bytes(32), sign_session(KEY, new_user(), 1)) is None


@given(st.data())
def test_a_changed_secret_opens_nothing(data: st.DataObject) -> None:
    secret = sign_session(KEY, "gabc", 1_750_000_000)
    at = data.draw(st.integers(0, len(secret) - 1))
    other = data.draw(st.characters().filter(lambda c: c != secret[at]))
    assert verify_session(KEY, secret[:at] + other + secret[at + 1 :]) is None


@given(st.text(max_size=200))
def test_garbage_opens_nothing(text: str) -> None:
    assert verify_session(KEY, text) is None


def test_guests_do_not_share_an_id() -> None:
    assert len({new_user() for _ in range(1000)}) == 1000


@given(st.text(), st.text(max_size=32), st.integers(0, 9))
def test_a_derived_id_is_a_guest_s(place: str, nick: str, times: int) -> None:
    user = derived_user(KEY, place, nick, times)
    assert user == derived_user(KEY, place, nick, times)
    assert is_guest(user)
    assert is_derived(KEY, user)
    assert user != derived_user(KEY, place, nick, times + 1)
    assert user != derived_user(bytes(32), place, nick, times)


def test_only_derived_ids_stay_forgotten() -> None:
    users = [new_user() for _ in range(1000)]
    assert sum(is_derived(KEY, user) for user in users) < 3
    assert sum(forgotten_record(KEY, user, 7).until == 7 for user in users) > 997
    assert forgotten_record(KEY, derived_user(KEY, "127.0.0.1", "ci", 0), 7).until is None
