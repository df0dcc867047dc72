"""One address does its worst for some seconds, while a second client chats.

bench/attack_worst.py plays each kind of attack for a minute. Here several of them run at once, each
against a daemon of its own, so the bounds of time only end a hang and are no measure of speed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.e2e.reaper import end_with_us

BENCH: Final = Path(__file__).resolve().parents[2] / "bench" / "attack_worst.py"

AT_ONCE: Final = 7
"""Most of the time they wait, for the daemon to return its memory."""

ATTACKS: Final = (
    ["names"],
    ["auths"],
    ["sessions"],
    ["forms"],
    ["payloads"],
    ["values"],
    ["refusals"],
    ["requests"],
    ["guests"],
    ["reads"],
    ["pages"],
    # From loopback only the bounds of one client and of all hold.
    ["--exempt", "names"],
    ["--exempt", "values"],
)


def play(attack: list[str]) -> str:
    """Play an attack; return what it printed if it failed."""
    command = [sys.executable, str(BENCH), "--scale", "0.05", "--calm", "8", "--p99", "20", *attack]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as process:
        end_with_us(process.pid)
        try:
            printed, _ = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return printed if process.returncode else ""


def test_the_worst_of_one_address_holds_up_nobody_and_leaves_nothing() -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = [printed for printed in pool.map(play, ATTACKS) if printed]
    assert failures == []
