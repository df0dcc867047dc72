"""Fixtures of the tests with real processes: daemons, a browser, clients, booted machines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.chromium import (
    Chromium,
    ChromiumProcess,
    Tab,
    find_chromium,
    open_chromium,
)
from tests.e2e.sandbox import Sandbox, WheelsError, why_not
from tests.e2e.service import Parts, booted
from tests.e2e.socketio_clients import Clients, ClientsError, install_clients
from tests.e2e.test_tokens import run


@pytest.fixture
async def start_chatd(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[ChatdStarter]:
    """Return a function that starts daemons on this test's history.

    ``chatd = await start_chatd({"chat.backlog": 3})``
    """
    starter = ChatdStarter(tmp_path, nursery)
    try:
        yield starter
    finally:
        await starter.aclose()


@pytest.fixture
async def chatd(start_chatd: ChatdStarter) -> ChatdProcess:
    """Start a daemon with the default settings, on a free port and with an empty history."""
    return await start_chatd()


@pytest.fixture
async def token_settings(tmp_path: Path) -> dict[str, Any]:
    """Return the settings of a daemon that takes tokens and guests."""
    key = tmp_path / "key"
    key.write_text(await run("-m", "chatd", "token", "--new-key"))
    (tmp_path / "chatd.toml").write_text(f'[auth]\nmode = "token"\nkey_files = ["{key}"]\n')
    return {"auth.mode": "token", "auth.guests": True, "auth.key_files": [str(key)]}


@pytest.fixture(scope="session")
def chromium_program() -> str:
    """Return the path of the browser, or skip the test."""
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    return program


@pytest.fixture(scope="session")
def chromium_process(
    chromium_program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChromiumProcess]:
    """Start a headless Chromium."""
    process = ChromiumProcess(chromium_program, tmp_path_factory.mktemp("chromium"))
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
async def chromium(
    chromium_process: ChromiumProcess, nursery: trio.Nursery
) -> AsyncIterator[Chromium]:
    """Open a window of Chromium with an empty profile."""
    browser = await open_chromium(chromium_process, nursery)
    try:
        yield browser
    finally:
        await browser.aclose()


@pytest.fixture
async def tab(chromium: Chromium) -> Tab:
    """Open a blank tab of Chromium."""
    return await chromium.open_tab()


@pytest.fixture(scope="session")
def script() -> Path:
    """Return the program that runs Socket.IO's own clients, or skip the test."""
    try:
        return install_clients()
    except ClientsError as missing:
        pytest.skip(str(missing))


@pytest.fixture
async def clients(script: Path, nursery: trio.Nursery) -> AsyncIterator[Clients]:
    """Start a process with a client of every version."""
    clients = await Clients.start(script, nursery)
    try:
        yield clients
    finally:
        await clients.aclose()


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Build the packages to install in a booted systemd, or skip the test."""
    if reason := why_not():
        pytest.skip(reason)
    try:
        return Parts(tmp_path_factory.mktemp("parts"))
    except WheelsError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def bare_machine(parts: Parts) -> Iterator[Sandbox]:
    """Boot a machine without chatd; `parts` were built in another one before."""
    with booted() as machine:
        yield machine
