"""The exposition: sound by Prometheus' own parser, named by its conventions, and true."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from chatd import client
from chatd.settings import History, Limits, Settings
from chatd.wire.tls import tls_context
from tests.admin.administered import Administered, administered
from tests.wire.certificates import issue

# https://prometheus.io/docs/practices/naming/: base units, and _total for counters.
UNITS = ("_seconds", "_bytes")


async def families(one: Administered) -> dict[str, Metric]:
    status, headers, body = await one.raw("GET /metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    return {metric.name: metric for metric in text_string_to_metric_families(body.decode())}


def value(metrics: dict[str, Metric], name: str, /, **labels: str) -> float:
    (found,) = (
        sample.value
        for metric in metrics.values()
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
    return found


async def test_every_metric_is_named_and_explained_as_prometheus_asks(
    autojump_clock: MockClock,
) -> None:
    async with administered() as one:
        ann = await one.chat.client("ann")
        await ann.say("hello")
        metrics = await families(one)
    assert len(metrics) > 30
    for name, metric in metrics.items():
        assert re.fullmatch(r"(chatd|process)_[a-z0-9_]+", name)
        assert metric.documentation.endswith(".")
        assert metric.type in ("gauge", "counter", "histogram")
        assert not name.endswith(
            ("_count", "_sum", "_bucket", "_ms", "_milliseconds", "_kilobytes")
        )
        for unit in ("seconds", "bytes"):
            # A unit stands last.
            assert f"_{unit}_" not in f"{name}_" or name.endswith(f"_{unit}")
        for sample in metric.samples:
            if metric.type == "counter":
                assert sample.name == f"{name}_total"
        if metric.type == "histogram":
            assert name.endswith(UNITS)
            counts = [sample.value for sample in metric.samples if sample.name.endswith("_bucket")]
            assert counts == sorted(counts)


async def test_what_is_asked_for_as_openmetrics_comes_so(autojump_clock: MockClock) -> None:
    async with administered() as one:
        raw = one.dial()
        await raw.send(
            b"GET /metrics HTTP/1.1\r\nHost: chatd\r\n"
            b"Accept: application/openmetrics-text; version=1.0.0\r\n\r\n"
        )
        status, headers, body = await raw.answer()
    assert status == 200
    assert headers["content-type"].startswith("application/openmetrics-text")
    parsed = openmetrics.text_string_to_metric_families(body.decode())  # type: ignore[no-untyped-call]
    assert "chatd_events" in {metric.name for metric in parsed}


async def test_the_metrics_match_the_events(autojump_clock: MockClock) -> None:
    limits = Limits(messages_per_second=1, messages_burst=2)
    async with administered(Settings(limits=limits)) as one:
        before = await families(one)
        # All known label values exist from the start, at zero.
        assert value(before, "chatd_refusals_total", code="rate_limited") == 0
        assert value(before, "chatd_closes_total", code="4001", reason="too_slow") == 0
        assert value(before, "chatd_connections", transport="websocket", protocol="text") == 0
        ann = await one.chat.client("ann")
        await one.chat.client("bob", "polling")
        tom = await one.chat.client("tom", "text")
        for text in ("one", "two"):
            await ann.say(text)
        with pytest.raises(client.Refused, match="rate_limited"):
            await ann.say("three")
        await tom.aclose()
        await one.chat.wait_idle()
        after = await families(one)
        kinds = {
            (sample.labels["transport"], sample.labels["protocol"]): sample.value
            for sample in after["chatd_connections"].samples
        }
        assert kinds == {
            ("websocket", "text"): 0,
            ("websocket", "chatd.v1"): 1,
            ("websocket", "socket.io"): 0,
            ("polling", "socket.io"): 1,
            ("sse", "http"): 0,
        }
        assert value(after, "chatd_commands_total", command="say") == 3
        assert value(after, "chatd_events_total") == 2
        assert value(after, "chatd_deliveries_total") == 6
        assert value(after, "chatd_refusals_total", code="rate_limited") == 1
        assert value(after, "chatd_closes_total", code="1000") == 1
        assert value(after, "chatd_commit_seconds_count") >= 2
        assert value(after, "chatd_fanout_seconds_count") == 2
        assert value(after, "chatd_ready") == 1
        assert value(after, "chatd_log_lines_total") == len(one.chat.log.lines)
        assert value(after, "chatd_store_bytes") >= 0
        assert value(after, "process_open_fds") > 2
        assert value(after, "process_resident_memory_bytes") > 1 << 20
        one.stop.set()
        assert value(await families(one), "chatd_ready") == 0


async def test_what_waits_for_clients_is_counted(autojump_clock: MockClock) -> None:
    limits = Limits(messages_per_second="off", messages_burst="off", bytes_per_second="off")
    async with administered(Settings(limits=limits)) as one:
        ann, bob = await one.chat.client("ann"), await one.chat.client("bob")
        one.chat.stall(bob)
        for _ in range(20):
            await ann.say("x" * 10_000)
        await one.chat.wait_idle()
        assert value(await families(one), "chatd_send_queue_bytes") > 50_000
        one.chat.unstall(bob)
        await bob.texts(20)
        assert value(await families(one), "chatd_send_queue_bytes") == 0


async def test_no_label_holds_what_a_client_chose(autojump_clock: MockClock) -> None:
    async with administered() as one:
        ann = await one.chat.client("ann-chosen", room="room-chosen")
        await ann.say("text-chosen")
        with pytest.raises(client.Refused):
            await ann.history("nothing-chosen")
        status, _, body = await one.raw("GET /metrics")
        assert status == 200
        assert b"chosen" not in body
        await trio.lowlevel.checkpoint()


EXPIRES = "chatd_tls_certificate_expiration_timestamp_seconds"


async def test_when_the_certificate_in_use_expires(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with administered() as one:
        for year in (2030, 2031):
            expires = datetime(year, 1, 1, tzinfo=UTC)
            one.chat.daemon.server.tls = tls_context(issue(tmp_path, expires=expires))
            assert value(await families(one), EXPIRES) == expires.timestamp()


async def test_what_has_a_limit_stands_beside_it_and_a_reload_moves_it(
    autojump_clock: MockClock,
) -> None:
    async with administered(Settings(limits=Limits(connections=7))) as one:
        metrics = await families(one)
        assert value(metrics, "chatd_http_connections_limit") == 7
        assert value(metrics, "chatd_store_limit_bytes") == 2 << 30
        assert value(metrics, EXPIRES) == math.inf
        changed = Settings(limits=Limits(connections=9), history=History(max_bytes="off"))
        one.chat.daemon.apply(changed)
        metrics = await families(one)
        assert value(metrics, "chatd_http_connections_limit") == 9
        assert value(metrics, "chatd_store_limit_bytes") == math.inf
