"""A connection's life, over memory streams and over loopback, with a real client and a raw one."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from chatd import model
from chatd.wire import frames
from chatd.wire.poller import current_poller
from chatd.wire.transport import Peer
from chatd.wire.websocket import Receiver, Upgrade, WebSocket
from tests.wire.served import (
    HANDSHAKE,
    MEMORY,
    Chatter,
    Client,
    Served,
    masked,
    serve,
    settings,
)
from tests.wire.test_frames import BROKEN

SMALL = settings(
    limits={"message_bytes": 1000, "send_queue_bytes": 70_000, "close_seconds": 2.0},
    websocket={"max_message_bytes": 70_000},
)
Dial = Callable[[], Awaitable[Client]]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve(SMALL) as made:
        yield made


@pytest.fixture(params=["memory", "socket"])
def dial(request: pytest.FixtureRequest, served: Served) -> Dial:
    async def memory() -> Client:
        return served.dial()

    return memory if request.param == "memory" else served.dial_tcp


async def joined(dial: Dial, nursery: trio.Nursery, path: str = "/ws") -> WebSocketConnection:
    """Connect with trio-websocket's client."""
    client = await dial()
    wanted = ["chatd.v1"] if "protocol" in path else None
    return await wrap_client_stream(
        nursery,
        client.stream,  # type: ignore[arg-type]  # any stream will do, except for its addresses
        "localhost",
        path,
        subprotocols=wanted,
    )


async def test_a_real_client_talks(served: Served, dial: Dial, nursery: trio.Nursery) -> None:
    client = await joined(dial, nursery)
    for message in ("hello", "", "tschüß", "x" * 60_000):
        await client.send_message(message)
        assert await client.get_message() == message
    await client.send_message(b"\x00\xff")
    assert await client.get_message() == b"\x00\xff"
    await client.ping()
    await client.aclose(1000, "enough")
    chatter = served.chatters[0]
    await chatter.over.wait()
    assert (chatter.close, chatter.reason, chatter.ends) == (model.NORMAL, "enough", 1)
    assert chatter.websocket.received_messages == 5
    assert served.server.connections == set()
    assert served.recording.records == []


async def test_the_subprotocol_is_answered(
    served: Served, dial: Dial, nursery: trio.Nursery
) -> None:
    client = await joined(dial, nursery, "/ws?protocol=chatd.v1")
    assert client.subprotocol == "chatd.v1"
    await client.aclose()


async def test_our_close_comes_after_the_farewell(
    served: Served, dial: Dial, nursery: trio.Nursery
) -> None:
    client = await joined(dial, nursery)
    await client.send_message("kick")
    assert await client.get_message() == "bye 4500"
    with pytest.raises(ConnectionClosed) as caught:
        await client.get_message()
    assert caught.value.reason is not None
    assert (caught.value.reason.code, caught.value.reason.reason) == (4500, "kicked by ann")
    await served.chatters[0].over.wait()
    assert (served.chatters[0].close, served.chatters[0].ends) == (model.KICKED, 1)


@pytest.mark.parametrize("word", ["boom", "later"])
async def test_a_gateways_exception_is_noted_and_closes_with_1011(
    served: Served, dial: Dial, word: str
) -> None:
    other, client = await dial(), await dial()
    await other.upgrade()
    await client.upgrade()
    await client.text(word)
    assert await client.closed() == (1011, model.INTERNAL.reason)
    assert len(served.faults) == 1
    assert "boom" in served.faults[0]
    await other.text("still here")
    assert await other.hear() == "still here"


@pytest.mark.parametrize("how", ["goodbye_frames", "ended", "keep-alive"])
async def test_an_error_elsewhere_ends_only_its_own_connection(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def fail(*args: object) -> bytes:
        raise ValueError(f"boom in {how}")

    async with serve(tcp=False) as served:
        other, client = served.dial(), served.dial()
        await client.upgrade()
        await client.text("x")
        assert await client.hear() == "x"
        await other.upgrade()
        await other.text("x")
        assert await other.hear() == "x"
        chatter = served.chatters[0]
        code = 1011
        if how == "keep-alive":
            monkeypatch.setattr(WebSocket, "ping", fail)
            await trio.sleep(24)
            await other.text("y")
            assert await other.hear() == "y"
            await trio.sleep(2)
            monkeypatch.undo()
        else:
            monkeypatch.setattr(chatter, how, fail)
            chatter.websocket.end(model.KICKED)
            code = 4500 if how == "ended" else 1011
        assert (await client.closed())[0] == code
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert served.faults == [f"ValueError('boom in {how}')"]
        assert served.recording.records[-1][1]["connection"] == chatter.websocket.id
        assert chatter.ends == (0 if how == "ended" else 1)
        assert len(served.server.connections) == 1
        await other.text("still here")
        assert await other.hear() == "still here"


async def test_an_opener_that_fails_closes_with_1011(served: Served, dial: Dial) -> None:
    async def fail(websocket: WebSocket) -> Receiver:
        raise ValueError("no")

    served.opening = fail
    client = await dial()
    await client.upgrade()
    assert await client.closed() == (1011, model.INTERNAL.reason)
    assert len(served.faults) == 1


async def test_what_a_plain_opener_sends_comes_with_the_answer(served: Served) -> None:
    def greet(websocket: WebSocket) -> Receiver:
        websocket.outbox.offer(frames.text(b"hello"))
        return Chatter(websocket)

    served.upgrades = Upgrade(None, greet)
    client = await served.dial_tcp()
    await client.send(HANDSHAKE)
    data = await client.stream.receive_some(65536)
    assert data.startswith(b"HTTP/1.1 101 ")
    assert data.endswith(b"\r\n\r\n" + frames.text(b"hello"))


async def test_a_plain_opener_that_fails_closes_with_1011(served: Served, dial: Dial) -> None:
    def fail(websocket: WebSocket) -> Receiver:
        raise ValueError("no")

    served.upgrades = Upgrade(None, fail)
    client = await dial()
    await client.upgrade()
    assert await client.closed() == (1011, model.INTERNAL.reason)
    assert len(served.faults) == 1


async def test_nothing_is_read_until_the_opener_returned(served: Served, dial: Dial) -> None:
    gate = trio.Event()

    async def wait(websocket: WebSocket) -> Receiver:
        await gate.wait()
        return await served.chat(websocket)

    served.opening = wait
    client = await dial()
    await client.upgrade()
    await client.text("early")
    await trio.testing.wait_all_tasks_blocked()
    assert served.chatters == []
    gate.set()
    assert await client.hear() == "early"


async def test_frames_that_come_with_the_handshake_are_not_lost(served: Served, dial: Dial) -> None:
    client = await dial()
    await client.send(HANDSHAKE + masked(0x81, b"one") + masked(0x89, b"p") + masked(0x81, b"two"))
    assert (await client.answer())[0] == 101
    assert await client.hear() == "one"
    assert await client.frame() == (0x8A, b"p")
    assert await client.hear() == "two"


async def test_no_frame_is_handed_on_if_the_opener_ended_the_connection(
    served: Served, dial: Dial
) -> None:
    async def end(websocket: WebSocket) -> Receiver:
        websocket.end(model.KICKED)
        return await served.chat(websocket)

    served.opening = end
    client = await dial()
    await client.send(HANDSHAKE + masked(0x81, b"too late"))
    assert (await client.answer())[0] == 101
    assert await client.closed() == (model.KICKED.code, model.KICKED.reason)
    assert served.chatters[0].messages == []


async def test_a_ping_between_fragments_is_answered_before_the_message(
    served: Served, dial: Dial
) -> None:
    client = await dial()
    await client.upgrade()
    await client.send(masked(0x01, b"a") + masked(0x89, b"now") + masked(0x80, b"b"))
    assert await client.frame() == (0x8A, b"now")
    assert await client.hear() == "ab"


async def test_pongs_are_swallowed(served: Served, dial: Dial) -> None:
    client = await dial()
    await client.upgrade()
    await client.send(masked(0x8A, b"unasked") * 100 + masked(0x81, b"x"))
    assert await client.hear() == "x"


@pytest.mark.parametrize(("data", "code"), [row[1:] for row in BROKEN], ids=[r[0] for r in BROKEN])
async def test_every_fault_reaches_the_peer_as_a_close_frame(
    served: Served, dial: Dial, data: bytes, code: int
) -> None:
    client = await dial()
    await client.upgrade()
    await client.send(masked(0x81, b"before") + data + masked(0x81, b"after"))
    assert await client.hear() == "before"
    while (word := await client.hear()) != f"bye {code}":
        assert word == "a"  # a whole message before the fault
    frame = await client.frame()
    assert frame is not None
    assert frame[0] == 0x88
    assert int.from_bytes(frame[1][:2], "big") == code
    assert await client.frame() is None
    await client.aclose()
    await served.chatters[0].over.wait()
    assert "after" not in served.chatters[0].messages
    assert served.chatters[0].close == model.CLOSES[code]


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_the_peers_close_is_answered(served: Served, dial: Dial, code: int) -> None:
    client = await dial()
    await client.upgrade()
    payload = code.to_bytes(2, "big") + b"done"
    await client.send(masked(0x88, payload) + masked(0x81, b"after"))
    assert await client.frame() == (0x88, payload)
    assert await client.frame() is None
    await served.chatters[0].over.wait()
    assert served.chatters[0].messages == []
    assert served.chatters[0].reason == "done"


async def test_a_close_without_a_code(served: Served, dial: Dial) -> None:
    client = await dial()
    await client.upgrade()
    await client.send(masked(0x88, b""))
    assert await client.frame() == (0x88, b"")
    await served.chatters[0].over.wait()
    assert served.chatters[0].close == model.NO_STATUS


async def test_a_lost_peer(served: Served, dial: Dial) -> None:
    client = await dial()
    await client.upgrade()
    await client.aclose()
    while not served.chatters:
        await trio.testing.wait_all_tasks_blocked()
    await served.chatters[0].over.wait()
    assert (served.chatters[0].close, served.chatters[0].ends) == (model.LOST, 1)
    assert served.faults == []


async def test_both_close_at_once(served: Served, dial: Dial) -> None:
    client = await dial()
    await client.upgrade()
    await client.send(masked(0x81, b"kick") + masked(0x88, b"\x03\xe8"))
    assert await client.hear() == "bye 4500"
    frame = await client.frame()
    assert frame is not None
    assert frame[0] == 0x88
    assert await client.frame() is None
    await served.chatters[0].over.wait()
    assert (served.chatters[0].close, served.chatters[0].ends) == (model.KICKED, 1)
    assert served.faults == []


async def test_after_our_close_data_is_ignored(served: Served, dial: Dial) -> None:
    client = await dial()
    await client.upgrade()
    await client.text("kick")
    assert await client.closed() == (4500, "kicked by ann")
    await client.send(masked(0x81, b"late") * 10 + masked(0x01, b"half"))
    await client.send(masked(0x88, b"\x11\x94"))
    assert await client.frame() is None
    await served.chatters[0].over.wait()
    assert served.chatters[0].messages == ["kick"]


async def test_garbage_after_our_close_ends_it(served: Served, dial: Dial) -> None:
    client = await dial()
    await client.upgrade()
    await client.text("kick")
    assert await client.closed() == (4500, "kicked by ann")
    await client.send(b"\xff" * 100)
    assert await client.frame() is None
    await served.chatters[0].over.wait()
    assert served.chatters[0].close is model.KICKED


async def test_a_close_while_the_receiver_is_blocked_ends_it(served: Served, dial: Dial) -> None:
    class Blocked(Chatter):
        async def received(self, message: str | bytes) -> None:
            super().received(message)
            await trio.sleep_forever()

    async def block(websocket: WebSocket) -> Receiver:
        served.chatters.append(Blocked(websocket))
        return served.chatters[-1]

    served.opening = block
    client = await dial()
    await client.upgrade()
    await client.text("first")
    assert await client.hear() == "first"
    await client.text("second")
    served.chatters[0].websocket.end(model.KICKED, "out")
    assert await client.closed() == (4500, "out")
    await client.send(masked(0x88, b"\x11\x94"))
    assert await client.frame() is None
    await served.chatters[0].over.wait()
    assert served.chatters[0].messages == ["first"]
    assert served.faults == []


async def test_the_peers_close_overtakes_ours_behind_a_backlog(served: Served) -> None:
    client = await served.dial_tcp()
    await client.upgrade()
    await client.text("x")
    assert await client.hear() == "x"
    websocket = served.chatters[0].websocket
    block = frames.text(b"x" * 50_000)
    count = 0
    while not websocket.outbox.waiting:
        websocket.outbox.offer(block)
        count += 1
    websocket.end(model.KICKED, "out")
    await client.send(masked(0x88, b"\x03\xe8"))
    for _ in range(count):
        assert await client.frame() == (0x81, b"x" * 50_000)
    assert await client.closed() == (4500, "out")
    assert await client.frame() is None


async def test_an_idle_connection_is_one_task_and_nothing_of_trio_websocket(
    served: Served, dial: Dial
) -> None:
    current_poller()  # one task for all connections
    before = trio.lowlevel.current_statistics().tasks_living
    client = await dial()
    await client.upgrade()
    await client.text("x")
    assert await client.hear() == "x"
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before + 1
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is WebSocketConnection]


async def test_pings_while_closing_are_passed_over(served: Served, dial: Dial) -> None:
    client = await dial()
    await client.upgrade()
    await client.send(masked(0x81, b"kick"))
    assert await client.closed() == (4500, "kicked by ann")
    await client.send(masked(0x89, b"p") * 10 + masked(0x88, b"\x11\x94"))
    assert await client.frame() is None
    assert served.faults == []


async def test_the_first_end_wins_and_offers_after_it_do_nothing(served: Served) -> None:
    client = served.dial()
    await client.upgrade()
    await trio.testing.wait_all_tasks_blocked()
    websocket = served.chatters[0].websocket
    websocket.end(model.BANNED)
    websocket.end(model.KICKED)
    assert await client.closed() == (4501, "banned")
    websocket.outbox.offer(frames.text(b"late"))
    await client.send(masked(0x88, b"\x11\x95"))
    assert await client.frame() is None
    websocket.outbox.offer(frames.text(b"later"))


async def test_a_peer_that_does_not_answer_our_close_is_cut(
    autojump_clock: MockClock,
) -> None:
    async with serve(SMALL, tcp=False) as served:
        client = served.dial()
        await client.upgrade()
        await client.text("kick")
        began = trio.current_time()
        assert await client.closed() == (4500, "kicked by ann")
        assert await client.frame() is None
        assert trio.current_time() - began == 2.0
        await served.chatters[0].over.wait()


async def test_a_silent_peer_is_pinged_and_closed_with_4002(autojump_clock: MockClock) -> None:
    async with serve(tcp=False) as served:
        client = served.dial()
        await client.upgrade()
        began = trio.current_time()
        assert await client.frame() == (0x89, b"")
        assert trio.current_time() - began == 25
        assert await client.closed() == (4002, model.SILENT.reason)
        assert trio.current_time() - began == 45
        await client.aclose()
        await served.chatters[0].over.wait()
        assert served.chatters[0].close == model.SILENT


async def test_a_protocol_may_have_its_own_limits_and_heartbeat(
    autojump_clock: MockClock,
) -> None:
    async with serve(SMALL, tcp=False) as served:
        served.upgrades = Upgrade(
            None, served.open, max_message_bytes=10, send_queue_bytes=20, keep_alive=False
        )
        client = served.dial()
        await client.upgrade()
        await trio.sleep(1000)
        await client.text("x" * 10)
        assert await client.hear() == "x" * 10
        (chatter,) = served.chatters
        for _ in range(3):
            chatter.websocket.outbox.offer(frames.text(b"x" * 10))
        assert chatter.websocket.closing == (model.TOO_SLOW, model.TOO_SLOW.reason)
        client = served.dial()
        await client.upgrade()
        await client.text("x" * 11)
        assert (await client.closed())[0] == 1009
        assert not served.chatters[1].websocket.peer_closed


async def test_the_side_that_closed_first_is_known(served: Served) -> None:
    client = served.dial()
    await client.upgrade()
    await client.send(masked(0x88, b"\x03\xe9"))
    assert (await client.closed())[0] == 1001
    await served.chatters[0].over.wait()
    assert served.chatters[0].websocket.peer_closed


async def test_a_pong_is_a_life_sign(autojump_clock: MockClock) -> None:
    async with serve(tcp=False) as served:
        client = served.dial()
        await client.upgrade()
        for _ in range(10):
            assert await client.frame() == (0x89, b"")
            await client.send(masked(0x8A, b""))
        assert trio.current_time() >= 250
        await client.text("here")
        assert await client.hear() == "here"


async def test_half_a_frame_and_silence_is_closed(autojump_clock: MockClock) -> None:
    async with serve(tcp=False) as served:
        client = served.dial()
        await client.upgrade()
        await client.send(masked(0x81, b"x" * 100)[:50])
        assert await client.closed() == (4002, model.SILENT.reason)


async def test_while_a_message_is_taken_the_peer_is_not_silent(autojump_clock: MockClock) -> None:
    class Slow(Chatter):
        async def received(self, message: str | bytes) -> None:
            await trio.sleep(300)
            super().received(message)

    async with serve(tcp=False) as served:

        async def slowly(websocket: WebSocket) -> Receiver:
            chatter = Slow(websocket)
            served.chatters.append(chatter)
            return chatter

        served.opening = slowly
        client = served.dial()
        await client.upgrade()
        await client.text("patience")
        assert await client.hear() == "patience"
        assert trio.current_time() >= 300


async def test_a_slow_reader_gets_4001_when_it_reads_again(served: Served) -> None:
    client = await served.dial_tcp()
    await client.upgrade()
    while not served.chatters:
        await trio.testing.wait_all_tasks_blocked()
    websocket = served.chatters[0].websocket
    block = frames.text(b"x" * 50_000)
    count = 0
    while websocket.closing is None:
        websocket.outbox.offer(block)
        count += 1
    assert websocket.closing[0] is model.TOO_SLOW
    websocket.outbox.offer(block)
    got = 0
    while True:
        frame = await client.frame()
        assert frame is not None
        if frame[0] == 0x88:
            break
        assert frame[1] in (b"x" * 50_000, b"bye 4001")
        got += 1
    assert int.from_bytes(frame[1][:2], "big") == 4001
    assert got == count  # all but the one that was too much, and the farewell
    await client.send(masked(0x88, frame[1]))
    assert await client.frame() is None
    await served.chatters[0].over.wait()


async def test_a_reader_that_never_reads_is_cut_in_time(served: Served) -> None:
    client = await served.dial_tcp()
    await client.upgrade()
    while not served.chatters:
        await trio.testing.wait_all_tasks_blocked()
    websocket = served.chatters[0].websocket
    while websocket.closing is None:
        websocket.outbox.offer(frames.text(b"x" * 50_000))
    with trio.fail_after(60):
        await served.chatters[0].over.wait()
    assert served.chatters[0].close is model.TOO_SLOW
    await client.aclose()


async def test_a_flood_of_pings_stops_our_reading_and_nothing_grows(served: Served) -> None:
    client = await served.dial_tcp()
    await client.upgrade()
    flood = masked(0x89, b"p" * 125) * 500
    sent = 0
    with trio.move_on_after(1):
        while True:
            await client.send(flood)
            sent += 1
    chatter = served.chatters[0]
    assert chatter.websocket.outbox.waiting < 1000
    other = await served.dial_tcp()
    await other.upgrade()
    await other.text("quick")
    assert await other.hear() == "quick"
    await client.aclose()
    await chatter.over.wait()
    assert served.faults == []


async def test_cancellation_from_outside_closes_and_reports() -> None:
    async with serve(SMALL, tcp=False) as served:
        client = served.dial()
        await client.upgrade()
        await client.text("x")
        assert await client.hear() == "x"
        served.handlers.cancel_scope.cancel()
        assert await client.frame() is None
    assert (served.chatters[0].close, served.chatters[0].ends) == (model.GOING_AWAY, 1)
    served.chatters[0].websocket.outbox.offer(b"x")
    assert served.faults == []


async def test_a_closed_connection_is_not_kept(served: Served) -> None:
    client = await served.dial_tcp()
    await client.upgrade()
    await client.text("x")
    await client.hear()
    await client.aclose()
    await served.chatters[0].over.wait()
    served.chatters.clear()
    await trio.testing.wait_all_tasks_blocked(0.01)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is WebSocket]


@pytest.mark.parametrize("head", [0x81, 0x89, 0x8A])
async def test_an_address_that_sends_too_much_is_read_more_slowly(
    autojump_clock: MockClock, head: int
) -> None:
    async with serve() as served:
        for peer, waits in ((MEMORY, False), (Peer("192.0.2.1", "tcp", loopback=False), True)):
            client = served.dial(peer)
            await client.upgrade()
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, masked(head, b"") * 20_000 + masked(0x81, b"end"))
                while await client.frame() != (0x81, b"end"):
                    pass
            assert (trio.current_time() - began > 0.1) is waits


async def test_others_run_while_a_read_of_many_frames_is_handled(served: Served) -> None:
    client = served.dial()
    await client.upgrade()
    await client.send(masked(0x81, b"") * 1300)
    turns = 0
    with trio.fail_after(60):
        while not served.chatters or len(served.chatters[0].messages) < 1300:
            await trio.lowlevel.checkpoint()
            turns += 1
    assert turns > 50
