"""`make cluster`: one address, a report of what ends, and nothing left after Ctrl+C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
import trio

from chatd import client
from tests.e2e.chatd_process import free_port
from tests.e2e.programs import SECONDS, environ, going_on
from tests.e2e.try_cluster import PATH

PROGRAM = (sys.executable, "-m", "tests.e2e.try_cluster")

pytestmark = pytest.mark.skipif(
    any(shutil.which(name, path=PATH) is None for name in ("redis-server", "haproxy")),
    reason="not installed: apt install redis-server haproxy",
)


async def test_a_cluster_to_try(tmp_path: Path) -> None:
    port = free_port()
    folder = tmp_path / "cluster"
    command = (*PROGRAM, "--port", str(port), "--folder", str(folder))
    async with going_on(tmp_path, *command) as program:
        lines = await program.until("Press Ctrl+C")
        assert f"The chat is at http://localhost:{port}/" in lines
        pids = [int(found) for found in re.findall(r"process (\d+)", "\n".join(lines))]
        assert len(pids) == 5
        with trio.fail_after(SECONDS):
            async with (
                client.connect(f"ws://localhost:{port}", nick="ann") as ann,
                client.connect("ws://127.0.0.13:3000", nick="bob") as bob,
            ):
                await bob.join("lobby")
                await ann.join("lobby")
                await ann.say("through haproxy")
                async for event in bob:
                    if isinstance(event, client.Message):
                        assert event.text == "through haproxy"
                        break
        os.kill(pids[1], signal.SIGKILL)
        [*_, told] = await program.until("node2")
        assert told.startswith("node2 has ended (SIGKILL) and is started again in 3 s.")
        [*_, told] = await program.until("node2 is started again")
        pids.append(int(told.rpartition(" ")[2]))
        assert await program.end(signal.SIGINT) == 0
    assert not [pid for pid in pids if await trio.Path(f"/proc/{pid}").exists()]


async def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = await trio.run_process(
            [*PROGRAM, "--port", str(port), "--folder", str(tmp_path)],
            capture_stderr=True,
            check=False,
            env=environ(tmp_path),
        )
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith(f"127.0.0.1:{port}: in use. End the program that listens there, or")
