"""Chats that share a modelled store, each with clients that consist of an outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from chatd.chat import Chat
from chatd.chat.tokens import Keys
from chatd.journal.modelled import ModelEngine, ModelStore
from chatd.journal.shared import open_shared
from chatd.logs import open_log
from chatd.settings import Settings
from chatd.testing.recording import Recording
from chatd.timers import Timers
from tests.chat.room import Room, Wall


class Node(Room):
    """One of the chats.

    Attributes:
        engine: Its link to the store, with faults.
        running: Cancelled to kill the node.
    """

    engine: ModelEngine
    running: trio.CancelScope


@asynccontextmanager
async def open_node(
    store: ModelStore, settings: Settings | None = None, keys: Keys | None = None
) -> AsyncIterator[Node]:
    wall, recording = Wall(), Recording()
    log = open_log(sink=recording, now=wall)
    timers = Timers(log)
    engine = ModelEngine(store)
    hold = (settings or Settings()).chat.nick_hold_seconds
    with trio.CancelScope() as running:
        async with (
            open_shared(engine, hold_ms=lambda: round(hold * 1000)) as journal,
            trio.open_nursery() as tending,
        ):
            chat = Chat(
                settings or Settings(),
                journal=journal,
                log=log,
                now=wall,
                timers=timers,
                keys=keys,
            )
            await chat.load()
            tending.start_soon(timers.run)
            async with trio.open_nursery() as flowing:
                flowing.start_soon(chat.bus.run)
                async with trio.open_nursery() as nursery:
                    node = Node(chat, nursery, recording)
                    node.engine, node.running = engine, running
                    yield node
                    nursery.cancel_scope.cancel()
                await chat.users.save()
                chat.bus.close()
            tending.cancel_scope.cancel()


@asynccontextmanager
async def open_nodes(
    settings: Settings | None = None, keys: Keys | None = None
) -> AsyncIterator[tuple[Node, Node, ModelStore]]:
    """Open two nodes on one store."""
    store = ModelStore(Wall())
    async with open_node(store, settings, keys) as one, open_node(store, settings, keys) as two:
        yield one, two, store
