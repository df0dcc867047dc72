"""Where chatd's files are: the history, the admin socket, and the secrets that keys name."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from chatd.keys import CREDENTIAL, Settings
from chatd.settings import Fault, SettingsError

__all__ = [
    "SecretError",
    "admin_socket",
    "exposed",
    "history_path",
    "runtime_folder",
    "secret_file",
]


class SecretError(Exception):
    """A credential cannot be found because systemd gave none. The message is one line."""


def history_path(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return the file of the sqlite store.

    Raises:
        SettingsError: ``history.path`` is "auto", and no folder can be determined.
    """
    if settings.history.path != "auto":
        return Path(settings.history.path)
    if state := _systemd_folder(environ, "STATE_DIRECTORY"):
        return state / "chatd.db"
    # A relative path must be ignored: XDG Base Directory Specification.
    if (state_home := environ.get("XDG_STATE_HOME", "")).startswith("/"):
        return Path(state_home) / "chatd" / "chatd.db"
    try:
        home = Path(environ.get("HOME") or Path.home())
    except RuntimeError:  # a user without a home
        message = "There is no home directory to store the history in. Set history.path."
        raise SettingsError([Fault(0, 0, message, "", "history.path")]) from None
    return home / ".local" / "state" / "chatd" / "chatd.db"


def runtime_folder(environ: Mapping[str, str]) -> Path | None:
    """Return a folder that is emptied when the machine boots, or None if there is none."""
    if runtime := _systemd_folder(environ, "RUNTIME_DIRECTORY"):
        return runtime
    if (runtime_home := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(runtime_home) / "chatd"
    shared = Path("/dev/shm")  # noqa: S108  a tmpfs on every Linux; the folder is ours alone
    return shared / f"chatd-{os.getuid()}" if shared.is_dir() else None


def admin_socket(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Return the path of the admin socket, or None if it is "off" or there is no folder for it."""
    if settings.admin.socket not in ("auto", "off"):
        return Path(settings.admin.socket)
    if settings.admin.socket == "off":
        return None
    if runtime := _systemd_folder(environ, "RUNTIME_DIRECTORY"):
        return runtime / "admin.sock"
    if (runtime_home := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(runtime_home) / "chatd" / "admin.sock"
    return None


def _systemd_folder(environ: Mapping[str, str], variable: str) -> Path | None:
    # systemd gives several folders with colons between them: systemd.exec(5).
    first = environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None


def secret_file(name: str, environ: Mapping[str, str]) -> Path:
    """Return the file that a key names: a path, or a credential from systemd.

    Raises:
        SecretError: ``name`` is a credential, and systemd gave none.
    """
    if not name.startswith(CREDENTIAL):
        return Path(name)
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise SecretError(
            f"{name} is not available: systemd gave no credentials. "
            "Add LoadCredential= to the unit."
        )
    return Path(folder) / name.removeprefix(CREDENTIAL)


def exposed(path: Path) -> str | None:
    """Return who else can read a file that holds a secret, as a sentence; None if nobody can.

    A group may, unless it is this process's own: the service reads files of root by its group.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    others = stat.S_IROTH | stat.S_IWOTH
    if (status.st_uid, status.st_gid) == (os.getuid(), os.getgid()):
        others |= stat.S_IRGRP | stat.S_IWGRP
    if not status.st_mode & others:
        return None
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    who = "go" if status.st_mode & others & stat.S_IRWXG else "o"
    return f"Other users can read {path}, which has mode {mode}. Run `chmod {who}= {path}`."
