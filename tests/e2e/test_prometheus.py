"""Debian's Prometheus beside the service: what the documentation gives, in its own hands."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.sandbox import (
    ROOT,
    Sandbox,
    SandboxError,
    WheelsError,
    build_wheel,
    fetch_wheels,
    why_not,
)
from tests.e2e.service import CONFIGURATION, booted, install, program

PROMETHEUS = "http://127.0.0.1:9090"
PROJECT = "/srv/project"  # in the sandbox
RULES = ROOT / "docs" / "prometheus-alerts.yml"
QUICK = "global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}\n"
READ = """\
import sys, urllib.request
sys.stdout.write(urllib.request.urlopen("http://localhost:3001/metrics").read().decode())
"""
REFUSED = """\
import socket
with socket.create_connection(("localhost", 3000)) as connection:
    connection.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
"""


def documented() -> str:
    """Return the Prometheus configuration from docs/operations.md."""
    (found,) = re.findall(
        r"```yaml\n(rule_files:.*?)```", (ROOT / "docs/operations.md").read_text("utf-8"), re.DOTALL
    )
    return str(found)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Boot a machine with chatd and Prometheus, both as the documentation says."""
    if reason := why_not():
        pytest.skip(reason)
    with booted() as machine:
        try:
            wheels = fetch_wheels(machine.python_version())
            machine.install_packages("prometheus")
        except (WheelsError, SandboxError) as error:
            pytest.skip(str(error).splitlines()[-1])
        # First: it scrapes nothing in its first 5 seconds.
        machine.write("/etc/prometheus/chatd-alerts.yml", RULES.read_text("utf-8"))
        machine.write("/etc/prometheus/prometheus.yml", QUICK + documented())
        machine.run("systemctl", "restart", "prometheus")
        install(machine, wheels, build_wheel(wheels, tmp_path_factory.mktemp("wheel")))
        machine.write(CONFIGURATION, '[metrics]\nlisten = "localhost:3001"\n')
        machine.run("systemctl", "start", "chatd")
        machine.copy_in(RULES, f"{PROJECT}/docs")
        machine.copy_in(Path(__file__).with_name("alerts.test.yml"), f"{PROJECT}/tests/e2e")
        yield machine


def becomes(machine: Sandbox, wanted: Mapping[str, str]) -> None:
    """Wait until Prometheus answers each query so."""
    words = [word for pair in wanted.items() for word in pair]
    machine.client(*program("ask_prometheus", PROMETHEUS, *words))


def test_promtool_finds_the_configuration_and_the_rules_sound(machine: Sandbox) -> None:
    said = machine.run("promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    assert "1 rule files found" in said
    machine.run("promtool", "check", "rules", "--lint-fatal", f"{PROJECT}/docs/{RULES.name}")


def test_each_alert_fires_when_it_should(machine: Sandbox) -> None:
    said = machine.run("promtool", "test", "rules", f"{PROJECT}/tests/e2e/alerts.test.yml")
    assert "SUCCESS" in said


def test_promtool_has_no_complaint_about_the_exposition(machine: Sandbox) -> None:
    machine.run("sh", "-c", 'python3 -c "$0" >/tmp/metrics', READ)
    assert "chatd_ready 1.0" in machine.run("cat", "/tmp/metrics")
    said = machine.run("sh", "-c", "promtool check metrics </tmp/metrics 2>&1")
    assert said == ""


def test_prometheus_scrapes_a_running_daemon(machine: Sandbox) -> None:
    for text in ("one", "two"):
        machine.client(*program("text_client", "ws://localhost:3000/?nick=ann", text))
    becomes(
        machine,
        {
            'up{job="chatd"}': "1",
            "chatd_ready": "1",
            'chatd_commands_total{command="say"}': "2",
            "chatd_events_total": "2",
        },
    )


def test_every_query_of_the_dashboard_gives_something(machine: Sandbox) -> None:
    machine.client(sys.executable, "-c", REFUSED)
    panels = json.loads((ROOT / "docs" / "grafana.json").read_text("utf-8"))["panels"]
    own = [panel for panel in panels if not panel["title"].startswith("Shared store")]
    queries = [target["expr"] for panel in own for target in panel["targets"]]
    asked = {
        query.replace("$instance", ".+").replace("$__rate_interval", "1m").removesuffix(" > 0"): "-"
        for query in queries
    }
    becomes(machine, asked)


def test_prometheus_has_loaded_the_rules_and_heeds_them(machine: Sandbox) -> None:
    loaded = json.loads(machine.client(*program("ask_prometheus", PROMETHEUS)))
    assert loaded == re.findall(r"- alert: (\w+)", RULES.read_text("utf-8"))
    machine.run("systemctl", "stop", "chatd")
    becomes(machine, {'ALERTS{alertname="ChatdDown", alertstate="pending"}': "1"})
    machine.run("systemctl", "start", "chatd")
    becomes(machine, {'ALERTS{alertname="ChatdDown"} or vector(0)': "0", 'up{job="chatd"}': "1"})
