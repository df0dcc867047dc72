from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from functools import partial
from typing import Literal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.engineio import Block, payloads, polling
from chatd.wire.request import Request
from chatd.wire.transport import Peer
from tests.engineio.served import Answer, ask, serve, waiting
from tests.wire.served import MEMORY, Client


async def test_messages_go_both_ways() -> None:
    async with serve() as served:
        poller = await served.poller()
        status, headers, body = await poller.post("4hello\x1e4€\x1ebAQID")
        assert (status, body) == (200, b"ok")
        assert headers["content-type"] == "text/html"
        assert headers["content-length"] == "2"
        assert served.last.messages == ["hello", "€", b"\x01\x02\x03"]
        status, headers, body = await poller.get()
        assert body.decode() == "4hello\x1e4€\x1ebAQID"
        assert headers["content-type"] == "text/plain; charset=UTF-8"
        assert headers["cache-control"] == "no-store"
        assert int(headers["content-length"]) == len(body)


async def test_a_get_waits_for_the_next_packet() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        answers = await waiting(nursery, poller)
        assert poller.session.polling.getting
        # Packets offered at once are one answer.
        poller.session.send_nowait("a")
        poller.session.offer(Block(["b", "c"]), 2)
        await wait_all_tasks_blocked()
        assert [answer[2] for answer in answers] == [b"4a\x1e4b\x1e4c"]
        assert not poller.session.polling.getting
        assert poller.session.sent_messages == 3


@pytest.mark.parametrize("waits", [True, False])
async def test_what_is_said_in_one_go_comes_in_one_answer(waits: bool) -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()

        async def say() -> None:
            for word in "abc":
                await poller.session.send(word)  # which lets others run
                await trio.lowlevel.checkpoint()

        if not waits:
            nursery.start_soon(say)
            await trio.lowlevel.checkpoint()
        answers = await waiting(nursery, poller)
        if waits:
            nursery.start_soon(say)
            await wait_all_tasks_blocked()
        assert [answer[2] for answer in answers] == [b"4a\x1e4b\x1e4c"]


async def test_a_busy_sender_does_not_hold_a_get_for_ever() -> None:
    async with serve(send_queue_bytes=1 << 30) as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        session = poller.session

        async def say() -> None:
            while True:
                session.send_nowait("a")
                await trio.lowlevel.checkpoint()

        nursery.start_soon(say)
        body = await poller.poll()
        assert 10 < body.count("4a") < 1000
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("revision", [3, 4])
async def test_a_response_has_no_more_packets_than_python_engineio_takes(
    revision: Literal[3, 4],
) -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller(revision)
        words = [f"word {number}" for number in range(60)]
        poller.session.offer(Block(words[:40], revision), 40)
        for word in words[40:]:
            poller.session.send_nowait(word)
        poller.session.polling.hasten(Block.control("2", revision))
        heard: list[str | bytes] = []
        while len(heard) < 61:
            _, _, body = await poller.get()
            packets = [packet.data for packet in payloads.decode(body, revision)]
            assert 1 <= len(packets) <= 16
            heard += packets
        assert heard == ["", *words]
        assert poller.session.waiting == 0


async def test_a_second_get_ends_the_session() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        answers = await waiting(nursery, poller)
        status, _, _ = await served.ask("GET", poller.line)
        assert status == 400
        await served.last.over.wait()
        await wait_all_tasks_blocked()
        assert [(answer[0], answer[2]) for answer in answers] == [(200, b"1")]
        assert served.last.reason == "transport error"
        _, _, body = await served.ask("GET", poller.line)
        assert json.loads(body)["code"] == 1


async def test_a_second_post_ends_the_session() -> None:
    async with serve() as served:
        poller = await served.poller()
        client = served.dial()
        await client.send(
            f"POST /engine.io/?{poller.line} HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Length: 3\r\n\r\n4".encode()
        )
        await wait_all_tasks_blocked()
        assert poller.session.polling.posting
        status, _, _ = await poller.post("4a")
        assert status == 400
        await served.last.over.wait()
        assert served.last.reason == "transport error"
        assert served.last.messages == []
        await client.send(b"ab")
        # What came late is not delivered to a session that is over.
        await client.answer()
        assert served.last.messages == []


async def test_a_client_that_goes_while_its_get_waits_is_gone() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        client = poller.getting
        nursery.start_soon(partial(ask_and_ignore, client, poller.line))
        await wait_all_tasks_blocked()
        assert poller.session.polling.getting
        await client.aclose()
        await served.last.over.wait()
        assert served.last.reason == "transport error"
        assert not served.engine.sessions


async def ask_and_ignore(client: Client, line: str) -> None:
    with contextlib.suppress(EOFError, trio.ClosedResourceError):
        await ask(client, "GET", line)


async def test_what_a_client_sends_ahead_of_an_answer_is_kept() -> None:
    async with serve() as served:
        poller = await served.poller()
        head = f"GET /engine.io/?{poller.line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        await poller.getting.send(head)
        await wait_all_tasks_blocked()
        await poller.getting.send(head)
        await wait_all_tasks_blocked()
        assert poller.session.polling.getting
        poller.session.send_nowait("a")
        assert (await poller.getting.answer())[2] == b"4a"
        await wait_all_tasks_blocked()
        poller.session.send_nowait("b")
        assert (await poller.getting.answer())[2] == b"4b"


async def test_a_post_broken_off_ends_the_session() -> None:
    async with serve() as served:
        poller = await served.poller()
        await poller.posting.send(
            f"POST /engine.io/?{poller.line} HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Length: 9\r\n\r\n4ab".encode()
        )
        await poller.posting.aclose()
        await served.last.over.wait()
        assert served.last.reason == "transport error"
        assert served.last.messages == []


async def test_a_post_on_a_connection_that_breaks_ends_the_session() -> None:
    async def broken(limit: int) -> bytes:
        raise trio.BrokenResourceError

    async with serve() as served:
        poller = await served.poller()
        request = Request("POST", f"/?{poller.line}", [], MEMORY, read=broken)
        with pytest.raises(trio.BrokenResourceError):
            await polling.post(request, poller.session, served.engine.options)
        await served.last.over.wait()
        assert served.last.reason == "transport error"


@pytest.mark.parametrize("body", ["abc", "", "4ok\x1e9", "bx"])
async def test_what_is_no_payload_ends_the_session(body: str) -> None:
    async with serve() as served:
        poller = await served.poller()
        status, _, _ = await poller.post(body)
        assert status == 400
        await served.last.over.wait()
        assert served.last.reason == "parse error"
        assert served.last.messages == (["ok"] if "ok" in body else [])
        status, _, _ = await poller.get()
        assert status == 400


async def test_binary_bodies_are_revision_3_s() -> None:
    async with serve() as served:
        poller = await served.poller()
        status, _, _ = await poller.post(b"4a", "Content-Type: application/octet-stream\n")
        assert status == 400
        await served.last.over.wait()
        assert served.last.reason == "transport error"


async def test_a_body_that_is_too_large_is_refused_and_the_session_continues() -> None:
    async with serve(max_payload=1000) as served:
        poller = await served.poller()
        status, _, _ = await ask(served.dial(), "POST", poller.line, body=b"4" * 1001)
        assert status == 413
        chunked = served.dial()
        await chunked.send(
            f"POST /engine.io/?{poller.line} HTTP/1.1\r\nHost: localhost\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
            + b"3ea\r\n"
            + b"4" * 1002
            + b"\r\n"
        )
        assert (await chunked.answer())[0] == 413
        await poller.say("4" + "a" * 999)
        assert served.last.messages == ["a" * 999]


async def test_a_post_may_have_any_number_of_packets() -> None:
    async with serve(echo=False) as served:
        poller = await served.poller()
        await poller.say("\x1e".join(f"4{i}" for i in range(5000)))
        assert served.last.messages == [str(i) for i in range(5000)]
        assert served.last.session.received_messages == 5000


async def test_the_client_closes() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        answers = await waiting(nursery, poller)
        await poller.say("1")
        await served.last.over.wait()
        assert served.last.reason == "transport close"
        await wait_all_tasks_blocked()
        assert answers[0][2] == b"6"
        assert (await poller.get())[0] == 400


async def test_a_close_may_overtake_a_get() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        answers: list[Answer] = []

        async def post() -> None:
            answers.append(await poller.post("1"))

        nursery.start_soon(post)
        await wait_all_tasks_blocked()
        assert served.last.session.reason == "transport close"
        assert await poller.poll() == "6"
        await wait_all_tasks_blocked()
        assert answers[0][2] == b"ok"
        assert served.last.ends == 1
        assert (await poller.get())[0] == 400


async def test_packets_after_a_close_are_ignored() -> None:
    async with serve() as served:
        poller = await served.poller()
        await poller.say("4a\x1e1\x1e4b")
        await served.last.over.wait()
        assert served.last.messages == ["a"]
        assert served.last.ends == 1


async def test_another_transport_without_an_upgrade_is_refused() -> None:
    async with serve() as served:
        poller = await served.poller()
        poller.query["transport"] = "websocket"
        status, _, body = await poller.get()
        assert (status, json.loads(body)["code"]) == (400, 3)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD"])
async def test_another_method_is_refused_and_the_session_continues(method: str) -> None:
    async with serve() as served:
        poller = await served.poller()
        client = served.dial()
        await client.send(
            f"{method} /engine.io/?{poller.line} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in client._buffer:
            assert await client._more()
        assert client._buffer.startswith(b"HTTP/1.1 400")
        assert not poller.session.reason


async def test_opening_noops_and_upgrades_mean_nothing_here() -> None:
    async with serve() as served:
        poller = await served.poller()
        await poller.say("0\x1e5\x1e6\x1e4a")
        assert served.last.messages == ["a"]


# Compression


@pytest.mark.parametrize("size", [5000, 100_000])
@pytest.mark.parametrize("coding", ["gzip", "deflate", None])
async def test_answers_are_compressed_as_the_client_likes(coding: str | None, size: int) -> None:
    async with serve() as served:
        poller = await served.poller()
        poller.session.send_nowait("a" * size)
        accept = f"Accept-Encoding: {coding}\n" if coding else ""
        _, headers, body = await poller.get(accept)
        assert headers.get("content-encoding") == coding
        assert headers["vary"] == "Accept-Encoding"
        if coding == "gzip":
            body = gzip.decompress(body)
        elif coding == "deflate":
            body = zlib.decompress(body)
        assert body == b"4" + b"a" * size


@pytest.mark.parametrize(("threshold", "size"), [(1024, 1000), (None, 5000)])
async def test_small_answers_are_left_as_they_are(threshold: int | None, size: int) -> None:
    async with serve(compression_threshold=threshold) as served:
        poller = await served.poller()
        poller.session.send_nowait("a" * size)
        _, headers, _ = await poller.get("Accept-Encoding: gzip\n")
        assert "content-encoding" not in headers


# Sending and its bound


async def test_a_client_that_fetches_nothing_is_too_slow() -> None:
    async with serve(send_queue_bytes=1000, max_send_queue_bytes=1000) as served:
        poller = await served.poller()
        session = poller.session
        session.send_nowait("a" * 2000)  # a block alone is always taken
        assert session.waiting == 2001
        session.send_nowait("b" * 999)  # and as much as the bound behind it
        assert session.reason is None
        session.offer(Block(["b"]))
        assert session.reason == "too slow"
        session.offer(Block(["b"]))
        await served.last.over.wait()
        assert served.last.reason == "too slow"
        assert session.waiting == 0
        assert (await poller.get())[0] == 400


async def test_what_may_be_dropped_is_above_half_the_bound() -> None:
    async with serve(send_queue_bytes=1000) as served:
        poller = await served.poller()
        session = poller.session
        session.offer_droppable(Block(["a" * 499]))
        session.offer_droppable(Block(["b" * 300]))
        session.offer_droppable(Block(["c"]))
        assert await poller.poll() == "4" + "a" * 499 + "\x1e4" + "b" * 300


async def test_sending_waits_for_room() -> None:
    async with serve(send_queue_bytes=100) as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        session = poller.session
        sent: list[int] = []

        async def send() -> None:
            for index in range(20):
                await session.send("a" * 30)
                sent.append(index)

        nursery.start_soon(send)
        got = 0
        while got < 20:
            await wait_all_tasks_blocked()
            assert session.waiting <= 100
            got += len((await poller.poll()).split("\x1e"))
        assert len(sent) == 20
        await session.drained()


async def test_drained_waits_for_the_poll() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        poller.session.send_nowait("a")
        done: list[str] = []

        async def drain() -> None:
            await poller.session.drained()
            done.append("drained")

        nursery.start_soon(drain)
        await wait_all_tasks_blocked()
        assert not done
        await poller.poll()
        await wait_all_tasks_blocked()
        assert done


@pytest.mark.parametrize(("revision", "head"), [(4, ""), (3, "150001:")])
async def test_a_body_that_keeps_coming_is_a_sign_of_life(
    autojump_clock: MockClock, revision: int, head: str
) -> None:
    async with serve(allow_eio3=True, ping_interval=3, ping_timeout=3, echo=False) as served:
        poller = await served.poller(revision)
        client = served.dial()
        body = f"{head}4{'x' * 150_000}".encode()
        await client.send(
            f"POST /engine.io/?{poller.line} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        for at in range(0, len(body), 8192):
            await trio.sleep(1)
            await client.send(body[at : at + 8192])
            if revision == 4 and at == 8192 * 9:
                # Another request is not refused meanwhile.
                assert await poller.poll() == "2"
        assert (await client.answer())[0] == 200
        assert [len(message) for message in served.last.messages] == [150_000]
        assert served.last.reason is None


async def test_a_body_that_stops_coming_ends_the_session(autojump_clock: MockClock) -> None:
    async with serve(ping_interval=3, ping_timeout=3) as served:
        poller = await served.poller()
        client = served.dial()
        await client.send(
            f"POST /engine.io/?{poller.line} HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Length: 1000\r\n\r\n4x".encode()
        )
        assert (await client.answer())[0] == 408
        await served.last.over.wait()
        assert served.last.reason == "transport error"


async def test_a_payload_of_too_many_packets_ends_the_session() -> None:
    async with serve(max_payload=10_000) as served:
        poller = await served.poller()
        assert (await poller.post("\x1e".join(["4"] * 300)))[0] == 200
        assert (await poller.post("\x1e".join(["4"] * 3000)))[0] == 400
        await served.last.over.wait()
        assert served.last.reason == "parse error"
        assert len(served.last.messages) < 700


async def test_the_packets_of_a_client_that_has_gone_are_not_kept(
    autojump_clock: MockClock,
) -> None:
    afar = Peer("192.0.2.1", "tcp", loopback=False)
    async with serve(echo=False) as served:
        poller = await served.poller()
        client = served.dial(peer=afar)
        body = b"\x1e".join([b"4x"] * 20_000)
        head = f"POST /engine.io/?{poller.line} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, f"{head}\r\n\r\n".encode() + body)
            await trio.sleep(1)
        began = trio.current_time()
        assert 0 < len(served.last.messages) < 20_000
        await client.aclose()
        await served.last.over.wait()
        assert served.last.reason == "transport error"
        assert trio.current_time() - began < 0.1
