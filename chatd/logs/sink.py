"""Where log lines go. A reader that reads nothing never stops the daemon.

What MUST hold of a sink:
1. ``write()`` never blocks, never awaits, never raises.
2. Lines are written whole and in order; a line that was partly written is finished first.
3. What waits is bounded in bytes. Beyond that, lines are dropped and counted, and one line in their
   place says how many.
4. No flag of a shared file description is changed: stderr is often the shell's.

Sinks belong to the thread of the event loop.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import trio

__all__ = ["JOURNAL_SOCKET", "DropNotice", "Journald", "LineStream", "Sink"]

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")

WAITING_BYTES: Final = 1 << 20
"""About 4,000 lines: at a thousand messages per second a reader can pause for four seconds."""

_BLOCK_BYTES: Final = 1 << 16  # the capacity of a pipe

DropNotice: TypeAlias = Callable[[int, int], bytes]
"""Returns the line about dropped lines: (since the last such line, in all)."""


class Sink(Protocol):
    """The destination of a log."""

    @property
    def dropped(self) -> int:
        """How many lines were dropped so far."""
        ...

    @property
    def waiting(self) -> int:
        """How many bytes the reader has not read yet."""
        ...

    def write(self, entries: Sequence[bytes]) -> None:
        """Write whole entries: lines with their ends, or entries of the journal."""

    async def run(self) -> None:
        """Write the queue, as fast as it is read. Return at once if there is never a queue."""

    def close(self, seconds: float) -> None:
        """Write the queue, for at most ``seconds``, then close."""


class _Stream(Protocol):
    """A descriptor of our own, and a way to write to it that never blocks."""

    def fileno(self) -> int: ...

    def push(self, block: bytes) -> int:
        """Return how many bytes were written; -1 if these never will be."""
        ...

    def close(self) -> None: ...


class _Descriptor:
    """A file, which has no reader to wait for, or a description that is non-blocking already."""

    def __init__(self, fd: int) -> None:
        self._fd: Final = fd

    def fileno(self) -> int:
        return self._fd

    def push(self, block: bytes) -> int:
        try:
            return os.write(self._fd, block)
        except BlockingIOError:
            return 0
        except OSError:  # the reader is gone, or the disk is full
            return -1

    def close(self) -> None:
        os.close(self._fd)


class _Polled(_Descriptor):
    """A blocking description that is shared: it is written only as far as there is room.

    A pipe that polls as writable has a free page, which takes PIPE_BUF bytes: pipe(7). A terminal
    guarantees less; it comes here only if it cannot be opened again (after su).
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._most: Final = select.PIPE_BUF if stat.S_ISFIFO(os.fstat(fd).st_mode) else 256
        self._poll: Final = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def push(self, block: bytes) -> int:
        return super().push(block[: self._most]) if self._poll.poll(0) else 0


class _Socket:
    """A stream socket, which cannot be opened again but can be written without waiting."""

    def __init__(self, fd: int) -> None:
        self._socket: Final = socket.socket(fileno=fd)

    def fileno(self) -> int:
        return self._socket.fileno()

    def push(self, block: bytes) -> int:
        try:
            return self._socket.send(block, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:  # the reader is gone
            return -1

    def close(self) -> None:
        self._socket.close()


def _opened(fd: int) -> _Stream:
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return _Socket(os.dup(fd))
    if stat.S_ISREG(mode):
        # Not opened again: it would have an offset of its own and overwrite the file.
        return _Descriptor(os.dup(fd))
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return _Descriptor(os.open(f"/proc/self/fd/{fd}", flags))  # our own description: proc(5)
    except OSError:  # another user's terminal, no /proc, a pipe whose reader is gone
        return _Polled(os.dup(fd))


class _Notice(bytes):
    """What the stream writes between lines; it reports that ``lines`` lines were dropped."""

    lines = 0


class LineStream:
    """Writes lines to a pipe, a terminal, a file or a stream socket, usually stderr.

    ``fd`` itself stays open. Raises OSError if it is not open.
    """

    def __init__(
        self, fd: int, drop_notice: DropNotice, *, waiting_bytes: int = WAITING_BYTES
    ) -> None:
        self._stream: Final = _opened(fd)
        self._is_file: Final = stat.S_ISREG(os.fstat(fd).st_mode)
        self._drop_notice: Final = drop_notice
        self._bound: Final = waiting_bytes
        self._entries: deque[bytes] = deque()
        self._torn = False  # a part of the first entry has been written
        self._unreported = 0
        self._stuck = trio.Event()
        self._closed = False
        self.dropped = 0
        self.waiting = 0

    def write(self, entries: Sequence[bytes]) -> None:
        """See `Sink`."""
        if self._closed:
            self._drop(len(entries))
            return
        if self._entries or self._unreported:
            self._flush()
        if self._entries or self._unreported:
            for entry in entries:
                self._keep(entry)
            return
        block = b"".join(entries)
        taken = self._stream.push(block)
        if taken == len(block):
            return
        for entry in entries:
            if taken >= len(entry):
                taken -= len(entry)
            elif taken > 0:
                self._append(entry[taken:])
                self._torn = True
                taken = 0
            else:
                self._keep(entry)
        self._flush()

    def _keep(self, entry: bytes) -> None:
        # Once a line is dropped all are, until _flush reports it, so that the gap is in one place.
        if self._unreported or self.waiting + len(entry) > self._bound:
            self._drop(1)
        else:
            self._append(entry)

    def _append(self, entry: bytes) -> None:
        self._entries.append(entry)
        self.waiting += len(entry)

    def _drop(self, count: int) -> None:
        self._unreported += count
        self.dropped += count

    def _flush(self) -> None:
        while True:
            # Only at half the bound, so that a slow reader gets long stretches with few gaps.
            if self._unreported and self.waiting <= self._bound // 2:
                notice = _Notice(self._drop_notice(self._unreported, self.dropped))
                notice.lines = self._unreported
                self._append(notice)
                self._unreported = 0
            if not self._entries:
                return
            taken = self._stream.push(self._block())
            if taken < 0:
                self._lose()
                return
            if taken == 0:
                self._stuck.set()
                return
            self._remove(taken)

    def _block(self) -> bytes:
        length = 0
        block = []
        for entry in self._entries:
            block.append(entry)
            length += len(entry)
            if length >= _BLOCK_BYTES:
                break
        return b"".join(block)

    def _remove(self, taken: int) -> None:
        self.waiting -= taken
        while taken:
            entry = self._entries.popleft()
            self._torn = len(entry) > taken
            if self._torn:
                self._entries.appendleft(entry[taken:])
            taken -= min(taken, len(entry))

    def _lose(self) -> None:
        for entry in self._entries:
            if isinstance(entry, _Notice):
                self._unreported += entry.lines
            else:
                self._drop(1)
        self._entries.clear()
        self.waiting = 0
        if self._torn and self._is_file:
            self._append(_Notice(b"\n"))  # once the disk has room again, the next line is whole

    async def run(self) -> None:
        """See `Sink`."""
        while not self._is_file:
            await self._stuck.wait()
            if self._closed:
                return
            try:
                await trio.lowlevel.wait_writable(self._stream.fileno())
            except trio.ClosedResourceError:
                return
            self._flush()
            if not self._entries:
                self._stuck = trio.Event()

    def close(self, seconds: float) -> None:
        """See `Sink`."""
        if self._closed:
            return
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._stream.fileno(), select.POLLOUT)
        self._flush()
        while self._entries and not self._is_file and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self._flush()
        self._torn = False
        self._lose()
        self._closed = True
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._stream.fileno())
        self._stuck.set()
        self._stream.close()


_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Journald:
    """Sends entries to systemd's journal, one datagram each.

    A large entry is sent as a sealed memfd, as the journal's native protocol has it. While the
    journal's queue is full or it restarts, entries are dropped: nothing waits here.
    """

    waiting = 0

    def __init__(self, drop_notice: DropNotice, *, path: Path = JOURNAL_SOCKET) -> None:
        # Not connected: the path stays valid when the journal restarts, a connection does not.
        self._socket: Final = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self._path: Final = str(path)
        self._drop_notice: Final = drop_notice
        self._unreported = 0
        self.dropped = 0

    def write(self, entries: Sequence[bytes]) -> None:
        """See `Sink`."""
        for entry in entries:
            self._report_dropped()
            if self._unreported or not self._sent(entry):
                self._unreported += 1
                self.dropped += 1

    def _report_dropped(self) -> None:
        if self._unreported and self._sent(self._drop_notice(self._unreported, self.dropped)):
            self._unreported = 0

    def _sent(self, entry: bytes) -> bool:
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            return error.errno == errno.EMSGSIZE and self._sent_as_memfd(entry)
        return True

    def _sent_as_memfd(self, entry: bytes) -> bool:
        try:
            memory = os.memfd_create("chatd-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return False
        try:
            os.write(memory, entry)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", memory))
            self._socket.sendmsg([], [rights], 0, self._path)
        except OSError:
            return False
        finally:
            os.close(memory)
        return True

    async def run(self) -> None:
        """See `Sink`."""

    def close(self, seconds: float) -> None:
        """See `Sink`."""
        self._report_dropped()
        self._socket.close()
