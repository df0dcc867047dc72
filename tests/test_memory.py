from __future__ import annotations

import gc
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chatd.chat.connection import Connection
from chatd.chat.user import User
from chatd.engineio.session import Session
from chatd.socketio.connection import Connection as SocketIoConnection
from chatd.socketio.socket import Socket
from chatd.testing import open_chat
from chatd.wire.outbox import Outbox
from chatd.wire.transport import StreamTransport
from chatd.wire.websocket import WebSocket

FREED = """
from pathlib import Path
from chatd import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

memory.prepare()
before = resident()
b"x" * (30 << 20)  # once this is freed, glibc by itself takes smaller blocks from its heap
blocks, between = [], []
for _ in range(64):
    blocks.append(b"x" * (1 << 20))
    between.append(bytearray(4000))  # what stays keeps the heap from becoming smaller
blocks.clear()
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_large_blocks_go_back_to_the_system_when_they_are_freed() -> None:
    program = [sys.executable, "-c", FREED]
    printed = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    assert int(printed) < 4 << 20


HUGE = """
import re
from pathlib import Path
from chatd import memory

kept = [bytes([number % 256]) * 40 for number in range(400_000)]
memory.settle()
assert all(text[0] == number % 256 for number, text in enumerate(kept))
print(re.search(r"AnonHugePages: +([0-9]+) kB", Path("/proc/self/smaps_rollup").read_text())[1])
"""


@pytest.mark.skipif(
    sys.platform != "linux" or tuple(map(int, platform.release().split(".")[:2])) < (6, 1),
    reason="the kernel cannot be asked to",
)
def test_what_exists_at_the_start_moves_to_huge_pages() -> None:
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not mode.exists() or "[never]" in mode.read_text():
        pytest.skip("huge pages are switched off")
    program = [sys.executable, "-c", HUGE]
    printed = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    assert int(printed) > 8 << 10


# What belongs to one client.
CLASSES = (
    Connection,
    Outbox,
    Session,
    Socket,
    SocketIoConnection,
    StreamTransport,
    User,
    WebSocket,
)


@pytest.fixture
def garbage() -> Iterator[Callable[[], list[object]]]:
    """Return a function: what belonged to clients, and only the garbage collector would free."""

    def found() -> list[object]:
        gc.collect()
        return [each for each in gc.garbage if isinstance(each, CLASSES)]

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield found
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize("protocol", ["text", "json", "socketio", "polling", "http"])
async def test_a_client_that_left_is_freed(
    autojump_clock: MockClock, garbage: Callable[[], list[object]], protocol: str
) -> None:
    async with open_chat() as chat:
        client = await chat.client("ann", protocol=protocol)
        await client.say("hello")
        await client.aclose()
        await trio.sleep(3600)  # until nothing of the user is kept
        assert not garbage()


@pytest.mark.parametrize("protocol", ["text", "json", "socketio", "polling", "http"])
async def test_a_client_that_is_gone_is_freed(
    autojump_clock: MockClock, garbage: Callable[[], list[object]], protocol: str
) -> None:
    async with open_chat() as chat:
        client = await chat.client("ann", protocol=protocol)
        await chat.cut(client)
        await trio.sleep(3600)
        assert not garbage()
