"""Measure what one `message` line of the log costs, in µs of CPU, by format.

A line is measured from the fields that the fan-out has to the bytes given to the sink, which
throws them away: writing costs the kernel what it costs. The best of many short rounds counts, so
that other work on the machine does not.

    python bench/log_line.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from chatd.logs import Format, Log, open_log

FORMATS: tuple[Format, ...] = ("json", "journal", "console")
LINES = 32  # in one write, as a busy fan-out has them
TEXT = "The build is green again; I am restarting the second worker now."


class Nowhere:
    """A sink that takes everything at once."""

    dropped = 0
    waiting = 0

    def write(self, entries: Sequence[bytes]) -> None:
        pass

    async def run(self) -> None:
        pass

    def close(self, seconds: float) -> None:
        pass


def message_lines(log: Log) -> Callable[[], None]:
    """Return what the fan-out does for the log after one batch of `LINES` messages."""
    bound = log.bind(
        connection="c4f",
        user="gq3p5x7a2m4k6n8r9",
        nick="ann-smith",
        address="203.0.113.77",
        transport="websocket",
        protocol="chatd.v1",
    )

    def write() -> None:
        log.output.write(
            [
                bound.line(
                    "message",
                    room="lobby",
                    seq=123_456,
                    bytes=len(TEXT.encode()),
                    receivers=250,
                    user="gq3p5x7a2m4k6n8r9",
                    nick="ann-smith",
                )
                for _ in range(LINES)
            ]
        )

    return write


def best_us(work: Callable[[], None], rounds: int) -> float:
    """Return the µs of CPU per line in the best of `rounds`."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time_ns()
        for _ in range(20):
            work()
        best = min(best, (time.process_time_ns() - began) / 1000 / 20 / LINES)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a message line of the log costs.")
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    for name in FORMATS:
        log = open_log(format=name, sink=Nowhere())
        print(f"{name:8} {best_us(message_lines(log), rounds):5.2f} µs")


if __name__ == "__main__":
    main()
