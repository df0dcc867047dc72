from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatd.systemd import Notifier


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
def test_where_nobody_listens_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    assert not notifier.ready()
    assert not notifier.stopping()
