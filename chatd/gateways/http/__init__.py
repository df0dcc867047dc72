"""HTTP for scripts: a POST sends a message, a GET reads a page, an event stream follows a room.

The daemon's HTTP/1.1 itself is ``chatd.wire.http``.
"""

from __future__ import annotations

from chatd.gateways.http.gateway import PATH, HttpGateway

__all__ = ["PATH", "HttpGateway"]
