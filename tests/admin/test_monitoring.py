"""The documented queries use existing metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from chatd.testing import open_cluster
from tests.admin.administered import AdministeredDaemon, administered

DOCS = Path(__file__).parents[2] / "docs"
TABLE = (DOCS / "operations.md").read_text("utf-8").partition("\n## Metrics\n")[2]
RULES = (DOCS / "prometheus-alerts.yml").read_text("utf-8")
RULES_TESTED = (DOCS.parent / "tests" / "e2e" / "alerts.test.yml").read_text("utf-8")
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana.json").read_text("utf-8"))

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def names(text: str) -> set[str]:
    return set(re.findall(r"\b(?:chatd|process)_[a-z_]+\b", text))


def under(of: Any, key: str) -> Iterator[Any]:
    """Yield all values under that key, at any depth."""
    if isinstance(of, dict):
        for name, value in of.items():
            if name == key:
                yield value
            yield from under(value, key)
    elif isinstance(of, list):
        for value in of:
            yield from under(value, key)


async def exposed() -> dict[str, tuple[str, set[str]]]:
    """Return type and labels of every metric, by its names in queries."""
    async with administered() as one:
        ann = await one.chat.client("ann")
        await ann.say("hello")
        client = one.dial(one.chat.daemon.server)
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await client.answer())[0] == 400
        alone = await metrics_of(one)
    async with open_cluster(nodes=1) as cluster, trio.open_nursery() as nursery:
        sharing = await metrics_of(AdministeredDaemon(cluster.nodes[0].daemon, nursery))
        nursery.cancel_scope.cancel()
    return {**sharing, **alone}


async def metrics_of(one: AdministeredDaemon) -> dict[str, tuple[str, set[str]]]:
    _, _, body = await one.raw("GET /metrics")
    return {
        metric.name + suffix: (
            metric.type,
            {label for sample in metric.samples for label in sample.labels} - {"le"},
        )
        for metric in text_string_to_metric_families(body.decode())
        for suffix in SUFFIXES[metric.type]
    }


async def test_rules_and_dashboard_ask_for_metrics_that_there_are(
    autojump_clock: MockClock,
) -> None:
    there = set(await exposed())
    queries = json.dumps([*under(DASHBOARD, "expr"), *under(DASHBOARD, "query")])
    for asked in (names(RULES), names(RULES_TESTED), names(queries)):
        assert len(asked) > 10
        assert asked <= there


async def test_the_table_has_every_metric_with_its_type_and_labels(
    autojump_clock: MockClock,
) -> None:
    rows = re.findall(r"^\| `(chatd_\w+)` \| (\w+) \| (.*?)\| ", TABLE, re.MULTILINE)
    told = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    assert len(told) == len(rows)
    assert told == {
        name.removesuffix("_bucket"): metric
        for name, metric in (await exposed()).items()
        if name.startswith("chatd_")
        and not (metric[0] == "histogram" and name.endswith(("_count", "_sum")))
    }


def test_every_rule_says_how_bad_it_is_and_what_to_do_and_is_tested() -> None:
    head, *rules = re.split(r"\n {6}- alert: ", RULES)
    assert "alert:" not in head.replace("alerts", "")
    for rule in rules:
        name = rule.partition("\n")[0]
        assert re.fullmatch(r"Chatd[A-Z]\w+", name)
        assert re.search(r"\n {8}for: \d+[ms]\n", rule)
        assert re.search(r"\n {8}labels: \{severity: (critical|warning)\}\n", rule)
        assert re.search(r'\n {10}summary: "\{\{ \$labels\.instance \}\}: ', rule)
        assert re.search(r"\n {10}description: >-\n {12}\S", rule)
        assert f"""{{alertname="{name}"}}', value: 1""" in RULES_TESTED


def test_the_dashboard_can_be_imported_with_any_data_source() -> None:
    assert {json.dumps(source) for source in under(DASHBOARD, "datasource")} == {
        json.dumps({"type": "prometheus", "uid": "${datasource}"})
    }
    variables = {one["name"]: one["type"] for one in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "instance": "query"}
    used = set(re.findall(r"\$\{?(\w+)", "\n".join(under(DASHBOARD, "expr"))))
    assert used == {"instance", "__rate_interval"}


def test_the_dashboards_panels_are_apart() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 15
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"].endswith(".")
        targets = [target["refId"] for target in panel["targets"]]
        assert targets == sorted(set(targets)) != []
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        assert any(
            before[at] + before[size] <= after[at]
            for before, after in ((one, other), (other, one))
            for at, size in (("x", "w"), ("y", "h"))
        )
