"""Flood control by address, and for requests."""

from __future__ import annotations

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from chatd.budgets import Bucket
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.protocol import commands
from chatd.settings import Auth, Chat, Limits, Settings
from tests.chat.room import Client, Room, open_room, refusal, refused

ADDRESS = "192.0.2.7"
LIMITS = replace(
    Limits(),
    messages_per_second="off",
    bytes_per_second="off",
    messages_per_second_per_address=2,
    messages_burst_per_address=10,
    requests_per_second=2,
    requests_burst=5,
)
KEYS = Keys(read_keys(new_key(symmetric=True).encode()))


async def say(client: Client, count: int) -> list[str | None]:
    return [refused(await client.say("x")) for _ in range(count)]


async def test_the_limit_of_an_address_holds_for_all_its_users(autojump_clock: MockClock) -> None:
    async with open_room(Settings(limits=LIMITS)) as room:
        ann, bob = room.client("ann", ADDRESS), room.client("bob", ADDRESS)
        near, far = room.client("near"), room.client("far", "198.51.100.1")
        for client in (ann, bob, near, far):
            await client.join()
        assert await say(ann, 6) == [None] * 6
        assert await say(bob, 5) == [None] * 4 + ["rate_limited"]
        refusal = await ann.say("x")
        assert (refusal.code, refusal.retry_ms) == ("rate_limited", 500)
        # Others are served, and loopback is not counted.
        assert await say(far, 10) == [None] * 10
        assert await say(near, 50) == [None] * 50
        await trio.sleep(0.5)
        assert await say(bob, 2) == [None, "rate_limited"]


async def test_going_and_coming_again_is_no_way_around(autojump_clock: MockClock) -> None:
    async with open_room(Settings(limits=LIMITS)) as room:
        ann = room.client("ann", ADDRESS)
        await ann.join()
        assert await say(ann, 10) == [None] * 10
        ann.close()
        await trio.sleep(1.1)
        again = room.client("again", ADDRESS)
        await again.join()
        assert await say(again, 3) == [None, None, "rate_limited"]
        again.close()
        await trio.sleep(60)
        assert len(room.chat.flood) == 0


@pytest.mark.parametrize(
    "debt", [b"x", b"\xff", b"{}", b"[1.5]", b"[-1]", b"[1" + b"0" * 400 + b"]"]
)
async def test_a_debt_that_cannot_be_read_is_no_debt(debt: bytes, room: Room) -> None:
    ann = room.client("ann")
    room.chat.flood.resume(ann.connection.user, debt)
    assert room.chat.flood.debt(ann.connection.user) == b""
    [(name, fields)] = [line for line in room.log.records if line[0] == "store"]
    assert (name, fields["state"]) == ("store", "damaged")


async def test_too_many_requests_have_to_wait(autojump_clock: MockClock) -> None:
    async with open_room(Settings(limits=LIMITS)) as room:
        ann = room.client("ann")
        asked = [
            commands.Join(room="lobby"),
            commands.History(room="lobby"),
            commands.Search(room="lobby", query="x"),
            commands.Who(room="lobby"),
            commands.Rooms(),
        ]
        assert [refused(await ann.do(command)) for command in asked] == [None] * 5
        for command in asked:
            refusal = await ann.do(command)
            assert (refusal.code, refusal.retry_ms) == ("rate_limited", 500)
        # Messages do not wait for it.
        assert await say(ann, 1) == [None]
        await trio.sleep(0.5)
        assert refused(await ann.join()) is None


async def test_operators_are_exempt_if_configured(autojump_clock: MockClock) -> None:
    for exempt in (True, False):
        settings = Settings(
            limits=replace(LIMITS, messages_per_second=1, operators_exempt=exempt),
            auth=Auth(mode="token"),
            chat=Chat(operators=("root",)),
        )
        async with open_room(settings, keys=KEYS) as room:
            root = await room.subject("root")
            await root.join()
            codes = [refused(await root.say("x")) for _ in range(25)]
            codes += [refused(await root.join()) for _ in range(6)]
            assert (set(codes) == {None}) is exempt


# ---- the token bucket


async def test_a_burst_then_a_rate(autojump_clock: MockClock) -> None:
    bucket = Bucket()
    assert [bucket.take(1, rate=2, burst=3) for _ in range(4)] == [0, 0, 0, 500]
    await trio.sleep(0.5)
    assert [bucket.take(1, rate=2, burst=3) for _ in range(2)] == [0, 500]
    await trio.sleep(100)
    assert [bucket.take(1, rate=2, burst=3) for _ in range(4)] == [0, 0, 0, 500]


async def test_an_amount_over_the_burst_needs_a_full_bucket_and_leaves_a_debt(
    autojump_clock: MockClock,
) -> None:
    bucket = Bucket()
    assert bucket.take(50, rate=10, burst=20) == 0
    assert bucket.take(1, rate=10, burst=20) == pytest.approx(3100, abs=1)


async def test_what_is_put_back_can_be_taken_again(
    autojump_clock: MockClock,
) -> None:
    bucket = Bucket()
    assert bucket.take(3, rate=1, burst=3) == 0
    bucket.put_back(1)
    assert [bucket.take(1, rate=1, burst=3) for _ in range(2)] == [0, 1000]


async def test_when_a_bucket_is_full(autojump_clock: MockClock) -> None:
    bucket = Bucket()
    assert bucket.full_in(rate=2, burst=10) == 0
    bucket.take(5, rate=2, burst=10)
    assert bucket.full_in(rate=2, burst=10) == 2.5
    await trio.sleep(1)
    assert bucket.full_in(rate=2, burst=10) == 1.5
    await trio.sleep(1.5)
    assert bucket.full_in(rate=2, burst=10) == 0


async def test_off_is_off(autojump_clock: MockClock) -> None:
    bucket = Bucket()
    assert bucket.take(1000, rate="off", burst=1) == 0
    assert bucket.take(1000, rate=1, burst="off") == 0
    assert bucket.full_in(rate="off", burst=1) == bucket.full_in(rate=1, burst="off") == 0


# ---- by address


PAGES = replace(
    LIMITS,
    requests_per_second="off",
    requests_per_second_per_address=2,
    requests_burst_per_address=10,
)


async def test_reads_of_the_store_are_limited_by_address(autojump_clock: MockClock) -> None:
    async with open_room(Settings(limits=PAGES)) as room:
        clients = [room.client(None, ADDRESS) for _ in range(8)]
        asked = [await client.do(commands.Rooms()) for client in clients]
        assert [refused(answer) for answer in asked] == [None] * 8
        # A search is as dear as five pages.
        refusal = await clients[0].do(commands.Search(room="lobby", query="x"))
        assert (refusal.code, refusal.retry_ms) == ("rate_limited", 1500)
        assert refused(await clients[1].do(commands.Rooms())) is None
        for near in (room.client("near"), room.client("far", "198.51.100.1")):
            assert refused(await near.do(commands.Rooms())) is None


async def test_guesses_of_tokens_are_limited_by_address(autojump_clock: MockClock) -> None:
    async with open_room(Settings(limits=PAGES, auth=Auth(mode="token")), keys=KEYS) as room:
        codes = [
            refused(await room.client(None, ADDRESS).do(commands.Auth(token="guess")))
            for _ in range(12)
        ]
        assert codes == ["unauthorized"] * 10 + ["rate_limited"] * 2


async def test_an_address_searches_once_at_a_time(autojump_clock: MockClock) -> None:
    async with open_room() as room:
        first, second = room.client("first", ADDRESS), room.client("second", ADDRESS)
        far, near = room.client("far", "198.51.100.1"), room.client("near")
        flood = room.chat.flood
        searching: list[str] = []

        async def search(client: Client) -> None:
            async with flood.searching(client.connection):
                searching.append(client.connection.user.nick.display)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for client in (first, second, far, near):
                nursery.start_soon(search, client)
            await trio.sleep(0.5)
            assert len(searching) == 3
            assert {"far", "near"} < set(searching)
            await trio.sleep(1)
            assert len(searching) == 4


async def test_new_guests_of_an_address_have_a_rate(autojump_clock: MockClock) -> None:
    limits = replace(LIMITS, new_guests_per_minute_per_address=60, connections_per_address=3)
    async with open_room(Settings(limits=limits)) as room:
        flood = room.chat.flood
        assert [refusal(flood.admit_guest, ADDRESS) for _ in range(3)] == [None] * 3
        told = refusal(flood.admit_guest, ADDRESS)
        assert told is not None
        assert (told.code, told.retry_ms) == ("rate_limited", 1000)
        assert [refusal(flood.admit_guest, "") for _ in range(100)] == [None] * 100
        assert refusal(flood.admit_guest, "198.51.100.1") is None
        await trio.sleep(1)
        assert refusal(flood.admit_guest, ADDRESS) is None
        await trio.sleep(60)
        assert len(flood) == 0


async def test_new_rooms_are_limited_by_user_and_by_address(autojump_clock: MockClock) -> None:
    limits = replace(
        PAGES,
        requests_per_second_per_address="off",
        new_rooms_per_minute=2,
        new_rooms_per_minute_per_address=3,
    )
    async with open_room(Settings(limits=limits)) as room:
        ann, bob = room.client("ann", ADDRESS), room.client("bob", ADDRESS)
        made = [refused(await ann.join(f"a{number}")) for number in range(11)]
        assert made == [None] * 10 + ["rate_limited"]
        made = [refused(await bob.join(f"b{number}")) for number in range(6)]
        assert made == [None] * 5 + ["rate_limited"]
        # Rooms that there are, and the default room, cost nothing.
        assert refused(await bob.join("a1")) is None
        assert refused(await bob.join("lobby")) is None
