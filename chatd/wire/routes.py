"""Which handler answers what: whole paths, and prefixes. Sans-IO."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from chatd.wire.request import Request, Response, refusal
from chatd.wire.websocket import Upgrade

__all__ = ["ANY", "WEBSOCKET", "Handler", "Methods", "Routes"]

WEBSOCKET: Final = "WEBSOCKET"
"""The method under which a path's handler of WebSocket upgrades stands in ``Routes``."""

ANY: Final = "*"
"""The method under which stands who answers every method of a path that is not named beside it."""

Handler: TypeAlias = Callable[[Request], Awaitable[Response | Upgrade]]
Methods: TypeAlias = Mapping[str, Handler]


class Routes:
    """A fixed table: whole paths, and prefixes that end in a slash."""

    def __init__(
        self, paths: Mapping[str, Methods], prefixes: Mapping[str, Methods] | None = None
    ) -> None:
        self._paths = dict(paths)
        self._prefixes = dict(prefixes or {})

    def find(self, method: str, path: str) -> Handler | Response:
        """Find the handler, or the answer where there is none: 404, 405 with Allow, 426."""
        methods = self._paths.get(path)
        if methods is None:
            methods = next(
                (found for prefix, found in self._prefixes.items() if path.startswith(prefix)), None
            )
        if methods is None:
            return refusal(404, "There is nothing here.")
        handler = methods.get(method)
        if handler is None and method in ("HEAD", WEBSOCKET):
            # RFC 9110 section 9.3.2, and 7.8: an Upgrade that is not wanted may be ignored.
            handler = methods.get("GET")
        if handler is None:
            handler = methods.get(ANY)
        if handler is not None:
            return handler
        if method in ("GET", "HEAD") and WEBSOCKET in methods:
            upgrade = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
            return refusal(426, "WebSocket is spoken here.", upgrade)
        allowed = {"GET" if each == WEBSOCKET else each for each in methods}
        if "GET" in methods:
            allowed.add("HEAD")
        return refusal(405, "Not this way.", [("Allow", ", ".join(sorted(allowed)))])
