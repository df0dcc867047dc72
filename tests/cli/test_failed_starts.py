"""A service's starts that fail come again, more and more slowly."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from chatd.cli.failed_starts import MOST_SECONDS, Failures, interruptible


def service(folder: Path) -> dict[str, str]:
    return {"RUNTIME_DIRECTORY": f"{folder}:/other", "NOTIFY_SOCKET": "@systemd"}


def test_each_failure_waits_longer_up_to_a_limit(tmp_path: Path) -> None:
    waits = [Failures(service(tmp_path)).count() for _ in range(9)]
    assert waits == [0, 1, 2, 4, 8, 16, MOST_SECONDS, MOST_SECONDS, MOST_SECONDS]


def test_forgotten_failures_do_not_count(tmp_path: Path) -> None:
    failures = Failures(service(tmp_path))
    assert [failures.count() for _ in range(3)] == [0, 1, 2]
    failures.forget()
    failures.forget()
    assert failures.count() == 0
    Failures({}).forget()


def test_old_failures_do_not_count(tmp_path: Path) -> None:
    environ = service(tmp_path)
    assert [Failures(environ).count() for _ in range(3)] == [0, 1, 2]
    long_ago = time.time() - 2 * MOST_SECONDS - 1
    os.utime(tmp_path / "failed-starts", (long_ago, long_ago))
    assert Failures(environ).count() == 0


def test_without_systemd_nothing_waits(tmp_path: Path) -> None:
    for environ in ({}, {"RUNTIME_DIRECTORY": str(tmp_path)}, {"NOTIFY_SOCKET": "@systemd"}):
        assert [Failures(environ).count() for _ in range(3)] == [0, 0, 0]


def test_what_cannot_be_counted_waits_long(tmp_path: Path) -> None:
    assert Failures(service(tmp_path / "absent")).count() == MOST_SECONDS
    (tmp_path / "failed-starts").write_text("garbage")
    assert Failures(service(tmp_path)).count() == 0


def test_a_signal_ends_the_wait_in_whichever_thread_it_arrives() -> None:
    handler = signal.getsignal(signal.SIGTERM)

    def strike() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    with interruptible() as wait:
        assert not wait(0)
        thread = threading.Thread(target=strike)
        thread.start()
        thread.join()
        assert wait(60)
    assert signal.getsignal(signal.SIGTERM) is handler
