"""Key files: read completely, and every error reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatd.chat.key_files import check_files, load_keys
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.settings import Auth, Settings, SettingsError
from tests.chat.room import refusal


def settings(*names: str) -> Settings:
    return Settings(auth=Auth(mode="token", key_files=names))


def test_the_first_signs_and_all_verify(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("new", "old")]
    for name in names:
        Path(name).write_text(new_key())
    keys, old = load_keys(settings(*names), {}), load_keys(settings(names[1]), {})
    for by in (keys, old):
        token = by.issue("ann", now=0, seconds=60)
        assert keys.verify(token, 0).user == "ann"
    assert refusal(old.verify, keys.issue("ann", now=0, seconds=60), 0)


def test_a_credential_is_systemds(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(new_key())
    load_keys(settings("credential:tokens"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    with pytest.raises(SettingsError) as caught:
        load_keys(settings("credential:tokens"), {})
    [fault] = caught.value.faults
    assert fault.origin == "credential:tokens"
    assert "LoadCredential=" in fault.message


def test_every_error_is_reported_without_the_key(tmp_path: Path) -> None:
    large, wrong = tmp_path / "large", tmp_path / "wrong"
    large.write_bytes(b" " * 70_000)
    wrong.write_text('{"kty": "oct", "k": "c2VjcmV0"}')
    names = [str(tmp_path / "none"), str(tmp_path), str(large), str(wrong)]
    with pytest.raises(SettingsError) as caught:
        load_keys(settings(*names), {})
    assert [fault.origin for fault in caught.value.faults] == names
    assert [fault.message for fault in caught.value.faults] == [
        "auth.key_files: it cannot be read: no such file or directory",
        "auth.key_files: it cannot be read: is a directory",
        "auth.key_files: it has over 65536 bytes",
        "auth.key_files: its secret has 6 bytes; HS256 wants 32 or more",
    ]


def warnings(settings: Settings) -> list[str]:
    return [rule.message for rule in check_files(settings, {}) if rule.warning]


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1), (0o602, 1), (0o644, 1)]
)
def test_a_key_that_others_can_read_is_warned_of(tmp_path: Path, mode: int, warned: int) -> None:
    key = tmp_path / "key"
    key.write_text(new_key())
    key.chmod(mode)
    found = warnings(settings(str(key)))
    assert len(found) == warned
    assert all(str(key) in each for each in found)
    # A public one is no secret.
    [material] = read_keys(new_key().encode())
    key.write_text(json.dumps(material.material.as_dict(private=False)))
    assert warnings(settings(str(key))) == []


def test_an_issuer_without_a_name_for_this_chat_is_warned_of() -> None:
    url = "https://idp.example.org/keys"
    for auth in (Auth(mode="token", jwks_url=url), Auth(mode="token", jwks_url=url, issuer="x")):
        [warning] = warnings(Settings(auth=auth))
        assert "auth.issuer and auth.audience" in warning
    named = Auth(mode="token", jwks_url=url, issuer="x", audience="y")
    assert warnings(Settings(auth=named)) == []
    assert warnings(Settings(auth=Auth(jwks_url=url))) == []


def test_a_set_of_keys_in_a_file_verifies(tmp_path: Path) -> None:
    one, other = (json.loads(new_key()) for _ in range(2))
    path = tmp_path / "set"
    path.write_text(json.dumps({"keys": [one, other]}))
    keys = load_keys(settings(str(path)), {})
    for fields in (one, other):
        [key] = read_keys(json.dumps(fields).encode())
        assert keys.verify(Keys([key]).issue("ann", now=0, seconds=60), 0).user == "ann"
