"""Kick, ban, mute, slow, close: permissions, targets, evasion, and their end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.chat.moderation import MAX_SANCTIONS, moderate
from chatd.chat.pages import read_join_page
from chatd.chat.sanctions import Sanction, Sanctions
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.chat.user import ADDRESSES
from chatd.journal.memory import MemoryJournal
from chatd.model import BANNED, KICKED, Close, Operation, Refusal
from chatd.protocol import commands, events
from chatd.settings import Auth, Chat, Http, Settings
from tests.chat.room import Client, Room, Wall, open_room, perform, refusal, refused

KEYS = Keys(read_keys(new_key(symmetric=True).encode()))
SETTINGS = Settings(
    auth=Auth(mode="token", guests=True),
    chat=Chat(operators=("root",)),
    http=Http(trusted_proxies=("unix", "198.51.100.0/24")),
)
ADDRESS = "192.0.2.7"
EVERY = [
    commands.Kick(nick="eve"),
    commands.Ban(nick="eve"),
    commands.Unban(nick="eve"),
    commands.Mute(nick="eve"),
    commands.Unmute(nick="eve"),
    commands.Slow(room="lobby", seconds=1),
    commands.Close(room="lobby"),
]


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with open_room(SETTINGS, keys=KEYS) as room:
        yield room


@pytest.fixture
async def root(room: Room) -> Client:
    client = await room.subject("root")
    await client.join()
    return client


@pytest.fixture
async def eve(room: Room, root: Client) -> Client:
    client = room.client("eve", ADDRESS)
    await client.join()
    return client


@pytest.mark.parametrize("command", EVERY, ids=lambda command: type(command).__name__)
async def test_only_an_operator_may(room: Room, eve: Client, command: commands.Moderate) -> None:
    user = await room.subject("user")
    for client in (eve, user):
        assert refused(await client.do(command)) == "forbidden"
    noted = [line for name, line in room.log.records if name == "refused"]
    assert [line["code"] for line in noted] == ["forbidden"] * 2
    assert eve.closed == []
    assert len(room.chat.sanctions) == 0


async def test_each_action_is_in_the_log_with_its_operator(
    room: Room, root: Client, eve: Client
) -> None:
    await root.do(commands.Slow(room="lobby", seconds=1))
    await root.do(commands.Mute(room="lobby", nick="eve", seconds=60, reason="spam"))
    await root.do(commands.Unmute(room="lobby", nick="eve"))
    await root.do(commands.Kick(room="lobby", nick="eve"))
    await root.do(commands.Ban(nick="eve"))
    await root.do(commands.Unban(nick="eve"))
    await root.do(commands.Close(room="lobby"))
    acts = [(name, line) for name, line in room.log.records if "by" in line]
    names = ["slow", "mute", "unmute", "kick", "ban", "unban", "close"]
    assert [name for name, _ in acts] == names
    assert {line["by"] for _, line in acts} == {"root"}
    mute = acts[1][1]
    assert (mute["target"], mute["nick"]) == (eve.connection.user.id, "eve")
    assert (mute["room"], mute["seconds"], mute["reason"]) == ("lobby", 60, "spam")
    assert acts[4][1]["network"] == "192.0.2.7/32"


# ---- kick


async def test_a_kick_from_a_room(room: Room, root: Client, eve: Client) -> None:
    second = room.client()
    second.connection.switch_user(eve.connection.user)
    await second.join()
    done = await root.do(commands.Kick(room="Lobby", nick="EVE", reason="calm down"))
    assert done.user == eve.connection.user.id
    assert [(left.nick, left.reason) for left in root.told(events.Left)] == [("eve", "kicked")]
    for client in (eve, second):
        assert [left.reason for left in client.told(events.Left)] == ["kicked"]
        assert (
            client.told(events.Notice)[-1].text == "You were kicked from lobby by root: calm down"
        )
        assert client.connection.memberships == {}
        assert client.closed == []
    assert refused(await eve.say("x")) == "not_joined"
    assert refused(await eve.join()) is None


@pytest.mark.parametrize(
    ("act", "close", "how"),
    [(commands.Kick, KICKED, "kicked"), (commands.Ban, BANNED, "banned")],
)
async def test_a_user_kicked_from_the_chat_is_gone_at_once(
    root: Client, eve: Client, act: type[commands.Kick | commands.Ban], close: Close, how: str
) -> None:
    await root.do(act(nick="eve", reason="bye"))
    assert eve.closed == [(close, "bye")]
    assert root.closed == []
    assert [(left.nick, left.reason) for left in root.told(events.Left)] == [("eve", how)]
    members = (await root.do(commands.Who(room="lobby"))).members
    assert [member.nick for member in members] == ["root"]
    eve.close()
    assert len(root.told(events.Left)) == 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "bad_request"),
        ({"nick": "nobody"}, "not_found"),
        ({"nick": "*"}, "bad_request"),
        ({"user": "nobody"}, "not_found"),
        ({"nick": "root"}, "bad_request"),
        ({"nick": "other"}, "forbidden"),
        ({"nick": "eve", "room": "@x"}, "bad_request"),
        ({"nick": "eve", "reason": "x" * 600}, "too_large"),
    ],
)
async def test_invalid_targets_of_a_kick(
    room: Room, root: Client, eve: Client, fields: dict[str, Any], code: str
) -> None:
    await room.subject("other", op=True)
    assert refused(await root.do(commands.Kick(**fields))) == code
    assert eve.closed == []


# ---- ban


async def test_a_ban_meets_the_session_and_the_address(
    room: Room, root: Client, eve: Client, autojump_clock: MockClock
) -> None:
    secret = room.chat.users.session(eve.connection.user)
    assert secret is not None
    neighbour = room.client("neighbour", ADDRESS)
    colleague = await room.subject("colleague")
    done = await root.do(commands.Ban(nick="eve", seconds=3600, reason="enough"))
    assert (done.user, done.networks) == (eve.connection.user.id, ["192.0.2.7/32"])
    assert done.until is not None
    for client in (eve, neighbour):
        assert [close for close, _ in client.closed] == [BANNED]
        client.close()
    assert colleague.closed == root.closed == []
    banned = refusal(room.chat.check_may_enter, "", ADDRESS, None)
    assert banned is not None
    assert (banned.code, banned.message) == ("banned", "You are banned by root for 1 hour: enough")
    assert banned.retry_ms is not None
    assert 3_590_000 < banned.retry_ms <= 3_600_000
    # Elsewhere, with the old session.
    again = room.client("innocent", "203.0.113.9")
    assert refused(await again.do(commands.Auth(session=secret))) == "banned"
    assert [close for close, _ in again.closed] == [BANNED]
    assert again.connection.user.id != eve.connection.user.id
    # A subject keeps its identity, whatever its address.
    grant = room.chat.verify(room.token("colleague"))
    assert refusal(room.chat.check_may_enter, "colleague", ADDRESS, grant) is None
    assert refusal(room.chat.check_may_enter, "", "203.0.113.9", None) is None
    await trio.sleep(3601)
    assert refusal(room.chat.check_may_enter, "", ADDRESS, None) is None
    back = room.client(None, ADDRESS)
    assert refused(await back.do(commands.Auth(session=secret))) is None


async def test_a_ban_reaches_a_guest_who_has_just_left(
    room: Room, root: Client, eve: Client, autojump_clock: MockClock
) -> None:
    eve.close()
    await trio.sleep(1)
    listed = (await root.do(commands.Who(room="lobby"))).members
    assert [member.nick for member in listed] == ["eve", "root"]
    done = await root.do(commands.Ban(nick="eve"))
    assert done.networks == ["192.0.2.7/32"]
    assert refusal(room.chat.check_may_enter, "", ADDRESS, None) is not None


async def test_a_ban_reaches_the_addresses_of_the_last_minutes(
    room: Room, root: Client, autojump_clock: MockClock
) -> None:
    first = room.client("eve", "192.0.2.1")
    session = room.chat.users.session(first.connection.user)
    for address in ("192.0.2.1", "192.0.2.2", "2001:db8:1:2::/64"):
        client = room.client(None, address)
        await client.do(commands.Auth(session=session))
        await trio.sleep(550)
        client.close()
    first.close()
    here = room.client(None, "192.0.2.9")
    await here.do(commands.Auth(session=session))
    await trio.sleep(200)
    # The second one was left longer ago than nicks are held.
    done = await root.do(commands.Ban(nick="eve"))
    assert done.networks == ["192.0.2.1/32", "192.0.2.9/32", "2001:db8:1:2::/64"]
    assert [close for close, _ in here.closed] == [BANNED]


async def test_the_addresses_of_a_guest_are_few(room: Room, root: Client) -> None:
    session = room.chat.users.session(room.client("eve", "192.0.2.1").connection.user)
    for number in range(20):
        client = room.client(None, f"203.0.113.{number}")
        await client.do(commands.Auth(session=session))
        client.close()
    done = await root.do(commands.Ban(nick="eve"))
    assert done.networks is not None
    assert len(done.networks) == 1 + ADDRESSES
    assert {"192.0.2.1/32", "203.0.113.19/32"} <= set(done.networks)


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_ban_without_an_address_says_so(room: Room, root: Client, leaves: bool) -> None:
    # From this machine itself, where no limit by address applies.
    local = room.client("eve", "")
    if leaves:
        local.close()
    done = await root.do(commands.Ban(nick="eve"))
    assert (done.networks, len(room.chat.sanctions)) == ([], 1)
    acts = [line for name, line in room.log.records if name == "ban"]
    assert acts[0]["network"] == "none"
    # A user with a token is known without an address.
    await room.subject("ann", address="")
    assert (await root.do(commands.Ban(nick="ann"))).networks is None


async def test_a_mute_reaches_a_guest_who_has_just_left(
    room: Room, root: Client, eve: Client, autojump_clock: MockClock
) -> None:
    session = room.chat.users.session(eve.connection.user)
    eve.close()
    await trio.sleep(300)
    await root.do(commands.Mute(nick="eve"))
    back = room.client(None, "203.0.113.9")
    await back.do(commands.Auth(session=session))
    await back.join()
    assert refused(await back.say("hi")) == "muted"


class Refusing(MemoryJournal):
    """Refuses every operation about a network."""

    def _do(self, operation: Operation, at: int) -> Any:
        if "192.0.2.7/32" in repr(operation):
            return Refusal("unavailable", "The disk is full.")
        return super()._do(operation, at)


async def test_a_ban_is_imposed_whole_or_not_at_all() -> None:
    async with open_room(SETTINGS, Refusing(now=Wall()), KEYS) as room:
        root = await room.subject("root")
        eve = room.client("eve", ADDRESS)
        assert refused(await root.do(commands.Ban(nick="eve"))) == "unavailable"
        assert len(room.chat.sanctions) == 0
        assert await room.chat.journal.records("ban") == []
        assert eve.closed == []
        assert not [line for name, line in room.log.records if name == "ban"]


async def test_a_ban_outlives_the_process(autojump_clock: MockClock) -> None:
    journal = MemoryJournal(now=Wall())
    async with open_room(SETTINGS, journal, KEYS) as room:
        root = await room.subject("root")
        room.client("eve", ADDRESS)
        await root.do(commands.Ban(nick="eve"))
        await root.do(commands.Close(room="lobby"))
        again = Sanctions(room.chat.now)
        await again.load(journal, room.chat.damage)
        assert len(again) == 3
        assert again.ban("", "", ADDRESS, guest=True) is not None
        assert again.get("close", "lobby", "") is not None


async def test_a_ban_from_a_room(room: Room, root: Client, eve: Client) -> None:
    await eve.join("den")
    await root.do(commands.Ban(room="lobby", nick="eve", seconds=60))
    assert [left.reason for left in root.told(events.Left)] == ["banned"]
    assert set(eve.connection.memberships) == {"den"}
    assert eve.closed == []
    joined = await eve.join()
    assert refused(joined) == "banned"
    assert joined.retry_ms <= 60_000
    since = commands.Position(room.chat.journal.epoch, 0)
    assert refused(await eve.join(since=since)) == "banned"
    assert refused(await eve.do(commands.History(room="lobby"))) == "banned"
    newcomer = room.client("newcomer", ADDRESS)
    assert refused(await newcomer.join()) == "banned"
    assert refused(await newcomer.join("den")) is None
    await root.do(commands.Unban(room="lobby", nick="eve"))
    assert refused(await eve.join()) is None
    assert refused(await newcomer.join()) is None
    assert len(room.chat.sanctions) == 0


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (commands.Kick(room="den", nick="eve"), "forbidden"),
        (commands.Ban(room="den", nick="eve"), "banned"),
        (commands.Close(room="den"), "forbidden"),
    ],
    ids=["kick", "ban", "close"],
)
async def test_a_user_removed_during_a_join_is_not_in_the_room(
    room: Room,
    root: Client,
    eve: Client,
    command: commands.Moderate,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def removed_meanwhile(*args: Any, **options: Any) -> Any:
        page = await read_join_page(*args, **options)
        await root.do(command)
        return page

    await root.join("den")
    monkeypatch.setattr("chatd.chat.rules.rooms.read_join_page", removed_meanwhile)
    assert refused(await eve.join("den")) == code
    assert set(eve.connection.memberships) == {"lobby"}
    await root.say("hidden", room="den")
    assert eve.texts() == []


async def test_a_user_banned_while_a_join_waits_does_not_join(
    room: Room, root: Client, eve: Client
) -> None:
    await root.join("den")
    eve.stall()
    answers: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(perform, eve.connection, commands.Join(room="den"), answers.append)
        nursery.start_soon(perform, eve.connection, commands.History(room="den"), answers.append)
        await wait_all_tasks_blocked()
        await root.do(commands.Ban(room="den", nick="eve"))
        eve.read_on()
    assert [refused(answer) for answer in answers] == ["banned", "banned"]
    den = room.chat.rooms.get("den")
    assert den is not None
    assert list(den.members) == [root.connection.user]


async def test_a_subjects_ban_is_the_subjects_alone(room: Room, root: Client) -> None:
    ann = await room.subject("ann", address=ADDRESS)
    done = await root.do(commands.Ban(nick="ann"))
    assert done.networks is None
    assert [close for close, _ in ann.closed] == [BANNED]
    assert refusal(room.chat.check_may_enter, "", ADDRESS, None) is None
    client = room.client()
    assert refused(await client.do(commands.Auth(token=room.token("ann")))) == "banned"
    # By the id, when no user present has the nick any more.
    ann.close()
    assert refused(await root.do(commands.Unban(user="ann"))) is None
    client = room.client()
    assert refused(await client.do(commands.Auth(token=room.token("ann")))) is None


@pytest.mark.parametrize(
    ("network", "meets", "spares"),
    [
        ("192.0.2.0/24", "192.0.2.200", "192.0.3.1"),
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("2001:db8::7", "2001:db8::/64", "2001:db8:0:1::/64"),
        ("2001:db8::/32", "2001:db8:ffff::/64", "2001:db9::/64"),
        ("::ffff:192.0.2.9", "192.0.2.9", "192.0.2.8"),
    ],
)
async def test_a_network_is_banned(
    room: Room, root: Client, network: str, meets: str, spares: str
) -> None:
    met, spared = room.client("met", meets), room.client("spared", spares)
    done = await root.do(commands.Ban(network=network))
    assert len(done.networks) == 1
    assert [close for close, _ in met.closed] == [BANNED]
    assert spared.closed == []
    assert refusal(room.chat.check_may_enter, "", meets, None) is not None
    assert refusal(room.chat.check_may_enter, "", spares, None) is None
    # Everyone except operators.
    ann, chief = room.chat.verify(room.token("ann")), room.chat.verify(room.token("root"))
    assert refusal(room.chat.check_may_enter, "ann", meets, ann) is not None
    assert refusal(room.chat.check_may_enter, "root", meets, chief) is None
    assert refused(await root.do(commands.Unban(network=network))) is None
    assert refusal(room.chat.check_may_enter, "", meets, None) is None


@pytest.mark.parametrize(
    ("network", "code", "hint"),
    [
        ("127.0.0.1", "forbidden", "Loopback"),
        ("0.0.0.0/0", "forbidden", "Loopback"),
        ("::1", "forbidden", "Loopback"),
        ("198.51.100.7", "forbidden", "http.trusted_proxies"),
        ("198.51.0.0/16", "forbidden", "http.trusted_proxies"),
        ("everybody", "bad_request", "192.0.2.0/24"),
        ("", "bad_request", "192.0.2.0/24"),
    ],
)
async def test_what_network_is_not_banned(
    room: Room, root: Client, network: str, code: str, hint: str
) -> None:
    answer = await root.do(commands.Ban(network=network))
    assert (refused(answer), len(room.chat.sanctions)) == (code, 0)
    assert hint in answer.message


async def test_a_guest_on_loopback_is_banned_alone(room: Room, root: Client) -> None:
    near, other = room.client("near"), room.client("other")
    done = await root.do(commands.Ban(nick="near"))
    assert (done.networks, len(room.chat.sanctions)) == ([], 1)
    assert near.closed
    assert other.closed == []


async def test_the_number_of_sanctions_is_limited(
    room: Room, root: Client, autojump_clock: MockClock
) -> None:
    held = room.chat.sanctions.held
    for number in range(MAX_SANCTIONS - 2):
        sanction = Sanction("mute", "root", 0, user=str(number))
        held["mute", sanction.name] = sanction
    for last, seconds in ((1, 5), (2, None)):
        ban = commands.Ban(network=f"203.0.113.{last}", seconds=seconds)
        assert refused(await root.do(ban)) is None
    assert refused(await root.do(commands.Ban(network="203.0.113.3"))) == "forbidden"
    await trio.sleep(6)
    assert refused(await root.do(commands.Ban(network="203.0.113.3"))) is None


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), 1e12])
async def test_a_ban_has_a_time_or_none(root: Client, eve: Client, seconds: float) -> None:
    assert refused(await root.do(commands.Ban(nick="eve", seconds=seconds))) == "bad_request"
    assert refused(await root.do(commands.Unban(nick="eve"))) == "not_found"


# ---- mute


async def test_a_muted_user_cannot_send(
    room: Room, root: Client, eve: Client, autojump_clock: MockClock
) -> None:
    said = await eve.say("before")
    await eve.join("den")
    await root.do(commands.Mute(room="lobby", nick="eve", seconds=60, reason="spam"))
    assert eve.told(events.Notice)[-1].text == "You are muted in lobby by root for 1 minute: spam"
    for command in (
        commands.Say(room="lobby", text="x"),
        commands.Edit(room="lobby", seq=said.seq, text="x"),
        commands.Typing(room="lobby", on=True),
    ):
        answer = await eve.do(command)
        assert refused(answer) == "muted"
        assert answer.retry_ms <= 60_000
    assert refused(await eve.say("x", "den")) is None
    assert refused(await eve.do(commands.Delete(room="lobby", seq=said.seq))) is None
    await trio.sleep(61)
    assert refused(await eve.say("after")) is None


async def test_a_mute_everywhere_and_back(room: Room, root: Client, eve: Client) -> None:
    await root.do(commands.Mute(nick="eve"))
    await eve.do(commands.Nick(nick="not-eve"))
    for name in ("lobby", "@root"):
        assert refused(await eve.say("x", name)) == "muted"
    assert refused(await root.do(commands.Unmute(nick="eve"))) is None
    assert eve.told(events.Notice)[-1].text == "You are no longer muted."
    assert refused(await eve.say("x")) is None
    assert refused(await root.do(commands.Unmute(nick="eve"))) == "not_found"


async def test_a_lifted_mute_is_announced_if_the_user_may_send(
    room: Room, root: Client, eve: Client
) -> None:
    for where in (None, "lobby"):
        await root.do(commands.Mute(nick="eve", room=where))
    told = len(eve.told(events.Notice))
    await root.do(commands.Unmute(nick="eve", room="lobby"))
    assert len(eve.told(events.Notice)) == told  # muted everywhere still
    await root.do(commands.Mute(nick="eve", room="lobby"))
    await root.do(commands.Unmute(nick="eve"))
    await root.do(commands.Unmute(nick="eve", room="lobby", reason="sorry"))
    texts = [notice.text for notice in eve.told(events.Notice)]
    assert texts[-2:] == [
        "You are no longer muted, except in lobby.",
        "You are no longer muted in lobby: sorry",
    ]


# ---- slow, close


async def test_slow_mode(room: Room, root: Client, eve: Client, autojump_clock: MockClock) -> None:
    await root.do(commands.Slow(room="lobby", seconds=30))
    assert (
        eve.told(events.Notice)[-1].text
        == "Slow mode is on in lobby: one message every 30 seconds."
    )
    second = room.client()
    second.connection.switch_user(eve.connection.user)
    await second.join()
    assert refused(await eve.say("one")) is None
    answer = await second.say("two")
    assert (refused(answer), answer.retry_ms) == ("rate_limited", 30_000)
    for _ in range(3):
        assert refused(await root.say("operators may")) is None
    await trio.sleep(30)
    assert refused(await second.say("two")) is None
    await root.do(commands.Slow(room="lobby", seconds=0))
    assert refused(await eve.say("three")) is None
    assert refused(await root.do(commands.Slow(room="lobby", seconds=-1))) == "bad_request"


async def test_what_slow_mode_refuses_costs_nothing_else(
    room: Room, root: Client, eve: Client, autojump_clock: MockClock
) -> None:
    await root.do(commands.Slow(room="lobby", seconds=60))
    await eve.say("one")
    for _ in range(50):
        assert (await eve.say("more")).message == "This room is in slow mode."
    await eve.join("den")
    assert refused(await eve.say("elsewhere", "den")) is None


async def test_a_closed_room(
    room: Room, root: Client, eve: Client, autojump_clock: MockClock
) -> None:
    await eve.say("before")
    await root.do(commands.Close(room="lobby", seconds=60))
    assert [left.reason for left in eve.told(events.Left)] == ["kicked"]
    assert set(root.connection.memberships) == {"lobby"}
    for command in (commands.Join(room="lobby"), commands.History(room="lobby")):
        answer = await eve.do(command)
        assert refused(answer) == "forbidden"
        assert answer.retry_ms <= 60_000
    assert refused(await root.say("alone")) is None
    await trio.sleep(61)
    assert refused(await eve.join()) is None
    await root.do(commands.Close(room="lobby"))
    assert refused(await eve.join()) == "forbidden"
    await root.do(commands.Close(room="lobby", seconds=0))
    assert refused(await eve.join()) is None


async def test_the_console_acts_as_an_operator(room: Room, eve: Client) -> None:
    done = await moderate(room.chat, "console", commands.Kick(nick="eve"))
    assert isinstance(done, commands.Sanctioned)
    assert [line["by"] for name, line in room.log.records if name == "kick"] == ["console"]


async def test_a_store_that_does_not_take_it_has_no_ban(room: Room, root: Client) -> None:
    async def broken(operation: object) -> object:
        return Refusal("unavailable", "no")

    room.chat.bus.submit_and_wait = broken  # type: ignore[assignment,method-assign]
    room.client("eve", ADDRESS)
    assert refused(await root.do(commands.Ban(nick="eve"))) == "unavailable"
    assert len(room.chat.sanctions) == 0


def test_done_says_only_what_there_is() -> None:
    assert msgspec.json.encode(commands.Sanctioned()) == b"{}"
    assert None not in msgspec.to_builtins(commands.Sanctioned(user="u")).values()


# ---- the list


async def test_operators_list_what_is_in_force(room: Room, root: Client, eve: Client) -> None:
    assert refused(await eve.do(commands.Bans())) == "forbidden"
    assert refused(await root.do(commands.Bans(room="*"))) == "bad_request"
    assert await root.do(commands.Bans()) == commands.SanctionList([])
    user = eve.connection.user.id
    await root.join("Den")
    await root.do(commands.Slow(room="Den", seconds=5))
    await root.do(commands.Mute(nick="eve", seconds=60, reason="spam"))
    await root.do(commands.Ban(room="lobby", user=user))
    listed = await root.do(commands.Bans())
    assert [(one.kind, one.room, one.user, one.network) for one in listed.bans] == [
        ("ban", "lobby", None, "192.0.2.7/32"),
        ("ban", "lobby", user, None),
        ("mute", None, user, None),
        ("slow", "Den", None, None),
    ]
    mute = listed.bans[2]
    assert (mute.by, mute.nick, mute.reason, mute.seconds) == ("root", "eve", "spam", None)
    assert mute.until is not None
    in_den = await root.do(commands.Bans(room="DEN"))
    assert [(one.kind, one.seconds) for one in in_den.bans] == [("mute", None), ("slow", 5.0)]
    assert not in_den.more


async def test_a_list_of_bans_is_bounded(room: Room, root: Client) -> None:
    for number in range(501):
        room.chat.sanctions.add(Sanction("ban", by="root", at=number, user=f"user-{number}"))
    listed = await root.do(commands.Bans())
    assert listed.more
    assert [one.user for one in listed.bans] == [f"user-{500 - number}" for number in range(500)]
