"""The keys for tokens: JWKs and sets of them (RFC 7517), and PEM. Sans-IO.

A key has one algorithm, by its type (RFC 8725 section 3.1): EdDSA for Ed25519, ES256 for P-256,
RS256 for RSA, HS256 for a secret.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode
from msgspec import Struct

__all__ = ["ALGORITHMS", "KEYS", "Key", "UnusableKey", "new_key", "read_key_set", "read_keys"]

SECRET_BYTES: Final = 32
"""An HS256 key has no fewer (RFC 7518 section 3.2)."""

KEYS: Final = 32
"""A set has at most this many. A token without a ``kid`` is tried with each of its type, and so
many verifications take some 2 ms with RSA, and 5 ms with P-256."""

# RFC 7518 section 3.3 has the lower bound; verifying with a larger key than this takes over 0.2 ms.
_RSA_BITS: Final = range(2048, 8192 + 1)

# EdDSA and Ed25519 (RFC 9864) name the same signature of such a key; issuers still say EdDSA.
_NAMES: Final = {
    "OKP": ("EdDSA", "Ed25519"),
    "EC": ("ES256",),
    "RSA": ("RS256",),
    "oct": ("HS256",),
}
_CURVES: Final = {"OKP": "Ed25519", "EC": "P-256"}

ALGORITHMS: Final = frozenset(name for names in _NAMES.values() for name in names)
"""The names of all algorithms, as a token's header has them."""

_NO_KEY: Final = "it holds no key of Ed25519, P-256 or RSA, and no secret for HS256"

_Material: TypeAlias = OKPKey | ECKey | RSAKey | OctKey
_Pair: TypeAlias = OKPKey | ECKey | RSAKey


class UnusableKey(Exception):  # noqa: N818  what the data is
    """There is no key for tokens. The message is the reason, without any part of the data."""


class Key(Struct, frozen=True):
    """A key.

    Attributes:
        id: RFC 7638's thumbprint.
        names: What a token's ``kid`` may say: the thumbprint, and the issuer's own name for it.
        signs: Whether it can sign.
        material: The key itself.
    """

    id: str
    names: tuple[str, ...]
    signs: bool
    material: _Material

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The names of the algorithm in a token's header; our tokens have the first."""
        return _NAMES[self.material.key_type]

    # Not by the registry's `get_alg`, which warns about the name EdDSA, which is in common use.

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


def read_keys(data: bytes) -> list[Key]:
    """Return the keys in a file: a JWK, a set of JWKs, or PEM. A public key can only verify.

    Raises:
        UnusableKey: There is none.
    """
    data = data.strip().removeprefix(b"\xef\xbb\xbf")
    if data.startswith(b"-----BEGIN "):
        return [_pem(data)]
    fields = _decoded(data)
    if "keys" in fields:
        return _usable(fields["keys"])
    if why := _other_purpose(fields):
        raise UnusableKey(why)
    return [_jwk(fields)]


def read_key_set(data: bytes) -> list[Key]:
    """Return the public keys of a set that an issuer publishes.

    A secret that everybody can read signs nothing, so a set of secrets alone has no usable key.

    Raises:
        UnusableKey: There is none, or this is no set of keys.
    """
    fields = _decoded(data)
    if "keys" not in fields:
        raise UnusableKey("it is not a set of keys (JWKS)")
    public = [key for key in _usable(fields["keys"]) if not isinstance(key.material, OctKey)]
    if not public:
        raise UnusableKey("it has only secrets, which nobody may publish")
    return [Key(key.id, key.names, False, key.material) for key in public]


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError):
        raise UnusableKey("it is neither JSON (a JWK or a set of them) nor PEM") from None


def _usable(listed: object) -> list[Key]:
    """Return the keys of a set that tokens may be signed with.

    Issuers list others too, for encryption or for newer algorithms: RFC 7517 section 5 has them
    ignored.
    """
    if not isinstance(listed, list):
        raise UnusableKey("its keys are not a list")
    if len(listed) > KEYS:
        raise UnusableKey(f"it has over {KEYS} keys")
    keys: list[Key] = []
    why = "it has none"
    for fields in listed:
        if not isinstance(fields, dict):
            continue
        if other := _other_purpose(fields):
            why = other
            continue
        try:
            keys.append(_jwk(fields))
        except UnusableKey as unusable:
            why = str(unusable)
    if not keys:
        raise UnusableKey(f"it is a set of keys without a usable one: {why}")
    return keys


def _other_purpose(fields: dict[str, Any]) -> str | None:
    """Return why a JWK does not verify tokens; None if it may (RFC 7517 sections 4.2 to 4.4)."""
    use, operations, algorithm = (fields.get(name) for name in ("use", "key_ops", "alg"))
    if use not in (None, "sig"):
        return "its use is not sig"
    if isinstance(operations, list) and not {"sign", "verify"}.intersection(_texts(operations)):
        return "its key_ops are not those of signatures"
    names = _NAMES.get(fields["kty"], ()) if isinstance(fields.get("kty"), str) else ()
    if algorithm is not None and names and algorithm not in names:
        return f"its alg is not {names[0]}"
    return None


def _texts(values: Iterable[object]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _pem(data: bytes) -> Key:
    for kind in (OKPKey, ECKey, RSAKey):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)
                return _pair(kind.import_key(data), None)
        except (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
            continue
    raise UnusableKey(_NO_KEY)


def _jwk(fields: dict[str, Any]) -> Key:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)
            match fields.get("kty"):
                case "oct":
                    return _secret(fields)
                case "OKP":
                    return _pair(OKPKey.import_key(_numbers(fields)), fields.get("kid"))
                case "EC":
                    return _pair(ECKey.import_key(_numbers(fields)), fields.get("kid"))
                case "RSA":
                    return _pair(RSAKey.import_key(_numbers(fields)), fields.get("kid"))
                case _:
                    pass
    except (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, OverflowError):
        pass
    raise UnusableKey(_NO_KEY)


def _numbers(fields: dict[str, Any]) -> Any:
    """Return the members of a JWK that are the key itself.

    Others, such as Azure's ``issuer``, or ``x5c`` and ``x5t``, say nothing that is relied on.
    """
    return {name: fields[name] for name in _MEMBERS.intersection(fields)}


_MEMBERS: Final = frozenset({"kty", "crv", "x", "y", "n", "e", "d", "p", "q", "dp", "dq", "qi"})


def _secret(fields: dict[str, Any]) -> Key:
    secret = urlsafe_b64decode(str(fields.get("k", "")).encode())
    if len(secret) < SECRET_BYTES:
        raise UnusableKey(f"its secret has {len(secret)} bytes; HS256 wants {SECRET_BYTES} or more")
    key = OctKey.import_key({"kty": "oct", "k": fields["k"]})
    return _named(key, fields.get("kid"), signs=True)


def _pair(given: _Pair, kid: object) -> Key:
    if isinstance(given, RSAKey):
        bits = given.public_key.key_size
        if bits not in _RSA_BITS:
            raise UnusableKey(
                f"it is an RSA key of {bits} bits; tokens take {_RSA_BITS[0]} to {_RSA_BITS[-1]}"
            )
    elif given.curve_name != (curve := _CURVES[given.key_type]):
        raise UnusableKey(f"it is a key of {given.curve_name}; tokens take {curve}")
    # From the key itself: what a file says of it may be wrong, or written in another way.
    key: _Pair
    match given:
        case OKPKey():
            key = OKPKey.import_key(given.private_key or given.public_key)
        case ECKey():
            key = ECKey.import_key(given.private_key or given.public_key)
        case _:
            key = RSAKey.import_key(given.private_key or given.public_key)
    if isinstance(given, OKPKey) and given.thumbprint() != key.thumbprint():
        raise UnusableKey("its public half (x) is not that of its private half (d)")
    return _named(key, kid, signs=key.is_private)


def _named(key: _Material, kid: object, *, signs: bool) -> Key:
    thumbprint = key.thumbprint()
    names = (thumbprint, kid) if isinstance(kid, str) and kid != thumbprint else (thumbprint,)
    return Key(thumbprint, names, signs, key)
