"""HTTP for scripts: a POST says a message, a GET reads a page, and an event stream goes on.

The daemon's HTTP/1.1 itself is ``chatd.wire.http``.
"""

from __future__ import annotations

from chatd.gateways.http.gateway import PATH, HttpGateway

__all__ = ["PATH", "HttpGateway"]
