"""How a session began: the request that opened it, as handlers and middleware see it."""

from __future__ import annotations

from collections.abc import Mapping

from chatd.wire.request import Request

__all__ = ["Handshake"]


class Handshake:
    """The first request of a session, read only.

    ``address`` is the peer's IP address without port, ``"unix"`` or ``"memory"``. ``headers`` are
    by lower-case name. ``query`` has the application's own fields beside ``EIO`` and ``transport``.
    """

    __slots__ = ("_headers", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self._headers: dict[str, str] | None = None

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def path(self) -> str:
        return self.request.path

    @property
    def query(self) -> dict[str, str]:
        return self.request.query

    @property
    def headers(self) -> Mapping[str, str]:
        if self._headers is None:
            request = self.request
            names = dict.fromkeys(name for name, _ in request.headers)
            self._headers = {name: request.header(name) or "" for name in names}
        return self._headers

    @property
    def address(self) -> str:
        return self.request.peer.address

    @property
    def secure(self) -> bool:
        """Tell whether it came over TLS."""
        return self.request.secure
