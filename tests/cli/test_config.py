"""``chatd config`` prints a file that means what it says."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.cli import config
from chatd.cli.config import render
from chatd.key_values import Key, sections
from chatd.settings import Settings, SettingsError, load

SHIPPED = Path(__file__).parents[2] / "config" / "chatd.toml"


def run() -> int:
    parser = argparse.ArgumentParser()
    config.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["config"])
    code: int = args.run(args)
    return code


def test_the_shipped_file_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert capsys.readouterr().out == SHIPPED.read_text(encoding="ascii")


def test_the_shipped_file_is_the_defaults() -> None:
    assert load(SHIPPED) == Settings()


def test_every_key_is_printed_once_with_an_explanation() -> None:
    text = render(Settings())
    for name, section in sections().items():
        assert text.count(f"\n[{name}]\n") == 1
        body = text.partition(f"\n[{name}]\n")[2].partition("\n[")[0]
        for key in section.keys:
            assert len(re.findall(rf"^# .*\n{key} = ", body, re.MULTILINE)) == 1


def test_lines_are_narrow() -> None:
    assert max(map(len, render(Settings()).splitlines())) <= 96


def texts(alphabet: str | None = None) -> st.SearchStrategy[str]:
    return st.text(alphabet) if alphabet else st.text(st.characters(exclude_categories=["Cs"]))


# Constraints beyond the type: strings with a check of their own.
STRINGS: dict[str, st.SearchStrategy[Any]] = {
    "listen.addresses": st.lists(
        st.sampled_from(["localhost:1", "[::]:2", "unix:/a b\"'\\#"]), min_size=1, unique=True
    ),
    "listen.socket_mode": st.from_regex(r"\A0?[0-7]{3}\Z"),
    "http.origins": st.lists(st.sampled_from(["same", "file", "https://a.example:1"])),
    "http.hosts": st.lists(st.sampled_from(["a.example", "[::1]:3000"])),
    "http.trusted_proxies": st.lists(st.sampled_from(["unix", "::1", "10.0.0.0/8"])),
    "tls.certificate_file": st.sampled_from(["off", "/a b/c.pem", "credential:a"]),
    "tls.key_file": st.sampled_from(["off", "/a b/c.key", "credential:b"]),
    "chat.greeting": texts().map(lambda text: text.replace("{", "")),
    "chat.default_room": texts("ab日\"'\\=[]").filter(lambda text: 1 <= len(text) <= 64),
    "chat.rules": st.lists(
        st.sampled_from(["news write=operators", "a-* read=users write=ann,bob"])
    ),
    "chat.operators": st.lists(st.sampled_from(["ann", "CN=Ann, OU=x", "a\"'\\"])),
    "auth.key_files": st.lists(st.sampled_from(["/etc/key", "credential:key"]), min_size=1),
    "auth.jwks_url": st.sampled_from(["off", "https://idp.example.org/keys?a=b"]),
    "auth.issuer": st.sampled_from(["off", "https://idp.example.org/"]),
    "auth.audience": st.sampled_from(["off", "chat"]),
    "auth.nick_claim": st.sampled_from(["nick", "https://chat.example.org/name"]),
    "auth.cookie": st.sampled_from(["off", "token", "__Host-token"]),
    "admin.socket": st.sampled_from(["auto", "off", "/run/a b.sock"]),
    "admin.socket_mode": st.from_regex(r"\A0?[0-7]{3}\Z"),
    "metrics.listen": st.sampled_from(["off", "localhost:9", "unix:/run/m"]),
    "history.url": st.sampled_from(["sentinel://a,b:1/c", "rediss://[::1]:1", "unix:/a b"]),
    "history.user": st.sampled_from(["default", "a\"'\\"]),
    "history.password_file": st.sampled_from(["off", "/a b/password", "credential:p"]),
    "history.tls_ca_file": st.sampled_from(["off", "/a b/ca.pem"]),
    "history.prefix": st.sampled_from(["{chatd}", "{a.b}"]),
    "history.path": texts().map(lambda text: f"/{text}x".replace("\0", "")),
}


def a_section(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            key_name: a_value(f"{name}.{key_name}", key)
            for key_name, key in sections()[name].keys.items()
        },
    )


def a_value(name: str, key: Key) -> st.SearchStrategy[Any]:
    return STRINGS[name] if name in STRINGS else by_type(msgspec.json.schema(key.annotation))


def by_type(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "anyOf" in schema:
        return st.one_of([by_type(each) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return st.floats(schema["minimum"], schema["maximum"])
        case other:
            raise AssertionError(f"{other} needs a strategy in STRINGS")


@given(st.fixed_dictionaries({name: a_section(name) for name in sections()}))
def test_what_is_printed_loads_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    settings = msgspec.convert(values, Settings)
    path = tmp_path_factory.getbasetemp() / "printed.toml"
    path.write_bytes(render(settings).encode())
    try:
        assert load(path) == settings
    except SettingsError as error:
        # Drawn key by key, they may break the rules across keys; those alone.
        if not all(" must " in fault.message for fault in error.faults):
            raise
