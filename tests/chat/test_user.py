"""What is known of a user."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from chatd.chat.names import Name
from chatd.chat.user import ADDRESSES, User


@pytest.mark.parametrize("subject", [True, False])
async def test_the_last_addresses_of_a_guest_are_remembered(
    subject: bool, mock_clock: MockClock
) -> None:
    user = User("u", Name("Ann", "ann"), chosen=True, subject=subject)
    user.note_addresses(map(str, range(ADDRESSES + 2)))
    user.note_addresses(["5"])
    assert [*user.addresses] == ([] if subject else ["2", "3", "4", "6", "7", "8", "9", "5"])


async def test_a_mark_never_moves_back() -> None:
    user = User("u", Name("Ann", "ann"), chosen=True)
    user.merge_marks({"lobby": 5, "den": 1})
    user.merge_marks({"lobby": 3, "den": 2})
    assert user.marks == {"lobby": 5, "den": 2}
