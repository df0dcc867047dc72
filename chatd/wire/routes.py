"""Which handler answers a request, by path or prefix and by method. Sans-IO."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from chatd.wire.request import Request, Response, refusal
from chatd.wire.websocket import Upgrade

__all__ = ["ANY", "WEBSOCKET", "Complete", "Handler", "Methods", "Routes"]

WEBSOCKET: Final = "WEBSOCKET"
"""The method of a path's handler of WebSocket upgrades."""

ANY: Final = "*"
"""The pseudo-method of a path's handler for all methods without a handler."""

Handler: TypeAlias = Callable[[Request], Awaitable[Response | Upgrade]]
Methods: TypeAlias = Mapping[str, Handler]
Complete: TypeAlias = Callable[[Request, Response], Awaitable[Response]]
"""Returns a response with what all responses at some paths have in common."""


class Routes:
    """A fixed table of paths, and of prefixes that end in a slash.

    Args:
        paths: The methods of whole paths.
        prefixes: The methods of all paths that begin with a prefix.
        complete: By the beginning of a path: completes every response there, errors included.
    """

    def __init__(
        self,
        paths: Mapping[str, Methods],
        prefixes: Mapping[str, Methods] | None = None,
        complete: Mapping[str, Complete] | None = None,
    ) -> None:
        self._paths = dict(paths)
        self._prefixes = dict(prefixes or {})
        self._complete = dict(complete or {})

    def completing(self, path: str) -> Complete | None:
        """Return the function that completes every response at a path, or None."""
        for start, complete in self._complete.items():
            if path.startswith(start):
                return complete
        return None

    def find(self, method: str, path: str) -> Handler | Response:
        """Return the handler, or without one the answer: 404, 405 with Allow, or 426."""
        methods = self._paths.get(path)
        if methods is None:
            for prefix, found in self._prefixes.items():
                if path.startswith(prefix):
                    methods = found
                    break
        if methods is None:
            return refusal(404, "Not found. Check the path.")
        handler = methods.get(method)
        if handler is None and method in ("HEAD", WEBSOCKET):
            # RFC 9110: HEAD is answered as GET is (9.3.2), and an Upgrade may be ignored (7.8).
            handler = methods.get("GET")
        if handler is None:
            handler = methods.get(ANY)
        if handler is not None:
            return handler
        if method in ("GET", "HEAD") and WEBSOCKET in methods:
            upgrade = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
            return refusal(426, "Connect with a WebSocket client.", upgrade)
        allowed = {"GET" if each == WEBSOCKET else each for each in methods}
        if "GET" in methods:
            allowed.add("HEAD")
        names = ", ".join(sorted(allowed))
        return refusal(405, f"Method not allowed. Use {names}.", [("Allow", names)])
