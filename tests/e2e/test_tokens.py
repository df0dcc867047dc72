"""Tokens that ``chatd token`` prints, taken by a daemon from clients that others wrote."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from joserfc.jwk import RSAKey

from chatd import client
from tests.chat.issuers import Answer, give, published, served, signed
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.wire.certificates import AUTHORITY

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


async def issued(tmp_path: Path, *asked: str) -> str:
    """Issue a token for such a daemon."""
    return await run("-m", "chatd", "token", "--config", str(tmp_path / "chatd.toml"), *asked)


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


class Provider:
    """An identity provider at an address: it rotates its key, is down, and gives garbage."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048)
        self.answer: Answer = self.give_keys
        self.asked = 0
        self.issuer = "https://idp.example.org/"

    def rotate(self) -> None:
        self.key = RSAKey.generate_key(2048)

    def give_keys(self, handler: BaseHTTPRequestHandler) -> None:
        kid = self.key.thumbprint()
        give(handler, published(self.key.as_dict(private=False, kid=kid, use="sig")))

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked += 1
        self.answer(handler)

    def token(self, user: str, **claims: object) -> str:
        fields = {"sub": user, "iss": self.issuer, "aud": ["chat"], "exp": int(time.time()) + 300}
        return signed({**fields, **claims}, self.key, kid=self.key.thumbprint())


async def user_of(chatd: ChatdProcess, token: str) -> str | None:
    async with client.connect(chatd.url, token=token, reconnect=False) as chat:
        return chat.identity.user


async def test_a_providers_keys_are_fetched_and_followed(
    tmp_path: Path, start_chatd: ChatdStarter
) -> None:
    provider, authority, ann = Provider(), tmp_path / "ca.pem", str(uuid4())
    AUTHORITY.cert_pem.write_to_path(authority)
    with served(provider) as url:
        settings = {
            "auth.mode": "token",
            "auth.jwks_url": url,
            "auth.issuer": provider.issuer,
            "auth.audience": "chat",
        }
        chatd = await start_chatd(settings, environ={"SSL_CERT_FILE": str(authority)})
        await chatd.line("keys", total=1)
        assert await user_of(chatd, provider.token(ann)) == ann
        with pytest.raises(client.Closed) as caught:
            await user_of(chatd, provider.token(ann, aud="others"))
        assert caught.value.ending.code == 4502
        # A new key is found by the first token that names it.
        provider.rotate()
        assert await user_of(chatd, provider.token(ann)) == ann
        assert provider.asked == 2
        # Garbage changes nothing.
        provider.answer = partial(give, body=b"<!doctype html>")
        token = provider.token(ann)
        provider.rotate()
        with pytest.raises(client.ConnectError, match="cannot be fetched now"):
            await user_of(chatd, provider.token(ann))
        await chatd.line("warning", setting="auth.jwks_url")
        assert await user_of(chatd, token) == ann
    assert await chatd.stop() == 0


async def test_a_provider_that_is_down_does_not_keep_it_from_starting(
    tmp_path: Path, start_chatd: ChatdStarter
) -> None:
    settings = {
        "auth.mode": "token",
        "auth.guests": True,
        "auth.jwks_url": "https://127.0.0.1:1/keys",
        "auth.issuer": "https://idp.example.org/",
        "auth.audience": "chat",
    }
    chatd = await start_chatd(settings)
    line = await chatd.line("warning", setting="auth.jwks_url")
    assert "connection refused" in line["detail"]
    async with client.connect(chatd.url, nick="bob") as bob:
        await bob.join("lobby")
    assert await chatd.stop() == 0


async def test_one_command_makes_an_operator(tmp_path: Path, start_chatd: ChatdStarter) -> None:
    key = tmp_path / "a key.jwk"
    made = ["--new-key", "--output"]
    token = await run("-m", "chatd", "token", *made, str(key), "--user", "ann", "--op")
    assert key.stat().st_mode & 0o777 == 0o600
    settings = {"auth.mode": "token", "auth.guests": True, "auth.key_files": [str(key)]}
    chatd = await start_chatd(
        {**settings, "admin.socket": str(tmp_path / "admin.sock")},
    )
    async with (
        client.connect(chatd.url, token=token) as ann,
        client.connect(chatd.url, nick="eve") as eve,
    ):
        assert ann.identity.op
        await eve.join("lobby")
        await ann.kick(nick="eve", room="lobby")
        # The next one is signed by the daemon, which is asked over its admin socket.
        socket = str(tmp_path / "admin.sock")
        token = await run("-m", "chatd", "token", "--socket", socket, "--user", "bob", "--op")
    async with client.connect(chatd.url, token=token) as bob:
        assert bob.identity.op
    await chatd.line("token", target="bob", seconds=43_200)
    assert token.split(".")[1] not in chatd.log()
    assert await chatd.stop() == 0
