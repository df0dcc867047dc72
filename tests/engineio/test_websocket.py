from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.engineio import Block
from tests.engineio.served import Served, ask, serve, upgrade
from tests.wire.served import Client, masked

V3 = "EIO=3&transport=websocket"


async def opened(served: Served, query: str = "EIO=4&transport=websocket") -> Client:
    client = await served.websocket(query)
    assert (await client.hear())[0] == "0"
    return client


async def test_messages_go_both_ways() -> None:
    async with serve() as served:
        client = await opened(served)
        await client.text("4hello €")
        assert await client.hear() == "4hello €"
        await client.send(masked(0x82, b"\x01\x02"))
        assert await client.frame() == (0x82, b"\x01\x02")
        assert served.last.messages == ["hello €", b"\x01\x02"]


async def test_binary_messages_of_revision_3_have_a_type() -> None:
    async with serve(allow_eio3=True) as served:
        client = await opened(served, V3)
        await client.send(masked(0x82, b"\x04\x01\x02"))
        assert await client.frame() == (0x82, b"\x04\x01\x02")
        assert served.last.messages == [b"\x01\x02"]


@pytest.mark.parametrize(("revision", "mark"), [(4, "b"), (3, "b4")])
async def test_base64_is_always_accepted_and_sent_to_clients_that_ask_for_it(
    revision: int, mark: str
) -> None:
    query = f"EIO={revision}&transport=websocket"
    async with serve(allow_eio3=True) as served:
        client = await opened(served, f"{query}&b64=1")
        await client.text(f"{mark}AQI=")
        assert await client.hear() == f"{mark}AQI="
        await client.text("4text")
        assert await client.hear() == "4text"
        served.last.session.offer(Block(["a", b"\x01"], served.last.session.revision), 2)
        assert [await client.hear() for _ in range(2)] == ["4a", f"{mark}AQ=="]
        assert served.last.messages == [b"\x01\x02", "text"]
        assert served.last.session.sent_messages == 4
        for asked in ("", "&b64="):
            client = await opened(served, query + asked)
            await client.text(f"{mark}AQI=")
            binary = b"\x01\x02" if revision == 4 else b"\x04\x01\x02"
            assert await client.frame() == (0x82, binary)


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        ("Sec-WebSocket-Protocol: my-protocol-v1\n", "my-protocol-v1"),
        ("Sec-WebSocket-Protocol: a, b\n", "a"),
        ("Sec-WebSocket-Protocol: a\nSec-WebSocket-Protocol: b\n", "a"),
        ("Sec-WebSocket-Protocol: , s/p, Ax\n", "Ax"),
        ("Sec-WebSocket-Protocol: s/p\n", None),
        ("Sec-WebSocket-Protocol:\n", None),
        ("", None),
    ],
)
async def test_the_first_subprotocol_offered_is_selected(
    offered: str, selected: str | None
) -> None:
    async with serve() as served:
        client = served.dial()
        status, headers, _ = await upgrade(client, "EIO=4&transport=websocket", offered)
        assert (status, headers.get("sec-websocket-protocol")) == (101, selected)
        assert (await client.hear())[0] == "0"


async def test_a_block_is_the_outbox_s_own() -> None:
    async with serve() as served:
        client = await opened(served)
        block = Block(["a", b"\x01"])
        served.last.session.offer(block, 2)
        served.last.session.offer_droppable(block, 2)
        for _ in range(2):
            assert await client.hear() == "4a"
            assert await client.frame() == (0x82, b"\x01")
        assert served.last.session.sent_messages == 4


async def test_a_session_of_a_websocket_cannot_be_polled() -> None:
    async with serve() as served:
        await opened(served)
        sid = served.last.session.id
        status, _, body = await served.ask("GET", f"EIO=4&transport=polling&sid={sid}")
        assert (status, json.loads(body)["code"]) == (400, 3)
        assert served.last.session.reason is None


@pytest.mark.parametrize("text", ["abc", "", "7", "٤"])
async def test_what_is_no_packet_ends_the_session(text: str) -> None:
    async with serve() as served:
        client = await opened(served)
        await client.text(text)
        assert (await client.closed()) == (1002, "parse error")
        await served.last.over.wait()
        assert served.last.reason == "parse error"


async def test_binary_data_of_revision_3_without_its_type_ends_the_session() -> None:
    async with serve(allow_eio3=True) as served:
        client = await opened(served, V3)
        await client.send(masked(0x82, b"\x01\x02"))
        assert (await client.closed())[0] == 1002


async def test_a_close_packet_closes_at_once() -> None:
    async with serve() as served:
        client = await opened(served)
        await client.text("1")
        assert (await client.closed())[0] == 1000
        await served.last.over.wait()
        assert served.last.reason == "transport close"


async def test_messages_after_the_end_are_ignored() -> None:
    async with serve() as served:
        client = await opened(served)
        await client.send(masked(0x81, b"4a") + masked(0x81, b"1") + masked(0x81, b"4b"))
        await client.closed()
        await served.last.over.wait()
        assert served.last.messages == ["a"]


async def test_a_websocket_that_is_closed_or_lost() -> None:
    async with serve() as served:
        client = await opened(served)
        await client.send(masked(0x88, b"\x03\xe9"))
        await client.closed()
        await served.last.over.wait()
        assert served.last.reason == "transport close"
        client = await opened(served)
        await client.aclose()
        await served.last.over.wait()
        assert served.last.reason == "transport close"
        assert not served.engine.sessions


async def test_a_message_that_is_too_large() -> None:
    async with serve(max_payload=1000) as served:
        client = await opened(served)
        await client.text("4" + "a" * 999)
        assert len(await client.hear()) == 1000
        await client.text("4" + "a" * 1000)
        assert (await client.closed())[0] == 1009
        await served.last.over.wait()
        assert served.last.reason == "transport error"


async def test_the_largest_payload_may_be_larger_than_the_wire_s_own() -> None:
    async with serve(max_payload=1_000_000) as served:
        client = await opened(served)
        await client.text("4" + "a" * 900_000)
        frame = await client.frame()
        assert frame is not None
        assert len(frame[1]) == 900_001


async def test_pings_and_pongs(autojump_clock: MockClock) -> None:
    async with serve() as served:
        client = await opened(served)
        start = trio.current_time()
        for beat in range(1, 4):
            assert await client.hear() == "2"
            assert trio.current_time() - start == pytest.approx(25 * beat)
            await client.text("3")
        assert await client.hear() == "2"
        assert await client.closed() == (4002, "ping timeout")
        assert served.last.reason == "ping timeout"
        assert trio.current_time() - start == pytest.approx(120)


async def test_the_wire_s_own_pings_stay_away(autojump_clock: MockClock) -> None:
    async with serve(ping_interval=100.0, ping_timeout=50.0) as served:
        client = await opened(served)
        assert await client.hear() == "2"
        assert trio.current_time() - served.last.session.opened == pytest.approx(100)


async def test_a_client_that_only_talks_is_pinged_and_ended(autojump_clock: MockClock) -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        client = await opened(served)

        async def talk() -> None:
            while served.last.session.reason is None:
                await client.text("4a")
                await trio.sleep(1)

        nursery.start_soon(talk)
        await client.closed()
        assert served.last.reason == "ping timeout"
        # A message puts it off once: by the time that a pong has.
        assert 45 <= trio.current_time() - served.last.session.opened <= 66


async def test_revision_3_pings_by_itself(autojump_clock: MockClock) -> None:
    async with serve(allow_eio3=True) as served:
        client = await opened(served, V3)
        start = trio.current_time()
        for _ in range(4):
            await trio.sleep(25)
            await client.text("2")
            assert await client.hear() == "3"
        assert (await client.closed())[0] == 4002
        assert trio.current_time() - start == pytest.approx(145)
        assert served.last.reason == "ping timeout"


@pytest.mark.parametrize(("query", "text"), [("", "2"), (V3, "3")])
async def test_the_other_heartbeat_ends_the_session(query: str, text: str) -> None:
    async with serve(allow_eio3=True) as served:
        client = await opened(served, query or "EIO=4&transport=websocket")
        await client.text(text)
        await client.closed()
        await served.last.over.wait()
        assert served.last.reason == "transport error"


async def test_a_slow_receiver_holds_the_reader_and_not_the_heartbeat(
    autojump_clock: MockClock,
) -> None:
    async with serve(echo=False) as served:
        client = await opened(served)
        served.last.gate = trio.Event()
        await client.text("4a")
        for _ in range(5):
            assert await client.hear() == "2"
            await client.text("3")
        assert served.last.session.reason is None
        served.last.gate.set()
        await wait_all_tasks_blocked()
        assert served.last.messages == ["a"]
        assert await client.hear() == "2"


async def test_a_disconnected_client_gets_the_queue() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        client = await opened(served)
        session = served.last.session
        session.send_nowait("bye")
        nursery.start_soon(session.aclose)
        assert await client.hear() == "4bye"
        assert await client.closed() == (1000, "forced close")
        assert served.last.reason is None
        await client.send(masked(0x88, b"\x03\xe8"))
        await served.last.over.wait()
        assert served.last.reason == "forced close"


async def test_a_slow_reader_is_ended() -> None:
    async with serve(send_queue_bytes=1000, max_send_queue_bytes=1000) as served:
        client = await opened(served)
        session = served.last.session
        for _ in range(200):
            session.offer(Block(["a" * 100]))
        await client.closed()
        await served.last.over.wait()
        assert served.last.reason == "too slow"


async def test_sending_waits_for_room() -> None:
    async with serve(send_queue_bytes=1000) as served, trio.open_nursery() as nursery:
        client = served.dial(lockstep=True)
        assert (await upgrade(client, "EIO=4&transport=websocket"))[0] == 101
        assert (await client.hear())[0] == "0"
        session = served.last.session

        async def send() -> None:
            for index in range(100):
                await session.send(f"{index:<100}")
            await session.drained()

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert 800 < session.waiting <= 1000
        for index in range(100):
            assert (await client.hear())[1:].strip() == str(index)
        assert session.reason is None


async def test_a_page_of_another_origin_may_not_connect() -> None:
    async with serve() as served:
        query = "EIO=4&transport=websocket"
        head = f"GET /engine.io/?{query} HTTP/1.1\nUpgrade: websocket\nConnection: Upgrade\n"
        head += "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\n"
        status, _, body = await served.dial().ask(head + "Origin: http://evil.example")
        assert (status, body) == (400, b"Forbidden")
        status, _, _ = await served.dial().ask(head + "Origin: http://localhost")
        assert status == 101
    refused = [fields for name, fields in served.recording.records if name == "refused"]
    assert [fields["origin"] for fields in refused] == ["http://evil.example"]


async def test_a_get_for_a_websocket_s_session_by_its_own_name() -> None:
    async with serve() as served:
        await opened(served)
        sid = served.last.session.id
        answer = await ask(served.dial(), "GET", f"EIO=4&transport=websocket&sid={sid}")
        assert answer[0] == 400


@pytest.mark.parametrize("fragments", [1, 20])
async def test_a_message_that_keeps_coming_is_a_sign_of_life(
    autojump_clock: MockClock, fragments: int
) -> None:
    async with serve(ping_interval=3, ping_timeout=3, echo=False) as served:
        client = await opened(served)
        parts = [b"4" + b"x" * 7499, *(b"x" * 7500 for _ in range(19))]
        if fragments == 1:
            data = masked(0x81, b"".join(parts))
        else:
            heads = [0x01, *[0x00] * 18, 0x80]
            data = b"".join(masked(head, part) for head, part in zip(heads, parts, strict=True))
        for at in range(0, len(data), 8192):
            await trio.sleep(1)
            await client.send(data[at : at + 8192])
        await wait_all_tasks_blocked()
        assert [len(message) for message in served.last.messages] == [149_999]
        # The pings that it did not answer meanwhile are answered by one pong.
        assert await client.hear() == "2"
        await client.text("3")
        await trio.sleep(2)
        assert served.last.reason is None


async def test_half_a_message_and_then_silence_is_none(autojump_clock: MockClock) -> None:
    async with serve(ping_interval=3, ping_timeout=3) as served:
        client = await opened(served)
        began = trio.current_time()
        await client.send(masked(0x81, b"4" + b"x" * 1000)[:500])
        await served.last.over.wait()
        assert served.last.reason == "ping timeout"
        assert trio.current_time() - began <= 9
