"""Each endpoint: its answers, effects and refusals."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from chatd import client
from chatd.admin.endpoints import ENDPOINTS
from chatd.cli.ctl import COMMANDS
from chatd.reload import Configuration
from chatd.settings import Auth, Fault, Limits, Settings, SettingsError
from tests.admin.administered import administered


def test_every_endpoint_is_a_command_and_takes_what_it_gives() -> None:
    commands = {f"/{command.name}": command for command in COMMANDS}
    assert commands.keys() | {"/token"} == ENDPOINTS.keys()  # that one is `chatd token`'s
    for path, command in commands.items():
        names = {argument.name.removeprefix("--") for argument in command.arguments}
        fields = {
            field for endpoint in ENDPOINTS[path] for field in endpoint.arguments.__struct_fields__
        }
        assert names == fields
        methods = {endpoint.method for endpoint in ENDPOINTS[path]}
        assert methods == {command.method} | ({"GET"} if command.reads else set())


async def test_status_counts_who_is_here(autojump_clock: MockClock) -> None:
    async with administered() as one:
        ann = await one.chat.client("ann")
        await one.chat.client("tom", "text")
        await one.chat.client("bob", "polling")
        await ann.say("hello")
        await trio.sleep(90)
        status = await one.done("GET /status")
        assert (status["state"], status["clients"], status["users"], status["rooms"]) == (
            *("ready", 3, 3, 1),
        )
        assert status["by_kind"] == [
            {"transport": "polling", "protocol": "socket.io", "connections": 1},
            {"transport": "websocket", "protocol": "chatd.v1", "connections": 1},
            {"transport": "websocket", "protocol": "text", "connections": 1},
        ]
        assert status["uptime_seconds"] >= 90
        assert status["bus"]["events"] == status["store"]["events"] == 1
        assert status["bus"]["waiting_blocks"] == status["store"]["waiting_blocks"] == 0
        assert status["bus"]["deliveries"] == 3
        assert status["bus"]["commit_seconds"]["counts"][-1] == status["bus"]["batches"]
        assert status["reload"] is None
        assert status["log"]["level"] == "info"
        assert status["log"]["lines"] == len(one.chat.log.lines)


async def test_status_says_when_clients_are_not_welcome(autojump_clock: MockClock) -> None:
    async with administered() as one:
        ann = await one.chat.client("ann")
        one.chat.fill_disk()
        with pytest.raises(client.Refused, match="unavailable"):
            await ann.say("hello", key="k")
        assert (await one.done("GET /status"))["state"] == "unavailable"
        one.chat.free_disk()
        await trio.sleep(10)
        assert (await one.done("GET /status"))["state"] == "ready"
        one.stop.set()
        assert (await one.done("GET /status"))["state"] == "draining"


async def test_rooms_and_who(autojump_clock: MockClock) -> None:
    async with administered() as one:
        ann = await one.chat.client("ann")
        await one.chat.client("bob", room="Hall")
        await ann.say("hello")
        assert (await one.done("GET /rooms"))["rooms"] == [
            {"room": "Hall", "members": 1, "seq": 0, "topic": ""},
            {"room": "lobby", "members": 1, "seq": 1, "topic": ""},
        ]
        everybody = await one.done("GET /who")
        assert everybody["room"] is None
        assert [member["nick"] for member in everybody["members"]] == ["ann", "bob"]
        hall = await one.done("GET /who?room=hall")
        assert (hall["room"], [member["nick"] for member in hall["members"]]) == ("Hall", ["bob"])
        assert await one.refused("GET /who?room=empty") == (404, "not_found")
        assert await one.refused("GET /who?room=a%20b") == (400, "bad_request")
        assert await one.refused("GET /who?rom=hall") == (400, "bad_request")


async def test_connections_are_listed_one_by_one(autojump_clock: MockClock) -> None:
    async with administered() as one:
        ann = await one.chat.client("ann")
        await ann.join("hall")
        await trio.sleep(5)
        await one.chat.client("bob", "socketio")
        rows = (await one.done("GET /connections"))["connections"]
        assert [(row["nick"], row["protocol"], row["rooms"]) for row in rows] == [
            ("ann", "chatd.v1", ["hall", "lobby"]),
            ("bob", "socket.io", ["lobby"]),
        ]
        assert rows[0]["user"] == ann.user
        assert rows[0]["since"] < rows[1]["since"]
        assert {row["id"] for row in rows} == {
            fields["connection"] for fields in one.chat.logged("connect")
        }
        assert {row["address"] for row in rows} == {"memory"}


async def test_an_announcement_reaches_all_clients_or_a_room(autojump_clock: MockClock) -> None:
    async with administered() as one:
        ann = await one.chat.client("ann")
        tom = await one.chat.client("tom", "text")
        bob = await one.chat.client("bob", "socketio")
        await ann.join("hall")
        assert await one.done("POST /announce", {"text": "a break\r\nof five"}) == {"receivers": 3}
        assert (await ann.next("notice")).text == "a break\nof five"
        assert (await tom.next("notice")).text == "bob joined"
        assert (await tom.next("notice")).text == "a break\nof five"
        assert (await bob.next("notice")).text == "a break\nof five"
        assert await one.done("POST /announce", {"text": "psst", "room": "HALL"}) == {
            "receivers": 1
        }
        assert (await ann.next("notice")).text == "psst"
        await one.chat.wait_idle()
        assert not tom.waiting("notice")
        assert not bob.waiting("notice")
        assert [fields["receivers"] for fields in one.chat.logged("announce")] == [3, 1]
        for arguments, refusal in (
            ({"text": ""}, (400, "bad_request")),
            ({"text": "a\x1bb"}, (400, "bad_request")),
            ({"text": "x" * 20_000}, (413, "too_large")),
            ({"text": "x", "room": "a b"}, (400, "bad_request")),
            ({"text": "x", "room": "nowhere"}, (404, "not_found")),
            ({"text": 5}, (400, "bad_request")),
            ({}, (400, "bad_request")),
        ):
            assert await one.refused("POST /announce", arguments) == refusal


async def test_the_log_level(autojump_clock: MockClock) -> None:
    async with administered() as one:
        assert await one.done("GET /loglevel") == {"level": "info"}
        assert await one.done("POST /loglevel", {"level": "error"}) == {"level": "error"}
        await one.chat.client("ann")
        assert one.chat.logged("connect") == []
        assert await one.done("POST /loglevel", {"level": "debug"}) == {"level": "debug"}
        await one.chat.client("bob")
        assert [fields["nick"] for fields in one.chat.logged("connect")] == ["bob"]
        # Both changes are logged, whatever the level was.
        assert [fields["state"] for fields in one.chat.logged("loglevel")] == ["error", "debug"]
        assert await one.refused("POST /loglevel", {"level": "loud"}) == (400, "bad_request")


async def test_the_clock_is_shown_and_confirmed(autojump_clock: MockClock) -> None:
    async with administered() as one:
        shown = await one.done("GET /clock")
        assert shown["wall"] == shown["ends_by"]
        assert shown["jump_seconds"] == 0
        assert await one.done("POST /clock", {"action": "confirm"}) == shown
        assert await one.refused("POST /clock", {"action": "set"}) == (400, "bad_request")


async def test_a_reload_is_answered_with_what_became_of_it(autojump_clock: MockClock) -> None:
    faults: list[Fault] = []

    async def read() -> Settings:
        if faults:
            raise SettingsError(faults)
        return Settings(limits=Limits(rooms=7))

    async with administered(configuration=Configuration(read)) as one:
        assert await one.done("POST /reload", {}) == {
            "changed": ["limits.rooms"],
            "restart": [],
            "credentials": [],
            "warnings": [],
        }
        assert one.chat.daemon.settings.limits.rooms == 7
        faults.append(Fault(2, 9, "no", "rooms = no", "/etc/x.toml"))
        status, answer = await one.ask("POST /reload", {})
        assert (status, answer["error"]["code"]) == (422, "faulty")
        assert answer["error"]["faults"] == [
            {
                "line": 2,
                "column": 9,
                "message": "no",
                "source_line": "rooms = no",
                "origin": "/etc/x.toml",
            }
        ]
        told = (await one.done("GET /status"))["reload"]
        assert told["refused"] == answer["error"]["faults"]
        one.stop.set()
        assert await one.refused("POST /reload", {}) == (503, "draining")


async def test_drain_is_begun(autojump_clock: MockClock) -> None:
    async with administered() as one:
        await one.chat.client("ann")
        assert await one.done("POST /drain", {}) == {"clients": 1, "seconds": 10.0}
        assert one.stop.is_set()


async def test_a_token_is_signed_by_the_daemon(autojump_clock: MockClock) -> None:
    async with administered(Settings(auth=Auth(mode="token", audience="chat"))) as one:
        fields = {"user": "ann", "seconds": 60, "rooms": ["team-*"], "op": True}
        token = (await one.done("POST /token", fields))["token"]
        ann = await one.chat.client("ann", token=token, room=None)
        assert (ann.chat.identity.user, ann.chat.identity.op) == ("ann", True)
        [line] = one.chat.logged("token")
        assert (line["target"], line["seconds"], line["detail"]) == ("ann", 60, "an operator's")
        status, code = await one.refused("POST /token", fields | {"user": "zoë"})
        assert (status, code) == (400, "bad_request")


async def test_no_token_is_signed_where_none_is_taken(autojump_clock: MockClock) -> None:
    async with administered() as one:
        assert await one.refused("POST /token", {"user": "ann", "seconds": 60}) == (
            403,
            "forbidden",
        )
