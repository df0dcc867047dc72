"""Who a request is from: tokens, sessions, the cookie, and guests of an address and a nick."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from chatd.admin.transfer import bar, forget
from chatd.chat.sessions import derived_user, is_guest
from chatd.gateways.credentials import authorization
from chatd.settings import Auth, Chat, Settings
from chatd.testing import Harness, open_chat
from chatd.wire.request import Request
from chatd.wire.transport import Peer
from tests.gateways.http_requests import FAR, NEAR, ask, follow, refused_stream, say
from tests.gateways.raw import LOOPBACK

TOKENS = Settings(auth=Auth(mode="token", guests=True, cookie="chat_token"))

LOOPBACK_6 = Peer("::1", "tcp", loopback=True)


def unix(uid: int) -> Peer:
    return Peer("unix", "unix", loopback=False, uid=uid)


async def user_of(chat: Harness, nick: str | None = None, peer: Peer = LOOPBACK) -> str:
    answer = await say(chat, "a", nick=nick, peer=peer)
    assert answer.status == 201, answer
    user: str = answer.json["user"]
    assert is_guest(user)
    return user


# ---- guests


async def test_the_same_address_and_nick_are_the_same_user(
    chat: Harness, autojump_clock: MockClock
) -> None:
    users = [
        await user_of(chat, "ci"),
        await user_of(chat, "cron"),
        await user_of(chat),
        await user_of(chat, "far", FAR),
        await user_of(chat, None, FAR),
    ]
    assert len(set(users)) == 5
    await trio.sleep(3600)
    again = [await user_of(chat, nick) for nick in ("CI", "cron", None)]
    assert again == users[:3]


async def test_the_id_is_derived_with_the_store_s_key(
    chat: Harness, autojump_clock: MockClock
) -> None:
    key = chat.daemon.chat.journal.key
    assert await user_of(chat, "CI") == derived_user(key, "127.0.0.1", "ci", 0)
    assert await user_of(chat) == derived_user(key, "127.0.0.1", "", 0)
    assert derived_user(b"another", "127.0.0.1", "ci", 0) != derived_user(key, "127.0.0.1", "ci", 0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (LOOPBACK, LOOPBACK_6, True),
        (LOOPBACK, Peer("127.0.0.2", "tcp", loopback=True), False),
        (
            Peer("2001:db8::1", "tcp", loopback=False),
            Peer("2001:db8::2:3", "tcp", loopback=False),
            True,
        ),
        (
            Peer("2001:db8::1", "tcp", loopback=False),
            Peer("2001:db8:0:1::1", "tcp", loopback=False),
            False,
        ),
        (unix(0), unix(0), True),
        (unix(0), unix(1000), False),
        (NEAR, FAR, False),
    ],
)
async def test_what_counts_as_an_address(
    chat: Harness, autojump_clock: MockClock, one: Peer, other: Peer, same: bool
) -> None:
    assert (await user_of(chat, None, one) == await user_of(chat, None, other)) is same


async def test_a_nick_is_never_replaced(chat: Harness, autojump_clock: MockClock) -> None:
    await chat.client("ann")
    for nick in ("ann", "Ann", "ANN", "\u0430nn"):
        query = "".join(f"%{byte:02X}" for byte in nick.encode())
        answer = await say(chat, "a", nick=query)
        assert (answer.status, answer.code) == (409, "nick_taken")
        assert (await refused_stream(chat, f"/rooms/lobby?nick={query}")).code == "nick_taken"
    await user_of(chat, "ci", NEAR)
    assert (await say(chat, "a", nick="ci", peer=FAR)).code == "nick_taken"
    assert (await say(chat, "a", nick="chatd")).code == "nick_taken"
    assert (await say(chat, "a", nick="a%20b")).code == "bad_request"
    assert (await say(chat, "a", nick="")).code == "bad_request"


async def test_a_nick_is_held_after_the_last_request(
    chat: Harness, autojump_clock: MockClock
) -> None:
    await user_of(chat, "ci")
    await trio.sleep(599)
    await user_of(chat, "ci")
    await trio.sleep(599)
    ann = await chat.client("ci")
    assert ann.nick == "ci-2"
    await trio.sleep(2)
    assert await ann.nickname("ci") == "ci"
    assert (await say(chat, "a", nick="ci")).code == "nick_taken"


async def test_a_refused_request_holds_its_nick_no_longer(
    chat: Harness, autojump_clock: MockClock
) -> None:
    assert (await say(chat, "a", "@nobody", "ci")).status == 404
    assert (await refused_stream(chat, "/rooms/@nobody?nick=cron")).status == 404
    assert (await refused_stream(chat, "/rooms/a%20b?nick=tom")).status == 400
    assert len(chat.daemon.chat.users) == 3
    await trio.sleep(601)
    assert len(chat.daemon.chat.users) == 0


async def test_a_nick_is_generated_from_the_id(chat: Harness, autojump_clock: MockClock) -> None:
    said = (await say(chat, "a")).json
    assert said["nick"] == f"guest-{said['user'][1:6]}"
    assert (await say(chat, "a")).json["nick"] == said["nick"]


async def test_an_address_has_eight_nicks(chat: Harness, autojump_clock: MockClock) -> None:
    for number in range(8):
        await user_of(chat, f"ci{number}")
        await trio.sleep(1)
    ninth = await say(chat, "a", nick="ci8")
    assert (ninth.status, ninth.code) == (429, "rate_limited")
    assert ninth.json["retry_ms"] == 592_000
    assert (await refused_stream(chat, "/rooms/lobby?nick=ci8")).code == "rate_limited"
    await user_of(chat, "ci0")
    await user_of(chat)
    await user_of(chat, "ci8", NEAR)
    await trio.sleep((await say(chat, "a", nick="ci9")).json["retry_ms"] / 1000)
    await user_of(chat, "ci9")


async def test_nobody_gets_the_session(chat: Harness, autojump_clock: MockClock) -> None:
    answer = await say(chat, "a", nick="ci")
    assert "session" not in answer.body.decode()
    stream = await follow(chat, "/rooms/lobby?nick=ci")
    events = await stream.page()
    assert {event["on"] for event in events} == {"message"}


async def test_after_forget_another_id_is_derived(chat: Harness, autojump_clock: MockClock) -> None:
    core = chat.daemon.chat
    users = []
    for _ in range(3):
        user = await user_of(chat, "ci")
        assert user not in users
        users.append(user)
        await bar(core.journal, user, core.bus.submit_and_wait, until=core.now() + 1)
        core.users.erase(user)
        await forget(core.journal, user, core.bus.submit_and_wait)
        await trio.sleep(40 * 24 * 60 * 60)  # longer than auth.session_days
    assert (await ask(chat, "GET /rooms/lobby")).texts == [None, None, None]


# ---- sessions and tokens


async def test_a_session_is_the_same_guest(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    session = {"Authorization": f"Bearer {ann.chat.identity.session}"}
    said = await say(chat, "a", headers=session)
    assert (said.json["user"], said.json["nick"]) == (ann.user, "ann")
    assert (await ask(chat, "GET /rooms/lobby?nick=other", None, session)).texts == ["a"]
    await ann.aclose()
    await trio.sleep(3600)
    again = await say(chat, "b", headers=session)
    assert (again.json["user"], again.json["nick"]) == (ann.user, "ann")


@pytest.mark.parametrize("settings", [Settings(), TOKENS, Settings(auth=Auth(mode="token"))])
@pytest.mark.parametrize("secret", ["", "x", "a.b.c", "gaaaaaaaaaaaaaaaa.1.x", "gaaaaaaaaaaaaaaaa"])
async def test_a_secret_that_is_not_valid(
    autojump_clock: MockClock, settings: Settings, secret: str
) -> None:
    async with open_chat(settings) as chat:
        headers = {"Authorization": f"Bearer {secret}"}
        for answer in (
            await say(chat, "a", headers=headers),
            await ask(chat, "GET /rooms/lobby", None, headers),
            await ask(chat, "GET /rooms", None, headers),
            await refused_stream(chat, "/rooms/lobby", headers),
        ):
            assert (answer.status, answer.code) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert len(chat.logged("refused")) == 4
        assert chat.logged("connect") == []


async def test_a_token(autojump_clock: MockClock) -> None:
    async with open_chat(TOKENS) as chat:
        token = chat.token("ann@example.org", nick="ann")
        said = await say(chat, "a", headers={"Authorization": f"bearer {token}"})
        assert (said.json["user"], said.json["nick"]) == ("ann@example.org", "ann")
        late = {"Authorization": f"Bearer {chat.token('ann@example.org', seconds=5)}"}
        await trio.sleep(66)  # a minute more than it says, because clocks differ
        assert (await say(chat, "a", headers=late)).code == "unauthorized"
        # Another scheme is a proxy's.
        assert (await say(chat, "a", headers={"Authorization": "Basic YTpi"})).status == 201


async def test_the_cookie_authenticates(autojump_clock: MockClock) -> None:
    async with open_chat(TOKENS) as chat:
        token = chat.token("ann")
        cookie = {"Cookie": f"a=b; {TOKENS.auth.cookie}={token}"}
        assert (await say(chat, "a", headers=cookie)).json["user"] == "ann"
        both = {**cookie, "Authorization": f"Bearer {chat.token('bob')}"}
        assert (await say(chat, "a", headers=both)).json["user"] == "bob"
        site = {**cookie, "Sec-Fetch-Site": "same-site"}
        assert is_guest((await say(chat, "a", headers=site)).json["user"])
        stream = await follow(chat, "/rooms/lobby", cookie)
        await stream.page()
        assert chat.logged("connect")[-1]["user"] == "ann"


@pytest.mark.parametrize("name", ["token", "session", "access_token", "authorization"])
async def test_secrets_in_a_url_do_not_count(autojump_clock: MockClock, name: str) -> None:
    async with open_chat(Settings(auth=Auth(mode="token"))) as chat:
        answer = await ask(chat, f"GET /rooms/lobby?{name}={chat.token('ann')}")
        assert answer.code == "unauthorized"
        assert "Authorization: Bearer" in answer.json["detail"]


async def test_operators(autojump_clock: MockClock) -> None:
    settings = Settings(auth=Auth(mode="token"), chat=Chat(operators=("boss",)))
    async with open_chat(settings) as chat:
        boss = {"Authorization": f"Bearer {chat.token('boss')}"}
        stream = await follow(chat, "/rooms/lobby", boss)
        await stream.page()
        ann = await chat.client("ann", token=chat.token("ann"))
        members = await ann.chat.who("lobby")
        assert [(member.nick, member.op) for member in members.members] == [
            ("ann", False),
            ("boss", True),
        ]


def test_authorization() -> None:
    peer = LOOPBACK
    for value, secret in (
        (None, None),
        ("Bearer a", "a"),
        ("bearer  a ", "a"),
        ("Bearer", ""),
        ("Basic a", None),
        ("a", None),
    ):
        headers = [] if value is None else [("authorization", value)]
        assert authorization(Request("GET", "/", headers, peer)) == secret


def test_a_proxy_s_client_has_its_own_place() -> None:
    peer = Peer("192.0.2.1", "unix", loopback=False, forwarded=True, uid=33)
    assert (peer.place, peer.limit_key) == ("192.0.2.1", "192.0.2.1")
