"""Responses without an end: the head, blocks, the last one, and faults of their source."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd import model
from chatd.wire.request import Request, Response
from chatd.wire.routes import Complete, Routes
from chatd.wire.streaming import LAST_CHUNK, Stream, chunk
from tests.wire.served import Client, Served, serve, settings

ASK = b"GET /feed HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Ticker:
    """A source that offers what a test tells it to."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.came = trio.Event()
        self.over = trio.Event()
        self.ends: list[tuple[int, str]] = []
        self.chunked = True

    async def handler(self, request: Request) -> Response:
        self.chunked = request.chunked
        return Response(200, content_type="text/plain", source=self)

    def opened(self, stream: Stream) -> None:
        self.stream = stream
        self.came.set()

    def offer(self, data: bytes) -> None:
        assert self.stream is not None
        self.stream.outbox.offer(chunk(data) if self.chunked else data)

    def end(self, close: model.Close) -> None:
        assert self.stream is not None
        self.stream.end(close)

    def goodbye(self, close: model.Close, reason: str) -> bytes:
        return chunk(b"bye") + LAST_CHUNK

    def ended(self, close: model.Close, reason: str) -> None:
        self.ends.append((close.code, reason))
        self.over.set()


async def opened(served: Served, ticker: Ticker, *, tcp: bool) -> Client:
    client = await served.dial_tcp() if tcp else served.dial()
    await client.send(ASK)
    assert (await client.answer())[0] == 200
    await ticker.came.wait()
    return client


@pytest.mark.parametrize("tcp", [False, True])
async def test_blocks_and_the_end(tcp: bool) -> None:
    ticker = Ticker()
    async with serve(feed=ticker.handler) as served:
        client = await opened(served, ticker, tcp=tcp)
        ticker.offer(b"one")
        ticker.offer(b"two")
        assert await client.exactly(16) == chunk(b"one") + chunk(b"two")
        ticker.end(model.KICKED)
        assert await client.exactly(13) == chunk(b"bye") + LAST_CHUNK
        await client.aclose()
        await ticker.over.wait()
        assert ticker.ends == [(4500, "kicked")]
        assert served.server.statistics().websockets == 0
        assert not served.faults


async def test_a_client_that_goes_is_lost(autojump_clock: MockClock) -> None:
    ticker = Ticker()
    async with serve(tcp=False, feed=ticker.handler) as served:
        client = await opened(served, ticker, tcp=False)
        await client.send(b"more")
        await client.aclose()
        await ticker.over.wait()
        assert ticker.ends == [(1006, model.LOST.reason)]
        assert ticker.stream is not None
        assert ticker.stream.received_bytes == 4


async def test_a_client_that_does_not_close_is_closed(autojump_clock: MockClock) -> None:
    ticker = Ticker()
    async with serve(tcp=False, feed=ticker.handler) as served:
        await opened(served, ticker, tcp=False)
        ticker.end(model.NORMAL)
        began = trio.current_time()
        await ticker.over.wait()
        assert trio.current_time() - began == pytest.approx(1)


async def test_what_waits_is_bounded(autojump_clock: MockClock) -> None:
    ticker = Ticker()
    limits = settings(limits={"send_queue_bytes": 65536})
    async with serve(limits, tcp=False, feed=ticker.handler) as served:
        await opened(served, ticker, tcp=False)
        for _ in range(20):
            ticker.offer(bytes(10_000))
        await ticker.over.wait()
        assert [code for code, _ in ticker.ends] == [4001]


def fail(*_: Any) -> Any:
    raise ValueError("injected")


@pytest.mark.parametrize("name", ["opened", "goodbye", "ended"])
async def test_a_source_that_raises(
    name: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    ticker = Ticker()
    monkeypatch.setattr(ticker, name, fail)
    async with serve(tcp=False, feed=ticker.handler) as served:
        client = served.dial()
        await client.send(ASK)
        assert (await client.answer())[0] == 200
        if name != "opened":
            await ticker.came.wait()
            ticker.end(model.NORMAL)
        await client.rest()
        await client.aclose()
        await wait_all_tasks_blocked()
        assert any("injected" in fault for fault in served.faults)
        if name != "ended":
            assert [code for code, _ in ticker.ends] == [1011]


async def test_a_task_that_raises(autojump_clock: MockClock) -> None:
    ticker = Ticker()

    async def job() -> None:
        await trio.lowlevel.checkpoint()
        fail()

    async with serve(tcp=False, feed=ticker.handler) as served:
        client = await opened(served, ticker, tcp=False)
        assert ticker.stream is not None
        ticker.stream.start_soon(job)
        assert await client.rest() == chunk(b"bye") + LAST_CHUNK
        await client.aclose()
        await ticker.over.wait()
        assert [code for code, _ in ticker.ends] == [1011]


async def test_a_head_that_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    ticker = Ticker()

    async def broken(*_: object) -> None:
        raise trio.BrokenResourceError

    async with serve(tcp=False, feed=ticker.handler) as served:
        client = served.dial()
        monkeypatch.setattr("chatd.wire.transport.StreamTransport.send_all", broken)
        await client.send(ASK)
        await ticker.over.wait()
        assert [code for code, _ in ticker.ends] == [1006]
        assert ticker.stream is None


async def test_a_head_that_cannot_be_completed(autojump_clock: MockClock) -> None:
    ticker = Ticker()

    async def broken(_request: Request, _response: Response) -> Response:
        raise ValueError("injected")

    complete: dict[str, Complete] = {"/feed": broken}
    async with serve(tcp=False) as served:
        served.server.routes = Routes({"/feed": {"GET": ticker.handler}}, None, complete)
        client = served.dial()
        await client.send(ASK)
        assert (await client.answer())[0] == 500
        assert [code for code, _ in ticker.ends] == [1011]


async def test_a_stream_that_begins_in_a_drain_ends(autojump_clock: MockClock) -> None:
    ticker = Ticker()
    entered, goes_on = trio.Event(), trio.Event()

    async def slowly(request: Request) -> Response:
        entered.set()
        await goes_on.wait()
        return await ticker.handler(request)

    async with serve(tcp=False, feed=slowly) as served:
        client = served.dial()
        await client.send(ASK)
        await entered.wait()
        served.server.retire()
        goes_on.set()
        assert (await client.answer())[0] == 200
        assert await client.rest() == chunk(b"bye") + LAST_CHUNK
        await client.aclose()
        await ticker.over.wait()
        assert [code for code, _ in ticker.ends] == [1001]
