"""Keys as their files and an issuer's set have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey

from chatd.chat.token_keys import KEYS, Key, UnusableKey, new_key, read_key_set, read_keys
from tests.chat.issuers import AUTHORITY_CERTIFICATE, RSA, published

Fields = dict[str, Any]

EC = ECKey.generate_key("P-256")
ED = OKPKey.generate_key("Ed25519")
SECRET = OctKey.generate_key(256)


def only(data: bytes | Fields) -> Key:
    [key] = read_keys(data if isinstance(data, bytes) else json.dumps(data).encode())
    return key


def test_a_key_is_known_by_its_thumbprint_and_by_its_issuers_name() -> None:
    fields = json.loads(new_key())
    assert fields["kid"] == only(fields).id
    key = only(fields | {"kid": "mine", "x5t": "AQAB", "issuer": "https://idp.example.org"})
    assert key.id == fields["kid"]
    assert key.names == (key.id, "mine")
    assert only(fields | {"kid": 7}).names == (key.id,)
    assert fields["d"] not in repr(key)


@pytest.mark.parametrize(
    ("key", "algorithm"), [(ED, "EdDSA"), (EC, "ES256"), (RSA, "RS256"), (SECRET, "HS256")]
)
def test_the_type_of_a_key_fixes_its_algorithm(key: Any, algorithm: str) -> None:
    private = only(key.as_dict(private=True))
    assert private.algorithms[0] == algorithm
    assert private.signs
    assert private.verify(b"body", private.sign(b"body"))
    assert not private.verify(b"bodY", private.sign(b"body"))
    assert not private.verify(b"body", b"")


@pytest.mark.parametrize("key", [ED, EC, RSA])
def test_the_public_half_only_verifies_and_pem_is_the_same_key(key: Any) -> None:
    private, public = only(key.as_dict(private=True)), only(key.as_dict(private=False))
    assert (public.id, public.signs) == (private.id, False)
    assert public.verify(b"body", private.sign(b"body"))
    for half in (True, False):
        pem = only(key.as_pem(private=half))
        assert (pem.id, pem.signs) == (private.id, half)


def test_a_certificate_holds_a_public_key() -> None:
    assert only(AUTHORITY_CERTIFICATE).signs is False


def test_numbers_that_are_written_in_another_way_are_the_same_key() -> None:
    fields = RSA.as_dict(private=False)
    # 65537 with a byte of zeros before it, which RFC 7518 section 2 does not want.
    assert only(fields | {"e": "AAEAAQ"}).id == RSA.thumbprint()


def ed448(encryption: KeySerializationEncryption | None = None) -> bytes:
    return Ed448PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()
    )


def mismatched() -> bytes:
    one, other = json.loads(new_key()), json.loads(new_key())
    return json.dumps({**one, "x": other["x"]}).encode()


def small() -> bytes:
    return (
        b"-----BEGIN PUBLIC KEY-----\n"
        b"MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDAM3vrPU3B2mHMFTDPcvn6lpGL\n"
        b"g6TdCwcRoIfmQIrN8M6Lmt3h4DOHdzZDW2rqL3mA6Efh0tJ2YcNT9yO7C7FbVnWg\n"
        b"cdH9qKYJvvZ7bBDrdRPhZmxHqJnW4VXqCfFZtMxqCvY/S7O2pU7CpcZxMxJ0k1sB\n"
        b"S8v4X9wR3Jx1p2FzHwIDAQAB\n-----END PUBLIC KEY-----\n"
    )


def of(**more: Any) -> Callable[[], bytes]:
    return lambda: json.dumps({**EC.as_dict(private=False), **more}).encode()


NOTHING = "it is neither JSON (a JWK or a set of them) nor PEM"
NO_KEY = "it holds no key of Ed25519, P-256 or RSA, and no secret for HS256"
NONE_USABLE = "it is a set of keys without a usable one: "


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: b"", NOTHING),
        (lambda: b"\xff\x00", NOTHING),
        (lambda: b"[" * 5000, NOTHING),
        (lambda: b"<!doctype html>", NOTHING),
        (lambda: b"{}", NO_KEY),
        (lambda: b'{"kty": ["oct"]}', NO_KEY),
        (lambda: b'{"kty": "RSA", "n": "AQAB", "e": "AQAB"}', NO_KEY),
        (lambda: b'{"kty": "OKP", "crv": "Ed25519", "x": "AA"}', NO_KEY),
        (lambda: b'{"kty": "OKP", "crv": 7, "x": []}', NO_KEY),
        (lambda: b'{"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}', NO_KEY),
        (lambda: b'{"kty": "oct"}', "its secret has 0 bytes; HS256 wants 32 or more"),
        (
            lambda: b'{"kty": "oct", "k": "c2hvcnQ"}',
            "its secret has 5 bytes; HS256 wants 32 or more",
        ),
        (mismatched, "its public half (x) is not that of its private half (d)"),
        (ed448, "it is a key of Ed448; tokens take Ed25519"),
        (
            lambda: ECKey.generate_key("P-384").as_pem(private=False),
            "it is a key of P-384; tokens take P-256",
        ),
        (lambda: ed448(BestAvailableEncryption(b"secret")), NO_KEY),
        (small, "it is an RSA key of 1024 bits; tokens take 2048 to 8192"),
        (lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", NO_KEY),
        (of(use="enc"), "its use is not sig"),
        (of(key_ops=["deriveKey", 7]), "its key_ops are not those of signatures"),
        (of(alg="ES512"), "its alg is not ES256"),
        (of(alg=7), "its alg is not ES256"),
        (lambda: b'{"keys": []}', NONE_USABLE + "it has none"),
        (lambda: b'{"keys": {}}', "its keys are not a list"),
        (lambda: b'{"keys": [7, {"kty": "EC"}]}', NONE_USABLE + NO_KEY),
        (lambda: b'{"keys": [%b]}' % of(use="enc")(), NONE_USABLE + "its use is not sig"),
        (lambda: b'{"keys": [%b]}' % b",".join([b"{}"] * (KEYS + 1)), f"it has over {KEYS} keys"),
    ],
)
def test_invalid_key_files_are_refused_with_the_reason(make: Callable[[], bytes], why: str) -> None:
    with pytest.raises(UnusableKey) as caught:
        read_keys(make())
    assert str(caught.value) == why


def test_of_a_set_the_usable_keys_are_taken() -> None:
    data = published(
        RSA.as_dict(private=False, kid="1", alg="RS256", use="sig"),
        RSA.as_dict(private=False, kid="2", alg="RSA-OAEP", use="enc"),
        EC.as_dict(private=False, kid="3"),
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "kid": "4"},
        ED.as_dict(private=True, kid="5"),
        SECRET.as_dict(private=True, kid="6"),
    )
    assert [key.names[-1] for key in read_keys(data)] == ["1", "3", "5", "6"]
    # What everybody can read signs nothing here, and verifies only if it is public by its nature.
    fetched = read_key_set(data)
    assert [(key.names[-1], key.signs) for key in fetched] == [
        ("1", False),
        ("3", False),
        ("5", False),
    ]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{}", "it is not a set of keys (JWKS)"),
        (new_key().encode(), "it is not a set of keys (JWKS)"),
        (b"[]", NOTHING),
        (published(SECRET.as_dict(private=True)), "it has only secrets, which nobody may publish"),
        (RSA.as_pem(private=False), NOTHING),
    ],
    ids=["empty object", "key", "list", "secret", "pem"],  # keys are new in each process
)
def test_what_an_issuer_does_not_publish(data: bytes, why: str) -> None:
    with pytest.raises(UnusableKey) as caught:
        read_key_set(data)
    assert str(caught.value) == why


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.binary(max_size=200))
def test_garbage_is_no_key(data: bytes) -> None:
    for read in (read_keys, read_key_set):
        with pytest.raises(UnusableKey):
            read(data)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "p", "k", "use", "key_ops", "alg"]),
        JSON,
    )
)
def test_no_object_raises_anything_else(fields: Fields) -> None:
    kinds: tuple[Fields, ...] = (
        {},
        {"kty": "OKP", "crv": "Ed25519"},
        {"kty": "oct"},
        {"kty": "RSA"},
        {"kty": "EC"},
    )
    for kind in kinds:
        data = json.dumps(fields | kind).encode()
        for text in (data, b'{"keys": [%b]}' % data):
            with pytest.raises(UnusableKey):
                read_keys(text)


@given(JSON)
def test_no_set_raises_anything_else(keys: Any) -> None:
    with pytest.raises(UnusableKey):
        read_keys(json.dumps({"keys": keys}).encode())
