"""Messages, pages and the list of rooms by HTTP: what is said, read, and refused."""

from __future__ import annotations

import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd.chat.moderation import moderate
from chatd.gateways.http.requests import position_of, read_position
from chatd.protocol import commands
from chatd.settings import Auth, Chat, Limits, Settings, WebSocket
from chatd.testing import Harness, open_chat
from tests.gateways.http_requests import NEAR, Answer, ask, head_of, refused_stream, say
from tests.gateways.raw import SECONDS, Raw, json_user

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def post_json(
    chat: Harness, fields: object, room: str = "lobby", headers: dict[str, str] | None = None
) -> Answer:
    return await ask(
        chat, f"POST /rooms/{room}?nick=ci", json.dumps(fields), {**JSON, **(headers or {})}
    )


# ---- a message


async def test_a_text_is_said(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await json_user(chat, "ann")
    answer = await ask(chat, "POST /rooms/lobby?nick=ci", "build 41 is green", FORM)
    assert (answer.status, answer.headers["content-type"]) == (201, "application/json")
    said = answer.json
    message = await ann.event()
    assert message["on"] == "message"
    assert (message["from"], message["text"]) == ("ci", "build 41 is green")
    assert {"room", "epoch", "seq", "at", "duplicate", "user", "nick"} == set(said)
    assert (said["room"], said["seq"], said["duplicate"]) == ("lobby", 1, False)
    assert (said["user"], said["nick"], said["at"]) == (message["user"], "ci", message["at"])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("a=1&b=%20+c", "a=1&b=%20+c"),
        ("one\n", "one"),
        ("one\r\n", "one"),
        ("one\n\n", "one\n"),
        ("one\r\ntwo\n", "one\ntwo"),
        ("caf\u00e9 \U0001f680", "caf\u00e9 \U0001f680"),
    ],
)
@pytest.mark.parametrize("kind", [FORM, {"Content-Type": "text/plain; charset=UTF-8"}, {}])
async def test_a_body_is_the_text_as_it_stands(
    chat: Harness, autojump_clock: MockClock, kind: dict[str, str], body: str, text: str
) -> None:
    assert (await ask(chat, "POST /rooms/lobby", body, kind)).status == 201
    assert (await ask(chat, "GET /rooms/lobby")).texts == [text]


async def test_json_has_a_key_and_a_reply(chat: Harness, autojump_clock: MockClock) -> None:
    first = await post_json(chat, {"text": "a\n", "key": "k1", "more": {"ignored": [1]}})
    again = await post_json(chat, {"text": "other", "key": "k1"})
    assert (first.status, again.status) == (201, 200)
    assert again.json == {**first.json, "duplicate": True}
    assert (await post_json(chat, {"text": "b", "reply_to": 1})).status == 201
    lines = (await ask(chat, "GET /rooms/lobby")).lines
    assert [(line["text"], line.get("reply_to")) for line in lines] == [("a\n", None), ("b", 1)]


async def test_the_header_is_a_key_with_or_without_quotes(
    chat: Harness, autojump_clock: MockClock
) -> None:
    for key in ("k\u00e91", '"k\u00e91"'):
        answer = await say(chat, "once", nick="ci", headers={"Idempotency-Key": key.encode()})
        assert answer.json["seq"] == 1
    same: dict[str, str | bytes] = {"Idempotency-Key": "k\u00e91".encode(), **JSON}
    body = json.dumps({"text": "once", "key": "k\u00e91"})
    assert (await ask(chat, "POST /rooms/lobby?nick=ci", body, same)).status == 200
    quoted = {"Idempotency-Key": '"a\\"b"'}
    assert (await say(chat, "q", nick="ci", headers=quoted)).status == 201
    assert (await post_json(chat, {"text": "q", "key": 'a"b'})).status == 200


async def test_another_user_s_key_is_another_key(chat: Harness, autojump_clock: MockClock) -> None:
    for number, nick in enumerate(("ci", "cron", None), 1):
        answer = await say(chat, "x", nick=nick, headers={"Idempotency-Key": "k"})
        assert (answer.status, answer.json["seq"]) == (201, number)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        ("{", JSON, 400, "bad_request"),
        ('{"text": 1}', JSON, 400, "bad_request"),
        ('{"key": "k"}', JSON, 400, "bad_request"),
        ("[" * 20000, JSON, 400, "bad_request"),
        (b'{"text": "\xff"}', JSON, 400, "bad_request"),
        (b"\xff", {}, 400, "bad_request"),
        ("", {}, 400, "bad_request"),
        ("\n", {}, 400, "bad_request"),
        ("a\x00b", {}, 400, "bad_request"),
        ('{"text": "a", "key": "one"}', {**JSON, "Idempotency-Key": "two"}, 400, "bad_request"),
        ("a", {"Idempotency-Key": "k" * 65}, 400, "bad_request"),
        ("a", {"Idempotency-Key": '""'}, 400, "bad_request"),
        ("a", {"Idempotency-Key": b"\xff"}, 400, "bad_request"),
        ('{"text": "a", "reply_to": 9}', JSON, 404, "not_found"),
        ('{"text": "a", "reply_to": 0}', JSON, 400, "bad_request"),
        ("a", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "bad_request"),
        ("a", {"Content-Type": "text/plain; charset=iso-8859-1"}, 415, "bad_request"),
        ('{"text": "a"}', {"Content-Type": "application/json;charset=utf-16"}, 415, "bad_request"),
        ("a", {"Content-Encoding": "gzip"}, 415, "bad_request"),
        ("a" * 16385, {}, 413, "too_large"),
    ],
)
async def test_what_is_no_message_is_refused(
    chat: Harness,
    autojump_clock: MockClock,
    body: str | bytes,
    headers: dict[str, str | bytes],
    status: int,
    code: str,
) -> None:
    answer = await ask(chat, "POST /rooms/lobby", body, headers)
    assert (answer.status, answer.code) == (status, code)
    assert (await ask(chat, "GET /rooms/lobby")).lines == []


@pytest.mark.parametrize("size", [70_000, 20_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_not_read_and_the_connection_is_closed(
    autojump_clock: MockClock, size: int, chunked: bool
) -> None:
    settings = Settings(websocket=WebSocket(max_message_bytes=16384 if size < 65536 else 65536))
    async with open_chat(settings) as chat:
        raw = Raw(await chat.dial())
        body = b"x" * size
        headers = {"Transfer-Encoding": "chunked"} if chunked else None
        content = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if chunked else body
        await raw.send(head_of("POST /rooms/lobby", headers, body) + (content if chunked else b""))
        status, answered, text = await raw.answer()
        answer = Answer(status, answered, text)
        assert (status, answer.code, answered["connection"]) == (413, "too_large", "close")
        assert answer.json["title"] == "Content Too Large"  # whatever Python calls it
        with trio.fail_after(SECONDS), pytest.raises(EOFError):
            await raw.some()


async def test_a_message_between_guests_is_not_kept(
    chat: Harness, autojump_clock: MockClock
) -> None:
    ann = await chat.client("ann", room=None)
    answer = await say(chat, "psst", "@ann", "ci")
    assert answer.status == 201
    assert answer.json["kept"] is False
    assert not {"seq", "epoch"} & set(answer.json)
    message = await ann.next("message")
    assert (message.text, message.seq, message.nick) == ("psst", None, "ci")
    assert [line["room"] for line in chat.logged("message")] == [answer.json["room"]]
    assert chat.logged("message")[0]["transport"] == "http"


async def test_a_room_is_made_as_by_join(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(chat=Chat(create_rooms=False))) as chat:
        assert (await say(chat, "a", "garden")).code == "not_found"
        assert (await say(chat, "a")).status == 201
    async with open_chat() as chat:
        assert (await say(chat, "a", "Garden")).json["room"] == "Garden"
        assert (await say(chat, "b", "garden")).json["room"] == "Garden"
        assert [room["room"] for room in (await ask(chat, "GET /rooms")).json["rooms"]] == [
            "Garden"
        ]
        assert len(chat.daemon.chat.rooms) == 0


async def test_nothing_is_entered(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    await say(chat, "a", nick="ci")
    await ask(chat, "GET /rooms/lobby?nick=ci")
    await chat.wait_idle()
    assert [event.on for event in ann.waiting()] == ["message"]
    assert await ann.who() == ["ann"]
    assert {line["nick"] for line in chat.logged("join")} == {"ann"}
    assert {line["nick"] for line in chat.logged("connect")} == {"ann"}


async def test_a_read_sees_what_was_said_before(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    for number in range(3):
        await say(chat, str(number))
        assert len((await ask(chat, "GET /rooms/lobby")).lines) == number + 1
    assert await ann.texts(3) == ["0", "1", "2"]


# ---- rooms' names


@pytest.mark.parametrize(
    ("path", "room"),
    [
        ("lobby", "lobby"),
        ("%6Cobby", "lobby"),
        ("caf%C3%A9", "caf\u00e9"),
        ("a%2Fb", "a/b"),
        ("a%2fb", "a/b"),
        ("a+b", "a+b"),
        ("a%2Bb", "a+b"),
        ("a%2525", "a%25"),
    ],
)
async def test_a_room_is_one_segment_decoded_once(
    chat: Harness, autojump_clock: MockClock, path: str, room: str
) -> None:
    assert (await say(chat, "here", path)).json["room"] == room
    assert (await ask(chat, f"GET /rooms/{path}?unknown=1&j=2")).texts == ["here"]
    listed = (await ask(chat, "GET /rooms?unknown=1")).json["rooms"]
    assert [each["room"] for each in listed] == [room]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("a/b", 404, "not_found"),
        ("lobby/", 404, "not_found"),
        ("", 404, "not_found"),
        ("%", 400, "bad_request"),
        ("%zz", 400, "bad_request"),
        ("caf%E9", 400, "bad_request"),
        ("a%20b", 400, "bad_request"),
        ("a%00", 400, "bad_request"),
        ("%2Fa", 400, "bad_request"),
        ("a" * 65, 400, "bad_request"),
        ("@nobody", 404, "not_found"),
        ("@a,b", 403, "forbidden"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_what_names_no_room(
    chat: Harness, autojump_clock: MockClock, method: str, path: str, status: int, code: str
) -> None:
    answer = await ask(chat, f"{method} /rooms/{path}", "a" if method == "POST" else None)
    assert (answer.status, answer.code) == (status, code)


async def test_direct_messages_are_read_by_both_names(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(auth=Auth(mode="token", guests=True))) as chat:
        bearer = {"Authorization": f"Bearer {chat.token('bob')}"}
        ann = await chat.client("ann", room=None)
        said = await say(chat, "hi", "@ann", headers=bearer)
        assert said.json["seq"] == 1
        assert (await ann.next("message")).text == "hi"
        for path in ("@ann", said.json["room"]):
            assert (await ask(chat, f"GET /rooms/{path}", None, bearer)).texts == ["hi"]
        assert (await ask(chat, f"GET /rooms/{said.json['room']}")).code == "forbidden"
        rooms = (await ask(chat, "GET /rooms", None, bearer)).json["rooms"]
        assert [(each["room"], each["nick"]) for each in rooms] == [(said.json["room"], "ann")]


# ---- a page


async def test_a_page_has_the_newest_events(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    await ann.say("one")
    await ann.edit("lobby", 1, "uno")
    await ann.say("two")
    await ann.delete("lobby", 3)
    page = await ask(chat, "GET /rooms/lobby")
    assert (page.status, page.headers["content-type"]) == (200, "application/x-ndjson")
    assert page.body.endswith(b"\n")
    assert [line["on"] for line in page.lines] == ["message", "edit", "message", "delete"]
    assert page.texts[0] == "uno"
    assert page.lines[2]["deleted"] is True
    assert "chatd-recovered" not in page.headers
    assert "chatd-more" not in page.headers
    assert [line["seq"] for line in (await ask(chat, "GET /rooms/lobby?limit=2")).lines] == [3, 4]


async def test_pages_follow_a_position(chat: Harness, autojump_clock: MockClock) -> None:
    empty = await ask(chat, "GET /rooms/lobby")
    assert (empty.status, empty.body) == (200, b"")
    assert empty.headers["content-type"] == "application/x-ndjson"
    for number in range(5):
        await say(chat, str(number))
    position, texts, more = empty.headers["chatd-position"], [], "true"
    while more == "true":
        page = await ask(chat, f"GET /rooms/lobby?since={position}&limit=2")
        assert page.headers["chatd-recovered"] == "true"
        texts.append(page.texts)
        position, more = page.headers["chatd-position"], page.headers.get("chatd-more", "")
    assert texts == [["0", "1"], ["2", "3"], ["4"]]
    last = await ask(chat, f"GET /rooms/lobby?since={position}")
    assert (last.body, last.headers["chatd-position"]) == (b"", position)
    none = await ask(chat, f"GET /rooms/lobby?since={empty.headers['chatd-position']}&limit=0")
    assert none.headers["chatd-position"] == empty.headers["chatd-position"]
    assert none.headers["chatd-more"] == "true"


@pytest.mark.parametrize("since", ["other.1", "{epoch}.9", "1", "{epoch}", "{epoch}.-1", "%00"])
async def test_a_position_that_cannot_be_resumed(
    chat: Harness, autojump_clock: MockClock, since: str
) -> None:
    epoch = (await say(chat, "a")).json["epoch"]
    page = await ask(chat, f"GET /rooms/lobby?since={since.format(epoch=epoch)}")
    assert (page.texts, page.headers["chatd-recovered"]) == (["a"], "false")
    assert page.headers["chatd-position"] == f"{epoch}.1"


async def test_an_empty_position_is_none(chat: Harness, autojump_clock: MockClock) -> None:
    await say(chat, "a")
    page = await ask(chat, "GET /rooms/lobby?since=")
    assert (page.texts, "chatd-recovered" in page.headers) == (["a"], False)


@pytest.mark.parametrize("limit", ["x", "-1", "1.5", "", "9999999999", "\u0661"])
async def test_a_limit_is_a_number(chat: Harness, autojump_clock: MockClock, limit: str) -> None:
    target = f"/rooms/lobby?limit={limit}".encode().decode("latin-1")
    target = "".join(one if one.isascii() else f"%{ord(one):02X}" for one in target)
    assert (await ask(chat, f"GET {target}")).code == "bad_request"
    assert (await refused_stream(chat, target)).code == "bad_request"


async def test_a_page_is_bounded(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann", token=None)
    chat.daemon.chat.flood.charge = lambda *_: None  # type: ignore[method-assign]
    for number in range(510):
        await ann.say(str(number))
    assert len((await ask(chat, "GET /rooms/lobby")).lines) == 100
    assert len((await ask(chat, "GET /rooms/lobby?limit=9999")).lines) == 500


async def test_an_unknown_room_is_not_made(chat: Harness, autojump_clock: MockClock) -> None:
    assert (await ask(chat, "GET /rooms/garden")).code == "not_found"
    assert (await ask(chat, "GET /rooms")).json == {"rooms": []}
    assert (await ask(chat, "GET /rooms/lobby")).status == 200


async def test_the_list_of_rooms(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann", room="b")
    await say(chat, "x", "a")
    for target in ("/rooms", "/rooms?after=a"):
        answer = await ask(chat, f"GET {target}")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        listed = [(each["room"], each["members"], each["seq"]) for each in answer.json["rooms"]]
        assert listed == [("a", 0, 1), ("b", 1, 0)][target.count("after") :]
    told = await ann.rooms()
    assert [each.room for each in told] == ["a", "b"]


# ---- methods


@pytest.mark.parametrize("target", ["/rooms", "/rooms/lobby"])
async def test_head_is_get_without_a_body(
    chat: Harness, autojump_clock: MockClock, target: str
) -> None:
    await say(chat, "a")
    got = await ask(chat, f"GET {target}")
    for accept in ("*/*", "text/event-stream"):
        head = await ask(chat, f"HEAD {target}", None, {"Accept": accept})
        assert (head.status, head.headers) == (200, got.headers)
    assert (await ask(chat, "HEAD /rooms/nope")).status == 404
    assert chat.logged("connect") == []


@pytest.mark.parametrize(
    ("target", "allow"),
    [("/rooms", "GET, HEAD, OPTIONS"), ("/rooms/lobby", "GET, HEAD, OPTIONS, POST")],
)
async def test_other_methods(
    chat: Harness, autojump_clock: MockClock, target: str, allow: str
) -> None:
    options = await ask(chat, f"OPTIONS {target}")
    assert (options.status, options.body, options.headers["allow"]) == (204, b"", allow)
    methods = ["PUT", "DELETE", "PATCH", "ODD"] + ["POST"] * ("POST" not in allow)
    for method in methods:
        answer = await ask(chat, f"{method} {target}", b"")
        assert (answer.status, answer.code, answer.headers["allow"]) == (405, "bad_request", allow)


async def test_every_answer_has_the_headers(chat: Harness, autojump_clock: MockClock) -> None:
    answers = [
        await say(chat, "a"),
        await ask(chat, "GET /rooms"),
        await ask(chat, "GET /rooms/lobby"),
        await ask(chat, "GET /rooms/nope"),
        await ask(chat, "GET /rooms/a/b"),
        await ask(chat, "PUT /rooms/a"),
        await ask(chat, "OPTIONS /rooms/a"),
        await ask(chat, "GET /rooms", None, {"Origin": "https://evil.example"}),
        await ask(chat, "GET /rooms", None, {"Host": "evil.example"}),
        await ask(chat, "POST /rooms/lobby", b"x" * 70_000),
        await ask(chat, "POST /rooms/lobby", b"x", {"Authorization": "Bearer x"}),
    ]
    assert [answer.status for answer in answers] == [
        *(201, 200, 200, 404, 404, 405, 204, 403, 421, 413, 401),
    ]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["vary"] == "Origin, Accept, Authorization, Cookie"
        assert ("www-authenticate" in answer.headers) is (answer.status == 401)
        if answer.status >= 400:
            assert answer.code
    assert answers[-1].headers["www-authenticate"] == "Bearer"
    assert answers[8].code == "bad_request"


# ---- refusals


async def test_flood_control(autojump_clock: MockClock) -> None:
    settings = Settings(limits=Limits(messages_per_second=2, messages_burst=2))
    async with open_chat(settings) as chat:
        answers = [await say(chat, "a", nick="ci") for _ in range(3)]
        assert [answer.status for answer in answers] == [201, 201, 429]
        assert answers[-1].code == "rate_limited"
        assert 0 < answers[-1].json["retry_ms"] <= 500
        assert answers[-1].headers["retry-after"] == "1"
        assert (await say(chat, "a", nick="other")).status == 201
        await trio.sleep(answers[-1].json["retry_ms"] / 1000)
        assert (await say(chat, "a", nick="ci")).status == 201


async def test_limits_by_address(autojump_clock: MockClock) -> None:
    limits = Limits(messages_per_second_per_address=1, messages_burst_per_address=2)
    async with open_chat(Settings(limits=limits)) as chat:
        answers = [await say(chat, "a", nick=nick, peer=NEAR) for nick in ("a1", "b1", "c1")]
        assert [answer.status for answer in answers] == [201, 201, 429]
        assert (await say(chat, "a", nick="d1")).status == 201


async def test_rights(autojump_clock: MockClock) -> None:
    rules = ("staff read=users", "news read=everybody write=operators")
    settings = Settings(auth=Auth(mode="token", guests=True), chat=Chat(rules=rules))
    async with open_chat(settings) as chat:
        token = {"Authorization": f"Bearer {chat.token('ann')}"}
        boss = {"Authorization": f"Bearer {chat.token('boss', op=True)}"}
        few = {"Authorization": f"Bearer {chat.token('few', rooms=['team-*'])}"}
        assert (await say(chat, "a", "staff")).code == "forbidden"
        assert (await say(chat, "a", "staff", headers=token)).status == 201
        assert (await ask(chat, "GET /rooms/staff")).code == "forbidden"
        assert (await ask(chat, "GET /rooms/staff", None, token)).status == 200
        assert (await say(chat, "a", "news", headers=token)).code == "forbidden"
        assert (await say(chat, "a", "news", headers=boss)).status == 201
        assert (await ask(chat, "GET /rooms/news")).texts == ["a"]
        assert (await say(chat, "a", headers=few)).code == "forbidden"
        assert (await say(chat, "a", "team-1", headers=few)).status == 201
        refused = chat.logged("refused")
        assert {line["command"] for line in refused} == {"say", "join"}
        assert {line["transport"] for line in refused} == {"http"}


async def test_sanctions(chat: Harness, autojump_clock: MockClock) -> None:
    await say(chat, "a", nick="ci")
    core = chat.daemon.chat
    await moderate(core, "console", commands.Mute(nick="ci", seconds=10))
    muted = await say(chat, "a", nick="ci")
    assert (muted.status, muted.code, muted.json["retry_ms"]) == (403, "muted", 10_000)
    assert (await ask(chat, "GET /rooms/lobby?nick=ci")).texts == ["a"]
    await moderate(core, "console", commands.Unmute(nick="ci"))
    await moderate(core, "console", commands.Ban(nick="ci", room="lobby"))
    assert (await say(chat, "a", nick="ci")).code == "banned"
    assert (await ask(chat, "GET /rooms/lobby?nick=ci")).code == "banned"
    assert (await say(chat, "a", "other", "ci")).status == 201
    await moderate(core, "console", commands.Ban(nick="ci"))
    assert (await say(chat, "a", "other", "ci")).code == "banned"
    assert (await ask(chat, "GET /rooms?nick=ci")).code == "banned"
    assert (await say(chat, "a", "other")).status == 201
    await moderate(core, "console", commands.Close(room="other"))
    assert (await say(chat, "a", "other")).code == "forbidden"


async def test_a_banned_guest_s_address_is_banned(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        await say(chat, "a", nick="spam", peer=NEAR)
        done = await moderate(chat.daemon.chat, "console", commands.Ban(nick="spam"))
        assert done.networks == ["192.0.2.7/32"]
        assert (await say(chat, "a", nick="other", peer=NEAR)).code == "banned"
        assert (await say(chat, "a", nick="other")).status == 201


@pytest.mark.parametrize("watched", [True, False])
async def test_slow_mode(chat: Harness, autojump_clock: MockClock, watched: bool) -> None:
    if watched:
        await chat.client("ann")
    await moderate(chat.daemon.chat, "console", commands.Slow(room="lobby", seconds=30))
    assert (await say(chat, "a", nick="ci")).status == 201
    slow = await say(chat, "a", nick="ci")
    assert (slow.code, slow.headers["retry-after"]) == ("rate_limited", "30")
    await trio.sleep(30)
    assert (await say(chat, "a", nick="ci")).status == 201
    await moderate(chat.daemon.chat, "console", commands.Slow(room="lobby", seconds=0))
    assert (await say(chat, "a", nick="ci")).status == 201


async def test_a_full_disk(chat: Harness, autojump_clock: MockClock) -> None:
    chat.fill_disk()
    key = {"Idempotency-Key": "k"}
    full = await say(chat, "a", nick="ci", headers=key)
    assert (full.status, full.code) == (503, "unavailable")
    chat.free_disk()
    assert (await say(chat, "a", nick="ci", headers=key)).status == 201
    assert chat.daemon.chat.refused_commands["say", "unavailable"] == 1


async def test_an_unconfirmed_message_is_there_once(
    chat: Harness, autojump_clock: MockClock
) -> None:
    key = {"Idempotency-Key": "k"}
    chat.lose_confirmation()
    assert (await say(chat, "a", nick="ci", headers=key)).code == "unavailable"
    again = await say(chat, "a", nick="ci", headers=key)
    assert (again.status, again.json["duplicate"]) == (200, True)
    assert (await ask(chat, "GET /rooms/lobby")).texts == ["a"]


async def test_a_draining_server(chat: Harness, autojump_clock: MockClock) -> None:
    raw = Raw(await chat.dial())
    body = b"late"
    await raw.send(head_of("POST /rooms/lobby", None, body))
    await chat.wait_idle()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chat.daemon.drain)
        await trio.sleep(0.5)
        await raw.send(body)
        answer = Answer(*await raw.answer())
        assert (answer.status, answer.headers["connection"]) == (201, "close")
        late = await ask(chat, "GET /rooms/lobby")
        assert (late.status, late.code, late.headers["retry-after"]) == (503, "unavailable", "1")


async def test_a_fault_is_a_problem_and_a_line(
    chat: Harness, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(commands.Said, "__init__", fail, raising=False)
        patch.setattr("chatd.chat.rules.messages.commands.Said", fail)
        answer = await say(chat, "a")
    assert (answer.status, answer.code) == (500, "")
    assert [line["detail"] for line in chat.logged("fault")] == ["POST /rooms/lobby"]
    # The message is in the room all the same.
    assert (await ask(chat, "GET /rooms/lobby")).texts == ["a"]


# ---- the log and the metrics


async def test_a_message_is_logged_and_counted(chat: Harness, autojump_clock: MockClock) -> None:
    await chat.client("ann")
    said = await say(chat, "hello", nick="ci", peer=NEAR)
    [line] = chat.logged("message")
    assert line["connection"].startswith("c")
    del line["connection"]
    assert line == {
        "transport": "http",
        "protocol": "http",
        "address": "192.0.2.7",
        "user": said.json["user"],
        "nick": "ci",
        "room": "lobby",
        "seq": 1,
        "bytes": 5,
        "receivers": 1,
    }
    core = chat.daemon.chat
    assert core.commands["say"] == 1
    assert core.statistics().connections == {("websocket", "chatd.v1"): 1}
    assert (await say(chat, "", nick="ci", peer=NEAR)).status == 400
    assert core.refused_commands["say", "bad_request"] == 1
    assert (await ask(chat, "POST /rooms/lobby", "{", JSON)).status == 400
    assert core.refused_commands["unknown", "bad_request"] == 1
    assert core.refusals["bad_request"] == 2


# ---- positions


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
    st.integers(0, 2**53),
)
def test_a_position_is_read_as_it_was_written(epoch: str, seq: int) -> None:
    assert read_position(position_of(epoch, seq)) == commands.Position(epoch, seq)


@given(st.text())
def test_any_text_is_some_position(text: str) -> None:
    assert isinstance(read_position(text), commands.Position)
