"""HTTP on the real process: docs/http.md's recipes as they stand, curl, and a browser's pages."""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from chatd import client
from tests.e2e.chat_page import open_page
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter, free_port
from tests.e2e.chromium import Chromium, Tab
from tests.e2e.programs import going_on, run
from tests.e2e.test_terminal import Terminal, terminal

__all__ = ["terminal"]  # a fixture

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")

# A limit of a hang, not of a speed.
SECONDS: Final = 60


def recipe(title: str, language: str = "sh", port: int = 3000) -> str:
    """Return the code below a heading of docs/http.md, for a daemon on this port."""
    section = PAGE.partition(f"\n### {title}\n")[2].partition("\n### ")[0]
    (code,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return str(code).replace("localhost:3000", f"localhost:{port}")


async def texts(chatd: ChatdProcess, room: str, **headers: str) -> list[str]:
    """Return the texts of a room's messages."""
    request = urllib.request.Request(f"http://localhost:{chatd.port}/rooms/{room}", headers=headers)
    ask = partial(urllib.request.urlopen, request, timeout=SECONDS)
    with await trio.to_thread.run_sync(ask) as answer:
        lines = [json.loads(line) for line in answer.read().splitlines()]
    return [line["text"] for line in lines if line["on"] == "message"]


# ---- recipes


async def test_recipes_that_say_one_thing(chatd: ChatdProcess, tmp_path: Path) -> None:
    shell = partial(run, tmp_path, "sh", "-c")
    first = re.search(r"```sh\n(curl .*)\n```", PAGE)
    assert first is not None
    command = first[1].replace("curl", "curl -sS").replace("3000", str(chatd.port))
    said = json.loads(await shell(command))
    assert (said["room"], said["seq"]) == ("lobby", 1)
    for _ in range(2):
        await shell(recipe("A CI job's message", port=chatd.port), BUILD_NUMBER="41")
        await shell(recipe("A cron job with a key", port=chatd.port))
        python = recipe("Python's standard library", "python", chatd.port)
        assert await run(tmp_path, sys.executable, "-c", python) == "message 2\n"
    assert await texts(chatd, "builds") == ["build 41 is green"]
    [backup] = await texts(chatd, "ops")
    assert re.fullmatch(r"The backup of \d{4}-\d\d-\d\d is done\.", backup)
    read = await shell(recipe("Reading with jq", port=chatd.port))
    assert [line.partition(": ")[2] for line in read.splitlines()] == [
        "build 41 is green",
        "The report is ready.",
    ]
    async with client.connect(chatd.url, nick="ann") as ann:
        await shell(recipe("A direct message", port=chatd.port))
        while not isinstance(event := await ann.next_event(), client.Message):
            pass
        assert (event.nick, event.text) == ("ci", "The deployment waits for you.")
        transcript = recipe("What each refusal looks like", "console", chatd.port)
        steps = re.findall(r"^\$ (.*)\n(.*)\n", transcript, re.MULTILINE)
        assert len(steps) == 9
        for command, printed in steps:
            # Some of curl's requests end with the connection, which curl tells.
            answer = await shell(f"{{ {command}; }} 2> /dev/null")
            assert answer == f"{printed}\n", command


async def test_a_token_in_a_file(
    start_chatd: ChatdStarter, token_settings: dict[str, Any], tmp_path: Path
) -> None:
    chatd = await start_chatd({**token_settings, "auth.guests": False})
    program = tmp_path / "chatd"
    program.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m chatd "$@" --config "{tmp_path}/chatd.toml"\n'
    )
    program.chmod(0o755)
    said = json.loads(await run(tmp_path, "sh", "-c", recipe("A token", port=chatd.port)))
    assert (said["user"], said["nick"]) == ("deploy", "deploy")
    header = tmp_path / "deploy.header"
    assert header.stat().st_mode & 0o077 == 0
    name, _, token = header.read_text().strip().partition(": ")
    assert await texts(chatd, "lobby", **{name: token}) == ["version 7 is live"]
    assert token.partition(" ")[2] not in chatd.log()


async def test_recipes_that_follow_a_room(start_chatd: ChatdStarter, tmp_path: Path) -> None:
    """The terminal, the bot, and the one that goes on, which a restart of the daemon cuts."""
    port = free_port()
    chatd = await start_chatd(port=port)
    script = tmp_path / "follow.sh"
    script.write_text(recipe("Continuing after a lost connection", port=port))
    async with (
        going_on(tmp_path, "sh", "-c", recipe("The room in a terminal", port=port)) as shown,
        going_on(tmp_path, "sh", "-c", recipe("A bot in ten lines of shell", port=port)),
        going_on(tmp_path, "sh", str(script)) as followed,
    ):
        for _ in range(3):
            await chatd.line("connect", transport="sse", nick="clock")
        say = partial(run, tmp_path, "curl", "-sS", "-o", "/dev/null", "--data-binary")
        await say("!date", f"localhost:{port}/rooms/lobby?nick=ann")
        question, answer = await shown.texts(2)
        assert question == "!date"
        assert re.search(r"\d\d:\d\d:\d\d", answer)
        assert await followed.texts(2) == [question, answer]
        assert await chatd.stop() == 0
        again = await start_chatd(port=port)
        await again.line("connect", transport="sse")
        await say("after the restart", f"localhost:{port}/rooms/lobby?nick=ann")
        assert await followed.texts(1) == ["after the restart"]
        # It has saved the position of what it printed when it comes back once more.
        assert await again.stop() == 0
        again = await start_chatd(port=port)
        await again.line("connect", transport="sse")
    await say("between two runs", f"localhost:{port}/rooms/lobby?nick=ann")
    async with going_on(tmp_path, "sh", str(script)) as followed:
        assert await followed.texts(1) == ["between two runs"]


async def test_alerts_of_prometheus(chatd: ChatdProcess, tmp_path: Path) -> None:
    port = free_port()
    program = tmp_path / "alerts.py"
    code = recipe("Prometheus alerts", "python", chatd.port)
    assert "9099" in recipe("Prometheus alerts", "yaml")
    serving = ')\nprint("listens", flush=True)\nserver.serve_forever()'
    code = code.replace("\nHTTPServer(", "\nserver = HTTPServer(")
    code = code.replace(").serve_forever()", serving)
    program.write_text(code.replace("9099", str(port)))
    alert = {
        "status": "firing",
        "labels": {"alertname": "ChatdDown", "instance": "chat:9100"},
        "annotations": {"summary": "chatd does not answer"},
        "startsAt": "2026-11-23T16:51:53.012Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus:9090/graph",
        "fingerprint": "2e4f1f0b6f0a8c0d",
    }
    resolved = {**alert, "status": "resolved", "endsAt": "2026-11-23T17:00:00Z"}
    unnamed = {**alert, "annotations": {}, "fingerprint": "00"}
    async with going_on(tmp_path, sys.executable, str(program)) as running:
        await running.until("listens")
        # Alertmanager sends everything that fires again and again.
        for alerts in ([alert], [alert, unnamed], [resolved]):
            payload = json.dumps({"version": "4", "status": "firing", "alerts": alerts})
            await run(tmp_path, "curl", "-sSf", "-d", payload, f"127.0.0.1:{port}")
        assert await texts(chatd, "alerts") == [
            "firing: chatd does not answer",
            "firing: ChatdDown",
            "resolved: chatd does not answer",
        ]
        assert await chatd.stop() == 0
        status = await run(
            *(tmp_path, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", payload),
            f"127.0.0.1:{port}",
        )
        assert status == "502"


# ---- people and scripts


async def test_pages_a_terminal_and_curl_hold_a_conversation(
    chatd: ChatdProcess, chromium: Chromium, terminal: Terminal, tmp_path: Path
) -> None:
    ann = await open_page(chromium, chatd, nick="ann")
    bob = await open_page(chromium, chatd, nick="bob", host="127.0.0.1")
    cleo = await terminal(chatd, "--nick", "cleo")
    await cleo.until("You are in lobby: ann, bob, cleo.")
    url = f"localhost:{chatd.port}/rooms/lobby?nick=script"
    stream = ("curl", "-sN", "-H", "Accept: text/event-stream", "-H")
    expected = ["from a page", "from another", "from the terminal", "from curl"]
    async with going_on(tmp_path, *stream, "X: y", url) as followed:
        await chatd.line("connect", transport="sse")
        await ann.say(expected[0])
        await bob.say(expected[1])
        seen = await followed.until(expected[1])
    position = [line for line in seen if line.startswith("id: ")][-1].removeprefix("id: ")
    # The stream is cut, and the conversation goes on.
    await cleo.type(expected[2])
    await cleo.until("cleo: from the terminal")
    await run(tmp_path, "curl", "-sS", "-o", "/dev/null", "-d", expected[3], url)
    async with going_on(tmp_path, *stream, f"Last-Event-ID: {position}", url) as followed:
        seen += await followed.until("from curl")
        await ann.say("the end")
        seen += await followed.until("the end")
    expected.append("the end")
    events = [json.loads(line[6:]) for line in seen if line.startswith("data: ")]
    assert [event["text"] for event in events] == expected
    for page in (ann, bob):
        await page.shows(*expected)
        assert page.faults == []
    screen = await cleo.until("ann: the end")
    assert [screen.count(text) for text in expected] == [1] * 5


async def test_the_page_of_the_recipe(chatd: ChatdProcess, tab: Tab, tmp_path: Path) -> None:
    """From a file, over a restart of the connection."""
    file = tmp_path / "lobby.html"
    file.write_text(recipe("A page", "html", chatd.port), encoding="utf-8")
    await tab.navigate(file.as_uri())
    await chatd.line("connect", transport="sse")
    say = partial(run, tmp_path, "curl", "-sS", "-o", "/dev/null", "-d")
    await say("one", f"localhost:{chatd.port}/rooms/lobby?nick=ann")
    await tab.until_text("ann: one", within="ul")
    assert tab.faults == []


# ---- pages of other sites

ATTACKS: Final = """
async (url) => {
  const read = [];
  const attempt = async (name, init) => {
    try {
      const answer = await fetch(url, init);
      read.push(`${name}: ${answer.type} ${answer.status} ${await answer.text()}`);
    } catch (error) {
      read.push(`${name}: ${error.name}`);
    }
  };
  const stream = {"Accept": "text/event-stream"};
  const json = {"Content-Type": "application/json"};
  await attempt("get", {});
  await attempt("credentials", {credentials: "include"});
  await attempt("stream", {headers: stream});
  await attempt("post", {method: "POST", body: "evil"});
  await attempt("json", {method: "POST", body: '{"text": "evil"}', headers: json});
  await attempt("blind get", {mode: "no-cors"});
  await attempt("blind post", {mode: "no-cors", method: "POST", body: "evil"});
  await attempt("no referrer",
    {mode: "no-cors", method: "POST", body: "evil", referrerPolicy: "no-referrer"});
  await new Promise((resolve) => {
    const events = new EventSource(url);
    events.onopen = () => { read.push("EventSource: open"); resolve(); };
    events.onerror = () => { read.push(`EventSource: ${events.readyState}`); resolve(); };
  });
  await new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => { read.push("script: loaded"); resolve(); };
    script.onerror = () => { read.push("script: error"); resolve(); };
    document.head.append(script);
  });
  for (const policy of ["", "no-referrer"]) {
    await new Promise((resolve) => {
      const frame = document.createElement("iframe");
      frame.name = `frame${policy}`;
      document.body.append(frame);
      const form = document.createElement("form");
      Object.assign(form, {method: "POST", enctype: "text/plain", action: url});
      form.target = frame.name;
      if (policy) form.rel = "noreferrer";
      const field = document.createElement("input");
      Object.assign(field, {name: "evil", value: "form"});
      form.append(field);
      document.body.append(form);
      frame.onload = () => resolve();
      form.submit();
    });
  }
  return read;
}
"""

NOTHING: Final = [
    "get: TypeError",
    "credentials: TypeError",
    "stream: TypeError",
    "post: TypeError",
    "json: TypeError",
    "blind get: TypeError",
    "blind post: TypeError",
    "no referrer: TypeError",
    "EventSource: 2",
    "script: error",
]


async def serve_page(nursery: trio.Nursery) -> int:
    """Serve an empty page on a port of its own; return the port."""
    page = b"<!doctype html><title>another site</title><body>"

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
            await stream.send_all(head + b"Content-Length: %d\r\n\r\n" % len(page) + page)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, listeners)
    return int(listeners[0].socket.getsockname()[1])


async def test_a_page_of_another_site_can_neither_read_nor_post(
    chatd: ChatdProcess, tab: Tab, nursery: trio.Nursery
) -> None:
    port = await serve_page(nursery)
    # Chromium resolves all names below `test` to this machine: see chromium.py.
    await tab.navigate(f"http://evil.test:{port}/")
    url = f"http://localhost:{chatd.port}/rooms/lobby"
    assert await tab.evaluate(f"({ATTACKS})({json.dumps(url)})") == NOTHING
    assert await texts(chatd, "lobby") == []
    refused = [line for line in chatd.lines if line["event"] == "refused"]
    assert {line["status"] for line in refused} == {403}
    assert len(refused) >= 12
    # A name that was made to point here: to the browser it is one site.
    site = f"http://evil.test:{chatd.port}/rooms/lobby"
    await tab.navigate(site)
    for line in await tab.evaluate(f"({ATTACKS})({json.dumps(site)})"):
        assert "421" in line or line in ("EventSource: 2", "script: error"), line
    assert await texts(chatd, "lobby") == []
    assert [line for line in chatd.lines if line["event"] == "connect"] == []


async def test_a_page_of_an_allowed_site(
    start_chatd: ChatdStarter, tab: Tab, nursery: trio.Nursery
) -> None:
    port = await serve_page(nursery)
    origin = f"http://friend.test:{port}"
    chatd = await start_chatd({"http.origins": ["same", origin]})
    await tab.navigate(origin)
    said = await tab.evaluate(
        """(async (url) => {
          const headers = {"Content-Type": "application/json", "Idempotency-Key": "k"};
          const posted = await fetch(url, {method: "POST", headers, body: '{"text": "hi"}'});
          const page = await fetch(url);
          const events = new EventSource(url);
          const event = await new Promise((resolve) => { events.onmessage = resolve; });
          return [posted.status, page.headers.get("Chatd-Position") === event.lastEventId,
                  JSON.parse(event.data).text];
        })("""
        + json.dumps(f"http://localhost:{chatd.port}/rooms/lobby")
        + ")"
    )
    assert said == [201, True, "hi"]


# ---- guests


async def test_a_guest_of_this_machine_is_the_same_after_a_restart(
    start_chatd: ChatdStarter, tmp_path: Path
) -> None:
    chatd = await start_chatd()
    users: dict[str, set[str]] = {}

    async def say(nick: str, host: str, key: str) -> None:
        url = f"http://{host}:{chatd.port}/rooms/lobby?nick={nick}"
        words = ("curl", "-sS", "-d", "hi", "-H", f"Idempotency-Key: {key}", "-g", url)
        users.setdefault(nick, set()).add(json.loads(await run(tmp_path, *words))["user"])

    for restarted in (False, True):
        if restarted:
            assert await chatd.stop() == 0
            chatd = await start_chatd(port=chatd.port)
        for host in ("127.0.0.1", "localhost"):
            await say("ci", host, "one")
            await say("cron", host, "one")
    assert {nick: len(each) for nick, each in users.items()} == {"ci": 1, "cron": 1}
    assert users["ci"] != users["cron"]
    assert await texts(chatd, "lobby") == ["hi", "hi"]
