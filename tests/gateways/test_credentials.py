"""A token by every way it may come, in every protocol, and by none that it may not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from msgspec import UNSET
from trio.testing import MockClock

from chatd import client as library
from chatd.chat.issuer import FetchError
from chatd.chat.sanctions import Sanction
from chatd.chat.token_keys import Key, read_key_set
from chatd.chat.tokens import Keys
from chatd.gateways.credentials import bearer, origin_refusal
from chatd.journal.memory import MemoryJournal
from chatd.model import UserRecord
from chatd.settings import Auth, Chat, Http, Settings
from chatd.testing import Harness, open_chat
from chatd.wire.request import Request
from chatd.wire.transport import Peer
from tests.chat import issuers
from tests.gateways.raw import handshake, speak_json, speak_text
from tests.gateways.test_socketio import SocketIo
from tests.wire.served import Client

ALONE = Settings(auth=Auth(mode="token", cookie="token"), chat=Chat(backlog=0))
MIXED = Settings(auth=Auth(mode="token", cookie="token", guests=True), chat=Chat(backlog=0))


@pytest.fixture
def chat_settings() -> Settings:
    return ALONE


def by_header(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def by_cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"a=b; token={token}; c=d"}


BY = [by_header, by_cookie]


# ---- what a request brings


def request(headers: Mapping[str, str], target: str = "/ws", *, loopback: bool = True) -> Request:
    return Request(
        "GET",
        target,
        [(name.lower(), value) for name, value in headers.items()],
        Peer("127.0.0.1", "tcp", loopback=loopback),
        listener_loopback=loopback,
    )


@pytest.mark.parametrize(
    ("headers", "target", "token"),
    [
        ({}, "/ws", None),
        ({}, "/ws?token=t&access_token=t", None),
        ({"Authorization": "Bearer t"}, "/ws", "t"),
        ({"Authorization": "bearer  t "}, "/ws", "t"),
        ({"Authorization": "Bearer"}, "/ws", ""),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "/ws", None),
        ({"Authorization": "Basic dXNlcjpwYXNz", "Cookie": "token=c"}, "/ws", "c"),
        ({"Authorization": "Bearer t", "Cookie": "token=c"}, "/ws", "t"),
        ({"Cookie": "tokens=x; Token=y"}, "/ws", None),
        ({"Cookie": 'broken"; token="c"; token=d'}, "/ws", "c"),
        ({"Cookie": "token=c", "Origin": "https://any.example"}, "/ws", "c"),
        ({"Cookie": "token=c", "Sec-Fetch-Site": "same-origin"}, "/ws", "c"),
        ({"Cookie": "token=c", "Sec-Fetch-Site": "none"}, "/ws", "c"),
        # A script's URL in another site's page comes with the cookie and without an Origin.
        ({"Cookie": "token=c", "Sec-Fetch-Site": "cross-site"}, "/socket.io/", None),
        ({"Cookie": "token=c", "Sec-Fetch-Site": "same-site"}, "/socket.io/", None),
        ({"Cookie": "token=c"}, "/socket.io/?EIO=3&transport=polling&j=0", None),
    ],
)
def test_what_a_request_brings(headers: dict[str, str], target: str, token: str | None) -> None:
    assert bearer(request(headers, target), ALONE) == token
    assert bearer(request(headers, target), Settings()) is None


def test_cookies_are_ignored_without_auth_cookie() -> None:
    settings = Settings(auth=Auth(mode="token"))
    assert bearer(request({"Cookie": "off=c; token=c"}), settings) is None


def test_pages_from_files_are_allowed_only_without_cookies() -> None:
    asked = request({"Origin": "null", "Host": "localhost:3000"})
    assert origin_refusal(asked, Settings()) is None
    refused = origin_refusal(asked, ALONE)
    assert refused is not None
    assert refused.setting == "http.origins"
    local = request({"Origin": "http://localhost:8080", "Host": "localhost:3000"})
    assert origin_refusal(local, ALONE) is None


# ---- chatd.v1


async def test_json_auth(chat: Harness, autojump_clock: MockClock) -> None:
    client = await speak_json(chat, "/ws?nick=annie")
    hello = await client.next()
    assert [hello[name] for name in ("user", "nick", "session", "op")] == [None, None, None, False]
    assert (await client.do("join", room="lobby"))["error"]["code"] == "unauthorized"
    assert (await client.do("auth", token="nonsense"))["error"]["code"] == "unauthorized"
    assert await client.do("auth", token=chat.token("ann", op=True)) == {
        "ok": {"user": "ann", "nick": "annie", "op": True, "session": None}
    }
    assert (await client.do("join", room="lobby"))["ok"]["members"] == [
        {"nick": "annie", "user": "ann", "op": True}
    ]


@pytest.mark.parametrize("by", BY)
async def test_json_by_header_or_cookie(chat: Harness, autojump_clock: MockClock, by: Any) -> None:
    client = await speak_json(chat, headers=by(chat.token("ann", op=True)))
    hello = await client.next()
    assert [hello[name] for name in ("user", "nick", "session", "op")] == ["ann", "ann", None, True]
    assert "ok" in await client.do("join", room="lobby")
    assert chat.logged("connect")[0]["user"] == "ann"


@pytest.mark.parametrize("by", BY)
async def test_a_bad_token_is_4502_and_nobodys_connection(
    autojump_clock: MockClock, by: Any
) -> None:
    async with open_chat(MIXED) as chat:
        token = chat.token("ann", seconds=1)
        await trio.sleep(62)
        client = await speak_json(chat, headers=by(token))
        bye = await client.next()
        assert (bye["on"], bye["code"], bye["reconnect"]) == ("bye", 4502, False)
        assert bye["reason"] == "This token is not valid: it has expired."
        assert await client.closed() == (4502, bye["reason"])
        text = await speak_text(chat, headers=by(token))
        assert await text.hear() == f"* {bye['reason']}"
        assert (await text.closed())[0] == 4502
        await chat.wait_idle()
        assert len(chat.daemon.chat.connections) == 0
        assert chat.logged("connect") == []
        assert [line["reason"] for line in chat.logged("refused")] == [bye["reason"]] * 2


async def test_a_token_in_a_url_is_ignored(chat: Harness, autojump_clock: MockClock) -> None:
    token = chat.token("ann")
    speaking = await speak_json(chat, f"/ws?token={token}&auth={token}")
    assert (await speaking.next())["user"] is None
    client = await come(chat, query=f"&token={token}", hello=False)
    assert (await client.event())[1]["user"] is None
    client = await come(chat, query=f"&token={token}", revision=3, hello=False)
    assert (await client.event())[1]["user"] is None
    assert token not in repr(chat.log.records)


async def test_guests_beside_tokens(autojump_clock: MockClock) -> None:
    async with open_chat(MIXED) as chat:
        guest = await speak_json(chat, "/ws?nick=bob")
        hello = await guest.next()
        assert (hello["nick"], hello["session"] is not None) == ("bob", True)
        ann = await chat.client("ann", token=chat.token("ann"))
        assert (ann.user, ann.nick) == ("ann", "ann")
        assert (await guest.do("nick", nick="ANN"))["error"]["code"] == "nick_taken"


async def test_a_silent_client_gets_a_notice_and_is_closed(
    chat: Harness, autojump_clock: MockClock
) -> None:
    client = await speak_json(chat)
    await client.next()
    began = trio.current_time()
    with trio.fail_after(20):
        bye = json.loads(await Client.hear(client))
    assert trio.current_time() - began == pytest.approx(10)
    assert (bye["code"], bye["reason"]) == (4502, "not authenticated in time")
    assert (await client.closed())[0] == 4502


async def test_the_end_of_a_token_on_every_protocol(autojump_clock: MockClock) -> None:
    async with open_chat(ALONE) as chat:
        token = chat.token("ann", seconds=100)
        several = [
            await chat.client("ann", protocol, token=token)
            for protocol in ("json", "text", "socketio", "polling")
        ]
        renewed = await chat.client("ann", token=token)
        await trio.sleep(92)
        for one in several:
            notice = await one.next("notice")
            assert "expires in 10 seconds" in (notice.text or "")
        await renewed.chat.auth(token=chat.token("ann"))
        await trio.sleep(9)
        for one in several:
            ending = await one.lost()
            assert (ending.code in {4502, 1000}, ending.reconnect) == (True, False)
        assert [line["code"] for line in chat.logged("disconnect")] == [4502] * 4
        assert {line["reason"] for line in chat.logged("disconnect")} == {"your token has expired"}
        await renewed.say("still here")
        assert (await renewed.next("message")).text == "still here"


async def test_a_key_that_is_gone_closes(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann", token=chat.token("ann"))
    sam = await chat.client("sam", "socketio", token=chat.token("sam"))
    chat.daemon.chat.use_keys(Keys())
    assert (await ann.lost()).code == 4502
    assert (await sam.lost()).reconnect is False
    with pytest.raises(library.Closed):
        await sam.reconnect()


# ---- plain text


async def test_text_by_its_first_line(chat: Harness, autojump_clock: MockClock) -> None:
    client = await speak_text(chat, "/ws?room=hall")
    asked = "* Sign in first: type /auth TOKEN."
    assert await client.hear() == asked
    for line in ("hello", "/join lobby", "/nick x", "//slash"):
        await client.text(line)
        assert await client.hear() == asked
    await client.text("/auth nonsense")
    assert (await client.hear()).startswith("* This token is not valid")
    await client.text(f"/auth {chat.token('ann')}\n")
    assert await client.hear() == "Hello, I am chatd. You are ann in #hall."
    await client.text("hi")
    assert await client.hear() == "ann: hi"
    await client.text(f"/auth {chat.token('ann')}")
    assert await client.hear() == "* You are ann."
    await client.text(f"/auth {chat.token('bob')}")
    assert "You are in a room as another user." in await client.hear()
    assert chat.token("ann")[:20] not in repr(chat.log.records)


async def test_text_by_its_first_line_where_a_guest_is_let_in(autojump_clock: MockClock) -> None:
    async with open_chat(MIXED) as chat:
        client = await speak_text(chat, "/ws?nick=ann")
        assert await client.hear() == "Hello, I am chatd. You are ann in #lobby."
        await client.text("/auth nonsense")
        assert (await client.hear()).startswith("* This token is not valid")
        assert len(chat.logged("refused")) == 1
        await client.text(f"/auth {chat.token('ann')}")
        assert await client.hear() == "Hello, I am chatd. You are ann in #lobby."
        await client.text("hi")
        assert await client.hear() == "ann: hi"
        assert chat.logged("message")[0]["user"] == "ann"


@pytest.mark.parametrize("by", BY)
async def test_text_by_header_or_cookie(chat: Harness, autojump_clock: MockClock, by: Any) -> None:
    client = await speak_text(chat, headers=by(chat.token("ann")))
    assert await client.hear() == "Hello, I am chatd. You are ann in #lobby."


# ---- Socket.IO


async def come(
    chat: Harness,
    auth: Any = None,
    *,
    revision: int = 4,
    query: str = "",
    headers: Mapping[str, str] | None = None,
    hello: bool = True,
) -> SocketIo:
    """Connect up to the answer to CONNECT, which is not read, or up to ``hello``."""
    client = SocketIo(await chat.dial())
    target = f"/socket.io/?EIO={revision}&transport=websocket{query}"
    await client.send(handshake(target, headers))
    assert (await client.answer())[0] == 101
    assert (await client.hear()).startswith("0{")
    if revision == 4:
        await client.text("40" if auth is None else f"40{json.dumps(auth)}")
    if not hello:
        assert (await client.packet()).startswith("0")
    return client


async def test_socketio_by_auth(chat: Harness, autojump_clock: MockClock) -> None:
    client = await come(chat, {"token": chat.token("ann", op=True), "nick": "annie"}, hello=False)
    name, hello = await client.event()
    assert name == "hello"
    assert [hello[key] for key in ("user", "nick", "session", "op")] == ["ann", "annie", None, True]
    assert hello["joined"]["room"] == "lobby"


@pytest.mark.parametrize("revision", [3, 4])
@pytest.mark.parametrize("by", BY)
async def test_socketio_by_header_or_cookie(
    chat: Harness, autojump_clock: MockClock, by: Any, revision: int
) -> None:
    client = await come(
        chat, revision=revision, headers=by(chat.token("ann")), query="&nick=x", hello=False
    )
    assert (await client.event())[1]["user"] == "ann"


async def test_socketio_gets_a_connect_error_for_a_bad_token(
    chat: Harness, autojump_clock: MockClock
) -> None:
    message = "This token is not valid: its header is malformed."
    bad = by_header("a.b.c")
    for auth, headers in (({"token": "a.b.c"}, None), (None, bad), ({"token": "a.b.c"}, None)):
        client = await come(chat, auth, headers=headers)
        error = json.loads((await client.packet()).removeprefix("4"))
        assert error == {"message": message, "data": {"code": "unauthorized"}}
    # These clients are given nothing beside the data.
    client = await come(chat, revision=3, headers=bad)
    error = json.loads((await client.packet()).removeprefix("4"))
    assert error == {"code": "unauthorized", "message": message}
    # The token in ``auth`` takes precedence over the header.
    client = await come(chat, {"token": chat.token("ann")}, headers=bad, hello=False)
    assert (await client.event())[1]["user"] == "ann"
    assert chat.logged("refused")[0]["reason"] == message


async def test_socketio_without_a_token_is_in_no_room_until_auth(
    chat: Harness, autojump_clock: MockClock
) -> None:
    client = await come(chat, {"room": "hall"}, hello=False)
    name, hello = await client.event()
    assert (name, hello["user"], "joined" in hello) == ("hello", None, False)
    assert (await client.call("chat message", "hi"))["error"]["code"] == "unauthorized"
    answer = await client.call("auth", {"token": chat.token("ann")})
    assert answer == {"ok": {"user": "ann", "nick": "ann", "op": False, "session": None}}
    name, hello = await client.event()
    assert (name, hello["user"], hello["joined"]["room"]) == ("hello", "ann", "hall")
    assert (await client.call("chat message", "hi"))["ok"]["room"] == "hall"


async def test_socketio_without_a_token_is_sent_away_in_time(
    chat: Harness, autojump_clock: MockClock
) -> None:
    client = await come(chat, hello=False)
    await client.event()
    await trio.sleep(11)
    name, bye = await client.event()
    assert (name, bye["code"], bye["reconnect"]) == ("bye", 4502, False)
    assert await client.packet() == "1"  # so that they stay away
    assert await client.closed() == (4502, bye["reason"])
    await chat.wait_idle()
    assert chat.logged("disconnect")[0]["code"] == 4502


async def test_tokens_are_ignored_in_open_mode(
    autojump_clock: MockClock,
) -> None:
    async with open_chat() as chat:
        token = chat.token("ann")
        client = await come(chat, {"token": token}, headers=by_header(token), hello=False)
        assert (await client.event())[1]["nick"].startswith("guest-")
        speaking = await speak_json(chat, headers=by_header("nonsense"))
        assert (await speaking.next())["nick"].startswith("guest-")


async def test_rooms_of_a_token_in_every_protocol(autojump_clock: MockClock) -> None:
    settings = Settings(auth=Auth(mode="token"), http=Http())
    async with open_chat(settings) as chat:
        token = chat.token("ann", rooms=["team"], read=["lobby"])
        one = await chat.client("ann", token=token)
        with pytest.raises(library.Refused, match="forbidden"):
            await one.say("hi")
        sam = await chat.client("ann", "socketio", token=token)
        with pytest.raises(library.Refused, match="forbidden"):
            await sam.say("hi")
        text = await chat.client("ann", "text", token=token)
        await text.say("hi")
        assert "does not let you write" in (await text.next("notice")).text
        await text.join("team")
        await text.say("hi")
        assert (await text.next("message")).text == "hi"
        with pytest.raises(library.Refused, match="forbidden"):
            await sam.join("other")
        closed = chat.token("bob", rooms=["team"])
        nowhere = await come(chat, {"token": closed}, hello=False)
        assert (await nowhere.event())[0] == "notice"
        hello = (await nowhere.event())[1]
        assert (hello["user"], hello.get("joined", UNSET)) == ("bob", UNSET)


# ---- while somebody signs in


class Slow(MemoryJournal):
    """Reads no user before it may."""

    def __init__(self) -> None:
        super().__init__(now=lambda: 1_750_000_000_000)
        self.asked = trio.Event()
        self.go_on = trio.Event()

    async def user(self, user: str) -> UserRecord | None:
        self.asked.set()
        await self.go_on.wait()
        return await super().user(user)


def ban_user(chat: Harness) -> None:
    chat.daemon.chat.sanctions.add(Sanction("ban", by="root", at=0, user="ann"))


def remove_key(chat: Harness) -> None:
    chat.daemon.chat.use_keys(Keys())


@pytest.mark.parametrize(("act", "code"), [(ban_user, 4501), (remove_key, 4502)])
@pytest.mark.parametrize("way", ["header", "auth", "text", "socketio"])
async def test_who_is_banned_while_signing_in_does_not_get_in(
    autojump_clock: MockClock, nursery: trio.Nursery, act: Any, code: int, way: str
) -> None:
    journal = Slow()
    async with open_chat(ALONE, journal=journal) as chat:
        token = chat.token("ann")

        async def operator() -> None:
            await journal.asked.wait()
            act(chat)
            journal.go_on.set()

        nursery.start_soon(operator)
        ended: tuple[int, str] | None = None
        match way:
            case "header":
                ended = await (await speak_json(chat, headers=by_header(token))).closed()
            case "auth":
                client = await speak_json(chat)
                await client.next()
                answer = await client.do("auth", token=token)
                assert answer["error"]["code"] == {4501: "banned", 4502: "unauthorized"}[code]
            case "text":
                ended = await (await speak_text(chat, headers=by_header(token))).closed()
            case _:
                io = await come(chat, {"token": token}, hello=False)
                name, bye = await io.event()
                assert (name, bye["code"], bye["reconnect"]) == ("bye", code, False)
        assert ended is None or ended[0] == code
        await chat.wait_idle()
        assert len(chat.daemon.chat.users) == 0
        assert not [line for line in chat.logged("connect") if line.get("user") == "ann"]


async def test_a_guest_who_is_banned_while_coming_back_leaves_no_user(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    journal = Slow()
    async with open_chat(MIXED, journal=journal) as chat:
        users = chat.daemon.chat.users
        session = users.session_of("g" + "a" * 16)
        client = await speak_json(chat)
        await client.next()

        async def operator() -> None:
            await journal.asked.wait()
            banned = Sanction("ban", by="root", at=0, user="g" + "a" * 16)
            chat.daemon.chat.sanctions.add(banned)
            journal.go_on.set()

        nursery.start_soon(operator)
        assert (await client.do("auth", session=session))["error"]["code"] == "banned"
        assert (await client.closed())[0] == 4501
        await chat.wait_idle()
        assert users.get("g" + "a" * 16) is None


async def test_a_token_that_cannot_be_checked_now_may_come_again(
    autojump_clock: MockClock,
) -> None:
    async with open_chat(ALONE) as chat:
        key = issuers.RSA
        token = issuers.signed({"sub": "ann", "exp": 2**40}, key, kid="theirs")

        async def down(url: str) -> list[Key]:
            raise FetchError("connection refused")

        issuer = chat.daemon.chat.issuer
        issuer.fetch = down
        issuer.follow("https://idp.example.org/")
        by_request = await speak_json(chat, headers=by_header(token))
        bye = await by_request.next()
        assert (bye["code"], bye["reconnect"], "cannot be fetched now" in bye["reason"]) == (
            *(1001, True, True),
        )
        client = await speak_json(chat)
        await client.next()
        assert (await client.do("auth", token=token))["error"]["code"] == "unavailable"
        assert (await client.closed())[0] == 1001
        io = await come(chat, {"token": token})
        error = json.loads((await io.packet()).removeprefix("4"))
        assert error["data"] == {"code": "unavailable", "retry_ms": 5_000}
        # One that is there renews later.
        ann = await chat.client("ann", token=chat.token("ann"))
        with pytest.raises(library.Refused, match="unavailable"):
            await ann.chat.auth(token=token)
        await ann.say("still here")


async def test_a_reload_changes_the_issuer(autojump_clock: MockClock) -> None:
    published = issuers.published(issuers.RSA.as_dict(private=False, kid="theirs"))
    asked: list[str] = []

    async def fetch(url: str) -> list[Key]:
        asked.append(url)
        return read_key_set(published)

    async with open_chat(ALONE) as chat:
        daemon = chat.daemon
        daemon.chat.issuer.fetch = fetch
        token = issuers.signed({"sub": "ann", "exp": 2**39}, issuers.RSA, kid="theirs")
        with pytest.raises(library.Closed):
            await chat.client("ann", token=token)
        auth = Auth(mode="token", jwks_url="https://idp.example.org/keys")
        daemon.apply(Settings(auth=auth))
        ann = await chat.client("ann", token=token)
        assert asked == ["https://idp.example.org/keys"]
        bob = await chat.client("bob", token=chat.token("bob"))
        # Those of the issuer leave with its keys, and no one else.
        daemon.apply(ALONE)
        assert (await ann.lost()).code == 4502
        await bob.say("still here")
        with pytest.raises(library.Closed):
            await chat.client("ann", token=token)
