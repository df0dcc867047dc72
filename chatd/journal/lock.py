"""The store's lock, and the check whether the store went back in time.

The lock file beside the store holds the process that has it open and, in a second line, the store's
last *generation* that this folder knows: ``7 open`` or ``7 closed``. It counts how often the store
was opened. A store with an earlier generation was restored from a backup.

The lock is on a file of its own: closing any descriptor of the database would drop SQLite's own
locks on it (sqlite.org/howtocorrupt.html, 2.2).
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
    """Holds the file for this process, until `release` or the end of the process.

    ``generation`` is the store's last one that began in this folder, None if it is not known, and
    ``closed`` whether it ended cleanly.
    """

    def __init__(self, descriptor: int, record: str) -> None:
        self._descriptor = descriptor
        generation, _, state = record.partition(" ")
        known = generation.isdigit() and state in ("open", "closed")
        self.generation = int(generation) if known else None
        self.closed = state == "closed"
        self._write(f"{os.getpid()}")

    @classmethod
    def take(cls, path: Path) -> Self:
        """Lock the store's file, and make its folder (0700) and the file (0600) if missing.

        Raises:
            StoreError: another process holds it, or the folder cannot be used.
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

    def note(self, generation: int, *, closed: bool) -> None:
        """Record that a generation of the store began here, or ended cleanly."""
        self.generation, self.closed = generation, closed
        self._write(f"{os.getpid()}")
        os.fsync(self._descriptor)

    def release(self) -> None:
        # The file stays: removing it would let two processes lock two files of that name.
        self._write("")
        os.close(self._descriptor)

    def _write(self, holder: str) -> None:
        state = "closed" if self.closed else "open"
        record = "" if self.generation is None else f"{self.generation} {state}\n"
        content = f"{holder}\n{record}".encode()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))


class BootMarker:
    """A file that disappears when the machine boots; it exists while the store is open.

    A store that was not closed cleanly but finds its marker has lost nothing: its pages were in the
    kernel's cache.

    Args:
        folder: A folder on a tmpfs. Without one, a store that was not closed cleanly may have
            lost its last moments.
        store: The store's file.
    """

    def __init__(self, folder: Path | None, store: Path) -> None:
        name = hashlib.sha256(os.fsencode(store)).hexdigest()[:16]
        self._path = None if folder is None else folder / f"store-{name}"
        self._store = store

    def _content(self, epoch: str) -> str:
        # With the inode: another file in the store's place is not the one that was left open.
        status = self._store.stat()
        return f"{epoch} {status.st_dev}:{status.st_ino}\n"

    def exists(self, epoch: str) -> bool:
        """Return whether the store of that epoch was opened since the machine booted."""
        if self._path is None:
            return False
        try:
            return self._path.read_text() == self._content(epoch)
        except (OSError, UnicodeDecodeError):
            return False

    def create(self, epoch: str) -> None:
        """Write the marker.

        Raises:
            StoreError: the folder cannot be used.
        """
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
