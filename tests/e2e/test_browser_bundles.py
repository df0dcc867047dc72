"""Socket.IO's bundles for browsers, in Chromium, against ``chatd.socketio``.

A browser's client is another than Node.js's: that of revision 3 polls with binary bodies.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.e2e.chatd_process import free_port
from tests.e2e.chromium import Tab
from tests.e2e.socketio_clients import ClientsError, SocketIOServer, install_clients

VERSIONS: Final = ("1.7", "2.0", "2.5", "3.1", "4.0", "4.8")
REVISION_3: Final = ("1.7", "2.0", "2.5")
WAYS: Final = {
    "polling": ["polling"],
    "websocket": ["websocket"],
    "upgrade": ["polling", "websocket"],
}

# The empty icon avoids a request that would fail.
PAGE: Final = """<!DOCTYPE html>
<title>A client</title>
<link rel="icon" href="data:,">
<script src="/client-{version}.js"></script>
<script src="/page.js"></script>
"""

# Bytes are shown as {$bytes: [...]}; the types sent and received by XMLHttpRequest are recorded.
SCRIPT: Final = """
const sent = new Set();
const came = new Set();
const send = XMLHttpRequest.prototype.send;
XMLHttpRequest.prototype.send = function (body) {
  if (body != null) sent.add(Object.prototype.toString.call(body).slice(8, -1));
  this.addEventListener("load", () => came.add(this.getResponseHeader("Content-Type")));
  return send.call(this, body);
};

const shown = (value) => {
  if (value instanceof ArrayBuffer) value = new Uint8Array(value);
  if (ArrayBuffer.isView(value)) return { $bytes: [...value] };
  if (Array.isArray(value)) return value.map(shown);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, shown(item)]));
};

async function everything(transports, burst) {
  const socket = io({ transports, forceNew: true });
  const heard = (name) => new Promise((resolve) => {
    socket.once(name, (...args) => resolve(shown(args)));
  });
  const ask = (...args) => new Promise((resolve) => {
    socket.emit(...args, (...answer) => resolve(shown(answer)));
  });
  const echoes = [];
  // It may come before the CONNECT is answered.
  const upgraded = transports.length > 1 && new Promise((resolve) => {
    socket.io.engine.once("upgrade", resolve);
  });
  await heard("connect");
  const all = new Promise((resolve) => {
    const echo = (number) => echoes.push(number) === burst && (socket.off("echo", echo), resolve());
    socket.on("echo", echo);
  });
  for (let number = 0; number < burst; number += 1) socket.emit("echo", number);
  await all;
  await upgraded;

  const args = [
    null, true, -1.5, "\\u20ac \\u{1f600} \\u001e", [[], {}],
    // Views of it are no binary data to 1.x.
    { deep: [new Uint8Array([0, 30, 255]).buffer] }, new Uint8Array(70000).fill(7).buffer,
  ];
  const back = heard("echo");
  socket.emit("echo", ...args);
  const echoed = await back;
  socket.on("question", (...question) => question.pop()(...question));
  const reply = heard("answered");
  socket.emit("ask", ...args);
  const answered = (await reply)[0];
  const acknowledged = await ask("answer", ...args);
  const [, transport] = (await ask("who"));
  const gone = heard("disconnect");
  socket.emit("send away", false);
  const [reason] = await gone;
  return {
    echoes, args: shown(args), echoed, answered, acknowledged, transport, reason,
    sent: [...sent], came: [...came],
  };
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketIOServer]:
    """Serve a page for each bundle, and their server."""
    try:
        packages = install_clients().parent / "node_modules"
    except ClientsError as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("public")
    (folder / "page.js").write_text(SCRIPT)
    for version in VERSIONS:
        shutil.copy(
            packages / f"client-{version}" / "dist" / "socket.io.js",
            folder / f"client-{version}.js",
        )
        (folder / f"{version}.html").write_text(PAGE.format(version=version))
    server = SocketIOServer(free_port(), {"static": str(folder)}, tmp_path_factory.mktemp("server"))
    try:
        yield server
        server.end(signal.SIGINT)
    finally:
        server.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_bundle_in_a_browser(
    version: str, way: str, server: SocketIOServer, tab: Tab
) -> None:
    await tab.navigate(f"{server.url}/{version}.html")
    told: dict[str, Any] = await tab.evaluate(f"everything({json.dumps(WAYS[way])}, 200)")
    assert told["echoes"] == list(range(200))
    assert told["echoed"] == told["answered"] == told["acknowledged"] == told["args"]
    assert (told["transport"], told["reason"]) == (WAYS[way][-1], "io server disconnect")
    if way == "polling":
        binary = version in REVISION_3
        assert ("application/octet-stream" in told["came"]) is binary
        assert (told["sent"] != ["String"]) is binary
    assert tab.faults == []
