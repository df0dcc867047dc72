"""One address does its worst for some seconds, while a second client chats.

bench/attack_worst.py plays each kind of attack for a minute. Here several of them run at once, each
against a daemon of its own, so the bounds of time only end a hang and are no measure of speed.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

BENCH: Final = Path(__file__).resolve().parents[2] / "bench" / "attack_worst.py"

AT_ONCE: Final = 4
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def test_the_worst_of_one_address_holds_up_nobody_and_leaves_nothing() -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = [printed for printed in pool.map(play, ATTACKS) if printed]
    assert failures == []
