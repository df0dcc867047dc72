"""Whose the store's file is, and whether it slept: the lock beside it and the marker of this boot.

A lock file, not the database itself, carries the lock: closing any descriptor of the database
would drop SQLite's own locks on it (sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Self

from chatd.journal import StoreError

__all__ = ["Claim", "Marker"]


class Claim:
    """Holds the file for this process, until `release` or the process's end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> Self:
        """Make the folder (0700) and the file (0600) where they are missing, and claim the file.

        Raises `StoreError` if another process has it, or the folder does not let us.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = path.with_name(path.name + ".lock")
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                who = f"process {holder}" if holder else "another process"
                raise StoreError(
                    f"{path} is in use by {who}: stop that one, or set history.path to another file"
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            os.close(descriptor)
            raise _unusable(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        # The file stays: to remove it would let two processes lock two files of that name.
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


class Marker:
    """A file that does not outlive the machine's boot: it stands while the store is open.

    A store that was not closed cleanly and finds its marker lost nothing: the pages were in the
    kernel's hands. ``folder`` is on a tmpfs; None: nobody knows, so it may have lost something.
    """

    def __init__(self, folder: Path | None, store: Path) -> None:
        name = hashlib.sha256(os.fsencode(store)).hexdigest()[:16]
        self._path = None if folder is None else folder / f"store-{name}"
        self._store = store

    def _content(self, epoch: str) -> str:
        # The inode too: another file that was put in the store's place is not the one we left.
        status = self._store.stat()
        return f"{epoch} {status.st_dev}:{status.st_ino}\n"

    def stands(self, epoch: str) -> bool:
        """Tell whether the store of that epoch was open in this boot of the machine."""
        if self._path is None:
            return False
        try:
            return self._path.read_text() == self._content(epoch)
        except (OSError, UnicodeDecodeError):
            return False

    def put(self, epoch: str) -> None:
        """Put the marker. Raises `StoreError` if the folder does not let us."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.write_text(self._content(epoch))
        except OSError as error:
            raise _unusable(self._path, error) from error

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _unusable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{error.filename or path}: {error.strerror}: give the folder {path.parent} to chatd's user"
    )
