"""The unit in a booted systemd: installed as an administrator would, started, used and stopped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.sandbox import (
    ROOT,
    Sandbox,
    SandboxError,
    WheelsError,
    build_wheel,
    fetch_wheels,
    why_not,
)

BUILD = "/srv/build"  # in the sandbox
CONFIGURATION = "/etc/chatd/chatd.toml"

METRICS = """
import socket
admin = socket.socket(socket.AF_UNIX)
admin.connect("/run/chatd/admin.sock")
admin.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: chatd\\r\\nConnection: close\\r\\n\\r\\n")
print(admin.makefile().read())
"""
"""Prints them, in the sandbox."""


def client(nick: str) -> tuple[str, ...]:
    """Give the command of a client; each test has its own nick, which is held when it goes."""
    program = str(Path(__file__).with_name("text_client.py"))
    return (sys.executable, program, f"ws://localhost:3000/?nick={nick}")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Boot a machine with chatd installed in it, from this project's own files."""
    if reason := why_not():
        pytest.skip(reason)
    machine = Sandbox()
    machine.up()
    try:
        try:
            wheels = fetch_wheels(machine.python_version())
        except WheelsError as error:
            pytest.skip(str(error))
        wheel = build_wheel(wheels, tmp_path_factory.mktemp("wheel"))
        install(machine, wheels, wheel)
        yield machine
    finally:
        machine.purge()


def install(machine: Sandbox, wheels: Path, wheel: Path) -> None:
    """Install chatd and its unit, as an administrator would by hand."""
    for folder in (wheels, wheel, ROOT / "systemd", ROOT / "config"):
        machine.copy_in(folder, BUILD)
    machine.run("python3", "-m", "venv", "/opt/chatd")
    pip = ("/opt/chatd/bin/pip", "install", "--quiet", "--no-index")
    machine.run(*pip, "--find-links", f"{BUILD}/{wheels.name}", f"{BUILD}/{wheel.name}")
    for source, target in (
        ("systemd/chatd.service", "/etc/systemd/system/chatd.service"),
        ("systemd/chatd.sysusers.conf", "/usr/lib/sysusers.d/chatd.conf"),
        ("systemd/chatd.tmpfiles.conf", "/usr/lib/tmpfiles.d/chatd.conf"),
        ("config/chatd.toml", CONFIGURATION),
    ):
        machine.run("install", "-D", "--mode=0644", f"{BUILD}/{source}", target)
    machine.run("systemd-sysusers")
    machine.run("systemd-tmpfiles", "--create", "chatd.conf")
    machine.run("systemctl", "daemon-reload")


@pytest.fixture
def service(machine: Sandbox) -> Iterator[Sandbox]:
    """Start the service, which returns when it is ready, and stop it after the test."""
    try:
        machine.run("systemctl", "start", "chatd")
    except SandboxError as error:
        machine.run("systemctl", "stop", "chatd")  # or it is tried again
        log = "\n".join(entry["MESSAGE"] for entry in machine.journal())
        raise AssertionError(f"{error}\n{log}") from None
    yield machine
    machine.run("systemctl", "stop", "chatd")


def test_the_unit_is_sound_and_hardened(machine: Sandbox) -> None:
    # It warns of what it does not know, with status 0.
    assert machine.run("sh", "-c", "systemd-analyze verify chatd.service 2>&1") == ""
    # In tenths: an exposure of 1.1 at most.
    machine.run("systemd-analyze", "security", "--threshold=11", "chatd.service")
    owner = machine.run("stat", "--format=%A %U %G", "/etc/chatd", CONFIGURATION)
    assert owner.splitlines() == ["drwxr-x--- root chatd", "-rw-r----- root chatd"]


def test_it_serves_as_soon_as_it_is_started(service: Sandbox) -> None:
    frames = [json.loads(line) for line in service.client(*client("ann"), "hello").splitlines()]
    assert frames[0] == "Hello, I am chatd. You are ann in #lobby."
    assert frames[-1] == "ann: hello"
    shown = service.properties("chatd", "ActiveState", "NRestarts", "StatusText")
    assert shown.pop("StatusText").endswith(" rooms")
    assert shown == {"ActiveState": "active", "NRestarts": "0"}
    owner = service.run("stat", "--format=%A %U %G", "/var/lib/chatd", "/run/chatd")
    assert owner.splitlines() == ["drwx------ chatd chatd", "drwxr-xr-x chatd chatd"]


def test_the_journal_has_fields(service: Sandbox) -> None:
    service.client(*client("bob"), "said to be found")
    service.run("systemctl", "stop", "chatd")
    entries = service.journal("CHATD_NICK=bob")
    told = {entry["CHATD_EVENT"]: entry for entry in entries}
    assert {"connect", "message", "disconnect"} <= told.keys()
    for event in ("connect", "message", "disconnect"):
        assert told[event]["CHATD_CONNECTION"] == told["connect"]["CHATD_CONNECTION"]
        assert told[event]["CHATD_USER"] == told["connect"]["CHATD_USER"]
        assert told[event]["CHATD_ADDRESS"] in ("127.0.0.1", "::1")
        assert told[event]["PRIORITY"] == "6"
    assert told["connect"]["CHATD_TRANSPORT"] == "websocket"
    assert told["message"]["CHATD_ROOM"] == "lobby"
    assert told["disconnect"]["CHATD_CODE"] == "1000"
    assert "CHATD_REASON" in told["disconnect"]
    assert not any("said to be found" in str(entry) for entry in entries)


def test_a_stop_sends_clients_away_in_time(service: Sandbox) -> None:
    with service.start_client(*client("cleo")) as staying:
        assert staying.stdout is not None
        staying.stdout.readline()  # the greeting: it is in the chat
        begun = time.monotonic()
        service.run("systemctl", "stop", "chatd")
        seconds = time.monotonic() - begun
        *_, last = staying.stdout
        assert staying.wait() == 0
    assert json.loads(last) == {"closed": 1001}
    assert seconds < 10  # drain.seconds
    shown = service.properties("chatd", "Result", "ExecMainStatus", "ActiveState")
    assert shown == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}


def test_an_enabled_service_and_its_history_outlive_a_reboot(service: Sandbox) -> None:
    service.client(*client("dan"), "before the reboot")
    service.run("systemctl", "enable", "chatd")
    try:
        service.reboot()  # returns when the boot has ended
        service.run("systemctl", "is-active", "chatd")
        frames = service.client(*client("eve"), "after it").splitlines()
    finally:
        service.run("systemctl", "disable", "chatd")
    assert json.dumps("dan: before the reboot") in frames


def greeting(machine: Sandbox, nick: str) -> str:
    first: str = json.loads(machine.client(*client(nick), "hello").splitlines()[0])
    return first


def test_a_reload_is_in_force_when_it_returns_or_changes_nothing(service: Sandbox) -> None:
    sound = service.run("cat", CONFIGURATION)
    begun = service.properties("chatd", "MainPID")
    try:
        for number in range(3):
            service.write(CONFIGURATION, f"[chat]\ngreeting = 'greeting {number}'\n")
            service.run("systemctl", "reload", "chatd")
            assert greeting(service, f"fay{number}") == f"greeting {number}"
        service.write(CONFIGURATION, "[chat]\ngreeting = 'never'\nbacklog = 501\n")
        service.run("systemctl", "reload", "chatd", status=1)
        assert greeting(service, "gus") == "greeting 2"
        place = f"{CONFIGURATION}:3:11: chat.backlog"
        shown = service.properties("chatd", "ActiveState", "NRestarts", "StatusText")
        assert f"configuration refused: {place}" in shown.pop("StatusText")
        assert shown == {"ActiveState": "active", "NRestarts": "0"}
        (refused,) = service.journal("CHATD_EVENT=reload_refused")
        assert refused["CHATD_DETAIL"].startswith(place)
        service.write(CONFIGURATION, "[chat]\ngreeting = 'mended'\n")
        service.run("systemctl", "reload", "chatd")
        assert greeting(service, "hal") == "mended"
        assert "refused" not in service.properties("chatd", "StatusText")["StatusText"]
        told = service.run("/opt/chatd/bin/chatd", "ctl", "status")
        assert "state     ready since" in told
        assert service.properties("chatd", "MainPID") == begun
        # /proc is hidden but for the daemon's own.
        figures = service.run("/opt/chatd/bin/python", "-c", METRICS)
        assert "process_open_fds " in figures
        assert "chatd_ready 1.0" in figures
    finally:
        service.write(CONFIGURATION, sound)


def test_a_faulty_configuration_is_told_and_not_tried_again(service: Sandbox) -> None:
    machine = service
    machine.run("systemctl", "stop", "chatd")
    sound = machine.run("cat", CONFIGURATION)
    machine.write(CONFIGURATION, "[chat]\nbacklgo = 3\n")
    try:
        machine.run("systemctl", "start", "chatd", status=1)
        names = ("ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts")
        # A service that were to be tried again would be "activating (auto-restart)".
        assert machine.properties("chatd", *names) == {
            "ActiveState": "failed",
            "SubState": "failed",
            "Result": "exit-code",
            "ExecMainStatus": "78",
            "NRestarts": "0",
        }
        told = " ".join(entry["MESSAGE"] for entry in machine.journal())
        assert f"{CONFIGURATION}:2:1: error:" in told
        assert "backlog" in told  # the nearest key
    finally:
        machine.write(CONFIGURATION, sound)
    machine.run("systemctl", "start", "chatd")  # mended: it can be started at once
