"""People at the terminal client, with a daemon in memory."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import pytest
import trio
from rich.text import Text

from chatd import client
from chatd.cli.terminal.talk import Talk
from chatd.cli.terminal.verbs import carry_out
from chatd.testing import Harness

SECONDS: Final = 30


class Paper:
    """A screen that keeps what it is shown, without the time."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.place = ""
        self.standing = ""
        self._more = trio.Event()

    def show(self, line: Text) -> None:
        if not line.plain.startswith("--- "):
            self.shown.append(re.sub(r"(?m)^\d\d:\d\d ", "", line.plain))
        self._more.set()
        self._more = trio.Event()

    tell = show

    def status(self, place: str, text: str) -> None:
        self.place, self.standing = place, text
        self._more.set()
        self._more = trio.Event()

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()

    async def until(self, true: Callable[[], bool]) -> None:
        with trio.fail_after(SECONDS):
            while not true():
                await self._more.wait()


class Seat:
    """Somebody at a terminal."""

    def __init__(self, talk: Talk, paper: Paper) -> None:
        self.talk = talk
        self.paper = paper

    async def type(self, line: str) -> bool:
        return await carry_out(self.talk, line)

    async def sees(self, line: str) -> None:
        """Wait until a line is shown."""
        try:
            await self.paper.until(lambda: line in self.paper.shown)
        except trio.TooSlowError:
            raise AssertionError(f"{line!r} is not among {self.paper.shown}") from None

    async def stands(self, text: str) -> None:
        """Wait until the line at the bottom has a text in it."""
        try:
            await self.paper.until(lambda: text in self.paper.standing)
        except trio.TooSlowError:
            raise AssertionError(f"{text!r} is not in {self.paper.standing!r}") from None


Sit = Callable[..., AbstractAsyncContextManager[Seat]]


@pytest.fixture
def sit() -> Sit:
    """Give what has somebody sit down at a terminal."""

    @asynccontextmanager
    async def seated(
        harness: Harness,
        nick: str,
        *,
        room: str = "lobby",
        token: str | None = None,
        session: str | None = None,
        dial: client.Dial | None = None,
    ) -> AsyncGenerator[Seat]:
        paper = Paper()
        async with (
            client.connect(dial or harness.dial, nick=nick, token=token, session=session) as chat,
            trio.open_nursery() as nursery,
        ):
            talk = Talk(chat, paper, page=20)
            for task in (talk.hear, talk.mark, talk.count, talk.forget_writers):
                nursery.start_soon(task)
            seat = Seat(talk, paper)
            assert await seat.type(f"/join {room}")
            yield seat
            nursery.cancel_scope.cancel()

    return seated
