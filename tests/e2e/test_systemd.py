"""The service in a booted systemd: installed as an administrator would, used, and mistreated.

The most important promises to operators are tested in operations.py, in one run; here is the rest.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.sandbox import ROOT, Sandbox, SandboxError, with_version
from tests.e2e.service import (
    APT,
    CONFIGURATION,
    LIMITS,
    PROGRAM,
    Parts,
    apt_install,
    client,
    configure,
    into_venv,
    lost_nothing,
    steady,
)

METRICS = """
import socket
admin = socket.socket(socket.AF_UNIX)
admin.connect("/run/chatd/admin.sock")
admin.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: chatd\\r\\nConnection: close\\r\\n\\r\\n")
print(admin.makefile().read())
"""
"""Prints them, in the sandbox."""


@pytest.fixture(scope="module")
def machine(bare_machine: Sandbox, parts: Parts) -> Sandbox:
    """Install chatd there, in a version before the package's."""
    apt_install(bare_machine, with_version(parts.package, "0.0.1"))
    configure(bare_machine, LIMITS)
    bare_machine.run("systemctl", "stop", "chatd")
    return bare_machine


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


def test_the_package_has_the_docs_and_the_examples(parts: Parts) -> None:
    told = subprocess.run(
        ["dpkg-deb", "--contents", parts.package], check=True, capture_output=True, text=True
    ).stdout
    docs = [file for file in (ROOT / "docs").rglob("*") if file.is_file()]
    for file in (*docs, *(ROOT / "config").rglob("*.example")):
        assert f" ./usr/share/doc/chatd/{file.relative_to(ROOT)}\n" in told


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


def test_an_upgrade_refuses_no_client_and_keeps_everything(service: Sandbox, parts: Parts) -> None:
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


def test_metrics_work_in_the_hardened_unit(service: Sandbox) -> None:
    assert "state     ready, up" in service.run("/opt/chatd/bin/chatd", "ctl", "status")
    # /proc shows only the daemon's own processes.
    figures = service.run(PROGRAM, "-c", METRICS)
    assert "process_open_fds " in figures
    assert "chatd_ready 1.0" in figures


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


def test_a_faulty_configuration_is_reported_and_not_retried(service: Sandbox) -> None:
    machine = service
    machine.run("systemctl", "stop", "chatd")
    sound = machine.run("cat", CONFIGURATION)
    machine.write(CONFIGURATION, "[chat]\nbacklgo = 3\n")
    try:
        machine.run("systemctl", "start", "chatd", status=1)
        names = ("ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts")
        # A service to be restarted would be "activating (auto-restart)".
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


def until_active(machine: Sandbox) -> None:
    """Wait until the service has started by itself, which nothing signals."""
    waiting = "until systemctl --quiet is-active chatd; do sleep 0.2; done"
    machine.run("timeout", "60", "sh", "-c", waiting)


def test_a_port_that_is_taken_at_boot_is_tried_again_and_again(machine: Sandbox) -> None:
    machine.run("systemctl", "stop", "chatd")
    taking = (
        "import socket, time\ntaken = socket.create_server(('127.0.0.1', 3000))\ntime.sleep(600)"
    )
    machine.run("systemd-run", "--unit=taker", "--property=Type=exec", "python3", "-c", taking)
    since = machine.run("date", "+%s.%N").strip()
    try:
        # It is told at once, and goes on by itself.
        machine.run("systemctl", "start", "chatd", status=1)
        machine.run(
            *("timeout", "60", "sh", "-c"),
            "until systemctl show --property=StatusText chatd | grep -q 'Trying again in 4 s'; do "
            "sleep 0.2; done",  # nothing signals a change of the status
        )
        shown = machine.properties("chatd", "ActiveState", "StartLimitIntervalUSec")
        assert shown == {"ActiveState": "activating", "StartLimitIntervalUSec": "0"}
    finally:
        machine.run("systemctl", "stop", "taker")
    until_active(machine)
    machine.client(*client("tia", "it is free"))
    entries = machine.journal(f"--since=@{since}")
    told = [entry["MESSAGE"] for entry in entries if "Trying again in" in entry["MESSAGE"]]
    assert told == [f"chatd: Trying again in {seconds} s." for seconds in (1, 2, 4)]
    # An administrator does not wait: a stop, and a start, end the wait.
    machine.run("systemctl", "stop", "chatd")
    assert machine.properties("chatd", "ActiveState") == {"ActiveState": "inactive"}


def test_a_credential_that_comes_late_is_waited_for(machine: Sandbox) -> None:
    machine.run("systemctl", "stop", "chatd")
    drop_in = "/run/systemd/system/chatd.service.d/late.conf"
    machine.run("mkdir", "-p", drop_in.rpartition("/")[0])
    machine.write(drop_in, "[Service]\nLoadCredential=late:/srv/late\n")
    machine.run("systemctl", "daemon-reload")
    try:
        machine.run("systemctl", "start", "chatd", status=1)
        machine.run(
            *("timeout", "60", "sh", "-c"),
            "until [ $(systemctl show --property=NRestarts --value chatd) -gt 21 ]; do "
            "sleep 0.2; done",  # more than the 20 that this unit was once limited to
        )
        machine.write("/srv/late", "here")
        until_active(machine)
    finally:
        machine.run("systemctl", "stop", "chatd")
        machine.run("rm", drop_in)
        machine.run("systemctl", "daemon-reload")


def documented(file: str) -> str:
    """Return the contents of a file as docs/operations.md shows it."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    return page.partition(f"`{file}`:\n\n```\n")[2].partition("\n```\n")[0]


def test_the_documented_backup_every_night_and_its_restore(service: Sandbox) -> None:
    service.client(*client("bea", "worth a backup", room="cellar"))
    units = [f"/etc/systemd/system/chatd-backup.{kind}" for kind in ("service", "timer")]
    for path in units:
        service.write(path, documented(path) + "\n")
    old = "/var/lib/chatd-backups/chatd-old.db"
    service.run("mkdir", "-p", "/var/lib/chatd-backups")
    service.run("touch", "--date=15 days ago", old)
    service.run("systemctl", "daemon-reload")
    service.run("systemctl", "enable", "--now", "chatd-backup.timer")
    assert service.properties("chatd-backup.timer", "ActiveState") == {"ActiveState": "active"}
    service.run("systemctl", "start", "chatd-backup")
    (backup,) = service.run("find", "/var/lib/chatd-backups", "-name", "*.db").split()
    assert service.run("stat", "-c", "%a %U", backup) == "600 root\n"
    # Somebody deletes everything; the commands of the page bring it back.
    service.run("/opt/chatd/bin/chatd", "ctl", "remove", "cellar")
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    commands = page.partition("To restore, stop chatd")[2].split("```\n")[1]
    assert "backup.db" in commands
    service.run("sh", "-euc", commands.replace("backup.db", backup))
    frames = service.client(*client("ben", "and back", room="cellar"))
    assert "bea: worth a backup" in frames
    service.run("systemctl", "disable", "--now", "chatd-backup.timer")
    service.run("rm", *units)


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
            "print(log.output.statistics().dropped)\n",
        )
    finally:
        machine.run(*stop, "--signal=CONT")
    assert 0 < int(told) < 5000


# ---- the end of an installation, and another way to begin one


def test_removed_it_leaves_what_is_the_operators_and_purged_nothing(
    machine: Sandbox, parts: Parts
) -> None:
    machine.run("systemctl", "start", "chatd")
    machine.run(*APT, "remove", "chatd")
    assert machine.run("ss", "-Htln", "sport = :3000") == ""
    machine.run("test", "-f", CONFIGURATION)
    machine.run("test", "-f", "/var/lib/chatd/chatd.db")
    machine.run("test", "-e", "/opt/chatd", status=1)
    machine.run(*APT, "purge", "chatd")
    for gone in ("/etc/chatd", "/var/lib/chatd", "/usr/lib/systemd/system/chatd.service"):
        machine.run("test", "-e", gone, status=1)
    machine.run("id", "chatd")
    left = machine.run("find", "/etc/systemd/system", "-name", "chatd*")
    assert left == ""


def test_chatd_install_makes_a_service_of_a_virtual_environment(
    bare_machine: Sandbox, parts: Parts
) -> None:
    """The last test: chatd's package is gone by now."""
    into_venv(bare_machine, parts.wheels, parts.wheel, "/srv/chatd")
    assert "Wrote /etc/systemd/system/chatd.service" in bare_machine.run(
        "/srv/chatd/bin/chatd", "install"
    )
    assert "Wrote" not in bare_machine.run("/srv/chatd/bin/chatd", "install")
    bare_machine.run("systemctl", "enable", "--now", "chatd")
    bare_machine.client(*client("zoe", "hello"))
    started = bare_machine.properties("chatd", "ExecStart")["ExecStart"]
    assert "/srv/chatd/bin/chatd serve" in started
    bare_machine.run("systemctl", "start", "chatd@two", status=1)  # it has no configuration: 78
    bare_machine.run("/srv/chatd/bin/chatd", "uninstall")
    assert bare_machine.run("ss", "-Htln", "sport = :3000") == ""
    bare_machine.run("test", "-e", CONFIGURATION, status=1)
    bare_machine.run("test", "-f", "/var/lib/chatd/chatd.db")
