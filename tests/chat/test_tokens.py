"""Valid tokens, and every reason to refuse one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from chatd.chat.token_keys import Key, new_key, read_key_set, read_keys
from chatd.chat.tokens import TOKEN_BYTES, Grant, Keys, UnknownKey
from chatd.model import Refused
from chatd.settings import Auth
from tests.chat import issuers
from tests.chat.issuers import NOW, PROVIDERS, RSA, Provider, b64
from tests.chat.room import refusal

KEY = read_keys(new_key().encode())[0]
SECRET = read_keys(new_key(symmetric=True).encode())[0]
KEYS = Keys([KEY, SECRET])

Claims = dict[str, Any]


def claims(**more: Any) -> Claims:
    return {"sub": "ann", "exp": NOW // 1000 + 3600, **more}


def signed(payload: Claims | bytes, key: Key = KEY, **header: Any) -> str:
    return issuers.signed(payload, key, **header)


def good(token: str, keys: Keys = KEYS, now: int = NOW, auth: Auth | None = None) -> Grant:
    return keys.verify(token, now, auth or Auth())


def bad(token: str, keys: Keys = KEYS, now: int = NOW, auth: Auth | None = None) -> str:
    refused = refusal(keys.verify, token, now, auth or Auth())
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
    public = read_keys(json.dumps(KEY.material.as_dict(private=False)).encode())[0]
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

    assert issue("a\tb") == "bad_request"
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
        (signed(claims(), SECRET, alg="none"), "it is not signed with RS256, ES256"),
        (signed(claims(), alg="PS256"), "it is not signed with RS256, ES256"),
        (signed(claims()) + ".x.y", "it is encrypted (JWE)"),
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
        (signed(claims(exp=NOW // 1000 - 60)), "it has expired"),
        (
            signed(claims(exp=str(NOW // 1000 + 60))),
            "its body is malformed: Expected `int | float`",
        ),
        (signed(claims(exp=10**30)), "invalid exp, nbf or iat"),
        (signed(claims(exp=True)), "its body is malformed"),
        (signed(claims(exp=None)), "its body is malformed"),
        (signed(claims(exp=1e300)), "invalid exp, nbf or iat"),
        (signed(claims(exp=-1)), "invalid exp, nbf or iat"),
        (signed(claims(nbf=NOW // 1000 + 61)), "it is not valid yet"),
        (signed(claims(iat=NOW // 1000 + 61)), "it is not valid yet"),
        (signed(claims(aud="others")), "its aud is not chatd"),
        (signed(claims(aud=[])), "its aud is not chatd"),
        (signed(claims(sub="zoë")), "invalid sub"),
        (signed(claims(sub="a" * 256)), "invalid sub"),
        (signed(claims(sub="console")), "the sub console is reserved"),
        (signed(claims(sub="forgotten")), "the sub forgotten is reserved"),
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
    forged = Key("x", (), True, OctKey.import_key({"kty": "oct", "k": str(public["x"])}))
    assert bad(signed(claims(), forged)) == "it was not signed with a key of this server"


def test_clocks_may_differ_by_a_minute() -> None:
    token, end = signed(claims(nbf=NOW // 1000, iat=NOW // 1000)), NOW + 3_600_000
    assert good(token, now=NOW - 59_000).user == "ann"
    assert bad(token, now=NOW - 61_000) == "it is not valid yet"
    assert good(token, now=end - 1).expires == end
    # By the issuer's clock it may not have ended yet, so the connection lasts a minute longer.
    assert good(token, now=end).expires == end + 60_000
    assert good(token, now=end + 59_999).expires == end + 60_000
    assert bad(token, now=end + 60_000) == "it has expired"


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


# ---- identity providers


def keys_of(provider: Provider) -> Keys:
    return KEYS.with_fetched(read_key_set(provider.keys))


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_a_providers_token_is_its_users(provider: Provider) -> None:
    keys, auth = keys_of(provider), provider.auth()
    grant = good(provider.token(), keys, auth=auth)
    assert (grant.user, grant.nick, grant.op) == (provider.user, provider.nick, False)
    assert grant.may_write("lobby")
    seconds = provider.claims["exp"] - NOW // 1000
    assert (grant.expires, grant.lifetime) == (NOW + seconds * 1000, seconds * 1000)
    # Its clock may be ahead or behind.
    assert good(provider.token(), keys, NOW - 59_000, auth).user == provider.user
    assert good(provider.token(), keys, NOW + (seconds + 59) * 1000, auth).user == provider.user
    assert bad(provider.token(), keys, NOW + (seconds + 60) * 1000, auth) == "it has expired"
    # The same set in a file.
    assert good(provider.token(), Keys(read_keys(provider.keys)), auth=auth) == grant


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_a_providers_token_for_another_application_is_refused(provider: Provider) -> None:
    keys, auth = keys_of(provider), provider.auth()
    for audience in ("others", [], ["others", f"{auth.audience}/"], None):
        assert (
            bad(provider.token(aud=audience), keys, auth=auth) == f"its aud is not {auth.audience}"
        )
    for issuer in ("https://evil.example.org", f"{auth.issuer}/", None):
        assert bad(provider.token(iss=issuer), keys, auth=auth) == f"its iss is not {auth.issuer}"
    # By default the audience is chatd, if there is one.
    assert bad(provider.token(), keys) == "its aud is not chatd"


@pytest.mark.parametrize(
    "sub",
    ["a", "auth0|5f7c", "ann@example.org", "CN=Ann,OU=x", "a b", "%2C", "~" * 255, "Ann", "ann"],
)
def test_any_printable_ascii_is_a_user(sub: str) -> None:
    assert good(signed(claims(sub=sub))).user == sub


@pytest.mark.parametrize(
    ("claim", "nick"),
    [
        ("ann", "ann"),
        ("Ann Smith", "Ann-Smith"),
        (" Zoë  O\u2019Neill (Dev) ", "Zoë-O-Neill-Dev"),
        ("ann@example.org", "ann"),
        ("@", None),
        ("", None),
        ("a" * 40, None),
        ("अनीता शर्मा", "अनीता-शर्मा"),
        ("\u202eevil", "evil"),
        ("/join", "join"),
        (["ann"], None),
        (None, None),
        (7, None),
    ],
)
def test_a_claim_that_cannot_be_a_nick_is_made_one_or_left(claim: Any, nick: str | None) -> None:
    assert good(signed(claims(name=claim)), auth=Auth(nick_claim="name")).nick == nick


def test_a_key_that_its_issuer_may_have_made_since_is_unknown() -> None:
    provider = PROVIDERS[0]
    keys = keys_of(provider)
    for token in (
        issuers.signed(claims(), RSAKey.generate_key(2048), kid="new"),
        issuers.signed(claims(), RSAKey.generate_key(2048)),
    ):
        with pytest.raises(UnknownKey):
            keys.verify(token, NOW)
    # One that is known is not asked for again, whatever is signed in its name.
    with pytest.raises(Refused) as caught:
        keys.verify(issuers.signed(claims(), RSAKey.generate_key(2048), **provider.header), NOW)
    assert not isinstance(caught.value, UnknownKey)


def test_of_two_keys_by_one_name_each_verifies() -> None:
    one, other = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
    keys = Keys(
        read_keys(
            issuers.published(*(each.as_dict(private=False, kid="k") for each in (one, other, RSA)))
        )
    )
    for each in (one, other, RSA):
        assert good(issuers.signed(claims(), each, kid="k"), keys).user == "ann"


def test_a_header_cannot_bring_its_own_key() -> None:
    own = ECKey.generate_key("P-256")
    public = own.as_dict(private=False)
    for header in ({"jwk": public}, {"x5c": ["AAAA"]}, {"jku": "https://evil.example.org/keys"}):
        assert bad(issuers.signed(claims(), own, **header)).startswith("it was not signed")


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_the_public_key_is_no_secret(provider: Provider) -> None:
    # RFC 8725 section 2.1: an attacker signs with the public key, which everybody has.
    keys, auth = keys_of(provider), provider.auth()
    for secret in (provider.key.as_pem(private=False), provider.keys):
        forged = Key("x", (), True, OctKey.import_key(secret.hex().encode()))
        token = issuers.signed(provider.claims, forged, **provider.header)
        assert bad(token, keys, auth=auth).startswith("it was not signed")
    unsigned = signed(provider.claims, SECRET, **{**provider.header, "alg": "none"})
    for token in (unsigned, unsigned.rpartition(".")[0] + "."):
        assert bad(token, keys, auth=auth).startswith("it is not signed with")


def test_what_is_issued_names_what_is_expected() -> None:
    auth = PROVIDERS[0].auth()
    token = KEYS.issue("ann", now=NOW, seconds=60, nick="Annie", expected=auth)
    assert good(token, auth=auth).nick == "Annie"
    assert bad(token, auth=PROVIDERS[1].auth()).startswith("its iss is not")
