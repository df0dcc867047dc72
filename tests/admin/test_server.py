"""The administration's listeners: what each serves, and that they serve to the very end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from chatd.admin import Administration, DaemonControl
from chatd.settings import Http, Settings
from chatd.wire.listener import Listener, open_listeners
from tests.admin.administered import Administered, administered
from tests.gateways.raw import Raw


def listening(one: Administered, *paths: Path) -> tuple[Administration, Sequence[Listener]]:
    """Make the administration on Unix sockets: the admin socket, and the metrics' address."""
    admin, metrics = open_listeners([f"unix:{path}" for path in paths], 0o600)
    control = DaemonControl(one.chat.daemon, one.reload, one.stop)
    return Administration(control, admin=[admin], metrics=[metrics]), (admin, metrics)


async def ask(path: Path, line: str) -> tuple[int, bytes]:
    client = Raw(await trio.open_unix_socket(path))
    status, _, body = await client.ask(f"{line} HTTP/1.1")
    await client.aclose()
    return status, body


async def test_each_listener_has_its_own_table(tmp_path: Path) -> None:
    admin, metrics = tmp_path / "admin.sock", tmp_path / "metrics.sock"
    async with administered() as one, trio.open_nursery() as nursery:
        administration, _ = listening(one, admin, metrics)
        await nursery.start(administration.run)
        assert admin.stat().st_mode & 0o777 == 0o600
        for path in (admin, metrics):
            assert b"chatd_build_info" in (await ask(path, "GET /metrics"))[1]
            assert await ask(path, "GET /healthz") == (200, b"alive\n")
            assert await ask(path, "GET /readyz") == (200, b"ready\n")
        assert (await ask(admin, "GET /status"))[0] == 200
        # The metrics' address is for looking alone.
        assert (await ask(metrics, "GET /status"))[0] == 404
        assert (await ask(metrics, "POST /drain"))[0] == 404
        one.stop.set()
        assert await ask(metrics, "GET /healthz") == (200, b"alive\n")
        assert (await ask(metrics, "GET /readyz"))[0] == 503
        administration.close()
    assert not admin.exists()
    assert not metrics.exists()


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        ((), "localhost", 200),
        ((), "127.0.0.1:3001", 200),
        ((), "evil.example", 421),
        (("metrics.test",), "metrics.test", 200),
    ],
)
async def test_a_page_whose_name_was_made_to_point_here_reads_no_metrics(
    hosts: tuple[str, ...], host: str, status: int
) -> None:
    settings = Settings(http=Http(hosts=hosts))
    async with administered(settings) as one, trio.open_nursery() as nursery:
        (listener,) = open_listeners(["127.0.0.1:0"])
        control = DaemonControl(one.chat.daemon, one.reload, one.stop)
        administration = Administration(control, admin=[], metrics=[listener])
        await nursery.start(administration.run)
        async with await trio.open_tcp_stream("127.0.0.1", listener.port) as stream:
            ask = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            await stream.send_all(ask.encode())
            assert (await Raw(stream).answer())[0] == status
        administration.close()


async def test_pending_requests_are_answered_and_idle_clients_are_not_awaited(
    autojump_clock: MockClock,
) -> None:
    async with administered() as one:
        async with trio.open_nursery() as nursery:
            await nursery.start(one.administration.run)
            began = trio.current_time()
            one.administration.close()
        assert trio.current_time() == began


async def test_how_late_the_loop_is_is_looked_at(autojump_clock: MockClock) -> None:
    async with administered() as one, trio.open_nursery() as nursery:
        await nursery.start(one.administration.run)
        await trio.sleep(10.1)
        _, _, body = await one.raw("GET /metrics")
        assert b"chatd_event_loop_lag_seconds_count 5.0\n" in body
        one.administration.close()
