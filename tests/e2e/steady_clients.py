"""Clients that never pause: ``steady_clients.py HOST PORT [SECONDS]``, until its stdin is closed.

One connects again and again and requests ``/healthz``, SECONDS (0) after the last answer; one says
numbers, one message after the other; one listens to them. The last two use `chatd.client`, which
reconnects and resumes by itself. The program prints ``ready`` when they are connected, ``back``
after each reconnection, and the results at its end. For each line on its stdin it prints how long
the slowest message since the line before waited for its answer, as soon as messages are answered
and heard again.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import trio

from chatd import client

LIMIT_SECONDS = 240  # ends a hang
GOING_ON = 30  # messages
REQUESTS = 100  # answered at least, however slow the machine is


class Tally:
    """The results of the clients."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.longest = 0.0
        self.said: list[int] = []
        self.slowest = 0.0  # since the last question
        self.heard: list[int] = []
        self.gaps = 0
        self.returns = 0
        self._until_back = 0  # messages to receive after a reconnection until all is as before

    def hear(self, number: int) -> None:
        """Record a number; print ``back`` after enough numbers since a reconnection."""
        self.heard.append(number)
        if self._until_back:
            self._until_back -= 1
            if not self._until_back:
                print("back", flush=True)  # noqa: T201  this program's output

    def came_back(self) -> None:
        """Record that the listener has reconnected."""
        self.returns += 1
        self._until_back = GOING_ON


async def ask(host: str, port: int, seconds: float, tally: Tally) -> None:
    """Connect again and again."""
    while True:
        began = trio.current_time()
        tally.asked[await _asked(host, port)] += 1
        tally.longest = max(tally.longest, trio.current_time() - began)
        await trio.sleep(seconds)


async def _asked(host: str, port: int) -> str:
    try:
        # Not open_tcp_stream, which would also try other addresses of the host.
        with trio.socket.socket() as sock:
            await sock.connect((host, port))
            await sock.send(
                b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            answer = b""
            while data := await sock.recv(4096):
                answer += data
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "reset"
    return "answered" if answer.startswith(b"HTTP/1.1 200") else "empty"


async def say(chat: client.Chat, stop: trio.Event, tally: Tally) -> None:
    """Send numbers; each counts once it has been answered."""
    await chat.join("lobby", limit=0)
    number = 0
    while not stop.is_set():
        began = trio.current_time()
        await say_until_accepted(chat, str(number))
        tally.slowest = max(tally.slowest, trio.current_time() - began)
        tally.said.append(number)
        number += 1
        await trio.sleep(0.01)


async def say_until_accepted(chat: client.Chat, text: str) -> None:
    """Say it, and again under the same key while the store is away."""
    while True:
        try:
            await chat.say(text, key=text)
            return
        except client.Refused as refused:
            if refused.retry_ms is None:
                raise
            await trio.sleep(refused.retry_ms / 1000)


async def hear(chat: client.Chat, tally: Tally) -> None:
    """Receive numbers."""
    async for event in chat:
        match event:
            case client.Message(text=str(text)):
                tally.hear(int(text))
            case client.Gap():
                tally.gaps += 1
            case client.Reconnected():
                tally.came_back()


async def answer_questions(stop: trio.Event, tally: Tally) -> None:
    """Answer each line on stdin, and stop at its end."""
    while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        # Two, because the first may have been under way already.
        number = len(tally.said) + 2
        while not tally.heard or tally.heard[-1] < number:  # noqa: ASYNC110  nothing signals it
            await trio.sleep(0.01)
        print(round(tally.slowest, 3), flush=True)  # noqa: T201  this program's output
        tally.slowest = 0.0
    stop.set()


async def main(host: str, port: int, seconds: float) -> None:
    tally, stop = Tally(), trio.Event()
    url = f"ws://{host}:{port}"
    backoff = client.Backoff(first_seconds=0.05, most_seconds=0.5)
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            client.connect(url, nick="talker", backoff=backoff) as talker,
            client.connect(url, nick="listener", backoff=backoff) as listener,
            trio.open_nursery() as nursery,
        ):
            await listener.join("lobby", limit=0)
            nursery.start_soon(ask, host, port, seconds, tally)
            nursery.start_soon(hear, listener, tally)
            nursery.start_soon(answer_questions, stop, tally)
            print("ready", flush=True)  # noqa: T201  this program's output
            await say(talker, stop, tally)
            while (  # noqa: ASYNC110  nothing signals it
                tally.heard[-1:] != tally.said[-1:] or tally.asked["answered"] <= REQUESTS
            ):
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    told = {
        "asked": tally.asked,
        "longest": round(tally.longest, 3),
        "said": len(tally.said),
        "alike": tally.heard == tally.said,
        "gaps": tally.gaps,
        "returns": tally.returns,
    }
    print(json.dumps(told), flush=True)  # noqa: T201  this program's output


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), float([*sys.argv, "0"][3]))
