from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.settings import Settings
from chatd.wire.listener import open_listeners
from chatd.wire.tls import TlsError, check_files, doubts, tls_context
from chatd.wire.transport import Peer
from tests.wire.certificates import NAME, client_context, issue
from tests.wire.served import Client, Served, masked, serve, settings

AWAY = Peer("192.0.2.7", "tcp", loopback=False)
GET = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return issue(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def served_by_tls(configured: Settings, *, tcp: bool = False) -> AsyncIterator[Served]:
    async with serve(configured, tcp=tcp) as served:
        served.server.tls = tls_context(configured)
        yield served


def secured(
    client: Client, context: ssl.SSLContext, name: str = NAME
) -> trio.SSLStream[trio.abc.Stream]:
    return trio.SSLStream(client.stream, context, server_hostname=name)


async def answered(stream: trio.abc.Stream) -> bytes:
    await stream.send_all(GET)
    answer = b""
    while not answer.endswith(b"hello\n"):
        data = await stream.receive_some()
        assert data, answer
        answer += data
    return answer


# The certificate


def test_no_certificate_is_no_tls() -> None:
    assert tls_context(settings()) is None
    assert list(check_files(settings())) == []


def test_a_certificates_expiry(tmp_path: Path) -> None:
    soon, later = datetime(2030, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
    context = tls_context(issue(tmp_path, expires=soon))
    assert context is not None
    assert context.expires == soon.timestamp()
    # With another above it, the first to expire is the end of all.
    file = tmp_path / "certificate.pem"
    above = file.read_bytes()
    configured = issue(tmp_path, expires=later)
    file.write_bytes(file.read_bytes() + above)
    context = tls_context(configured)
    assert context is not None
    assert context.expires == soon.timestamp()


NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def chain_of(*files: Settings) -> Path:
    """Append the certificates of the others to the first file, and return it."""
    first, *others = (Path(each.tls.certificate_file) for each in files)
    first.write_bytes(b"".join(file.read_bytes() for file in (first, *others)))
    return first


@pytest.mark.parametrize(
    ("expires", "doubt"),
    [
        (NOW - timedelta(seconds=1), "expired on 2026-11-29 11:59 UTC. Clients do not accept it."),
        (NOW, "expired on 2026-11-29 12:00 UTC. Clients do not accept it."),
        (NOW + timedelta(days=13), "expires on 2026-12-12 12:00 UTC. Renew it, then reload."),
        (NOW + timedelta(days=15), None),
    ],
)
def test_certificates_are_doubted_by_their_end(
    tmp_path: Path, expires: datetime, doubt: str | None
) -> None:
    file = Path(issue(tmp_path, expires=expires).tls.certificate_file)
    told = list(doubts(file, NOW.timestamp()))
    assert told == ([] if doubt is None else [f"The certificate in {file} {doubt}"])


def test_a_certificate_that_is_not_valid_yet_is_doubted(tmp_path: Path) -> None:
    file = Path(issue(tmp_path, begins=NOW + timedelta(hours=1)).tls.certificate_file)
    (told,) = doubts(file, NOW.timestamp())
    assert "is not valid before 2026-11-29 13:00 UTC" in told
    assert "clock" in told


def test_each_certificate_of_the_chain_is_doubted(tmp_path: Path) -> None:
    later = NOW + timedelta(days=400)
    file = chain_of(
        issue(tmp_path / "a", expires=later), issue(tmp_path / "b", expires=NOW - timedelta(days=1))
    )
    expired, order = doubts(file, NOW.timestamp())
    assert expired.startswith(f"Certificate 2 in {file}, an authority's, expired on 2026-11-28")
    assert order.startswith(f"Certificate 1 in {file} was not issued by certificate 2.")


def test_a_chain_in_its_order_is_not_doubted(tmp_path: Path) -> None:
    authority = trustme.CA().create_child_ca()
    issued = authority.issue_cert(NAME)
    file = tmp_path / "chain.pem"
    file.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    assert file.read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert list(doubts(file, NOW.timestamp())) == []


def test_a_key_of_another_certificate_of_the_chain_is_told(tmp_path: Path) -> None:
    wrong = issue(tmp_path / "wrong")
    right = issue(tmp_path / "right")
    chain_of(wrong, right)
    mixed = settings(
        tls={"certificate_file": wrong.tls.certificate_file, "key_file": right.tls.key_file}
    )
    (rule,) = check_files(mixed)
    assert rule.keys == ["tls.key_file"]
    assert not rule.warning
    assert rule.message.endswith("but of certificate 2: put that one first")


def test_a_certificate_whose_end_cannot_be_read_is_taken(tmp_path: Path) -> None:
    configured = issue(tmp_path)
    file = tmp_path / "certificate.pem"
    # With OpenSSL's own notes on whom to trust.
    file.write_text(file.read_text().replace(" CERTIFICATE-", " TRUSTED CERTIFICATE-"))
    context = tls_context(configured)
    assert context is not None
    assert context.expires == math.inf


def test_a_certificate_with_its_key_is_taken(sure: Settings) -> None:
    context = tls_context(sure)
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    old = [c for c in context.get_ciphers() if c["protocol"] != "TLSv1.3"]
    assert old
    assert all(c["name"].startswith("ECDHE-") and c["aead"] for c in old)
    assert list(check_files(sure)) == []


def missing(folder: Path) -> None:
    (folder / "certificate.pem").unlink()


def a_folder(folder: Path) -> None:
    (folder / "key.pem").unlink()
    (folder / "key.pem").mkdir()


def empty(folder: Path) -> None:
    (folder / "certificate.pem").write_bytes(b"")


def swapped(folder: Path) -> None:
    (folder / "key.pem").write_bytes((folder / "certificate.pem").read_bytes())


def anothers(folder: Path) -> None:
    issue(folder / "other")
    (folder / "other" / "key.pem").rename(folder / "key.pem")


def damaged(folder: Path) -> None:
    text = (folder / "certificate.pem").read_bytes()
    (folder / "certificate.pem").write_bytes(text.replace(b"M", b"!"))


def locked(folder: Path) -> None:
    (folder / "key.pem").write_bytes(LOCKED)


# Made by `openssl genpkey -algorithm ed25519 -aes256`.
LOCKED = b"""\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhsEmJQV1sYUQICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEIxGj/fXeTdhkICtHcnOIjoEQODs
3aY22k+4iBkBlTqz1nG8TY3TealYR0m+d7UIitWWbZsP0sPxVK7C5FP5jmFDLbcO
f2y7nj5tD0TFKDvEDI0=
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.mark.parametrize(
    ("spoil", "key", "said"),
    [
        (missing, "certificate_file", "certificate.pem cannot be read: no such file"),
        (a_folder, "key_file", "key.pem cannot be read: is a directory"),
        (empty, "certificate_file", "no certificate in PEM"),
        (swapped, "key_file", "no private key in PEM"),
        (anothers, "key_file", "key.pem is not the key of .*certificate.pem"),
        (damaged, "certificate_file", "cannot be used: one of them is damaged"),
        (locked, "key_file", "has a passphrase"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], key: str, said: str
) -> None:
    configured = issue(tmp_path)
    spoil(tmp_path)
    with pytest.raises(TlsError, match=said) as caught:
        tls_context(configured)
    assert "\n" not in str(caught.value)
    [rule] = check_files(configured)
    assert rule.keys == [f"tls.{key}"]
    assert rule.message == str(caught.value)
    assert rule.message.startswith(f"tls.{key}: ")


def test_a_credential_is_what_systemd_gave(tmp_path: Path) -> None:
    issue(tmp_path)
    tls = {"certificate_file": "credential:certificate.pem", "key_file": "credential:key.pem"}
    configured = settings(tls=tls)
    assert tls_context(configured, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is not None
    with pytest.raises(TlsError, match=r"credential:certificate.pem is not available"):
        tls_context(configured, {})
    # A check by hand does not have the service's credentials.
    assert list(check_files(configured, {})) == []
    missing(tmp_path)
    assert list(check_files(configured, {"CREDENTIALS_DIRECTORY": str(tmp_path)}))


# The connection


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_request_over_tls(sure: Settings, version: ssl.TLSVersion) -> None:
    async with served_by_tls(sure) as served:
        context = client_context()
        context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        stream = secured(served.dial(AWAY), context)
        assert b"200" in await answered(stream)
        assert b"200" in await answered(stream)
        assert stream.selected_alpn_protocol() == "http/1.1"
        assert stream.version() == version.name.replace("_", ".")


async def test_a_websocket_over_tls(sure: Settings) -> None:
    async with served_by_tls(sure, tcp=True) as served:
        stream = secured(await served.dial_tcp(), client_context())
        client = Client(stream)  # type: ignore[arg-type]  # ending one side is not asked of it
        await client.upgrade()
        await client.text("hello")
        assert await client.hear() == "hello"
        big = "x" * 16_000
        for _ in range(20):
            await client.text(big)
        assert [await client.hear() for _ in range(20)] == [big] * 20
        assert served.chatters[0].websocket.request.secure
        await client.text("kick")
        assert await client.closed() == (4500, "kicked by ann")
        await client.send(masked(0x88, (1000).to_bytes(2, "big")))
        # With a close_notify: without one this raises.
        assert await stream.receive_some() == b""
        assert served.faults == []


async def test_an_error_over_tls_has_its_close_code_and_ends(sure: Settings) -> None:
    async with served_by_tls(sure, tcp=True) as served:
        client = Client(secured(await served.dial_tcp(), client_context()))  # type: ignore[arg-type]
        await client.upgrade()
        await client.send(b"\x81\x01x")  # not masked
        assert (await client.closed())[0] == 1002
        assert await client.frame() is None
        await client.aclose()
        await served.chatters[0].over.wait()


async def test_unix_sockets_stay_plain(sure: Settings, tmp_path: Path) -> None:
    async with served_by_tls(sure) as served, trio.open_nursery() as nursery:
        path = tmp_path / "chat.sock"
        listeners = open_listeners([f"unix:{path}"])

        async def accept(task_status: trio.TaskStatus[None]) -> None:
            await served.server.serve(listeners, handlers=served.handlers, task_status=task_status)

        await nursery.start(accept)
        async with await trio.open_unix_socket(path) as stream:
            assert b"200" in await answered(stream)
        nursery.cancel_scope.cancel()


async def test_plain_http_gets_the_hint_to_use_https(sure: Settings) -> None:
    async with served_by_tls(sure) as served:
        client = served.dial(AWAY)
        status, headers, body = await client.ask("GET /?token=secret HTTP/1.1")
        assert (status, headers["connection"]) == (400, "close")
        assert b"https://" in body
        await client.stream.send_eof()
        assert await client.rest() == b""
        assert served.server.statistics().refused == {400: 1}


async def test_a_new_certificate_is_used_for_new_connections(
    sure: Settings, tmp_path: Path
) -> None:
    async with served_by_tls(sure) as served:
        before = secured(served.dial(AWAY), client_context())
        await answered(before)
        served.server.tls = tls_context(issue(tmp_path, "new.example.org"))
        after = secured(served.dial(AWAY), client_context(), "new.example.org")
        await answered(after)
        assert b"200" in await answered(before)


def refusals(served: Served) -> list[str]:
    return [fields["reason"] for name, fields in served.recording.records if name == "refused"]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"\x16\x03\x01\x00\x05hello", "the TLS handshake failed: "),
        (b"\x16\x03", "the TLS handshake failed: the peer is gone"),
    ],
)
async def test_a_failed_handshake_is_one_line(sure: Settings, sent: bytes, said: str) -> None:
    async with served_by_tls(sure) as served:
        client = served.dial(AWAY)
        await client.send(sent)
        await client.stream.send_eof()
        await client.rest()
        [reason] = refusals(served)
        assert reason.startswith(said)
        assert served.faults == []
        assert served.server.statistics().turned_away == 1


async def test_a_client_that_distrusts_us_is_one_line(sure: Settings) -> None:
    async with served_by_tls(sure) as served:
        stream = secured(served.dial(AWAY), ssl.create_default_context())
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)
        await trio.testing.wait_all_tasks_blocked()
        assert len(refusals(served)) <= 1  # TLS 1.3's server is through before its client refuses
        assert served.faults == []


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01"])
async def test_a_slow_handshake_is_closed_in_time(
    sure: Settings, begun: bytes, autojump_clock: MockClock
) -> None:
    async with served_by_tls(sure) as served:
        client = served.dial(AWAY)
        await client.send(begun)
        await client.rest()
        assert trio.current_time() == pytest.approx(sure.limits.handshake_seconds)
        # A connection without data, such as a health check, is not logged.
        assert len(refusals(served)) == len(begun and [1])


async def test_a_drain_does_not_wait_for_unfinished_handshakes(sure: Settings) -> None:
    async with served_by_tls(sure) as served:
        idle = served.dial(AWAY)
        begun = secured(served.dial(AWAY), client_context())
        await begun.do_handshake()
        await trio.testing.wait_all_tasks_blocked()
        served.server.retire()
        assert await idle.rest() == b""


async def test_the_limit_by_address_is_answered_over_tls(sure: Settings) -> None:
    few = replace(sure, limits=replace(sure.limits, connections_per_address=1))
    async with served_by_tls(few) as served:
        await answered(secured(served.dial(AWAY), client_context()))
        stream = secured(served.dial(AWAY), client_context())
        await stream.send_all(GET)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 429 ")
