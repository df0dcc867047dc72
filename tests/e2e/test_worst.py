"""One address does its worst for some seconds, while a second client chats.

bench/attack_worst.py plays each kind of attack for a minute. Here the bounds of time end a hang and
are no measure of speed, because other tests run beside it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

BENCH: Final = Path(__file__).resolve().parents[2] / "bench" / "attack_worst.py"

ATTACKS: Final = (
    "names",
    "auths",
    "sessions",
    "forms",
    "payloads",
    "values",
    "refusals",
    "requests",
    "guests",
    "reads",
    "pages",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_worst_of_one_address_holds_up_nobody_and_leaves_nothing(attack: str) -> None:
    command = [sys.executable, str(BENCH), "--scale", "0.05", "--calm", "8", "--p99", "1", attack]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("attack", ["names", "values"])
def test_from_loopback_the_bounds_of_one_client_and_of_all_hold(attack: str) -> None:
    command = [sys.executable, str(BENCH), "--exempt", "--scale", "0.05", "--calm", "8"]
    command += ["--p99", "20", attack]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
