from __future__ import annotations

import math

import pytest

from chatd.engineio import Options
from chatd.engineio.heartbeat import Heartbeat
from chatd.engineio.packets import PING, PONG


def look(heartbeat: Heartbeat, now: float, *, reading: bool = True) -> tuple[str, float]:
    return heartbeat.look(now, reading=reading)


def test_revision_4_is_pinged_an_interval_after_its_last_pong() -> None:
    heartbeat = Heartbeat(4, Options(), 100.0)
    assert look(heartbeat, 100.0) == ("rest", 125.0)
    assert look(heartbeat, 125.0) == ("ping", 145.0)
    assert heartbeat.heard(PONG, 131.25)
    assert look(heartbeat, 145.0) == ("rest", 156.0)
    assert look(heartbeat, 156.0) == ("ping", 176.0)


def test_revision_4_is_silent_without_a_pong() -> None:
    heartbeat = Heartbeat(4, Options(), 0.0)
    assert look(heartbeat, 25.0) == ("ping", 45.0)
    assert look(heartbeat, 44.0) == ("rest", 45.0)
    assert look(heartbeat, 45.0)[0] == "silent"


def test_the_next_ping_is_in_time_where_the_interval_is_the_shorter() -> None:
    heartbeat = Heartbeat(4, Options(ping_interval=1.0, ping_timeout=5.0), 0.0)
    assert look(heartbeat, 1.0) == ("ping", 2.0)
    assert heartbeat.heard(PONG, 1.5)
    assert look(heartbeat, 2.0) == ("rest", 2.5)
    assert look(heartbeat, 2.5) == ("ping", 3.5)
    assert look(heartbeat, 3.5) == ("rest", 7.5)
    assert look(heartbeat, 7.5)[0] == "silent"


def test_a_client_has_all_its_time_after_a_ping_that_is_late() -> None:
    heartbeat = Heartbeat(4, Options(), 0.0)
    assert look(heartbeat, 60.25) == ("ping", 80.5)
    assert look(heartbeat, 80.25) == ("rest", 80.5)
    assert look(heartbeat, 80.5)[0] == "silent"


def test_a_message_puts_the_end_off_once() -> None:
    heartbeat = Heartbeat(4, Options(), 0.0)
    assert not heartbeat.extendable
    assert look(heartbeat, 25.0) == ("ping", 45.0)
    assert heartbeat.extendable
    heartbeat.heard_message(40.0)
    assert not heartbeat.extendable
    heartbeat.heard_message(44.0)
    assert look(heartbeat, 45.0) == ("rest", 60.0)
    assert look(heartbeat, 60.0)[0] == "silent"


def test_for_a_client_that_does_not_read_pings_count_instead_of_silence() -> None:
    heartbeat = Heartbeat(4, Options(), 0.0)
    assert look(heartbeat, 25.0) == ("ping", 45.0)
    assert look(heartbeat, 45.0, reading=False) == ("ping", 65.0)
    assert look(heartbeat, 65.0)[0] == "silent"


def test_revision_3_pings_by_itself() -> None:
    heartbeat = Heartbeat(3, Options(), 0.0)
    assert look(heartbeat, 0.0) == ("rest", 45.0)
    assert heartbeat.heard(PING, 30.0)
    assert look(heartbeat, 45.0) == ("rest", 75.0)
    assert look(heartbeat, 75.0, reading=False) == ("rest", 120.0)
    assert look(heartbeat, 120.0)[0] == "silent"


@pytest.mark.parametrize(("revision", "kind"), [(3, PONG), (4, PING)])
def test_the_other_direction_is_wrong(revision: int, kind: int) -> None:
    assert not Heartbeat(4 if revision == 4 else 3, Options(), 0.0).heard(kind, 1.0)


def test_its_deadline_is_known() -> None:
    assert Heartbeat(3, Options(), 5.0).deadline == 50.0
    heartbeat = Heartbeat(4, Options(), 25.0)
    assert heartbeat.deadline == math.inf
    look(heartbeat, 50.0)
    assert heartbeat.deadline == 70.0
