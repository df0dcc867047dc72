"""Whose the store's file is, and whether it went back: the lock beside it, the marker of this boot.

The lock file holds the process that has the store, and below it the store's last *life* as this
folder knows it: ``7 open`` or ``7 closed``. A store that has an earlier life in it than that was
put back from a backup.

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

__all__ = ["BootMarker", "StoreLock"]


class StoreLock:
    """Holds the file for this process, until `release` or the process's end.

    ``life`` is the store's last life that began in this folder, None where that is not known, and
    ``closed`` whether it ended cleanly.
    """

    def __init__(self, descriptor: int, record: str) -> None:
        self._descriptor = descriptor
        life, _, state = record.partition(" ")
        self.generation = int(life) if life.isdigit() and state in ("open", "closed") else None
        self.closed = state == "closed"
        self._write(f"{os.getpid()}")

    @classmethod
    def take(cls, path: Path) -> Self:
        """Make the folder (0700) and the file (0600) where they are missing, and lock the file.

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
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").partition("\n")[0]
                who = f"process {holder}" if holder else "another process"
                raise StoreError(
                    f"{path} is in use by {who}: stop that one, or set history.path to another file"
                ) from error
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            lines = os.pread(descriptor, 100, 0).decode("ascii", "replace").split("\n")
            return cls(descriptor, lines[1] if len(lines) > 1 else "")
        except OSError as error:
            os.close(descriptor)
            raise _unusable(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise

    def note(self, life: int, *, closed: bool) -> None:
        """Write down that this life of the store began here, or ended cleanly."""
        self.generation, self.closed = life, closed
        self._write(f"{os.getpid()}")
        os.fsync(self._descriptor)

    def release(self) -> None:
        # The file stays: to remove it would let two processes lock two files of that name.
        self._write("")
        os.close(self._descriptor)

    def _write(self, holder: str) -> None:
        record = (
            ""
            if self.generation is None
            else f"{self.generation} {'closed' if self.closed else 'open'}\n"
        )
        content = f"{holder}\n{record}".encode()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))


class BootMarker:
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
