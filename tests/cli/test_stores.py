"""The store that the configuration names: its files, and how long it is waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.cli import stores
from chatd.cli.stores import Store, check_server, check_store, find_store
from chatd.journal import StoreError, Unavailable
from chatd.logs import open_log
from chatd.settings import Auth, History, Settings, SettingsError
from chatd.systemd import Notifier
from chatd.testing.recording import Recording
from tests.redis_server import RedisServer, needs_redis, new_prefix


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


def test_a_password_is_in_a_file(password: Path) -> None:
    settings = redis(password_file=str(password))
    assert find_store(settings, {}).password_file == password
    assert wrong(settings) == []
    assert find_store(redis(), {}).password_file is None


def test_a_password_may_be_a_credential(password: Path) -> None:
    settings = redis(password_file="credential:password")
    environ = {"CREDENTIALS_DIRECTORY": str(password.parent)}
    assert find_store(settings, environ).password_file == password
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
    reasons = ["connection refused", "it is loading", "it is loading", "connection refused"]
    journal, recording, told = await opened(monkeypatch, Opening(*map(Unavailable, reasons)))
    assert journal == "open"
    assert trio.current_time() == pytest.approx(4)
    store = [fields for name, fields in recording.records if name == "store"]
    assert [fields["state"] for fields in store] == ["waiting", "waiting", "recovered"]
    waiting = [f"waiting for redis://localhost:6379: {reason}" for reason in reasons]
    assert [fields["detail"] for fields in store[:2]] == waiting[:2]
    assert told.said == waiting


async def test_a_server_that_cannot_be_used_ends_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(StoreError, match="too old"):
        await opened(monkeypatch, Opening(StoreError("too old")))


# ---- asking the server


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def asked(settings: Settings) -> list[tuple[str, bool]]:
    return [(rule.message, rule.warning) for rule in check_server(settings, {})]


def test_only_a_redis_store_has_a_server_to_ask() -> None:
    assert asked(Settings()) == []


@needs_redis
def test_a_server_that_is_fit_is_not_mentioned(redis_server: RedisServer) -> None:
    assert asked(redis(url=redis_server.url)) == []
    assert redis_server.command("KEYS", "{chatd}*") == ""


def test_a_server_that_cannot_be_reached_is_a_warning(tmp_path: Path) -> None:
    [(message, warning)] = asked(redis(url=f"unix:{tmp_path / 'none'}"))
    assert message.startswith("history.url: cannot connect to unix:")
    assert message.endswith(": No such file or directory. The daemon waits for the server.")
    assert warning


@needs_redis
def test_a_server_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "r", appendonly="no") as server:
        [(message, warning)] = asked(redis(url=server.url))
    assert message.startswith("history.url: unix:")
    assert message.endswith(": set appendonly to yes.")
    assert not warning


@needs_redis
def test_another_chats_prefix_is_an_error(redis_server: RedisServer) -> None:
    prefix = new_prefix()
    redis_server.command("HSET", f"{prefix}:m", "chat", "issuer https://a.example and audience b")
    auth = Auth(mode="token", issuer="https://a.example", audience="c")
    settings = replace(redis(url=redis_server.url, prefix=prefix), auth=auth)
    [(message, warning)] = asked(settings)
    assert "takes tokens with issuer https://a.example and audience c: set another" in message
    assert message.startswith("history.prefix: ")
    assert not warning
    assert asked(replace(settings, auth=replace(auth, audience="b"))) == []


def test_a_password_that_only_the_service_has_is_said_to_be_one() -> None:
    [(message, warning)] = asked(redis(password_file="credential:redis"))
    assert message.startswith("history.password_file: The Redis server was not asked: ")
    assert warning
