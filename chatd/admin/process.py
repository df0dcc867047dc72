"""Metrics of the process, under the names that all Prometheus client libraries use.

The library's own collector reads /proc/stat, which the systemd unit hides (``ProcSubset=pid``), and
then reports nothing at all.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

__all__ = ["Process"]

_SELF: Final = Path("/proc/self")
_PAGE_BYTES: Final = resource.getpagesize()


class Process:
    """A collector, to be made when the process starts."""

    def __init__(self) -> None:
        self._began = time.time()

    def collect(self) -> Iterator[Metric]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "User and system CPU time spent in seconds.",
            usage.ru_utime + usage.ru_stime,
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "Start time of the process since the Unix epoch in seconds.",
            self._began,
        )
        yield GaugeMetricFamily(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
        try:
            virtual, resident = (_SELF / "statm").read_text().split()[:2]
            open_fds = len(os.listdir(_SELF / "fd"))  # noqa: PTH208  with 10,000 of them it counts
        except OSError:  # no /proc, or no descriptor left to read it by
            return
        yield GaugeMetricFamily(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            int(virtual) * _PAGE_BYTES,
        )
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            int(resident) * _PAGE_BYTES,
        )
        yield GaugeMetricFamily("process_open_fds", "Number of open file descriptors.", open_fds)
