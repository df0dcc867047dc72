"""Moderation from the console: the chat's own actions, logged as the console's."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from chatd import client
from tests.admin.administered import administered
from tests.gateways.raw import speak_json


async def test_a_kicked_user_may_return(autojump_clock: MockClock) -> None:
    async with administered() as one:
        ann, bob = await one.chat.client("ann"), await one.chat.client("bob")
        kick = {"nick": "bob", "room": "lobby", "reason": "enough"}
        assert await one.done("POST /kick", kick) == {"user": bob.user}
        assert (await ann.next("left")).reason == "kicked"
        await bob.join("lobby")
        await one.done("POST /kick", {"nick": "bob"})
        assert (await bob.lost()).code == 4500
        assert [fields["by"] for fields in one.chat.logged("kick")] == ["console"] * 2
        assert await one.refused("POST /kick", {"nick": "nobody"}) == (404, "not_found")
        assert await one.refused("POST /kick", {}) == (400, "bad_request")


async def test_a_ban_is_listed_and_lifted(autojump_clock: MockClock) -> None:
    async with administered() as one:
        bob = await one.chat.client("bob")
        ban = {"nick": "bob", "seconds": 3600.0, "reason": "spam"}
        banned = await one.done("POST /ban", ban)
        assert banned["user"] == bob.user
        assert (await bob.lost()).code == 4501
        (held,) = (await one.done("GET /bans"))["bans"]
        assert held["until"] == banned["until"]
        assert (held["kind"], held["nick"], held["user"], held["room"], held["by"]) == (
            *("ban", "bob", bob.user, None, "console"),
        )
        assert await one.done("POST /unban", {"nick": "bob"}) == {}
        assert (await one.done("GET /bans"))["bans"] == []
        assert await one.refused("POST /unban", {"nick": "bob"}) == (404, "not_found")
        assert await one.refused("POST /ban", {"network": "127.0.0.0/8"}) == (403, "forbidden")
        network = {"network": "192.0.2.0/24"}
        assert (await one.done("POST /ban", network))["networks"] == ["192.0.2.0/24"]


async def test_a_muted_user_cannot_send(autojump_clock: MockClock) -> None:
    async with administered() as one:
        bob = await one.chat.client("bob")
        await one.done("POST /mute", {"user": bob.user})
        with pytest.raises(client.Refused, match="muted"):
            await bob.say("hello")
        await one.done("POST /unmute", {"user": bob.user})
        await bob.say("hello")


async def test_rooms_are_slowed_and_shut(autojump_clock: MockClock) -> None:
    async with administered() as one:
        bob = await one.chat.client("bob")
        await one.done("POST /slow", {"room": "lobby", "seconds": 30})
        await bob.say("one")
        with pytest.raises(client.Refused, match="rate_limited"):
            await bob.say("two")
        await one.done("POST /slow", {"room": "lobby", "seconds": 0})
        await bob.say("three")
        await one.done("POST /close", {"room": "lobby"})
        assert {held["kind"] for held in (await one.done("GET /bans"))["bans"]} == {"close"}
        ann = await speak_json(one.chat)
        await ann.next()
        assert "error" in await ann.do("join", room="lobby")
        await one.done("POST /close", {"room": "lobby", "seconds": 0})
        assert "ok" in await ann.do("join", room="lobby")
