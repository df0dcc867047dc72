"""``chatd token``: what it prints is a token or a key, alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from chatd.__main__ import main
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Grant, Keys


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text(new_key())
    path = tmp_path / "chatd.toml"
    path.write_text(f'[auth]\nmode = "token"\nkey_files = ["{tmp_path}/key"]\n')
    return path


def test_a_token_is_printed_alone_and_good(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = "--user Ann --room team-* --room lobby --read news --op --nick annie --expires 15m"
    assert main(["token", "--config", str(config), *asked.split()]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    [token] = printed.out.splitlines()
    now = time.time_ns() // 1_000_000
    grant = Keys(read_keys((config.parent / "key").read_bytes())).verify(token, now)
    assert isinstance(grant, Grant)
    assert (grant.user, grant.nick, grant.op, grant.lifetime) == ("Ann", "annie", True, 900_000)
    assert 0 <= now + 900_000 - grant.expires < 60_000
    assert (grant.may_write("team-x"), grant.may_write("lobby")) == (True, True)
    assert (grant.may_read("news"), grant.may_write("news")) == (True, False)


@pytest.mark.parametrize(("flags", "kty"), [([], "OKP"), (["--hs256"], "oct")])
def test_a_new_key_is_one_line_and_signs(
    flags: list[str], kty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "--new-key", *flags]) == 0
    [line] = capsys.readouterr().out.splitlines()
    key = read_keys(line.encode())[0]
    assert json.loads(line)["kty"] == kty
    assert key.signs
    assert json.loads(line)["kid"] == key.id


def test_an_invalid_user_is_reported(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--config", str(config), "--user", "zoë"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("chatd: This token cannot be issued: invalid sub. ")
    assert printed.err.count("\n") == 1


def test_without_a_private_key_the_error_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chatd.toml"
    path.write_text("")
    assert main(["token", "--config", str(path), "--user", "ann"]) == 1
    assert "chatd token --new-key" in capsys.readouterr().err


def test_an_unreadable_key_is_reported_with_its_file(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = config.parent / "key"
    key.write_text("nonsense")
    assert main(["token", "--config", str(config), "--user", "ann"]) == 1
    assert capsys.readouterr().err == (
        f"{key}: error: auth.key_files: it is neither JSON (a JWK or a set of them) nor PEM\n"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--user", "ann", "--new-key"],
        ["--user", "ann", "--expires", "5y"],
        ["--user", "ann", "--expires", "0s"],
    ],
)
def test_wrong_usage_ends_with_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["token", *wrong])
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""
