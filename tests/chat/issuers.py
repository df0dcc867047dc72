"""Identity providers: their keys and tokens, in the shapes that theirs have."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import trustme
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate
from joserfc.jwk import ECKey, RSAKey
from joserfc.util import urlsafe_b64encode
from msgspec import Struct

from chatd.chat.token_keys import Key, read_keys
from chatd.settings import Auth
from tests.wire.certificates import AUTHORITY

__all__ = [
    "AUTHORITY_CERTIFICATE",
    "PROVIDERS",
    "RSA",
    "Answer",
    "Provider",
    "give",
    "published",
    "served",
    "signed",
]

Fields = dict[str, Any]

NOW: Final = 1_750_000_000_000
"""When the tokens are made, in ms since 1970."""

RSA: Final = RSAKey.generate_key(2048)
EC: Final = ECKey.generate_key("P-256")
ENCRYPTION: Final = RSAKey.generate_key(2048)

AUTHORITY_CERTIFICATE: Final = trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes()
_X5C: Final = urlsafe_b64encode(
    load_pem_x509_certificate(AUTHORITY_CERTIFICATE).public_bytes(Encoding.DER)
).decode()


def published(*keys: Any) -> bytes:
    """Return a set of keys, as an issuer's address gives it."""
    return json.dumps({"keys": list(keys)}).encode()


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode()


def signed(claims: Fields | bytes, key: Any, **header: Any) -> str:
    """Sign any claims with any header."""
    if not isinstance(key, Key):
        [key] = read_keys(json.dumps(key.as_dict(private=True)).encode())
    fields = {"alg": key.algorithms[0], **header}
    content = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    body = f"{b64(json.dumps(fields).encode())}.{b64(content)}"
    return f"{body}.{b64(key.sign(body.encode()))}"


class Provider(Struct, frozen=True):
    """An identity provider: its set of keys, a token's header and claims, and our settings."""

    name: str
    key: Any
    keys: bytes
    header: Fields
    claims: Fields
    auth: Callable[[], Auth]
    user: str
    nick: str

    def token(self, **claims: Any) -> str:
        return signed({**self.claims, **claims}, self.key, **self.header)


def _times(seconds: int = 300) -> Fields:
    now = NOW // 1000
    return {"iat": now, "exp": now + seconds}


KEYCLOAK: Final = Provider(
    "keycloak",
    RSA,
    published(
        {
            **ENCRYPTION.as_dict(private=False),
            "kid": "KFqhUqjyWYUSfwq9UfH6iQ0Yb1IKqeWnTNUqVmSbqPk",
            "alg": "RSA-OAEP",
            "use": "enc",
            "x5c": [_X5C],
            "x5t": "3cR3WCD2MdoIdvHTkhIRd2jIW_s",
            "x5t#S256": "dXgTmJpfBl5b9ZJhlaPHnYcVZ0Qyv9YBXJoqRrJqYtQ",
        },
        {
            **RSA.as_dict(private=False),
            "kid": "xqCp0OQ8zGo3rdM8BVcJxk2nnB9wcNrjNq0wEHkH7gE",
            "alg": "RS256",
            "use": "sig",
            "x5c": [_X5C],
            "x5t": "Bxyh3rPhMAW5kRGVqHW9BgHQmKw",
            "x5t#S256": "hzNxr4NbC0YcfWUZhkqAIGI9bw0UvY5bYWwG7vPm8Ew",
        },
    ),
    {"typ": "JWT", "kid": "xqCp0OQ8zGo3rdM8BVcJxk2nnB9wcNrjNq0wEHkH7gE"},
    {
        **_times(),
        "auth_time": NOW // 1000 - 4,
        "jti": "onrtac:5b6f9f1e-55f5-4b0c-9b5c-2cf3a0b7b3a0",
        "iss": "https://sso.example.org/realms/team",
        "aud": ["chat", "account"],
        "sub": "f3a9c1de-7c0e-4f0d-9f3e-0c6a5c1f2b7d",
        "typ": "Bearer",
        "azp": "chat-web",
        "sid": "cf6f1d5c-1d7e-4d44-9b7d-6a2d6a4f5d11",
        "acr": "1",
        "allowed-origins": ["https://chat.example.org"],
        "realm_access": {"roles": ["offline_access", "default-roles-team"]},
        "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
        "scope": "openid profile email",
        "email_verified": True,
        "name": "Ann Smith",
        "preferred_username": "ann.smith",
        "given_name": "Ann",
        "family_name": "Smith",
        "email": "ann@example.org",
    },
    lambda: Auth(
        mode="token",
        issuer="https://sso.example.org/realms/team",
        audience="chat",
        nick_claim="preferred_username",
    ),
    "f3a9c1de-7c0e-4f0d-9f3e-0c6a5c1f2b7d",
    "ann.smith",
)

AUTH0: Final = Provider(
    "auth0",
    RSA,
    published(
        {
            "alg": "RS256",
            **RSA.as_dict(private=False),
            "use": "sig",
            "x5c": [_X5C],
            "kid": "NjVBRjY5MDlCMUIwNzU4RTA2QzZFMDQ4QzQ2MDAyQjVDNjk1RTM2Qg",
            "x5t": "NjVBRjY5MDlCMUIwNzU4RTA2QzZFMDQ4QzQ2MDAyQjVDNjk1RTM2Qg",
        }
    ),
    {"typ": "at+jwt", "kid": "NjVBRjY5MDlCMUIwNzU4RTA2QzZFMDQ4QzQ2MDAyQjVDNjk1RTM2Qg"},
    {
        **_times(86_400),
        "iss": "https://team.eu.auth0.com/",
        "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
        "aud": ["https://chat.example.org", "https://team.eu.auth0.com/userinfo"],
        "azp": "my_client_id",
        "scope": "openid profile email",
        "permissions": [],
        "https://chat.example.org/name": "Ann Smith",
    },
    lambda: Auth(
        mode="token",
        issuer="https://team.eu.auth0.com/",
        audience="https://chat.example.org",
        nick_claim="https://chat.example.org/name",
    ),
    "auth0|5f7c8ec7c33c6c004bbafe82",
    "Ann-Smith",
)

ENTRA: Final = Provider(
    "entra",
    RSA,
    published(
        {
            # Without alg.
            **RSA.as_dict(private=False),
            "use": "sig",
            "kid": "nOo3ZDrODXEK1jKWhXslHR_KXEg",
            "x5t": "nOo3ZDrODXEK1jKWhXslHR_KXEg",
            "x5c": [_X5C],
            "cloud_instance_name": "microsoftonline.com",
            "issuer": "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0",
        }
    ),
    {
        "typ": "JWT",
        "x5t": "nOo3ZDrODXEK1jKWhXslHR_KXEg",
        "kid": "nOo3ZDrODXEK1jKWhXslHR_KXEg",
    },
    {
        **_times(4_500),
        "nbf": NOW // 1000,
        "aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3",
        "iss": "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
        "aio": "AXQAi/8IAAAAtAaZLo3ChMif6KOnttRB7eBq4/DccQzjcJGxPYy/C3jDaNGxXd6wNIIVGRghNRnwJ1lO",
        "azp": "6e74172b-be56-4843-9ff4-e66a39bb12e3",
        "azpacr": "0",
        "groups": [f"{number:08x}-86f1-41af-91ab-2d7cd011db47" for number in range(200)],
        "name": "Zoë Müller",
        "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
        "preferred_username": "zoe@example.org",
        "rh": "I",
        "roles": ["Chat.User"],
        "scp": "access_as_user",
        "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
        "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47",
        "uti": "fqiBqXLPj0eQa82S-IYFAA",
        "ver": "2.0",
    },
    lambda: Auth(
        mode="token",
        issuer="https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
        audience="6e74172b-be56-4843-9ff4-e66a39bb12e3",
        nick_claim="name",
    ),
    "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
    "Zoë-Müller",
)

GOOGLE: Final = Provider(
    "google",
    RSA,
    published(
        {
            "kid": "6f9777a685907798ef794062c00b65d66c240b1b",
            **EC.as_dict(private=False),
            "alg": "ES256",
            "use": "sig",
        },
        {
            **RSA.as_dict(private=False),
            "alg": "RS256",
            "use": "sig",
            "kid": "ba63b436836a939b795b4122d3f4d0d225d1c700",
        },
    ),
    {"typ": "JWT", "kid": "ba63b436836a939b795b4122d3f4d0d225d1c700"},
    {
        **_times(3_600),
        "iss": "https://accounts.google.com",
        "azp": "407408718192.apps.googleusercontent.com",
        "aud": "407408718192.apps.googleusercontent.com",
        "sub": "110169484474386276334",
        "hd": "example.org",
        "email": "ann@example.org",
        "email_verified": True,
        "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q",
        "name": "Ann Smith",
        "picture": "https://lh3.googleusercontent.com/a/ACg8ocK=s96-c",
        "given_name": "Ann",
        "family_name": "Smith",
        "locale": "en",
    },
    lambda: Auth(
        mode="token",
        issuer="https://accounts.google.com",
        audience="407408718192.apps.googleusercontent.com",
        nick_claim="email",
    ),
    "110169484474386276334",
    "ann",
)

PROVIDERS: Final = (KEYCLOAK, AUTH0, ENTRA, GOOGLE)


# ---- an address


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def served(answer: Answer) -> Iterator[str]:
    """Serve https with one answer for every request, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  as its base class
            """Log nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    with ThreadingHTTPServer(("localhost", 0), Handler) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"https://localhost:{server.server_port}/keys?a=b"
        finally:
            server.shutdown()
            thread.join()


def give(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **fields: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **fields}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
