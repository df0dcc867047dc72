"""Forgetting a user: nothing is left, and no secret brings a guest back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatd.journal.sqlite import open_sqlite
from chatd.logs import now_ms
from chatd.settings import Auth, Settings
from tests.admin.administered import Administered, administered
from tests.gateways.raw import Json, Raw, handshake, speak_json
from tests.gateways.test_recovery import come, hello, lose

DAY_SECONDS = 24 * 60 * 60


async def said(one: Administered, nick: str) -> tuple[str, str]:
    """Let a guest say something and leave; return the id and the session."""
    client = await speak_json(one.chat, f"/ws?nick={nick}")
    hello = await client.next()
    await client.do("join", room="lobby")
    await client.do("say", room="lobby", text="my words")
    await client.aclose()
    await one.chat.wait_idle()
    return hello["user"], hello["session"]


async def subject(one: Administered, user: str) -> Json:
    """Connect with a token."""
    client = await speak_json(one.chat)
    await client.next()
    assert "ok" in await client.do("auth", token=one.chat.token(user))
    return client


async def with_session(one: Administered, session: str) -> dict[str, Any]:
    client = await speak_json(one.chat)
    await client.next()
    answer = await client.do("auth", session=session)
    await client.aclose()
    return answer


async def test_a_forgotten_guests_session_is_refused_until_it_has_ended(
    autojump_clock: MockClock,
) -> None:
    async with administered() as one:
        user, session = await said(one, "ann")
        assert (await with_session(one, session))["ok"]["user"] == user
        await one.done("POST /forget", {"user": user})
        assert (await with_session(one, session))["error"]["code"] == "unauthorized"
        journal = one.chat.daemon.chat.journal
        (kept,) = await journal.records("forgotten")
        assert user not in kept.name
        assert kept.value == b""
        assert kept.until is not None
        await trio.sleep(29 * DAY_SECONDS)
        assert (await with_session(one, session))["error"]["code"] == "unauthorized"
        await trio.sleep(2 * DAY_SECONDS)
        assert await journal.records("forgotten") == []
        assert (await with_session(one, session))["error"]["code"] == "unauthorized"


async def test_a_guest_who_is_here_is_gone_at_once(autojump_clock: MockClock) -> None:
    async with administered() as one:
        bob = await one.chat.client("bob")
        ann = await speak_json(one.chat, "/ws?nick=ann")
        hello = await ann.next()
        await ann.do("join", room="lobby")
        await bob.next("joined")
        await one.done("POST /forget", {"user": hello["user"]})
        left = await bob.next("left")
        assert (left.nick, left.reason) == ("ann", "kicked")
        assert await bob.who("lobby") == ["bob"]
        assert (await with_session(one, hello["session"]))["error"]["code"] == "unauthorized"


async def test_a_guest_whose_connection_is_lost_is_gone_at_once(
    autojump_clock: MockClock,
) -> None:
    async with administered() as one:
        bob = await one.chat.client("bob")
        user, _ = await said(one, "ann")
        await one.done("POST /forget", {"user": user})
        assert await bob.who("lobby") == ["bob"]


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "connected"])
async def test_a_forgotten_guests_client_does_not_recover(
    autojump_clock: MockClock, lost: bool
) -> None:
    async with administered() as one:
        ann = await come(one.chat, nick="ann")
        user = (await hello(ann))["user"]
        await ann.call("chat message", "my words")
        if lost:
            await lose(one.chat, ann)
        await one.done("POST /forget", {"user": user})
        await one.chat.wait_idle()
        for _ in range(2):
            again = Raw(await one.chat.dial())
            await again.send(handshake("/socket.io/?EIO=4&transport=websocket"))
            await again.answer()
            await again.hear()
            await again.text(f"40{json.dumps({'pid': ann.pid, 'offset': ann.offset})}")
            refused = await again.hear()
            assert refused.startswith("44")
            assert json.loads(refused[2:])["data"]["code"] == "unauthorized"
            await again.aclose()
        for record in await one.chat.daemon.chat.journal.records("lost"):
            assert record.value == b""


async def test_a_subject_begins_anew_with_a_valid_token(autojump_clock: MockClock) -> None:
    settings = Settings(auth=Auth(mode="token", guests=True))
    async with administered(settings) as one:
        ann = await subject(one, "ann")
        await ann.do("join", room="lobby")
        await ann.do("say", room="lobby", text="my words")
        await ann.do("read", room="lobby", seq=1)
        await one.done("POST /forget", {"user": "ann"})
        again = await subject(one, "ann")
        joined = (await again.do("join", room="lobby"))["ok"]
        assert "read" not in joined or joined["read"] is None
        assert joined["events"][0]["user"] == "forgotten"


async def test_a_subjects_client_does_not_recover_but_begins_anew(
    autojump_clock: MockClock,
) -> None:
    async with administered(Settings(auth=Auth(mode="token", guests=True))) as one:
        token = one.chat.token("ann")
        ann = await come(one.chat, token=token)
        await hello(ann)
        await ann.call("chat message", "my words")
        await lose(one.chat, ann)
        await one.done("POST /forget", {"user": "ann"})
        again = await come(one.chat, ann, token=token)
        greeting = await hello(again)
        assert (greeting["user"], again.missed) == ("ann", [])
        assert again.sid != ann.sid


async def test_others_sanctions_and_conversations_hold_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    settings = Settings(auth=Auth(mode="token", guests=True))
    async with administered(settings) as one:
        chat = one.chat.daemon.chat
        bob = await subject(one, "bob")
        ann = await speak_json(one.chat, "/ws?nick=ann")
        user = (await ann.next())["user"]
        await ann.do("join", room="lobby")
        await ann.do("say", room="@bob", text="psst")
        room = (await bob.do("rooms"))["ok"]["rooms"][0]["room"]
        assert user in room
        await bob.do("read", room=room, seq=1)
        await one.done("POST /mute", {"nick": "ann", "room": "lobby"})
        await one.done("POST /forget", {"user": user})
        assert (await bob.do("rooms"))["ok"]["rooms"] == []
        assert (await one.done("GET /bans"))["bans"] == []
        journal = chat.journal
        for kind in ("ban", "mute", "direct", "mark", "lost"):
            for record in await journal.records(kind):
                assert user not in record.name
                assert user.encode() not in record.value
        assert await journal.head(room) is None
        assert await one.refused(f"GET /export?user={user}") == (404, "not_found")


async def test_a_networks_ban_stays_without_the_guests_name(autojump_clock: MockClock) -> None:
    async with administered() as one:
        client = await speak_json(one.chat, "/ws?nick=ann")
        user = (await client.next())["user"]
        chat = one.chat.daemon.chat
        for connection in chat.connections:
            connection.limit_key = "192.0.2.7"
        await one.done("POST /ban", {"nick": "ann"})
        await one.done("POST /forget", {"user": user})
        (held,) = (await one.done("GET /bans"))["bans"]
        assert (held["network"], held["nick"], held["user"]) == ("192.0.2.7/32", None, None)
        assert user not in json.dumps(held)
        assert chat.sanctions.ban("", "", "192.0.2.7", guest=True)


async def test_nothing_of_a_guest_is_in_the_files(tmp_path: Path) -> None:
    """On a real clock: the files are cleaned in a thread."""
    path = tmp_path / "chat.db"
    async with open_sqlite(path, now=now_ms) as journal, administered(journal=journal) as one:
        client = await speak_json(one.chat, "/ws?nick=zebedee")
        user = (await client.next())["user"]
        await client.do("join", room="lobby")
        await client.do("say", room="lobby", text="quagga")
        await client.do("read", room="lobby", seq=1)
        await one.done("POST /forget", {"user": user})
        await client.aclose()
    async with open_sqlite(path, now=lambda: now_ms() + 3_600_000) as journal:
        while await journal.index() is not None or await journal.sweep():
            pass
        files = b"".join(each.read_bytes() for each in tmp_path.iterdir())  # noqa: ASYNC240
        for trace in (user.encode(), b"zebedee", b"quagga"):
            assert trace not in files
