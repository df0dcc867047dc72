"""The daemon with a certificate, and real clients of every protocol."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio
import trustme
from trio_websocket import open_websocket_url

from chatd import client
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter


@pytest.fixture
async def chatd(
    start_chatd: ChatdStarter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ChatdProcess:
    """Start a daemon that speaks TLS; its authority is the one that clients here trust."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    both = str(tmp_path / "both.pem")
    return await start_chatd({"tls.certificate_file": both, "tls.key_file": both})


async def test_every_protocol_over_tls(chatd: ChatdProcess) -> None:
    url = f"wss://localhost:{chatd.port}/"
    async with client.connect(url, nick="json") as ann:
        await ann.join("lobby")
        await ann.say("by JSON")
        async with open_websocket_url(f"{url}?nick=text") as plain:
            await plain.get_message()  # the greeting
            assert await plain.get_message() == "json: by JSON"
            await plain.send_message("by text")
            assert await plain.get_message() == "text: by text"
        for nick, transports in (("poll", "polling"), ("socket", "websocket"), ("both", "both")):
            answer = await socketio(chatd, nick, transports)
            assert answer["ok"]["room"] == "lobby"
        history = await ann.history("lobby")
        said = [event.text for event in history.events if isinstance(event, client.Message)]
        named = ["said by poll", "said by socket", "said by both"]
        assert said == ["by JSON", "by text", *named]


async def socketio(chatd: ChatdProcess, nick: str, transports: str) -> dict[str, dict[str, str]]:
    program = str(Path(__file__).with_name("socketio_client.py"))
    url = f"https://localhost:{chatd.port}"
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, program, url, nick, f"said by {nick}", transports], capture_stdout=True
        )
    answer: dict[str, dict[str, str]] = json.loads(done.stdout)
    return answer


async def test_a_failed_handshake_is_a_line_and_no_traceback(chatd: ChatdProcess) -> None:
    async with await trio.open_tcp_stream("localhost", chatd.port) as stream:
        await stream.send_all(b"\x16\x03\x01\x00\x05hello")
        while await stream.receive_some():
            pass
    line = await chatd.line("refused")
    assert line["reason"].startswith("the TLS handshake failed: ")
