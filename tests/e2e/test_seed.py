"""The simplest client program, word for word, in a browser: from a page and from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.e2e.chatd_process import ChatdProcess
from tests.e2e.chromium import Chromium

PROGRAM = """<!doctype html><title>a chat</title><script>
let ws = new WebSocket("ws://localhost:3000");
ws.onopen = () => { ws.send("Client message : hello!"); };
ws.onmessage = event => { told(event.data); };
</script>"""


async def serve_page(html: str, nursery: trio.Nursery) -> str:
    """Serve one page on a free port; return its URL."""
    body = html.encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n"

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            if await stream.receive_some():
                await stream.send_all(f"{head}Connection: close\r\n\r\n".encode() + body)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, listeners)
    return f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"


@pytest.mark.parametrize("opened_from", ["page", "file"])
async def test_the_first_program(
    opened_from: str,
    chatd: ChatdProcess,
    chromium: Chromium,
    nursery: trio.Nursery,
    tmp_path: Path,
) -> None:
    html = PROGRAM.replace("ws://localhost:3000", chatd.url)
    if opened_from == "page":
        url = await serve_page(html, nursery)
    else:
        file = tmp_path / "chat.html"
        file.write_text(html, encoding="utf-8")
        url = file.as_uri()

    first = await chromium.open_tab()
    told_first = await first.binding("told")
    await first.navigate(url)
    greeting = await told_first.receive()
    assert greeting.startswith("Hello, I am chatd. You are ")
    nick = greeting.removeprefix("Hello, I am chatd. You are ").removesuffix(" in #lobby.")
    assert await told_first.receive() == f"{nick}: Client message : hello!"

    second = await chromium.open_tab()
    told_second = await second.binding("told")
    await second.navigate(url)
    assert (await told_second.receive()).startswith("Hello, I am chatd. You are ")
    assert await told_second.receive() == f"{nick}: Client message : hello!"
    live = await told_second.receive()
    assert live.endswith(": Client message : hello!")
    assert not live.startswith(f"{nick}:")
    assert (await told_first.receive()).startswith("* ")  # the second has joined
    assert await told_first.receive() == live
    assert first.faults == second.faults == []
