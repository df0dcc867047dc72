"""A gate on the way to a server: it can be shut, as a network that drops packets."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

__all__ = ["Gate"]

_PIECE_BYTES: Final = 65536


class Gate:
    """A Unix socket that leads to another one, and can be shut: then nothing passes, both ways.

    It looks like a network that drops packets: connections stay open, and new ones are accepted,
    but nobody answers.
    """

    def __init__(self, path: Path, target: Path) -> None:
        self.path: Final = path
        self._target = target
        self._open = trio.Event()
        self._open.set()

    def shut(self) -> None:
        """Let nothing pass."""
        self._open = trio.Event()

    def open(self) -> None:
        """Let everything pass again, what waited first."""
        self._open.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections until cancelled."""
        listening = trio.socket.socket(trio.socket.AF_UNIX)
        with listening:
            await listening.bind(str(self.path))
            listening.listen()
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    accepted, _ = await listening.accept()
                    nursery.start_soon(self._lead, trio.SocketStream(accepted))

    async def _lead(self, near: trio.SocketStream) -> None:
        async with near:
            await self._open.wait()
            try:
                far = await trio.open_unix_socket(str(self._target))
            except OSError:
                return
            async with far, trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, near, far, nursery.cancel_scope)
                nursery.start_soon(self._copy, far, near, nursery.cancel_scope)

    async def _copy(
        self, source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope
    ) -> None:
        with suppress(trio.BrokenResourceError):
            while piece := await source.receive_some(_PIECE_BYTES):
                await self._open.wait()
                await sink.send_all(piece)
        both.cancel()
