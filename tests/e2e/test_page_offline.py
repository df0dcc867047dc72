"""The chat page across outages: no message is missed or sent twice."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import trio

from chatd import client
from chatd.client.errors import may_reconnect
from chatd.model import CLOSES
from tests.e2e.chat_page import OPEN, WAITING, ChatPage, open_page, texts_in
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter, free_port
from tests.e2e.chromium import Chromium
from tests.e2e.test_page_polling import Proxy, faults, put_forward

BANNER: Final = "document.querySelector('#banner')"


async def test_kill_9_loses_and_doubles_nothing(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    first = await start_chatd()
    page = await open_page(chromium, first)
    name = await page.nick()
    await page.say("before")
    await first.kill()
    await page.tab.until(WAITING)
    assert (
        await page.tab.evaluate(f"{BANNER}.checkVisibility() && {BANNER}.dataset.kind") == "waiting"
    )
    await page.tab.until_text("Reconnecting", within="#banner")
    await page.send("meanwhile 1")
    await page.send("meanwhile 2")
    await page.tab.until("document.querySelectorAll('.message[data-state=sending]').length === 2")
    assert await page.texts() == ["before", "meanwhile 1", "meanwhile 2"]

    # The same history on another port: the page misses what is sent there.
    other = await start_chatd(port=free_port())
    async with client.connect(other.url, nick="json") as program:
        await program.join("lobby")
        for number in range(3):
            await program.say(f"missed {number}")
    assert await other.stop() == 0

    second = await start_chatd(port=first.port)
    await page.come_back()
    missed = [f"missed {number}" for number in range(3)]
    expected = ["before", *missed, "meanwhile 1", "meanwhile 2"]
    await page.shows(*expected)
    await page.tab.until("document.querySelectorAll('.message[data-seq]').length === 6")
    await page.say("after")
    assert await page.texts() == [*expected, "after"]
    assert await page.nick() == name
    states = "[...document.querySelectorAll('.message')].map(node => node.dataset.state ?? '')"
    assert await page.tab.evaluate(states) == ["sent", "", "", "", "sent", "sent", "sent"]
    assert await page.tab.evaluate("document.querySelector('.line.gap')") is None
    assert not await page.visible("#banner")
    async with client.connect(second.url) as program:
        assert await texts_in(program, "lobby") == [*expected, "after"]
    assert page.faults == []


class Cable:
    """A relay to a daemon that can drop what the daemon sends, and be cut."""

    def __init__(self, port: int, nursery: trio.Nursery) -> None:
        self.deaf = False
        self._port: Final = port
        self._nursery: Final = nursery
        self._calls: Final[set[trio.CancelScope]] = set()

    async def lay(self) -> int:
        """Listen on a free port and return it."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._nursery.start_soon(trio.serve_listeners, self._call, listeners)
        return int(listeners[0].socket.getsockname()[1])

    def pull(self) -> None:
        """End all connections; later ones work."""
        self.deaf = False
        for call in list(self._calls):
            call.cancel()

    async def _call(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with near, far:
            with trio.CancelScope() as scope:
                self._calls.add(scope)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._up, near, far)
                        await self._down(far, near)
                        nursery.cancel_scope.cancel()
                finally:
                    self._calls.remove(scope)

    async def _up(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in near:
                await far.send_all(data)
            await far.send_eof()

    async def _down(self, far: trio.SocketStream, near: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in far:
                if not self.deaf:
                    await near.send_all(data)


async def test_a_lost_answer_sends_nothing_twice(
    chatd: ChatdProcess, chromium: Chromium, nursery: trio.Nursery
) -> None:
    """The daemon has the message but the page does not know: its key prevents a duplicate."""
    cable = Cable(chatd.port, nursery)
    page = await open_page(chromium, chatd, port=await cable.lay())
    await page.say("before")
    for number in range(2, 8, 2):
        cable.deaf = True
        await page.send(f"message {number}")
        await chatd.line("message", seq=number)
        await page.tab.until("document.querySelector('[data-state=sending]')")
        cable.pull()
        await page.tab.until("!document.querySelector('[data-state=sending]')")
        # The message may arrive before the answer to the join, which must not be dropped.
        await page.say(f"message {number + 1}")
    expected = ["before", *(f"message {number}" for number in range(2, 8))]
    assert await page.texts() == expected
    async with client.connect(chatd.url) as program:
        assert await texts_in(program, "lobby") == expected
    assert page.faults == []


async def test_a_message_in_flight_at_a_kill_is_sent_once(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    """The page cannot know whether the daemon had taken it."""
    chatd = await start_chatd()
    page = await open_page(chromium, chatd)
    for number in range(3):
        await page.send(f"message {number}")
        await chatd.kill()
        chatd = await start_chatd(port=chatd.port)
        await page.come_back()
    await page.tab.until("document.querySelectorAll('.message[data-seq]').length === 3")
    await page.say("the last")
    expected = [*(f"message {number}" for number in range(3)), "the last"]
    assert await page.texts() == expected
    async with client.connect(chatd.url) as program:
        assert await texts_in(program, "lobby") == expected
    assert page.faults == []


async def test_a_drain_is_announced_and_survived(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    first = await start_chatd()
    page = await open_page(chromium, first)
    await page.join("den")
    await page.say("before")
    assert await first.stop() == 0
    assert (await first.line("disconnect"))["code"] == 1001
    await page.tab.until(WAITING)
    assert await page.visible("#banner")
    second = await start_chatd(port=first.port)
    await page.tab.until(OPEN)  # by itself, after the time that `bye` gave it
    await page.tab.until(f"{BANNER}.hidden")
    async with client.connect(second.url, nick="json") as program:
        await program.join("den")
        await page.members(await page.nick(), "json")
        await program.say("after")
        await page.shows("before", "after")
    assert await page.rooms() == ["lobby", "den"]
    assert page.faults == []


async def test_a_refused_message_can_be_retried(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd()
    page = await open_page(chromium, chatd)
    await page.say("before")
    # The page keeps to the limit it knows; only a daemon with a lower one refuses.
    await chatd.stop()
    await page.tab.until(WAITING)
    await page.send(long := "much " * 100 + "too long")
    await page.send("short")
    chatd = await start_chatd({"limits.message_bytes": 100}, port=chatd.port)
    await page.come_back()
    failed = "document.querySelectorAll('.message[data-state=failed]').length"
    await page.tab.until(f"{failed} === 1")
    assert "100 bytes" in await page.tab.evaluate("document.querySelector('.failure').innerText")
    await page.shows("before", "short", long)  # later messages were sent
    assert await page.tab.evaluate("document.querySelector('.message:last-child').dataset.key")
    await page.type(long)
    await page.tab.until_text("Too long", within="#composer-hint")
    assert await page.tab.evaluate("document.querySelector('#composer-send').disabled")

    await chatd.stop()
    chatd = await start_chatd(port=chatd.port)
    await page.come_back()
    await page.reload()
    await page.shows("before", "short", long)
    assert await page.tab.evaluate(failed) == 1  # it stays until the user decides
    await page.tab.click("button[data-do=retry]")
    await page.tab.until(f"{failed} === 0")
    await page.tab.until("document.querySelectorAll('.message[data-seq]').length === 3")
    assert await page.texts() == ["before", "short", long]
    assert page.faults == []


async def test_a_failed_message_can_be_discarded(
    start_chatd: ChatdStarter, chromium: Chromium
) -> None:
    chatd = await start_chatd()
    page = await open_page(chromium, chatd)
    await chatd.kill()
    await page.tab.until(WAITING)
    await page.send("too long " * 20)
    chatd = await start_chatd({"limits.message_bytes": 100}, port=chatd.port)
    await page.come_back()
    await page.tab.until("document.querySelector('.message[data-state=failed]')")
    await page.tab.click("button[data-do=discard]")
    await page.tab.until("!document.querySelector('.message')")
    await page.reload()
    assert await page.texts() == []
    assert page.faults == []


async def offline(page: ChatPage, *, on: bool) -> None:
    """Take away the browser's network, or give it back."""
    speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await page.tab.call("Network.emulateNetworkConditions", offline=on, **speed)


@pytest.mark.parametrize("upgrades", [True, False])
async def test_being_offline_is_shown_at_once_and_ends_at_once(
    upgrades: bool, chatd: ChatdProcess, chromium: Chromium, nursery: trio.Nursery
) -> None:
    proxy = Proxy(chatd.port, nursery, upgrades=upgrades)
    page = await open_page(chromium, chatd, port=await proxy.listen(), nick="ann")
    async with client.connect(chatd.url, nick="json") as program:
        await program.join("lobby")
        await page.say("before")
        await page.tab.evaluate(
            "addEventListener('offline', () => window.lost = performance.now()),"
            " new MutationObserver(() => window.told ??= performance.now())"
            ".observe(document.querySelector('#banner'), {attributes: true}), 1"
        )
        await offline(page, on=True)
        await page.tab.until_text("You are offline.", within="#banner")
        assert await page.visible("#banner")
        assert await page.tab.evaluate("window.told - window.lost") < 500
        await page.send("meanwhile")
        await page.tab.until("document.querySelector('.message[data-state=sending]')")
        await program.say("missed")
        await offline(page, on=False)
        await page.shows("before", "missed", "meanwhile")
        await page.tab.until("document.querySelectorAll('.message[data-seq]').length === 3")
        await page.tab.until(f"{BANNER}.hidden")
        assert await texts_in(program, "lobby") == ["before", "missed", "meanwhile"]
    # Chromium logs what it could not load.
    assert [fault for fault in faults(page) if "ERR_INTERNET_DISCONNECTED" not in fault] == []


async def test_a_server_that_answers_without_the_network_is_believed(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    """It may run on the same machine."""
    page = await open_page(chromium, chatd, nick="ann")
    chatd.signal(signal.SIGSTOP)
    await page.tab.evaluate(
        "Object.defineProperty(navigator, 'onLine', {value: false}),"
        " dispatchEvent(new Event('offline')), 1"
    )
    await page.tab.until_text("You are offline.", within="#banner")
    chatd.signal(signal.SIGCONT)
    await page.tab.until(f"{BANNER}.hidden")
    await page.say("still here")
    assert page.faults == []


async def test_a_late_answer_is_shown(chatd: ChatdProcess, chromium: Chromium) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    chatd.signal(signal.SIGSTOP)
    await page.send("on its way")
    await put_forward(page, 6)  # an answer is overdue: the server is asked whether it is there
    await page.tab.until_text("The server does not answer", within="#banner")
    chatd.signal(signal.SIGCONT)
    await page.tab.until(f"{BANNER}.hidden")
    await page.tab.until("document.querySelector('.message[data-state=sent][data-seq=\"1\"]')")
    assert page.faults == []


async def test_another_history_is_noticed(
    start_chatd: ChatdStarter, chromium: Chromium, tmp_path: Path
) -> None:
    """Numbers of another log are not trusted; the guest is a new one with the old nick."""
    first = await start_chatd()
    page = await open_page(chromium, first)
    await page.rename("ann")
    await page.members("ann")
    await page.say("in the old history")
    await first.kill()
    await page.tab.until(WAITING)
    await page.send("to the new one")
    await start_chatd({"history.path": str(tmp_path / "other.db")}, port=first.port)
    await page.come_back()
    await page.line("gap", "may be missing")
    await page.tab.until("document.querySelector('.message[data-seq=\"1\"]')")
    assert await page.texts() == ["to the new one"]
    await page.members("ann")
    assert page.faults == []


# A connection whose WebSocket does nothing; for each code, whether the page gives up after it.
_GIVES_UP: Final = """(async codes => {
  const main = document.querySelector('script[type=module]').src;
  const { Connection } = await import(main.replace('main.js', 'connection.js'));
  window.WebSocket = class { close() {} constructor() { WebSocket.made = this; } };
  const idle = { hello() {}, event() {}, changed() {}, probed() {}, auth: () => ({}) };
  return codes.filter(code => {
    const connection = new Connection('ws://nowhere', idle);
    connection.start();
    window.WebSocket.made.onclose({ code, reason: '' });
    return connection.state.name === 'closed';
  });
})"""


async def test_the_page_gives_up_after_the_same_codes_as_the_client(
    chatd: ChatdProcess, chromium: Chromium
) -> None:
    page = await open_page(chromium, chatd, nick="ann")
    # Nobody sends 1000 to the page but a proxy that ends idle connections.
    codes = [code for code in CLOSES if code != 1000] + [4000, 4499, 4510, 4999]
    gives_up = await page.tab.evaluate(f"{_GIVES_UP}({codes})")
    assert gives_up == [code for code in codes if not may_reconnect(code)]
