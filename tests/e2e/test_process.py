"""The daemon as a process: its log on a pipe, its exit status, its history after any end."""

from __future__ import annotations

import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio_websocket
from trio_websocket import WebSocketConnection

from tests.e2e.chatd_process import ChatdProcess, ChatdStarter


@asynccontextmanager
async def text_chat(chatd: ChatdProcess, nick: str) -> AsyncIterator[WebSocketConnection]:
    """Connect to the plain-text chat and read the greeting."""
    # On our own stream: trio-websocket 0.12.2 does not close its stream if the peer closed first.
    stream = await trio.open_tcp_stream("localhost", chatd.port)
    async with stream, trio.open_nursery() as nursery:
        websocket = await trio_websocket.wrap_client_stream(
            nursery, stream, f"localhost:{chatd.port}", f"/?nick={nick}"
        )
        async with websocket:
            greeting = await websocket.get_message()
            assert greeting == f"Hello, I am chatd. You are {nick} in #lobby."
            yield websocket


async def say(websocket: WebSocketConnection, text: str) -> list[str]:
    """Send ``text``; return the frames up to its echo, which is the last."""
    await websocket.send_message(text)
    frames: list[str] = []
    while not frames or not frames[-1].endswith(f": {text}"):
        frames.append(str(await websocket.get_message()))
    return frames


async def test_the_log_of_a_session(chatd: ChatdProcess) -> None:
    async with text_chat(chatd, "ann") as ann:
        await say(ann, "hello")
    told = {
        "connect": await chatd.line("connect", nick="ann"),
        "message": await chatd.line("message", nick="ann"),
        "disconnect": await chatd.line("disconnect", nick="ann"),
    }
    for line in told.values():
        for field in ("connection", "user", "address", "transport"):
            assert line[field] == told["connect"][field]
    message, disconnect = told["message"], told["disconnect"]
    assert (message["room"], message["seq"], message["bytes"], message["receivers"]) == (
        *("lobby", 1, len("hello"), 1),
    )
    assert "hello" not in str(message)
    assert disconnect["code"] == 1000
    assert (disconnect["messages_in"], disconnect["bytes_in"] > 0) == (1, True)
    assert disconnect["bytes_out"] > 0
    assert disconnect["seconds"] >= 0
    assert await chatd.stop() == 0


async def test_sigterm_drains_and_history_is_kept(start_chatd: ChatdStarter) -> None:
    first = await start_chatd()
    async with text_chat(first, "ann") as ann:
        await say(ann, "before")
        first.signal(signal.SIGTERM)
        farewell = await ann.get_message()
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await ann.get_message()
        assert str(farewell).startswith("* ")
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1001
    assert await first.ended() == 0
    assert [line["event"] for line in first.lines][-3:] == ["drain", "disconnect", "stop"]
    assert (await first.line("disconnect"))["code"] == 1001

    second = await start_chatd(port=first.port)
    async with text_chat(second, "bob") as bob:
        assert await say(bob, "after") == ["ann: before", "bob: after"]


async def test_what_was_answered_outlives_kill_9(start_chatd: ChatdStarter) -> None:
    first = await start_chatd()
    async with text_chat(first, "ann") as ann:
        await say(ann, "before")
        assert await first.kill() == -signal.SIGKILL

    second = await start_chatd(port=first.port)
    async with text_chat(second, "bob") as bob:
        assert await say(bob, "after") == ["ann: before", "bob: after"]


async def test_sigint_ends_it_like_sigterm(chatd: ChatdProcess) -> None:
    chatd.signal(signal.SIGINT)
    assert await chatd.ended() == 0


def descriptors(pid: int) -> int:
    """Count those that a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_42_without_descriptors_new_clients_wait_and_others_chat_on(
    start_chatd: ChatdStarter,
) -> None:
    chatd = await start_chatd({"admin.socket": "off"})
    async with text_chat(chatd, "ann") as ann, trio.open_nursery() as nursery:
        limits = resource.prlimit(chatd.pid, resource.RLIMIT_NOFILE)
        most = descriptors(chatd.pid) + 3
        resource.prlimit(chatd.pid, resource.RLIMIT_NOFILE, (most, limits[1]))
        crowd = [await trio.open_tcp_stream("localhost", chatd.port) for _ in range(10)]
        warning = await chatd.line("warning")
        assert "no file descriptors left" in warning["detail"]
        assert (await say(ann, "still here"))[-1] == "ann: still here"

        came = trio.Event()

        async def come() -> None:
            async with text_chat(chatd, "bob") as bob:
                came.set()
                await say(bob, "made it")

        nursery.start_soon(come)
        for stream in crowd:
            await stream.aclose()
        await came.wait()
        assert len([line for line in chatd.lines if line["event"] == "warning"]) == 1
