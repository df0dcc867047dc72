"""Requests to a running daemon: finding its admin socket, and one request over it.

Everything that can go wrong is a RequestError with one line for the user.
"""

from __future__ import annotations

import grp
import http.client
import json
import pwd
import socket
import tomllib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from chatd.settings import Fault, Settings, SettingsError, load

__all__ = [
    "Answer",
    "NoDaemonError",
    "RequestError",
    "download",
    "find_socket",
    "request",
    "upload",
]

TIMEOUT_SECONDS: Final = 90.0
"""A reload reads files that may be on a slow disk; systemd waits as long."""

_PIECE_BYTES: Final = 64 * 1024

_SYSTEM_SOCKET: Final = Path("/run/chatd/admin.sock")


class RequestError(Exception):
    """There is no usable answer. The message is one line for the user."""


class NoDaemonError(RequestError):
    """There is no answer because no daemon is running."""


class Answer(msgspec.Struct, frozen=True):
    """The daemon's answer: its JSON, and whether it is an error."""

    value: Any
    failed: bool

    @property
    def message(self) -> str:
        """The message of an error."""
        return str(self.value["error"]["message"])

    @property
    def faults(self) -> list[Fault]:
        """The errors of the configuration that an answer names."""
        return msgspec.convert(self.value["error"].get("faults", []), list[Fault])


def find_socket(
    named: Path | None,
    config: Path | None,
    environ: Mapping[str, str],
    *,
    system: Path = _SYSTEM_SOCKET,
) -> Path:
    """Return the path of the admin socket.

    Args:
        named: the path, if the user gave it.
        config: a configuration that may name it.
        environ: the environment, for the usual paths.
        system: the path of the system's daemon.

    Raises:
        RequestError: No socket was found.
    """
    if named is not None:
        return named
    candidates = [system]
    unset = ""
    if (runtime := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        candidates.append(Path(runtime) / "chatd" / "admin.sock")
    else:
        unset = " XDG_RUNTIME_DIR, the folder of a user's own daemon, is not set."
    if runtime := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        # systemd gives ExecReload= the same environment as the daemon.
        candidates.insert(0, Path(runtime) / "admin.sock")
    if config is not None:
        setting = _configured(config)
        if setting == "off":
            raise RequestError(f'The daemon cannot be reached: admin.socket is "off" in {config}.')
        if setting != "auto":
            return Path(setting)
    for path in candidates:
        if path.exists():
            return path
    missing = " and no ".join(map(str, candidates))
    raise NoDaemonError(
        f"No daemon was found: there is no {missing}.{unset} If one is running, its admin socket "
        "is elsewhere, or it has none: its start says so. Name it with --socket or --config."
    )


def _configured(config: Path) -> str:
    """Return ``admin.socket``, if it can be read: the file of a reload may have errors."""
    try:
        return load(config).admin.socket
    except SettingsError:
        pass
    try:
        value = tomllib.loads(config.read_text("utf-8"))["admin"]["socket"]
        return value if Path(value).is_absolute() or value == "off" else Settings().admin.socket
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return Settings().admin.socket


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("chatd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(
    path: Path,
    method: str,
    target: str,
    arguments: Mapping[str, Any],
    *,
    timeout: float = TIMEOUT_SECONDS,
) -> Answer:
    """Send a request and return the answer. Arguments that are None are left out.

    Raises:
        RequestError: There is no usable answer.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    with _connected(path, timeout) as connection:
        if method == "GET":
            query = f"?{urlencode(given)}" if given else ""
            connection.request(method, target + query)
        else:
            headers = {"Content-Type": "application/json"}
            connection.request(method, target, msgspec.json.encode(given), headers)
        return _answer(connection.getresponse(), path)


def download(path: Path, target: str, arguments: Mapping[str, str]) -> Generator[bytes]:
    """Request something long, and yield it in pieces, none of which is empty.

    What goes wrong with a piece after it was yielded is not taken for an error of the daemon.

    Raises:
        RequestError: The daemon refused, or broke off.
    """
    query = f"?{urlencode(arguments)}" if arguments else ""
    with _connected(path) as connection:
        connection.request("GET", target + query)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise RequestError(_answer(response, path).message)
        try:
            while piece := response.read(_PIECE_BYTES):
                yield piece
        except http.client.IncompleteRead:
            raise RequestError(
                f"The daemon on {path} broke off. The received data is incomplete."
            ) from None


def upload(path: Path, target: str, pieces: Iterable[bytes]) -> Any:
    """Send lines of any length, and return the daemon's answer.

    An OSError of ``pieces`` would be taken for the daemon's.

    Raises:
        RequestError: The daemon refused.
    """
    with _connected(path) as connection:
        headers = {"Content-Type": "application/jsonl", "Transfer-Encoding": "chunked"}
        # The daemon may refuse before everything is sent, and then does not read the rest.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", target, iter(pieces), headers, encode_chunked=True)
        answer = _answer(connection.getresponse(), path)
        if answer.failed:
            raise RequestError(answer.message)
        return answer.value


def _answer(response: http.client.HTTPResponse, path: Path) -> Answer:
    body = response.read()
    if response.status == http.HTTPStatus.INTERNAL_SERVER_ERROR:
        raise RequestError(f"The daemon on {path} had an internal error. See its log.")
    value = json.loads(body)
    failed = response.status >= 400
    if failed and not isinstance(value["error"]["message"], str):
        raise TypeError
    return Answer(value, failed)


@contextmanager
def _connected(path: Path, timeout: float = TIMEOUT_SECONDS) -> Iterator[_Connection]:
    """Connect, and turn every error into a RequestError."""
    connection = _Connection(path, timeout)
    try:
        yield connection
    except FileNotFoundError:
        raise NoDaemonError(
            f"No daemon was found: there is no {path}. If one is running, its admin socket is "
            "elsewhere, or it has none: its start says so."
        ) from None
    except ConnectionRefusedError:
        raise NoDaemonError(
            f"No daemon is running: nothing listens on {path}, which a daemon left behind."
        ) from None
    except PermissionError:
        raise RequestError(_forbidden(path)) from None
    except ConnectionError:
        raise RequestError(f"The daemon on {path} stopped before it answered.") from None
    except TimeoutError:
        raise RequestError(f"The daemon on {path} does not answer.") from None
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}.") from None
    except (http.client.HTTPException, ValueError, LookupError, TypeError):
        raise RequestError(f"The program that answers on {path} is not chatd.") from None
    finally:
        connection.close()


def _forbidden(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"You may not access {path.parent}."
    owner, group = str(status.st_uid), str(status.st_gid)
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:  # ids without a name, as in a container
        pass
    mode = f"{status.st_mode & 0o777:04o}"
    able = f"Run this as {owner} or root"
    if status.st_mode & 0o020:
        able = f"Run this as {owner}, as a member of the group {group}, or as root"
    return (
        f"You may not write to {path}, which belongs to {owner}:{group} and has mode {mode}. "
        f"{able}, or change admin.socket_mode."
    )
