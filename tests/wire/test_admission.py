from __future__ import annotations

import pytest

from chatd.wire.admission import Admission
from chatd.wire.transport import Peer
from tests.wire.served import settings

FEW = settings(limits={"connections": 5, "connections_per_address": 2}).limits
PROXY = Peer("unix", "unix", loopback=False)


def client(address: str) -> Peer:
    return Peer(address, "unix", loopback=False, forwarded=True)


def test_too_many_in_all_are_told_so_and_by_how_many() -> None:
    admission = Admission(FEW)
    visits = [admission.enter() for _ in range(7)]
    assert [visit.over for visit in visits] == [-4, -3, -2, -1, 0, 1, 2]
    assert [visit.refusal is None for visit in visits] == [True] * 5 + [False] * 2
    answer = visits[6].count_for(PROXY)
    assert answer is not None
    assert answer.status == 503
    for visit in visits:
        visit.leave()
    assert admission.open == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"),  # one household
    ],
)
def test_an_address_has_its_limit(first: str, second: str) -> None:
    admission = Admission(FEW)
    held = [admission.enter() for _ in range(2)]
    assert [visit.count_for(client(first)) for visit in held] == [None, None]
    third = admission.enter()
    answer = third.count_for(client(second))
    assert answer is not None
    assert (answer.status, third.over) == (429, 1)
    assert admission.enter().count_for(client("192.0.2.2")) is None
    held[0].leave()
    third.leave()
    assert admission.enter().count_for(client(second)) is None


def test_whom_a_proxy_speaks_for_by_turns_is_counted_by_turns() -> None:
    admission = Admission(FEW)
    kept, other = admission.enter(), admission.enter()
    for _ in range(3):
        for address in ("192.0.2.1", "192.0.2.2"):
            assert kept.count_for(client(address)) is None
    assert other.count_for(client("192.0.2.1")) is None
    assert admission.enter().count_for(client("192.0.2.1")) is None
    answer = kept.count_for(client("192.0.2.1"))
    assert answer is not None
    assert answer.status == 429
    kept.leave()


@pytest.mark.parametrize("peer", [PROXY, Peer("::1", "tcp", loopback=True)])
def test_some_count_for_nobody(peer: Peer) -> None:
    admission = Admission(FEW)
    assert peer.exempt
    assert all(admission.enter().count_for(peer) is None for _ in range(5))


def test_limits_are_taken_up_while_running() -> None:
    admission = Admission(FEW)
    admission.limits = settings(limits={"connections_per_address": "off"}).limits
    assert all(admission.enter().count_for(client("192.0.2.1")) is None for _ in range(20))
