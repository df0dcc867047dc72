"""Finding the server that has the store: the primary one of several, or the one with a slot.

It is searched for anew each time that a node connects, because after a failover it is another one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio
from msgspec import Struct

from chatd.journal import StoreError
from chatd.journal.engine import Lost
from chatd.journal.redis.address import Address, Source
from chatd.journal.redis.link import Login, open_link, reading
from chatd.journal.redis.resp import ErrorReply, Reply

__all__ = ["find_primary"]

_T = TypeVar("_T")

GRACE_SECONDS: Final = 0.1
"""How long to wait for the answers of other servers after the first one has come."""

ANSWER_SECONDS: Final = 0.5
"""How long the server that Sentinels name has for an answer, before they are asked again."""

PAUSE_SECONDS: Final = 0.2
"""How long to wait before several servers are asked again."""

REDIRECTIONS: Final = 3
"""How often a Redis Cluster may name another server before it counts as unsettled."""


class _Named(Struct, frozen=True):
    """What a Sentinel says: the primary server, and the number of the failover that made it one."""

    address: Address
    epoch: int


async def find_primary(source: Source, login: Login, key: bytes, deadline: float) -> Address:
    """Return the address of the primary server.

    All servers of the source are asked at once, so that one that does not answer costs no time.
    They are asked again until the deadline, because a failover may be under way. If Sentinels
    disagree, the latest failover counts: some may be cut off from the others.

    Args:
        source: The servers of the URL.
        login: The user to log in as. Sentinels get it only if they ask for it.
        key: One of the store's keys. In a Redis Cluster, the server with its slot is looked for.
        deadline: By when, on Trio's clock.

    Raises:
        Lost: There is no primary server that can be found in time.
        StoreError: Every server answers that chatd is configured wrongly.
    """
    find = _find_among if not source.service else _find_by_sentinels
    while True:
        try:
            return await find(source, login, key, deadline)
        except Lost:
            if len(source.addresses) == 1 or trio.current_time() + PAUSE_SECONDS >= deadline:
                raise
        await trio.sleep(PAUSE_SECONDS)


async def _find_among(source: Source, login: Login, key: bytes, deadline: float) -> Address:
    [primary, *_] = await _ask_all(
        source, lambda address: _primary_at(address, login, key, deadline)
    )
    return primary


async def _find_by_sentinels(source: Source, login: Login, key: bytes, deadline: float) -> Address:
    found = await _ask_all(
        source, lambda sentinel: _named_by(sentinel, source.service, login, deadline)
    )
    named = max(found, key=lambda one: one.epoch).address
    soon = min(deadline, trio.current_time() + ANSWER_SECONDS)
    return await _primary_at(named, login, key, soon)


async def _ask_all(source: Source, ask: Callable[[Address], Awaitable[_T]]) -> list[_T]:
    """Return the answers of the servers that give one in time, in the order of the URL."""
    answers: dict[Address, _T] = {}
    errors: dict[Address, Lost | StoreError] = {}

    async def ask_one(address: Address) -> None:
        try:
            answers[address] = await ask(address)
        except (Lost, StoreError) as error:
            errors[address] = error
        else:
            enough = trio.current_time() + GRACE_SECONDS
            asking.cancel_scope.deadline = min(asking.cancel_scope.deadline, enough)

    async with trio.open_nursery() as asking:
        for address in source.addresses:
            asking.start_soon(ask_one, address)
    if answers:
        return [answers[address] for address in source.addresses if address in answers]
    reasons = "; ".join(str(errors[address]) for address in source.addresses)
    if all(isinstance(error, StoreError) for error in errors.values()):
        raise StoreError(reasons)
    raise Lost(reasons)


async def _named_by(sentinel: Address, service: str, login: Login, deadline: float) -> _Named:
    link = await open_link(sentinel, login, deadline=deadline, unasked=False)
    try:
        place, facts = await link.call(
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
            ("SENTINEL", "MASTER", service),
            deadline=deadline,
        )
    finally:
        link.close()
    if isinstance(facts, ErrorReply):
        if "unknown command" in str(facts):
            raise StoreError(f"history.url: {sentinel} is not a Sentinel: write redis://{sentinel}")
        if "No such master" in str(facts):
            raise StoreError(f"history.url: the Sentinel at {sentinel} does not know {service!r}")
        raise Lost(f"the Sentinel at {sentinel} is not ready: {facts}")
    with reading(f"the Sentinel at {sentinel}"):
        return _named(sentinel, place, facts)


def _named(sentinel: Address, place: Reply, facts: Reply) -> _Named:
    host, port = place
    primary = Address(host.decode(), int(port), tls=sentinel.tls)
    # The facts are those of the former server until the failover is complete.
    if [facts[b"ip"], facts[b"port"]] == place and b"s_down" in facts[b"flags"]:
        raise Lost(f"the Sentinel at {sentinel} cannot reach {primary}")
    return _Named(primary, int(facts[b"config-epoch"]))


async def _primary_at(address: Address, login: Login, key: bytes, deadline: float) -> Address:
    """Return a server's own address if it is a primary one and has the key's slot.

    A node of a Redis Cluster without the slot names the one that has it.
    """
    for _ in range(REDIRECTIONS):
        link = await open_link(address, login, deadline=deadline)
        try:
            info, found = await link.call(
                ("INFO", "replication"), ("EXISTS", key), deadline=deadline
            )
        finally:
            link.close()
        with reading(address):
            if isinstance(found, ErrorReply) and found.code == "MOVED":
                address = _moved(address, str(found))
            elif isinstance(found, ErrorReply) and found.code in ("CLUSTERDOWN", "LOADING"):
                raise Lost(f"{address} is not ready: {found}")
            elif not isinstance(info, ErrorReply) and b"role:slave" in info:
                raise Lost(f"{address} is a replica, not the primary server")
            else:
                return address
    raise Lost(f"{address} belongs to a Redis Cluster that is being changed")


def _moved(address: Address, error: str) -> Address:
    """Return the address in ``MOVED SLOT HOST:PORT``. Without a host, it is the server's own."""
    host, _, port = error.split(" ")[2].rpartition(":")
    return Address(address.host if host in ("", "?") else host, int(port), tls=address.tls)
