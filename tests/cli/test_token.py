"""``chatd token``: what it prints is a token or a key, alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
        ["--user", "ann", "--output", "key"],
        ["--new-key", "--config", "chatd.toml"],
        ["--user", "ann", "--key", "key", "--config", "chatd.toml"],
        ["--user", "ann", "--expires", "5y"],
        ["--user", "ann", "--expires", "0s"],
    ],
)
def test_wrong_usage_ends_with_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["token", *wrong])
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


# ---- a key in a file


def test_a_new_key_goes_into_a_file_that_nobody_else_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a b.jwk"
    umask = os.umask(0)
    try:
        assert main(["token", "--new-key", "--output", str(path)]) == 0
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    [key] = read_keys(path.read_bytes())
    assert key.signs
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"--set 'auth.key_files=[\"{path}\"]'" in printed.err
    # Never over another file.
    before = path.read_bytes()
    assert main(["token", "--new-key", "--output", str(path)]) == 1
    assert capsys.readouterr().err == f"chatd: {path}: file exists.\n"
    assert path.read_bytes() == before


def test_one_command_makes_a_key_and_its_first_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "key"
    assert main(["token", "--new-key", "--output", str(path), "--user", "ann", "--op"]) == 0
    [token] = capsys.readouterr().out.splitlines()
    keys, now = Keys(read_keys(path.read_bytes())), time.time_ns() // 1_000_000
    grant = keys.verify(token, now)
    assert (grant.user, grant.op) == ("ann", True)
    assert main(["token", "--key", str(path), "--user", "bob"]) == 0
    [token] = capsys.readouterr().out.splitlines()
    assert keys.verify(token, now + 1000).user == "bob"


def test_a_user_that_cannot_be_leaves_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "key"
    assert main(["token", "--new-key", "--output", str(path), "--user", "zoë"]) == 1
    assert "invalid sub" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("folder", ["none/key", "."])
def test_a_file_that_cannot_be_written_is_reported(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / folder
    assert main(["token", "--new-key", "--output", str(path)]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert printed.err.startswith(f"chatd: {path}: ")


def test_without_a_daemon_on_the_named_socket_nothing_else_signs(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    socket = tmp_path / "admin.sock"
    assert main(["token", "--socket", str(socket), "--user", "ann"]) == 1
    assert str(socket) in capsys.readouterr().err


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o644, True), (0o640, True)])
@pytest.mark.parametrize("words", [["--new-key"], ["--user", "ann"]])
def test_a_secret_that_goes_into_a_file_for_all_is_warned_of(
    config: Path, tmp_path: Path, words: list[str], mode: int, warned: bool
) -> None:
    path = tmp_path / "secret"
    path.touch(mode)
    path.chmod(mode)
    with path.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "chatd", "token", *words]
            + (["--config", str(config)] if "--user" in words else []),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert ("Run chmod 600" in done.stderr) is warned
    assert path.read_text().count("\n") == 1
