from __future__ import annotations

import math

import pytest
from msgspec import Struct

from chatd.engineio.packets import PING, PONG
from chatd.engineio.pulse import Pulse


class Times(Struct):
    ping_interval: float = 25.0
    ping_timeout: float = 20.0


def look(pulse: Pulse, now: float, *, reading: bool = True) -> tuple[str, float]:
    return pulse.look(now, reading=reading)


def test_revision_4_is_pinged_an_interval_after_its_last_pong() -> None:
    pulse = Pulse(4, Times(), 100.0)
    assert look(pulse, 100.0) == ("rest", 125.0)
    assert look(pulse, 125.0) == ("ping", 145.0)
    assert pulse.heard(PONG, 130.0)
    assert look(pulse, 145.0) == ("rest", 155.0)
    assert look(pulse, 155.0) == ("ping", 175.0)


def test_revision_4_is_silent_without_a_pong() -> None:
    pulse = Pulse(4, Times(), 0.0)
    assert look(pulse, 25.0) == ("ping", 45.0)
    assert look(pulse, 44.0) == ("rest", 45.0)
    assert look(pulse, 45.0)[0] == "silent"


def test_the_next_ping_is_in_time_where_the_interval_is_the_shorter() -> None:
    pulse = Pulse(4, Times(1.0, 5.0), 0.0)
    assert look(pulse, 1.0) == ("ping", 2.0)
    assert pulse.heard(PONG, 1.5)
    assert look(pulse, 2.0) == ("rest", 2.5)
    assert look(pulse, 2.5) == ("ping", 3.5)
    assert look(pulse, 3.5) == ("rest", 7.5)
    assert look(pulse, 7.5)[0] == "silent"


def test_a_timer_s_lateness_is_not_the_client_s() -> None:
    pulse = Pulse(4, Times(), 0.0)
    assert look(pulse, 25.003) == ("ping", 45.0)
    assert look(pulse, 45.0)[0] == "silent"
    # But where the loop stood still, the client has its time from the ping.
    pulse = Pulse(4, Times(), 0.0)
    verdict, due = look(pulse, 60.0)
    assert verdict == "ping"
    assert due == pytest.approx(80, abs=0.01)


def test_a_message_puts_the_end_off_once() -> None:
    pulse = Pulse(4, Times(), 0.0)
    assert not pulse.awaiting
    assert look(pulse, 25.0) == ("ping", 45.0)
    assert pulse.awaiting
    pulse.heard_message(40.0)
    assert not pulse.awaiting
    pulse.heard_message(44.0)
    assert look(pulse, 45.0) == ("rest", 60.0)
    assert look(pulse, 60.0)[0] == "silent"


def test_who_does_not_read_does_not_count_silence_but_pings() -> None:
    pulse = Pulse(4, Times(), 0.0)
    assert look(pulse, 25.0) == ("ping", 45.0)
    assert look(pulse, 45.0, reading=False) == ("ping", 65.0)
    assert look(pulse, 65.0)[0] == "silent"


def test_revision_3_pings_by_itself() -> None:
    pulse = Pulse(3, Times(), 0.0)
    assert look(pulse, 0.0) == ("rest", 45.0)
    assert pulse.heard(PING, 30.0)
    assert look(pulse, 45.0) == ("rest", 75.0)
    assert look(pulse, 75.0, reading=False) == ("rest", 120.0)
    assert look(pulse, 120.0)[0] == "silent"


@pytest.mark.parametrize(("revision", "kind"), [(3, PONG), (4, PING)])
def test_the_other_direction_is_wrong(revision: int, kind: int) -> None:
    assert not Pulse(4 if revision == 4 else 3, Times(), 0.0).heard(kind, 1.0)


def test_its_deadline_is_known() -> None:
    assert Pulse(3, Times(), 5.0).deadline == 50.0
    pulse = Pulse(4, Times(), 5.0)
    assert pulse.deadline == math.inf
    look(pulse, 30.0)
    assert pulse.deadline == 50.0
