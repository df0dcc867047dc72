"""Heartbeats over polling, and how its sessions end."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.engineio import Block
from tests.engineio.served import Answer, serve, waiting

# Backpressure and the heartbeat


async def test_the_post_waits_until_its_messages_are_taken(autojump_clock: MockClock) -> None:
    async with serve(echo=False) as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        served.last.gate = trio.Event()
        done: list[Answer] = []

        async def post() -> None:
            done.append(await poller.post("4a\x1e4b"))

        nursery.start_soon(post)
        await trio.sleep(200)
        # For 200 seconds the client does not read. That does not count as its silence, but pings
        # are queued.
        assert not done
        assert poller.session.reason is None
        assert await poller.poll() == "2"
        served.last.gate.set()
        await wait_all_tasks_blocked()
        assert done[0][2] == b"ok"


async def test_a_poll_gets_pings_and_its_client_lives_on_pongs(autojump_clock: MockClock) -> None:
    async with serve() as served:
        poller = await served.poller()
        start = trio.current_time()
        for beat in range(1, 5):
            assert await poller.poll() == "2"
            assert trio.current_time() - start == pytest.approx(25 * beat)
            await poller.say("3")


async def test_a_silent_client_is_ended_with_no_poll_pending(autojump_clock: MockClock) -> None:
    async with serve() as served:
        start = trio.current_time()
        await served.poller()
        await served.last.over.wait()
        assert served.last.reason == "ping timeout"
        assert trio.current_time() - start == pytest.approx(45)
        assert not served.engine.sessions


async def test_a_request_at_the_very_end_of_a_silence_is_too_late(mock_clock: MockClock) -> None:
    async with serve() as served:
        poller = await served.poller()
        session = poller.session
        mock_clock.jump(25)
        await wait_all_tasks_blocked()
        mock_clock.jump(20)
        # No other task has run since.
        assert not session.alive(trio.current_time())
        assert session.reason == "ping timeout"
        assert (await poller.get())[0] == 400


async def test_a_silent_client_gets_a_close_by_its_poll(autojump_clock: MockClock) -> None:
    async with serve() as served:
        poller = await served.poller()
        assert await poller.poll() == "2"
        assert await poller.poll() == "1"
        assert served.last.reason == "ping timeout"


async def test_a_client_of_revision_4_may_not_ping() -> None:
    async with serve() as served:
        poller = await served.poller()
        await poller.say("2")
        await served.last.over.wait()
        assert served.last.reason == "transport error"


# Sent away


async def test_a_disconnected_client_gets_a_close_by_its_waiting_poll() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        answers = await waiting(nursery, poller)
        poller.session.send_nowait("bye")
        nursery.start_soon(poller.session.aclose)
        await wait_all_tasks_blocked()
        assert answers[0][2] == b"4bye"
        assert await poller.poll() == "1"
        await served.last.over.wait()
        assert served.last.reason == "forced close"


async def test_a_disconnected_client_gets_a_close_by_its_next_poll() -> None:
    async with serve() as served:
        poller = await served.poller()
        session = poller.session
        session.send_nowait("bye")
        session.end()
        session.end("transport error")
        session.offer(Block(["not any more"]))
        assert session.state == "leaving"
        assert await poller.poll() == "4bye"
        assert await poller.poll() == "1"
        await served.last.over.wait()
        assert served.last.reason == "forced close"


async def test_a_disconnected_client_that_never_polls_is_forgotten(
    autojump_clock: MockClock,
) -> None:
    async with serve(close_timeout=70.0) as served:
        poller = await served.poller()
        start = trio.current_time()
        await poller.session.aclose()
        assert trio.current_time() - start == pytest.approx(70)
        assert not served.engine.sessions


async def test_the_engine_ends() -> None:
    async with serve() as served:
        await served.poller()
        await (await served.websocket()).hear()
    assert [recorder.reason for recorder in served.came] == ["server shutting down"] * 2
    assert [recorder.ends for recorder in served.came] == [1, 1]


async def test_a_drain_closes_all_sessions(autojump_clock: MockClock) -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        answers = await waiting(nursery, poller)
        client = await served.websocket()
        await client.hear()
        served.engine.end_all()
        assert await client.closed() == (1001, "server shutting down")
        await client.aclose()
        await served.last.over.wait()
        assert answers[0][2] == b"1"
        assert [recorder.reason for recorder in served.came] == ["server shutting down"] * 2
        statistics = served.engine.statistics()
        assert (statistics.polling, statistics.websocket, statistics.opened) == (0, 0, 2)
        assert statistics.ended == {"server shutting down": 2}
