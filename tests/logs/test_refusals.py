from __future__ import annotations

from chatd.logs import open_log
from chatd.logs.refusals import ADDRESSES, BURST, Refusals
from chatd.testing.recording import Recording

NOW = 1_750_000_000_000


def test_an_address_that_is_refused_on_and_on_gets_one_line_a_second() -> None:
    refusals = Refusals()
    assert [refusals.take("192.0.2.1", NOW) for _ in range(BURST)] == [0] * BURST
    assert [refusals.take("192.0.2.1", NOW + 10) for _ in range(5)] == [None] * 5
    assert refusals.take("192.0.2.2", NOW) == 0
    assert refusals.take("192.0.2.1", NOW + 1000) == 5
    assert refusals.take("192.0.2.1", NOW + 1000) is None
    assert refusals.take("192.0.2.1", NOW + 60_000) == 1


def test_a_clock_that_was_set_back_silences_nobody() -> None:
    refusals = Refusals()
    refusals.take("192.0.2.1", NOW)
    assert refusals.take("192.0.2.1", NOW - 86_400_000) is None
    assert refusals.take("192.0.2.1", NOW - 86_400_000 + 1000) == 1


def test_only_so_many_addresses_are_kept() -> None:
    refusals = Refusals()
    for number in range(2 * ADDRESSES):
        refusals.take(str(number), NOW)
    assert len(refusals._addresses) == ADDRESSES


def test_the_lines_that_are_left_out_are_counted() -> None:
    recording = Recording()
    now = NOW
    log = open_log(sink=recording, now=lambda: now).bind(address="192.0.2.1")
    for _ in range(BURST + 7):
        log.emit("refused", reason="no")
        log.emit("auth")
    assert [name for name, _ in recording.records].count("refused") == BURST
    assert [name for name, _ in recording.records].count("auth") == BURST + 7
    now += 5000
    log.emit("refused", reason="no")
    assert recording.records[-1][1]["omitted"] == 7
