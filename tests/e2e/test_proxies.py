"""Debian's nginx, haproxy and Caddy before the service, with the shipped configurations."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
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
from tests.e2e.service import CONFIGURATION, booted, copy_examples, install, run_documented

CLIENT = "192.0.2.1"
UNIX = "unix:/run/chatd/chat.sock"
TCP = "127.0.0.1:3000"
SOCKETS = [("--socket", f"/run/chatd-{number}/admin.sock") for number in (1, 2, 3)]
FORGING = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    "Origin": "http://evil.example",
    "X-Forwarded-For": "198.51.100.1",
    "X-Forwarded-Host": "evil.example",
    "Forwarded": "for=198.51.100.1;host=evil.example",
}
ASK = """\
import http.client, json, sys
connection = http.client.HTTPConnection(sys.argv[1])
connection.request("GET", "/ws", headers=json.loads(sys.argv[2]))
print(connection.getresponse().status)
"""
FOLLOW = """\
import http.client, json, sys
def ask(method, body=None, headers={}):
    connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
    connection.request(method, "/rooms/streams?nick=follower", body, headers)
    return connection.getresponse()
stream = ask("GET", headers={"Accept": "text/event-stream"})
assert stream.status == 200, stream.status
for text in ("one", "two"):
    assert ask("POST", text).status == 201
    # Each event is there before the next message is said.
    while not (line := stream.readline()).startswith(b"data: "):
        assert line
    print(json.loads(line[6:])["text"])
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Boot a machine with chatd and the proxies; its clients have their own address."""
    if reason := why_not():
        pytest.skip(reason)
    with booted() as machine:
        try:
            wheels = fetch_wheels(machine.python_version())
            machine.install_packages("nginx", "haproxy", "caddy", "redis-server")
        except (WheelsError, SandboxError) as error:
            pytest.skip(str(error).splitlines()[-1])
        install(machine, wheels, build_wheel(wheels, tmp_path_factory.mktemp("wheel")))
        machine.run("ip", "address", "add", f"{CLIENT}/32", "dev", "lo")
        machine.run("systemctl", "stop", "nginx", "haproxy", "caddy")
        yield machine


def serve(machine: Sandbox, listen: str, trusted: Sequence[str] = ("unix",)) -> None:
    hosts = json.dumps([CLIENT])
    machine.write(
        CONFIGURATION,
        f'[listen]\naddresses = ["{listen}"]\n'
        f"[http]\nhosts = {hosts}\ntrusted_proxies = {json.dumps(trusted)}\n"
        # Each proxy begins with an empty room, where the nicks are free.
        '[history]\nstore = "memory"\n',
    )
    machine.run("systemctl", "restart", "chatd")


def nginx(machine: Sandbox, upstream: str) -> str:
    text = (ROOT / "config" / "nginx.conf.example").read_text(encoding="utf-8")
    assert f"server {UNIX};" in text
    text = text.replace(f"server {UNIX};", f"server {upstream};")
    machine.write("/etc/nginx/conf.d/chatd.conf", text.replace("chat.example.org", CLIENT))
    machine.run("rm", "--force", "/etc/nginx/sites-enabled/default")
    machine.run("nginx", "-t", "-q")
    machine.run("systemctl", "restart", "nginx")
    return f"{CLIENT}:80"


def haproxy(machine: Sandbox, way: str) -> str:
    text = (ROOT / "config" / "haproxy.cfg.example").read_text(encoding="utf-8")
    assert "send-proxy-v2" in text
    if way == "v1":
        text = text.replace("send-proxy-v2", "send-proxy")
    machine.write("/etc/haproxy/haproxy.cfg", text)
    machine.run("haproxy", "-c", "-q", "-f", "/etc/haproxy/haproxy.cfg")
    machine.run("systemctl", "restart", "haproxy")
    return f"{CLIENT}:80" if way == "http" else f"{CLIENT}:8080"


def caddy(machine: Sandbox, upstream: str) -> str:
    text = (ROOT / "config" / "Caddyfile.example").read_text(encoding="utf-8")
    assert "\nchat.example.org {" in text
    assert " unix//run/chatd/chat.sock {" in text
    # Without TLS: no authority gives a certificate here.
    text = text.replace("\nchat.example.org {", f"\nhttp://{CLIENT} {{")
    text = text.replace(" unix//run/chatd/chat.sock {", f" {upstream} {{")
    machine.write("/etc/caddy/Caddyfile", text)
    machine.run("systemctl", "restart", "caddy")
    return f"{CLIENT}:80"


@pytest.fixture(
    scope="module",
    params=[
        *("nginx-unix", "nginx-tcp", "haproxy-http", "haproxy-v2", "haproxy-v1"),
        *("caddy-unix", "caddy-tcp"),
    ],
)
def proxy(machine: Sandbox, request: pytest.FixtureRequest) -> Iterator[str]:
    """Put one of the proxies before the daemon; return its address."""
    name, way = str(request.param).split("-")
    unix = way in ("unix", "http")
    serve(machine, UNIX if unix else TCP, ["unix"] if unix else ["127.0.0.1"])
    if name == "nginx":
        yield nginx(machine, UNIX if unix else TCP)
    elif name == "caddy":
        yield caddy(machine, "unix//run/chatd/chat.sock" if unix else TCP)
    else:
        yield haproxy(machine, way)
    machine.run("systemctl", "stop", "chatd", name)


def program(name: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, str(Path(__file__).with_name(name)), *words)


def test_clients_come_through_with_their_address(machine: Sandbox, proxy: str) -> None:
    said = machine.client(*program("text_client.py", f"ws://{proxy}/?nick=ann", "by websocket"))
    assert json.loads(said.splitlines()[-1]) == "ann: by websocket"
    for transport in ("polling", "websocket"):
        words = (f"http://{proxy}", transport, f"by {transport}", transport)
        said = machine.client(*program("socketio_client.py", *words))
        assert json.loads(said)["ok"]["room"] == "lobby"
    for nick, transport in (
        ("ann", "websocket"),
        ("polling", "polling"),
        ("websocket", "websocket"),
    ):
        told = machine.journal(f"CHATD_NICK={nick}", f"CHATD_TRANSPORT={transport}")
        assert {entry["CHATD_ADDRESS"] for entry in told} == {CLIENT}
        assert "message" in {entry["CHATD_EVENT"] for entry in told}
    this_daemon = f"_PID={machine.properties('chatd', 'MainPID')['MainPID']}"
    assert machine.journal(this_daemon, "CHATD_EVENT=ready") != []
    complaints = machine.journal(this_daemon, "PRIORITY=3", "PRIORITY=4")
    # On a busy machine a commit may be slow.
    assert [entry for entry in complaints if entry["CHATD_EVENT"] != "store"] == []


def test_event_streams_come_through(machine: Sandbox, proxy: str) -> None:
    said = machine.client(sys.executable, "-c", FOLLOW, proxy)
    assert said.split() == ["one", "two"]
    told = machine.journal("CHATD_TRANSPORT=sse", "CHATD_EVENT=connect")
    assert told[-1]["CHATD_ADDRESS"] == CLIENT
    posted = machine.journal("CHATD_TRANSPORT=http", "CHATD_EVENT=message")
    assert {entry["CHATD_ADDRESS"] for entry in posted} == {CLIENT}


def test_what_a_client_forges_is_not_believed(machine: Sandbox, proxy: str) -> None:
    # Were its host believed, its page would be the server's own.
    said = machine.client(sys.executable, "-c", ASK, proxy, json.dumps(FORGING))
    assert said.strip() == "403"
    [refused] = machine.journal("CHATD_STATUS=403")[-1:]
    assert refused["CHATD_ADDRESS"] == CLIENT
    assert refused["CHATD_HOST"] == proxy.removesuffix(":80")


# ---- several nodes on one machine


@pytest.fixture
def instances(machine: Sandbox) -> Iterator[str]:
    """Run three nodes behind one port as the documentation says; return its address."""
    machine.run("systemctl", "stop", "nginx", "haproxy", "caddy")  # the last of them may still run
    copy_examples(machine)
    machine.run("ln", "-sf", "/opt/chatd/bin/chatd", "/usr/local/bin/chatd")
    variables = {
        "ADDRESS": "",
        "NAME": CLIENT,
        "PASSWORD": "of-the-nodes",
        "ADMIN_PASSWORD": "of-the-administrator",
        "REPLICA_PASSWORD": "of-the-replicas",
    }
    for heading in ("### Redis", "## One machine, all cores"):
        run_documented(machine, ROOT / "docs" / "cluster.md", heading, 0, **variables)
    yield f"{CLIENT}:80"
    machine.run("systemctl", "disable", "--now", "chatd@1", "chatd@2", "chatd@3")
    machine.run("systemctl", "stop", "haproxy")


def test_three_nodes_on_one_machine_are_one_chat(machine: Sandbox, instances: str) -> None:
    with ExitStack() as stack:
        listening = []
        for nick in ("una", "uma", "ulf"):
            command = program("text_client.py", f"ws://{instances}/?nick={nick}")
            listener = stack.enter_context(machine.start_client(*command))
            assert listener.stdout is not None
            assert nick in listener.stdout.readline()
            listening.append(listener)
        # haproxy has given each of them a node of its own, and each node knows their addresses.
        told = [machine.run("chatd", "ctl", *socket, "connections") for socket in SOCKETS]
        assert [each.count(CLIENT) for each in told] == [1, 1, 1]
        # Each poll is a connection of its own, and all of them reach the same node.
        words = (f"http://{instances}", "polly", "by polling", "polling")
        assert json.loads(machine.client(*program("socketio_client.py", *words)))["ok"]
        for listener in listening:
            assert listener.stdout is not None
            while json.loads(listener.stdout.readline()) != "polly: by polling":
                pass
            listener.terminate()
