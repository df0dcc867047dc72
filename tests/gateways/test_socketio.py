"""The chat over Socket.IO: as in a tutorial, and with everything the chat can do."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
import trio
from trio.testing import MockClock

from chatd.protocol import events
from chatd.settings import Chat as ChatSettings
from chatd.settings import EngineIo, Limits, Settings
from chatd.testing import Harness, open_chat
from chatd.wire.transport import Peer
from tests.gateways.raw import Raw, handshake, json_user, speak_text

TARGET = "/socket.io/?EIO={revision}&transport=websocket"


class SocketIo(Raw):
    """A client on a WebSocket, of protocol revision 5 (on Engine.IO 4) or 4 (on 3)."""

    acks = 0

    async def packet(self) -> str:
        """Return the next Socket.IO packet, answering pings."""
        while True:
            frame = await self.hear()
            if frame == "2":
                await self.text("3")
            elif frame.startswith("4"):
                return frame[1:]

    async def event(self) -> list[Any]:
        packet = await self.packet()
        assert packet.startswith("2["), packet
        event = json.loads(packet[1:])
        assert isinstance(event, list)
        return event

    async def emit(self, *event: Any) -> None:
        await self.text(f"42{json.dumps(event)}")

    async def call(self, *event: Any) -> Any:
        """Emit with an acknowledgement, and give it; events before it are passed over."""
        self.acks += 1
        await self.text(f"42{self.acks}{json.dumps(event)}")
        while not (packet := await self.packet()).startswith(f"3{self.acks}["):
            assert packet.startswith("2[")
        return json.loads(packet.removeprefix(f"3{self.acks}"))[0]


async def come(chat: Harness, auth: Any = None, *, revision: int = 4, query: str = "") -> SocketIo:
    """Connect up to the CONNECT reply."""
    client = SocketIo(await chat.dial())
    await client.send(handshake(TARGET.format(revision=revision) + query))
    assert (await client.answer())[0] == 101
    assert (await client.hear()).startswith("0{")
    if revision == 4:
        await client.text("40" if auth is None else f"40{json.dumps(auth)}")
    assert (await client.packet()).startswith('0{"sid":' if revision == 4 else "0")
    return client


async def test_hello_then_the_backlog_then_what_is_live(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await json_user(chat, "ann")
    said = (await ann.do("say", room="lobby", text="before"))["ok"]
    client = await come(chat, {"nick": "bob"})
    name, hello = await client.event()
    assert name == "hello"
    assert (hello["nick"], hello["op"]) == ("bob", False)
    assert hello["limits"]["message_bytes"] == 16384
    joined = hello["joined"]
    assert (joined["room"], joined["seq"], joined["events"]) == ("lobby", 1, [])
    assert [member["nick"] for member in joined["members"]] == ["ann", "bob"]
    name, text, about, offset = await client.event()
    assert (name, text, offset) == ("chat message", "before", f"{said['epoch']}/1")
    assert about == {
        "room": "lobby",
        "epoch": said["epoch"],
        "seq": 1,
        "at": said["at"],
        "from": "ann",
        "user": hello["joined"]["members"][0]["user"],
    }
    await ann.do("say", room="lobby", text="live")
    assert (await client.event())[1] == "live"


async def test_a_client_may_join_by_itself(chat: Harness, autojump_clock: MockClock) -> None:
    plain = await speak_text(chat, "/?nick=plain")
    await plain.hear()
    client = await come(chat, {"nick": "ann", "join": False})
    name, hello = await client.event()
    assert (name, hello["nick"], "joined" in hello) == ("hello", "ann", False)
    # Nobody saw it, under no name that it had meanwhile.
    await client.emit("nick", {"nick": "anna"})
    await client.emit("join", {"room": "lobby", "limit": 0})
    assert await plain.hear() == "* anna joined"
    await client.emit("chat message", "hi", {"room": "lobby"})
    assert await plain.hear() == "anna: hi"


async def test_a_message_as_in_every_tutorial(chat: Harness, autojump_clock: MockClock) -> None:
    plain = await speak_text(chat, "/?nick=plain")
    await plain.hear()
    client = await come(chat, {"nick": "ann"})
    await client.event()
    assert await plain.hear() == "* ann joined"
    await client.emit("chat message", "hi")
    assert (await client.event())[:2] == ["chat message", "hi"]
    assert await plain.hear() == "ann: hi"
    await plain.text("hi yourself")
    assert (await client.event())[1] == "hi yourself"


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_message_has_all_of_its_fields_but_its_text_in_an_object(
    chat: Harness, autojump_clock: MockClock, *, deleted: bool
) -> None:
    at = events.rfc3339(1_700_000_000_123)
    message = events.Message(
        room='a "room"',
        seq=7,
        at=at,
        nick="Änn",
        user="u_1",
        text=None if deleted else 'so "it" is',
        reply_to=3,
        edited=at,
        deleted=deleted,
    )
    gateway = chat.daemon.socketio
    (text,) = gateway._codecs[4].packet(message, "an offset")
    fields = msgspec.to_builtins(message)
    said = [fields.pop(name, "") for name in ("on", "text")][1]
    about = {"epoch": chat.daemon.chat.journal.epoch, **fields}
    assert isinstance(text, str)
    assert json.loads(text[1:]) == ["chat message", said, about, "an offset"]


async def test_the_acknowledgement_comes_before_the_message_and_a_key_is_said_once(
    chat: Harness, autojump_clock: MockClock
) -> None:
    client = await come(chat)
    await client.event()
    await client.text('427["chat message","hi","k"]')
    packet = await client.packet()
    assert packet.startswith('37[{"ok":{"room":"lobby"')
    assert (await client.event())[1] == "hi"
    again = await client.call("chat message", "other words", {"key": "k"})
    assert (again["ok"]["seq"], again["ok"]["duplicate"]) == (1, True)


async def test_commands_and_events_by_their_names(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    client = await come(chat, {"nick": "bob", "room": "Den"})
    assert (await client.event())[1]["joined"]["room"] == "Den"
    answer = await client.call("join", {"room": "lobby"})
    assert answer["ok"]["member_count"] == 2
    assert (await client.call("say", {"room": "lobby", "text": "x"}))["ok"]["seq"] == 1
    page = (await client.call("history", {"room": "lobby"}))["ok"]
    assert [(event["on"], event["text"]) for event in page["events"]] == [("message", "x")]
    listed = (await client.call("rooms"))["ok"]["rooms"]
    assert [room["room"] for room in listed] == ["Den", "lobby"]
    await ann.do("nick", nick="anna")
    while (event := await client.event())[0] != "nick":
        pass
    assert (event[1]["from"], event[1]["to"], event[1]["room"]) == ("ann", "anna", "lobby")
    assert (await client.call("leave", {"room": "lobby"}))["ok"] == {"room": "lobby"}
    # Its start room is still where a message goes.
    assert (await client.call("chat message", "y"))["ok"]["room"] == "Den"


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (["say", {"room": "elsewhere", "text": "x"}], "not_joined"),
        (["say", {"room": "lobby"}], "bad_request"),
        (["say", "lobby", "x"], "bad_request"),
        (["join", None], "bad_request"),
        (["chat message"], "bad_request"),
        (["chat message", 1], "bad_request"),
        (["chat message", {"text": "x"}], "bad_request"),
        (["chat message", "x", 7], "bad_request"),
        (["chat message", ""], "bad_request"),
        (["chat message", "x" * 16385], "too_large"),
    ],
)
async def test_a_refusal_is_acknowledged_or_noticed(
    chat: Harness, autojump_clock: MockClock, event: list[Any], code: str
) -> None:
    client = await come(chat)
    await client.event()
    assert (await client.call(*event))["error"]["code"] == code
    await client.emit(*event)
    name, notice = await client.event()
    assert (name, notice["do"], notice["code"]) == ("notice", event[0], code)
    assert notice["text"]


async def test_an_event_that_is_no_command_is_refused(
    chat: Harness, autojump_clock: MockClock
) -> None:
    client = await come(chat)
    await client.event()
    for event in ("__proto__", "made up", "x" * 10_000):
        answer = await client.call(event, {"x": 1})
        assert answer["error"]["code"] == "bad_request"
        await client.emit(event)
        name, notice = await client.event()
        told = (name, notice["do"], notice["code"], notice["text"])
        assert told == ("notice", event[:64], "bad_request", answer["error"]["message"])
    assert (await client.call("chat message", "still here"))["ok"]["seq"] == 1


async def test_since_and_its_other_name_resume(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    said = [(await ann.do("say", room="lobby", text=str(number)))["ok"] for number in range(5)]
    since = {"epoch": said[0]["epoch"], "seq": 2}
    for name in ("since", "serverOffset"):
        client = await come(chat, {name: since})
        assert (await client.event())[1]["joined"]["recovered"] is True
        assert [(await client.event())[1] for _ in range(3)] == ["2", "3", "4"]
    # A message's second argument is itself a position.
    client = await come(chat, {"limit": 1})
    await client.event()
    about = (await client.event())[2]
    client = await come(chat, {"since": about})
    assert (await client.event())[1]["joined"]["recovered"] is True
    await ann.do("say", room="lobby", text="next")
    assert (await client.event())[1] == "next"


async def notices(client: SocketIo) -> list[tuple[str, str]]:
    """Return what the notices of a client's connecting name, and their code."""
    told: list[tuple[str, str]] = []
    await client.text('427["rooms"]')
    while not (packet := await client.packet()).startswith("37["):
        name, fields, *_ = json.loads(packet[1:])
        if name == "notice":
            assert fields["do"] == "connect"
            told.append((fields["text"].partition(" ")[0], fields["code"]))
    return told


@pytest.mark.parametrize("revision", [4, 3])
async def test_numbers_and_objects_are_also_read_from_strings(
    chat: Harness, autojump_clock: MockClock, revision: int
) -> None:
    ann = await json_user(chat, "ann")
    said = [(await ann.do("say", room="lobby", text=str(number)))["ok"] for number in range(5)]
    epoch = said[0]["epoch"]
    for since in (json.dumps({"epoch": epoch, "seq": 2}), f'{{"epoch":"{epoch}","seq":"2"}}'):
        for name in ("since", "serverOffset"):
            given = {name: since, "limit": "2", "room": "lobby"}
            query = f"&{urlencode(given)}" if revision == 3 else ""
            client = await come(chat, given, revision=revision, query=query)
            joined = (await client.event())[1]["joined"]
            assert (joined["recovered"], joined["room"]) == (True, "lobby")
            assert [(await client.event())[1] for _ in range(2)] == ["2", "3"]
            assert await notices(client) == []
            await client.aclose()
    given = {"limit": "1"}
    client = await come(chat, given, revision=revision, query=f"&{urlencode(given)}")
    await client.event()
    assert (await client.event())[1] == "4"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"limit": "many"}, ["limit"]),
        ({"limit": 2.5}, ["limit"]),
        ({"limit": True}, ["limit"]),
        ({"limit": ""}, ["limit"]),
        ({"limit": 5.0}, []),
        ({"since": "yesterday"}, ["since"]),
        ({"since": '{"epoch":'}, ["since"]),
        ({"since": "[" * 5000}, ["since"]),
        ({"since": "\ud800"}, ["since"]),
        ({"since": {"epoch": 1, "seq": 2}}, ["since"]),
        ({"since": {"epoch": "x"}}, ["since"]),
        ({"since": 7}, ["since"]),
        ({"serverOffset": "7"}, ["serverOffset"]),
        ({"nick": 7}, ["nick"]),
        ({"room": ["lobby"]}, ["room"]),
        ({"token": {}, "session": 1}, ["token", "session"]),
        # Left out, as the tutorial's client leaves out its position until it has one.
        ({"serverOffset": 0, "since": None, "nick": None, "limit": None}, []),
        ({"since": "", "serverOffset": "0", "other": 7}, []),
    ],
)
async def test_a_value_that_cannot_be_used_is_named_in_a_notice(
    chat: Harness, autojump_clock: MockClock, given: dict[str, Any], named: list[str]
) -> None:
    client = await come(chat, given)
    assert (await client.event())[0] == "hello"
    assert await notices(client) == [(name, "bad_request") for name in named]


async def test_a_value_of_the_query_that_cannot_be_used_is_named_too(
    chat: Harness, autojump_clock: MockClock
) -> None:
    client = await come(chat, revision=3, query="&limit=x&since=%7B&token=secret&nick=bob")
    assert (await client.event())[1]["nick"] == "bob"
    assert await notices(client) == [("limit", "bad_request"), ("since", "bad_request")]


async def test_a_trailing_null_is_an_argument_left_out(
    chat: Harness, autojump_clock: MockClock
) -> None:
    client = await come(chat)
    await client.event()
    left_out: list[list[Any]] = [["a", None], ["a", None, None], ["a", "k", None], ["a", {}, None]]
    for arguments in left_out:
        assert "ok" in await client.call("chat message", *arguments)
    options = {"room": None, "key": None, "reply_to": None}
    assert (await client.call("chat message", "a", options))["ok"]["room"] == "lobby"
    assert "ok" in await client.call("rooms", None)
    assert "ok" in await client.call("who", {"room": "lobby"}, None)
    for event in (["chat message", None], ["say", None], ["chat message", None, "k"]):
        assert (await client.call(*event))["error"]["code"] == "bad_request"
    await client.emit("chat message", "without an acknowledgement", None)
    while (said := await client.event())[1] != "without an acknowledgement":
        assert said[0] == "chat message"


async def test_a_session_makes_it_the_same_guest(chat: Harness, autojump_clock: MockClock) -> None:
    first = await come(chat, {"nick": "ann"})
    hello = (await first.event())[1]
    again = await come(chat, {"session": hello["session"]})
    assert (await again.event())[1]["user"] == hello["user"]
    stranger = await come(chat, {"session": "nonsense", "nick": 7, "room": [], "since": "x"})
    name, notice = await stranger.event()
    assert (name, notice["code"]) == ("notice", "unauthorized")
    assert (await stranger.event())[1]["joined"]["room"] == "lobby"


async def test_an_invalid_nick_or_room_gets_a_notice(
    chat: Harness, autojump_clock: MockClock
) -> None:
    await come(chat, {"nick": "ann"})
    since = {"epoch": chat.daemon.chat.journal.epoch, "seq": 0}
    client = await come(chat, {"nick": "ann", "room": "#", "since": since})
    assert (await client.event())[1]["text"] == "The nick ann is taken. You are ann-2."
    assert (await client.event())[1]["do"] == "join"
    hello = (await client.event())[1]
    assert (hello["nick"], hello["joined"]["room"]) == ("ann-2", "lobby")
    assert hello["joined"]["recovered"] is False  # it was another room's position


async def test_a_client_without_any_room_gets_hello_all_the_same(
    autojump_clock: MockClock,
) -> None:
    rules = ("lobby read=operators", "elsewhere read=operators")
    async with open_chat(Settings(chat=ChatSettings(rules=rules))) as chat:
        client = await come(chat, {"room": "elsewhere"})
        assert [(await client.event())[1]["code"] for _ in range(2)] == ["forbidden"] * 2
        name, hello = await client.event()
        assert (name, "joined" in hello) == ("hello", False)
        assert (await client.call("join", {"room": "den"}))["ok"]["room"] == "den"


async def test_old_clients_choose_by_the_query_and_give_no_secrets_in_it(
    chat: Harness, autojump_clock: MockClock
) -> None:
    newer = await come(chat, {"nick": "newer", "room": "den"})
    session = (await newer.event())[1]["session"]
    old = await come(chat, revision=3, query=f"&nick=old&room=den&session={session}")
    hello = (await old.event())[1]
    assert (hello["nick"], hello["joined"]["room"]) == ("old", "den")
    await newer.emit("chat message", "hi")
    assert (await old.event())[:2] == ["chat message", "hi"]


async def test_old_clients_are_accepted_only_if_allowed(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(engineio=EngineIo(allow_eio3=False))) as chat:
        client = SocketIo(await chat.dial())
        await client.send(handshake(TARGET.format(revision=3)))
        assert (await client.answer())[0] == 400


async def test_a_foreign_page_is_refused_before_any_session_stands(
    chat: Harness, autojump_clock: MockClock
) -> None:
    origin = {"Origin": "https://evil.example"}
    client = SocketIo(await chat.dial())
    await client.send(handshake(TARGET.format(revision=4), origin))
    status, _, body = await client.answer()
    assert status == 403
    assert b"http.origins" in body
    poll = SocketIo(await chat.dial())
    request = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\n"
    await poll.send(f"{request}Origin: {origin['Origin']}\r\n\r\n".encode())
    status, headers, body = await poll.answer()
    assert status == 403
    assert b"http.origins" in body
    assert "access-control-allow-origin" not in headers
    assert chat.daemon.socketio.io.engine.statistics().opened == 0
    refused = [(line["status"], line["setting"]) for line in chat.logged("refused")]
    assert refused == [(403, "http.origins")] * 2


async def test_a_lost_connection_is_announced_and_logged_as_lost(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await json_user(chat, "ann")
    client = await come(chat, {"nick": "bob"})
    await client.event()
    await client.stream.aclose()
    await trio.sleep(15)  # longer than the grace
    while (event := await ann.event())["on"] != "left":
        pass
    assert (event["nick"], event["reason"]) == ("bob", "lost")
    [line] = [line for line in chat.logged("disconnect") if line["nick"] == "bob"]
    assert (line["code"], line["transport"], line["protocol"]) == (1006, "websocket", "socket.io")
    assert line["messages_out"] > 0


async def test_a_drain_says_bye_and_closes_without_disconnect(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        client = await come(chat)
        await client.event()
        await chat.daemon.drain()
        name, bye = await client.event()
        assert (name, bye["code"], bye["reconnect"]) == ("bye", 1001, True)
        assert bye["retry_ms"] > 0
        assert (await client.closed())[0] == 1001
        late = SocketIo(await chat.dial())
        await late.send(handshake(TARGET.format(revision=4)))
        assert (await late.answer())[0] == 503


AFAR = Peer("192.0.2.77", "tcp", loopback=False)


async def test_what_a_client_gave_is_let_go_once_it_is_in(
    chat: Harness, autojump_clock: MockClock
) -> None:
    client = await come(chat, {"nick": "ann", "token": "x" * 5000, "more": ["y" * 5000]})
    await client.event()
    [socket] = chat.daemon.socketio.io.sockets.values()
    assert socket.handshake.auth == {}
    assert "xxx" not in str(socket.data)


async def test_an_address_with_too_many_new_guests_is_asked_to_come_later(
    autojump_clock: MockClock,
) -> None:
    limits = Limits(new_guests_per_minute_per_address=1, connections_per_address=2)
    async with open_chat(settings=Settings(limits=limits)) as chat:
        for _ in range(2):
            client = SocketIo(await chat.dial(AFAR))
            await client.send(handshake(TARGET.format(revision=4)))
            await client.answer()
            await client.hear()
            await client.text("40")
            await client.packet()
            assert (await client.event())[0] == "hello"
            await client.aclose()
            await chat.wait_idle()
        client = SocketIo(await chat.dial(AFAR))
        await client.send(handshake(TARGET.format(revision=4)))
        await client.answer()
        await client.hear()
        await client.text("40")
        await client.packet()
        name, bye = await client.event()
        assert (name, bye["code"], bye["reconnect"]) == ("bye", 4503, True)
        await chat.wait_idle()
        assert chat.logged("refused")[-1]["code"] == "rate_limited"
        assert chat.logged("fault") == []


async def test_a_session_that_left_the_chat_ends_soon(
    chat: Harness, autojump_clock: MockClock
) -> None:
    client = await come(chat, {"nick": "ann"})
    await client.event()
    await client.text("41")
    await trio.sleep(9)
    assert chat.daemon.socketio.io.statistics().connections == 1
    assert (await client.closed())[1] == "forced close"


async def test_a_packet_larger_than_a_message_of_the_chat_ends_the_session(
    chat: Harness, autojump_clock: MockClock
) -> None:
    client = await come(chat, {"nick": "ann"})
    await client.event()
    await client.emit("chat message", "x" * 65_000)
    name, notice = await client.event()
    assert (name, notice["code"]) == ("notice", "too_large")
    await client.emit("chat message", "x" * 70_000)
    assert (await client.closed())[0] == 1009
