"""An engine in the process, with faults on demand, to test several daemons together.

`ModelStore` is the server with its replicas, and `ModelEngine` is one node's client of it. The
methods of both cause faults. The state of a server depends only on the requests that it got, their
order and their times. So a replica has no state before it becomes the primary: it then carries out
the requests again that it has got, which may lack the last ones.

* `chatd.journal.modelled.state` is the reference for what each operation does.
* `chatd.journal.modelled.server` serves the nodes.
* `chatd.journal.modelled.node` is a node's `Engine`.
"""

from __future__ import annotations

from chatd.journal.modelled.node import ModelEngine
from chatd.journal.modelled.server import ModelStore

__all__ = ["ModelEngine", "ModelStore"]
