"""``chatd serve`` as an operator meets it: exit codes, one clear line, and what ends it."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import pytest

from chatd.__main__ import main
from chatd.cli.serve import FAULTY_CONFIGURATION
from tests.wire.certificates import issue

# A limit of a hang, not of a speed.
SECONDS = 60


def command(*words: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "chatd", *words]


def environ(folder: Path, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **more}


Fails: TypeAlias = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Fails:
    """Run chatd in this process; return the exit code and the lines on stderr but the log's."""
    for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, list[str]]:
        code = main([*words])
        out, err = capfd.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return code, [line for line in err.splitlines() if line[:1] != "{"]

    return run


class Serving:
    """A daemon that serves on a Unix socket, and its log."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self.process = process
        self.path = path
        self.log: list[dict[str, object]] = []

    def until(self, name: str) -> dict[str, object]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == name:
                return self.log[-1]
        raise AssertionError(f"ended without {name}: {self.log}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        return self.process.wait(SECONDS)

    def ask(self, path: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(str(self.path))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return client.makefile("rb").read()


@contextmanager
def serving(folder: Path, *words: str, **more: str) -> Iterator[Serving]:
    path = folder / "chat.sock"
    process = subprocess.Popen(
        command("serve", "--listen", f"unix:{path}", *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environ(folder, **more),
        cwd=folder,
    )
    with process:
        try:
            one = Serving(process, path)
            one.until("ready")
            yield one
        finally:
            if process.poll() is None:
                process.kill()


# ---- faults that are the user's to mend


def test_a_faulty_configuration_is_78_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chatd.toml"
    path.write_text('[limits]\nrooms = 0\n[chat]\ngreting = "hi"\n')
    assert main(["serve", "--config", str(path)]) == FAULTY_CONFIGURATION == 78
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{path}:2:9: error: limits.rooms" in told.err
    assert f"{path}:4:1: error: " in told.err
    assert 'Did you mean "greeting"?' in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config", "absent.toml"], "absent.toml: error: The file does not exist."),
        (["--set", "limits.roms=5"], "limits.roms"),
        (["--set", "limits.rooms=none"], "limits.rooms"),
        (["--set", "nonsense"], "nonsense"),
        (["--listen", "localhost:99999"], "99999"),
        (["--listen", ""], "error: "),
    ],
)
def test_a_faulty_flag_is_78_too(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 78
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_no_folder_for_the_history(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", nobody)
    assert main([]) == 78
    assert "Set history.path" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["serve", "extra"], ["nonsense"], ["--nonsense"], ["serve", "--set"], ["check", "-x"]]
)
def test_wrong_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: chatd" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["serve", "--help"], ["--version"]])
def test_help_is_0(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith("chatd " if words == ["--version"] else "usage: chatd")
    if words == ["serve", "--help"]:
        assert all(flag in told for flag in ("--config", "--listen", "--set"))


def test_an_address_in_use_is_1(fails: Fails) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines = fails("--listen", f"127.0.0.1:{port}")
    assert code == 1
    (line,) = lines
    assert line.startswith(f"chatd: 127.0.0.1:{port} is in use by another program")
    assert "listen.addresses" in line


def test_a_store_that_another_daemon_holds_is_1(tmp_path: Path, fails: Fails) -> None:
    with serving(tmp_path) as one:
        other = tmp_path / "other.sock"
        code, lines = fails("--listen", f"unix:{other}")
        assert code == 1
        (line,) = lines
        assert f"is in use by process {one.process.pid}" in line
        assert "history.path" in line
        # It took its socket with it.
        assert not other.exists()
        assert one.ask("/readyz").startswith(b"HTTP/1.1 200")
        # Nor may it take the other's address.
        code, lines = fails("--listen", f"unix:{one.path}", "--set", "history.store='memory'")
        assert code == 1
        (line,) = lines
        assert line.startswith(f"chatd: unix:{one.path}: another program listens there")
        assert one.ask("/healthz").startswith(b"HTTP/1.1 200")


def test_a_store_that_cannot_be_opened_is_1(tmp_path: Path, fails: Fails) -> None:
    listen = ("--listen", f"unix:{tmp_path}/chat.sock")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"not a database at all, and long enough to be looked at" * 100)
    (tmp_path / "file").touch()
    for path, told in (
        (damaged, "damaged"),
        (tmp_path, ""),
        (tmp_path / "file" / "chatd.db", "give the folder"),
    ):
        code, lines = fails(*listen, "--set", f"history.path='{path}'")
        assert code == 1
        (line,) = lines
        assert line.startswith("chatd: ")
        assert str(path).removesuffix("/chatd.db") in line
        assert told in line


def not_text(path: Path) -> None:
    """Damage the schema: SQLite's message quotes a name that is not UTF-8."""
    with closing(sqlite3.connect(path)) as store:
        store.execute("PRAGMA writable_schema = ON")
        damage = "name = CAST(x'9e9e' AS TEXT), sql = 'CREATE TABLE nothing('"
        store.execute(f"UPDATE sqlite_schema SET {damage} WHERE name = 'meta'")
        store.commit()


def no_records(path: Path) -> None:
    """Damage what is read at the start alone, after the store was opened: bans and mutes."""
    with closing(sqlite3.connect(path)) as store:
        (page,) = store.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'records'"
        ).fetchone()
        (size,) = store.execute("PRAGMA page_size").fetchone()
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))


@pytest.mark.parametrize("damage", [not_text, no_records])
def test_a_damaged_store_is_1_and_one_line(
    damage: Callable[[Path], None], tmp_path: Path, fails: Fails
) -> None:
    path = tmp_path / "chat.db"
    with serving(tmp_path, "--set", f"history.path={path}") as one:
        one.signal(signal.SIGTERM)
        assert one.ended() == 0
    damage(path)
    code, (line,) = fails("serve", "--listen", "127.0.0.1:0", "--set", f"history.path={path}")
    assert code == 1
    assert line.startswith(f"chatd: {path}")
    assert "restore a backup" in line


def test_a_socket_in_a_folder_that_is_not_there_is_1(tmp_path: Path, fails: Fails) -> None:
    code, lines = fails("--listen", f"unix:{tmp_path}/absent/chat.sock")
    assert (code, lines) == (
        1,
        [f"chatd: unix:{tmp_path}/absent/chat.sock: the folder does not exist; create it"],
    )


# ---- serving


@pytest.mark.parametrize(
    ("number", "more", "history"),
    [
        (signal.SIGTERM, {}, ".local/state/chatd/chatd.db"),
        (signal.SIGINT, {"STATE_DIRECTORY": "state"}, "state/chatd.db"),
        (signal.SIGHUP, {"XDG_STATE_HOME": "state"}, "state/chatd/chatd.db"),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_a_signal_ends_it_with_0_and_the_history_is_where_the_environment_says(
    tmp_path: Path, number: signal.Signals, more: dict[str, str], history: str
) -> None:
    folders = {name: str(tmp_path / folder) for name, folder in more.items()}
    with serving(tmp_path, "--set", "log.format='json'", **folders) as one:
        assert one.ask("/readyz").startswith(b"HTTP/1.1 200")
        one.signal(number)
        one.until("stop")
        assert one.ended() == 0
    assert not one.path.exists()
    assert (tmp_path / history).is_file()


@pytest.mark.parametrize("module", ["trio", "chatd.daemon"])
def test_a_signal_during_the_imports_ends_it_with_0(tmp_path: Path, module: str) -> None:
    """A program that runs chatd and gets a signal while a module is imported."""
    program = f"""
import os, signal, sys
from importlib.abc import MetaPathFinder

class Striking(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Striking())
from chatd.__main__ import main
sys.exit(main(["--listen", "unix:{tmp_path}/chat.sock", "--set", "history.store='memory'"]))
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environ(tmp_path),
        check=False,
    )
    assert ended.returncode == 0
    assert [json.loads(line)["event"] for line in ended.stderr.splitlines()][-1] == "stop"


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "chatd.toml"
    path.write_text('[listen]\naddresses = ["localhost:1"]\n[history]\nstore = "sqlite"\n')
    with serving(tmp_path, "--config", str(path), "--set", "history.store='memory'") as one:
        assert [line["listener"] for line in one.log if line["event"] == "listening"] == [
            f"unix:{one.path}"
        ]
        one.signal(signal.SIGTERM)
        assert one.ended() == 0
    assert not (tmp_path / ".local").exists()


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, "--set", "drain.delay_seconds=3600") as one:
        one.signal(signal.SIGTERM)
        one.until("drain")
        assert one.ask("/readyz").startswith(b"HTTP/1.1 503")
        one.signal(signal.SIGTERM)
        one.until("stop")
        assert one.ended() == 0
    assert not one.path.exists()


def on_terminal(folder: Path, *words: str, until: str, more: Mapping[str, str]) -> tuple[int, str]:
    """Run it on a terminal, press Ctrl+C when it is ready; return the exit code and the output."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command(*words),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environ(folder, TERM="dumb", COLUMNS="400", **more),
            cwd=folder,
            start_new_session=True,
        )
        os.close(theirs)
        told = ""
        with process:
            try:
                while until not in told:
                    told += os.read(ours, 4096).decode()
                process.send_signal(signal.SIGINT)
                code = process.wait(SECONDS)
            finally:
                if process.poll() is None:
                    process.kill()
        return code, told
    finally:
        os.close(ours)


def test_on_a_terminal_it_says_where_it_listens_and_where_its_history_is(tmp_path: Path) -> None:
    code, told = on_terminal(tmp_path, "--listen", "127.0.0.1:0", until="ready", more={})
    assert code == 0
    assert "chatd listens on http://127.0.0.1:" in told
    assert f"The history is stored in {tmp_path}/.local/state/chatd/chatd.db." in told
    assert "Press Ctrl+C to stop." in told
    socket_path = f"unix:{tmp_path}/chat.sock"
    memory = ("--listen", socket_path, "--set", "history.store='memory'")
    code, told = on_terminal(tmp_path, *memory, until="ready", more={})
    assert code == 0
    assert (
        f"chatd listens on {socket_path}. The history is not stored. Press Ctrl+C to stop." in told
    )


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, "neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set"),
        ({"XDG_RUNTIME_DIR": "relative"}, "neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set"),
        ({"XDG_RUNTIME_DIR": "FOLDER/absent"}, "/absent/chatd cannot be created: no such file"),
    ],
)
def test_without_an_admin_socket_the_start_says_why(
    tmp_path: Path, more: dict[str, str], why: str
) -> None:
    more = {name: value.replace("FOLDER", str(tmp_path)) for name, value in more.items()}
    with serving(tmp_path, "--set", "history.store=memory", **more) as one:
        (told,) = [line for line in one.log if line.get("setting") == "admin.socket"]
        assert told["event"] == "warning"
        assert why in str(told["detail"])
        assert str(told["detail"]).endswith("Set admin.socket to a path.")


def test_an_admin_socket_that_is_off_or_there_is_not_warned_of(tmp_path: Path) -> None:
    for words, more in (
        (("--set", "admin.socket=off"), {}),
        (("--set", f"admin.socket={tmp_path}/a.sock"), {}),
        ((), {"RUNTIME_DIRECTORY": str(tmp_path)}),
    ):
        with serving(tmp_path, *words, **more) as one:
            assert [line for line in one.log if line["event"] == "warning"] == []


def test_files_that_should_be_corrected_are_warned_of(tmp_path: Path) -> None:
    tls = issue(tmp_path / "tls", expires=datetime(2021, 1, 1, tzinfo=UTC)).tls
    Path(tls.key_file).chmod(0o644)
    words = [f"tls.{name}={getattr(tls, name)}" for name in ("certificate_file", "key_file")]
    admin = f"admin.socket={tmp_path}/a.sock"
    with serving(tmp_path, *(f"--set={word}" for word in (*words, admin))) as one:
        told = [line for line in one.log if line["event"] == "warning"]
    assert [line["setting"] for line in told] == ["tls.certificate_file", "tls.key_file"]
    assert "expired on 2021-01-01 00:00 UTC" in str(told[0]["detail"])
    assert "which has mode 0644" in str(told[1]["detail"])


def test_without_standard_streams_it_serves_and_no_file_takes_their_place(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    words = command("serve", "--listen", f"unix:{path}", "--set", "admin.socket=off")
    for redirected in ("2>/dev/full", "2>&-", "<&- >&- 2>&-"):
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {redirected}', "sh", *words],
            env=environ(tmp_path, XDG_STATE_HOME=str(tmp_path)),
            cwd=tmp_path,
        )
        with process:
            try:
                until_listening(path, process)
                for number in range(3):
                    opened = Path(f"/proc/{process.pid}/fd/{number}").readlink()
                    assert opened.suffix not in (".db", ".db-wal", ".lock")
                process.send_signal(signal.SIGTERM)
                assert process.wait(SECONDS) == 0
            finally:
                if process.poll() is None:
                    process.kill()


def until_listening(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Connect to a socket as soon as it is there: nothing else tells that it is."""
    while process.poll() is None:
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.connect(str(path))
            return
        time.sleep(0.05)
    raise AssertionError(f"it ended with {process.returncode}")


# ---- as a service, a start that failed comes again


def test_a_service_whose_start_failed_ends_later_each_time(tmp_path: Path) -> None:
    with socket.socket() as taken, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(SECONDS)
        port = taken.getsockname()[1]
        service = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "RUNTIME_DIRECTORY": str(tmp_path),
            "XDG_STATE_HOME": str(tmp_path),
        }

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(
                command("serve", "--listen", f"127.0.0.1:{port}"),
                stderr=subprocess.PIPE,
                text=True,
                env=environ(tmp_path, **service),
                cwd=tmp_path,
            )

        with start() as first:
            _, told = first.communicate(timeout=SECONDS)
            assert (first.returncode, "Trying again" in told) == (1, False)
            assert f"127.0.0.1:{port} is in use" in told
        (tmp_path / "failed-starts").write_text("3")
        with start() as later:
            assert b"Trying again in 4 s." in notify.recv(4096)
            # `systemctl stop` ends the wait.
            later.send_signal(signal.SIGTERM)
            _, told = later.communicate(timeout=SECONDS)
            assert later.returncode == 0
            assert told.splitlines()[-1] == "chatd: Trying again in 4 s."
        assert not (tmp_path / "failed-starts").exists()


@pytest.mark.parametrize("gone", [False, True])
def test_a_hangup_on_a_terminal_reloads_a_file_unless_the_terminal_is_gone(
    tmp_path: Path, gone: bool
) -> None:
    path = tmp_path / "chatd.toml"
    path.touch()
    words = ("--config", str(path), "--listen", f"unix:{tmp_path}/chat.sock")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("serve", *words),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environ(tmp_path, TERM="dumb", COLUMNS="400"),
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(theirs)
    with process:
        try:
            told = ""
            while "ready" not in told:
                told += os.read(ours, 4096).decode()
            if gone:
                os.close(ours)
                process.send_signal(signal.SIGHUP)
            else:
                process.send_signal(signal.SIGHUP)
                while "reload" not in told:
                    told += os.read(ours, 4096).decode()
                process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
        finally:
            if process.poll() is None:
                process.kill()
    if not gone:
        os.close(ours)
