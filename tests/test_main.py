"""``chatd`` without a verb serves; and an end from outside is no traceback."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from chatd.__main__ import main
from chatd.chat.token_keys import new_key
from chatd.cli import check, config, serve


@pytest.mark.parametrize(
    ("words", "listen"),
    [
        ([], []),
        (["serve"], []),
        (["--listen", "unix:/a", "--listen", "unix:/b"], ["unix:/a", "unix:/b"]),
        (["--set", "log.level=debug"], []),
    ],
)
def test_without_a_verb_it_serves(
    monkeypatch: pytest.MonkeyPatch, words: list[str], listen: list[str]
) -> None:
    served: list[argparse.Namespace] = []

    def run(args: argparse.Namespace) -> int:
        served.append(args)
        return 7

    monkeypatch.setattr(serve, "run", run)
    assert main(words) == 7
    (args,) = served
    assert args.listen == listen
    assert args.config is None


@pytest.mark.parametrize("verb", [check, config])
def test_other_verbs_give_their_code(monkeypatch: pytest.MonkeyPatch, verb: object) -> None:
    monkeypatch.setattr(verb, "run", lambda _: 5)
    assert main([getattr(verb, "__name__", "").rpartition(".")[2]]) == 5


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_args: argparse.Namespace) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "run", run)
    assert main([]) == 130


PRINTING = [
    ["--help"],
    ["--version"],
    ["ctl", "--help"],
    ["config"],
    ["check", "chatd.toml"],
    ["token", "--new-key"],
    ["token", "--user", "ann", "--config", "chatd.toml"],
    ["uninstall", "--dry-run", "--root", "."],
]


def chatd(folder: Path, words: list[str], how: str) -> tuple[int, bytes, list[str]]:
    """Run chatd, as "$@" of a shell's command; return its exit code and what it wrote."""
    ran = subprocess.run(
        ["sh", "-c", how, "sh", sys.executable, "-W", "error", "-m", "chatd", *words],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    return ran.returncode, ran.stdout, ran.stderr.decode().splitlines()


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_output_that_cannot_be_written_is_reported(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "key.jwk").write_text(new_key())
    (tmp_path / "key.jwk").chmod(0o600)
    (tmp_path / "chatd.toml").write_text(
        f'[auth]\nmode = "token"\nkey_files = ["{tmp_path}/key.jwk"]\n'
    )
    says = "chatd: Standard output cannot be written: "
    assert chatd(tmp_path, words, '"$@" >/dev/full') == (
        *(1, b"", [f"{says}no space left on device."]),
    )
    if words[-1] not in ("--help", "--version"):  # which argparse then writes to stderr
        code, _, told = chatd(tmp_path, words, '"$@" >&-')
        assert (code, told) == (1, [f"{says}bad file descriptor."])
    # The reader of a pipe who has enough, as `head` has, is not an error to report.
    code, _, told = chatd(tmp_path, words, '{ "$@"; echo $? >&2; } | exec sleep 0')
    assert told in (["0"], ["1"])


@pytest.mark.parametrize(
    ("words", "code"),
    [(["check", "absent.toml"], 1), (["nonsense"], 2), (["ctl", "--socket", "absent", "who"], 1)],
)
def test_an_error_that_cannot_be_written_has_its_exit_code(
    words: list[str], code: int, tmp_path: Path
) -> None:
    for redirected in ("2>/dev/full", "2>&-"):
        assert chatd(tmp_path, words, f'"$@" {redirected}')[0] == code


def test_a_signal_that_comes_while_the_daemon_is_imported_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []

    def run(_args: argparse.Namespace) -> int:
        signal.raise_signal(signal.SIGTERM)  # to this thread, even if there are others
        assert taken == []
        assert signal.sigpending() == {signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return 0

    monkeypatch.setattr(serve, "run", run)
    before = signal.signal(signal.SIGTERM, lambda number, _: taken.append(number))
    try:
        assert main([]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert taken == [signal.SIGTERM]


def test_only_the_daemon_holds_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_args: argparse.Namespace) -> int:
        return len(signal.pthread_sigmask(signal.SIG_BLOCK, []))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(check, "run", run)
    assert main(["check"]) == len(before)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.parametrize("words", [["config"], ["ctl", "--help"], ["client", "--help"]])
def test_a_short_verb_does_not_import_the_daemon(words: list[str]) -> None:
    code = f"""
import sys
from contextlib import suppress
from chatd.__main__ import main
with suppress(SystemExit):
    main({words})
sys.exit("chatd.daemon" in sys.modules or "chatd.bus" in sys.modules)
"""
    program = [sys.executable, "-c", code]
    done = subprocess.run(program, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
