"""Proof that replicas have what the server says, so that a failover loses none of it.

Replicas get the server's writes in one order. So a replica that has confirmed a write also has
everything that was read before it. The proof is a small write and WAIT, sent behind the commands
whose replies it is for. WAIT alone would not do: it waits for the writes of its own link only, and
the entries that XREAD returns are also those of other nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from chatd.journal.engine import Lost
from chatd.journal.redis.resp import Command, ErrorReply, Reply
from chatd.journal.redis.rights import is_forbidden, too_few_rights
from chatd.journal.redis.scripts import PROVE

__all__ = ["Proof"]


class Proof:
    """The commands of a proof, and what their replies must be.

    Args:
        replicas: How many replicas must confirm; 0 for no proof.
        key: The key that is written.
    """

    def __init__(self, replicas: int, key: bytes) -> None:
        self.replicas: Final = replicas
        self.key: Final = key

    def commands(self, deadline: float) -> tuple[Command, ...]:
        """Return the commands of a proof.

        Args:
            deadline: When the link is given up, on Trio's clock. The server stops waiting earlier,
                so that it can say how many replicas have confirmed.
        """
        if self.replicas == 0:
            return ()
        wait_ms = round((deadline - trio.current_time()) * 750)
        return (
            ("EVALSHA", PROVE.sha, 1, self.key),
            ("WAIT", self.replicas, max(1, wait_ms)),  # 0 would wait without end
        )

    def check(self, replies: Sequence[Reply], server: object) -> None:
        """Check that the replies to `commands` are a proof.

        Args:
            replies: The replies; none if there were no commands.
            server: The server's name in the error.

        Raises:
            Lost: They are not.
            chatd.journal.StoreError: chatd's user may not ask for one.
        """
        for reply in replies:
            if isinstance(reply, ErrorReply):
                if is_forbidden(reply):
                    raise too_few_rights(server, reply)
                raise Lost(f"{server} cannot ask its replicas: {reply}")
        if replies and replies[-1] < self.replicas:
            raise Lost(
                f"{server}: {replies[-1]} replicas confirmed in time, but history.replicas is "
                f"{self.replicas}"
            )
