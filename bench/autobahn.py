"""Run the 301 cases of the Autobahn test suite against chatd's WebSocket.

The suite is a Python 2.7 program. It is installed from PyPI into ``--folder`` the first time::

    python bench/autobahn.py --python python2.7 --folder /tmp/autobahn
    python bench/autobahn.py --python python2.7 --folder /tmp/autobahn --cases '7.*' '10.*'

Prints each case that fails, and exits with 1 if there is one. All of them take some ten minutes,
most of it for ``9.*``, the limits and the throughput.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio

from chatd.logs import open_log
from chatd.model import Close
from chatd.settings import Settings
from chatd.timers import Timers
from chatd.wire import frames
from chatd.wire.listener import open_listeners
from chatd.wire.request import Request
from chatd.wire.routes import Routes
from chatd.wire.server import HttpServer
from chatd.wire.websocket import Receiver, Upgrade, WebSocket

SUITE = "autobahntestsuite==0.8.2"
# The largest message of the suite has 16 MiB, and is echoed.
BYTES = 64 << 20
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}


class Echo:
    """Sends every message back."""

    def __init__(self, websocket: WebSocket) -> None:
        self._outbox = websocket.outbox

    def received(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self._outbox.offer(frames.text(message.encode()))
        else:
            self._outbox.offer(frames.binary(message))

    def goodbye_frames(self, close: Close, reason: str) -> bytes:
        return b""

    def ended(self, close: Close, reason: str) -> None:
        """Nothing ends with it."""


async def open_echo(websocket: WebSocket) -> Receiver:
    return Echo(websocket)


async def upgrade(request: Request) -> Upgrade:
    return Upgrade(None, open_echo, max_message_bytes=BYTES, send_queue_bytes=2 * BYTES)


def install(python: str, folder: Path) -> None:
    pip = [python, "-m", "pip", "install", "--quiet", "--target", str(folder), SUITE]
    subprocess.run(pip, check=True)
    # pip --target leaves the namespace package without the file that makes it one.
    (folder / "zope" / "__init__.py").touch()


async def run(python: str, folder: Path, cases: list[str]) -> int:
    log = open_log(level="warning")
    timers = Timers(log)
    server = HttpServer(Settings(), Routes({"/": {"WEBSOCKET": upgrade}}), log, timers=timers)
    listeners = open_listeners(["127.0.0.1:0"])
    report = folder / "report"
    specification = folder / "fuzzingclient.json"
    url = f"ws://{listeners[0].address}"
    specification.write_text(
        json.dumps(
            {
                "outdir": str(report),
                "servers": [{"agent": "chatd", "url": url}],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        await nursery.start(partial(server.serve, listeners, handlers=nursery))
        wstest = [python, str(folder / "bin" / "wstest"), "-m", "fuzzingclient", "-s"]
        await trio.run_process(
            [*wstest, str(specification)], env=os.environ | {"PYTHONPATH": str(folder)}
        )
        nursery.cancel_scope.cancel()
    results = json.loads((report / "index.json").read_text())["chatd"]
    failed = [
        case
        for case, result in results.items()
        if not {result["behavior"], result["behaviorClose"]} <= PASSED
    ]
    for case in failed:
        print(case, results[case])
    print(f"{len(results)} cases, {len(failed)} failed; {report}/index.html")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="run the Autobahn test suite")
    parser.add_argument("--python", default="python2.7")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"],
    )
    given = parser.parse_args()
    folder = given.folder.resolve()
    if not (folder / "autobahntestsuite").exists():
        install(given.python, folder)
    return trio.run(run, given.python, folder, given.cases)


if __name__ == "__main__":
    sys.exit(main())
