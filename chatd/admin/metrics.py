"""Metrics for Prometheus, read from the rooms' ``statistics()`` at each scrape.

Names and units follow Prometheus' conventions: base units, ``_total`` for what only grows. Clients
cannot choose the value of any label, and series whose labels are known exist from the start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias, get_args

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from chatd import __version__
from chatd.admin.control import DaemonControl
from chatd.admin.process import Process
from chatd.chat import ChatStatistics
from chatd.histogram import Histogram, HistogramStatistics
from chatd.journal.shared import SharedJournal
from chatd.model import CLOSES, ErrorCode
from chatd.wire.request import Request, Response

__all__ = ["Metrics"]

_PREFIX: Final = "chatd_"

KINDS: Final = (
    ("websocket", "text"),
    ("websocket", "chatd.v1"),
    ("websocket", "socket.io"),
    ("polling", "socket.io"),
    ("sse", "http"),
)
"""The combinations of transport and protocol that exist."""

Values: TypeAlias = float | Iterable[tuple[tuple[str, ...], float]]
"""The value of a metric without labels, or a value for each set of labels."""


class Metrics(Collector):
    """Answers ``GET /metrics``. ``lag`` is how late the event loop is, in seconds."""

    def __init__(self, control: DaemonControl, lag: Histogram) -> None:
        self._control = control
        self._lag = lag
        self._process = Process()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    async def __call__(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.header("accept") or "")
        return Response(200, encode(self._registry), content_type)

    def collect(self) -> Iterator[Metric]:
        control, log = self._control, self._control.log.output.statistics()
        version = [((__version__,), 1)]
        yield _gauge("build_info", "The running version.", version, "version")
        yield _gauge("ready", "1 while new clients are accepted, as /readyz says.", control.ready)
        yield from self._clients(control.chat.statistics())
        yield from self._wire()
        yield from self._bus()
        yield from self._store()
        yield from self._cluster()
        lag = self._lag.statistics()
        yield _histogram(
            "event_loop_lag_seconds",
            "How late the event loop was, measured every two seconds.",
            lag,
        )
        yield _counter("log_lines", "Log lines.", log.lines)
        dropped = "Log lines dropped because their reader was too slow."
        yield _counter("log_lines_dropped", dropped, log.dropped)
        yield _gauge("log_queue_bytes", "Bytes that wait for the log's reader.", log.waiting_bytes)
        yield from self._process.collect()

    def _clients(self, chat: ChatStatistics) -> Iterator[Metric]:
        connections = {**dict.fromkeys(KINDS, 0), **chat.connections}.items()
        says = "Open chat connections, by transport and protocol."
        yield _gauge("connections", says, connections, "transport", "protocol")
        yield _gauge("users", "Users who are connected or whose nick is reserved.", chat.users)
        yield _gauge("rooms", "Rooms that have members.", chat.rooms)
        yield _gauge("send_queue_bytes", "Bytes that wait for clients, all together.", chat.waiting)
        says = "Opening handshakes that are held back, because many clients are coming in."
        yield _gauge("arrivals_waiting", says, self._control.chat.arrivals.waiting)
        commands = (((name,), count) for name, count in chat.commands.items())
        says = "Commands from clients, carried out or refused; say counts messages."
        yield _counter("commands", says, commands, "command")
        codes = {**dict.fromkeys(get_args(ErrorCode), 0), **chat.refusals}
        refusals = (((code,), count) for code, count in codes.items())
        yield _counter("refusals", "Refused commands, by error code.", refusals, "code")
        says = "Refused commands, by command and error code; unknown: no command of the chat."
        refused = {("unknown", "bad_request"): 0, **chat.refused_commands}.items()
        yield _counter("commands_refused", says, refused, "command", "code")
        closes = (
            ((str(code), close.name), chat.closes.get(code, 0)) for code, close in CLOSES.items()
        )
        says = "Ended chat connections, by close code."
        yield _counter("closes", says, closes, "code", "reason")

    def _wire(self) -> Iterator[Metric]:
        http, engine = self._control.http(), self._control.engine()
        yield _gauge("http_connections", "Open connections to the public port.", http.open)
        limit = self._control.chat.settings.limits.connections
        says = "The limit: limits.connections, or what the file descriptors allow."
        yield _gauge("http_connections_limit", says, limit)
        yield _counter("http_connections_accepted", "Connections accepted.", http.accepted)
        says = "When the TLS certificate expires, as a Unix time; +Inf without one."
        yield _gauge("tls_certificate_expiration_timestamp_seconds", says, http.expires)
        says = "Connections closed without an answer, far above a limit."
        yield _counter("http_connections_turned_away", says, http.turned_away)
        refused = (((str(status),), count) for status, count in http.refused.items())
        yield _counter("http_refusals", "Refused requests, by status.", refused, "status")
        sessions = [(("polling",), engine.polling), (("websocket",), engine.websocket)]
        yield _gauge("engineio_sessions", "Open sessions, by transport.", sessions, "transport")
        yield _counter("engineio_sessions_opened", "Sessions opened.", engine.opened)
        refused = (((reason,), count) for reason, count in engine.refused.items())
        yield _counter("engineio_refusals", "Refused requests, by reason.", refused, "reason")

    def _bus(self) -> Iterator[Metric]:
        bus = self._control.chat.bus.statistics()
        yield _counter("events", "Events committed and fanned out, mostly messages.", bus.events)
        yield _counter("deliveries", "Events times the connections they went to.", bus.deliveries)
        says = "Duration of a batch's commit to the store; the count is the number of batches."
        yield _histogram("commit_seconds", says, bus.commit_seconds)
        says = "Batches that the store did not confirm."
        yield _counter("commits_failed", says, bus.failed_commits)
        says = "Duration of passing a committed batch to all queues and sockets."
        yield _histogram("fanout_seconds", says, bus.fanout_seconds)
        yield _gauge("bus_queue_events", "Events that wait to be committed.", bus.waiting)
        says = "How long the current batch has taken so far; 0 if there is none."
        yield _gauge("bus_busy_seconds", says, bus.busy)

    def _store(self) -> Iterator[Metric]:
        store = self._control.chat.journal.statistics()
        yield _gauge("store_bytes", "Size of the store in use, when last measured.", store.bytes)
        limit = self._control.chat.settings.history.max_bytes
        says = "history.max_bytes, above which the oldest events are deleted; +Inf if off."
        yield _gauge("store_limit_bytes", says, math.inf if limit == "off" else limit)
        yield _gauge("store_wal_bytes", "Size of the write-ahead log.", store.log_bytes)
        says = "How long a reader has kept the write-ahead log from being emptied; 0 if none does."
        yield _gauge("store_wal_held_seconds", says, store.log_held_seconds)
        says = "How far the wall clock jumped ahead without being confirmed; 0 if it is trusted."
        yield _gauge("clock_jump_seconds", says, store.clock_jump_seconds)
        yield _counter("store_events_removed", "Events deleted by retention.", store.swept)
        says = "Messages sent again with a key that was already stored."
        yield _counter("duplicates", says, store.duplicates)
        says = "1 while commits run in a thread, because the disk is slow or durability is fsync."
        yield _gauge("store_threaded", says, store.threaded)

    def _cluster(self) -> Iterator[Metric]:
        journal = self._control.chat.journal
        if not isinstance(journal, SharedJournal):
            return
        says = "1 while the shared store can be used."
        yield _gauge("store_usable", says, journal.in_place)
        says = "How often the shared store was lost, and entered again."
        yield _counter("store_reconnects", says, journal.reconnects)
        says = "Positions that this daemon had read, and that the shared store has lost."
        yield _counter("store_lost_positions", says, journal.lost_positions)
        says = "Entries of the feed that this daemon had not read at its last sign of life."
        yield _gauge("feed_lag_entries", says, journal.lag)
        says = "How often rooms were read anew, because this daemon had been away for too long."
        yield _counter("feed_resyncs", says, journal.resyncs)
        says = (
            "Entries of the feed left out, because only a newer version of chatd knows their kind."
        )
        yield _counter("feed_unknown_entries", says, journal.unknown)
        says = "How often data of the shared store were found that somebody had changed by hand."
        damaged = journal.damage.found + self._control.chat.damage.found
        yield _counter("store_damaged", says, damaged)
        offset = (self._control.chat.now() - journal.steady_now()) / 1000
        says = "How far this machine's clock is ahead of the shared store's."
        yield _gauge("store_clock_offset_seconds", says, offset)
        if (condition := journal.condition) is not None:
            says = "Memory that the shared store's server uses, when last asked."
            yield _gauge("store_memory_bytes", says, condition.memory)
            says = "The server's maxmemory; +Inf without one."
            yield _gauge("store_memory_limit_bytes", says, condition.memory_limit)
            says = "Replicas that are connected to the shared store's server, when last asked."
            yield _gauge("store_replicas", says, condition.replicas)
        needed = self._control.chat.settings.history.replicas
        says = "history.replicas: how many of them must confirm each message."
        yield _gauge("store_replicas_needed", says, needed)
        says = "How long replicas took to confirm what was then shown."
        yield _histogram("store_proof_seconds", says, journal.proof_seconds)


def _gauge(name: str, says: str, values: Values, *labels: str) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, says, labels=labels)
    for label, value in _samples(values):
        family.add_metric(label, value)
    return family


def _counter(name: str, says: str, values: Values, *labels: str) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, says, labels=labels)
    for label, value in _samples(values):
        family.add_metric(label, value)
    return family


def _samples(values: Values) -> Iterable[tuple[tuple[str, ...], float]]:
    return [((), float(values))] if isinstance(values, float | int) else values


def _histogram(name: str, says: str, observed: HistogramStatistics) -> Metric:
    bounds = [*map(repr, observed.bounds), "+Inf"]
    buckets = list(zip(bounds, map(float, observed.counts), strict=True))
    return HistogramMetricFamily(_PREFIX + name, says, buckets=buckets, sum_value=observed.sum)
