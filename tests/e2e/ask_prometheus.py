"""Ask a Prometheus until it gives these answers: ``ask_prometheus.py URL [QUERY VALUE]…``.

A VALUE of ``-`` is any. ``ask_prometheus.py URL`` prints the names of the rules that it has loaded
and that work, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.parse
import urllib.request
from typing import Any

LIMIT_SECONDS = 60  # a limit of a hang


def ask(url: str, path: str, **query: str) -> Any:
    asked = f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(asked, timeout=LIMIT_SECONDS) as answer:
        return json.load(answer)["data"]


def wait(url: str, query: str, value: str) -> None:
    ends = time.monotonic() + LIMIT_SECONDS
    values: list[str] = []
    while time.monotonic() < ends:
        values = [one["value"][1] for one in ask(url, "query", query=query)["result"]]
        if values == [value] or (values and value == "-"):
            return
        time.sleep(0.05)  # Prometheus scrapes on its own schedule and sends no notification
    sys.exit(f"{query} never was {value}, but {values}")


def main(url: str, *wanted: str) -> None:
    if not wanted:
        rules = [rule for group in ask(url, "rules")["groups"] for rule in group["rules"]]
        print(json.dumps([rule["name"] for rule in rules if rule["health"] == "ok"]))  # noqa: T201
    for query, value in zip(wanted[::2], wanted[1::2], strict=True):
        wait(url, query, value)


if __name__ == "__main__":
    main(*sys.argv[1:])
