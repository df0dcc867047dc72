"""The real process under ``chatd ctl``: reload, its refusals, and metrics to the very end."""

from __future__ import annotations

import json
import os
import resource
import signal
import ssl
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio_websocket
import trustme

from tests.e2e.chatd_process import ChatdProcess, ChatdStarter, free_port

# A limit of a hang, not of a speed.
SECONDS = 60


class Operator:
    """A daemon with its own configuration and admin socket, and its operator."""

    def __init__(self, folder: Path, starter: ChatdStarter) -> None:
        self.config = folder / "chatd.toml"
        self.socket = folder / "run" / "admin.sock"
        self.socket.parent.mkdir()
        self.environ = {"RUNTIME_DIRECTORY": str(self.socket.parent)}
        self._starter = starter

    async def start(self, text: str = "", **settings: object) -> ChatdProcess:
        self.config.write_text(text)
        given = {name.replace("__", "."): value for name, value in settings.items()}
        return await self._starter(given, environ=self.environ, config=self.config)

    async def ctl(self, *words: str) -> tuple[int, str, str]:
        """Run ``chatd ctl``; return the exit code, stdout and stderr."""
        command = [sys.executable, "-W", "error", "-m", "chatd", "ctl", *words]
        with trio.fail_after(SECONDS):
            ended = await trio.run_process(
                command,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **self.environ},
            )
        told, complained = ended.stdout.decode(), ended.stderr.decode()
        assert "Traceback" not in complained
        return ended.returncode, told, complained


@pytest.fixture
def operator(tmp_path: Path, start_chatd: ChatdStarter) -> Operator:
    return Operator(tmp_path, start_chatd)


async def greeting(chatd: ChatdProcess) -> str:
    stream = await trio.open_tcp_stream("localhost", chatd.port)
    async with stream, trio.open_nursery() as nursery:
        websocket = await trio_websocket.wrap_client_stream(
            nursery, stream, f"localhost:{chatd.port}", "/"
        )
        async with websocket:
            told = str(await websocket.get_message())
    return told


async def get(port: int, path: str) -> tuple[int, bytes]:
    async with await trio.open_tcp_stream("localhost", port) as stream:
        await stream.send_all(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join([data async for data in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_a_reload_is_in_force_for_the_first_connection_after_it(operator: Operator) -> None:
    chatd = await operator.start("[chat]\ngreeting = 'one'\n")
    assert await greeting(chatd) == "one"
    for number in range(5):
        operator.config.write_text(f"[chat]\ngreeting = 'greeting {number}'\n")
        assert await operator.ctl("reload") == (0, "Reloaded. Changed: chat.greeting.\n", "")
        assert await greeting(chatd) == f"greeting {number}"
    operator.config.write_text("[listen]\nsocket_mode = '0600'\n[chat]\ngreeting = 'two'\n")
    code, told, _ = await operator.ctl("reload")
    assert code == 0
    assert told.splitlines() == [
        "Reloaded. Changed: chat.greeting.",
        "Changed, but a restart is needed: listen.socket_mode.",
    ]
    await chatd.line("reload", changed="chat.greeting", restart="listen.socket_mode")
    assert await chatd.stop() == 0
    assert not operator.socket.exists()


async def test_a_broken_file_changes_nothing_and_is_reported_with_its_place(
    operator: Operator,
) -> None:
    chatd = await operator.start("[chat]\ngreeting = 'one'\n")
    broken = operator.config
    for text, place in (
        ("[chat]\ngreeting = 'two'\nbacklog = 501\n", "3:11"),
        ("[chat]\ngreeting = 'two'\ngreting = 'two'\n", "3:1"),
        ("[chat]\ngreeting = 'two\n", "2:16"),
        ("[chat]\ngreeting = 'two'\n[limits]\nsend_queue_bytes = 4096\n", "4:20"),
    ):
        broken.write_text(text)
        code, told, complained = await operator.ctl("reload")
        assert (code, told) == (1, "")
        assert f"{broken}:{place}: error: " in complained
        assert await greeting(chatd) == "one"
        state = json.loads((await operator.ctl("status", "--json"))[1])["reload"]
        fault = state["refused"][0]
        assert f"{fault['line']}:{fault['column']}" == place
    lines = [line for line in chatd.lines if line["event"] == "reload_refused"]
    assert [line["detail"].split(": ")[0] for line in lines] == [
        f"{broken}:{place}" for place in ("3:11", "3:1", "2:16", "4:20")
    ]
    broken.unlink()
    code, _, complained = await operator.ctl("reload")
    assert code == 1
    assert "The file does not exist." in complained
    broken.write_text("[chat]\ngreeting = 'three'\n")
    assert (await operator.ctl("reload"))[0] == 0
    assert await greeting(chatd) == "three"


async def test_sighup_reloads_where_there_is_a_file(operator: Operator) -> None:
    chatd = await operator.start()
    operator.config.write_text("[chat]\ngreeting = 'two'\n")
    chatd.signal(signal.SIGHUP)
    await chatd.line("reload", changed="chat.greeting")
    assert await greeting(chatd) == "two"
    operator.config.write_text("[chat\n")
    chatd.signal(signal.SIGHUP)
    assert ":1:6: Invalid TOML" in (await chatd.line("reload_refused"))["detail"]
    assert await greeting(chatd) == "two"
    assert await chatd.stop() == 0


async def test_what_the_flags_said_stays_said(operator: Operator) -> None:
    chatd = await operator.start(chat__greeting="by flag")
    operator.config.write_text("[chat]\ngreeting = 'by file'\n")
    assert (await operator.ctl("reload"))[1] == "Reloaded. Changed: nothing.\n"
    assert await greeting(chatd) == "by flag"


async def test_it_answers_and_obeys(operator: Operator) -> None:
    chatd = await operator.start()
    assert operator.socket.stat().st_mode & 0o777 == 0o600
    status = json.loads((await operator.ctl("status", "--json"))[1])
    assert (status["pid"], status["state"]) == (chatd.pid, "ready")
    assert (await operator.ctl("rooms"))[0] == 0
    assert (await operator.ctl("--config", str(operator.config), "status"))[0] == 0
    assert (await operator.ctl("drain"))[0] == 0
    assert await chatd.ended() == 0
    code, _, complained = await operator.ctl("status")
    assert code == 1
    assert complained.startswith("chatd: No daemon was found: ")


async def test_it_answers_its_operator_when_clients_took_all_there_is(operator: Operator) -> None:
    chatd = await operator.start(limits__connections=40, limits__handshake_seconds=600)
    # What 40 clients and the 64 that are kept back come to.
    resource.prlimit(chatd.pid, resource.RLIMIT_NOFILE, (104, 104))
    async with AsyncExitStack() as stack:
        for _ in range(150):
            stream = await trio.open_tcp_stream("127.0.0.1", chatd.port)
            stack.push_async_callback(trio.aclose_forcefully, stream)
        code, told, _ = await operator.ctl("status", "--json")
        assert code == 0
        assert json.loads(told)["http_connections"] > 40


async def test_two_daemons_and_one_folder(operator: Operator, start_chatd: ChatdStarter) -> None:
    """The admin socket was not set explicitly: the second daemon runs without one."""
    first = await operator.start()
    second = await start_chatd({"history.store": "memory"}, environ=operator.environ)
    assert "another program listens there" in (await second.line("warning"))["detail"]
    status = json.loads((await operator.ctl("status", "--json"))[1])
    assert status["pid"] == first.pid
    named = await start_chatd.begin(
        {"history.store": "memory", "admin.socket": str(operator.socket)}
    )
    assert await named.ended() == 1
    (told,) = named.noise
    assert "another program listens there" in told
    named.noise.clear()


async def test_metrics_are_served_to_the_very_end(operator: Operator) -> None:
    port = free_port()
    chatd = await operator.start(metrics__listen=f"localhost:{port}", drain__delay_seconds=3600)
    status, body = await get(port, "/metrics")
    assert status == 200
    assert b"process_resident_memory_bytes " in body
    assert await get(port, "/readyz") == (200, b"ready\n")
    assert (await get(port, "/status"))[0] == 404
    # Never on the public port.
    assert (await get(chatd.port, "/metrics"))[0] == 404
    chatd.signal(signal.SIGTERM)
    await chatd.line("drain")
    assert (await get(port, "/readyz"))[0] == 503
    assert await get(port, "/healthz") == (200, b"alive\n")
    assert b"chatd_ready 0.0\n" in (await get(port, "/metrics"))[1]
    chatd.signal(signal.SIGTERM)
    assert await chatd.ended() == 0


async def test_a_certificate_is_renewed_without_closing_connections(operator: Operator) -> None:
    folder = operator.config.parent
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    both = folder / "both.pem"

    def issue(expires: datetime | None = None) -> bytes:
        issued = authority.issue_cert("localhost", not_after=expires)
        issued.private_key_and_cert_chain_pem.write_to_path(both)
        both.chmod(0o600)
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    async def certificate(stream: trio.SSLStream[trio.SocketStream]) -> bytes:
        await stream.do_handshake()
        shown = stream.getpeercert(binary_form=True)
        assert isinstance(shown, bytes)
        return shown

    async def connect() -> trio.SSLStream[trio.SocketStream]:
        return await trio.open_ssl_over_tcp_stream("localhost", chatd.port, ssl_context=context)

    first = issue()
    text = f"[tls]\ncertificate_file = '{both}'\nkey_file = '{both}'\n"
    chatd = await operator.start(text)
    early = await connect()
    assert await certificate(early) == first
    issue(expires=datetime(2021, 1, 1, tzinfo=UTC))
    code, told, _ = await operator.ctl("reload")
    assert code == 0
    assert told.startswith("Reloaded. Changed: nothing.\nWarning: tls.certificate_file: ")
    assert told.endswith("expired on 2021-01-01 00:00 UTC. Clients do not accept it.\n")
    await chatd.line("warning", setting="tls.certificate_file")
    assert "certificate EXPIRED on 2021-01-01T" in (await operator.ctl("status"))[1]
    second = issue()
    assert await operator.ctl("reload") == (0, "Reloaded. Changed: nothing.\n", "")
    late = await connect()
    assert await certificate(late) == second
    both.write_text(both.read_text().replace("M", "!"))
    code, _, complained = await operator.ctl("reload")
    assert code == 1
    assert f"{operator.config}:2:20: error: tls.certificate_file: " in complained
    # The first client is still served, with the parameters it negotiated.
    for stream in (early, late, await connect()):
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in bytes(await stream.receive_some(1000))
        await trio.aclose_forcefully(stream)


async def test_what_systemd_runs_is_there(operator: Operator) -> None:
    """The unit's ExecReload= is this command, in the unit's own environment."""
    unit = Path(__file__).parents[2] / "systemd" / "chatd.service"
    (line,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecReload=")]
    program, *words = line.partition("=")[2].split()
    assert program == "/opt/chatd/bin/chatd"
    await operator.start()
    at = words.index("/etc/chatd/chatd.toml")
    words[at] = str(operator.config)
    operator.config.write_text("[chat\n")
    assert words[0] == "ctl"
    assert (await operator.ctl(*words[1:]))[0] == 1
    operator.config.write_text("")
    assert (await operator.ctl(*words[1:]))[0] == 0
