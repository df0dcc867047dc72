"""What waits for what: slow readers, large messages, and handlers that are slower than clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.engineio import Block, Session
from chatd.engineio.packets import Revision
from tests.engineio.served import Served, serve, serve_handler, upgrade
from tests.engineio.slow import SlowReader
from tests.wire.served import masked

REVISIONS: Final[list[Revision]] = [4, 3]
TRANSPORTS: Final = ["polling", "websocket"]
RATE: Final = 200_000  # bytes a second, of a phone
LARGE: Final = "x" * 6_000_000

each_way = pytest.mark.parametrize(
    ("transport", "revision"),
    [(transport, revision) for transport in TRANSPORTS for revision in REVISIONS],
)


@asynccontextmanager
async def reading(
    transport: str, revision: Revision, rate: float = RATE, **options: Any
) -> AsyncGenerator[tuple[Served, SlowReader, Session]]:
    interval = options.setdefault("ping_interval", 1.0)
    async with (
        serve(echo=False, allow_eio3=True, **options) as served,
        trio.open_nursery() as nursery,
    ):
        reader = SlowReader(served, nursery, rate, revision)
        await reader.open(transport, interval)
        yield served, reader, served.last.session
        nursery.cancel_scope.cancel()


@each_way
async def test_a_client_that_reads_is_never_too_slow(
    transport: str, revision: Revision, autojump_clock: MockClock
) -> None:
    async with reading(transport, revision) as (_, reader, session):
        sent: list[str | bytes] = [f"part {number} " + "y" * 50_000 for number in range(40)]
        sent += [f"event {number}" for number in range(400)]
        sent += [LARGE, "behind it", LARGE, "the last"]
        for message in sent:
            session.send_nowait(message)
        await reader.has_heard(len(sent))
        assert session.reason is None
        assert reader.messages == sent
        assert trio.current_time() > 60
        # The heartbeat has gone on, and still does.
        await trio.sleep(60)
        assert session.reason is None


@each_way
async def test_one_large_message_under_way_does_not_doom_the_next(
    transport: str, revision: Revision, autojump_clock: MockClock
) -> None:
    bounds = {"send_queue_bytes": 100_000, "max_send_queue_bytes": 100_000}
    async with reading(transport, revision, **bounds) as (_, reader, session):
        for number in range(4):
            session.send_nowait(LARGE)
            await trio.sleep(5)
            session.send_nowait(f"behind it {number}" + "z" * 90_000)
            await reader.has_heard(2 * number + 2)
        assert session.reason is None
        assert len(reader.messages) == 8


@each_way
async def test_above_the_bound_a_client_that_takes_nothing_is_too_slow(
    transport: str, revision: Revision, autojump_clock: MockClock
) -> None:
    async with reading(transport, revision, ping_interval=25.0) as (_, reader, session):
        for stream in reader.slow.streams:
            stream.rate = 0
        began = trio.current_time()
        while session.reason is None and trio.current_time() < began + 60:
            # It is closed however often something is sent to it, and an offer never waits.
            session.offer(Block(["z" * 100_000], revision))
            await trio.sleep(0.5)
        # HTTP itself gives up a response of which nothing is taken.
        reasons = ["too slow"] if transport == "websocket" else ["too slow", "transport error"]
        assert session.reason in reasons
        assert 10 <= trio.current_time() - began <= 20


async def test_below_the_bound_time_does_not_matter(autojump_clock: MockClock) -> None:
    async with serve(ping_interval=1000.0) as served:
        session = (await served.poller()).session
        session.send_nowait("x" * (1 << 20))
        session.send_nowait("y")
        await trio.sleep(5)
        await served.engine.sessions[session.id].polling.poll(session, trio.sleep_forever)
        # Below the bound again before its time was up.
        session.send_nowait("x" * 1000)
        await trio.sleep(500)
        assert session.reason is None


async def test_more_than_the_last_bound_is_not_kept_for_any_client() -> None:
    async with serve(max_send_queue_bytes=2 << 20) as served:
        session = (await served.poller()).session
        for _ in range(3):
            session.send_nowait("x" * (1 << 20))
        assert session.reason == "too slow"


@each_way
async def test_what_the_protocol_sends_never_ends_a_session(
    transport: str, revision: Revision, autojump_clock: MockClock
) -> None:
    bounds = {"send_queue_bytes": 1000, "max_send_queue_bytes": 1000, "ping_interval": 0.5}
    async with reading(transport, revision, 10_000, **bounds) as (_, reader, session):
        session.send_nowait("x" * 100_000)
        session.send_nowait("y" * 990)
        session.force(Block(["z" * 5000], revision))
        await reader.has_heard(3)
        assert session.reason is None
        assert [len(message) for message in reader.messages] == [100_000, 990, 5000]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_ping_overtakes_what_waits(transport: str, autojump_clock: MockClock) -> None:
    async with reading(transport, 4, ping_interval=25.0) as (_, reader, session):
        for _ in range(100):
            session.send_nowait("x" * 200_000)
        await trio.sleep(40)
        # A client waits 45 s for a ping. It would have had to read 20 MB before it.
        assert reader.pings == 1
        assert len(reader.messages) < 50
        await reader.has_heard(100)
        assert session.reason is None


@each_way
async def test_a_client_that_answers_no_ping_is_silent_whatever_it_takes(
    transport: str, revision: Revision, autojump_clock: MockClock
) -> None:
    options: dict[str, Any] = {"ping_interval": 25.0, "ping_timeout": 20.0}
    async with reading(transport, revision, rate=1e9, **options) as (_, reader, session):
        reader.deaf = True
        while session.reason is None:
            session.send_nowait("x" * 100)
            await trio.sleep(0.5)
        assert session.reason == "ping timeout"
        assert trio.current_time() - session.opened <= 25 + 2 * 20 + 1


@pytest.mark.parametrize("revision", REVISIONS)
async def test_an_upgrade_takes_along_whatever_waits(revision: Revision) -> None:
    bounds = {"send_queue_bytes": 100_000, "max_send_queue_bytes": 100_000}
    async with serve(echo=False, allow_eio3=True, **bounds) as served:
        poller = await served.poller(revision)
        session = poller.session
        session.send_nowait("x" * 2_000_000)
        session.send_nowait("y" * 99_000)
        client = await poller.candidate()
        await client.text("2probe")
        assert await client.hear() == "3probe"
        session.force(Block(["z" * 5000], revision))
        await client.text("5")
        heard = [await client.hear() for _ in range(3)]
        assert [message[:2] + str(len(message)) for message in heard] == [
            "4x2000001",
            "4y99001",
            "4z5001",
        ]
        assert session.reason is None


async def test_a_response_has_its_bound_and_the_rest_comes_with_the_next() -> None:
    async with serve(echo=False) as served:
        poller = await served.poller()
        sent = [f"{number:06}" + "x" * 400_000 for number in range(7)]
        sent.insert(3, "y" * 3_000_000)
        for message in sent:
            poller.session.send_nowait(message)
        heard: list[list[str]] = []
        while sum(map(len, heard)) < len(sent):
            heard.append([packet[1:] for packet in (await poller.poll()).split("\x1e")])
        assert [packet for packets in heard for packet in packets] == sent
        assert [len(packets) for packets in heard] == [2, 1, 1, 2, 2]
        poller.session.send_nowait("z" * 2_000_000)
        poller.session.send_nowait("last words")
        poller.session.end()
        assert len(await poller.poll()) == 2_000_001
        assert await poller.poll() == "4last words"
        assert await poller.poll() == "1"


@each_way
async def test_sending_waits_for_a_slow_reader(
    transport: str, revision: Revision, autojump_clock: MockClock
) -> None:
    async with reading(transport, revision) as (_, reader, session):
        for _ in range(3):
            await session.send(LARGE)
            await session.send("small")
            assert session.waiting <= 2 * len(LARGE)
        await session.drained()
        await reader.has_heard(6)
        assert [len(message) for message in reader.messages] == [len(LARGE), 5] * 3


@each_way
async def test_a_normal_end_sends_what_waits_however_slowly_it_is_read(
    transport: str, revision: Revision, autojump_clock: MockClock
) -> None:
    async with reading(transport, revision) as (_, reader, session):
        session.send_nowait(LARGE)
        session.send_nowait("last words")
        await session.aclose()
        await reader.over.wait()
        assert [len(message) for message in reader.messages] == [len(LARGE), 10]


async def test_a_normal_end_does_not_wait_for_a_client_that_takes_nothing(
    autojump_clock: MockClock,
) -> None:
    async with reading("websocket", 4) as (_, reader, session):
        reader.slow.streams[0].rate = 0
        session.send_nowait(LARGE)
        began = trio.current_time()
        await session.aclose()
        assert trio.current_time() - began < 30


async def test_a_response_that_breaks_off_ends_the_session(autojump_clock: MockClock) -> None:
    async with reading("polling", 4) as (served, reader, session):
        session.send_nowait(LARGE)
        session.send_nowait("also for it")
        await trio.sleep(10)
        for stream in reader.slow.streams:
            stream.rate = 0
        await served.last.over.wait()
        # The message is lost, so the client must not take the session for whole.
        assert served.last.reason == "transport error"
        assert 20 <= trio.current_time() - session.opened <= 21


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_messages_that_wait_hold_up_neither_pongs_nor_the_end(
    transport: str, autojump_clock: MockClock
) -> None:
    began = trio.Event()

    async def handler(session: Session) -> None:
        began.set()
        await session.wait_over()
        ended.append((trio.current_time(), session.reason))

    ended: list[tuple[float, str | None]] = []
    async with serve_handler(handler) as (_, dial, recording):
        client = dial()
        if transport == "websocket":
            assert (await upgrade(client, "EIO=4&transport=websocket"))[0] == 101
            await client.hear()
            for number in range(1000):
                await client.text(f"4{number}")
            for _ in range(3):
                assert await client.hear() == "2"
                await client.text("3")
            await client.send(masked(0x88, b"\x03\xe8"))
        else:
            _, _, body = await client.ask("GET /engine.io/?EIO=4&transport=polling HTTP/1.1")
            sid = body.decode().split('"sid":"')[1].partition('"')[0]
            line = f"/engine.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1"

            async def post(body: str) -> None:
                head = f"POST {line}\nContent-Length: {len(body)}"
                assert (await dial().ask(head, body.encode()))[0] == 200

            await post("\x1e".join(f"4{number}" for number in range(1000)))
            for _ in range(3):
                assert (await dial().ask(f"GET {line}"))[2] == b"2"
                await post("3")
            await post("1")
        await wait_all_tasks_blocked()
        assert [(round(at), reason) for at, reason in ended] == [(75, "transport close")]
        assert recording.records == []


async def test_a_handler_whose_client_has_gone_ends_in_time(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    async def handler(session: Session) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with serve_handler(handler) as (server, dial, recording):
        client = dial()
        assert (await upgrade(client, "EIO=4&transport=websocket"))[0] == 101
        await client.send(masked(0x88, b"\x03\xe8"))
        await wait_all_tasks_blocked()
        assert server.sessions == {}
        await trio.sleep(29)
        assert ended == []
        await trio.sleep(2)
        assert len(ended) == 1
        ((name, fields),) = recording.records
        assert (name, fields["setting"]) == ("warning", "handler_grace")


@pytest.mark.parametrize("revision", REVISIONS)
async def test_the_clock_of_the_heartbeat_waits_while_nothing_is_read(
    revision: Revision, autojump_clock: MockClock
) -> None:
    handled: list[str | bytes] = []

    async def handler(session: Session) -> None:
        async for message in session:
            handled.append(message)
            # Room for the next message comes just before the time for the pong is up.
            await trio.sleep(1.99)

    options: dict[str, Any] = {"ping_interval": 1.0, "ping_timeout": 1.0, "max_payload": 1000}
    async with (
        serve_handler(handler, allow_eio3=True, **options) as (server, dial, _),
        trio.open_nursery() as nursery,
    ):
        client = dial()
        assert (await upgrade(client, f"EIO={revision}&transport=websocket"))[0] == 101
        await client.hear()

        async def answer() -> None:
            while (frame := await client.frame()) is not None:
                if frame[1] == b"2":
                    await client.text("3")

        nursery.start_soon(answer)
        for number in range(30):
            await client.text(f"4{number:0900}")
            if revision == 3:
                await client.text("2")
        await trio.sleep(45)
        assert 20 < len(handled) < 26
        assert len(server.sessions) == 1
        nursery.cancel_scope.cancel()
