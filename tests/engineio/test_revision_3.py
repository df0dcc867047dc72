"""Revision 3 over polling, JSONP included."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.engineio.served import Poller, serve


async def test_revision_3_over_polling() -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller(3)
        status, _, body = await poller.post("6:4hello2:4€3:4😀")
        assert (status, body) == (200, b"ok")
        assert await poller.poll() == "6:4hello2:4€3:4😀"


async def test_the_handshake_of_revision_3_has_a_length() -> None:
    async with serve(allow_eio3=True) as served:
        poller = Poller(served, 3)
        _, _, body = await poller.open()
        size, _, packet = body.decode().partition(":")
        assert int(size) == len(packet)
        assert packet[0] == "0"


async def test_revision_3_has_binary_answers() -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller(3)
        octets = "Content-Type: application/octet-stream\n"
        body = b"\x00\x02\xff4a\x01\x03\xff\x04\x01\x02"
        assert (await poller.post(body, octets))[0] == 200
        assert served.last.messages == ["a", b"\x01\x02"]
        _, headers, answer = await poller.get()
        assert headers["content-type"] == "application/octet-stream"
        assert answer == body
        await poller.say("2:4b")
        _, headers, answer = await poller.get()
        assert headers["content-type"] == "text/plain; charset=UTF-8"
        assert answer == b"2:4b"


async def test_revision_3_has_base64_where_its_handshake_asked_for_it() -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller(3, b64="1")
        del poller.query["b64"]
        await poller.say("10:b4AQIDBA==")
        assert served.last.messages == [b"\x01\x02\x03\x04"]
        assert await poller.poll() == "10:b4AQIDBA=="


async def test_the_text_of_a_binary_body_may_be_base64() -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller(3)
        octets = "Content-Type: application/octet-stream\n"
        assert (await poller.post(b"\x00\x06\xffb4AQI=", octets))[0] == 200
        assert served.last.messages == [b"\x01\x02"]


async def test_revision_3_pings_by_itself() -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller(3)
        await poller.say("1:2")
        assert await poller.poll() == "1:3"
        # Pongs that are not fetched do not pile up.
        await poller.say("1:2" * 100)
        assert await poller.poll() == "1:3"


async def test_jsonp() -> None:
    async with serve(allow_eio3=True) as served:
        poller = Poller(served, 3, j="4")
        _, headers, body = await poller.open()
        assert headers["content-type"] == "text/javascript; charset=UTF-8"
        assert body.startswith(b'___eio[4]("')
        form = "Content-Type: application/x-www-form-urlencoded\n"
        status, _, answer = await poller.post(b"d=10%3Ab4AQIDBA%3D%3D3%3A4%5Cn%22", form)
        assert (status, answer) == (200, b"ok")
        assert served.last.messages == [b"\x01\x02\x03\x04", '\n"']
        assert await poller.poll() == r'___eio[4]("10:b4AQIDBA==3:4\n\"");'


async def test_jsonp_may_be_off() -> None:
    async with serve(jsonp=False) as served:
        poller = Poller(served, 4, j="4")
        _, headers, _ = await poller.open()
        assert headers["content-type"] == "text/plain; charset=UTF-8"


async def test_a_client_of_revision_3_may_not_pong(autojump_clock: MockClock) -> None:
    async with serve(allow_eio3=True) as served:
        poller = await served.poller(3)
        await poller.say("1:3")
        await served.last.over.wait()
        assert served.last.reason == "transport error"
        start = trio.current_time()
        await served.poller(3)
        await served.last.over.wait()
        assert served.last.reason == "ping timeout"
        assert trio.current_time() - start == pytest.approx(45)
