"""A daemon that is killed, drained and started again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from chatd import client
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.journal import Journal
from chatd.journal.memory import MemoryJournal
from chatd.logs import Log
from chatd.settings import Settings
from chatd.testing.cable import Plug
from chatd.testing.clients import PROTOCOLS, Client
from chatd.testing.node import Node


@asynccontextmanager
async def running_node() -> AsyncGenerator[tuple[Node, trio.Nursery]]:
    journal = MemoryJournal(now=lambda: 1)

    @asynccontextmanager
    async def opened(_log: Log) -> AsyncGenerator[Journal]:
        yield journal

    keys = Keys(read_keys(new_key(symmetric=True).encode()))
    async with trio.open_nursery() as nursery:
        node = Node(Settings(), opened, now=lambda: 1, keys=keys, nursery=nursery)
        await node.start()
        yield node, nursery
        await node.kill()
        nursery.cancel_scope.cancel()


async def client_of(node: Node, nursery: trio.Nursery, protocol: str) -> Client:
    return await PROTOCOLS[protocol](nursery, Plug(node.dial), "ann", "lobby", None)


@pytest.mark.parametrize("protocol", ["json", "polling"])
async def test_clients_come_back_after_a_kill(protocol: str, autojump_clock: object) -> None:
    async with running_node() as (node, nursery):
        ann = await client_of(node, nursery, protocol)
        await ann.say("before")
        await node.kill()
        assert (await ann.lost()).reconnect
        assert not node.running
        with pytest.raises(client.ConnectError):
            await ann.reconnect()
        await node.start()
        await ann.reconnect()
        await ann.say("after")
        assert [await ann.texts(1), await ann.texts(1)] == [["before"], ["after"]]


async def test_a_drain_says_goodbye(autojump_clock: object) -> None:
    async with running_node() as (node, nursery):
        ann = await client_of(node, nursery, "json")
        await node.drain()
        assert (await ann.lost()).code == 1001
        await node.start()
        assert len(node.logged("drain")) == 1


async def test_it_is_started_once(autojump_clock: object) -> None:
    async with running_node() as (node, _):
        with pytest.raises(RuntimeError, match="running already"):
            await node.start()
        await node.kill()
        with pytest.raises(RuntimeError, match="not running"):
            _ = node.daemon
