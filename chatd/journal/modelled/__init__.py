"""An engine in the process, with faults on demand, for tests of what several daemons do together.

`ModelStore` is the server, `ModelEngine` one node's client of it; the methods of both make faults.
What the server holds depends on nothing but what it was asked, in which order, and at which times.
So it can lose its last moments, as a real one does that goes on from an older copy: a new state is
asked everything again but these.

* `chatd.journal.modelled.state` is the reference for what each operation does.
* `chatd.journal.modelled.server` serves the nodes.
* `chatd.journal.modelled.node` is a node's `Engine`.
"""

from __future__ import annotations

from chatd.journal.modelled.node import ModelEngine
from chatd.journal.modelled.server import ModelStore

__all__ = ["ModelEngine", "ModelStore"]
