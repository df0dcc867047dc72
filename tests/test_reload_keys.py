"""Every key of the configuration: a reload changes it, as seen from outside, or names it.

A new key fails here until one of the two tables has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
import pytest
import trio
from trio.testing import MockClock

from chatd import client
from chatd.chat.key_files import load_keys
from chatd.chat.token_keys import new_key
from chatd.journal.memory import MemoryJournal
from chatd.key_values import keys
from chatd.reload import Configuration, Loaded, Reloaded
from chatd.settings import Auth, Settings, SettingsError
from chatd.testing import Harness
from chatd.wire.transport import Peer
from tests.admin.administered import Administered, administered
from tests.gateways.raw import LOOPBACK, Json, Raw, handshake, json_user, speak_json, speak_text

AFAR: Final = Peer("192.0.2.77", "tcp", loopback=False)

BASE: Final = {
    "limits.messages_per_second": "off",
    "limits.messages_burst": "off",
    "limits.bytes_per_second": "off",
}
"""The common settings of all these tests, without the key under test."""


def settings_of(values: dict[str, Any]) -> Settings:
    tree: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    return msgspec.convert(tree, Settings)


class Live:
    """The daemon, and clients whose names were never used before."""

    def __init__(self, one: Administered) -> None:
        self.one = one
        self.chat: Harness = one.chat
        self._numbers = itertools.count()

    def name(self, what: str) -> str:
        return f"{what}{next(self._numbers)}"

    async def get(self, target: str) -> tuple[int, str]:
        raw = Raw(await self.chat.dial(LOOPBACK))
        status, _, body = await raw.ask(f"GET {target} HTTP/1.1")
        await raw.aclose()
        return status, body.decode()

    async def upgrades(self, peer: Peer = LOOPBACK, **headers: str) -> int:
        raw = Raw(await self.chat.dial(peer))
        await raw.send(handshake("/ws", headers))
        status = (await raw.answer())[0]
        await raw.aclose()
        return status

    async def said(self, count: int, size: int = 1) -> str:
        """Send this number of texts to a new room and leave it; return the room."""
        room = self.name("room")
        ann = await self.chat.client(self.name("ann"), room=room)
        for _ in range(count):
            await ann.say("x" * size)
        await ann.aclose()
        return room

    async def kept(self, room: str) -> int:
        ann = await self.chat.client(self.name("ann"), room=None)
        events: Sequence[object] = ()
        with suppress(client.Refused):  # a room without events is forgotten
            events = (await ann.history(room, limit=500)).events
        await ann.aclose()
        return len(events)


async def seconds(waited: Awaitable[object]) -> float:
    """Return how long it took, in whole seconds."""
    began = trio.current_time()
    await waited
    return round(trio.current_time() - began)


async def refused(asked: Awaitable[object]) -> str | None:
    """Return the code of a refusal."""
    try:
        await asked
    except client.Refused as error:
        return error.code
    return None


# ---- what is seen of each key


async def origin(live: Live) -> object:
    return await live.upgrades(Origin="https://page.example")


async def own_page(live: Live) -> object:
    return await live.upgrades(AFAR, Origin="https://chat.example", Host="chat.example")


async def spoken_for(live: Live) -> object:
    raw = Raw(await live.chat.dial(AFAR))
    await raw.send(handshake("/ws", {"X-Forwarded-For": "198.51.100.9"}))
    await raw.answer()
    await raw.hear()
    await raw.aclose()
    return live.chat.logged("connect")[-1]["address"]


async def spoken_for_in_the_standard_header(live: Live) -> object:
    raw = Raw(await live.chat.dial(AFAR))
    headers = {"X-Forwarded-For": "198.51.100.8", "Forwarded": "for=198.51.100.9"}
    await raw.send(handshake("/ws", headers))
    await raw.answer()
    await raw.hear()
    await raw.aclose()
    return live.chat.logged("connect")[-1]["address"]


async def greeting(live: Live) -> object:
    tom = await live.chat.client("tom", "text")
    text = (await tom.next("greeting")).text
    await tom.aclose()
    return text


async def default_room(live: Live) -> object:
    raw = await speak_text(live.chat)
    room = (await raw.hear()).partition("#")[2]
    await raw.aclose()
    _, page = await live.get("/")
    return room, "hall" in page


async def backlog(live: Live) -> object:
    room = await live.said(3)
    tom = await live.chat.client(live.name("tom"), "text", room=room)
    await live.chat.wait_idle()
    return len(tom.waiting("message"))


async def new_room(live: Live) -> object:
    ann = await live.chat.client(live.name("ann"), room=None)
    return await refused(ann.join(live.name("room")))


async def second_room(live: Live) -> object:
    ann = await live.chat.client(live.name("ann"))
    return await refused(ann.join(live.name("room")))


async def topic(live: Live) -> object:
    ann = await json_user(live.chat, live.name("ann"))
    return "ok" in await ann.do("topic", room="lobby", text="of this and that")


async def left(live: Live) -> object:
    room = live.name("room")
    ann = await live.chat.client(live.name("ann"), room=room)
    bob = await json_user(live.chat, live.name("bob"), room)
    await ann.next("joined")
    await bob.aclose()
    return await seconds(ann.next("left"))


async def nick_again(live: Live) -> object:
    nick = live.name("ann")
    first = await json_user(live.chat, nick)
    await first.aclose()
    await trio.sleep(30)
    again = await speak_json(live.chat, f"/ws?nick={nick}")
    return (await again.next())["nick"] == nick


async def session(live: Live) -> object:
    first = await speak_json(live.chat)
    secret = (await first.next())["session"]
    await first.aclose()
    await trio.sleep(2 * 86_400)
    again = await speak_json(live.chat)
    await again.next()
    return "ok" in await again.do("auth", session=secret)


async def after_days(live: Live) -> object:
    room = await live.said(1)
    await trio.sleep(3 * 86_400)
    return await live.kept(room)


async def after_minutes(live: Live) -> object:
    room = await live.said(5)
    await trio.sleep(600)
    return await live.kept(room)


async def of_a_megabyte(live: Live) -> object:
    room = await live.said(70, 16_000)
    await trio.sleep(600)
    ann = await live.chat.client(live.name("ann"), room=None)
    page = await ann.history(room, after=0, limit=1)
    await ann.aclose()
    first = page.events[0]
    return not isinstance(first, client.Message) or first.seq != 1


async def one_more(live: Live) -> object:
    ann = await live.chat.client(live.name("ann"))
    status, _ = await live.get("/healthz")
    await ann.aclose()
    return status


async def one_more_from_afar(live: Live) -> object:
    held = Raw(await live.chat.dial(AFAR))
    await held.ask("GET /healthz HTTP/1.1")
    raw = Raw(await live.chat.dial(AFAR))
    status, _, _ = await raw.ask("GET /healthz HTTP/1.1")
    await held.aclose()
    return status


async def limits(live: Live) -> object:
    ann = await speak_json(live.chat)
    return (await ann.next())["limits"]


async def said_at_once(live: Live) -> object:
    ann = await live.chat.client(live.name("ann"))
    await ann.say("x" * 10_000)
    return await refused(ann.say("x" * 10_000))


async def slow_reader(live: Live) -> object:
    room = live.name("room")
    ann = await live.chat.client(live.name("ann"), room=room)
    slow = await live.chat.client(live.name("bob"), room=room)
    live.chat.stall(slow)
    for _ in range(30):
        await ann.say("x" * 10_000)
    await trio.sleep(10)  # limits.close_seconds
    return [one["code"] for one in live.chat.logged("disconnect") if one["code"] == 4001][:1]


async def half_a_head(live: Live) -> object:
    raw = Raw(await live.chat.dial(LOOPBACK))
    await raw.send(b"GET / HTTP/1.1\r\nHost")
    return await seconds(raw.answer())


async def between_two_requests(live: Live) -> object:
    raw = Raw(await live.chat.dial(LOOPBACK))
    await raw.ask("GET /healthz HTTP/1.1")
    return await seconds(raw.rest())


async def close_unanswered(live: Live) -> object:
    raw = await speak_text(live.chat)
    await raw.text("/quit")
    return await seconds(raw.rest())


async def who_came(live: Live) -> object:
    ann = await live.chat.client(live.name("ann"), room=(room := live.name("room")))
    await live.chat.client(live.name("bob"), room=room)
    await live.chat.wait_idle()
    return bool(ann.waiting("joined"))


async def long_message(live: Live) -> object:
    raw = await speak_json(live.chat)
    await raw.next()
    await raw.text(" " * 5000)
    return (await raw.next()).get("code")


async def silence(live: Live) -> object:
    raw = await speak_json(live.chat)
    await raw.next()
    began = trio.current_time()
    assert (await raw.frame() or (0,))[0] == 0x89
    pinged = round(trio.current_time() - began)
    await raw.frame()
    return pinged, round(trio.current_time() - began - pinged)


async def opened(live: Live) -> object:
    _, body = await live.get("/socket.io/?EIO=4&transport=polling")
    told = msgspec.json.decode(body[1:])
    return [told[name] for name in ("pingInterval", "pingTimeout", "maxPayload")]


async def another_session(live: Live) -> object:
    await live.get("/socket.io/?EIO=4&transport=polling")
    return (await live.get("/socket.io/?EIO=4&transport=polling"))[0]


async def old_clients(live: Live) -> object:
    return (await live.get("/socket.io/?EIO=3&transport=polling"))[0]


async def unjoined(live: Live) -> object:
    raw = Raw(await live.chat.dial(LOOPBACK))
    await raw.send(handshake("/socket.io/?EIO=4&transport=websocket"))
    await raw.answer()
    # It does not answer the Close frame.
    return await seconds(raw.rest()) - live.one.reload.settings.limits.close_seconds


async def half_an_upgrade(live: Live) -> object:
    _, body = await live.get("/socket.io/?EIO=4&transport=polling")
    sid = msgspec.json.decode(body[1:])["sid"]
    raw = Raw(await live.chat.dial(LOOPBACK))
    await raw.send(handshake(f"/socket.io/?EIO=4&transport=websocket&sid={sid}"))
    await raw.answer()
    # It does not answer the Close frame.
    return await seconds(raw.rest()) - live.one.reload.settings.limits.close_seconds


async def logged(live: Live) -> object:
    before = len(live.chat.log.records)
    ann = await live.chat.client(live.name("ann"))
    await ann.say("hello")
    await live.chat.wait_idle()
    lines = dict(live.chat.log.records[before:])
    return (
        "connect" in lines,
        "message" in lines,
        "text" in lines.get("message", {}),
        "address" in lines.get("connect", {}),
    )


async def drained(live: Live) -> object:
    return (await live.one.done("POST /drain", {}))["seconds"]


async def purge(live: Live) -> object:
    # A store in memory has no files in which anything could be left.
    journal = live.chat._journal._journal
    assert isinstance(journal, MemoryJournal)
    return journal._retention_log.retention.purge_seconds


async def named_at_once(live: Live) -> object:
    ann = await speak_json(live.chat)
    return (await ann.next())["user"] is not None


async def named_by_cookie(live: Live) -> object:
    raw = Json(await live.chat.dial())
    fields = {"Cookie": f"chat={live.chat.token('ann')}", "Sec-WebSocket-Protocol": "chatd.v1"}
    await raw.send(handshake("/ws", fields))
    await raw.answer()
    return (await raw.next())["user"]


async def by_plain_token(live: Live) -> object:
    ann = await speak_json(live.chat)
    await ann.next()
    chat = live.chat.daemon.chat
    claim = Auth(nick_claim="name")
    user = f"user{len(chat.users)}"
    token = chat.keys.issue(user, now=chat.now(), seconds=60, nick="annie", expected=claim)
    answer = await ann.do("auth", token=token)
    return answer["ok"]["nick"] == "annie" if "ok" in answer else answer["error"]["code"]


async def operator(live: Live) -> object:
    ann = await speak_json(live.chat)
    await ann.next()
    return (await ann.do("auth", token=live.chat.token("ann")))["ok"]["op"]


async def announced(live: Live) -> object:
    ann = await json_user(live.chat, live.name("ann"), "news")
    return (await ann.do("say", room="news", text="x")).get("error", {}).get("code")


async def say_from_afar(live: Live) -> object:
    """Return how many messages one address may send at once, and how long the next one waits."""
    raw = Json(await live.chat.dial(AFAR))
    await raw.send(handshake("/ws", {"Sec-WebSocket-Protocol": "chatd.v1"}))
    await raw.answer()
    await raw.next()
    await raw.do("join", room="lobby")
    return await _until_refused(raw, "say", room="lobby", text="x")


async def from_afar(live: Live, target: str = "/ws") -> Json | int:
    """Return a client from another machine whose ``hello`` was read, or the code of its close."""
    raw = Json(await live.chat.dial(AFAR))
    await raw.send(handshake(target, {"Sec-WebSocket-Protocol": "chatd.v1"}))
    await raw.answer()
    first = await raw.next()
    return raw if first["on"] == "hello" else int(first["code"])


async def ask_from_afar(live: Live) -> object:
    asking = await from_afar(live)
    assert isinstance(asking, Json)
    return await _until_refused(asking, "rooms")


async def guests_from_afar(live: Live) -> object:
    """Return the code of the close of the fourth guest in a minute."""
    clients = [await from_afar(live) for _ in range(4)]
    for one in clients:
        if isinstance(one, Json):
            await one.aclose()
    await trio.sleep(600)
    return next((one for one in clients if isinstance(one, int)), None)


async def rooms_at_once(live: Live, *, afar: bool = False) -> object:
    """Return how many rooms can be created at once."""
    ann = await from_afar(live) if afar else await json_user(live.chat, live.name("ann"), None)
    assert isinstance(ann, Json)
    for count in range(100):
        if "error" in await ann.do("join", room=live.name("new")):
            await ann.aclose()
            await trio.sleep(600)
            return count
    raise AssertionError("nothing was refused")


async def rooms_from_afar(live: Live) -> object:
    return await rooms_at_once(live, afar=True)


async def nicks_held(live: Live) -> object:
    """Return how many of three nicks are held after their guests left."""
    nicks = [live.name("ann") for _ in range(3)]
    for nick in nicks:
        one = await from_afar(live, f"/ws?nick={nick}")
        assert isinstance(one, Json)
        await one.aclose()
        await live.chat.wait_idle()
    return sum(live.chat.daemon.chat.users.by_nick(nick) is not None for nick in nicks)


async def many_requests_from_afar(live: Live) -> object:
    """Return whether 200 requests take an address any time."""
    raw = Raw(await live.chat.dial(AFAR))
    began = trio.current_time()
    for _ in range(200):
        await raw.ask("GET /healthz HTTP/1.1")
    await raw.aclose()
    return trio.current_time() > began


async def ask_at_once(live: Live) -> object:
    """Return how many requests pass at once, and how long the next one waits."""
    ann = await speak_json(live.chat)
    await ann.next()
    return await _until_refused(ann, "rooms")


async def _until_refused(asking: Json, command: str, **fields: object) -> tuple[int, int]:
    for count in range(1000):
        answer = await asking.do(command, **fields)
        if "error" in answer:
            await asking.aclose()
            await trio.sleep(60)
            return count, answer["error"]["retry_ms"]
    raise AssertionError("nothing was refused")


async def ask_as_operator(live: Live) -> object:
    ann = await speak_json(live.chat)
    await ann.next()
    await ann.do("auth", token=live.chat.token("ann"))
    answers = [await ann.do("rooms") for _ in range(3)]
    return answers[-1].get("error", {}).get("code")


class Case(NamedTuple):
    """The observations before and after the key gets ``value``; ``base`` has the other settings."""

    seen: Callable[[Live], Awaitable[object]]
    value: Any
    before: object
    after: object
    base: Mapping[str, Any] = MappingProxyType({})


TOKENS: Final = {"auth.mode": "token"}


HELLO = {"message_bytes": 16_384, "messages_per_second": None, "messages_burst": None}

_RATE: Final = "limits.requests_per_second_per_address"
_BURST: Final = "limits.requests_burst_per_address"
_ROOMS: Final = "limits.new_rooms_per_minute"
_SHARE: Final = "limits.share_per_address"
PAGES_FROM_AFAR: Final = {"limits.requests_per_second": "off", _RATE: 20, _BURST: 20}

LIVE: Final = {
    "http.origins": Case(origin, ["https://page.example"], 403, 101),
    "http.hosts": Case(own_page, ["other.example"], 101, 403),
    "http.trusted_proxies": Case(spoken_for, ["192.0.2.77"], "192.0.2.77", "198.51.100.9"),
    "http.forwarded_header": Case(
        spoken_for_in_the_standard_header,
        "Forwarded",
        "198.51.100.8",
        "198.51.100.9",
        {"http.trusted_proxies": ["192.0.2.77"]},
    ),
    "chat.greeting": Case(
        greeting, "in {room}", "Hello, I am chatd. You are tom in #lobby.", "in lobby"
    ),
    "chat.default_room": Case(default_room, "hall", ("lobby.", False), ("hall.", True)),
    "chat.backlog": Case(backlog, 1, 3, 1),
    "chat.create_rooms": Case(new_room, False, None, "not_found"),
    "chat.presence_grace_seconds": Case(left, 3, 10, 3),
    "chat.nick_hold_seconds": Case(nick_again, 1, False, True),
    "chat.operators": Case(operator, ["ann"], False, True, TOKENS),
    "auth.mode": Case(named_at_once, "token", True, False),
    "auth.guests": Case(named_at_once, True, False, True, TOKENS),
    "auth.issuer": Case(by_plain_token, "https://idp", False, "unauthorized", TOKENS),
    "auth.audience": Case(by_plain_token, "chat", False, "unauthorized", TOKENS),
    "auth.nick_claim": Case(by_plain_token, "name", False, True, TOKENS),
    "auth.cookie": Case(named_by_cookie, "chat", None, "ann", TOKENS),
    "auth.session_days": Case(session, 1, True, False),
    "history.keep_days": Case(after_days, 1, 1, 0),
    "history.keep_events": Case(after_minutes, 2, 5, 2),
    "history.max_bytes": Case(of_a_megabyte, 1 << 20, False, True),
    "history.purge_seconds": Case(purge, 60, 3600, 60),
    "limits.connections": Case(one_more, 1, 200, 503),
    "limits.connections_per_address": Case(one_more_from_afar, 1, 200, 429),
    "limits.message_bytes": Case(limits, 77, HELLO, {**HELLO, "message_bytes": 77}),
    "limits.send_queue_bytes": Case(slow_reader, 65_536, [], [4001]),
    "limits.messages_per_second": Case(limits, 3, HELLO, {**HELLO, "messages_per_second": 3}),
    "limits.messages_burst": Case(limits, 9, HELLO, {**HELLO, "messages_burst": 9}),
    "limits.bytes_per_second": Case(said_at_once, 10, None, "rate_limited"),
    "limits.handshake_seconds": Case(half_a_head, 2, 10, 2),
    "limits.idle_seconds": Case(between_two_requests, 20, 75, 20),
    "limits.close_seconds": Case(close_unanswered, 2, 5, 2),
    "limits.presence_members": Case(who_came, 0, True, False),
    "limits.rooms": Case(new_room, 1, None, "forbidden"),
    "limits.rooms_per_client": Case(second_room, 1, None, "forbidden"),
    "limits.sessions": Case(another_session, 1, 200, 503),
    "websocket.max_message_bytes": Case(long_message, 1024, None, 1009),
    "websocket.ping_interval_seconds": Case(silence, 22, (25, 20), (22, 20)),
    "websocket.ping_timeout_seconds": Case(silence, 7, (25, 20), (25, 7)),
    "engineio.ping_interval_seconds": Case(
        opened, 3, [25_000, 20_000, 1_000_000], [3000, 20_000, 1_000_000]
    ),
    "engineio.ping_timeout_seconds": Case(
        opened, 3, [25_000, 20_000, 1_000_000], [25_000, 3000, 1_000_000]
    ),
    "engineio.max_payload_bytes": Case(
        opened, 5000, [25_000, 20_000, 1_000_000], [25_000, 20_000, 5000]
    ),
    "engineio.upgrade_timeout_seconds": Case(half_an_upgrade, 2, 10, 2),
    "engineio.connect_timeout_seconds": Case(unjoined, 2, 10, 2),
    "chat.rules": Case(announced, ["news write=operators"], None, "forbidden"),
    "limits.messages_per_second_per_address": Case(
        say_from_afar, 1, (20, 20), (20, 1000), {"limits.messages_burst_per_address": 20}
    ),
    "limits.messages_burst_per_address": Case(
        say_from_afar, 9, (20, 20), (9, 20), {"limits.messages_burst_per_address": 20}
    ),
    "limits.requests_per_second": Case(
        ask_at_once, 1, (20, 50), (20, 1000), {"limits.requests_burst": 20}
    ),
    "limits.requests_burst": Case(ask_at_once, 9, (20, 50), (9, 50), {"limits.requests_burst": 20}),
    "limits.requests_per_second_per_address": Case(
        ask_from_afar, 1, (20, 50), (20, 1000), PAGES_FROM_AFAR
    ),
    "limits.requests_burst_per_address": Case(ask_from_afar, 9, (20, 50), (9, 50), PAGES_FROM_AFAR),
    "limits.new_guests_per_minute_per_address": Case(
        guests_from_afar, 3, None, 4503, {"limits.connections_per_address": "off"}
    ),
    "limits.new_rooms_per_minute": Case(rooms_at_once, 1, 15, 5, {_ROOMS: 3}),
    "limits.new_rooms_per_minute_per_address": Case(
        rooms_from_afar, 1, 15, 5, {"limits.new_rooms_per_minute_per_address": 3}
    ),
    "limits.held_nicks": Case(nicks_held, 2, 3, 2),
    "limits.held_nicks_per_address": Case(nicks_held, 1, 3, 1),
    "limits.share_per_address": Case(many_requests_from_afar, 0.4, False, True, {_SHARE: "off"}),
    "limits.operators_exempt": Case(
        ask_as_operator,
        False,
        None,
        "rate_limited",
        {**TOKENS, "chat.operators": ["ann"], "limits.requests_burst": 2},
    ),
    "chat.topics": Case(topic, "members", False, True),
    "engineio.allow_eio3": Case(old_clients, False, 200, 400),
    "log.level": Case(logged, "error", (True, True, False, True), (False, False, False, False)),
    "log.messages": Case(logged, False, (True, True, False, True), (True, False, False, True)),
    "log.bodies": Case(logged, True, (True, True, False, True), (True, True, True, True)),
    "log.addresses": Case(logged, "off", (True, True, False, True), (True, True, False, False)),
    "drain.seconds": Case(drained, 3, 10.0, 3.0),
    "drain.delay_seconds": Case(drained, 3, 10.0, 13.0),
}

RESTART: Final[dict[str, Any]] = {
    "listen.addresses": ["localhost:1"],
    "listen.socket_mode": "0600",
    "history.store": "memory",
    "history.path": "/x/y.db",
    "history.durability": "fsync",
    "history.url": "redis://redis.example",
    "history.replicas": 1,
    "history.user": "chatd",
    "history.password_file": "/x/password",
    "history.tls_ca_file": "/x/ca.pem",
    "history.prefix": "{talk}",
    "history.timeout_seconds": 1.0,
    "cluster.lease_seconds": 10.0,
    "cluster.patience_seconds": 10.0,
    "engineio.recovery_seconds": 60.0,
    "log.format": "json",
    "admin.socket": "/x/y.sock",
    "admin.socket_mode": "0660",
    "metrics.listen": "localhost:1",
}
"""Another value for each key that needs a restart."""


BY_FILES: Final = {"auth.key_files", "auth.jwks_url", "tls.certificate_file", "tls.key_file"}
"""Keys that name files or addresses; other tests cover these."""


def test_every_key_is_live_or_needs_a_restart() -> None:
    restart = {name for name, key in keys().items() if key.restart}
    assert restart == RESTART.keys()
    assert keys().keys() - restart == LIVE.keys() | BY_FILES


@pytest.mark.parametrize("key", LIVE)
async def test_a_reload_changes_what_is_seen(autojump_clock: MockClock, key: str) -> None:
    case = LIVE[key]
    base = {name: value for name, value in BASE.items() if not (key == name and value == "off")}
    base = {**base, **case.base}
    wanted = settings_of({**BASE, **case.base})

    async def read() -> Settings:
        return wanted

    async with administered(wanted, Configuration(read)) as one:
        live = Live(one)
        assert await case.seen(live) == case.before
        await one.chat.wait_idle()
        wanted = settings_of({**base, key: case.value})
        result = await one.reload.reload()
        assert isinstance(result, Reloaded)
        assert key in result.changed
        assert result.restart == []
        assert await case.seen(live) == case.after


async def test_the_keys_of_tokens_are_read_again(autojump_clock: MockClock, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text(new_key())
    files = [str(old)]

    async def read() -> Settings:
        return settings_of(TOKENS | {"auth.key_files": files})

    async def load(settings: Settings) -> Loaded:
        return Loaded(load_keys(settings, {}), None)

    async with administered(await read(), Configuration(read, load)) as one:
        ann = await one.chat.client("ann", token=one.chat.token("ann"))
        # A key that is not there, or none: nothing changes.
        files[:] = [str(new), str(old)]
        with pytest.raises(SettingsError) as caught:
            await one.reload.reload()
        assert [fault.origin for fault in caught.value.faults] == [str(new)]
        new.write_text("nonsense")
        with pytest.raises(SettingsError):
            await one.reload.reload()
        await ann.say("still here")
        # The new key signs, and the old one still verifies.
        new.write_text(new_key())
        assert await one.reload.reload() == Reloaded(["auth.key_files"], [], [])
        bob = await one.chat.client("bob", token=one.chat.token("bob"))
        await ann.say("still here")
        # The same names with new content: users with a token of the old key are closed.
        old.write_text(new_key())
        assert await one.reload.reload() == Reloaded([], [], [])
        assert (await ann.lost()).code == 4502
        await bob.say("and so am I")


async def test_guests_are_closed_when_guests_are_turned_off(
    autojump_clock: MockClock,
) -> None:
    wanted = settings_of(TOKENS | {"auth.guests": True})

    async def read() -> Settings:
        return wanted

    async with administered(wanted, Configuration(read)) as one:
        guests = [await one.chat.client(f"guest{name}", name) for name in ("json", "text")]
        ann = await one.chat.client("ann", token=one.chat.token("ann"))
        wanted = settings_of(TOKENS)
        assert await one.reload.reload() == Reloaded(["auth.guests"], [], [])
        for guest in guests:
            assert (await guest.lost()).code == 4502
        await ann.say("I may be here")


@pytest.mark.parametrize("key", RESTART)
async def test_what_needs_a_restart_is_named_and_left(key: str) -> None:
    async def read() -> Settings:
        return settings_of({key: RESTART[key]})

    async with administered(configuration=Configuration(read)) as one:
        assert await one.reload.reload() == Reloaded([], [key], [])
        assert one.chat.daemon.settings == Settings()
        assert one.reload.restart == [key]
