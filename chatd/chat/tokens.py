"""Tokens: an issuer's signed statement of a user's identity and rights. Sans-IO.

A token is a JWT (RFC 7519) in a JWS of three parts (RFC 7515), read as RFC 8725 advises:

1. A key has one algorithm, by its type (`chatd.chat.token_keys`). The token's header must name that
   one; it cannot choose another, and the keys and addresses that a header may carry (``jwk``,
   ``jku``, ``x5c``, ``x5u``) are not looked at. ``kid`` only tells which key to try.
2. Nothing in a token is believed, or quoted in a refusal, before its signature is verified. Then
   its issuer, its audience, its times and its ``sub`` are checked.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from joserfc.util import urlsafe_b64decode, urlsafe_b64encode
from msgspec import Struct, field

from chatd.chat.names import Pattern, nick_of, room_pattern
from chatd.chat.sanctions import CONSOLE
from chatd.chat.sessions import is_guest
from chatd.chat.token_keys import ALGORITHMS, Key
from chatd.journal import FORGOTTEN
from chatd.model import Refused
from chatd.settings import Auth

__all__ = [
    "TOKEN_BYTES",
    "Grant",
    "Keys",
    "UnknownKey",
    "why_unusable",
]

TOKEN_BYTES: Final = 16_384
"""A longer token is refused unread. One with the 200 groups that Entra puts into a token fits."""

SUBJECT_CHARACTERS: Final = 255
"""The longest ``sub``, which is ASCII: OpenID Connect Core 1.0 section 2."""

SKEW_SECONDS: Final = 60
"""The issuer's clock may differ from ours by this much (RFC 7519 section 4.1.4: a few minutes)."""

DEFAULT: Final = Auth()
OFF: Final = "off"

AUDIENCE: Final = "chatd"
"""Where no audience is configured, a token need not name any, but must include this one if it does
(RFC 7519 section 4.1.3)."""

_RESERVED: Final = frozenset({CONSOLE, FORGOTTEN})

_MOST_SECONDS: Final = 2**40
"""A later time is invalid; this one is some 35,000 years away."""


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


_NOTHING: Final = msgspec.Raw()


class _Header(Struct):
    alg: str
    kid: str | None = None
    # Not decoded: the token is not verified yet.
    crit: msgspec.Raw = _NOTHING


class _Claims(Struct, kw_only=True, omit_defaults=True):
    sub: str
    exp: int | float
    nbf: int | float | None = None
    iat: int | float | None = None
    iss: str | None = None
    aud: str | list[str] | None = None
    rooms: list[str] | None = None
    read: list[str] = field(default_factory=list)
    op: bool = False


_T = TypeVar("_T")


class _Bad(Exception):  # noqa: N818  what the token is; never leaves this file
    pass


class UnknownKey(Refused):
    """A token is signed with none of the keys; its issuer may have made another one since."""


class Keys:
    """The keys that verify tokens. The first one that can sign issues them.

    Args:
        keys: The keys of the configuration.
        fetched: Keys of an issuer's, which came from its address.
    """

    def __init__(
        self,
        keys: Sequence[Key] = (),
        fetched: Sequence[Key] = (),
    ) -> None:
        self.fetched = tuple(fetched)
        self._configured = tuple(keys)
        # One of the configuration's may sign: it comes last, and stays.
        self._keys = {key.id: key for key in (*fetched, *keys)}
        self._named: dict[str, dict[str, Key]] = {}
        for key in (*keys, *fetched):
            for name in key.names:
                self._named.setdefault(name, {})[key.id] = key

    @property
    def configured(self) -> list[str]:
        """The ids of the keys of the configuration, sorted."""
        return sorted(key.id for key in self._configured)

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    def with_fetched(self, fetched: Sequence[Key]) -> Keys:
        """Return these with other keys of the issuer's."""
        return Keys(self._configured, fetched)

    def verify(self, text: str, now: int, expected: Auth = DEFAULT) -> Grant:
        """Return what a token grants at ``now`` (ms).

        Args:
            text: The token.
            now: The time.
            expected: The settings that say which issuer and audience it must name.

        Raises:
            UnknownKey: It was not signed with any of the keys, and names none of them.
            Refused: It is invalid. Nothing else is raised, whatever the text.
        """
        try:
            key, fields = self._signed(text)
            return _grant(key, fields, now / 1000, expected)
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
        expected: Auth = DEFAULT,
    ) -> str:
        """Return a token that is valid for ``seconds`` from ``now`` (ms) on.

        Raises:
            Refused: There is no key to sign with, or `verify` would refuse such a token.
        """
        key = next((key for key in self._keys.values() if key.signs), None)
        if key is None:
            raise Refused("not_found", "There is no private key to sign with.")
        claims = _Claims(
            sub=user,
            exp=now // 1000 + seconds,
            iat=now // 1000,
            iss=None if expected.issuer == OFF else expected.issuer,
            aud=None if expected.audience == OFF else expected.audience,
            rooms=None if rooms is None else list(rooms),
            read=list(read),
            op=op,
        )
        fields = msgspec.to_builtins(claims)
        if nick is not None:
            fields[expected.nick_claim] = nick
        try:
            _grant(key, fields, now / 1000, expected)
        except _Bad as bad:
            raise Refused("bad_request", f"This token cannot be issued: {bad}.") from None
        header = {"typ": "JWT", "alg": key.algorithms[0], "kid": key.id}
        body = b".".join(urlsafe_b64encode(msgspec.json.encode(part)) for part in (header, fields))
        token = b".".join((body, urlsafe_b64encode(key.sign(body)))).decode()
        if len(token) > TOKEN_BYTES:
            raise Refused(
                "too_large", f"Tokens have at most {TOKEN_BYTES} bytes. Name fewer rooms."
            )
        return token

    def _signed(self, text: str) -> tuple[Key, dict[str, Any]]:
        if len(text) > TOKEN_BYTES or not text.isascii():
            raise _Bad("it is malformed")
        if text.count(".") == 4:  # RFC 7516 section 3.1
            raise _Bad("it is encrypted (JWE); only signed tokens are accepted")
        body, _, signature = text.encode().rpartition(b".")
        head, _, claims = body.partition(b".")
        header = _decoded(head, _Header, "header")
        if header.crit != _NOTHING:
            raise _Bad("it has critical extensions (crit), which are not supported")
        try:
            seal = urlsafe_b64decode(signature)
        except binascii.Error:
            raise _Bad("it is malformed") from None
        if header.alg not in ALGORITHMS:
            raise _Bad("it is not signed with RS256, ES256, EdDSA or HS256")
        for key in self._candidates(header):
            if key.verify(body, seal):
                return key, _decoded(claims, dict[str, Any], "body")
        text = "it was not signed with a key of this server"
        if header.kid in self._named:
            raise _Bad(text)
        raise UnknownKey("unauthorized", f"This token is not valid: {text}.")

    def _candidates(self, header: _Header) -> list[Key]:
        if header.kid is None:
            keys: Iterable[Key] = self._keys.values()
        elif (named := self._named.get(header.kid)) is not None:
            keys = named.values()
        else:
            # Whoever has the other half of a key in a file may call it by another name.
            keys = self._configured
        return [key for key in keys if header.alg in key.algorithms]


def _grant(key: Key, fields: dict[str, Any], now: float, expected: Auth) -> Grant:
    try:
        claims = msgspec.convert(fields, _Claims)
    except msgspec.ValidationError as error:
        raise _Bad(f"its body is malformed: {error}") from None
    times = (claims.exp, claims.nbf, claims.iat)
    if not all(time is None or 0 <= time < _MOST_SECONDS for time in times):
        raise _Bad("invalid exp, nbf or iat")
    if claims.exp + SKEW_SECONDS <= now:
        raise _Bad("it has expired")
    begins = max(claims.nbf or 0, claims.iat or 0)
    if begins > now + SKEW_SECONDS:
        raise _Bad("it is not valid yet")
    _check_parties(claims, expected)
    if (why := why_unusable(claims.sub)) is not None:
        raise _Bad(why)
    # An issuer's clock that is behind ours has not reached the end yet.
    ends = claims.exp if now < claims.exp else claims.exp + SKEW_SECONDS
    issued = now if claims.iat is None else min(claims.iat, now)
    nick = fields.get(expected.nick_claim)
    return Grant(
        user=claims.sub,
        key=key.id,
        expires=int(ends * 1000),
        lifetime=int((ends - issued) * 1000),
        rooms=None if claims.rooms is None else _patterns(claims.rooms),
        read=_patterns(claims.read),
        op=claims.op,
        nick=nick_of(nick) if isinstance(nick, str) else None,
    )


def _check_parties(claims: _Claims, expected: Auth) -> None:
    if expected.issuer not in (OFF, claims.iss):
        raise _Bad(f"its iss is not {expected.issuer}")
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if expected.audience != OFF:
        wanted = expected.audience
    elif audiences is None:
        return
    else:
        wanted = AUDIENCE
    if wanted not in (audiences or ()):
        raise _Bad(f"its aud is not {wanted}")


def why_unusable(text: str) -> str | None:
    """Return why a text cannot be a token's ``sub``, and so a user's id; None if it can be."""
    if not (1 <= len(text) <= SUBJECT_CHARACTERS and text.isascii() and text.isprintable()):
        return f"invalid sub. It has 1 to {SUBJECT_CHARACTERS} printable ASCII characters"
    if is_guest(text.lower()):
        return "its sub looks like a guest's id"
    if text in _RESERVED:
        return f"the sub {text} is reserved"
    return None


def _decoded(part: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(urlsafe_b64decode(part), type=kind)
    except (ValueError, RecursionError):
        raise _Bad(f"its {what} is malformed") from None


def _patterns(texts: Sequence[str]) -> tuple[Pattern, ...]:
    try:
        return tuple(room_pattern(text) for text in texts)
    except Refused as refused:
        raise _Bad(f"invalid rooms or read. {refused}".removesuffix(".")) from None
