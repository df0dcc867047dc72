"""Users whose ids are as identity providers make them: in direct messages, the store and rights."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from chatd import client
from chatd.admin.transfer import export_user, forget
from chatd.journal.retention import retention_of
from chatd.journal.sqlite import open_sqlite
from chatd.logs import now_ms, open_log
from chatd.protocol.pairs import other_of, pair_name, users_of
from chatd.settings import Auth, Chat, Settings
from chatd.testing import Harness, open_chat
from chatd.testing.recording import Recording

UUID = "f3a9c1de-7c0e-4f0d-9f3e-0c6a5c1f2b7d"
IDS = [
    UUID,
    "auth0|5f7c8ec7c33c6c004bbafe82",
    "ann@example.org",
    "CN=Ann, OU=Sales, O=Example",
    "100%",
    "%2C",
    ",",
    "@",
    " a b ",
    "https://idp.example.org/users/7?a=b#c",
    '"\\',
    "~" * 255,
]

SETTINGS = Settings(auth=Auth(mode="token", guests=True), chat=Chat(operators=(IDS[3],)))


@pytest.mark.parametrize("one", IDS)
@pytest.mark.parametrize("other", [UUID, "a,b", "z"])
def test_the_room_of_two_is_named_by_both(one: str, other: str) -> None:
    name = pair_name(one, other)
    assert name == pair_name(other, one)
    assert name.count(",") == 1
    assert sorted(users_of(name)) == sorted((one, other))
    assert (other_of(name, one), other_of(name, other)) == (other, one)


def test_plain_ids_are_written_as_they_are() -> None:
    assert pair_name("bob", UUID) == f"@bob,{UUID}"
    assert pair_name("x,y", "a") == "@a,x%2Cy"


@pytest.mark.parametrize("user", IDS)
async def test_any_user_talks_in_every_protocol(autojump_clock: MockClock, user: str) -> None:
    async with open_chat(SETTINGS) as chat:
        token = chat.token(user, nick="Zed")
        zed = await chat.client("zed", token=token)
        assert (zed.user, zed.chat.identity.op) == (user, user in SETTINGS.chat.operators)
        bob = await chat.client("bob", "socketio")
        tom = await chat.client("tom", "text", token=chat.token("tom,tom"))
        name = pair_name(user, bob.user or "")
        assert (await bob.say("one", room="@zed")).room == name
        assert (await zed.say("two", room=name)).room == name
        for one in (zed, bob):
            assert await one.texts(2) == ["one", "two"]
        await zed.chat.read(name, 2)
        [entry] = [room for room in await zed.chat.rooms() if room.room.startswith("@")]
        assert (entry.room, entry.nick, entry.read) == (name, "bob", 2)
        await tom.say("/msg zed psst")
        assert (await zed.next("message")).room == pair_name(user, "tom,tom")
        await tom.next("greeting")
        assert (await tom.next()).text == "tom -> zed: psst"
        # On another connection.
        second = await chat.client("zed", token=token)
        found = (await second.chat.history(name)).events
        assert [event.text for event in found if isinstance(event, client.Message)] == [
            "one",
            "two",
        ]


@pytest.mark.parametrize("user", IDS)
async def test_any_user_is_in_the_store(user: str, tmp_path: Path) -> None:
    recording = Recording()
    log = open_log(sink=recording)
    async with (
        open_sqlite(
            tmp_path / "chatd.db",
            durability="commit",
            now=now_ms,
            retention=retention_of(SETTINGS),
            runtime_dir=tmp_path,
            report=log.emit,
        ) as journal,
        open_chat(SETTINGS, journal=journal) as chat,
    ):
        ann = await chat.client("ann", token=chat.token(user))
        await chat.client("bob", token=chat.token("bo,b"))
        await ann.say("to all")
        await ann.say("to bob", room="@bob")
        lines = b"".join([piece async for piece in export_user(journal, user)])
        assert lines.count(b"\n") == 2
        await chat.daemon.chat.users.save()
        await forget(journal, user, chat.daemon.chat.bus.submit_and_wait)
        assert await journal.user(user) is None
        assert await journal.records("direct") == []


async def test_an_id_that_is_no_nick_gives_one(autojump_clock: MockClock) -> None:
    async with open_chat(SETTINGS) as chat:
        nicks: dict[str, str] = {}
        for user in IDS:
            async with client.connect(chat.dial, token=chat.token(user)) as one:
                nicks[user] = one.identity.nick or ""
        assert nicks[UUID].startswith("user-")
        assert nicks["ann@example.org"] == "ann"
        assert nicks["auth0|5f7c8ec7c33c6c004bbafe82"] == "auth0|5f7c8ec7c33c6c004bbafe82"
        assert nicks["CN=Ann, OU=Sales, O=Example"] == "CN-Ann-OU-Sales-O-Example"
        assert len(set(nicks.values())) == len(IDS)
        # The same again, and nobody else's.
        async with client.connect(chat.dial, token=chat.token(UUID)) as one:
            assert one.identity.nick == nicks[UUID]
        async with client.connect(chat.dial, nick=nicks[UUID]) as guest:
            assert guest.identity.nick != nicks[UUID]


@pytest.mark.parametrize("user", ["a b", "x,y", "k=v", "50%", "ann@example.org", UUID])
async def test_any_user_can_be_named_in_the_rules(autojump_clock: MockClock, user: str) -> None:
    written = user
    for character, code in (("%", "%25"), (" ", "%20"), (",", "%2C"), ("=", "%3D")):
        written = written.replace(character, code)
    rules = (f"news write={written},boss",)
    settings = Settings(auth=Auth(mode="token"), chat=Chat(rules=rules))
    async with open_chat(settings) as chat:
        one = await chat.client("one", token=chat.token(user), room="news")
        await one.say("allowed")
        other = await chat.client("other", token=chat.token("other"), room="news")
        with pytest.raises(client.Refused, match="forbidden"):
            await other.say("not allowed")


async def test_a_user_is_moderated_by_id(chat: Harness, autojump_clock: MockClock) -> None:
    async with open_chat(SETTINGS) as other:
        boss = await other.client("boss", token=other.token("boss", op=True))
        await other.client("eve", token=other.token("CN=Eve, O=x"))
        done = await boss.chat.ban(user="CN=Eve, O=x")
        assert (done.user, done.networks) == ("CN=Eve, O=x", None)
        with pytest.raises(client.Closed):
            await other.client("eve", token=other.token("CN=Eve, O=x"))
