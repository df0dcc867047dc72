"""Compare the instructions of four operations with those that are stored in guard.json.

They are counted by callgrind as in instructions.py, in fewer series and in one daemon, so that it
takes about half a minute. On a machine that is too busy for that it gives up after 150 seconds, and
compares nothing. Two runs differ by 1 %. More than 5 % is reported; more
than 10 % fails. The counts belong to one build of Python: with another one nothing is compared.

    python bench/guard.py            # exits with 1 if an operation takes over 10 % more
    python bench/guard.py --store    # when a change is worth what it costs, or has made it cheaper
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import NoReturn

from instructions import Counter, connected, connecting, saying, server
from members import add_members
from receivers import BenchError
from servers import BENCH, ServerError, running

STORED = BENCH / "guard.json"
REPORTED, FAILS = 1.05, 1.10
RECEIVERS = 20
SERIES, TIMES, WARM_UP = 4, 20, 30
JOINS = 5
LIMIT_SECONDS = 150


class TooBusyError(Exception):
    """The machine has so much other work that counting takes too long."""


def give_up(*_: object) -> NoReturn:
    raise TooBusyError


def measure(checkout: Path) -> dict[str, int]:
    """Return the instructions of each operation."""
    figures: dict[str, float] = {}
    with running(server(checkout), None) as daemon:
        counter, port = Counter(daemon), daemon.port
        with connected("text", port, 0) as members:
            figures["text: connect and join"] = counter.count(
                JOINS, connecting(members, "text", port, "hall"), series=SERIES, warm_up=WARM_UP
            )
        with connected("socketio", port, 1, "den") as members:
            figures["socketio: in and out"] = counter.count(
                TIMES, saying(members, "socketio", "den"), series=SERIES, warm_up=WARM_UP
            )
        with connected("json", port, 1) as members:
            figures["json: in and out"] = counter.count(
                TIMES, saying(members, "json", "alone"), series=SERIES, warm_up=WARM_UP
            )
            add_members(members, "json", port, RECEIVERS - 1)
            figures[f"json: fan-out to {RECEIVERS}"] = counter.count(
                TIMES // 2, saying(members, "json", "many"), series=SERIES, warm_up=WARM_UP // 2
            )
    return {name: round(count) for name, count in figures.items()}


def compare(stored: dict[str, int], measured: dict[str, int]) -> bool:
    """Print the ratios; return False if one is too high."""
    passed = True
    print(f"{'instructions':26}{'stored':>12}{'now':>12}{'ratio':>8}")
    for name, now in measured.items():
        before = stored.get(name)
        if before is None:
            print(f"{name:26}{'-':>12}{now:12,}")
            continue
        ratio = now / before
        remark = ""
        if ratio > FAILS:
            passed, remark = False, "  more than 10 % more: find out why, or run with --store"
        elif ratio > REPORTED:
            remark = "  more than 5 % more"
        print(f"{name:26}{before:12,}{now:12,}{ratio:8.3f}{remark}")
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare instructions with those stored.")
    parser.add_argument("--store", action="store_true", help="store the counts of now")
    given = parser.parse_args()
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    if not given.store and stored.get("python") != sys.version:
        print(
            "guard: skipped: the counts in bench/guard.json are of another build of Python. "
            "`make guard ARGS=--store` replaces them by those of this one."
        )
        return 0
    if shutil.which("valgrind") is None:
        print("guard: skipped: Valgrind is not installed (Debian: apt install valgrind).")
        return 0
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_SECONDS)
    try:
        measured = measure(BENCH.parent)
    except TooBusyError:
        print(f"guard: skipped: after {LIMIT_SECONDS} s it was not done: the machine is too busy.")
        return 1 if given.store else 0
    except (BenchError, ServerError) as error:
        print(f"guard: {error}", file=sys.stderr)
        return 1
    finally:
        signal.alarm(0)
    passed = compare(stored.get("instructions", {}), measured)
    if given.store:
        written = json.dumps({"python": sys.version, "instructions": measured}, indent=2)
        STORED.write_text(written + "\n", encoding="utf-8")
        return 0
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
