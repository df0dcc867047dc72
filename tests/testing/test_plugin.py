"""The fixture as users of the package meet it: in a run of pytest of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = """
import trio

async def test_a_short_outage_loses_nothing(chat, autojump_clock):
    ann = await chat.client("ann")
    bob = await chat.client("bob", protocol="socketio")
    await chat.cut(bob)
    await ann.say("are you there?")
    await trio.sleep(600)
    await bob.reconnect()
    assert (await bob.next("message")).text == "are you there?"

async def test_again(chat, mock_clock):
    await chat.client("ann", protocol="text")
    await chat.client("bob", protocol="polling")
"""

SETTINGS = """
import pytest
from chatd.settings import Chat, Settings

@pytest.fixture
def chat_settings():
    return Settings(chat=Chat(default_room="hall"))

async def test_settings(chat, autojump_clock):
    assert (await chat.client("ann")).room == "hall"
"""

REAL_CLOCK = """
async def test_real(chat):
    pass
"""

ONLY_PYTEST = """
import sys

def test_nothing_is_imported():
    import chatd.testing.plugin
    assert {name for name in sys.modules if name.startswith("chatd")} == {
        "chatd", "chatd.testing", "chatd.testing.plugin"
    }
"""


def run(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    (folder / "test_it.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    done = run(tmp_path, EXAMPLE)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_settings_are_a_fixture_to_override(tmp_path: Path) -> None:
    done = run(tmp_path, SETTINGS)
    assert done.returncode == 0, done.stdout


def test_a_real_clock_is_told_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, REAL_CLOCK)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if "autojump_clock" in line]
    assert lines, done.stdout
    assert "Traceback" not in done.stdout


def test_pytest_imports_nothing_for_it(tmp_path: Path) -> None:
    done = run(tmp_path, ONLY_PYTEST)
    assert done.returncode == 0, done.stdout
