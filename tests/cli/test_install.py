"""``chatd install``, ``chatd uninstall``: the files they write and those they leave alone."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chatd.__main__ import main
from chatd.cli import install
from chatd.cli.config import render
from chatd.settings import Settings, load

ROOT = Path(__file__).parents[2]
UNIT = "etc/systemd/system/chatd.service"
CONFIGURATION = "etc/chatd/chatd.toml"
FILES = {
    UNIT,
    "etc/systemd/system/chatd@.service",
    "etc/systemd/system/chatd.socket",
    "etc/sysusers.d/chatd.conf",
    "etc/tmpfiles.d/chatd.conf",
    CONFIGURATION,
}


@pytest.fixture(autouse=True)
def _program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_program", lambda: Path("/srv/chat room/bin/chatd"))
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: path.match("bin/chatd") or is_file(path))


def do(root: Path, verb: str, *words: str) -> int:
    return main([verb, "--root", str(root), *words])


def files(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()
    }


def test_it_writes_the_service_of_this_installation(tmp_path: Path) -> None:
    assert do(tmp_path, "install") == 0
    written = files(tmp_path)
    assert written.keys() == FILES
    starts = f'ExecStart="/srv/chat room/bin/chatd" serve --config /{CONFIGURATION}\n'
    assert starts in written[UNIT]
    assert "/opt/chatd/bin" not in "".join(written.values())
    assert stat.S_IMODE((tmp_path / UNIT).stat().st_mode) == 0o644
    assert written[CONFIGURATION].startswith(render(Settings()))
    assert load(tmp_path / CONFIGURATION) == Settings()


def test_a_second_time_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do(tmp_path, "install")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert do(tmp_path, "install") == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert capsys.readouterr().out.count("is up to date") == len(FILES)


def test_dry_it_only_says_what_it_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do(tmp_path, "install", "--dry-run") == 0
    assert files(tmp_path) == {}
    told = capsys.readouterr().out
    assert all(f"Would write {tmp_path / name}.\n" in told for name in FILES)


def test_a_changed_file_is_kept_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do(tmp_path, "install")
    changed = (tmp_path / UNIT).read_text().replace("RestartSec=", "RestartSec=1")
    (tmp_path / UNIT).write_text(changed)
    (tmp_path / CONFIGURATION).write_text("# mine\n")
    capsys.readouterr()
    assert do(tmp_path, "install") == 1
    told = capsys.readouterr()
    assert f"{tmp_path / UNIT} was changed and was left as it is" in told.err
    assert "systemctl edit chatd.service" in told.err
    # A changed configuration is expected: not an error.
    assert f"{tmp_path / CONFIGURATION} is your configuration and was kept" in told.out
    assert (tmp_path / UNIT).read_text() == changed
    assert (tmp_path / CONFIGURATION).read_text() == "# mine\n"


@pytest.mark.parametrize("content", [b"", b"\xff", b"# somebody else's unit\n"])
def test_a_foreign_file_is_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / UNIT).parent.mkdir(parents=True)
    (tmp_path / UNIT).write_bytes(content)
    assert do(tmp_path, "install") == 1
    assert do(tmp_path, "uninstall") == 0
    assert (tmp_path / UNIT).read_bytes() == content


def test_what_an_older_one_wrote_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(install, "_program", lambda: Path("/opt/older/bin/chatd"))
        do(tmp_path, "install")
    assert do(tmp_path, "install") == 0
    assert f"Replaced {tmp_path / UNIT}." in capsys.readouterr().out
    assert "/srv/chat room/bin" in (tmp_path / UNIT).read_text()


def test_uninstall_removes_its_files_and_keeps_changed_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do(tmp_path, "install")
    (tmp_path / CONFIGURATION).write_text("# mine\n")
    assert do(tmp_path, "uninstall", "--dry-run") == 0
    assert files(tmp_path).keys() == FILES
    assert do(tmp_path, "uninstall") == 0
    assert files(tmp_path) == {CONFIGURATION: "# mine\n"}
    told = capsys.readouterr().out
    assert f"{tmp_path / CONFIGURATION} was changed and was kept" in told
    assert "history" in told
    (tmp_path / CONFIGURATION).unlink()
    assert do(tmp_path, "uninstall") == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_where_a_service_cannot_see_it_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "_program", lambda: Path("/home/ann/venv/bin/chatd"))
    assert do(tmp_path, "install") == 1
    assert "/opt/chatd" in capsys.readouterr().err
    assert files(tmp_path) == {}


def test_beside_the_systems_own_package_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packaged = tmp_path / "usr/lib/systemd/system/chatd.service"
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    assert do(tmp_path, "install") == 1
    assert "package" in capsys.readouterr().err
    assert len(files(tmp_path)) == 1


def test_a_missing_program_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "_program", lambda: Path("/srv/absent"))
    assert do(tmp_path, "install") == 1
    assert "/srv/absent does not exist" in capsys.readouterr().err


def test_a_read_only_folder_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "etc").touch()
    assert do(tmp_path, "install") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("chatd: ")


# ---- what is run


class Ran:
    """In place of the system's commands."""

    def __init__(self, fails: str = "") -> None:
        self.commands: list[str] = []
        self.fails = fails

    def __call__(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        self.commands.append(" ".join(command))
        failed = command[0] == self.fails
        return subprocess.CompletedProcess(command, int(failed), b"", b"first\nthe reason\n")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is taken for the running system's root."""
    monkeypatch.setattr(install, "_under", lambda _, piece: tmp_path / piece.path[1:])
    return tmp_path


def test_the_running_system_is_reloaded(
    system: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran()
    monkeypatch.setattr(subprocess, "run", ran)
    assert main(["install"]) == 0
    assert files(system).keys() == FILES
    assert ran.commands == [
        "systemd-sysusers /etc/sysusers.d/chatd.conf",
        "systemd-tmpfiles --create /etc/tmpfiles.d/chatd.conf",
        "systemctl daemon-reload",
    ]
    ran.commands.clear()
    assert main(["uninstall"]) == 0
    assert ran.commands[0].startswith("systemctl disable")
    assert ran.commands[-1] == "systemctl daemon-reload"
    ran.commands.clear()
    assert main(["install", "--dry-run"]) == 0
    assert ran.commands == []
    assert "Would run `systemctl daemon-reload`" in capsys.readouterr().out


def test_a_failing_command_is_reported_in_one_line(
    system: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", Ran(fails="systemd-sysusers"))
    assert main(["install"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("failed: the reason")


# ---- the units


def test_the_template_is_the_unit_except_for_its_names() -> None:
    """So that whoever changes one changes the other."""

    def settings(name: str) -> list[str]:
        lines = (ROOT / "systemd" / name).read_text().splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    unit = [
        line.replace("/etc/chatd/chatd.toml", "/etc/chatd/%i.toml")
        .replace("StateDirectory=chatd", "StateDirectory=chatd-%i")
        .replace("RuntimeDirectory=chatd", "RuntimeDirectory=chatd-%i")
        .replace("Description=Chat daemon", "Description=Chat daemon %i")
        for line in settings("chatd.service")
    ]
    assert settings("chatd@.service") == unit
