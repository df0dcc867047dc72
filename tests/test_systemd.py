from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatd.systemd import Notifier, passed_descriptors, watchdog_seconds


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name if request.param == "path" else f"\0{name}")
        server.setblocking(False)
        yield server, name if request.param == "path" else f"@{name}"


def test_each_word_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    server, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    for said, heard in [
        (notifier.ready(), b"READY=1"),
        (notifier.status("3 clients, 1 room"), b"STATUS=3 clients, 1 room"),
        (notifier.extend_timeout(5_000_000), b"EXTEND_TIMEOUT_USEC=5000000"),
        (notifier.stopping(), b"STOPPING=1"),
        (notifier.watchdog(), b"WATCHDOG=1"),
        (notifier.forget("listener-x"), b"FDSTOREREMOVE=1\nFDNAME=listener-x"),
    ]:
        assert said
        assert server.recv(1000) == heard


def test_a_reload_is_one_datagram_with_its_time(manager: tuple[socket.socket, str]) -> None:
    server, address = manager
    before = time.monotonic_ns() // 1000
    assert Notifier({"NOTIFY_SOCKET": address}).reloading()
    reloading, at = server.recv(1000).decode().split("\n")
    assert reloading == "RELOADING=1"
    name, _, value = at.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


def test_a_status_cannot_say_more_than_a_status(manager: tuple[socket.socket, str]) -> None:
    server, address = manager
    Notifier({"NOTIFY_SOCKET": address}).status("a\nREADY=1\r\nSTOPPING=1\ud800")
    assert server.recv(1000) == b"STATUS=a READY=1 STOPPING=1\\ud800"


def test_a_full_queue_is_not_waited_for(manager: tuple[socket.socket, str]) -> None:
    _, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert not all(notifier.status("again") for _ in range(5000))


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "/nobody/listens/here"},
        {"NOTIFY_SOCKET": "@nobody listens here"},
        {"NOTIFY_SOCKET": "/" + "x" * 500},
        {"NOTIFY_SOCKET": "/a\0b"},
    ],
)
def test_without_a_listener_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    assert not notifier.ready()
    assert not notifier.stopping()


def test_a_descriptor_is_handed_over_to_be_kept(manager: tuple[socket.socket, str]) -> None:
    server, address = manager
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert Notifier({"NOTIFY_SOCKET": address}).store(listening.fileno(), "listener-x")
        told, descriptors, _, _ = socket.recv_fds(server, 1000, 4)
        assert told == b"FDSTORE=1\nFDNAME=listener-x\nFDPOLL=0"
        (number,) = descriptors
        with socket.socket(fileno=number) as kept:
            assert kept.getsockname() == listening.getsockname()


def test_a_barrier_waits_for_the_manager_to_come_by(manager: tuple[socket.socket, str]) -> None:
    server, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    server.setblocking(True)

    def act() -> None:
        told, descriptors, _, _ = socket.recv_fds(server, 1000, 4)
        acted.append(told)
        os.close(*descriptors)

    acted: list[bytes] = []
    acting = threading.Thread(target=act)
    acting.start()
    assert notifier.barrier(seconds=60)
    assert acted == [b"BARRIER=1"]
    acting.join()
    # A manager that does not respond, or none at all, delays nothing.
    assert not notifier.barrier(seconds=0)
    assert not Notifier({}).barrier(seconds=60)


@pytest.mark.parametrize(
    ("pid", "count", "names", "expected"),
    [
        ("8", "1", "chatd.socket", []),
        ("7", "x", "", []),
        ("7", "0", "", []),
        ("7", "1", "chatd.socket", [(3, "chatd.socket")]),
        ("7", "3", "a:", [(3, "a"), (4, ""), (5, "unknown")]),
    ],
)
def test_what_is_handed_over(
    pid: str, count: str, names: str, expected: list[tuple[int, str]]
) -> None:
    environ = {"LISTEN_PID": pid, "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    assert passed_descriptors(environ, pid=7) == expected


def test_without_systemd_nothing_is_handed_over() -> None:
    assert passed_descriptors({}) == []


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdogs_time(environ: dict[str, str], expected: float | None) -> None:
    assert watchdog_seconds(environ, pid=7) == expected
