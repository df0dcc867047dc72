"""``chatd ctl`` against a daemon: tables, JSON and exit codes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from chatd.__main__ import main
from chatd.admin import Administration, DaemonControl
from chatd.cli.ctl import COMMANDS
from chatd.reload import Configuration
from chatd.settings import Settings, load
from chatd.wire.listener import open_listeners
from chatd.wire.tls import tls_context
from tests.admin.administered import Administered, administered
from tests.wire.certificates import issue


class Controlled:
    """A daemon with an admin socket, and ``chatd ctl`` on it."""

    def __init__(self, one: Administered, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.one = one
        self.path = path
        self._capsys = capsys

    async def ctl(self, *words: str) -> tuple[int, str, str]:
        """Run it; return the exit code, stdout and stderr."""
        argv = ["ctl", "--socket", str(self.path), *words]
        code = await trio.to_thread.run_sync(main, argv)
        told = self._capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    async def shown(self, *words: str) -> list[list[str]]:
        """Run it for people; give the words of each line."""
        code, out, err = await self.ctl(*words)
        assert (code, err) == (0, "")
        return [line.split() for line in out.splitlines()]

    async def told(self, *words: str) -> Any:
        """Run it for machines."""
        code, out, err = await self.ctl("--json", *words)
        assert (code, err) == (0, "")
        return json.loads(out)


Control = Callable[..., Any]


@pytest.fixture
def control(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Control:
    @asynccontextmanager
    async def controlled(configuration: Configuration | None = None) -> AsyncGenerator[Controlled]:
        path = tmp_path / "admin.sock"
        async with administered(configuration=configuration) as one, trio.open_nursery() as nursery:
            operated = DaemonControl(one.chat.daemon, one.reload, one.stop)
            listeners = open_listeners([f"unix:{path}"], 0o600)
            administration = Administration(operated, admin=listeners, metrics=())
            await nursery.start(administration.run)
            yield Controlled(one, path, capsys)
            administration.close()

    return controlled


async def test_tables_for_people(control: Control) -> None:
    async with control() as at:
        ann = await at.one.chat.client("ann")
        await ann.say("hello")
        await at.one.chat.wait_idle()
        assert await at.shown("rooms") == [
            ["ROOM", "MEMBERS", "MESSAGES", "TOPIC"],
            ["lobby", "1", "1"],
        ]
        assert await at.shown("who") == [["NICK", "USER", "OP"], ["ann", ann.user]]
        assert await at.shown("who", "lobby") == await at.shown("who")
        header, row = await at.shown("connections")
        assert header[:3] == ["ID", "NICK", "USER"]
        assert row[1:6] == ["ann", ann.user, "memory", "chatd.v1", "websocket"]
        assert row[-1] == "lobby"
        lines = {line[0]: " ".join(line[1:]) for line in await at.shown("status")}
        assert lines["clients"] == "1: 1 chatd.v1 by websocket"
        assert lines["state"].startswith("ready, up ")
        assert lines["messages"] == "1 sent, 1 delivered"


async def test_json_for_machines(control: Control) -> None:
    async with control() as at:
        await at.one.chat.client("ann")
        assert (await at.told("status"))["clients"] == 1
        assert [room["room"] for room in (await at.told("rooms"))["rooms"]] == ["lobby"]
        # The option counts behind the command too.
        code, out, _ = await at.ctl("who", "--json")
        assert code == 0
        assert json.loads(out)["members"][0]["nick"] == "ann"


async def test_what_it_does_is_said(control: Control) -> None:
    async with control() as at:
        ann = await at.one.chat.client("ann")
        assert await at.shown("announce", "a break") == [["Sent", "to", "1", "connection."]]
        assert (await ann.next("notice")).text == "a break"
        assert await at.told("announce", "psst", "--room", "lobby") == {"receivers": 1}
        assert await at.shown("loglevel") == [["info"]]
        assert await at.shown("loglevel", "warning") == [["warning"]]
        assert await at.shown("loglevel") == [["warning"]]
        code, out, _ = await at.ctl("drain")
        assert (code, out) == (0, "Disconnecting 1 client. The daemon stops within 10 s.\n")
        assert at.one.stop.is_set()


async def test_users_are_kicked_from_the_console(control: Control) -> None:
    async with control() as at:
        bob = await at.one.chat.client("bob")
        assert await at.shown("mute", "bob", "--seconds", "60", "--reason", "too loud") != []
        assert (await bob.next("notice")).text.endswith("too loud")
        assert await at.shown("slow", "lobby", "2.5") == [["Done."]]
        header, muted, slow = await at.shown("bans")
        assert header[:3] == ["KIND", "NICK", "USER"]
        assert muted[:3] == ["mute", "bob", bob.user]
        assert muted[-2:] == ["too", "loud"]
        assert slow[:3] == ["slow", "2.5", "s"]
        assert await at.shown("unmute", "bob") == [["Done."]]
        assert await at.shown("kick", "bob") == [["Done."]]
        assert (await bob.lost()).code == 4500


async def test_times_are_durations_or_seconds(control: Control) -> None:
    async with control() as at:
        bob = await at.one.chat.client("bob")
        for words, seconds in (
            (("mute", "bob", "--for", "2h"), 7200),
            (("ban", "bob", "--seconds", "90"), 90),
            (("close", "lobby", "--for", "1d"), 86400),
        ):
            assert await at.shown(*words) != []
            (held,) = [one for one in (await at.told("bans"))["bans"] if one["kind"] == words[0]]
            began, ended = map(datetime.fromisoformat, (held["at"], held["until"]))
            assert (ended - began).total_seconds() == seconds
        assert await at.shown("slow", "lobby", "5m") == [["Done."]]
        assert [one["seconds"] for one in (await at.told("bans"))["bans"]].count(300) == 1
        assert await at.shown("close", "lobby", "--for", "0") == [["Done."]]
        assert (await bob.lost()).code == 4501


NOWHERE = [
    ["who", "nope"],
    ["announce", "hi", "--room", "nope"],
    ["slow", "nope", "5"],
    ["slow", "nope", "0"],
    ["close", "nope"],
    ["close", "nope", "--seconds", "0"],
    ["kick", "nobody"],
    ["kick", "ann", "--room", "nope"],
    ["kick", "ann", "--room", "hall"],
    ["ban", "nobody"],
    ["ban", "--user", "nobody"],
    ["ban", "ann", "--room", "nope"],
    ["ban", "--network", "192.0.2.1", "--room", "nope"],
    ["unban", "ann"],
    ["unban", "--user", "nobody"],
    ["unban", "--network", "192.0.2.1"],
    ["mute", "nobody"],
    ["mute", "ann", "--room", "nope"],
    ["unmute", "ann"],
    ["unmute", "ann", "--room", "nope"],
    ["forget", "nobody"],
    ["remove", "nope"],
]


async def test_what_does_not_exist_is_not_found_and_changes_nothing(control: Control) -> None:
    async with control() as at:
        ann = await at.one.chat.client("ann")
        await at.one.chat.client("bob", room="hall")
        for words in NOWHERE:
            code, out, err = await at.ctl(*words, "--json")
            assert (code, json.loads(out)["error"]["code"]) == (1, "not_found"), words
            assert err.startswith("chatd: ")
            assert err.endswith(".\n")
            assert err.count("\n") == 1
        assert (await at.told("bans"))["bans"] == []
        await ann.say("still here")


async def test_rooms_without_members_exist_while_they_have_events_or_a_sanction(
    control: Control,
) -> None:
    async with control() as at:
        ann = await at.one.chat.client("ann", room="garden")
        await ann.say("hello")
        await ann.leave("garden")
        assert await at.shown("who", "garden") == [["NICK", "USER", "OP"]]
        assert await at.shown("slow", "garden", "5") == [["Done."]]
        # Nobody has said anything in the default room yet.
        assert await at.shown("close", "lobby") == [["Done."]]
        # Closed, a room without events is empty, and can be opened again.
        await ann.join("shed")
        assert await at.shown("close", "shed") == [["Done."]]
        assert await at.shown("close", "shed", "--seconds", "0") == [["Done."]]


async def test_a_refusal_is_one_line_and_1(control: Control) -> None:
    async with control() as at:
        assert await at.ctl("announce", "hi", "--room", "hall") == (
            *(1, "", "chatd: hall has no members.\n"),
        )
        code, out, err = await at.ctl("announce", "hi", "--room", "hall", "--json")
        assert (code, err) == (1, "chatd: hall has no members.\n")
        assert json.loads(out)["error"]["code"] == "not_found"


async def test_a_refused_reload_reports_every_error_with_its_place(
    control: Control, tmp_path: Path
) -> None:
    path = tmp_path / "chatd.toml"

    async def read() -> Settings:
        return load(path)

    async with control(Configuration(read)) as at:
        path.write_text("[limits]\nrooms = 7\n[listen]\naddresses = ['localhost:1']\n")
        assert await at.shown("reload") == [
            ["Reloaded.", "Changed:", "limits.rooms."],
            ["Changed,", "but", "a", "restart", "is", "needed:", "listen.addresses."],
        ]
        path.write_text("[limits]\nrooms = 0\n[chat]\ngreting = 'hi'\n")
        code, out, err = await at.ctl("reload")
        assert (code, out) == (1, "")
        assert f"{path}:2:9: error: limits.rooms" in err
        assert f"{path}:4:1: error: " in err
        assert "\n    greting = 'hi'\n    ^\n" in err
        assert err.endswith("chatd: The configuration has errors and was not applied.\n")
        assert at.one.chat.daemon.settings.limits.rooms == 7
        lines = [" ".join(line) for line in await at.shown("status")]
        assert any(line.endswith("refused, errors: 2") for line in lines)
        assert any(line.startswith(f"{path}:2:9: limits.rooms") for line in lines)


async def test_status_shows_when_the_certificate_expires(control: Control, tmp_path: Path) -> None:
    async with control() as at:
        expires = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
        at.one.chat.daemon.server.tls = tls_context(issue(tmp_path, expires=expires))
        until = ["tls", "certificate", "valid", "until", "2030-01-02T03:04:05.000Z"]
        assert until in await at.shown("status")


# ---- no daemon


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["ctl", *words]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("chatd: ")
    assert told.err.count("\n") == 1
    return told.err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_no_daemon_is_one_line_and_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: Any
) -> None:
    required = [
        "5"
        for argument in command.arguments
        if argument.required and not argument.name.startswith("--")
    ]
    told = fails(capsys, "--socket", f"{tmp_path}/no.sock", command.name, *required)
    assert told.startswith(f"chatd: No daemon was found: there is no {tmp_path}/no.sock. ")


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["ctl"], ["ctl", "nonsense"], ["ctl", "loglevel", "loud"], ["ctl", "announce"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert "usage: chatd ctl" in capsys.readouterr().err
