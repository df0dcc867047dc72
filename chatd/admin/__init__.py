"""Administration: the admin socket that ``chatd ctl`` talks to, and the metrics for Prometheus.

``admin.endpoints`` has the table of all endpoints, ``admin.answers`` the shapes of their answers.
"""

from __future__ import annotations

from chatd.admin.control import DaemonControl
from chatd.admin.server import Administration

__all__ = ["Administration", "DaemonControl"]
