"""Certificates of an authority of the tests' own, and what its clients go by."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

import trustme

from chatd.settings import Settings
from tests.wire.served import settings

AUTHORITY = trustme.CA()
NAME = "chat.example.org"


def issue(
    folder: Path,
    name: str = NAME,
    *,
    begins: datetime | None = None,
    expires: datetime | None = None,
) -> Settings:
    """Write a certificate and its key, and give settings that name them."""
    folder.mkdir(exist_ok=True)
    issued = AUTHORITY.issue_cert(name, not_before=begins, not_after=expires)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    return settings(tls={"certificate_file": str(certificate), "key_file": str(key)})


def client_context() -> ssl.SSLContext:
    """Make the context of a client that trusts the authority."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context
