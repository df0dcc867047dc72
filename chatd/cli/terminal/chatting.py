"""A whole chat, from the first connection to the exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct

from chatd import client
from chatd.cli.check import say, visible
from chatd.cli.terminal import sessions
from chatd.cli.terminal.pipe import Pipe, open_pipe
from chatd.cli.terminal.talk import Talk
from chatd.cli.terminal.verbs import VERBS, carry_out
from chatd.client.errors import unwrapped
from chatd.model import UNAUTHORIZED

__all__ = ["Beginning", "chat"]

_TYPED_AHEAD: Final = 100
"""So many lines may wait to be carried out."""

_HINT: Final = "; a token is taken from --token-file, or from CHATD_TOKEN"

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

_LEAVE_SECONDS: Final = 2.0
"""So long what was typed last may take, when it is over."""


class Beginning(Struct, frozen=True):
    """Whom to call, and how to begin. ``login`` is who one is where nothing else is known."""

    url: str
    nick: str | None
    login: str | None
    room: str
    history: int
    token: str | Callable[[], str] | None


def chat(beginning: Beginning, environment: Mapping[str, str], *, piped: bool) -> int:
    """Chat until it is over; give the exit code."""
    # What an encoding has not must end nothing.
    for stream, errors in (
        (sys.stdin, "replace"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors=errors)
    try:
        with unwrapped():
            return trio.run(_chat, beginning, environment, piped)
    except client.ConnectError as error:
        why = str(error)
    except client.Closed as closed:
        why = closed.ending.reason or f"the daemon closed the chat ({closed.ending.code})"
        if closed.ending.code == UNAUTHORIZED.code and beginning.token is None:
            why += _HINT
    except OSError as error:
        # What cannot be written: Python would find out once more when it flushes at the end.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 1  # nobody reads on
        why = (error.strerror or str(error)).lower()
    say(f"chatd: {visible(why)}\n", sys.stderr)
    return 1


async def _chat(beginning: Beginning, environment: Mapping[str, str], piped: bool) -> int:
    code = 0
    async with trio.open_nursery() as nursery:

        async def end_at_signals() -> None:
            nonlocal code
            with trio.open_signal_receiver(*_ENDING) as received:
                code = 128 + await anext(received)
                nursery.cancel_scope.cancel()

        nursery.start_soon(end_at_signals)
        async with _connected(beginning, environment) as one:
            code = await (_through_pipe if piped else _on_terminal)(one, beginning)
        nursery.cancel_scope.cancel()
    return code


@asynccontextmanager
async def _connected(
    beginning: Beginning, environment: Mapping[str, str]
) -> AsyncGenerator[client.Chat]:
    """Connect as who one was the last time, and keep who one is."""
    file = sessions.place(beginning.url, beginning.nick, environment)
    session = None if beginning.token else sessions.kept(file)
    async with client.connect(
        beginning.url,
        nick=beginning.nick or (None if session or beginning.token else beginning.login),
        session=session,
        token=beginning.token,
    ) as one:
        kept = _keep(one, file, beginning)
        try:
            yield one
        finally:
            if kept:
                _keep(one, file, beginning)


def _keep(one: client.Chat, file: Path, beginning: Beginning) -> bool:
    """Keep who one is; tell whether that could be done, and say so if not."""
    if (session := one.identity.session) is None:
        return True
    try:
        sessions.keep(file, url=beginning.url, session=session)
    except OSError as error:
        why = f"{file.parent}: {(error.strerror or str(error)).lower()}"
        say(f"chatd: who you are is not kept for the next time: {visible(why)}\n", sys.stderr)
        return False
    return True


# ---- on a terminal


async def _on_terminal(one: client.Chat, beginning: Beginning) -> int:
    from chatd.cli.terminal.prompt import Terminal  # noqa: PLC0415  0.2 s that a pipe has not to wait

    terminal = Terminal()
    talk = Talk(one, terminal, page=beginning.history)
    commands = [f"/{name}" for name in VERBS]
    to_do, lines = trio.open_memory_channel[str](_TYPED_AHEAD)
    done = trio.Event()

    async def carry_out_all() -> None:
        await terminal.up.wait()
        talk.tell(f"this is {beginning.url}; /help tells what there is to type")
        await carry_out(talk, f"/join {beginning.room}")
        async for line in lines:
            await carry_out(talk, line)
        done.set()

    async with trio.open_nursery() as nursery:

        async def hear() -> None:
            await talk.hear()
            nursery.cancel_scope.cancel()

        async def leave() -> None:
            with trio.move_on_after(_LEAVE_SECONDS if one.connected else 0):
                await done.wait()
            nursery.cancel_scope.cancel()

        def typed(line: str) -> None:
            try:
                to_do.send_nowait(line)
            except trio.WouldBlock:
                talk.warn(f"{_TYPED_AHEAD} lines wait already; this one was not taken: {line}")
            if line.strip().lower() == "/quit":
                nursery.start_soon(leave)

        nursery.start_soon(hear)
        nursery.start_soon(carry_out_all)
        nursery.start_soon(talk.mark)
        nursery.start_soon(talk.count)
        nursery.start_soon(talk.forget_writers)
        await terminal.run(typed, talk.drafts, lambda: [*commands, *talk.nicks()])
        to_do.close()
        await leave()
    return 0


# ---- through a pipe


async def _through_pipe(one: client.Chat, beginning: Beginning) -> int:
    async with open_pipe(sys.stdin, sys.stdout, sys.stderr) as pipe:
        return await _carry_out_all(pipe, Talk(one, pipe, page=beginning.history), beginning)


async def _carry_out_all(pipe: Pipe, talk: Talk, beginning: Beginning) -> int:
    try:
        await talk.enter(beginning.room, quietly=True)
    except client.Refused as refused:
        hint = _HINT if refused.code == "unauthorized" and beginning.token is None else ""
        talk.warn(f"{beginning.room}: {refused.message}{hint}")
        return 1
    good = True
    async with trio.open_nursery() as nursery:

        async def hear() -> None:
            await talk.hear()
            nursery.cancel_scope.cancel()

        nursery.start_soon(hear)
        while True:
            await pipe.room()
            try:
                line = await pipe.line()
            except ValueError as error:
                talk.warn(str(error))
                good = False
                continue
            if line is None:
                break
            good = await carry_out(talk, line) and good
        while talk.behind():
            await pipe.written()
            with trio.move_on_after(_LEAVE_SECONDS) as limit:
                await talk.changed()
            if limit.cancelled_caught:
                break
        nursery.cancel_scope.cancel()
    return 0 if good else 1
