"""``chatd.v1`` as it is on the wire: every answer's shape; and no frame breaks a connection."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd import __version__
from chatd.gateways.json import CODEC, JsonGateway
from chatd.model import Event
from chatd.protocol import events
from chatd.settings import Chat, Limits, Settings, WebSocket
from chatd.testing import Harness, open_chat
from tests.gateways.raw import Json, json_user, masked_binary, speak_json

AT = "2025-01-01T00:00:00.000Z"
FAST = Limits(messages_per_second="off", messages_burst="off", bytes_per_second="off")


def code(answer: dict[str, Any]) -> str | None:
    error = answer.get("error")
    if error is None:
        return None
    assert set(error) <= {"code", "message", "retry_ms"}
    assert error["message"]
    return str(error["code"])


# ---- the beginning and the end


async def test_the_first_frame_is_hello(chat: Harness, autojump_clock: MockClock) -> None:
    client = await speak_json(chat)
    hello = await client.next()
    assert list(hello) == ["on", "server", "session", "user", "nick", "op", "limits"]
    assert hello["on"] == "hello"
    assert hello["server"] == f"chatd/{__version__}"
    assert hello["nick"].startswith("guest-")
    assert hello["op"] is False
    assert hello["limits"] == {
        "message_bytes": 16384,
        "messages_per_second": 5.0,
        "messages_burst": 20,
    }
    # Nothing is joined for it.
    assert (await client.do("rooms")) == {"ok": {"rooms": []}}


async def test_limits_that_are_off_are_null(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(limits=FAST)) as chat:
        hello = await (await speak_json(chat)).next()
    assert hello["limits"]["messages_per_second"] is None
    assert hello["limits"]["messages_burst"] is None


async def test_the_nick_that_was_asked_for(chat: Harness, autojump_clock: MockClock) -> None:
    client = await speak_json(chat, "/ws?nick=Ann&room=elsewhere")
    assert (await client.next())["nick"] == "Ann"
    assert (await client.do("rooms")) == {"ok": {"rooms": []}}
    second = await speak_json(chat, "/?nick=ann")
    assert (await second.next())["nick"] == "ann-2"
    notice = await second.next()
    assert notice == {"on": "notice", "text": "The nick ann is taken. You are ann-2."}
    third = await speak_json(chat, "/?nick=%2A%20bob")
    assert (await third.next())["nick"].startswith("guest-")
    assert (await third.next())["on"] == "notice"


async def test_bye_comes_before_the_close(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        client = await speak_json(chat)
        await client.next()
        client_sees: list[Any] = []

        async def listen() -> None:
            client_sees.append(await client.next())
            client_sees.append(await client.closed())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await chat.daemon.drain()
    bye, close = client_sees
    assert list(bye) == ["on", "code", "reason", "reconnect", "retry_ms"]
    assert (bye["on"], bye["code"], bye["reconnect"]) == ("bye", 1001, True)
    assert 200 <= bye["retry_ms"] < 1000
    assert close == (1001, bye["reason"])


async def test_a_binary_frame_is_1003(chat: Harness, autojump_clock: MockClock) -> None:
    client = await speak_json(chat)
    await client.next()
    await client.send(masked_binary(b"{}"))
    assert (await client.next())["code"] == 1003
    assert (await client.closed())[0] == 1003
    await client.aclose()
    await chat.wait_idle()
    assert [line["code"] for line in chat.logged("disconnect")] == [1003]


# ---- the answer to each command


async def test_auth(chat: Harness, autojump_clock: MockClock) -> None:
    first = await speak_json(chat, "/ws?nick=ann")
    hello = await first.next()
    second = await speak_json(chat)
    mine = (await second.next())["user"]
    assert mine != hello["user"]
    answer = await second.do("auth", session=hello["session"])
    assert list(answer["ok"]) == ["user", "nick", "op", "session"]
    assert (answer["ok"]["user"], answer["ok"]["nick"]) == (hello["user"], "ann")
    assert answer["ok"]["op"] is False
    assert code(await second.do("auth", session="x.1.y")) == "unauthorized"
    assert code(await second.do("auth", session="")) == "unauthorized"
    assert code(await second.do("auth", session="x" * 10_000)) == "unauthorized"
    assert code(await second.do("auth")) == "bad_request"
    await second.do("join", room="lobby")
    third = (await (await speak_json(chat)).next())["session"]
    assert code(await second.do("auth", session=third)) == "forbidden"


async def test_join_and_leave(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann", None)
    joined = (await ann.do("join", room="Lobby"))["ok"]
    assert list(joined) == [
        *("room", "epoch", "seq", "events", "recovered"),
        *("topic", "may_set_topic", "members", "member_count"),
    ]
    assert joined["members"] == [{"nick": "ann", "user": joined["members"][0]["user"], "op": False}]
    assert (joined["room"], joined["seq"], joined["topic"]) == ("Lobby", 0, "")
    assert (joined["member_count"], joined["events"], joined["recovered"]) == (1, [], False)

    bob = await json_user(chat, "bob", "lobby")
    assert await ann.event() == {
        "on": "joined",
        "room": "Lobby",
        "nick": "bob",
        "user": (await bob.do("who", room="lobby"))["ok"]["members"][1]["user"],
        "op": False,
    }
    assert (await bob.do("leave", room="LOBBY")) == {"ok": {"room": "Lobby"}}
    left = await ann.event()
    assert list(left) == ["on", "room", "nick", "user", "reason"]
    assert (left["on"], left["nick"], left["reason"]) == ("left", "bob", "leave")
    assert code(await bob.do("leave", room="lobby")) == "not_joined"
    assert code(await bob.do("leave", room="#")) == "not_joined"
    for room in ("", "a b", "#lobby", "/lobby", "x" * 65, "@bob"):
        assert code(await bob.do("join", room=room)) == "bad_request"


async def test_join_since(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    bob = await json_user(chat, "bob")
    said = [(await ann.do("say", room="lobby", text=text))["ok"] for text in "abc"]
    position = {"epoch": said[0]["epoch"], "seq": 1}
    answer = (await bob.do("join", room="lobby", since=position, limit=1))["ok"]
    assert answer["recovered"] is True
    assert [event["text"] for event in answer["events"]] == ["b"]
    assert answer["seq"] == 3
    assert answer["events"][0]["on"] == "message"
    assert (await bob.do("join", room="lobby", since={**position, "epoch": ""}))["ok"][
        "recovered"
    ] is False
    bad: list[Any] = [{}, {"seq": 1}, {"epoch": 1, "seq": 1}, {"epoch": "", "seq": "1"}, [], 1, "1"]
    for since in bad:
        assert code(await bob.do("join", room="lobby", since=since)) == "bad_request"


async def test_say(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    answer = await ann.do("say", room="LOBBY", text="hi\r\nthere", key="k")
    said = answer["ok"]
    assert list(said) == ["room", "at", "epoch", "seq", "duplicate"]
    assert (said["room"], said["seq"], said["at"], said["duplicate"]) == ("lobby", 1, AT, False)
    # The sender gets its own, after the answer.
    assert ann.events == []
    message = await ann.event()
    assert list(message) == ["on", "room", "seq", "at", "from", "user", "text"]
    assert (message["on"], message["from"], message["text"]) == ("message", "ann", "hi\nthere")
    assert (message["room"], message["seq"], message["at"]) == ("lobby", 1, AT)
    again = (await ann.do("say", room="lobby", text="other", key="k"))["ok"]
    assert (again["seq"], again["duplicate"]) == (1, True)
    await ann.do("say", room="lobby", text="so", reply_to=1)
    assert (await ann.event())["reply_to"] == 1
    for text, why in (("", "bad_request"), ("\0", "bad_request"), ("x" * 16385, "too_large")):
        assert code(await ann.do("say", room="lobby", text=text)) == why
    assert code(await ann.do("say", room="lobby", text="x", key="k" * 65)) == "bad_request"
    for number in (0, -1, 2**53 + 1, 10**30, 1.5, "1"):
        answer = await ann.do("say", room="lobby", text="x", reply_to=number)
        assert code(answer) == "bad_request"
    assert code(await ann.do("say", room="elsewhere", text="x")) == "not_joined"


async def test_rate_limited_says_when(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    answers = [await ann.do("say", room="lobby", text="x") for _ in range(21)]
    assert code(answers[-1]) == "rate_limited"
    assert isinstance(answers[-1]["error"]["retry_ms"], int)
    await trio.sleep(answers[-1]["error"]["retry_ms"] / 1000)
    assert "ok" in await ann.do("say", room="lobby", text="x")


async def test_history(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    for text in "abcde":
        await ann.do("say", room="lobby", text=text)

    async def page(**fields: Any) -> tuple[str, bool]:
        answer = (await ann.do("history", room="lobby", **fields))["ok"]
        assert list(answer) == ["epoch", "events", "more"]
        assert all(event["on"] == "message" for event in answer["events"])
        return "".join(event["text"] for event in answer["events"]), answer["more"]

    assert await page() == ("abcde", False)
    assert await page(limit=2) == ("de", True)
    assert await page(before=4, limit=2) == ("bc", True)
    assert await page(before=3) == ("ab", False)
    assert await page(after=3) == ("de", False)
    assert await page(after=0, limit=2) == ("ab", True)
    for far in (10**30, -(10**30)):
        assert (await page(after=far))[0] in ("", "abcde")
        assert (await page(before=far))[0] in ("", "abcde")
    assert code(await ann.do("history", room="nowhere")) == "not_found"
    assert code(await ann.do("history", room="lobby", limit="1")) == "bad_request"


async def test_who_rooms_and_nick(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    bob = await json_user(chat, "bob", "Den")
    who = (await ann.do("who", room="den"))["ok"]
    assert list(who) == ["members", "member_count"]
    assert [list(member) for member in who["members"]] == [["nick", "user", "op"]]
    assert who["members"][0]["nick"] == "bob"
    assert code(await ann.do("who", room="nowhere")) == "not_found"
    assert (await ann.do("rooms"))["ok"] == {
        "rooms": [
            {"room": "Den", "members": 1, "seq": 0, "topic": ""},
            {"room": "lobby", "members": 1, "seq": 0, "topic": ""},
        ]
    }
    assert code(await ann.do("nick", nick="BOB")) == "nick_taken"
    assert code(await ann.do("nick", nick="a b")) == "bad_request"
    assert await ann.do("nick", nick="Anna") == {"ok": {"nick": "Anna"}}
    told = await ann.event()
    assert told == {
        "on": "nick",
        "room": "lobby",
        "user": told["user"],
        "from": "ann",
        "to": "Anna",
    }
    del bob


async def test_the_store_that_does_not_confirm(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    chat.fill_disk()
    answer = await ann.do("say", room="lobby", text="x", key="k")
    assert code(answer) == "unavailable"
    assert answer["error"]["retry_ms"] == 1000
    chat.free_disk()
    assert (await ann.do("say", room="lobby", text="x", key="k"))["ok"]["seq"] == 1


async def test_an_unknown_command_and_unknown_fields(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await json_user(chat, "ann", None)
    assert code(await ann.do("dance")) == "bad_request"
    assert code(await ann.do("Rooms")) == "bad_request"
    assert code(await ann.do("")) == "bad_request"
    long = await ann.do("x" * 10_000)
    assert code(long) == "bad_request"
    assert len(long["error"]["message"]) < 300
    assert "ok" in await ann.do("rooms", colour="red", nested={"a": [1, {"b": None}]})
    for frame in ('{"id": 1}', '{"id": 1, "do": null}', '{"id": 1, "do": 5}'):
        answer = await ann.answer_to(frame)
        assert (answer["re"], code(answer)) == (1, "bad_request")


# ---- id and re


@pytest.mark.parametrize(
    "mark",
    ["0", "-1", "7", "1.5", "-0.25", "9007199254740992", '""', '"7"', '"' + "k" * 64 + '"', '"é"'],
)
async def test_an_id_comes_back_as_it_was(
    chat: Harness, autojump_clock: MockClock, mark: str
) -> None:
    ann = await json_user(chat, "ann", None)
    for command in ('"rooms"', '"leave","room":"x"', '"dance"'):
        answer = await ann.answer_to(f'{{"id":{mark},"do":{command}}}')
        assert answer["re"] == json.loads(mark)
        assert type(answer["re"]) is type(json.loads(mark))


@pytest.mark.parametrize(
    "mark",
    [
        *(
            "true",
            "false",
            "{}",
            "[1]",
            "9007199254740993",
            "-9007199254740993",
            "1" * 400,
            "1e400",
        ),
        *('"' + "k" * 65 + '"', '"' + "é" * 33 + '"'),
    ],
)
async def test_an_invalid_id_is_refused(
    chat: Harness, autojump_clock: MockClock, mark: str
) -> None:
    ann = await json_user(chat, "ann", None)
    for command in ('"rooms"', '"dance"'):
        answer = await ann.answer_to(f'{{"id":{mark},"do":{command}}}')
        assert (answer["re"], code(answer)) == (None, "bad_request")
    assert "ok" in await ann.do("rooms")


async def test_without_an_id_only_a_refusal_is_answered(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await json_user(chat, "ann", None)
    for frame in ('{"do":"rooms"}', '{"do":"rooms","id":null}'):
        await ann.text(frame)
    answer = await ann.answer_to('{"do":"leave","room":"x"}')
    assert (answer["re"], code(answer)) == (None, "not_joined")
    assert ann.events == []


async def test_answers_may_overtake_one_another(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    await ann.text('{"do":"say","id":"s","room":"lobby","text":"x"}')
    await ann.text('{"do":"who","id":"w","room":"lobby"}')
    frames = [await ann.next() for _ in range(3)]  # the message itself is among them
    assert {frame.get("re") for frame in frames} == {"s", "w", None}


async def test_commands_take_effect_in_order(chat: Harness, autojump_clock: MockClock) -> None:
    """Messages sent at once keep their order, whatever the order of the answers."""
    ann, bob = await json_user(chat, "ann"), await json_user(chat, "bob")
    assert (await ann.event())["on"] == "joined"
    for number, (command, fields) in enumerate(
        [
            ("say", {"room": "lobby", "text": "as bob"}),
            ("nick", {"nick": "Robert"}),
            ("say", {"room": "lobby", "text": "as Robert"}),
            ("leave", {"room": "lobby"}),
            ("say", {"room": "lobby", "text": "too late"}),
            ("join", {"room": "lobby"}),
            ("say", {"room": "lobby", "text": "again"}),
        ]
    ):
        await bob.text(json.dumps({"do": command, "id": number, **fields}))
    seen = [await ann.event() for _ in range(6)]
    assert [(event["on"], event.get("text", event.get("to"))) for event in seen] == [
        ("message", "as bob"),
        ("nick", "Robert"),
        ("message", "as Robert"),
        ("left", None),
        ("joined", None),
        ("message", "again"),
    ]
    assert [event["from"] for event in seen if event["on"] == "message"] == [
        *("bob", "Robert", "Robert")
    ]


# ---- frames that cannot be read

BIG = Settings(websocket=WebSocket(max_message_bytes=1_048_576))

UNREADABLE = {
    "nothing": "",
    "spaces": "   ",
    "words": "hello",
    "half": '{"do":"rooms"',
    "more": '{"do":"rooms"}{"do":"rooms"}',
    "a mark": '\ufeff{"do":"rooms"}',
    "an array": '["rooms"]',
    "a string": '"rooms"',
    "a number": "7",
    "null": "null",
    "brackets": "[" * 200_000,
    "braces": '{"do":' * 30_000,
    "brackets within": '{"do":"rooms","id":1,"x":' + "[" * 200_000 + "]" * 200_000 + "}",
    "a lone surrogate": '{"do":"say","id":1,"room":"lobby","text":"\\ud800"}',
    "a lone surrogate within": '{"do":"rooms","id":1,"x":"\\udc00\\ud800"}',
    "NaN": '{"do":"rooms","id":1,"x":NaN}',
    "Infinity": '{"do":"rooms","id":1,"x":-Infinity}',
    "digits": '{"do":"rooms","id":1,"x":' + "9" * 100_000 + "}",
    "doubled do": '{"do":"rooms","id":1,"do":"rooms"}',
    "doubled id": '{"id":1,"do":"rooms","id":2}',
    "doubled text": '{"do":"say","id":1,"room":"lobby","text":"a","text":"b"}',
    "doubled null": '{"do":"say","id":1,"room":"lobby","text":"a","key":null,"key":null}',
    "doubled by an escape": '{"do":"rooms","id":1,"\\u0069d":2}',
    "doubled within": '{"do":"rooms","id":1,"x":[{"a":1,"a":2}]}',
    "a control": '{"do":"say","id":1,"room":"lobby","text":"\x01"}',
}


@pytest.mark.parametrize("frame", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_unreadable_frame_is_refused_and_the_connection_goes_on(
    autojump_clock: MockClock, frame: str
) -> None:
    async with open_chat(BIG) as chat:
        ann = await json_user(chat, "ann")
        answer = await ann.answer_to(frame)
        assert (answer["re"], code(answer)) == (None, "bad_request")
        assert (await ann.do("say", room="lobby", text="on"))["ok"]["seq"] == 1
        assert chat.logged("fault") == []


async def test_a_text_full_of_colons_is_read(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    for text in (":", '"text":"text"', "http://a.example:80/", ":" * 1000):
        await ann.do("say", room="lobby", text=text)
        assert (await ann.event())["text"] == text


@pytest.mark.parametrize("frame", UNREADABLE.values(), ids=UNREADABLE)
def test_no_frame_of_the_greatest_size_holds_the_loop(frame: str) -> None:
    offered: list[bytes] = []
    gateway = JsonGateway.__new__(JsonGateway)
    # All that a refusal needs.
    gateway._websocket = _Offered(offered)  # type: ignore[assignment]
    connection = SimpleNamespace(refused=lambda *_: None)
    gateway._connection = connection  # type: ignore[assignment]
    frame = frame[: Settings().max_message_bytes]
    took = []
    for _ in range(3):
        began = time.thread_time()
        pending = gateway.received(frame)
        assert pending is not None
        with pytest.raises(StopIteration):
            next(pending.__await__())
        took.append(time.thread_time() - began)
    assert len(offered) == 3
    assert min(took) < 0.005


class _Offered:
    def __init__(self, offered: list[bytes]) -> None:
        self.outbox = self
        self.offer = offered.append


FIELDS = (
    *("id", "room", "text", "key", "since", "limit", "before", "after", "session", "nick"),
    "reply_to",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        | st.fixed_dictionaries(
            {"do": st.sampled_from(["join", "say", "history", "who", "rooms", "leave", "auth"])},
            optional=dict.fromkeys(FIELDS, inner),
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, min_size=1, max_size=8))
def test_no_json_value_breaks_the_connection(values: list[Any]) -> None:
    async def story() -> None:
        async with open_chat(Settings(limits=FAST)) as chat:
            ann = await json_user(chat, "ann")
            for value in values:
                await ann.text(json.dumps(value))
            assert "ok" in await _last(ann)
            assert chat.logged("fault") == []

    trio.run(story, clock=MockClock(autojump_threshold=0))


async def _last(client: Json) -> dict[str, Any]:
    answer = await client.answer_to('{"do":"rooms","id":"the last"}')
    while answer["re"] != "the last":
        answer = await client.next()
        answer.setdefault("re", None)
    return answer


# ---- the codec


def test_events_are_frames_of_one_object_each() -> None:
    event = Event(9, "lobby", 4, 0, "message", "u", "ann", "hi", reply_to=2, edited=1000)
    gone = Event(9, "lobby", 5, 0, "message", "u", "ann", None, deleted=True)
    told = CODEC.encode(
        "Lobby",
        [event, gone, events.Presence("Lobby", 3), events.Left("Lobby", "ann", "u", "lost")],
    )
    at = "1970-01-01T00:00:00.000Z"
    head = {"on": "message", "room": "Lobby", "at": at, "from": "ann", "user": "u"}
    edited = "1970-01-01T00:00:01.000Z"
    assert [json.loads(part) for part in _payloads(told)] == [
        {**head, "seq": 4, "text": "hi", "reply_to": 2, "edited": edited},
        {**head, "seq": 5, "deleted": True},
        {"on": "presence", "room": "Lobby", "total": 3},
        {"on": "left", "room": "Lobby", "nick": "ann", "user": "u", "reason": "lost"},
    ]


def _payloads(block: bytes) -> list[bytes]:
    found = []
    while block:
        start, size = 2, block[1]
        if size == 126:
            start, size = 4, int.from_bytes(block[2:4], "big")
        found.append(block[start : start + size])
        block = block[start + size :]
    return found


async def test_a_room_that_may_not_be_made(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(chat=Chat(create_rooms=False))) as chat:
        ann = await json_user(chat, "ann")
        assert code(await ann.do("join", room="other")) == "not_found"
