"""Saved sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatd.cli.terminal import sessions

URL = "ws://localhost:3000"


def test_a_session_is_saved_for_each_server_and_nick(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    file = sessions.path_for(URL, "ann", environment)
    assert sessions.load(file) is None
    sessions.save(file, "secret")
    sessions.save(file, "newer")
    assert sessions.load(file) == "newer"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    for url, nick in ((URL, "bob"), (URL, None), ("ws://elsewhere", "ann")):
        assert sessions.load(sessions.path_for(url, nick, environment)) is None


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    file = sessions.path_for(URL, None, {"XDG_STATE_HOME": str(tmp_path / "state")})
    sessions.save(file, "secret")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("state", [None, "", "relative/path"])
def test_the_default_folder(
    state: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    environment = {} if state is None else {"XDG_STATE_HOME": state}
    file = sessions.path_for(URL, "ann", environment)
    assert file.parent == tmp_path / ".local" / "state" / "chatd"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"session": 1}', b"\xff", b'{"a": "b"}'])
def test_an_unreadable_file_holds_no_session(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "session"
    file.write_bytes(content)
    assert sessions.load(file) is None
