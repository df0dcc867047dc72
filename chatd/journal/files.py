"""Whether the store's files on the disk are still the ones that are open.

SQLite goes on writing into a file that was removed, moved or replaced, and confirms commits that
end with the process. So the writer looks at the log before a commit, and at the folder after it,
for some 2 µs. A folder's time of change moves with every file that is made, removed or renamed
in it. Only then are the files looked at one by one.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
from pathlib import Path
from struct import Struct
from typing import Final

__all__ = ["Misplaced", "StoreFiles", "read_counter"]

_SUFFIXES: Final = ("", "-wal", "-shm")

_LOG_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
"""sqlite.org/walformat.html, 2.1: the size of a log's header, and of each frame's beside its page.
"""

_COUNTER: Final = Struct(">24xI")
"""The file's change counter (sqlite.org/fileformat2.html, 1.3.6). It only grows; in a backup it is
1, and in an older state of the store it is smaller."""

_LAST_FRAME: Final = Struct("=16xI")
"""The number of the log's last frame, in the index of the log, in native byte order (2.3.1)."""


class Misplaced(sqlite3.OperationalError):
    """The files on the disk are not the ones that are open. The message says what to do."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED
        self.sqlite_errorname = "SQLITE_READONLY_DBMOVED"


class StoreFiles:
    """The files of an open store, as they were when it was opened.

    Args:
        path: The store's file. Its connection is open, and in WAL mode.
        page_bytes: The size of a page.
    """

    def __init__(self, path: Path, page_bytes: int) -> None:
        self._path = path
        self._folder = os.fspath(path.parent)
        self._files = {suffix: path.with_name(path.name + suffix) for suffix in _SUFFIXES}
        self._frame_bytes = page_bytes + _FRAME_HEADER_BYTES
        self._identities = {suffix: _identity(file.stat()) for suffix, file in self._files.items()}
        self._bytes = path.stat().st_size
        self._changed = 0  # the folder's time of change when its files were last looked at
        # Closing these drops the locks that SQLite has on them: they stay open until `close`.
        self._file = os.open(path, os.O_RDONLY)
        # What is noted of the counter must not be ahead of the disk.
        os.fsync(self._file)
        self._counter = self._read_counter()
        self._log = os.open(self._files["-wal"], os.O_RDONLY)
        self._index = os.open(self._files["-shm"], os.O_RDONLY)
        self._index_header = mmap.mmap(self._index, _LAST_FRAME.size, prot=mmap.PROT_READ)

    @property
    def identity(self) -> tuple[int, int, int]:
        """The inodes of the store's file and of its log, and the file's change counter.

        By these a later start knows them again.
        """
        return self._identities[""][1], self._identities["-wal"][1], self._counter

    def check_log(self) -> None:
        """Check that the log has all that was committed. Called by the writer alone.

        Raises:
            Misplaced: It was cut.
        """
        (frames,) = _LAST_FRAME.unpack_from(self._index_header)
        size = os.lseek(self._log, 0, os.SEEK_END)
        if frames and size < _LOG_HEADER_BYTES + frames * self._frame_bytes:
            raise self._misplaced("-wal", "was cut")

    def check_folder(self) -> None:
        """Check that no file was removed or replaced since the last call.

        Raises:
            Misplaced: One was, or the folder.
        """
        try:
            changed = os.stat(self._folder).st_mtime_ns  # noqa: PTH116  Path.stat costs 1 µs more
        except OSError as error:
            raise self._misplaced("", f"cannot be found ({error.strerror})") from error
        if changed != self._changed:
            self.check()
            self._changed = changed

    def check(self) -> None:
        """Look at all files.

        Raises:
            Misplaced: One was removed, replaced or cut.
        """
        # Read first: another thread may see the file grow meanwhile.
        least_bytes, least_counter = self._bytes, self._counter
        for suffix, file in self._files.items():
            try:
                found = file.stat()
            except FileNotFoundError:
                raise self._misplaced(suffix, "was removed or moved") from None
            except OSError as error:
                raise self._misplaced(suffix, f"cannot be found ({error.strerror})") from error
            if _identity(found) != self._identities[suffix]:
                raise self._misplaced(suffix, "was replaced by another file")
            if not suffix:
                if found.st_size < least_bytes:
                    raise self._misplaced(suffix, "was cut or overwritten")
                self._bytes = found.st_size
        if (counter := self._read_counter()) < least_counter:
            raise self._misplaced("", "was overwritten")
        self._counter = counter

    def _read_counter(self) -> int:
        return _counter_in(os.pread(self._file, _COUNTER.size, 0))

    def close(self) -> None:
        """Let go of the files. The connections are closed."""
        self._index_header.close()
        os.close(self._file)
        os.close(self._index)
        os.close(self._log)

    def _misplaced(self, suffix: str, what: str) -> Misplaced:
        return Misplaced(
            f"{self._files[suffix]} {what} while chatd has it open. Nothing is saved until it is "
            "back in its place. If it is lost, save what chatd still holds with `chatd ctl backup "
            f"FILE`, stop chatd, put that file at {self._path}, and start chatd again"
        )


def read_counter(path: Path) -> int:
    """Return the change counter of a store's file that is not open; 0 of an empty one."""
    with path.open("rb") as file:
        return _counter_in(file.read(_COUNTER.size).ljust(_COUNTER.size, b"\0"))


def _counter_in(header: bytes) -> int:
    counter: int = _COUNTER.unpack(header)[0]
    return counter


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
