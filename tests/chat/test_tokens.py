"""Valid tokens, and every reason to refuse one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey
from joserfc.util import urlsafe_b64encode

from chatd.chat.tokens import TOKEN_BYTES, Grant, Key, Keys, UnusableKey, new_key, read_key
from tests.chat.room import refusal

NOW = 1_750_000_000_000

KEY = read_key(new_key().encode())
SECRET = read_key(new_key(symmetric=True).encode())
KEYS = Keys([KEY, SECRET])

Claims = dict[str, Any]


def claims(**more: Any) -> Claims:
    return {"sub": "ann", "exp": NOW // 1000 + 3600, **more}


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode()


def signed(payload: Claims | bytes, key: Key = KEY, **header: Any) -> str:
    """Sign any claims with any header."""
    fields = {"alg": key.algorithms[0], **header}
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    body = f"{b64(json.dumps(fields).encode())}.{b64(content)}"
    return f"{body}.{b64(key.sign(body.encode()))}"


def good(token: str, keys: Keys = KEYS, now: int = NOW) -> Grant:
    return keys.verify(token, now)


def bad(token: str, keys: Keys = KEYS, now: int = NOW) -> str:
    refused = refusal(keys.verify, token, now)
    assert refused is not None
    assert (refused.code, refused.retry_ms) == ("unauthorized", None)
    # Neither the token nor a part of it.
    assert not any(len(part) > 12 and part in refused.message for part in token.split("."))
    return refused.message.removeprefix("This token is not valid: ").removesuffix(".")


# ---- good ones


@pytest.mark.parametrize("key", [KEY, SECRET])
def test_what_is_issued_is_good_and_says_what_was_asked(key: Key) -> None:
    keys = Keys([key])
    token = keys.issue(
        "Ann", now=NOW, seconds=60, rooms=["Team-*"], read=["news"], op=True, nick="annie"
    )
    grant = good(token, keys)
    assert (grant.user, grant.nick, grant.op, grant.key) == ("Ann", "annie", True, key.id)
    assert (grant.expires, grant.lifetime) == (NOW + 60_000, 60_000)
    assert (grant.may_read("team-a"), grant.may_write("team-a")) == (True, True)
    assert (grant.may_read("news"), grant.may_write("news")) == (True, False)
    assert (grant.may_read("other"), grant.may_write("other")) == (False, False)


def test_without_rooms_it_is_all_of_them_but_those_to_read() -> None:
    grant = good(signed(claims(read=["news"])))
    assert grant.may_read("news")
    assert not grant.may_write("news")
    assert grant.may_write("lobby")
    assert grant.may_write("@g2,ann")


def test_with_rooms_direct_messages_are_asked_for_too() -> None:
    assert not good(signed(claims(rooms=["lobby"]))).may_write("@ann,bob")
    assert good(signed(claims(rooms=["lobby", "@*"]))).may_write("@ann,bob")
    assert not good(signed(claims(rooms=["@*"]))).may_read("lobby")
    assert not good(signed(claims(rooms=[]))).may_read("lobby")


def test_other_programs_tokens_are_good() -> None:
    by_library = jwt.encode({"alg": "HS256"}, claims(), SECRET.material, algorithms=["HS256"])
    assert good(by_library).user == "ann"
    assert good(signed(claims(), alg="Ed25519")).user == "ann"
    assert good(signed(claims(), kid="a name of the issuer's")).user == "ann"
    assert good(signed(claims(aud=["others", "chatd"]))).user == "ann"
    assert good(signed(claims(aud="chatd", jti="1", unknown={"a": []}))).user == "ann"


def test_the_first_private_key_signs() -> None:
    public = read_key(json.dumps(KEY.material.as_dict(private=False)).encode())
    assert public.id == KEY.id
    token = Keys([public, SECRET]).issue("ann", now=NOW, seconds=1)
    assert good(token).key == SECRET.id
    assert good(signed(claims()), Keys([public])).key == KEY.id
    no_key = refusal(Keys([public]).issue, "ann", now=NOW, seconds=1)
    assert no_key is not None
    assert no_key.code == "not_found"


def test_what_would_not_be_taken_is_not_issued() -> None:
    def issue(user: str, **fields: Any) -> str:
        refused = refusal(KEYS.issue, user, now=NOW, seconds=60, **fields)
        assert refused is not None
        return refused.code

    assert issue("a b") == "bad_request"
    assert issue("gabcdefghijklmn23") == "bad_request"
    assert issue("ann", rooms=["a b"]) == "bad_request"
    assert issue("ann", rooms=["a" * 60] * 200) == "too_large"


# ---- bad ones


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "its header is malformed"),
        ("..", "its header is malformed"),
        ("é", "it is malformed"),
        ("a" * (TOKEN_BYTES + 1), "it is malformed"),
        (signed(claims())[:-1] + "!", "it is malformed"),
        (signed(claims()) + ".x", "it is malformed"),
        (signed(claims(), SECRET, alg="none"), "it was not signed with a key of this server"),
        (signed(claims(), alg="HS256"), "it was not signed with a key of this server"),
        (signed(claims(), SECRET, alg="EdDSA"), "it was not signed with a key of this server"),
        (signed(claims(), SECRET, kid=KEY.id), "it was not signed with a key of this server"),
        (signed(claims(), alg=["EdDSA"]), "its header is malformed"),
        (signed(claims(), crit=["b64"], b64=False), "it has critical extensions"),
        (signed(b"[]"), "its body is malformed"),
        (signed(b"[" * 5000), "its body is malformed"),
        (signed({"sub": "ann"}), "its body is malformed"),
        (signed({"exp": NOW}), "its body is malformed"),
        (signed(claims(op=1)), "its body is malformed"),
        (signed(claims(sub=7)), "its body is malformed"),
        (signed(claims(exp=NOW // 1000)), "it has expired"),
        (signed(claims(exp=1e300)), "invalid exp, nbf or iat"),
        (signed(claims(exp=-1)), "invalid exp, nbf or iat"),
        (signed(claims(nbf=NOW // 1000 + 61)), "it is not valid yet"),
        (signed(claims(iat=NOW // 1000 + 61)), "it is not valid yet"),
        (signed(claims(aud="others")), "its aud is not chatd"),
        (signed(claims(aud=[])), "its aud is not chatd"),
        (signed(claims(sub="a,b")), "invalid sub"),
        (signed(claims(sub="a\nb")), "invalid sub"),
        (signed(claims(sub="")), "invalid sub"),
        (signed(claims(sub="g" + "a" * 16)), "its sub looks like a guest's id"),
        (signed(claims(sub="G" + "A" * 16)), "its sub looks like a guest's id"),
        (signed(claims(rooms=["a b"])), "invalid rooms or read"),
        (signed(claims(read=["@ann"])), "invalid rooms or read"),
    ],
)
def test_invalid_tokens_are_refused_with_the_reason(token: str, why: str) -> None:
    assert bad(token).startswith(why)


def test_the_public_half_is_no_secret_for_hs256() -> None:
    # RFC 8725 section 2.1: an attacker signs with the public key as the HMAC secret.
    public = KEY.material.as_dict(private=False)
    forged = Key("x", True, OctKey.import_key({"kty": "oct", "k": str(public["x"])}))
    assert bad(signed(claims(), forged)) == "it was not signed with a key of this server"


def test_clocks_may_differ_at_the_beginning_but_not_at_the_end() -> None:
    token = signed(claims(nbf=NOW // 1000, iat=NOW // 1000))
    assert good(token, now=NOW - 59_000).user == "ann"
    assert bad(token, now=NOW - 61_000) == "it is not valid yet"
    assert good(token, now=NOW + 3_599_999).user == "ann"
    assert bad(token, now=NOW + 3_600_000) == "it has expired"


def test_a_removed_key_verifies_no_tokens() -> None:
    token = signed(claims())
    assert bad(token, Keys([SECRET])) == "it was not signed with a key of this server"
    assert bad(token, Keys()) == "it was not signed with a key of this server"
    assert KEY.id in KEYS
    assert KEY.id not in Keys([SECRET])


@given(st.text(max_size=300))
def test_garbage_is_refused(text: str) -> None:
    bad(text)


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=80))
def test_garbage_in_three_parts_is_refused(head: bytes, body: bytes, seal: bytes) -> None:
    bad(f"{b64(head)}.{b64(body)}.{b64(seal)}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
NAMES = ["sub", "exp", "nbf", "iat", "aud", "rooms", "read", "op", "nick"]


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_signed_claims_give_a_grant_or_a_refusal(payload: Claims) -> None:
    for whole in (payload, claims() | payload):
        refusal(KEYS.verify, signed(whole, SECRET), NOW)  # raises Refused, or nothing


@given(st.data())
def test_a_token_changed_anywhere_is_refused(data: st.DataObject) -> None:
    token = signed(claims(), SECRET)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCxyz019-_").filter(lambda char: char != token[at]))
    bad(token[:at] + other + token[at + 1 :])


# ---- keys


def test_a_key_is_known_by_its_thumbprint_whatever_its_file_says() -> None:
    fields = json.loads(new_key())
    assert fields["kid"] == read_key(json.dumps(fields).encode()).id
    fields |= {"kid": "mine", "alg": "RS256", "use": "enc"}
    key = read_key(json.dumps(fields).encode())
    assert key.id != "mine"
    assert good(signed(claims(), key), Keys([key])).key == key.id
    assert fields["d"] not in repr(key)


def test_pem_is_taken() -> None:
    key = OKPKey.generate_key("Ed25519")
    private, public = read_key(key.as_pem(private=True)), read_key(key.as_pem(private=False))
    assert private.id == public.id == key.thumbprint()
    assert (private.signs, public.signs) == (True, False)


def rsa() -> bytes:
    key = generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def ed448(encryption: KeySerializationEncryption | None = None) -> bytes:
    return Ed448PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()
    )


def mismatched() -> bytes:
    one, other = json.loads(new_key()), json.loads(new_key())
    return json.dumps({**one, "x": other["x"]}).encode()


NO_KEY = "it holds neither an Ed25519 key nor a secret for HS256"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: b"", "it is neither a JWK (one JSON object) nor PEM"),
        (lambda: b"\xff\x00", "it is neither a JWK (one JSON object) nor PEM"),
        (lambda: b"[" * 5000, "it is neither a JWK (one JSON object) nor PEM"),
        (lambda: b"{}", NO_KEY),
        (lambda: b'{"keys": []}', "it is a set of keys: write each into a file of its own"),
        (lambda: b'{"kty": "RSA", "n": "AQAB", "e": "AQAB"}', NO_KEY),
        (lambda: b'{"kty": "OKP", "crv": "Ed25519", "x": "AA"}', NO_KEY),
        (lambda: b'{"kty": "OKP", "crv": 7, "x": []}', NO_KEY),
        (lambda: b'{"kty": "oct"}', "its secret has 0 bytes; HS256 wants 32 or more"),
        (
            lambda: b'{"kty": "oct", "k": "c2hvcnQ"}',
            "its secret has 5 bytes; HS256 wants 32 or more",
        ),
        (mismatched, "its public half (x) is not that of its private half (d)"),
        (ed448, "it is a key of Ed448; tokens take Ed25519"),
        (lambda: ed448(BestAvailableEncryption(b"secret")), NO_KEY),
        (rsa, NO_KEY),
        (lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", NO_KEY),
    ],
)
def test_invalid_key_files_are_refused_with_the_reason(make: Callable[[], bytes], why: str) -> None:
    with pytest.raises(UnusableKey) as caught:
        read_key(make())
    assert str(caught.value) == why


@given(st.binary(max_size=200))
def test_garbage_is_no_key(data: bytes) -> None:
    with pytest.raises(UnusableKey):
        read_key(data)


@given(st.dictionaries(st.sampled_from(["kty", "crv", "x", "d", "k", "use", "key_ops"]), JSON))
def test_no_object_raises_anything_else(fields: Claims) -> None:
    for kind in ({}, {"kty": "OKP", "crv": "Ed25519"}, {"kty": "oct"}):
        with pytest.raises(UnusableKey):
            read_key(json.dumps(fields | kind).encode())
