"""Every command over every protocol that has it, by clients that others wrote: the same outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from chatd.chat.rules import COMMANDS
from tests.e2e.chatd_process import ChatdProcess, ChatdStarter
from tests.e2e.socketio_clients import Client, Clients
from tests.e2e.test_process import text_chat
from tests.e2e.test_tokens import run

OK: Final = "ok"

# What differs from one daemon to the next.
PASSING: Final = frozenset({"at", "edited", "epoch", "session", "user", "until", "retry_ms"})


class Step(NamedTuple):
    """A step: its author, the command, its result, and the event that the other client gets."""

    who: str
    do: str
    fields: Mapping[str, Any]
    outcome: str
    heard: str | None = None


LOBBY: Final = {"room": "lobby"}
BOB: Final = {"room": "lobby", "nick": "Bobby"}

STEPS: Final = (
    Step("bob", "join", {"room": "garden", "limit": 0}, OK),
    Step("bob", "join", {"room": "*"}, "bad_request"),
    Step("bob", "leave", {"room": "garden"}, OK),
    Step("bob", "leave", {"room": "garden"}, "not_joined"),
    Step("bob", "say", {**LOBBY, "text": "who has cake?", "key": "k1"}, OK, "message"),
    Step("bob", "say", {**LOBBY, "text": "who has cake?", "key": "k1"}, OK),
    Step("bob", "say", {"room": "garden", "text": "anybody?"}, "not_joined"),
    Step("bob", "say", {**LOBBY, "text": "not there", "reply_to": 99}, "not_found"),
    Step("ann", "say", {**LOBBY, "text": "I have", "reply_to": 1}, OK, "message"),
    Step("bob", "edit", {**LOBBY, "seq": 1, "text": "who has apple cake?"}, OK, "edit"),
    Step("bob", "edit", {**LOBBY, "seq": 2, "text": "nobody"}, "forbidden"),
    Step("bob", "delete", {**LOBBY, "seq": 2}, "forbidden"),
    Step("ann", "delete", {**LOBBY, "seq": 2}, OK, "delete"),
    Step("bob", "topic", {**LOBBY, "text": "mine"}, "forbidden"),
    Step("ann", "topic", {**LOBBY, "text": "cake"}, OK, "topic"),
    Step("bob", "search", {**LOBBY, "query": "apple"}, OK),
    Step("bob", "search", {"room": "nowhere", "query": "apple"}, "not_found"),
    Step("bob", "typing", {**LOBBY, "on": True}, OK, "typing"),
    Step("bob", "typing", {"room": "garden", "on": True}, "not_joined"),
    Step("bob", "read", {**LOBBY, "seq": 2}, OK),
    Step("bob", "read", {"room": "garden", "seq": 2}, "not_joined"),
    Step("bob", "history", {**LOBBY, "limit": 3}, OK),
    Step("bob", "history", {"room": "nowhere"}, "not_found"),
    Step("bob", "who", LOBBY, OK),
    Step("bob", "who", {"room": "*"}, "bad_request"),
    Step("bob", "rooms", {}, OK),
    Step("bob", "rooms", {"after": 5}, "bad_request"),
    Step("bob", "nick", {"nick": "ann"}, "nick_taken"),
    Step("bob", "nick", {"nick": "Bobby"}, OK, "nick"),
    Step("bob", "auth", {"token": "nonsense"}, "unauthorized"),
    Step("ann", "auth", {"token": "ann's"}, OK),
    Step("bob", "mute", {**LOBBY, "nick": "ann"}, "forbidden"),
    Step("ann", "mute", {**BOB, "seconds": 60, "reason": "calm down"}, OK, "notice"),
    Step("bob", "say", {**LOBBY, "text": "but"}, "muted"),
    Step("bob", "unmute", BOB, "forbidden"),
    Step("ann", "unmute", BOB, OK),
    Step("bob", "slow", {**LOBBY, "seconds": 60}, "forbidden"),
    Step("ann", "slow", {**LOBBY, "seconds": 60}, OK),
    Step("bob", "bans", LOBBY, "forbidden"),
    Step("ann", "bans", LOBBY, OK),
    Step("bob", "say", {**LOBBY, "text": "slowly"}, OK, "message"),
    Step("bob", "say", {**LOBBY, "text": "too quickly"}, "rate_limited"),
    Step("ann", "slow", {**LOBBY, "seconds": 0}, OK),
    Step("bob", "kick", {**LOBBY, "nick": "ann"}, "forbidden"),
    Step("ann", "kick", {**BOB, "reason": "enough"}, OK, "left"),
    Step("bob", "say", {**LOBBY, "text": "hello?"}, "not_joined"),
    Step("bob", "ban", {**LOBBY, "nick": "ann"}, "forbidden"),
    Step("ann", "ban", {**BOB, "seconds": 60}, OK),
    Step("bob", "join", LOBBY, "banned"),
    Step("bob", "unban", BOB, "forbidden"),
    Step("ann", "unban", BOB, OK),
    Step("bob", "join", {**LOBBY, "limit": 2}, OK, "joined"),
    Step("bob", "close", LOBBY, "forbidden"),
    Step("ann", "close", {**LOBBY, "seconds": 60, "reason": "cleaning"}, OK, "left"),
    Step("bob", "join", LOBBY, "forbidden"),
    Step("ann", "close", {**LOBBY, "seconds": 0}, OK),
    Step("bob", "join", {**LOBBY, "limit": 0}, OK, "joined"),
    Step("bob", "remove", LOBBY, "forbidden"),
    Step("ann", "remove", {**LOBBY, "reason": "enough"}, OK, "left"),
    Step("bob", "say", {**LOBBY, "text": "hello?"}, "not_joined"),
)


class Person(Protocol):
    """A user with a client."""

    async def do(self, step: Step, fields: Mapping[str, Any]) -> Any:
        """Run a command; return its answer without the fields of the protocol."""

    async def hears(self, event: str) -> dict[str, Any]:
        """Wait for the next of these events; give its fields."""
        ...


class JsonPerson:
    """``chatd.v1`` over trio-websocket."""

    def __init__(self, line: WebSocketConnection) -> None:
        self._line = line
        self._events: list[dict[str, Any]] = []
        self._number = 0

    async def do(self, step: Step, fields: Mapping[str, Any]) -> Any:
        self._number += 1
        await self._line.send_message(json.dumps({"do": step.do, "id": self._number, **fields}))
        if step.do == "typing" and step.outcome == OK:
            return {OK: {}}  # which has no answer
        while (got := await self._next()).get("re") != self._number:
            self._events.append(got)
        del got["re"]
        return got

    async def hears(self, event: str) -> dict[str, Any]:
        while True:
            for got in self._events:
                if got["on"] == event:
                    self._events.remove(got)
                    return got
            self._events.append(await self._next())

    async def _next(self) -> dict[str, Any]:
        got: dict[str, Any] = json.loads(await self._line.get_message())
        return got


class SocketIoPerson:
    """Socket.IO's own client."""

    def __init__(self, socket: Client) -> None:
        self._socket = socket

    async def do(self, step: Step, fields: Mapping[str, Any]) -> Any:
        if step.do == "typing" and step.outcome == OK:
            await self._socket.emit(step.do, fields)
            return {OK: {}}
        [answer] = await self._socket.request(step.do, fields)
        return answer

    async def hears(self, event: str) -> dict[str, Any]:
        if event == "message":
            text, about, *_ = await self._socket.hears("chat message")
            return {"on": event, "text": text, **about}
        fields, *_ = await self._socket.hears(event)
        return {**fields, "on": event}


def test_no_command_is_left_out() -> None:
    names = set(COMMANDS)
    for outcomes in ({OK}, {step.outcome for step in STEPS} - {OK}):
        assert {step.do for step in STEPS if step.outcome in outcomes} == names


async def test_the_same_comes_of_it_by_every_protocol(
    tmp_path: Path, start_chatd: ChatdStarter, clients: Clients
) -> None:
    key = tmp_path / "key"
    key.write_text(await run("-m", "chatd", "token", "--new-key"))
    config = tmp_path / "chatd.toml"
    config.write_text(
        f'[auth]\nmode = "token"\nguests = true\nkey_files = ["{key}"]\n'
        '[chat]\noperators = ["ann"]\ncreate_rooms = true\n'
        f'[history]\nstore = "memory"\n'
    )
    token = await run("-m", "chatd", "token", "--user", "ann", "--config", str(config))
    bearer = {"Authorization": f"Bearer {token}"}

    async def socketio(chatd: ChatdProcess, version: str, *transports: str) -> dict[str, Person]:
        people: dict[str, Person] = {}
        for nick, headers in (("ann", bearer), ("bob", {})):
            socket = await clients.open(
                f"client-{version}",
                f"http://localhost:{chatd.port}",
                transports,
                auth={"nick": nick},
                query={"nick": nick},
                extraHeaders=headers,
            )
            [hello] = await socket.hears("hello")
            assert hello["nick"] == nick
            people[nick] = SocketIoPerson(socket)
        return people

    outcomes: dict[str, list[Any]] = {}
    for way in ("json", "4.8 websocket", "4.0 polling", "2.5 websocket", "1.7 polling"):
        chatd = await start_chatd(config=config)
        if way == "json":
            url = f"ws://localhost:{chatd.port}/ws?nick="
            async with (
                open_websocket_url(
                    f"{url}ann",
                    subprotocols=["chatd.v1"],
                    extra_headers=[(b"Authorization", bearer["Authorization"].encode())],
                ) as ann,
                open_websocket_url(f"{url}bob", subprotocols=["chatd.v1"]) as bob,
            ):
                by_json: dict[str, Person] = {"ann": JsonPerson(ann), "bob": JsonPerson(bob)}
                for person in by_json.values():
                    enter = Step("", "join", {**LOBBY, "limit": 0}, OK)
                    assert OK in await person.do(enter, enter.fields)
                outcomes[way] = await story(by_json, token)
        else:
            outcomes[way] = await story(await socketio(chatd, *way.split()), token)
        await chatd.stop()
    for way, outcome in outcomes.items():
        for step, got, wanted in zip(STEPS, outcome, outcomes["json"], strict=True):
            assert got == wanted, (way, step)


async def story(people: Mapping[str, Person], token: str) -> list[Any]:
    """Run the steps; return their results without the parts that differ between daemons."""
    came: list[Any] = []
    with trio.fail_after(120):
        for step in STEPS:
            fields = (
                {**step.fields, "token": token}
                if step.fields.get("token") == "ann's"
                else step.fields
            )
            answer = await people[step.who].do(step, fields)
            assert (OK if OK in answer else answer["error"]["code"]) == step.outcome, (step, answer)
            heard = None
            if step.heard is not None:
                other = "ann" if step.who == "bob" else "bob"
                heard = await people[other].hears(step.heard)
            if step.outcome == "bad_request":
                answer["error"].pop("message")  # which says what is wrong with the frame
            came.append(steady([answer, heard]))
    return came


def steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: steady(one) for key, one in value.items() if key not in PASSING}
    return [steady(one) for one in value] if isinstance(value, list) else value


PLAIN: Final = (
    ("hello", "bob: hello", {"on": "message", "room": "lobby", "from": "bob", "text": "hello"}),
    ("/nick ann", "* The nick ann is taken. Try ann-2.", None),
    ("/nick Bobby", "* bob is now Bobby", {"on": "nick", "from": "bob", "to": "Bobby"}),
    ("/who", "* In #lobby: ann, Bobby", None),
    ("/history 1", "bob: hello", None),
    ("/msg ann psst", "Bobby -> ann: psst", {"on": "message", "from": "Bobby", "text": "psst"}),
    ("/join *", "* Room names cannot contain", None),
    ("/join garden", "#garden", {"on": "left", "nick": "Bobby", "reason": "leave"}),
    ("/join lobby", "#lobby", {"on": "joined", "nick": "Bobby"}),
    ("/auth nonsense", "* This server does not take tokens.", None),
)
"""A line, its sender's frames, and the events of a client that speaks JSON."""


async def test_what_plain_text_has_comes_to_the_same(start_chatd: ChatdStarter) -> None:
    chatd = await start_chatd()
    url = f"ws://localhost:{chatd.port}/ws?nick=ann"
    async with (
        open_websocket_url(url, subprotocols=["chatd.v1"]) as line,
        text_chat(chatd, "bob") as bob,
    ):
        ann = JsonPerson(line)
        await ann.do(Step("ann", "join", LOBBY, OK), LOBBY)
        for typed, read, heard in PLAIN:
            await bob.send_message(typed)
            with trio.fail_after(60):
                while read not in (got := str(await bob.get_message())):
                    pass
                if heard is not None:
                    event = await ann.hears(heard["on"])
                    assert heard.items() <= event.items(), (typed, event, got)
