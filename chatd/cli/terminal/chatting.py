"""A whole run of ``chatd client``, from the first connection to the exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct

from chatd import client
from chatd.cli.output import fail, visible, write
from chatd.cli.terminal import sessions
from chatd.cli.terminal.pipe import Line, Pipe, PipeError, open_pipe
from chatd.cli.terminal.plain import split
from chatd.cli.terminal.talk import Talk
from chatd.cli.terminal.verbs import VERBS, attempt, carry_out
from chatd.client.errors import unwrapped
from chatd.model import UNAUTHORIZED

__all__ = ["Options", "chat"]

_MAX_WAITING: Final = 100
"""The most lines that may wait to be carried out."""

_HINT: Final = "Pass a token with --token-file or in CHATD_TOKEN."

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

_LEAVE_SECONDS: Final = 2.0
"""How long the last lines may take at the end."""


class Options(Struct, frozen=True):
    """How to begin. ``login`` is the nick if none was given and none is known.

    ``commands``: through a pipe, lines that begin with ``/`` are commands.
    """

    url: str
    nick: str | None
    login: str | None
    room: str
    history: int
    token: str | Callable[[], str] | None
    commands: bool = True


def chat(options: Options, environment: Mapping[str, str], *, piped: bool) -> int:
    """Chat until the end and return the exit code."""
    # Unencodable characters must not crash the client, and only a newline ends a line.
    for stream, how in (
        (sys.stdin, {"errors": "replace", "newline": "\n"}),
        (sys.stdout, {"errors": "backslashreplace"}),
        (sys.stderr, {"errors": "backslashreplace"}),
    ):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(**how)
    try:
        with unwrapped():
            return trio.run(_chat, options, environment, piped)
    except client.ConnectError as error:
        why = str(error)
    except client.Closed as closed:
        why = closed.ending.reason or f"the server closed the connection ({closed.ending.code})"
        if closed.ending.code == UNAUTHORIZED.code and options.token is None:
            why = f"{why.removesuffix('.')}. {_HINT}"
    except PipeError as error:
        why = str(error)
    return fail(why) if why else 1


async def _chat(options: Options, environment: Mapping[str, str], piped: bool) -> int:
    code = 0
    async with trio.open_nursery() as nursery:

        async def end_at_signals() -> None:
            nonlocal code
            with trio.open_signal_receiver(*_ENDING) as received:
                code = 128 + await anext(received)
                nursery.cancel_scope.cancel()

        nursery.start_soon(end_at_signals)
        async with _connected(options, environment) as one:
            code = await (_through_pipe if piped else _on_terminal)(one, options)
        nursery.cancel_scope.cancel()
    return code


@asynccontextmanager
async def _connected(
    options: Options, environment: Mapping[str, str]
) -> AsyncGenerator[client.Chat]:
    """Connect as the guest of the saved session, if there is one, and save the session."""
    file = sessions.path_for(options.url, options.nick, environment)
    session = None if options.token else sessions.load(file)
    async with client.connect(
        options.url,
        nick=options.nick or (None if session or options.token else options.login),
        session=session,
        token=options.token,
    ) as one:
        saved = _save(one, file, options)
        try:
            yield one
        finally:
            if saved:
                _save(one, file, options)


def _save(one: client.Chat, file: Path, options: Options) -> bool:
    """Save the session, or say on stderr why it could not be saved. Return whether it was."""
    if (session := one.identity.session) is None:
        return True
    try:
        sessions.save(file, session)
    except OSError as error:
        why = f"{file.parent}: {(error.strerror or str(error)).lower()}"
        write(f"chatd: cannot save your session for the next time: {visible(why)}\n", sys.stderr)
        return False
    return True


# ---- on a terminal


async def _on_terminal(one: client.Chat, options: Options) -> int:
    from chatd.cli.terminal.prompt import Terminal  # noqa: PLC0415  0.2 s that a pipe need not wait

    terminal = Terminal()
    talk = Talk(one, terminal, page=options.history)
    commands = [f"/{name}" for name in VERBS]
    to_do, lines = trio.open_memory_channel[str](_MAX_WAITING)
    done = trio.Event()

    async def carry_out_all() -> None:
        await terminal.ready.wait()
        talk.notify(f"Connected to {options.url}. Type /help for a list of commands.")
        await carry_out(talk, f"/join {options.room}")
        async for line in lines:
            await carry_out(talk, line)
        done.set()

    async with trio.open_nursery() as nursery:

        async def show_events() -> None:
            await talk.show_events()
            nursery.cancel_scope.cancel()

        async def leave() -> None:
            with trio.move_on_after(_LEAVE_SECONDS if one.connected else 0):
                await done.wait()
            nursery.cancel_scope.cancel()

        def typed(line: str) -> None:
            try:
                to_do.send_nowait(line)
            except trio.WouldBlock:
                talk.warn(f"Too many lines are waiting. This one was not sent: {line}")
                return
            if line.strip().lower() == "/quit":
                nursery.start_soon(leave)
            elif line.strip():
                talk.waiting(line)

        nursery.start_soon(show_events)
        nursery.start_soon(carry_out_all)
        nursery.start_soon(talk.send_read_marks)
        nursery.start_soon(talk.refresh_members)
        nursery.start_soon(talk.expire_typing)
        await terminal.run(typed, talk.drafts, lambda: [*commands, *talk.nicks()])
        to_do.close()
        await leave()
    return 0


# ---- through a pipe


async def _through_pipe(one: client.Chat, options: Options) -> int:
    async with open_pipe(sys.stdin, sys.stdout, sys.stderr) as pipe:
        talk = Talk(one, pipe, page=options.history, commands=options.commands)
        return await _carry_out_all(pipe, talk, options)


async def _carry_out_all(pipe: Pipe, talk: Talk, options: Options) -> int:
    try:
        await talk.enter(options.room, quietly=True)
    except client.Refused as refused:
        hint = f" {_HINT}" if refused.code == "unauthorized" and options.token is None else ""
        talk.warn(f"{options.room}: {refused.message}{hint}")
        return 1
    good = True
    async with trio.open_nursery() as nursery:

        async def show_events() -> None:
            await talk.show_events()
            nursery.cancel_scope.cancel()

        async def end_outside() -> None:
            # Without commands there is no way back into a room.
            nonlocal good
            while talk.room:
                await talk.changed()
            good = False
            nursery.cancel_scope.cancel()

        nursery.start_soon(show_events)
        if not options.commands:
            nursery.start_soon(end_outside)
        while True:
            await pipe.writable()
            line = await pipe.line()
            if line is None:
                break
            if options.commands:
                good = await carry_out(talk, line.text) and good
            else:
                good = await _say(talk, line) and good
        while talk.behind():
            await pipe.flushed()
            with trio.move_on_after(_LEAVE_SECONDS) as limit:
                await talk.changed()
            if limit.cancelled_caught:
                break
        nursery.cancel_scope.cancel()
    return 0 if good else 1


async def _say(talk: Talk, line: Line) -> bool:
    """Send a line as it is, in several messages if it is too long for one."""
    if not line.text.strip():
        return True
    hello = talk.chat.hello
    limits = None if hello is None else hello.limits
    most = (limits and limits.message_bytes) or len(line.text.encode())
    parts = [part for part in split(line.text, most) if part.strip()]
    for part in parts:
        if not await attempt(talk, talk.say_here(part), f"Line {line.number} was not sent: "):
            return False
    if len(parts) > 1:
        talk.notify(
            f"Line {line.number} has more than {most} bytes and was sent as {len(parts)} messages."
        )
    return True
