"""``chatd`` without a verb serves; and an end from outside is no traceback."""

from __future__ import annotations

import argparse
import signal
from typing import NoReturn

import pytest

from chatd.__main__ import main
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


@pytest.mark.parametrize(("ended", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 1)])
def test_an_end_from_outside(
    monkeypatch: pytest.MonkeyPatch, ended: type[BaseException], code: int
) -> None:
    def run(_args: argparse.Namespace) -> NoReturn:
        raise ended

    monkeypatch.setattr(serve, "run", run)
    assert main([]) == code


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
