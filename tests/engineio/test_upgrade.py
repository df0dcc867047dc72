from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.engineio.served import serve, waiting
from tests.wire.served import masked


async def test_a_session_goes_over_to_a_websocket() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        answers = await waiting(nursery, poller)
        client = await poller.candidate()
        await client.text("2probe")
        assert await client.hear() == "3probe"
        await wait_all_tasks_blocked()
        assert [answer[2] for answer in answers] == [b"6"]
        transports = [poller.session.transport]
        await client.text("5")
        await client.text("4hello")
        assert await client.hear() == "4hello"
        transports.append(poller.session.transport)
        assert transports == ["polling", "websocket"]
        status, _, body = await poller.get()
        assert (status, json.loads(body)["code"]) == (400, 3)
        status, _, body = await poller.post("4a")
        assert (status, json.loads(body)["code"]) == (400, 3)
        assert served.last.messages == ["hello"]


async def test_revision_3_goes_over_too() -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller(3)
        client = await poller.upgraded()
        await client.text("4hello")
        assert await client.hear() == "4hello"


@pytest.mark.parametrize(("revision", "mark"), [(4, "b"), (3, "b4")])
async def test_base64_goes_over_too(revision: int, mark: str) -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller(revision, b64="1")
        client = await poller.candidate()
        await client.text("2probe")
        assert await client.hear() == "3probe"
        poller.session.send_nowait(b"\x01\x02")
        await client.text("5")
        assert await client.hear() == f"{mark}AQI="
        await client.text(f"{mark}Aw==")
        assert await client.hear() == f"{mark}Aw=="
        assert served.last.messages == [b"\x03"]


async def test_the_revision_need_not_be_named() -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller(3)
        for query in ({}, {"EIO": "2"}):
            poller.query.pop("EIO", None)
            poller.query.update(query)
            await poller.say("2:4a")
            assert await poller.poll() == "2:4a"
        client = await poller.upgraded()
        await client.text("4b")
        assert await client.hear() == "4b"


async def test_a_get_between_probe_and_upgrade_is_answered_at_once() -> None:
    async with serve() as served:
        poller = await served.poller()
        client = await poller.candidate()
        await client.text("2probe")
        await client.hear()
        assert await poller.poll() == "6"
        poller.session.send_nowait("a")
        assert await poller.poll() == "4a"
        assert await poller.poll() == "6"
        poller.session.send_nowait("b")
        await client.text("5")
        assert await client.hear() == "4b"


async def test_a_get_behind_an_upgrade_is_refused_whichever_is_read_first() -> None:
    async with serve() as served:
        for _ in range(20):
            poller = await served.poller()
            client = await poller.candidate()
            await client.text("2probe")
            await client.hear()
            getting = poller.getting
            head = f"GET /engine.io/?{poller.line} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.text, "5")
                nursery.start_soon(getting.send, head.encode())
            assert (await getting.answer())[0] == 400


async def test_a_get_that_waits_while_all_is_said_at_once_is_refused() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        answers = await waiting(nursery, poller)
        client = await poller.candidate()
        await client.send(b"".join(masked(0x81, each) for each in (b"2probe", b"5", b"4hello")))
        assert [await client.hear() for _ in range(2)] == ["3probe", "4hello"]
        await wait_all_tasks_blocked()
        assert [answer[0] for answer in answers] == [400]


async def test_nothing_is_lost_nor_turned_round() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        session = poller.session
        said = iter(range(1000))

        def say(count: int) -> None:
            for _ in range(count):
                session.send_nowait(str(next(said)))

        got: list[str] = []
        say(3)
        got += (await poller.poll()).split("\x1e")
        answers = await waiting(nursery, poller)
        say(2)
        client = await poller.candidate()
        await client.text("2probe")
        say(2)
        await client.hear()
        await wait_all_tasks_blocked()
        got += answers[0][2].decode().split("\x1e")
        say(2)
        await poller.say("4from polling")
        got += [part for part in (await poller.poll()).split("\x1e") if part != "6"]
        say(5)
        await client.text("5")
        await wait_all_tasks_blocked()
        say(2)
        await client.text("4from websocket")
        while len(got) < 18:
            got.append(await client.hear())
        messages = [part[1:] for part in got if part != "6"]
        numbers = [message for message in messages if message.isdigit()]
        assert numbers == [str(number) for number in range(16)]
        assert served.last.messages == ["from polling", "from websocket"]


@pytest.mark.parametrize("says", [["5"], ["2probe", "4a"], ["2"], ["abc"], ["2probe", "2probe"]])
async def test_a_candidate_that_sends_something_else_is_closed_alone(says: list[str]) -> None:
    async with serve() as served:
        poller = await served.poller()
        client = await poller.candidate()
        for text in says:
            await client.text(text)
        assert (await client.closed())[0] == 1008
        await client.aclose()
        await wait_all_tasks_blocked()
        assert poller.session.reason is None
        assert poller.session.state == "polling"
        poller.session.send_nowait("still here")
        assert await poller.poll() == "4still here"
        # And another may try.
        client = await poller.upgraded()
        await client.text("4a")
        assert await client.hear() == "4a"


async def test_a_candidate_that_goes_leaves_the_session_on_polling() -> None:
    async with serve() as served, trio.open_nursery() as nursery:
        poller = await served.poller()
        client = await poller.candidate()
        await client.text("2probe")
        await client.hear()
        await client.aclose()
        await wait_all_tasks_blocked()
        answers = await waiting(nursery, poller)
        assert not answers
        poller.session.send_nowait("a")
        await wait_all_tasks_blocked()
        assert answers[0][2] == b"4a"


@pytest.mark.parametrize("probes", [True, False])
async def test_a_candidate_has_its_time(autojump_clock: MockClock, probes: bool) -> None:
    async with serve(upgrade_timeout=4.0) as served:
        poller = await served.poller()
        client = await poller.candidate()
        if probes:
            await client.text("2probe")
            await client.hear()
        start = trio.current_time()
        assert (await client.closed())[0] == 1008
        assert trio.current_time() - start == pytest.approx(4)
        await client.aclose()
        assert poller.session.reason is None


async def test_a_second_websocket_is_closed() -> None:
    async with serve() as served:
        poller = await served.poller()
        first = await poller.candidate()
        await first.text("2probe")
        await first.hear()
        second = await poller.candidate()
        assert (await second.closed())[0] == 1008
        await second.aclose()
        await first.text("5")
        await first.text("4a")
        assert await first.hear() == "4a"
        third = await poller.candidate()
        assert (await third.closed())[0] == 1008
        await third.aclose()
        await first.text("4b")
        assert await first.hear() == "4b"


async def test_a_session_that_ends_takes_its_candidate_along() -> None:
    async with serve() as served:
        poller = await served.poller()
        client = await poller.candidate()
        await client.text("2probe")
        await client.hear()
        await poller.say("1")
        assert (await client.closed())[0] == 1000
        await served.last.over.wait()
        assert served.last.reason == "transport close"


async def test_a_client_disconnected_during_an_upgrade_gets_the_queue() -> None:
    async with serve() as served:
        poller = await served.poller()
        client = await poller.candidate()
        await client.text("2probe")
        await client.hear()
        poller.session.send_nowait("bye")
        poller.session.end()
        await client.text("5")
        assert await client.hear() == "4bye"
        assert (await client.closed())[0] == 1000
        await client.aclose()
        await served.last.over.wait()
        assert served.last.reason == "forced close"


async def test_the_heartbeat_continues_across_the_upgrade(autojump_clock: MockClock) -> None:
    async with serve() as served:
        poller = await served.poller()
        start = trio.current_time()
        await trio.sleep(20)
        client = await poller.upgraded()
        assert await client.hear() == "2"
        assert trio.current_time() - start == pytest.approx(25)
        await client.text("3")
        assert await client.hear() == "2"
        await client.closed()
        assert served.last.reason == "ping timeout"


async def test_a_ping_that_waits_goes_over_too(autojump_clock: MockClock) -> None:
    async with serve() as served:
        poller = await served.poller()
        await trio.sleep(30)
        client = await poller.upgraded()
        assert await client.hear() == "2"
        await client.text("3")
        await client.text("4a")
        assert await client.hear() == "4a"


async def test_bytes_are_counted_across_the_upgrade() -> None:
    async with serve() as served:
        poller = await served.poller()
        await poller.say("4ab")
        await poller.poll()
        session = poller.session
        assert (session.received_bytes, session.sent_bytes) == (3, 3)
        assert (session.received_messages, session.sent_messages) == (1, 1)
        client = await poller.upgraded()
        await client.text("4abc")
        await client.hear()
        # Masked frames: 6 bytes more each; ours: 2.
        assert session.received_bytes == 3 + 12 + 7 + 10
        assert session.sent_bytes > 3 + 6
        assert (session.received_messages, session.sent_messages) == (2, 2)
