"""The request that opened a session, as handlers and middleware see it."""

from __future__ import annotations

from collections.abc import Mapping

from chatd.wire.request import Request

__all__ = ["Handshake"]


class Handshake:
    """The request that opened a session, read only.

    Attributes:
        request: The request itself.
    """

    __slots__ = ("_headers", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self._headers: dict[str, str] | None = None

    @property
    def method(self) -> str:
        """The HTTP method, ``"GET"``."""
        return self.request.method

    @property
    def path(self) -> str:
        """The path, without the query."""
        return self.request.path

    @property
    def query(self) -> dict[str, str]:
        """The query: the application's own fields, ``EIO`` and ``transport``."""
        return self.request.query

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by lower-case name."""
        if self._headers is None:
            request = self.request
            names = dict.fromkeys(name for name, _ in request.headers)
            self._headers = {name: request.header(name) or "" for name in names}
        return self._headers

    @property
    def address(self) -> str:
        """The client's IP address without port, ``"unix"`` or ``"memory"``.

        Behind a proxy in ``http.trusted_proxies`` it is what the proxy says of its client.
        """
        return self.request.peer.address

    @property
    def secure(self) -> bool:
        """Whether it came over TLS, to this server or to a trusted proxy."""
        return self.request.secure
