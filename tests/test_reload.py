"""Reload: all of a configuration or nothing of it, and no key forgotten."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd.chat.tokens import Keys
from chatd.logs import open_log
from chatd.reload import Configuration, Loaded, Reload, Reloaded
from chatd.settings import Fault, Settings, SettingsError, load, merged
from chatd.systemd import Notifier
from chatd.testing.recording import Recording

# ---- the mechanism


class Manager(Notifier):
    """The notifications to systemd."""

    def __init__(self) -> None:
        super().__init__({})
        self.heard: list[str] = []

    def _send(self, state: str, descriptors: Sequence[int] = ()) -> bool:
        self.heard.append(state.partition("\n")[0])
        return True


def reloading(
    configuration: Configuration, applied: Callable[[Settings], None] = lambda _: None
) -> tuple[Reload, Recording, Manager]:
    recording, manager = Recording(), Manager()
    log = open_log(sink=recording, now=lambda: 0)
    reload = Reload(configuration, Settings(), log=log, notifier=manager, now=lambda: 7)
    reload.apply = lambda settings, _: applied(settings)
    return reload, recording, manager


def of(**changes: Any) -> Settings:
    """Return settings with these keys: ``of(limits__rooms=5)``."""
    values: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        values.setdefault(section, {})[key] = value
    return msgspec.convert(values, Settings)


def giving(
    settings: Settings, load: Callable[[Settings], Awaitable[Loaded]] | None = None
) -> Configuration:
    async def read() -> Settings:
        return settings

    return Configuration(read, load)


async def test_live_keys_are_applied_and_others_are_named(
    autojump_clock: MockClock,
) -> None:
    applied: list[Settings] = []
    wanted = of(limits__rooms=5, listen__addresses=["localhost:1"], history__store="memory")
    reload, recording, manager = reloading(giving(wanted), applied.append)
    restart = ["listen.addresses", "history.store"]
    assert await reload.reload() == Reloaded(["limits.rooms"], restart, [])
    # A change that needs a restart is in no part's settings meanwhile.
    assert applied == [of(limits__rooms=5)] == [reload.settings]
    assert (reload.refused, reload.restart, reload.at) == ((), restart, 7)
    assert recording.records == [
        (
            "reload",
            {"changed": "limits.rooms", "restart": " ".join(restart), "seconds": 0.0},
        )
    ]
    # A second time nothing changes, and the restart is due still.
    assert await reload.reload() == Reloaded([], restart, [])
    assert manager.heard == ["RELOADING=1", "READY=1"] * 2


FAULTS = (Fault(3, 4, "no", "x = no", "f.toml"), Fault(0, 0, "nor this", "", "--set x"))


async def test_an_error_changes_nothing_and_stays_until_it_is_corrected() -> None:
    applied: list[Settings] = []
    settings = of(chat__backlog=3)
    faulty = [True]

    async def read() -> Settings:
        if faulty:
            raise SettingsError(FAULTS)
        return settings

    reload, recording, manager = reloading(Configuration(read), applied.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload.changed.wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(SettingsError) as caught:
            await reload.reload()
    assert caught.value.faults == FAULTS
    assert (applied, reload.settings, reload.refused) == ([], Settings(), FAULTS)
    assert recording.records == [
        ("reload_refused", {"detail": "f.toml:3:4: no"}),
        ("reload_refused", {"detail": "--set x: nor this"}),
    ]
    assert manager.heard == ["RELOADING=1", "READY=1"]
    faulty.clear()
    await reload.reload()
    assert (applied, reload.refused) == ([settings], ())


async def test_what_a_configuration_names_is_loaded_before_anything_changes() -> None:
    found = Loaded(Keys(), None)
    applied: list[tuple[Settings, Loaded | None]] = []
    faulty = [True]
    wanted = of(chat__backlog=3, log__format="json")

    async def load(settings: Settings) -> Loaded:
        await trio.lowlevel.checkpoint()
        # As it should be applied.
        assert settings == of(chat__backlog=3)
        assert applied == []
        if faulty:
            raise SettingsError(FAULTS)
        return found

    reload, _, _ = reloading(giving(wanted, load))
    reload.apply = lambda settings, loaded: applied.append((settings, loaded))
    with pytest.raises(SettingsError):
        await reload.reload()
    assert applied == []
    faulty.clear()
    assert await reload.reload() == Reloaded(["chat.backlog"], ["log.format"], [])
    assert applied == [(of(chat__backlog=3), found)]


async def test_what_should_be_corrected_in_a_file_is_logged_and_answered() -> None:
    async def load(_settings: Settings) -> Loaded:
        await trio.lowlevel.checkpoint()
        return Loaded(Keys(), None, [("tls.certificate_file", "It has expired.")])

    reload, log, _ = reloading(giving(of(), load))
    reload.apply = lambda settings, loaded: None
    result = await reload.reload()
    assert list(result.warnings) == ["It has expired."]
    (warning,) = [fields for name, fields in log.records if name == "warning"]
    assert warning == {"setting": "tls.certificate_file", "detail": "It has expired."}


async def test_a_credential_is_said_to_be_read_at_a_start_alone() -> None:
    wanted = of(auth__key_files=["/a", "credential:b"], tls__key_file="credential:c")
    reload, _, _ = reloading(giving(wanted))
    result = await reload.reload()
    assert isinstance(result, Reloaded)
    assert sorted(result.credentials) == ["auth.key_files", "tls.key_file"]


async def test_one_at_a_time_and_many_signals_are_one(autojump_clock: MockClock) -> None:
    running = 0
    reads = 0

    async def read() -> Settings:
        nonlocal running, reads
        running += 1
        reads += 1
        assert running == 1
        await trio.sleep(1)
        running -= 1
        return Settings()

    reload, _, _ = reloading(Configuration(read))
    for _ in range(5):
        reload.request()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload.run)
        await trio.sleep(0.5)
        nursery.start_soon(reload.reload)
        reload.request()
        reload.request()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert reads == 3


async def test_an_internal_error_ends_the_reload_and_not_the_daemon(
    autojump_clock: MockClock,
) -> None:
    faulty = [True]

    async def read() -> Settings:
        if faulty:
            raise ValueError("boom")
        return of(chat__backlog=3)

    reload, recording, manager = reloading(Configuration(read))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload.run)
        reload.request()
        await trio.sleep(1)
        ((name, fields),) = recording.records
        assert (name, fields["error"]) == ("fault", "ValueError('boom')")
        assert manager.heard == ["RELOADING=1", "READY=1"]
        faulty.clear()
        reload.request()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert reload.settings == of(chat__backlog=3)


# ---- fifty broken configurations, and more


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broken")


LINES = [
    "[chat]",
    "[limits]",
    "[listen]",
    "[lisen]",
    "[drain",
    "rooms = 0",
    "rooms = 5",
    "backlog = 600",
    "backlog = 7",
    'greeting = "{who}"',
    'greeting = "hi {nick}"',
    "addresses = []",
    'addresses = ["localhost:99999"]',
    "message_bytes = 16_777_216",
    "message_bytes = 'off'",
    "messages_per_second = 'off'",
    "seconds = -1",
    "= 5",
    "\x00",
    "[[chat]]",
    "chat.backlog = 5",
    "rooms = " + "9" * 5000,
    "x = " + "[" * 2000,
    "# fine",
]


@given(lines=st.lists(st.sampled_from(LINES) | st.text(max_size=20), min_size=1, max_size=6))
async def test_a_broken_file_changes_nothing_and_a_sound_one_all(
    folder: Path, lines: list[str]
) -> None:
    path = folder / "chatd.toml"
    path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))

    async def read() -> Settings:
        return load(path)

    applied: list[Settings] = []
    reload, recording, manager = reloading(Configuration(read), applied.append)
    with contextlib.suppress(SettingsError):
        await reload.reload()
    if reload.refused:
        assert (applied, reload.settings) == ([], Settings())
        for fault in reload.refused:
            assert fault.origin == str(path)
            # Errors with a place are reported with it.
            assert fault.line >= 1 or "nested too deeply" in fault.message
        assert {name for name, _ in recording.records} == {"reload_refused"}
    else:
        assert applied == [merged(Settings(), load(path))]
    assert manager.heard == ["RELOADING=1", "READY=1"]
