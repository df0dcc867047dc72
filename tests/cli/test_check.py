"""``chatd check`` shows the places of errors, and never a traceback."""

from __future__ import annotations

import argparse
import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.cli import check
from tests.wire.certificates import issue


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    check.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["check", *words])
    code: int = args.run(args)
    return code


def test_a_sound_file_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chatd.toml"
    path.write_text("[limits]\nrooms = 5\n")
    assert run(str(path)) == 0
    assert capsys.readouterr() == (f"{path}: ok\n", "")


def test_errors_are_shown_with_line_and_caret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chatd.toml"
    path.write_text('[limits]\n\trooms\t= 0\n[chat]\n"greting" = 1\n')
    assert run(str(path)) == 1
    assert capsys.readouterr().err == (
        f"{path}:2:10: error: limits.rooms: Expected an integer from 1 to 1_000_000, not 0.\n"
        "    \trooms\t= 0\n"
        "    \t     \t  ^\n"
        f'{path}:4:1: error: Unknown key "greting" in [chat]. Did you mean "greeting"?\n'
        '    "greting" = 1\n'
        "    ^\n"
    )


def test_warnings_have_their_place_and_do_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = issue(tmp_path / "tls", expires=datetime(2021, 1, 1, tzinfo=UTC)).tls
    path = tmp_path / "chatd.toml"
    text = f'certificate_file = "{tls.certificate_file}"'
    path.write_text(f'[tls]\n{text}\nkey_file = "{tls.key_file}"\n')
    assert run(str(path)) == 0
    told = capsys.readouterr()
    assert told.out == f"{path}: ok\n"
    assert told.err == (
        f"{path}:2:20: warning: tls.certificate_file: The certificate in {tls.certificate_file} "
        "expired on 2021-01-01 00:00 UTC. Clients do not accept it.\n"
        f"    {text}\n"
        f"    {' ' * 19}^\n"
    )
    # With an error, errors alone are reported.
    path.write_text(path.read_text() + "[chat]\nbacklog = -1\n")
    assert run(str(path)) == 1
    assert "warning: " not in capsys.readouterr().err


def test_the_file_is_the_installed_one_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(check, "load", lambda path, **_: asked.append(path))
    assert run() == 0
    assert asked == [Path("/etc/chatd/chatd.toml")]


def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "absent"
    assert run(str(absent)) == 1
    assert run(str(tmp_path)) == 1
    assert capsys.readouterr().err == (
        f"{absent}: error: The file does not exist.\n"
        f"{tmp_path}: error: This is a folder, not a file.\n"
    )


def test_a_forbidden_file_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbid(*_: object) -> None:  # not by its mode: root may read everything
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    assert run("chatd.toml") == 1
    assert (
        capsys.readouterr().err
        == "chatd.toml: error: The file cannot be read: permission denied.\n"
    )


def test_a_name_that_is_not_utf_8_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chatd\udcff.toml"
    path.touch()
    assert run(str(path)) == 0
    assert capsys.readouterr().out == f"{tmp_path}/chatd\\udcff.toml: ok\n"


@given(st.binary(max_size=40))
def test_garbage_is_reported(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.toml"
    path.write_bytes(data)
    assert run(str(path)) in (0, 1)


def test_a_certificate_that_cannot_be_had_has_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chatd.toml"
    path.write_text(f'[tls]\ncertificate_file = "{tmp_path}/no"\nkey_file = "{tmp_path}/no"\n')
    assert run(str(path)) == 1
    said, _, _ = capsys.readouterr().err.partition("\n")
    place = f"{path}:2:20: error: "
    assert (
        said
        == f"{place}tls.certificate_file: {tmp_path}/no cannot be read: no such file or directory"
    )


def test_keys_that_cannot_be_fetched_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chatd.toml"
    path.write_text(
        '[auth]\nmode = "token"\njwks_url = "https://127.0.0.1:1/keys"\n'
        'issuer = "https://idp.example.org"\naudience = "chat"\n'
    )
    assert run(str(path)) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{path}: ok\n"
    assert printed.err.startswith(
        f"{path}:3:12: warning: auth.jwks_url: The keys of tokens cannot be fetched now: "
        "connection refused.\n"
    )


def test_a_store_that_others_can_read_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = tmp_path / "chatd.toml", tmp_path / "chatd.db"
    store.touch()
    store.chmod(0o644)
    config.write_text(f'[history]\npath = "{store}"\n')
    assert run(str(config)) == 0
    assert f"{config}:2:8: warning: history.path: Other users can read" in capsys.readouterr().err
    # The default path has no place in the file.
    config.write_text("")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    assert run(str(config)) == 0
    assert capsys.readouterr().err.startswith("history.path: warning: history.path: Other users")
    store.chmod(0o600)
    assert run(str(config)) == 0
    assert capsys.readouterr().err == ""
