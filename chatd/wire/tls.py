"""TLS: the server's certificate, the handshake, and the transport."""

from __future__ import annotations

import itertools
import math
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from chatd.paths import SecretError, exposed, secret_file
from chatd.settings import Rule, Settings
from chatd.wire.transport import StreamTransport, Transport

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "HANDSHAKE",
    "HandshakeError",
    "ServerContext",
    "TlsError",
    "check_files",
    "doubts",
    "shake_hands",
    "tls_context",
]

HANDSHAKE: Final = 0x16
"""The first byte of a TLS connection, and never of a plain one: RFC 8446 section 5.1."""

# For TLS 1.2, those with forward secrecy and authenticated encryption: Mozilla's "intermediate"
# without finite-field Diffie-Hellman. TLS 1.3 has no others.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
# A record of 16 KiB with its overhead: RFC 8446 section 5.2.
_RECORD_BYTES: Final = 16384 + 256 + 5
# A chain of certificates has a few KiB. A larger file is the wrong one.
_FILE_BYTES: Final = 1 << 20

_SOON_SECONDS: Final = 14 * 24 * 60 * 60
"""Before its end a certificate is warned of: as docs/prometheus-alerts.yml does."""


class TlsError(Exception):
    """The certificate or its key cannot be used. ``key`` is the configuration's, below ``tls``."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"tls.{key}: {message}")
        self.key: Final = key


class HandshakeError(Exception):
    """A peer's handshake failed. The message says why."""


class ServerContext(ssl.SSLContext):
    """A server's context that knows when its certificate expires."""

    expires: float = math.inf
    """When the first certificate of the chain expires, as a Unix time. Infinite if unknown."""


def tls_context(
    settings: Settings, environ: Mapping[str, str] = os.environ
) -> ServerContext | None:
    """Load the certificate and its key. Return None if TLS is off.

    Raises:
        TlsError: They cannot be used.
    """
    tls = settings.tls
    if tls.certificate_file == "off":
        return None
    certificate = _readable("certificate_file", tls.certificate_file, environ, "CERTIFICATE")
    key = _readable("key_file", tls.key_file, environ, "PRIVATE KEY")
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # No client needs renegotiation, and each costs the server more (CVE-2011-1473).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])

    def no_passphrase() -> str:
        # Otherwise OpenSSL asks for it on the terminal.
        raise TlsError("key_file", f"{key} has a passphrase; chatd cannot ask for it")

    try:
        context.load_cert_chain(certificate, key, no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"{key} is not the key of {certificate}{_misplaced(certificate, key)}"
            raise TlsError("key_file", message) from error
        why = _reason(error) if error.reason else "one of them is damaged"
        message = f"{certificate} and {key} cannot be used: {why}"
        raise TlsError("certificate_file", message) from error
    except OSError as error:
        message = f"{certificate} and {key} cannot be read: {error.strerror}"
        raise TlsError("certificate_file", message) from error
    context.expires = _expires(certificate)
    return context


def check_files(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Rule]:
    """Yield what is wrong with the certificate or its key, for ``settings.load``.

    Only the service sees credentials: elsewhere they are not checked.
    """
    tls = settings.tls
    try:
        certificate, key = (
            secret_file(name, environ) for name in (tls.certificate_file, tls.key_file)
        )
        if tls.key_file == "off" or tls_context(settings, environ) is None:
            return
    except SecretError:
        return
    except TlsError as error:
        yield Rule([f"tls.{error.key}"], str(error))
        return
    for doubt in doubts(certificate, time.time()):
        yield Rule(["tls.certificate_file"], f"tls.certificate_file: {doubt}", warning=True)
    if warning := exposed(key):
        yield Rule(["tls.key_file"], f"tls.key_file: {warning}", warning=True)


def doubts(file: Path, now: float) -> Iterator[str]:
    """Yield why clients may not accept a usable chain of certificates at a time, or soon after."""
    chain = _chain(file)
    for number, each in enumerate(chain, 1):
        begins, ends = each.not_valid_before_utc, each.not_valid_after_utc
        which = f"The certificate in {file}"
        if number > 1:
            which = f"Certificate {number} in {file}, an authority's,"
        lifetime = ends.timestamp() - begins.timestamp()
        if ends.timestamp() <= now:
            yield f"{which} expired on {ends:%Y-%m-%d %H:%M} UTC. Clients do not accept it."
        elif begins.timestamp() > now:
            yield (
                f"{which} is not valid before {begins:%Y-%m-%d %H:%M} UTC. Until then clients do "
                "not accept it. Is this machine's clock right?"
            )
        elif ends.timestamp() - now < min(_SOON_SECONDS, lifetime / 3):
            yield f"{which} expires on {ends:%Y-%m-%d %H:%M} UTC. Renew it, then reload."
    for number, (each, issuer) in enumerate(itertools.pairwise(chain), 1):
        if each.issuer != issuer.subject:
            yield (
                f"Certificate {number} in {file} was not issued by certificate {number + 1}. Put "
                "the server's first, then its issuer's, then that one's issuer's, and no others."
            )


def _chain(file: Path) -> list[x509.Certificate]:
    """Return the certificates in a file; none if they are in another format that OpenSSL reads."""
    from cryptography import x509  # noqa: PLC0415  needed by TLS only

    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return []


def _misplaced(certificate: Path, key: Path) -> str:
    """Return that a key belongs to another certificate than the first, if it does."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  as above
        load_pem_private_key,
    )

    try:
        public = load_pem_private_key(key.read_bytes(), None).public_key()
    except (OSError, ValueError, TypeError):
        return ""
    for number, each in enumerate(_chain(certificate), 1):
        if each.public_key() == public:
            return f"'s first certificate, but of certificate {number}: put that one first"
    return ""


def _expires(file: Path) -> float:
    return min((each.not_valid_after_utc.timestamp() for each in _chain(file)), default=math.inf)


def _readable(key: str, name: str, environ: Mapping[str, str], label: str) -> Path:
    try:
        path = secret_file(name, environ)
        with path.open("rb") as stream:
            text = stream.read(_FILE_BYTES)
    except SecretError as error:
        raise TlsError(key, str(error)) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise TlsError(key, f"{name} cannot be read: {reason}") from error
    if f"{label}-----".encode() not in text:
        raise TlsError(key, f"{name} has no {label.lower()} in PEM")
    return path


async def shake_hands(
    transport: Transport, context: ssl.SSLContext, early: bytes
) -> StreamTransport:
    """Make the server's side of the handshake. ``early`` are bytes that have been read.

    The caller sets a deadline, and closes ``transport`` if this raises.

    Raises:
        HandshakeError: The handshake failed.
    """
    carrier = _Carrier(transport, early)
    stream = trio.SSLStream(carrier, context, server_side=True)
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        why = _reason(cause) if isinstance(cause, ssl.SSLError) else "the peer is gone"
        raise HandshakeError(f"the TLS handshake failed: {why}") from error
    return _TlsTransport(stream, carrier)


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "the peer is gone"
    return (error.reason or str(error)).replace("_", " ").lower()


class _Carrier(trio.abc.Stream):
    """A transport as the stream below trio's TLS, with the bytes that have been read."""

    def __init__(self, transport: Transport, early: bytes) -> None:
        self.transport: Final = transport
        self._early = early
        # While closing, nothing is waited for: what the kernel does not take is lost.
        self.closing = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._early:
            early, self._early = self._early, b""
            await trio.lowlevel.checkpoint()
            return early
        return await self.transport.recv(max_bytes or _RECORD_BYTES)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.closing:
            if self.transport.plain is not None:
                with suppress(OSError):
                    self.transport.plain.send(data)
            await trio.lowlevel.checkpoint()
        else:
            await self.transport.send_all(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.transport.aclose()


class _TlsTransport(StreamTransport):
    """TLS over another transport."""

    __slots__ = ("_carrier",)

    def __init__(self, stream: trio.SSLStream[_Carrier], carrier: _Carrier) -> None:
        transport = carrier.transport
        super().__init__(stream, transport.peer, listener_loopback=transport.listener_loopback)
        self._carrier = carrier

    def give_up_after(self, seconds: float) -> None:
        self._carrier.transport.give_up_after(seconds)

    async def send_eof(self) -> None:
        # TLS 1.2 cannot close one side alone. The carrier can, and the peer's last bytes are still
        # read. The data sent before marks its own end, by a length or a Close frame.
        await self._carrier.transport.send_eof()

    async def aclose(self) -> None:
        # With a close_notify, if the kernel takes it at once. The shield delays nothing: the
        # carrier does not wait.
        self._carrier.closing = True
        try:
            with trio.CancelScope(shield=True):
                await self._stream.aclose()
        finally:
            await self._carrier.aclose()
