"""The fixture as users of the package get it: in a run of pytest of their own.

One run serves all tests here, because starting pytest takes longer than the tests.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

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

# pytest imports test modules in the order of their names: this one first, before anything of the
# others is imported.
FIRST = """
import sys

LOADED = {name for name in sys.modules if name.startswith("chatd")}

def test_nothing_is_imported():
    assert LOADED == {"chatd", "chatd.testing", "chatd.testing.plugin"}
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what pytest prints about the four modules above."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    modules = {"0": FIRST, "example": EXAMPLE, "settings": SETTINGS, "real_clock": REAL_CLOCK}
    for name, text in modules.items():
        (folder / f"test_{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize(
    "test",
    [
        "test_example.py::test_a_short_outage_loses_nothing",
        "test_example.py::test_again",
        "test_settings.py::test_settings",
        "test_0.py::test_nothing_is_imported",
    ],
)
def test_it_passes(report: str, test: str) -> None:
    assert f"PASSED {test}" in report, report


def test_a_real_clock_fails_with_one_line(report: str) -> None:
    assert "FAILED test_real_clock.py::test_real" in report
    assert "The fixture chat needs a virtual clock: let the test take autojump_clock too." in report
    assert "Traceback" not in report
