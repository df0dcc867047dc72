"""``chatd client``: its arguments, and its errors."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from chatd.__main__ import main
from chatd.cli.client import daemon_url


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("CHATD_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("ws://localhost:3000", "ws://localhost:3000"),
        ("wss://chat.example/ws", "wss://chat.example/ws"),
        ("http://localhost:3000/", "ws://localhost:3000/"),
        ("https://chat.example", "wss://chat.example"),
        ("chat.example:3000", "ws://chat.example:3000"),
        ("[::1]:3000", "ws://[::1]:3000"),
        ("unix:/run/chatd/chat.sock", "unix:/run/chatd/chat.sock"),
    ],
)
def test_valid_addresses(typed: str, url: str) -> None:
    assert daemon_url(typed) == url


@pytest.mark.parametrize("typed", ["", "ftp://x", "ws://", "unix:", "a\udcffb", "x:port"])
def test_invalid_addresses(typed: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        daemon_url(typed)


@pytest.mark.parametrize(
    "words", [["ftp://x"], ["--history", "many"], ["--history", "501"], ["--nick", "a\udcff"]]
)
def test_invalid_arguments(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["client", *words])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "choose from" not in told  # a list of 500 numbers


def test_no_server_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", f"unix:{tmp_path}/no.sock"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    path = f"unix:{tmp_path}/no.sock"
    assert told.err == f"chatd: There is no connection to {path}: no such file or directory.\n"


def test_an_unreadable_token_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", "--token-file", f"{tmp_path}/no"]) == 1
    assert capsys.readouterr().err == f"chatd: {tmp_path}/no: no such file or directory\n"
    for content in (b"", b"\n", b"\xff"):
        (tmp_path / "token").write_bytes(content)
        assert main(["client", "--token-file", f"{tmp_path}/token"]) == 1
        assert capsys.readouterr().err == f"chatd: {tmp_path}/token: the file contains no token\n"
