"""An engine in the process, with faults on demand, to test several daemons together.

`ModelStore` is the server, and `ModelEngine` is one node's client of it. The methods of both make
faults. The state of the server depends only on the requests that it got, their order and their
times. So the server can lose its last changes, as a real one does that continues from an older
copy: a new state gets all requests again except the last ones.

* `chatd.journal.modelled.state` is the reference for what each operation does.
* `chatd.journal.modelled.server` serves the nodes.
* `chatd.journal.modelled.node` is a node's `Engine`.
"""

from __future__ import annotations

from chatd.journal.modelled.node import ModelEngine
from chatd.journal.modelled.server import ModelStore

__all__ = ["ModelEngine", "ModelStore"]
