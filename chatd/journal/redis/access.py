"""The password and the certificates of the links, read again each time that a node connects.

So both can be changed while chatd runs. Links that are open stay open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from chatd.journal import StoreError
from chatd.journal.engine import Lost
from chatd.journal.redis.address import Source, parse_url
from chatd.journal.redis.link import Login
from chatd.journal.redis.password import read_password

__all__ = ["Access"]


class Access:
    """Where the server is, and how to log in.

    Args:
        url: See `parse_url`.
        user: The user to log in as.
        password_file: The file whose first line is the user's password; None not to log in.
        ca_file: The certificates that may sign the server's, in PEM; None for the system's.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "default",
        password_file: Path | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._url: Final = url
        self._user = user
        self._password_file = password_file
        self._ca_file = ca_file

    def __str__(self) -> str:
        return self._url

    async def read(self, deadline: float) -> tuple[Source, Login]:
        """Read the files, in a thread: they may be on a slow disk.

        Args:
            deadline: By when, on Trio's clock.

        Raises:
            Lost: They cannot be read in time.
            StoreError: They cannot be used.
        """
        with trio.CancelScope(deadline=deadline):
            return await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        raise Lost("history.password_file and history.tls_ca_file cannot be read in time")

    def _read(self) -> tuple[Source, Login]:
        password = None
        if self._password_file is not None:
            try:
                password = read_password(self._password_file)
            except ValueError as error:
                raise StoreError(f"history.password_file: {error}") from error
        return parse_url(self._url, self._ca_file), Login(self._user, password)
