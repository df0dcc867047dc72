"""Finding the daemon's admin socket, and the errors of requests to it."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatd.cli.admin_client import RequestError, find_socket, request


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Answer one request with these bytes."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n{}",
        b'HTTP/1.1 404 No\r\nContent-Length: 12\r\n\r\n{"error": 5}',
        b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
def test_what_is_no_chatd(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "a.sock"
    with answering(path, answer), pytest.raises(RequestError, match="is not chatd"):
        request(path, "GET", "/status", {})


def test_a_daemon_that_ends_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with answering(path, b""), pytest.raises(RequestError, match="stopped before it answered"):
        request(path, "GET", "/status", {})


def test_a_daemon_with_an_internal_error(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    answer = b"HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\nnoted\n"
    with answering(path, answer), pytest.raises(RequestError, match="See its log"):
        request(path, "GET", "/status", {})


def test_what_a_dead_daemon_left(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    with pytest.raises(RequestError, match="which a daemon left behind"):
        request(path, "GET", "/status", {})


def test_a_daemon_that_hangs(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(RequestError, match="does not answer"):
            request(path, "GET", "/status", {}, timeout=0.05)


@pytest.mark.parametrize(
    ("mode", "able"),
    [(0o600, "as {} or root"), (0o660, "as {}, as a member of the group {}, or as root")],
)
def test_without_permission_the_error_says_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, able: str
) -> None:
    def forbidden(self: object, path: str) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.sock"
    path.touch(mode)
    path.chmod(mode)

    class Forbidding(socket.socket):
        connect = forbidden  # type: ignore[assignment]

    monkeypatch.setattr(socket, "socket", Forbidding)
    with pytest.raises(RequestError) as told:
        request(path, "GET", "/status", {})
    names = [pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name]
    assert f"has mode {mode:04o}. Run this {able.format(*names)}, or" in str(told.value)


# ---- where it is


def test_a_named_socket_comes_first(tmp_path: Path) -> None:
    assert find_socket(Path("/x"), tmp_path / "absent.toml", {}) == Path("/x")


def test_the_folders_in_their_order(tmp_path: Path) -> None:
    system, user, unit = tmp_path / "system.sock", tmp_path / "user", tmp_path / "unit"
    environ = {"XDG_RUNTIME_DIR": str(user), "RUNTIME_DIRECTORY": f"{unit}:/other"}
    with pytest.raises(RequestError) as told:
        find_socket(None, None, environ, system=system)
    for path in (unit / "admin.sock", system, user / "chatd" / "admin.sock"):
        assert str(path) in str(told.value)
    (user / "chatd").mkdir(parents=True)
    (user / "chatd" / "admin.sock").touch()
    assert find_socket(None, None, environ, system=system) == user / "chatd" / "admin.sock"
    system.touch()
    assert find_socket(None, None, environ, system=system) == system
    unit.mkdir()
    (unit / "admin.sock").touch()
    assert find_socket(None, None, environ, system=system) == unit / "admin.sock"
    assert find_socket(None, None, {"XDG_RUNTIME_DIR": "relative"}, system=system) == system


def test_a_configuration_says_where_it_is(tmp_path: Path) -> None:
    system = tmp_path / "system.sock"
    system.touch()
    path = tmp_path / "chatd.toml"
    for text, found in (
        ("[admin]\nsocket = '/run/x.sock'\n", Path("/run/x.sock")),
        ("[admin]\nsocket = 'auto'\n", system),
        ("", system),
        # Other errors are for a reload to report.
        ("[chat]\nbacklog = -1\n[admin]\nsocket = '/run/x.sock'\n", Path("/run/x.sock")),
        ("[admin]\nsocket = 5\n", system),
        ("[admin]\nsocket = 'relative'\n", system),
        ("[admin\n", system),
        ("admin = 5\n", system),
    ):
        path.write_text(text)
        assert find_socket(None, path, {}, system=system) == found
    assert find_socket(None, tmp_path / "absent.toml", {}, system=system) == system
    path.write_text("[admin]\nsocket = 'off'\n")
    with pytest.raises(RequestError, match='is "off"'):
        find_socket(None, path, {})
