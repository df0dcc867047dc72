"""docs/protocol.md: its examples are played against a daemon, and it covers every command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import pytest
from trio.testing import MockClock

from chatd.chat.rules import COMMANDS
from chatd.model import CLOSES, ErrorCode
from chatd.protocol import events
from chatd.protocol.commands import Command
from chatd.settings import Auth, Settings
from chatd.settings import Chat as ChatSettings
from chatd.testing import Harness, open_chat
from tests.gateways.raw import Json, Raw, speak_json, speak_text
from tests.gateways.test_socketio import SocketIo, come

PAGE: Final = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()

WITHOUT_PLAIN: Final = {
    "edit": "lines have no message numbers",
    "delete": "lines have no message numbers",
    "topic": "a mistyped one would be sent to all members",
    "search": "its pages would mix with live messages",
    "typing": "a line arrives only when it is complete",
    "read": "a client with a backlog keeps no position",
    "rooms": "its answer is a table",
    "kick": "operators need a client that shows its target",
    "ban": "as kick",
    "unban": "as kick",
    "mute": "as kick",
    "unmute": "as kick",
    "slow": "as kick",
    "close": "as kick",
    "remove": "as kick",
    "bans": "as kick",
}
"""Commands that plain text does not have, and why."""


class Line(NamedTuple):
    """A line of an example: the client, the direction and the frame."""

    who: str
    way: str
    text: str


def examples(kind: str) -> Iterator[Line]:
    """Yield every line of the page's examples of a protocol, in the page's order."""
    for block in re.findall(rf"^```{re.escape(kind)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        yield from (
            Line(who, way, re.sub(r"\n +", "", text))
            for who, way, text in re.findall(r"^(\w*)([<>=]) (.*(?:\n +.*)*)$", block, re.MULTILINE)
        )


def same(shown: Any, got: Any) -> bool:
    """Return whether a frame matches the page; … matches anything."""
    if shown == "…":
        return True
    if isinstance(shown, dict) and isinstance(got, dict):
        return shown.keys() == got.keys() and all(same(shown[key], got[key]) for key in shown)
    if isinstance(shown, list) and isinstance(got, list):
        return len(shown) == len(got) and all(map(same, shown, got))
    if isinstance(shown, str) and isinstance(got, str):
        return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), got, re.DOTALL) is not None
    return bool(shown == got)


class JsonStory:
    """The clients of the page's examples, connected when they first appear."""

    def __init__(self, chat: Harness) -> None:
        self._chat = chat
        self._people: dict[str, Json] = {}
        self._secrets: dict[str, str] = {}

    async def play(self, line: Line) -> None:
        who = self._people.get(line.who)
        if who is None:
            who = await self._come(line)
            if who is None:
                return
        if line.way == ">":
            await who.text(line.text)
        else:
            got = await who.next()
            assert same(json.loads(line.text), got), (line, got)

    async def _come(self, line: Line) -> Json | None:
        name, second = re.fullmatch(r"([a-z]+)(\d?)", line.who).groups()  # type: ignore[union-attr]
        headers = {}
        if name == "ann":
            headers["Authorization"] = f"Bearer {self._chat.token('ann')}"
        target = "/ws" if second or name == "guest" else f"/ws?nick={name}"
        who = self._people[line.who] = await speak_json(self._chat, target, headers)
        hello = await who.next()
        self._secrets[line.who] = hello["session"]
        if second:
            assert "ok" in await who.do("auth", session=self._secrets[name])
        if line.way == "<" and '"on":"hello"' in line.text:
            assert same(json.loads(line.text), hello), (line, hello)
            return None
        return who


async def test_json_examples(autojump_clock: MockClock) -> None:
    settings = Settings(auth=Auth(mode="token", guests=True), chat=ChatSettings(operators=("ann",)))
    async with open_chat(settings) as chat:
        story = JsonStory(chat)
        lines = list(examples("json chatd.v1"))
        for line in lines:
            await story.play(line)
    assert len(lines) > 80


async def test_plain_text_examples(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        people: dict[str, Raw] = {}
        lines = list(examples("plain"))
        for line in lines:
            if line.who not in people:
                people[line.who] = await speak_text(chat, f"/?nick={line.who}")
            if line.way == ">":
                await people[line.who].text(line.text)
            else:
                got = await people[line.who].hear()
                assert same(line.text, got), (line, got)
    assert len(lines) > 20


async def test_socketio_examples(chat: Harness, autojump_clock: MockClock) -> None:
    client: SocketIo = await come(chat, {"nick": "ann"})
    assert (await client.event())[0] == "hello"
    lines = list(examples("json socket.io"))
    for line in lines:
        if line.way == ">":
            client.acks += 1
            await client.text(f"42{client.acks}{line.text}")
        else:
            packet = await client.packet()
            head = f"3{client.acks}" if line.way == "=" else "2"
            assert packet.startswith(f"{head}["), (line, packet)
            assert same(json.loads(line.text), json.loads(packet.removeprefix(head))), (
                line,
                packet,
            )
    assert len(lines) > 30


def name_of(command: type[Command]) -> str:
    return str(command.__struct_config__.tag)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=name_of)
def test_every_command_has_an_entry_and_an_example(command: type[Command]) -> None:
    name = name_of(command)
    headings = re.findall(r"^#### (.*)$", PAGE, re.MULTILINE)
    assert [each for each in headings if name in each.split(", ")], "no entry"
    asked = [json.loads(line.text)["do"] for line in examples("json chatd.v1") if line.way == ">"]
    assert name in asked or name in {"unban", "unmute"}, "no example in chatd.v1"
    entry = PAGE[PAGE.index("### Commands") : PAGE.index("### Events")]
    section = re.search(rf"^#### [^\n]*\b{name}\b.*?(?=^#### |\Z)", entry, re.DOTALL | re.MULTILINE)
    assert section is not None
    if name != "rooms":
        codes = set(re.findall(r"`(\w+)`", section[0].partition("\nErrors:")[2]))
        assert codes & set(get_args(ErrorCode)) or "as `edit`" in section[0], "no error code"
    for field in command.__struct_encode_fields__:
        if field != "id":
            assert f"`{field}" in section[0], f"{field} is not documented"


def test_plain_text_has_every_command_or_a_reason() -> None:
    source = (Path(__file__).parents[2] / "chatd" / "gateways" / "text.py").read_text()
    said = set(re.findall(r"commands\.(\w+)\(", source))
    for command in COMMANDS.values():
        assert (command.__name__ in said) != (name_of(command) in WITHOUT_PLAIN), command


def test_every_event_error_and_close_code_is_listed() -> None:
    told = [
        each.__struct_config__.tag
        for each in vars(events).values()
        if isinstance(each, type)
        and issubclass(each, events.EventBase)
        and each not in {events.EventBase, events.Unknown}
    ]
    table = PAGE[PAGE.index("### Events") : PAGE.index("### Resume")]
    for name in told:
        assert f"`{name}`" in table, name
    errors = PAGE[PAGE.index("### Errors") : PAGE.index("## Socket.IO")]
    for code in get_args(ErrorCode):
        assert f"`{code}`" in errors, code
    closes = PAGE[PAGE.index("## Close codes") :]
    for code in CLOSES:
        assert str(code) in closes, code
