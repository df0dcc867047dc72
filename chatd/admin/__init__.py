"""The daemon under control: its admin socket, and the figures it gives to Prometheus.

What there is to ask and to do stands in one table in ``admin.endpoints``; what is answered in
``admin.answers``. ``chatd ctl`` is the other end.
"""

from __future__ import annotations

from chatd.admin.answers import Refused, Reloaded
from chatd.admin.control import Control
from chatd.admin.server import Administration

__all__ = ["Administration", "Control", "Refused", "Reloaded"]
