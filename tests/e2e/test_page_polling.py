"""The chat page behind a proxy that blocks WebSocket: it polls until WebSocket works."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

import trio

from chatd import client
from tests.e2e.chat_page import OPEN, WAITING, ChatPage, open_page, texts_in
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.chromium import Chromium

# A browser logs this for a proxy that refuses or has no daemon behind it, and for a daemon's answer
# to a session from before its restart.
_REFUSED: Final = "Failed to load resource: the server responded with a status of "


class Proxy:
    """An HTTP proxy in front of a daemon that may not support upgrades, as in some offices."""

    def __init__(
        self, port: int, nursery: trio.Nursery, *, upgrades: bool = False, swallows: bool = False
    ) -> None:
        self.upgrades = upgrades
        self._swallows: Final = swallows  # an upgrade, without any answer
        self._port: Final = port
        self._nursery: Final = nursery
        self._ask, self._asked = trio.open_memory_channel[str](math.inf)

    async def listen(self) -> int:
        """Listen on a free port and return it."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._nursery.start_soon(trio.serve_listeners, self._serve, listeners)
        return int(listeners[0].socket.getsockname()[1])

    async def asked_for(self, path: str) -> None:
        """Wait for the next connection whose first request has this path."""
        async for asked in self._asked:
            if asked == path:
                return

    async def _serve(self, near: trio.SocketStream) -> None:
        head = b""
        async with near:
            with suppress(trio.BrokenResourceError):
                # A browser sends one request at a time, and upgrades a separate connection.
                while b"\r\n\r\n" not in head:
                    if not (data := await near.receive_some()):
                        return
                    head += data
                self._ask.send_nowait(head.split(b" ", 2)[1].decode())
                if b"upgrade: websocket" in head.lower() and not self.upgrades:
                    if self._swallows:
                        await near.receive_some()
                    else:
                        await near.send_all(_answer("403 Forbidden"))
                    return
                try:
                    far = await trio.open_tcp_stream("127.0.0.1", self._port)
                except OSError:
                    await near.send_all(_answer("502 Bad Gateway"))
                    return
                async with far, trio.open_nursery() as nursery:
                    await far.send_all(head)
                    nursery.start_soon(_pass_on, near, far, nursery.cancel_scope)
                    nursery.start_soon(_pass_on, far, near, nursery.cancel_scope)


def _answer(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


async def _pass_on(
    source: trio.SocketStream, target: trio.SocketStream, both: trio.CancelScope
) -> None:
    with suppress(trio.BrokenResourceError):
        async for data in source:
            await target.send_all(data)
    both.cancel()


def faults(page: ChatPage) -> list[str]:
    return [fault for fault in page.faults if not fault.startswith(_REFUSED)]


async def test_it_polls_survives_a_restart_and_returns_to_websocket(
    start_chatd: ChatdStarter, chromium: Chromium, nursery: trio.Nursery
) -> None:
    first = await start_chatd()
    proxy = Proxy(first.port, nursery)
    page = await open_page(chromium, first, port=await proxy.listen())
    name = await page.nick()
    polling = await first.line("connect", transport="polling")
    async with client.connect(first.url, nick="json") as program:
        await program.join("lobby")
        await page.line("presence", "json joined")
        await page.say("from the page")
        for number in range(3):
            await program.say(f"answer {number}")
        answers = [f"answer {number}" for number in range(3)]
        await page.shows("from the page", *answers)
        await page.members(name, "json")
    await page.join("den")
    await page.say("to the den")
    await page.switch("lobby")

    await first.kill()
    await page.tab.until(WAITING)
    await page.send("meanwhile")
    second = await start_chatd(port=first.port)
    # The nick "json" may still be reserved.
    async with client.connect(second.url, nick="program") as program:
        await program.join("lobby")
        await program.say("missed")
        await page.come_back()
        again = await second.line("connect", transport="polling")
        expected = ["from the page", *answers, "missed", "meanwhile"]
        await page.shows(*expected)
        assert await page.nick() == name

        proxy.upgrades = True
        await page.send("on its way")
        await page.tab.evaluate("dispatchEvent(new Event('online')), 1")
        await second.line("auth", protocol="chatd.v1", user=polling["user"])
        await second.line("disconnect", connection=again["connection"])
        await page.tab.until(OPEN)
        await page.say("by WebSocket")
        await program.say("after")
        expected += ["on its way", "by WebSocket", "after"]
        await page.shows(*expected)
        await page.tab.until("document.querySelectorAll('.message[data-seq]').length === 9")
        assert await page.texts() == expected
        assert await page.nick() == name
        await page.members(name, "program")
        assert await texts_in(program, "lobby") == expected
    assert await page.rooms() == ["lobby", "den"]
    assert await page.tab.evaluate("document.querySelector('.line.gap')") is None
    left = "[...document.querySelectorAll('.line.presence')].map(node => node.textContent).join()"
    assert f"{name} left" not in await page.tab.evaluate(left)
    assert faults(page) == []


async def test_an_upgrade_without_an_answer_leads_to_polling_and_is_retried(
    chatd: ChatdProcess, chromium: Chromium, nursery: trio.Nursery
) -> None:
    proxy = Proxy(chatd.port, nursery, swallows=True)
    page = ChatPage(await chromium.open_tab())
    await page.tab.navigate(f"http://localhost:{await proxy.listen()}/")
    await proxy.asked_for("/ws")
    await put_forward(page, 11)
    await chatd.line("connect", transport="polling")
    await page.tab.until("document.querySelector('#welcome').open")
    await page.introduce("")
    await page.say("by polling")
    proxy.upgrades = True
    await put_forward(page, 61)
    await chatd.line("disconnect", transport="polling")
    await page.tab.until(OPEN)
    await page.say("by WebSocket")
    assert await page.texts() == ["by polling", "by WebSocket"]
    assert faults(page) == []


async def put_forward(page: ChatPage, seconds: int) -> None:
    """Put the page's clock forward."""
    await page.tab.evaluate(
        "(() => { const now = performance.now.bind(performance);"
        f" performance.now = () => now() + {seconds * 1000}; }})()"
    )


async def test_an_absent_daemon_does_not_lead_to_polling(
    start_chatd: ChatdStarter, chromium: Chromium, nursery: trio.Nursery
) -> None:
    first = await start_chatd()
    proxy = Proxy(first.port, nursery, upgrades=True)
    page = await open_page(chromium, first, port=await proxy.listen())
    await first.kill()
    for _ in range(3):
        await proxy.asked_for("/readyz")
        await page.tab.evaluate("document.querySelector('#banner-action').click()")
    second = await start_chatd(port=first.port)
    await page.come_back()
    await page.say("here again")
    assert (await second.line("connect"))["transport"] == "websocket"
    assert faults(page) == []
