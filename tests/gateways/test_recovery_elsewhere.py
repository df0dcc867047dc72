"""Socket.IO clients that recover at another daemon, because theirs was killed or does not know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.chat import Chat, Login
from chatd.chat.tokens import Keys
from chatd.chat.users import Users
from chatd.gateways.recovery import LOST
from chatd.journal import Journal, Unavailable
from chatd.journal.modelled import ModelEngine, ModelStore
from chatd.journal.shared import SharedJournal, open_shared
from chatd.logs import Log
from chatd.settings import EngineIo, Limits, Settings
from chatd.testing import Harness
from chatd.testing.harness import VIRTUAL_EPOCH_MS
from chatd.testing.node import Node
from tests.gateways.test_recovery import Browser, come, hello, texts

SECONDS = 120.0
SETTINGS = Settings(
    limits=Limits(messages_per_second="off", messages_burst="off"),
    engineio=EngineIo(recovery_seconds=SECONDS),
)


class Pair:
    """Two daemons on one store."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.store = ModelStore(now)
        self.here, self.there = (
            Node(SETTINGS, self._open, now=now, keys=Keys(), nursery=nursery) for _ in range(2)
        )

    def _open(self, _log: Log) -> AbstractAsyncContextManager[Journal]:
        return open_shared(ModelEngine(self.store))

    async def kept(self) -> int:
        """Return how many clients' records there are."""
        journal = self.there.daemon.chat.journal
        assert isinstance(journal, SharedJournal)
        return len(await journal.records(LOST))


def now() -> int:
    return VIRTUAL_EPOCH_MS + round(trio.current_time() * 1000)


@asynccontextmanager
async def opened() -> AsyncIterator[Pair]:
    async with trio.open_nursery() as nursery:
        pair = Pair(nursery)
        await pair.here.start()
        await pair.there.start()
        yield pair
        for node in (pair.here, pair.there):
            if node.running:
                await node.drain()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with opened() as one:
        yield one


async def joined(node: Node, nick: str) -> Browser:
    """Connect a client that is in two rooms."""
    client = await come(node, nick=nick)
    await hello(client)
    assert "ok" in await client.call("join", {"room": "side"})
    return client


async def say(client: Browser, *said: str) -> None:
    for text in said:
        room = text.partition(" ")[0]
        assert "ok" in await client.call("chat message", text, {"room": room})


async def test_a_client_of_a_killed_daemon_recovers_at_another(
    pair: Pair, autojump_clock: MockClock
) -> None:
    bob, ann = await joined(pair.here, "bob"), await joined(pair.there, "ann")
    await say(ann, "lobby 1", "side 1")
    assert await bob.texts(2) == ["lobby 1", "side 1"]
    await wait_all_tasks_blocked()
    await pair.here.kill()
    await say(ann, "side 2", "lobby 2")
    again = await come(pair.there, bob)
    assert (again.sid, again.pid) == (bob.sid, bob.pid)
    assert texts(again.missed) == ["side 2", "lobby 2"]
    assert (await hello(again))["nick"] == "bob"
    await say(ann, "side 3")
    assert await again.texts(1) == ["side 3"]


async def test_a_client_that_its_daemon_still_takes_for_connected_is_taken_over(
    pair: Pair, autojump_clock: MockClock
) -> None:
    bob, ann = await joined(pair.here, "bob"), await joined(pair.there, "ann")
    await say(ann, "side 1")
    assert await bob.texts(1) == ["side 1"]
    await wait_all_tasks_blocked()
    again = await come(pair.there, bob)
    assert (again.sid, again.pid) == (bob.sid, bob.pid)
    await hello(again)
    await wait_all_tasks_blocked()
    assert [line["transport"] for line in pair.here.logged("disconnect")] == ["websocket"]
    await say(ann, "side 2")
    assert await again.texts(1) == ["side 2"]
    # What the first daemon knew of it does not replace what the second one keeps.
    await wait_all_tasks_blocked()
    await pair.there.kill()
    third = await come(pair.here, again)
    assert third.sid == bob.sid
    assert (await hello(third))["nick"] == "bob"


async def test_a_client_is_in_the_rooms_that_it_was_told_it_is_in(
    pair: Pair, autojump_clock: MockClock
) -> None:
    bob = await joined(pair.here, "bob")
    assert "ok" in await bob.call("leave", {"room": "side"})
    assert "ok" in await bob.call("join", {"room": "other"})
    # Killed before the daemon could write more: the client is not in rooms that it does not know.
    await pair.here.kill()
    again = await come(pair.there, bob)
    if again.sid == bob.sid:
        await hello(again)
        await wait_all_tasks_blocked()
        rooms = [one.memberships.keys() for one in pair.there.daemon.chat.connections]
        assert rooms == [{"lobby", "other"}]
    else:
        assert again.pid != bob.pid


async def test_the_record_of_a_client_that_leaves_is_dropped(
    pair: Pair, autojump_clock: MockClock
) -> None:
    bob = await joined(pair.here, "bob")
    await wait_all_tasks_blocked()
    assert await pair.kept() == 1
    await bob.text("41")  # a DISCONNECT
    await wait_all_tasks_blocked()
    assert await pair.kept() == 0


async def test_the_record_of_a_lost_client_ends_like_that_of_a_killed_daemon(
    pair: Pair, autojump_clock: MockClock
) -> None:
    bob, cleo = await joined(pair.here, "bob"), await joined(pair.here, "cleo")
    await wait_all_tasks_blocked()
    assert await pair.kept() == 2
    await bob.aclose()
    await trio.sleep(60)
    assert await pair.kept() == 2
    await pair.here.kill()
    await trio.sleep(50)
    assert await pair.kept() == 2
    await trio.sleep(SECONDS)
    assert await pair.kept() == 0
    del cleo


async def test_a_daemon_that_is_behind_catches_up_first(
    pair: Pair, autojump_clock: MockClock
) -> None:
    bob, ann = await joined(pair.here, "bob"), await joined(pair.here, "ann")
    journal = pair.there.daemon.chat.journal
    assert isinstance(journal, SharedJournal)
    await wait_all_tasks_blocked()
    engine = journal._engine
    assert isinstance(engine, ModelEngine)
    engine.lose_answers()
    await say(ann, "side 1")
    assert await bob.texts(1) == ["side 1"]
    await bob.aclose()

    async def hear_again() -> None:
        await trio.sleep(0.5)
        engine.heal()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear_again)
        again = await come(pair.there, bob)
    assert again.sid == bob.sid
    assert again.missed == []


async def test_a_client_that_was_sent_what_the_store_loses_meanwhile_begins_anew(
    pair: Pair, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, ann = await come(pair.here, nick="bob"), await joined(pair.there, "ann")
    await hello(bob)
    await say(ann, "lobby 1")
    assert await bob.texts(1) == ["lobby 1"]
    await bob.aclose()
    kept = len(pair.store.primary.log)
    await say(ann, "lobby lost")
    new_guest = Chat.new_guest

    async def after_a_loss(self: Chat, *args: Any, **options: Any) -> Login | None:
        monkeypatch.undo()
        pair.store.restart(lose=len(pair.store.primary.log) - kept)
        await trio.sleep(1)
        cleo = await joined(pair.there, "cleo")
        await say(cleo, "lobby 2")
        return await new_guest(self, *args, **options)

    monkeypatch.setattr(Chat, "new_guest", after_a_loss)
    again = await come(pair.here, bob)
    assert texts(again.missed) == ["lobby lost"]
    name, bye = await again.event()
    assert (name, bye["code"], bye["reconnect"]) == ("bye", 1001, True)
    assert bye["reason"] == "the server lost its latest messages"
    await again.aclose()
    anew = await come(pair.here, again)
    assert anew.sid != bob.sid
    await hello(anew)


async def test_a_guest_who_cannot_be_looked_up_now_does_not_become_another(
    chat: Harness, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = await come(chat, nick="bob")
    session = (await hello(bob))["session"]
    await bob.aclose()

    async def unavailable(self: Users, session: str, check: object) -> None:
        await trio.lowlevel.checkpoint()
        raise Unavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(Users, "restore", unavailable)
        again = await come(chat, session=session)
        assert (await again.event())[0] == "notice"
        name, bye = await again.event()
        assert (name, bye["code"], bye["reconnect"]) == ("bye", 1001, True)
    again = await come(chat, session=session)
    assert (await hello(again))["nick"] == "bob"
