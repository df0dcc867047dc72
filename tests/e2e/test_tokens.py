"""Tokens that ``chatd token`` prints, taken by a daemon from clients that others wrote."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from tests.e2e.chatd_process import ChatdStarter

# A limit of a hang, not of a speed.
SECONDS = 120

CLIENTS = Path(__file__).with_name("token_clients.py")
ROOT = Path(__file__).parents[2]


async def run(*command: str, **environ: str) -> str:
    """Run a program of Python's to its end; give what it printed."""
    with trio.fail_after(SECONDS):
        ended = await trio.run_process(
            [sys.executable, *command],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), **environ},
        )
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode().strip()


async def test_what_chatd_token_prints_lets_in(tmp_path: Path, start_chatd: ChatdStarter) -> None:
    for name, flags in (("key", []), ("other", ["--hs256"])):
        (tmp_path / name).write_text(await run("-m", "chatd", "token", "--new-key", *flags))
    config, key = tmp_path / "chatd.toml", tmp_path / "key"
    config.write_text(f'[auth]\nmode = "token"\nkey_files = ["{key}"]\n')
    asked = "--user ann --nick annie --room lobby --expires 15m"
    token = await run("-m", "chatd", "token", "--config", str(config), *asked.split())
    config.write_text(f'[auth]\nmode = "token"\nkey_files = ["{tmp_path}/other"]\n')
    bad = await run("-m", "chatd", "token", "--config", str(config), *asked.split())

    chatd = await start_chatd({"auth.mode": "token", "auth.key_files": [str(key)]})
    await run(str(CLIENTS), str(chatd.port), TOKEN=token, BAD_TOKEN=bad)
    assert await chatd.stop() == 0
    await chatd.line(
        "refused", reason="This token is not valid: it was not signed with a key of this server."
    )
    for word in (token, bad):
        # Neither whole nor its telling parts, in no line.
        assert not any(part in chatd.log() for part in word.split(".")[1:])


async def test_a_key_that_cannot_be_read_ends_it_at_once(
    tmp_path: Path, start_chatd: ChatdStarter
) -> None:
    key = tmp_path / "key"
    key.write_text('{"kty": "oct", "k": "c2VjcmV0"}')
    chatd = await start_chatd.begin({"auth.mode": "token", "auth.key_files": [str(key)]})
    assert await chatd.ended() == 78
    [line] = chatd.noise
    assert "error: auth.key_files: its secret has 6 bytes" in line
    chatd.noise.clear()
