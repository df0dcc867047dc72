"""The service in a booted systemd: installed as an administrator would, used, and mistreated."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.sandbox import (
    Sandbox,
    SandboxError,
    WheelsError,
    build_package,
    build_wheel,
    fetch_wheels,
    why_not,
    with_version,
)

BUILD = "/srv/build"  # in the sandbox
CONFIGURATION = "/etc/chatd/chatd.toml"
PROGRAM = "/opt/chatd/bin/python3"

# Clients that never pause speak faster than people.
LIMITS = 'messages_per_second = "off"'

METRICS = """
import socket
admin = socket.socket(socket.AF_UNIX)
admin.connect("/run/chatd/admin.sock")
admin.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: chatd\\r\\nConnection: close\\r\\n\\r\\n")
print(admin.makefile().read())
"""
"""Prints them, in the sandbox."""


def program(name: str, *words: str) -> tuple[str, ...]:
    """Give the command of a program beside this file."""
    return (sys.executable, str(Path(__file__).with_name(f"{name}.py")), *words)


def client(nick: str, *text: str, room: str = "hall") -> tuple[str, ...]:
    """Give the command of a client; each test has its own nick, which is held when it goes."""
    return program("text_client", f"ws://localhost:3000/?nick={nick}&room={room}", *text)


class Parts:
    """What is installed: the wheels of a machine's Python, our own, and our Debian package."""

    def __init__(self, folder: Path, python_version: str) -> None:
        self.wheels = fetch_wheels(python_version)
        self.wheel = build_wheel(self.wheels, folder)
        # A package is for the Python it was built on.
        self.package = build_package(self.wheels, folder) if _ours(python_version) else None


def _ours(python_version: str) -> bool:
    words = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = subprocess.run(
        ["/usr/bin/python3", "-c", words], capture_output=True, text=True, check=False
    )
    return found.returncode == 0 and found.stdout.strip() == python_version


@pytest.fixture(scope="module")
def booted() -> Iterator[Sandbox]:
    """Boot a machine without chatd."""
    if reason := why_not():
        pytest.skip(reason)
    machine = Sandbox()
    machine.up()
    try:
        yield machine
    finally:
        machine.purge()


@pytest.fixture(scope="module")
def parts(booted: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Build what is to be installed there, from this project's own files."""
    try:
        return Parts(tmp_path_factory.mktemp("parts"), booted.python_version())
    except WheelsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def machine(booted: Sandbox, parts: Parts) -> Sandbox:
    """Install chatd there, by its package or, on another Python than ours, as anywhere else."""
    if parts.package is None:
        install(booted, parts.wheels, parts.wheel)
    else:
        apt_install(booted, with_version(parts.package, "0.0.1"))
    configure(booted, LIMITS)
    booted.run("systemctl", "stop", "chatd")
    return booted


def apt_install(machine: Sandbox, package: Path) -> None:
    machine.copy_in(package, BUILD)
    quiet = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--quiet")
    machine.run(*quiet, "install", f"{BUILD}/{package.name}")


def into_venv(machine: Sandbox, wheels: Path, wheel: Path, folder: str) -> None:
    for source in (wheels, wheel):
        machine.copy_in(source, BUILD)
    machine.run("python3", "-m", "venv", folder)
    pip = (f"{folder}/bin/pip", "install", "--quiet", "--no-index")
    machine.run(*pip, "--find-links", f"{BUILD}/{wheels.name}", f"{BUILD}/{wheel.name}")


def install(machine: Sandbox, wheels: Path, wheel: Path) -> None:
    """Install chatd and its service, as an administrator would where there is no package."""
    into_venv(machine, wheels, wheel, "/opt/chatd")
    machine.run("/opt/chatd/bin/chatd", "install")


def configure(machine: Sandbox, line: str) -> None:
    """Set the first key of that name in the configuration, in place of what stands there."""
    key = line.partition(" ")[0]
    machine.run("sed", "-i", f"0,/^{key} = /s|^{key} = .*|{line}|", CONFIGURATION)
    machine.run("grep", "-qxF", line, CONFIGURATION)


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


class Steady:
    """Clients that never pause, and what they met."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.met: dict[str, Any] = {}
        self._process = process

    def until_back(self) -> None:
        """Wait until they have come back, and gone on."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "back\n"


@contextmanager
def steady(machine: Sandbox) -> Iterator[Steady]:
    """Have clients that never pause; what they met is there after the block."""
    with machine.start_client(*program("steady_clients", "127.0.0.1", "3000")) as clients:
        assert clients.stdout is not None
        assert clients.stdout.readline() == "ready\n"
        one = Steady(clients)
        try:
            yield one
        finally:
            told, _ = clients.communicate()
    assert clients.returncode == 0
    one.met.update(json.loads(told.splitlines()[-1]))


def lost_nothing(clients: Steady) -> None:
    met = clients.met
    assert met["asked"]["answered"] > 100
    assert "refused" not in met["asked"]
    assert met["said"] > 20 * met["returns"]
    # What was acknowledged was heard, all of it, once and in order.
    assert met["alike"], met
    assert met["gaps"] == 0


@contextmanager
def faulty(machine: Sandbox, fault: str, watchdog: str) -> Iterator[None]:
    """Have the service start a daemon with a fault in it."""
    drop_in = "/run/systemd/system/chatd.service.d/fault.conf"
    machine.copy_in(Path(__file__).with_name("faulty_daemon.py"), "/opt")
    machine.run("mkdir", "-p", str(Path(drop_in).parent))
    start = f"{PROGRAM} /opt/faulty_daemon.py {fault} serve --config {CONFIGURATION}"
    machine.write(
        drop_in,
        f"[Service]\nWatchdogSec={watchdog}\nExecStart=\n"
        f"ExecStart={start} --set history.durability='fsync'\n",
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "chatd")
    try:
        yield
    finally:
        machine.run("rm", drop_in)
        machine.run("systemctl", "daemon-reload")


def test_the_unit_is_sound_and_hardened(machine: Sandbox) -> None:
    # It warns of what it does not know, with status 0.
    assert (
        machine.run(
            "sh", "-c", "systemd-analyze verify chatd.service chatd.socket chatd@one.service 2>&1"
        )
        == ""
    )
    # In tenths: an exposure of 1.1 at most.
    for unit in ("chatd.service", "chatd@one.service"):
        machine.run("systemd-analyze", "security", "--threshold=11", unit)
    owner = machine.run("stat", "--format=%A %U %G", "/etc/chatd", CONFIGURATION)
    assert owner.splitlines() == ["drwxr-x--- root chatd", "-rw-r----- root chatd"]


def test_it_serves_as_soon_as_it_is_started(service: Sandbox) -> None:
    frames = [json.loads(line) for line in service.client(*client("ann", "hello")).splitlines()]
    assert frames[0] == "Hello, I am chatd. You are ann in #hall."
    assert frames[-1] == "ann: hello"
    shown = service.properties("chatd", "ActiveState", "NRestarts", "StatusText")
    assert shown.pop("StatusText").endswith(" rooms")
    assert shown == {"ActiveState": "active", "NRestarts": "0"}
    owner = service.run("stat", "--format=%A %U %G", "/var/lib/chatd", "/run/chatd")
    assert owner.splitlines() == ["drwx------ chatd chatd", "drwxr-xr-x chatd chatd"]


def test_the_journal_has_fields(service: Sandbox) -> None:
    service.client(*client("bob", "said to be found"))
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
    assert told["message"]["CHATD_ROOM"] == "hall"
    assert told["disconnect"]["CHATD_CODE"] == "1000"
    assert "CHATD_REASON" in told["disconnect"]
    assert not any("said to be found" in str(entry) for entry in entries)


def test_an_upgrade_refuses_nobody_and_keeps_everything(service: Sandbox, parts: Parts) -> None:
    if parts.package is None:
        pytest.skip("the package is for another Python")
    configure(service, 'greeting = "An administrator changed this."')
    service.client(*client("una", "from before", room="attic"))
    with steady(service) as clients:
        apt_install(service, parts.package)
        clients.until_back()
    lost_nothing(clients)
    assert clients.met["returns"] == 1
    version = service.run("dpkg-query", "--show", "--showformat=${Version}", "chatd")
    assert version != "0.0.1"
    frames = [
        json.loads(line) for line in service.client(*client("uma", "hi", room="attic")).splitlines()
    ]
    assert frames == ["An administrator changed this.", "una: from before", "uma: hi"]


def test_restarts_and_a_kill_refuse_nobody_and_lose_nothing(service: Sandbox) -> None:
    with steady(service) as clients:
        for _ in range(5):
            service.run("systemctl", "restart", "chatd")
            clients.until_back()
        began = time.monotonic()
        service.run("systemctl", "kill", "--signal=KILL", "chatd")
        service.client(*client("kim", "back"))
        back = time.monotonic() - began
        clients.until_back()
    lost_nothing(clients)
    assert clients.met["returns"] == 6
    assert back < 2
    assert clients.met["longest"] < 3
    shown = service.properties("chatd", "NFileDescriptorStore", "ActiveState", "NRestarts")
    assert shown == {"NFileDescriptorStore": "2", "ActiveState": "active", "NRestarts": "1"}


def test_a_stop_gives_the_listeners_up(service: Sandbox) -> None:
    service.run("systemctl", "stop", "chatd")
    assert service.run("ss", "-Htln", "sport = :3000") == ""


def test_a_changed_address_and_a_unix_socket_are_kept_too(service: Sandbox) -> None:
    sound = service.run("cat", CONFIGURATION)
    configure(service, 'addresses = ["0.0.0.0:3000", "unix:/run/chatd/chat.sock"]')
    try:
        service.run("systemctl", "restart", "chatd")
        assert "0.0.0.0:3000" in service.run("ss", "-Htln", "sport = :3000")
        connect = "socket.socket(socket.AF_UNIX).connect('/run/chatd/chat.sock')"
        service.run(
            "systemd-run", "--unit=caller", "python3", "-c", f"import socket\nwhile True: {connect}"
        )
        for _ in range(2):
            service.run("systemctl", "restart", "chatd")
        # It ends with the first connection that is refused.
        service.run("systemctl", "is-active", "caller")
        service.run("systemctl", "stop", "caller")
    finally:
        service.write(CONFIGURATION, sound)
        service.run("systemctl", "restart", "chatd")
    assert "127.0.0.1:3000" in service.run("ss", "-Htln", "sport = :3000")


def test_a_socket_unit_hands_its_sockets_over(machine: Sandbox) -> None:
    machine.run("systemctl", "start", "chatd.socket")
    try:
        assert machine.properties("chatd", "ActiveState") == {"ActiveState": "inactive"}
        machine.client(*client("sue", "started by this"))
        shown = machine.properties("chatd", "ActiveState", "NFileDescriptorStore")
        assert shown == {"ActiveState": "active", "NFileDescriptorStore": "0"}
        with steady(machine) as clients:
            machine.run("systemctl", "restart", "chatd")
            clients.until_back()
        lost_nothing(clients)
    finally:
        machine.run("systemctl", "stop", "chatd.socket", "chatd")


def test_a_bus_that_hangs_is_restarted_and_its_tasks_are_in_the_journal(service: Sandbox) -> None:
    with faulty(service, "hang", watchdog="2s"):
        service.client(*client("hal", "well"))
        with service.start_client(*client("ivo", "hang")) as waiting:
            waiting.communicate()  # the daemon's death ends it
        service.client(*client("joe", "well again"))
        assert service.properties("chatd", "NRestarts") == {"NRestarts": "1"}
    (hang,) = service.journal("CHATD_EVENT=hang")
    assert "faulty_daemon.py" in hang["CHATD_TASKS"]
    assert "Bus._fan_out" in hang["CHATD_TASKS"]
    assert "Bus._collect" in hang["MESSAGE"]
    assert hang["PRIORITY"] == "3"
    told = " ".join(entry["MESSAGE"] for entry in service.journal())
    assert "Watchdog timeout (limit 2s)!" in told
    assert "Fatal Python error: Aborted" in told
    # What hung was committed before.
    assert "ivo: hang" in service.client(*client("kay", "after"))


def test_a_slow_disk_is_not_killed_but_sends_new_clients_elsewhere(service: Sandbox) -> None:
    with faulty(service, "slow-disk", watchdog="2s"):
        with service.start_client(*client("lea", "slow")) as waiting:
            service.client(*program("until_ready", "3000", "503"))
            shown = service.properties("chatd", "StatusText", "ActiveState")
            assert shown["ActiveState"] == "active"
            told, _ = waiting.communicate()
        assert "lea: slow" in told
        service.client(*program("until_ready", "3000", "200"))
        assert service.properties("chatd", "NRestarts") == {"NRestarts": "0"}


def test_a_stop_sends_a_thousand_away_in_time_each_with_its_own_time(service: Sandbox) -> None:
    with service.start_client(*program("crowd", "127.0.0.1", "3000", "1000")) as crowd:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == "ready\n"
        begun = time.monotonic()
        service.run("systemctl", "stop", "chatd")
        seconds = time.monotonic() - begun
        byes = json.loads(crowd.communicate()[0])
    assert seconds < 10  # drain.seconds
    assert {(bye["code"], bye["reconnect"]) for bye in byes} == {(1001, True)}
    waits = [bye["retry_ms"] for bye in byes]
    # Over two seconds, where a thousand are: no more than a crowd's tenth in any tenth of it.
    assert max(waits) - min(waits) > 1500
    assert len(set(waits)) > 500
    shown = service.properties("chatd", "Result", "ExecMainStatus")
    assert shown == {"Result": "success", "ExecMainStatus": "0"}


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
    service.client(*client("dan", "before the reboot"))
    service.run("systemctl", "enable", "chatd")
    try:
        service.reboot()  # returns when the boot has ended
        service.run("systemctl", "is-active", "chatd")
        frames = service.client(*client("eve", "after it")).splitlines()
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


# ---- the journal's limits


def log_inside(machine: Sandbox, unit: str, program: str) -> str:
    """Run a program that logs to the journal as a service would; give what it prints."""
    machine.write(
        "/srv/logs.py",
        "from chatd.logs import open_log\nlog = open_log(format='journal')\n" + program,
    )
    wait = ("systemd-run", "--quiet", "--wait", "--pipe")
    return machine.run(*wait, f"--unit={unit}", PROGRAM, "/srv/logs.py")


def test_an_entry_too_large_for_a_datagram_is_in_the_journal(machine: Sandbox) -> None:
    log_inside(machine, "large", "log.emit('hang', tasks='x' * 1_000_000)\n")
    machine.run("journalctl", "--sync")
    text = machine.run("journalctl", "-b", "-o", "json", "--all", "_SYSTEMD_UNIT=large.service")
    (entry,) = (json.loads(line) for line in text.splitlines() if "CHATD_EVENT" in line)
    assert entry["CHATD_TASKS"] == "x" * 1_000_000


def test_a_journal_that_takes_nothing_costs_lines_and_no_time(machine: Sandbox) -> None:
    stop = ("systemctl", "kill", "--kill-whom=main", "systemd-journald")
    machine.run(*stop, "--signal=STOP")
    try:
        told = log_inside(
            machine,
            "full",
            "for number in range(5000):\n    log.emit('warning', detail=str(number))\n"
            "print(log.statistics().dropped)\n",
        )
    finally:
        machine.run(*stop, "--signal=CONT")
    assert 0 < int(told) < 5000


# ---- the end of an installation, and another way to begin one


def test_removed_it_leaves_what_is_the_operators_and_purged_nothing(
    machine: Sandbox, parts: Parts
) -> None:
    if parts.package is None:
        pytest.skip("the package is for another Python")
    apt = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--quiet")
    machine.run("systemctl", "start", "chatd")
    machine.run(*apt, "remove", "chatd")
    assert machine.run("ss", "-Htln", "sport = :3000") == ""
    machine.run("test", "-f", CONFIGURATION)
    machine.run("test", "-f", "/var/lib/chatd/chatd.db")
    machine.run("test", "-e", "/opt/chatd", status=1)
    machine.run(*apt, "purge", "chatd")
    for gone in ("/etc/chatd", "/var/lib/chatd", "/usr/lib/systemd/system/chatd.service"):
        machine.run("test", "-e", gone, status=1)
    machine.run("id", "chatd")
    left = machine.run("find", "/etc/systemd/system", "-name", "chatd*")
    assert left == ""


def test_chatd_install_makes_a_service_of_a_virtual_environment(
    booted: Sandbox, parts: Parts
) -> None:
    """The last test: chatd's package is gone by now."""
    if parts.package is None:
        pytest.skip("all tests before ran on one")
    into_venv(booted, parts.wheels, parts.wheel, "/srv/chatd")
    assert "wrote /etc/systemd/system/chatd.service" in booted.run(
        "/srv/chatd/bin/chatd", "install"
    )
    assert "wrote" not in booted.run("/srv/chatd/bin/chatd", "install")
    booted.run("systemctl", "enable", "--now", "chatd")
    booted.client(*client("zoe", "hello"))
    started = booted.properties("chatd", "ExecStart")["ExecStart"]
    assert "/srv/chatd/bin/chatd serve" in started
    booted.run("systemctl", "start", "chatd@two", status=1)  # it has no configuration: 78
    booted.run("/srv/chatd/bin/chatd", "uninstall")
    assert booted.run("ss", "-Htln", "sport = :3000") == ""
    booted.run("test", "-e", CONFIGURATION, status=1)
    booted.run("test", "-f", "/var/lib/chatd/chatd.db")
