"""The chat's fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.chat.room import Room, open_room


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with open_room() as room:
        yield room
