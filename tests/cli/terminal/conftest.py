"""Users of the terminal client, with a server in memory."""

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
    """A screen that records what it shows, without the times."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.label = ""
        self.status_line = ""
        self._more = trio.Event()

    def show(self, line: Text) -> None:
        if not line.plain.startswith("--- "):
            self.shown.append(re.sub(r"(?m)^\d\d:\d\d ", "", line.plain))
        self._more.set()
        self._more = trio.Event()

    notify = show

    def status(self, label: str, text: str) -> None:
        self.label, self.status_line = label, text
        self._more.set()
        self._more = trio.Event()

    async def writable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def until(self, true: Callable[[], bool]) -> None:
        with trio.fail_after(SECONDS):
            while not true():
                await self._more.wait()


class Seat:
    """A user at a terminal."""

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

    async def status(self, text: str) -> None:
        """Wait until the status line contains a text."""
        try:
            await self.paper.until(lambda: text in self.paper.status_line)
        except trio.TooSlowError:
            raise AssertionError(f"{text!r} is not in {self.paper.status_line!r}") from None

    async def in_no_room(self) -> None:
        """Wait until there is no current room."""
        await self.paper.until(lambda: not self.paper.label)


Sit = Callable[..., AbstractAsyncContextManager[Seat]]


@pytest.fixture
def sit() -> Sit:
    """Return a context manager that opens a terminal client."""

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
            for task in (
                talk.show_events,
                talk.send_read_marks,
                talk.refresh_members,
                talk.expire_typing,
            ):
                nursery.start_soon(task)
            seat = Seat(talk, paper)
            assert await seat.type(f"/join {room}")
            yield seat
            nursery.cancel_scope.cancel()

    return seated
