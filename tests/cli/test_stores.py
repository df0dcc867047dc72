"""The store that the configuration names: its files, and how long it is waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd.cli import stores
from chatd.cli.stores import Store, check_store, find_store
from chatd.journal import StoreError, Unavailable
from chatd.logs import open_log
from chatd.settings import History, Settings, SettingsError
from chatd.systemd import Notifier
from chatd.testing.recording import Recording


def redis(**history: Any) -> Settings:
    return Settings(history=History(store="redis", **history))


def wrong(settings: Settings, environ: dict[str, str] | None = None) -> list[str]:
    return [rule.message for rule in check_store(settings, environ or {})]


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret\nmore\n")
    path.chmod(0o600)
    return path


def test_a_password_is_the_first_line_of_its_file(password: Path) -> None:
    settings = redis(password_file=str(password))
    assert find_store(settings, {}).password == "secret"
    assert wrong(settings) == []
    assert find_store(redis(), {}).password is None


def test_a_password_may_be_a_credential(password: Path) -> None:
    settings = redis(password_file="credential:password")
    environ = {"CREDENTIALS_DIRECTORY": str(password.parent)}
    assert find_store(settings, environ).password == "secret"
    # Only the service itself can see credentials.
    assert wrong(settings) == []
    with pytest.raises(SettingsError, match="systemd gave no credentials"):
        find_store(settings, {})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: no such file or directory."),
        (b"\n", "has no password on its first line."),
        (b"\xff\n", "is not UTF-8."),
    ],
)
def test_a_password_that_cannot_be_used_is_named(
    password: Path, content: bytes | None, says: str
) -> None:
    if content is None:
        password.unlink()
    else:
        password.write_bytes(content)
    settings = redis(password_file=str(password))
    assert wrong(settings) == [f"history.password_file: {password} {says}"]
    with pytest.raises(SettingsError):
        find_store(settings, {})


def test_a_password_that_others_can_read_is_warned_of(password: Path) -> None:
    password.chmod(0o644)
    [rule] = check_store(redis(password_file=str(password)), {})
    assert rule.warning
    assert "Other users can read" in rule.message


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "find_spec", lambda name: None)
    assert "pip install 'chatd[redis]'" in wrong(redis())[0]
    assert util.find_spec("msgspec")


@pytest.mark.parametrize(
    ("url", "replicas", "warned"),
    [
        ("sentinel://a/chat", 0, True),
        ("sentinels://a/chat", 0, True),
        ("sentinel://a/chat", 1, False),
        ("redis://a", 0, False),
    ],
)
def test_a_failover_that_may_lose_messages_is_warned_of(
    url: str, replicas: int, *, warned: bool
) -> None:
    rules = list(check_store(redis(url=url, replicas=replicas), {}))
    assert [rule.warning for rule in rules] == [True] * warned
    assert all("history.replicas" in rule.message for rule in rules)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (Settings(history=History(path="/a/b.db")), "/a/b.db"),
        (Settings(history=History(store="memory")), None),
        (redis(url="redis://a.example"), "redis://a.example"),
    ],
)
def test_people_are_told_where_the_history_is(settings: Settings, where: str | None) -> None:
    assert find_store(settings, {}).where == where


class Told(Notifier):
    """A service manager that records the status."""

    def __init__(self) -> None:
        super().__init__({})
        self.said: list[str] = []

    def status(self, text: str) -> bool:
        self.said.append(text)
        return True


class Opening:
    """Opens a store that is not there the first few times."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    @asynccontextmanager
    async def __call__(self, *_args: Any, **_words: Any) -> AsyncIterator[str]:
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        yield "open"


async def opened(monkeypatch: pytest.MonkeyPatch, opening: Opening) -> tuple[str, Recording, Told]:
    monkeypatch.setattr(stores, "open_shared", opening)
    monkeypatch.setattr(Store, "_engine", lambda self: None)
    recording, told = Recording(), Told()
    async with find_store(redis(), {}).open(open_log(sink=recording), told) as journal:
        return str(journal), recording, told
    raise AssertionError


async def test_a_server_that_is_not_there_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    gone = [Unavailable("connection refused") for _ in range(3)]
    journal, recording, told = await opened(monkeypatch, Opening(*gone))
    assert journal == "open"
    assert trio.current_time() == pytest.approx(3)
    states = [fields["state"] for name, fields in recording.records if name == "store"]
    assert states == ["waiting", "recovered"]
    assert told.said == ["waiting for redis://localhost:6379: connection refused"] * 3


async def test_a_server_that_cannot_be_used_ends_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(StoreError, match="too old"):
        await opened(monkeypatch, Opening(StoreError("too old")))
