from __future__ import annotations

import subprocess
import sys

import pytest

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
