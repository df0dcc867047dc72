"""Key files: read completely, and every error reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatd.chat.key_files import load_keys
from chatd.chat.token_keys import new_key
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
