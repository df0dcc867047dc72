"""The daemon as one of several that share a store: its facts, and what it warns of.

Each of these daemons is a node. With each sign of life it sends the others facts about itself, and
each time that the store was inspected, it compares theirs with its own.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Final

import msgspec
from msgspec import Struct

from chatd import __version__
from chatd.chat import Chat
from chatd.chat.tokens import Keys
from chatd.journal import Unavailable
from chatd.journal.engine import Condition
from chatd.journal.shared import SharedJournal
from chatd.key_values import sections, value_of
from chatd.settings import Settings

__all__ = ["NodeFacts", "NodeWatch", "facts_of"]

MEMORY_SHARE: Final = 0.8
"""From this share of the server's memory on there is a warning: when it is full, nothing is
accepted."""

CLOCK_SECONDS: Final = 1.0
"""There is a warning if the clock differs from the store's by more than this: tokens expire by
it."""

_COMPARED: Final = ("auth", "chat", "history", "limits", "cluster")
"""The sections of the configuration that should be the same at all nodes …"""

_OWN: Final = frozenset(
    {
        "auth.key_files",
        *(f"history.{key}" for key in ("url", "user", "password_file", "tls_ca_file", "path")),
        "history.timeout_seconds",
        "limits.connections",
        "limits.send_queue_bytes",
    }
)
"""… but for these keys, which depend on the machine."""


class NodeFacts(Struct, frozen=True):
    """What a node says about itself to the others. A node of another version may leave out some.

    Attributes:
        version: Of chatd.
        host: The name of its machine.
        clients: How many chat connections it has.
        lag: How many entries of the store's feed it had not read yet.
        epoch: The epoch of the store that it is in.
        lost_positions: How many of the positions that it has read since its start are lost.
        clock_ms: How far its clock is ahead of the store's.
        proof_ms: How long replicas took to confirm what it showed, on average; None if none had to.
        settings: Digests of its configuration, by section.
    """

    version: str
    host: str
    clients: int
    lag: int | None = None
    epoch: str | None = None
    lost_positions: int | None = None
    clock_ms: int | None = None
    proof_ms: float | None = None
    settings: Mapping[str, str] = {}


def facts_of(sent: bytes) -> NodeFacts | None:
    """Return the facts that a node has sent; None if it has sent none that can be read."""
    try:
        return msgspec.json.decode(sent, type=NodeFacts)
    except msgspec.DecodeError:
        return None


class NodeWatch:
    """Sends the facts of one node, and warns once of each thing that is wrong.

    Args:
        chat: The node's chat.
        journal: Its store.
    """

    def __init__(self, chat: Chat, journal: SharedJournal) -> None:
        self._chat = chat
        self._journal = journal
        self._warned: set[str] = set()
        self._digested = chat.settings, chat.keys
        self._digests = _digests(*self._digested)
        journal.facts = lambda: msgspec.json.encode(self._facts())

    @property
    def clock_ms(self) -> int:
        """How far this machine's clock is ahead of the store's."""
        return self._chat.now() - self._journal.steady_now()

    def _facts(self) -> NodeFacts:
        journal, proofs = self._journal, self._journal.proof_seconds
        present = self._chat.settings, self._chat.keys
        if present != self._digested:
            self._digested, self._digests = present, _digests(*present)
        return NodeFacts(
            __version__,
            socket.gethostname(),
            len(self._chat.connections),
            journal.lag,
            journal.epoch,
            journal.lost_positions,
            self.clock_ms,
            round(1000 * proofs.sum / proofs.counts[-1], 2) if proofs.counts[-1] else None,
            self._digests,
        )

    async def run(self) -> None:
        """Look each time that the store was inspected, until cancelled."""
        journal, seen = self._journal, None
        while True:
            while (condition := journal.condition) is seen:
                await journal.inspected.wait()
            seen = condition
            if condition is not None:
                self._check_clock()
                self._check_memory(condition)
                with suppress(Unavailable):  # the journal reports it
                    await self._compare()

    def _warn(self, what: str, detail: str | None) -> None:
        """Warn of something that has begun; without a detail, note that it is over."""
        if detail is None:
            self._warned.discard(what)
        elif what not in self._warned:
            self._warned.add(what)
            self._chat.log.emit("warning", detail=detail)

    def _check_clock(self) -> None:
        seconds = self.clock_ms / 1000
        detail = None
        if abs(seconds) > CLOCK_SECONDS:
            detail = (
                f"This machine's clock is {abs(seconds):.1f} s "
                f"{'ahead of' if seconds > 0 else 'behind'} that of the store's server. Tokens "
                "expire by it: synchronize the clocks of both, for example with chrony."
            )
        self._warn("clock", detail)

    def _check_memory(self, condition: Condition) -> None:
        share = condition.memory / condition.memory_limit
        detail = None
        if share >= MEMORY_SHARE:
            detail = (
                f"The store's server uses {share:.0%} of its maxmemory. When it is full, no "
                "message is accepted: raise maxmemory, or lower history.keep_days or "
                "history.max_bytes."
            )
        self._warn("memory", detail)

    async def _compare(self) -> None:
        """Warn of the nodes of this version whose configuration differs."""
        own = self._facts()
        for node in await self._journal.nodes():
            facts = facts_of(node.facts)
            if facts is None or node.node == self._journal.node or facts.version != own.version:
                continue
            differing = [
                f"[{name}]" for name in _COMPARED if facts.settings.get(name) != own.settings[name]
            ]
            if differing:
                detail = (
                    f"The configuration of the node on {facts.host} differs from this one's in "
                    f"{' and '.join(differing)}: give all nodes the same."
                )
                self._warn(detail, detail)


def _digests(settings: Settings, keys: Keys) -> Mapping[str, str]:
    """Return a digest of each section that should be the same at all nodes.

    That of ``auth`` includes the keys of tokens by their thumbprints, which are digests too.
    """
    digests = {}
    for name in _COMPARED:
        compared = {
            key: value_of(settings, f"{name}.{key}")
            for key in sections()[name].keys
            if f"{name}.{key}" not in _OWN
        }
        if name == "auth":
            compared["keys"] = keys.configured
        digest = blake2b(msgspec.json.encode(compared), digest_size=4)
        digests[name] = digest.hexdigest()
    return digests
