from __future__ import annotations

import json
import os
import pty
from pathlib import Path

import pytest

from chatd import logs
from chatd.logs import sink as sinks
from chatd.testing.recording import Recording

NOW = 1_767_323_045_678
ANN: logs.Fields = {"connection": "c1", "nick": "ann", "address": "203.0.113.7"}


def recorded(
    level: logs.Level = "info", addresses: logs.AddressPolicy = "full"
) -> tuple[logs.Log, Recording]:
    recording = Recording()
    log = logs.open_log(sink=recording, now=lambda: NOW, level=level, addresses=addresses)
    return log, recording


def test_an_event_is_recorded_with_its_fields() -> None:
    log, recording = recorded()
    log.emit("connect", **ANN)
    assert recording.records == [("connect", dict(ANN))]
    assert json.loads(recording.lines[0])["at"] == "2026-01-02T03:04:05.678Z"
    assert json.loads(recording.lines[0])["level"] == "info"


def test_many_are_written_at_once_and_counted() -> None:
    log, recording = recorded()
    log.output.write([log.line("message", seq=1), log.line("message", seq=2)])
    assert recording.records == [("message", {"seq": 1}), ("message", {"seq": 2})]
    assert log.output.statistics() == logs.LogStatistics(lines=2, dropped=0, waiting_bytes=0)


def test_a_field_without_a_value_is_left_out() -> None:
    log, recording = recorded()
    log.emit("join", nick=None, room="lobby", text="")
    assert recording.records == [("join", {"room": "lobby", "text": ""})]


def test_unknown_names_and_fields_are_refused() -> None:
    log, recording = recorded()
    with pytest.raises(KeyError):
        log.emit("conect")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(KeyError):
        log.output.enabled["conect"]  # type: ignore[index]  # what is tested
    with pytest.raises(KeyError, match="token"):
        log.emit("auth", token="t")  # type: ignore[call-arg]  # what is tested
    with pytest.raises(KeyError, match="token"):
        log.bind(token="t")  # type: ignore[call-arg]  # what is tested
    assert not recording.lines


def test_the_level_changes_while_the_log_is_in_use() -> None:
    log, recording = recorded(level="warning")
    assert log.output.level == "warning"
    log.emit("connect")
    log.emit("warning", detail="90 % full")
    assert not log.output.enabled["connect"]
    log.output.level = "info"
    assert log.output.enabled["connect"]
    log.emit("connect")
    assert [name for name, _ in recording.records] == ["warning", "connect"]


def test_addresses_are_masked_as_set_also_live() -> None:
    log, recording = recorded(addresses="prefix")
    log.emit("connect", address="203.0.113.7")
    log.output.addresses = "off"
    log.emit("connect", address="203.0.113.7", nick="ann")
    assert [fields for _, fields in recording.records] == [
        {"address": "203.0.113.0/24"},
        {"nick": "ann"},
    ]


def test_a_megabyte_in_every_field_is_a_short_line() -> None:
    log, recording = recorded()
    log.emit("message", nick="\r\n" * 500_000, text="\u2028" * 1_000_000)
    assert len(recording.lines[0]) < 20_000
    assert recording.lines[0].count(b"\n") == 1


def test_a_bound_log_adds_its_fields_to_each_line() -> None:
    log, recording = recorded()
    bound = log.bind(connection="c1", nick="ann")
    renamed = bound.bind(nick="anna")
    bound.emit("join", room="lobby")
    renamed.emit("leave", room="lobby")
    log.emit("ready")
    assert recording.records == [
        ("join", {"connection": "c1", "nick": "ann", "room": "lobby"}),
        ("leave", {"connection": "c1", "nick": "anna", "room": "lobby"}),
        ("ready", {}),
    ]


def test_a_lines_own_field_wins_over_a_bound_one() -> None:
    log, recording = recorded()
    bound = log.bind(nick="ann", user="u1")
    bound.emit("message", nick="anna", user=None)
    bound.emit("message")
    assert recording.records == [
        ("message", {"nick": "anna"}),
        ("message", {"nick": "ann", "user": "u1"}),
    ]


def test_bound_logs_share_level_and_address_policy() -> None:
    log, recording = recorded()
    bound = log.bind(address="203.0.113.7")
    log.output.addresses = "prefix"
    bound.emit("connect")
    log.output.level = "warning"
    bound.emit("connect")
    assert recording.records == [("connect", {"address": "203.0.113.0/24"})]


def test_the_time_follows_the_clock() -> None:
    recording = Recording()
    times = iter([999, 1000, 1_000_000_001_001])
    log = logs.open_log(sink=recording, now=lambda: next(times))
    for _ in range(3):
        log.emit("ready")
    assert [json.loads(line)["at"] for line in recording.lines] == [
        "1970-01-01T00:00:00.999Z",
        "1970-01-01T00:00:01.000Z",
        "2001-09-09T01:46:41.001Z",
    ]


def test_auto_is_json_on_a_pipe() -> None:
    reading, writing = os.pipe()
    log = logs.open_log(fd=writing, environ={})
    log.emit("ready", seconds=0.25)
    log.output.close()
    os.close(writing)
    assert json.loads(os.read(reading, 1000))["event"] == "ready"
    os.close(reading)


@pytest.mark.parametrize(
    ("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["colours", "none"]
)
def test_auto_is_for_people_on_a_terminal(environ: dict[str, str], coloured: bool) -> None:
    reading, writing = pty.openpty()
    log = logs.open_log(fd=writing, environ=environ)
    log.emit("ready", seconds=0.25)
    line = os.read(reading, 1000)
    log.output.close()
    os.close(writing)
    os.close(reading)
    assert (b"\x1b[" in line) is coloured
    assert b"ready" in line
    assert not line.startswith(b"{")


def test_auto_is_the_journal_where_stderr_leads_to_it(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    status = os.fstat(writing)
    ours = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    journal = tmp_path / "journal"

    def chosen(environ: dict[str, str]) -> type:
        log = logs.open_log(fd=writing, environ=environ, journal=journal)
        log.output.close()
        return type(log.output._sink)

    assert chosen(ours) is sinks.LineStream  # the stream is there, its socket is not
    journal.touch()
    assert chosen(ours) is sinks.Journald
    assert chosen({"JOURNAL_STREAM": "1:2"}) is sinks.LineStream
    os.close(reading)
    os.close(writing)


def test_an_output_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(logs.LogError, match=r"descriptor 987654: Bad file descriptor"):
        logs.open_log(fd=987654, environ={})
    with pytest.raises(logs.LogError, match=r'log.format is "journal", but .*/none does not exist'):
        logs.open_log(format="journal", journal=tmp_path / "none")


async def test_the_task_of_a_log_in_memory_ends_by_itself() -> None:
    log, _ = recorded()
    await log.output.run()
