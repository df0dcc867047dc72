from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from chatd.wire.limiter import ConnectionLimiter
from chatd.wire.transport import Peer
from tests.wire.served import settings

FEW = settings(limits={"connections": 5, "connections_per_address": 2}).limits
PROXY = Peer("unix", "unix", loopback=False)


def client(address: str) -> Peer:
    return Peer(address, "unix", loopback=False, forwarded=True)


def test_connections_over_the_limit_are_refused() -> None:
    limiter = ConnectionLimiter(FEW)
    slots = [limiter.take() for _ in range(7)]
    assert [slot.excess for slot in slots] == [-4, -3, -2, -1, 0, 1, 2]
    assert [slot.refusal is None for slot in slots] == [True] * 5 + [False] * 2
    answer = slots[6].count_for(PROXY)
    assert answer is not None
    assert answer.status == 503
    for slot in slots:
        slot.release()
    assert limiter.open == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"),  # one household
    ],
)
def test_an_address_has_its_limit(first: str, second: str) -> None:
    limiter = ConnectionLimiter(FEW)
    held = [limiter.take() for _ in range(2)]
    assert [slot.count_for(client(first)) for slot in held] == [None, None]
    third = limiter.take()
    answer = third.count_for(client(second))
    assert answer is not None
    assert (answer.status, third.excess) == (429, 1)
    assert limiter.take().count_for(client("192.0.2.2")) is None
    held[0].release()
    third.release()
    assert limiter.take().count_for(client(second)) is None


def test_a_proxys_connection_is_counted_for_each_client_in_turn() -> None:
    limiter = ConnectionLimiter(FEW)
    kept, other = limiter.take(), limiter.take()
    for _ in range(3):
        for address in ("192.0.2.1", "192.0.2.2"):
            assert kept.count_for(client(address)) is None
    assert other.count_for(client("192.0.2.1")) is None
    assert limiter.take().count_for(client("192.0.2.1")) is None
    answer = kept.count_for(client("192.0.2.1"))
    assert answer is not None
    assert answer.status == 429
    kept.release()


@pytest.mark.parametrize("peer", [PROXY, Peer("::1", "tcp", loopback=True)])
def test_an_exempt_peer_is_not_limited(peer: Peer) -> None:
    limiter = ConnectionLimiter(FEW)
    assert peer.exempt
    assert all(limiter.take().count_for(peer) is None for _ in range(5))


def test_replaced_limits_apply_to_later_connections() -> None:
    limiter = ConnectionLimiter(FEW)
    limiter.limits = settings(limits={"connections_per_address": "off"}).limits
    assert all(limiter.take().count_for(client("192.0.2.1")) is None for _ in range(20))


async def test_an_address_waits_for_its_share_on_all_of_its_connections(
    autojump_clock: MockClock,
) -> None:
    limiter = ConnectionLimiter(settings(limits={"share_per_address": 0.5}).limits)
    first, second, other = (limiter.take() for _ in range(3))
    first.count_for(client("2001:db8:0:1::1"))
    second.count_for(client("2001:db8:0:1:ffff::2"))
    other.count_for(client("192.0.2.2"))
    exempt = limiter.take()
    exempt.count_for(PROXY)
    assert [slot.limited for slot in (first, exempt)] == [True, False]
    began = trio.current_time()
    await first.spend(1)  # it is charged, and the next one waits
    for slot in (other, exempt):
        await slot.spend(1)
    assert trio.current_time() == began
    await second.spend(1)
    assert trio.current_time() - began == pytest.approx(2, abs=0.1)
    # Coming again is no way around.
    first.release()
    second.release()
    again = limiter.take()
    again.count_for(client("2001:db8:0:1::1"))
    await again.spend(0)
    assert trio.current_time() - began == pytest.approx(4, abs=0.1)


async def test_addresses_are_forgotten_once_they_have_paid(autojump_clock: MockClock) -> None:
    limiter = ConnectionLimiter(FEW)
    for number in range(100):
        slot = limiter.take()
        slot.count_for(client(f"192.0.2.{number}"))
        await slot.spend(0.001)
        slot.release()
    await trio.sleep(1)
    for number in range(20):
        slot = limiter.take()
        slot.count_for(client(f"198.51.100.{number}"))
    assert len(limiter._addresses) == 20
