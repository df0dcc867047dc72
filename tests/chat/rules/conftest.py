"""Two members of a room."""

from __future__ import annotations

import pytest

from tests.chat.room import Client, Room


@pytest.fixture
async def ann(room: Room) -> Client:
    client = room.client("ann")
    await client.join()
    return client


@pytest.fixture
async def bob(room: Room, ann: Client) -> Client:
    client = room.client("bob")
    await client.join()
    return client
