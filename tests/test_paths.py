"""Where the history and the secrets are, and who can read the secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatd.paths import (
    SecretError,
    exposed,
    history_path,
    secret_file,
)
from chatd.settings import History, Settings, SettingsError


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"STATE_DIRECTORY": "/s:/t", "XDG_STATE_HOME": "/x"}, "/s/chatd.db"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/chatd/chatd.db"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/chatd/chatd.db"),
        ({"STATE_DIRECTORY": "", "HOME": "/h"}, "/h/.local/state/chatd/chatd.db"),
    ],
)
def test_the_history_is_in_the_state_folder(environ: dict[str, str], path: str) -> None:
    assert history_path(Settings(), environ) == Path(path)


def test_the_history_stands_where_it_is_set() -> None:
    settings = Settings(history=History(path="/a/b.db"))
    assert history_path(settings, {"STATE_DIRECTORY": "/s"}) == Path("/a/b.db")


def test_a_user_without_a_home_gets_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(SettingsError, match=r"Set history\.path"):
        history_path(Settings(), {})


def test_where_a_secret_is() -> None:
    there = {"CREDENTIALS_DIRECTORY": "/run/credentials/chatd.service"}
    assert secret_file("/etc/key", there) == Path("/etc/key")
    assert secret_file("credential:key", there) == Path("/run/credentials/chatd.service/key")
    with pytest.raises(SecretError, match="credential:key is not available"):
        secret_file("credential:key", {})


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        (0o600, None),
        (0o400, None),
        (0o604, "chmod o="),
        (0o602, "chmod o="),
        (0o640, "chmod go="),
        (0o644, "chmod go="),
    ],
)
def test_a_secret_that_others_can_read_is_exposed(
    tmp_path: Path, mode: int, advice: str | None
) -> None:
    path = tmp_path / "key"
    path.touch()
    path.chmod(mode)
    told = exposed(path)
    assert (told is None) == (advice is None)
    assert told is None or f"mode {mode:04o}. Run `{advice} {path}`." in told
    assert exposed(tmp_path / "absent") is None
