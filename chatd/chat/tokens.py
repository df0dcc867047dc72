"""Tokens: an issuer's signed statement of a user's identity and rights. Sans-IO.

A token is a JWT (RFC 7519) in a JWS of three parts (RFC 7515), read as RFC 8725 advises:

1. A key has one algorithm, by its type: EdDSA for Ed25519, HS256 for a secret. The token's header
   must name that one; it cannot choose another. ``kid`` only tells which key to try.
2. Nothing in a token is believed, or quoted in a refusal, before its signature is verified. Then
   its times and its ``sub`` are checked.
"""

from __future__ import annotations

import binascii
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OctKey, OKPKey
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode, urlsafe_b64encode
from msgspec import Struct, field

from chatd.chat.names import Pattern, nick_name, room_pattern
from chatd.chat.sessions import is_guest
from chatd.model import Refused

__all__ = ["TOKEN_BYTES", "Grant", "Key", "Keys", "UnusableKey", "new_key", "read_key"]

TOKEN_BYTES: Final = 8192
"""A longer token is refused unread. One with a few hundred rooms fits, also into an HTTP head."""

SKEW_SECONDS: Final = 60
"""The issuer's clock may be ahead of ours by this much."""

SECRET_BYTES: Final = 32
"""An HS256 key has no fewer (RFC 7518 section 3.2)."""

AUDIENCE: Final = "chatd"
"""The audience that a token must include if it names any (RFC 7519 section 4.1.3)."""

_MOST_SECONDS: Final = 2**40
"""A later time is invalid; this one is some 35,000 years away."""

# EdDSA and Ed25519 (RFC 9864) name the same signature of such a key; issuers still say EdDSA.
_NAMES: Final = {"OKP": ("EdDSA", "Ed25519"), "oct": ("HS256",)}


class Grant(Struct, frozen=True):
    """The contents of a valid token. Times are in ms since 1970; ``key`` is the id of its key.

    ``rooms`` are the rooms that the user may read and write in; None for all. ``read`` are rooms in
    which the user may only read, even if ``rooms`` has them too.
    """

    user: str
    key: str
    expires: int
    lifetime: int
    rooms: tuple[Pattern, ...] | None = None
    read: tuple[Pattern, ...] = ()
    op: bool = False
    nick: str | None = None

    def may_read(self, room: str) -> bool:
        return self.rooms is None or _any(self.rooms, room) or _any(self.read, room)

    def may_write(self, room: str) -> bool:
        return (self.rooms is None or _any(self.rooms, room)) and not _any(self.read, room)


def _any(patterns: Iterable[Pattern], room: str) -> bool:
    return any(pattern.matches(room) for pattern in patterns)


class UnusableKey(Exception):  # noqa: N818  what the file is
    """A file holds no key for tokens. The message is the reason, without any part of the file."""


class Key(Struct, frozen=True):
    """A key: its id (RFC 7638's thumbprint) and whether it can sign."""

    id: str
    signs: bool
    material: OKPKey | OctKey

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The names of the algorithm in a token's header; our tokens have the first."""
        return _NAMES[self.material.key_type]

    # Not by the registry's `get_alg`, which warns about the name in common use.

    def sign(self, body: bytes) -> bytes:
        return JWSRegistry.algorithms[self.algorithms[0]].sign(body, self.material)

    def verify(self, body: bytes, signature: bytes) -> bool:
        return JWSRegistry.algorithms[self.algorithms[0]].verify(body, signature, self.material)

    def __repr__(self) -> str:
        return f"<Key {self.id}>"


def new_key(*, symmetric: bool = False) -> str:
    """Return a new private key, as the line of JSON that goes into a file."""
    key = OctKey.generate_key(8 * SECRET_BYTES) if symmetric else OKPKey.generate_key("Ed25519")
    parameters = {"use": "sig", "kid": key.thumbprint()}
    return json.dumps({**key.as_dict(private=True), **parameters})


def read_key(data: bytes) -> Key:
    """Return the key in a file's contents: a JWK (RFC 7517), or PEM for Ed25519.

    A public key can only verify.

    Raises:
        UnusableKey: there is no such key.
    """
    data = data.strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SecurityWarning)
            if data.startswith(b"-----BEGIN "):
                return _okp(OKPKey.import_key(data))
            return _jwk(data)
    except (JoseError, SecurityWarning, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        raise UnusableKey("it holds neither an Ed25519 key nor a secret for HS256") from None


def _jwk(data: bytes) -> Key:
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError):
        raise UnusableKey("it is neither a JWK (one JSON object) nor PEM") from None
    if "keys" in fields:
        raise UnusableKey("it is a set of keys: write each into a file of its own")
    if fields.get("kty") != "oct":
        return _okp(OKPKey.import_key(fields))
    secret = urlsafe_b64decode(str(fields.get("k", "")).encode())
    if len(secret) < SECRET_BYTES:
        raise UnusableKey(f"its secret has {len(secret)} bytes; HS256 wants {SECRET_BYTES} or more")
    key = OctKey.import_key({"kty": "oct", "k": fields["k"]})
    return Key(key.thumbprint(), True, key)


def _okp(given: OKPKey) -> Key:
    if given.curve_name != "Ed25519":
        raise UnusableKey(f"it is a key of {given.curve_name}; tokens take Ed25519")
    # From the key's numbers alone: what the file says in ``x``, ``kid`` and ``alg`` may be wrong.
    key = OKPKey.import_key(given.private_key or given.public_key)
    if given.thumbprint() != key.thumbprint():
        raise UnusableKey("its public half (x) is not that of its private half (d)")
    return Key(key.thumbprint(), key.is_private, key)


class _Header(Struct):
    alg: str
    kid: str | None = None
    crit: Any = None


class _Claims(Struct, kw_only=True, omit_defaults=True):
    sub: str
    exp: int | float
    nbf: int | float | None = None
    iat: int | float | None = None
    aud: str | list[str] | None = None
    rooms: list[str] | None = None
    read: list[str] = field(default_factory=list)
    op: bool = False
    nick: str | None = None


_T = TypeVar("_T")


class _Bad(Exception):  # noqa: N818  what the token is; never leaves this file
    pass


class Keys:
    """The configured keys. All of them verify tokens; the first one that can sign issues them."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._keys = {key.id: key for key in keys}

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    def verify(self, text: str, now: int) -> Grant:
        """Return what a token grants at ``now`` (ms).

        Raises:
            Refused: the token is invalid. Nothing else is raised, whatever the text.
        """
        try:
            key, claims = self._signed(text)
            return _grant(key, claims, now / 1000)
        except _Bad as bad:
            raise Refused("unauthorized", f"This token is not valid: {bad}.") from None

    def issue(
        self,
        user: str,
        *,
        now: int,
        seconds: int,
        rooms: Sequence[str] | None = None,
        read: Sequence[str] = (),
        op: bool = False,
        nick: str | None = None,
    ) -> str:
        """Return a token that is valid for ``seconds`` from ``now`` (ms) on.

        Raises:
            Refused: there is no key to sign with, or `verify` would refuse such a token.
        """
        key = next((key for key in self._keys.values() if key.signs), None)
        if key is None:
            raise Refused("not_found", "There is no private key to sign with.")
        claims = _Claims(
            sub=user,
            exp=now // 1000 + seconds,
            iat=now // 1000,
            rooms=None if rooms is None else list(rooms),
            read=list(read),
            op=op,
            nick=nick,
        )
        try:
            _grant(key, claims, now / 1000)
        except _Bad as bad:
            raise Refused("bad_request", f"This token cannot be issued: {bad}.") from None
        header = {"typ": "JWT", "alg": key.algorithms[0], "kid": key.id}
        body = b".".join(urlsafe_b64encode(msgspec.json.encode(part)) for part in (header, claims))
        token = b".".join((body, urlsafe_b64encode(key.sign(body)))).decode()
        if len(token) > TOKEN_BYTES:
            raise Refused(
                "too_large", f"Tokens have at most {TOKEN_BYTES} bytes. Name fewer rooms."
            )
        return token

    def _signed(self, text: str) -> tuple[Key, _Claims]:
        if len(text) > TOKEN_BYTES or not text.isascii():
            raise _Bad("it is malformed")
        body, _, signature = text.encode().rpartition(b".")
        head, _, claims = body.partition(b".")
        header = _decoded(head, _Header, "header")
        if header.crit is not None:
            raise _Bad("it has critical extensions (crit), which are not supported")
        try:
            seal = urlsafe_b64decode(signature)
        except binascii.Error:
            raise _Bad("it is malformed") from None
        for key in self._candidates(header):
            if key.verify(body, seal):
                return key, _decoded(claims, _Claims, "body")
        raise _Bad("it was not signed with a key of this server")

    def _candidates(self, header: _Header) -> Iterator[Key]:
        # Another issuer may use other key ids: then every key of that type is tried.
        named = self._keys.get(header.kid or "")
        for key in self._keys.values() if named is None else (named,):
            if header.alg in key.algorithms:
                yield key


def _decoded(part: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(urlsafe_b64decode(part), type=kind)
    except (ValueError, RecursionError):
        raise _Bad(f"its {what} is malformed") from None


def _grant(key: Key, claims: _Claims, now: float) -> Grant:
    times = (claims.exp, claims.nbf, claims.iat)
    if not all(time is None or 0 <= time < _MOST_SECONDS for time in times):
        raise _Bad("invalid exp, nbf or iat")
    if claims.exp <= now:
        raise _Bad("it has expired")
    begins = max(claims.nbf or 0, claims.iat or 0)
    if begins > now + SKEW_SECONDS:
        raise _Bad("it is not valid yet")
    if claims.aud is not None and AUDIENCE not in (
        [claims.aud] if isinstance(claims.aud, str) else claims.aud
    ):
        raise _Bad(f"its aud is not {AUDIENCE}")
    try:
        user = nick_name(claims.sub)
    except Refused as refused:
        raise _Bad(f"invalid sub. {refused}".removesuffix(".")) from None
    if is_guest(user.key):
        raise _Bad("its sub looks like a guest's id")
    issued = now if claims.iat is None else min(claims.iat, now)
    return Grant(
        user=user.display,
        key=key.id,
        expires=int(claims.exp * 1000),
        lifetime=int((claims.exp - issued) * 1000),
        rooms=None if claims.rooms is None else _patterns(claims.rooms),
        read=_patterns(claims.read),
        op=claims.op,
        nick=claims.nick,
    )


def _patterns(texts: Sequence[str]) -> tuple[Pattern, ...]:
    try:
        return tuple(room_pattern(text) for text in texts)
    except Refused as refused:
        raise _Bad(f"invalid rooms or read. {refused}".removesuffix(".")) from None
