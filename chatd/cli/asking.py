"""Asking a running daemon: finding its admin socket, and one request over it.

Everything that can go wrong on the way is an ``AskError`` with one line for the user.
"""

from __future__ import annotations

import grp
import http.client
import json
import pwd
import socket
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from chatd.settings import Fault, Settings, SettingsError, load

__all__ = ["Answer", "AskError", "NoDaemonError", "ask", "find", "receive", "send"]

SECONDS: Final = 90.0
"""A reload reads files that may lie on a slow disk; systemd gives it as long."""

_PIECE_BYTES: Final = 64 * 1024

_SYSTEM: Final = Path("/run/chatd/admin.sock")


class AskError(Exception):
    """There is no answer; the text is one line for the user."""


class NoDaemonError(AskError):
    """There is no answer, because no daemon is there."""


class Answer(msgspec.Struct, frozen=True):
    """What the daemon answered: its JSON, and whether that is an error's."""

    value: Any
    failed: bool

    @property
    def message(self) -> str:
        """The words of an error."""
        return str(self.value["error"]["message"])

    @property
    def faults(self) -> list[Fault]:
        """What of the configuration an error tells of."""
        return msgspec.convert(self.value["error"].get("faults", []), list[Fault])


def find(named: Path | None, config: Path | None, environ: Mapping[str, str]) -> Path:
    """Find the socket: named, or in a configuration, or where daemons have it. Raises AskError."""
    if named is not None:
        return named
    candidates = [_SYSTEM]
    if (runtime := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        candidates.append(Path(runtime) / "chatd" / "admin.sock")
    if runtime := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        # systemd's ExecReload= is told what the daemon was.
        candidates.insert(0, Path(runtime) / "admin.sock")
    if config is not None:
        setting = _configured(config)
        if setting == "off":
            raise AskError(f'admin.socket is "off" in {config}: the daemon cannot be reached')
        if setting != "auto":
            return Path(setting)
    for path in candidates:
        if path.exists():
            return path
    looked = " nor ".join(map(str, candidates))
    raise NoDaemonError(f"no daemon is there: there is no {looked}; --socket names another")


def _configured(config: Path) -> str:
    """Tell ``admin.socket``, as far as it can be told: a reload's file may well have faults."""
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
    def __init__(self, path: Path) -> None:
        super().__init__("chatd", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, target: str, arguments: Mapping[str, Any]) -> Answer:
    """Ask for one thing; arguments that are None count as not given. Raises AskError."""
    given = {name: value for name, value in arguments.items() if value is not None}
    with _asking(path) as connection:
        if method == "GET":
            query = f"?{urlencode(given)}" if given else ""
            connection.request(method, target + query)
        else:
            headers = {"Content-Type": "application/json"}
            connection.request(method, target, msgspec.json.encode(given), headers)
        return _answer(connection.getresponse(), path)


def receive(
    path: Path, target: str, arguments: Mapping[str, str], taken: Callable[[bytes], object]
) -> None:
    """Ask for something long, and hand on each piece of it. Raises AskError."""
    query = f"?{urlencode(arguments)}" if arguments else ""
    with _asking(path) as connection:
        connection.request("GET", target + query)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise AskError(_answer(response, path).message)
        try:
            while piece := response.read(_PIECE_BYTES):
                taken(piece)
        except http.client.IncompleteRead:
            raise AskError(f"the daemon on {path} broke off: what came is not all") from None


def send(path: Path, target: str, pieces: Iterable[bytes]) -> int:
    """Send something long; give how many of its lines were taken up. Raises AskError."""
    with _asking(path) as connection:
        headers = {"Content-Type": "application/jsonl", "Transfer-Encoding": "chunked"}
        # A refusal may come before all is sent; then nobody reads the rest.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", target, iter(pieces), headers, encode_chunked=True)
        answer = _answer(connection.getresponse(), path)
        if answer.failed:
            raise AskError(answer.message)
        return int(answer.value["events"])


def _answer(response: http.client.HTTPResponse, path: Path) -> Answer:
    body = response.read()
    if response.status == http.HTTPStatus.INTERNAL_SERVER_ERROR:
        raise AskError(f"the daemon on {path} had a fault: its log tells")
    value = json.loads(body)
    failed = response.status >= 400
    if failed and not isinstance(value["error"]["message"], str):
        raise TypeError
    return Answer(value, failed)


@contextmanager
def _asking(path: Path) -> Iterator[_Connection]:
    """Say in one line what goes wrong on the way. Raises AskError."""
    connection = _Connection(path)
    try:
        yield connection
    except FileNotFoundError:
        raise NoDaemonError(f"no daemon is there: there is no {path}") from None
    except ConnectionRefusedError:
        raise NoDaemonError(f"nobody answers on {path}: the daemon that made it is gone") from None
    except PermissionError:
        raise AskError(_forbidden(path)) from None
    except ConnectionError:
        raise AskError(f"the daemon on {path} ended before it answered") from None
    except TimeoutError:
        raise AskError(f"the daemon on {path} does not answer") from None
    except OSError as error:
        raise AskError(f"{path}: {error.strerror or error}") from None
    except (http.client.HTTPException, ValueError, LookupError, TypeError):
        raise AskError(f"what answers on {path} is no chatd") from None
    finally:
        connection.close()


def _forbidden(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"you may not look into {path.parent}"
    owner, group = str(status.st_uid), str(status.st_gid)
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:  # no name here, as in a container
        pass
    mode = f"{status.st_mode & 0o777:04o}"
    able = f"be {owner} or root"
    if status.st_mode & 0o020:
        able = f"be {owner}, in the group {group}, or root"
    return (
        f"you may not write to {path}: it is {owner}:{group}'s with mode {mode}; {able}, or see "
        "admin.socket_mode"
    )
