from __future__ import annotations

import fcntl
import os
import pty
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from chatd.logs.sink import Journald, LineStream

LINE = b"x" * 99 + b"\n"


def tell(lines: int, total: int) -> bytes:
    return b"dropped %d of %d\n" % (lines, total)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        for fd in (reading, writing):
            with suppress(OSError):
                os.close(fd)


def read_all(fd: int) -> bytes:
    """Return everything that ``fd`` holds now."""
    os.set_blocking(fd, False)
    data = b""
    with suppress(BlockingIOError):
        while more := os.read(fd, 1 << 20):
            data += more
    return data


def numbered(count: int) -> list[bytes]:
    return [b"%06d %s\n" % (number, b"x" * 92) for number in range(count)]


def checked(output: bytes, written: int) -> tuple[list[int], int]:
    """Check for whole lines in order with reported gaps; return (numbers, dropped)."""
    assert not output or output.endswith(b"\n")
    numbers: list[int] = []
    dropped = 0
    expected = 0
    for line in output.split(b"\n")[:-1]:
        gap = re.fullmatch(rb"dropped (\d+) of (\d+)", line)
        if gap:
            expected += int(gap[1])
            dropped += int(gap[1])
            assert int(gap[2]) == dropped
        else:
            assert re.fullmatch(rb"\d{6} x+", line)
            assert int(line[:6]) == expected
            numbers.append(expected)
            expected += 1
    assert len(numbers) + dropped <= written
    return numbers, dropped


def test_lines_go_through_at_once() -> None:
    with pipe() as (reading, writing):
        sink = LineStream(writing, tell)
        sink.write([LINE])
        sink.write([LINE, LINE])
        assert read_all(reading) == LINE * 3
        assert (sink.waiting, sink.dropped) == (0, 0)
        sink.close(0)


def test_an_unread_pipe_blocks_nothing_and_loses_whole_lines_only() -> None:
    with pipe() as (reading, writing):
        sink = LineStream(writing, tell, waiting_bytes=100_000)
        lines = numbered(5000)
        for line in lines[:2000]:
            sink.write([line])
        sink.write(lines[2000:4000])
        assert 90_000 < sink.waiting <= 100_000
        assert sink.dropped > 2000
        assert os.get_blocking(writing)  # whoever shares the pipe notices nothing
        output = b""
        for line in lines[4000:]:
            output += read_all(reading)
            sink.write([line])
        output += read_all(reading)
        numbers, dropped = checked(output, 5000)
        assert numbers[-1] == 4999
        assert len(numbers) + dropped == 5000
        assert dropped == sink.dropped
        sink.close(0)


def test_a_line_larger_than_pipe_and_bound_is_finished_once_begun() -> None:
    with pipe() as (reading, writing):
        sink = LineStream(writing, tell, waiting_bytes=1000)
        huge = b"y" * 200_000 + b"\n"
        sink.write([huge])
        sink.write([LINE])
        output = b""
        while sink.waiting:
            output += read_all(reading)
            sink.write([])
        sink.write([LINE])
        assert output + read_all(reading) == huge + tell(1, 1) + LINE
        sink.close(0)


@given(st.lists(st.integers(0, 350) | st.none(), max_size=60), st.integers(100, 1500))
def test_whatever_a_reader_takes_lines_stay_whole_in_order_and_counted(
    steps: list[int | None], bound: int
) -> None:
    with pipe() as (_, writing):
        sink = LineStream(writing, tell, waiting_bytes=bound)
        stream = Scripted()
        sink._stream.close()
        sink._stream = stream  # type: ignore[misc]  # a reader that takes what the test says
        lines = iter(numbered(200))
        written = 0
        for step in steps:
            if step is None:
                batch = [next(lines) for _ in range(3)]
            else:
                stream.room = step
                batch = [next(lines)]
            sink.write(batch)
            written += len(batch)
            assert sink.waiting <= max(bound, 100) + 100
            assert sink.waiting == sum(map(len, sink._entries))
        stream.room = 1 << 30
        sink.write([next(lines)])
        numbers, dropped = checked(bytes(stream.taken), written + 1)
        assert dropped == sink.dropped
        assert len(numbers) + dropped == written + 1


class Scripted:
    def __init__(self) -> None:
        self.room = 0
        self.taken = bytearray()

    def fileno(self) -> int:
        raise AssertionError

    def push(self, block: bytes) -> int:
        taken = min(self.room, len(block))
        self.room -= taken
        self.taken += block[:taken]
        return taken

    def close(self) -> None: ...


async def test_the_task_writes_what_waits_when_the_reader_takes_it() -> None:
    with pipe() as (reading, writing):
        sink = LineStream(writing, tell)
        lines = numbered(3000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run)
            sink.write(lines[:1500])
            output = await received(reading, 150_000)
            sink.write(lines[1500:])
            output += await received(reading, 150_000)
            assert output == b"".join(lines)
            assert sink.waiting == 0
            nursery.cancel_scope.cancel()
        sink.close(0)


async def received(fd: int, length: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    with trio.fail_after(60):
        while len(data) < length:
            await trio.lowlevel.wait_readable(fd)
            data += os.read(fd, 1 << 20)
    return data


async def test_the_task_reports_dropped_lines_without_another_line() -> None:
    with pipe() as (reading, writing):
        sink = LineStream(writing, tell, waiting_bytes=1000)
        sink.write(numbered(2000))
        assert sink.dropped
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run)
            output = b""
            while b"dropped" not in output:
                output += await received(reading, 1)
            nursery.cancel_scope.cancel()
        numbers, dropped = checked(output, 2000)
        assert len(numbers) + dropped == 2000
        sink.close(0)


@pytest.mark.parametrize("stuck", [True, False])
async def test_the_task_ends_when_the_log_is_closed(stuck: bool) -> None:
    with pipe() as (_, writing):
        sink = LineStream(writing, tell)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sink.run)
                if stuck:
                    sink.write([LINE] * 2000)
                await trio.testing.wait_all_tasks_blocked()
                sink.close(0)
        dropped = sink.dropped
        assert (dropped > 1000) is stuck
        sink.close(0)
        sink.write([LINE])
        assert sink.dropped == dropped + 1
        assert sink.waiting == 0


def test_close_waits_for_a_slow_reader_and_not_for_a_stuck_one() -> None:
    with pipe() as (reading, writing):
        sink = LineStream(writing, tell)
        sink.write(numbered(5000))
        output = bytearray()

        def read() -> None:
            while len(output) < 500_000:
                output.extend(os.read(reading, 10_000))

        reader = threading.Thread(target=read)
        reader.start()
        sink.close(30)
        reader.join()
        assert output == b"".join(numbered(5000))

        sink = LineStream(writing, tell)
        sink.write(numbered(5000))
        begin = time.monotonic()
        sink.close(0.05)
        assert time.monotonic() - begin < 5
        assert sink.dropped > 4000
        assert sink.waiting == 0


def test_a_reader_that_has_gone_is_no_error() -> None:
    with pipe() as (reading, writing):
        sink = LineStream(writing, tell)
        sink.write([LINE] * 1000)
        assert sink.waiting
        os.close(reading)
        taken = 1000 - len(sink._entries)
        sink.write([LINE])
        sink.write([LINE])
        assert sink.waiting == 0
        assert sink.dropped == 1002 - taken
        sink.close(0)


async def test_the_task_does_not_spin_when_the_reader_has_gone() -> None:
    with pipe() as (reading, writing):
        sink = LineStream(writing, tell)
        sink.write([LINE] * 1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run)
            await trio.testing.wait_all_tasks_blocked()
            os.close(reading)
            with trio.fail_after(60):
                while sink.waiting:  # noqa: ASYNC110  a sink tells nobody
                    await trio.lowlevel.checkpoint()
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        sink.close(0)


def test_a_full_disk_is_counted() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    sink = LineStream(fd, tell)
    sink.write([LINE, LINE])
    sink.write([LINE])
    assert sink.dropped == 3
    sink.close(0)
    assert sink.dropped == 3
    os.close(fd)


def test_after_a_full_disk_a_torn_line_is_ended(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink = LineStream(fd, tell)
    stream = Disk(fd, room=150)
    sink._stream.close()
    sink._stream = stream  # type: ignore[misc]  # a disk with little room
    sink.write(numbered(2))
    assert sink.dropped == 1
    sink.write([LINE])
    sink.write([LINE])
    stream.room = 10_000
    sink.write([LINE])
    first, second = numbered(2)
    assert stream.taken == first + second[:50] + b"\n" + tell(3, 3) + LINE
    stream.room = 50
    sink.write([LINE])
    begin = time.monotonic()
    sink.close(30)
    assert time.monotonic() - begin < 10
    assert sink.dropped == 4
    os.close(fd)


class Disk(Scripted):
    def __init__(self, fd: int, room: int) -> None:
        super().__init__()
        self.fd = fd
        self.room = room

    def fileno(self) -> int:
        return self.fd

    def push(self, block: bytes) -> int:
        return super().push(block) or -1


async def test_a_file_is_written_where_its_sharers_stand(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as file:
        file.write(b"first\n")
        sink = LineStream(file.fileno(), tell)
        sink.write([LINE])
        file.write(b"last\n")
        await sink.run()
        sink.close(1)
    assert (tmp_path / "log").read_bytes() == b"first\n" + LINE + b"last\n"


def test_an_unread_socket_blocks_nothing_and_stays_blocking_for_others() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sink = LineStream(ours.fileno(), tell, waiting_bytes=10_000)
        for line in numbered(20_000):
            sink.write([line])
        assert sink.dropped
        assert os.get_blocking(ours.fileno())
        output = b""
        while sink.waiting:
            output += read_all(theirs.fileno())
            sink.write([])
        output += read_all(theirs.fileno())
        numbers, dropped = checked(output, 20_000)
        assert len(numbers) + dropped == 20_000
        theirs.close()
        sink.write([LINE])
        sink.write([LINE])
        sink.close(0)


def test_an_unread_terminal_blocks_nothing() -> None:
    reading, writing = pty.openpty()
    sink = LineStream(writing, tell, waiting_bytes=10_000)
    for line in numbered(5000):
        sink.write([line])
    assert sink.dropped
    assert os.get_blocking(writing)
    sink.close(0)
    os.close(writing)
    os.close(reading)


def refuse_to_reopen(monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.open

    def refusing(path: str, flags: int) -> int:
        if path.startswith("/proc/self/fd/"):
            raise PermissionError
        return really(path, flags)

    monkeypatch.setattr(os, "open", refusing)


async def test_a_pipe_that_cannot_be_opened_again_is_polled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_to_reopen(monkeypatch)
    with pipe() as (reading, writing):
        sink = LineStream(writing, tell)
        assert os.get_blocking(writing)
        lines = numbered(3000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run)
            sink.write(lines)
            assert sink.waiting
            assert await received(reading, 300_000) == b"".join(lines)
            nursery.cancel_scope.cancel()
        sink.close(0)


def test_a_terminal_that_cannot_be_opened_again_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_reopen(monkeypatch)
    reading, writing = pty.openpty()
    sink = LineStream(writing, tell)
    sink.write([LINE])
    assert os.read(reading, 1000) == LINE.replace(b"\n", b"\r\n")
    sink.close(0)
    os.close(writing)
    os.close(reading)


@contextmanager
def journal(tmp_path: Path) -> Iterator[tuple[socket.socket, Path]]:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.setblocking(False)
        yield server, path


async def test_each_entry_is_one_datagram(tmp_path: Path) -> None:
    with journal(tmp_path) as (server, path):
        sink = Journald(tell, path=path)
        sink.write([b"MESSAGE=a\n", b"MESSAGE=b\n"])
        assert server.recv(1000) == b"MESSAGE=a\n"
        assert server.recv(1000) == b"MESSAGE=b\n"
        await sink.run()
        sink.close(1)


def test_a_large_entry_goes_as_sealed_memory(tmp_path: Path) -> None:
    with journal(tmp_path) as (server, path):
        sink = Journald(tell, path=path)
        entry = b"MESSAGE=" + b"x" * 1_000_000 + b"\n"
        sink.write([entry])
        data, descriptors, _, _ = socket.recv_fds(server, 1000, 1)
        assert data == b""
        [memory] = descriptors
        assert os.pread(memory, 2_000_000, 0) == entry
        assert fcntl.fcntl(memory, fcntl.F_GET_SEALS) == (
            fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        )
        os.close(memory)
        assert sink.dropped == 0
        sink.close(1)


def test_a_full_journal_loses_entries_and_reports_them(tmp_path: Path) -> None:
    with journal(tmp_path) as (server, path):
        sink = Journald(tell, path=path)
        entries = [b"MESSAGE=%d\n" % number for number in range(5000)]
        sink.write(entries)
        dropped = sink.dropped
        assert dropped
        taken = []
        with suppress(BlockingIOError):
            while True:
                taken.append(server.recv(1000))
        assert taken == entries[: 5000 - dropped]
        sink.write([b"MESSAGE=next\n"])
        assert server.recv(1000) == tell(dropped, dropped)
        assert server.recv(1000) == b"MESSAGE=next\n"
        assert sink.dropped == dropped
        sink.close(1)


def test_a_journal_that_restarts_is_found_again(tmp_path: Path) -> None:
    with journal(tmp_path) as (_, path):
        sink = Journald(tell, path=path)
    path.unlink()
    sink.write([b"MESSAGE=lost\n", b"MESSAGE=" + b"x" * 1_000_000 + b"\n"])
    assert sink.dropped == 2
    with journal(tmp_path) as (server, _):
        sink.close(1)
        assert server.recv(1000) == tell(2, 2)
