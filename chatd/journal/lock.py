"""The store's lock, and the check whether the store went back in time.

The lock file beside the store holds the process that has it open and, in a second line, the store's
last *generation* that this folder knows, the inodes of the store's file and of its log, and the
file's change counter: ``7 open 4711 4713 2`` or ``7 closed 4711 4713 2``. The generation counts how
often the store was opened. A store with an earlier generation was restored from a backup; one with
another inode was put in its place, and one with a smaller counter was copied over it.

The lock is on a file of its own: closing any descriptor of the database would drop SQLite's own
locks on it (sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from chatd.journal import StoreError

__all__ = ["BootMarker", "Keepsake", "StoreLock"]


class StoreLock:
    """Holds the file for this process, until `release` or the end of the process.

    ``generation`` is the store's last one that began in this folder, None if it is not known,
    ``closed`` whether it ended cleanly, and ``identity`` that of its files (see
    `chatd.journal.files.StoreFiles.identity`), None if it is not known.
    """

    def __init__(self, descriptor: int, record: str) -> None:
        self._descriptor = descriptor
        generation, _, rest = record.partition(" ")
        state, *identity = rest.split(" ")
        known = generation.isdigit() and state in ("open", "closed")
        self.generation = int(generation) if known else None
        self.closed = state == "closed"
        self.identity: tuple[int, int, int] | None = None
        if known and len(identity) == 3 and all(map(str.isdigit, identity)):
            self.identity = int(identity[0]), int(identity[1]), int(identity[2])
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

    def note(self, generation: int, identity: tuple[int, int, int], *, closed: bool) -> None:
        """Record that a generation of the store began here, or ended cleanly."""
        self.generation, self.identity, self.closed = generation, identity, closed
        self._write(f"{os.getpid()}")
        os.fsync(self._descriptor)

    def release(self) -> None:
        # The file stays: removing it would let two processes lock two files of that name.
        self._write("")
        os.close(self._descriptor)

    def _write(self, holder: str) -> None:
        state = "closed" if self.closed else "open"
        identity = "" if self.identity is None else " {} {} {}".format(*self.identity)
        record = "" if self.generation is None else f"{self.generation} {state}{identity}\n"
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


class Keepsake:
    """A hidden file beside the store, which says that there was one, how big, and when.

    Its name does not begin like the others', so that ``rm chatd.db*`` leaves it. A start that finds
    no store can then say what is missing. Nothing depends on it: a file that cannot be written or
    read is passed over.
    """

    def __init__(self, store: Path) -> None:
        self._path = store.with_name(f".{store.name}.keepsake")

    def read(self) -> tuple[int, int] | None:
        """Return the position of the last event, and the time in ms; None if nothing is known."""
        try:
            position, at = map(int, self._path.read_text().split())
        except (OSError, ValueError):
            return None
        return position, at

    def write(self, position: int, at: int) -> None:
        with suppress(OSError):
            # In place: the folder does not change.
            self._path.touch(mode=0o600)
            self._path.write_text(f"{position} {at}\n")


def _unusable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{error.filename or path}: {error.strerror}: give the folder {path.parent} to chatd's user"
    )
