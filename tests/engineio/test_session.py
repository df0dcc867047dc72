"""A session as a bus sees it, and as its owner does."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from trio.testing import wait_all_tasks_blocked

from chatd.bus import Feed, fan_out
from chatd.engineio import Block, Session
from chatd.engineio.packets import Revision
from chatd.model import Close, Event
from tests.engineio.served import serve


class Member:
    """A session as the bus's subscriber."""

    def __init__(self, session: Session, codec: Codec) -> None:
        self.outbox = session
        self.codec = codec

    def end(self, close: Close, reason: str) -> None:
        raise AssertionError(reason)


class Codec:
    """Says items as messages, and counts how often it did."""

    def __init__(self, revision: Revision) -> None:
        self.revision: Revision = revision
        self.encoded = 0

    def encode(self, room: str, items: Sequence[object]) -> Block:
        self.encoded += 1
        words = [f"event {item.seq}" if isinstance(item, Event) else str(item) for item in items]
        return Block(words, self.revision)


def event(seq: int) -> Event:
    return Event(
        position=seq, room="r", seq=seq, at=0, kind="message", user="u", nick="n", text="x"
    )


async def test_a_bus_s_block_is_made_once_for_all_transports_of_a_revision() -> None:
    async with serve(allow_eio3=True) as served:
        feed = Feed("lobby", "Lobby", served.log)
        codecs: dict[Revision, Codec] = {4: Codec(4), 3: Codec(3)}

        def subscribe() -> None:
            session = served.last.session
            feed.subscribe(Member(session, codecs[session.revision]))

        poller = await served.poller()
        subscribe()
        rising = await served.poller()
        subscribe()
        old = await served.poller(3)
        subscribe()
        websocket = await served.websocket()
        await websocket.hear()
        subscribe()

        feed.broadcast(["a"])
        assert await poller.poll() == "4a"
        # A subscription outlives the upgrade: what is offered to it finds its way.
        risen = await rising.upgraded()
        assert await risen.hear() == "4a"
        feed.broadcast(["b", "€"])
        assert await websocket.hear() == "4a"
        for hears in (risen, websocket):
            assert await hears.hear() == "4b"
            assert await hears.hear() == "4€"
        await fan_out(feed.advance([event(1)], trio.current_time()))
        for hears in (risen, websocket):
            assert await hears.hear() == "4event 1"
        assert await poller.poll() == "4b\x1e4€\x1e4event 1"
        assert await old.poll() == "2:4a2:4b2:4€8:4event 1"
        assert [codec.encoded for codec in codecs.values()] == [3, 3]


async def test_an_end_during_a_fan_out_calls_no_receiver() -> None:
    async with serve(send_queue_bytes=10, max_send_queue_bytes=10) as served:
        feed = Feed("lobby", "Lobby", served.log)
        codec = Codec(4)
        pollers = [await served.poller() for _ in range(3)]
        for recorder in served.came:
            feed.subscribe(Member(recorder.session, codec))
        await pollers[0].say("4a")
        feed.broadcast(["x" * 5])
        sessions = [recorder.session for recorder in served.came]
        sessions[1].offer(Block(["y" * 10]))
        feed.broadcast(["z"])
        assert [session.reason for session in sessions] == [None, "too slow", None]
        # Its receiver is notified later, from a task of the engine.
        assert served.came[1].reason is None
        await served.came[1].over.wait()
        assert served.came[1].reason == "too slow"


async def test_the_first_reason_stands() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        session = poller.session
        nursery.start_soon(session.aclose)
        await wait_all_tasks_blocked()
        for reason in ("transport error", "ping timeout", "server shutting down"):
            session.end(reason)
        assert await poller.poll() == "1"
        await served.last.over.wait()
        assert served.last.reason == "forced close"
        assert served.last.ends == 1
        await session.aclose()


async def test_it_says_what_it_is_and_not_who() -> None:
    async with serve() as served:
        poller = await served.poller()
        assert repr(poller.session) == "<Session of memory, polling, polling>"
