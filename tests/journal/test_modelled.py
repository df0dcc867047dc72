"""The reference of an engine: users, nicks, members and leases at several nodes, and its faults."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from chatd.journal import Unavailable
from chatd.journal.engine import NICK_TAKEN, Fed, Holder, Lost, Node, Stale
from chatd.journal.modelled import ModelEngine, ModelStore
from chatd.model import (
    Arrive,
    Arrived,
    Claim,
    Depart,
    Drop,
    Enter,
    Entered,
    Exit,
    Exited,
    FeedEntry,
    Forget,
    Lease,
    Named,
    Operation,
    Outcome,
    Put,
    Record,
    RecordChanged,
    Take,
    Taken,
)
from tests.journal.nodes import NOW, closed_after, post, trio_now


class Client:
    """A node that numbers its batches."""

    def __init__(self, store: ModelStore) -> None:
        self.engine = ModelEngine(store)
        self.number = 0

    async def do(self, *batch: Operation) -> list[Outcome]:
        self.number += 1
        return await self.engine.commit(self.number, batch)

    async def one(self, operation: Operation) -> Outcome:
        [outcome] = await self.do(operation)
        return outcome


@pytest.fixture
def store() -> ModelStore:
    return ModelStore(trio_now)


@pytest.fixture
async def clients(store: ModelStore) -> tuple[Client, Client]:
    first, second = Client(store), Client(store)
    await first.engine.enter(None, 0, b"first")
    await second.engine.enter(None, 0, b"second")
    return first, second


async def items(client: Client) -> Sequence[FeedEntry | None]:
    """Return everything that the feed has."""
    fed = await client.engine.feed(0, lambda _room: True)
    return [one.entry for one in fed if isinstance(one, Fed)]


# ---- nicks


async def test_of_two_nicks_that_share_a_look_one_is_in_use(
    clients: tuple[Client, Client],
) -> None:
    first, second = clients
    await first.do(Arrive("u1", "g1"), Claim("u1", "ann", ("ann", "aun")))
    await second.do(Arrive("u2", "g2"))
    assert await second.one(Claim("u2", "Aun", ("aun",))) == NICK_TAKEN
    assert await second.one(Claim("u2", "bob", ("bob", "aun"))) == NICK_TAKEN
    assert await second.engine.holder("bob") is None  # all of the looks or none
    assert await second.one(Claim("u2", "bob", ("bob",))) is None
    assert await second.engine.holder("aun") == Holder("u1", "ann", present=True, subject=False)


async def test_another_nick_frees_the_former_and_is_news(clients: tuple[Client, Client]) -> None:
    first, second = clients
    await first.do(Arrive("u1", "g1"), Claim("u1", "ann", ("ann",)), Claim("u1", "eve", ("eve",)))
    await second.do(Arrive("u2", "ann"), Claim("u2", "ann", ("ann",)))
    assert await items(first) == [Named(1, "u1", "ann", "g1"), Named(2, "u1", "eve", "ann")]


async def test_the_nick_of_a_guest_who_left_is_held_for_a_while(
    clients: tuple[Client, Client], autojump_clock: MockClock
) -> None:
    first, second = clients
    hold_until = trio_now() + 10_000
    await first.do(Arrive("u1", "g1"), Claim("u1", "ann", ("ann",)), Depart("u1", hold_until))
    await second.do(Arrive("u2", "g2"))
    assert await second.one(Claim("u2", "ann", ("ann",))) == NICK_TAKEN
    assert await second.engine.holder("ann") == Holder("u1", "ann", present=False, subject=False)
    assert await second.one(Arrive("u1", "g1")) == Arrived(nick="ann")
    await second.do(Depart("u1", hold_until))
    await trio.sleep(10)
    assert await second.engine.holder("ann") is None
    assert await second.one(Claim("u2", "ann", ("ann",))) is None
    assert await first.one(Arrive("u1", "g1")) == Arrived()


async def test_a_subject_keeps_its_nick_against_guests_and_its_id_against_all(
    clients: tuple[Client, Client],
) -> None:
    first, second = clients
    ann = Claim("ann@x", "ann", ("ann",), subject=True, own=("ann@x",))
    await first.do(Arrive("ann@x", "ann", subject=True), ann, Depart("ann@x"))
    await second.do(Arrive("g", "g"), Arrive("bob", "bob", subject=True))
    assert await second.one(Claim("g", "ann", ("ann",))) == NICK_TAKEN
    assert await second.one(Claim("g", "x", ("ann@x",))) == NICK_TAKEN
    assert await second.one(Claim("bob", "x", ("ann@x",), subject=True)) == NICK_TAKEN
    assert await second.engine.holder("ann@x") == Holder("ann@x", "ann", False, True)
    assert await second.one(Claim("bob", "ann", ("ann",), subject=True)) is None
    assert await first.one(Arrive("ann@x", "ann-2", subject=True)) == Arrived()
    await first.do(Depart("ann@x"), Forget("ann@x"))
    assert await second.one(Claim("g", "x", ("ann@x",))) is None


async def test_a_user_takes_the_debt_along_and_learns_who_is_elsewhere(
    clients: tuple[Client, Client],
) -> None:
    first, second = clients
    assert await first.one(Arrive("u1", "n")) == Arrived()
    assert await second.one(Arrive("u1", "n")) == Arrived(elsewhere=True)
    await first.do(Depart("u1", None, b"not the last"))
    await second.do(Depart("u1", None, b"debt"), Depart("u1", None, b"again"))
    assert await first.one(Arrive("u1", "n")) == Arrived(debt=b"debt")
    assert await first.one(Arrive("u1", "n")) == Arrived()


# ---- members


async def test_members_are_counted_over_all_nodes(clients: tuple[Client, Client]) -> None:
    first, second = clients
    await first.do(Arrive("u1", "g1"), Claim("u1", "ann", ("ann",)))
    await first.do(Enter("r", "R", "u1", "g1"), Enter("r", "R", "u2", "bob", op=True))
    await second.do(Enter("r", "R", "u1", "g1", op=True))
    assert await second.engine.members("r") == [
        Entered(4, "r", "R", "u1", "ann", op=True, first=True, total=2),
        Entered(4, "r", "R", "u2", "bob", op=True, first=True, total=2),
    ]
    assert await second.engine.occupied() == {"r": ("R", 2)}
    await second.do(Exit("r", "u1", "leave"), Exit("r", "u1", "leave"), Exit("r", "u9", "leave"))
    await first.do(Exit("r", "u1", "kicked"), Exit("r", "u2", "leave"))
    assert (await items(first))[1:] == [
        Entered(2, "r", "R", "u1", "ann", op=False, first=True, total=1),
        Entered(3, "r", "R", "u2", "bob", op=True, first=True, total=2),
        Entered(4, "r", "R", "u1", "ann", op=True, first=False, total=2),
        Exited(5, "r", "u1", "ann", "leave", last=False, total=2),
        Exited(6, "r", "u1", "ann", "kicked", last=True, total=1),
        Exited(7, "r", "u2", "bob", "leave", last=True, total=0),
    ]
    assert await first.engine.members("r") == []
    assert await first.engine.occupied() == {}


# ---- records


async def test_only_records_that_nodes_hold_are_news(clients: tuple[Client, Client]) -> None:
    first, second = clients
    mark = Record("mark", "u\0r", b"3")
    await first.do(Put(Record("lost", "x", b"")), Arrive("u", "n"), Put(mark))
    assert await first.one(Put(Record("mute", "r\0u", b""))) is None
    await first.do(Drop("mute", "r\0u"))
    await second.do(Arrive("u", "n"), Put(mark))
    assert await items(first) == [
        RecordChanged(1, "mute", "r\0u", Record("mute", "r\0u", b"")),
        RecordChanged(2, "mute", "r\0u", None),
        RecordChanged(3, "mark", "u\0r", mark),
    ]


async def test_a_record_under_a_lease_ends_after_its_node(
    clients: tuple[Client, Client], autojump_clock: MockClock
) -> None:
    first, second = clients
    await first.do(Lease(Record("lost", "s1", b"1", 5), 60_000))
    await first.do(Lease(Record("lost", "s2", b"2"), 60_000), Put(Record("lost", "s2", b"3")))
    await trio.sleep(10)
    await second.engine.beat(b"")
    await trio.sleep(6)
    assert (await second.engine.records("lost"))[0] == Record("lost", "s1", b"1")
    assert not await second.engine.bury(0)
    until = trio_now() + 60_000
    assert await second.engine.records("lost") == [
        Record("lost", "s1", b"1", until),
        Record("lost", "s2", b"3"),
    ]
    await trio.sleep(5)
    assert await second.one(Take("lost", "s1")) == Taken(Record("lost", "s1", b"1", until))


# ---- nodes


async def test_a_dead_nodes_users_are_buried_in_chunks(
    clients: tuple[Client, Client], autojump_clock: MockClock
) -> None:
    first, second = clients
    users = [f"u{number:03}" for number in range(100)]
    await first.do(*(Arrive(user, user) for user in users))
    await first.do(*(Claim(user, user, (user,)) for user in users))
    await first.do(*(Enter("r", "R", user, user) for user in users))
    await second.do(Arrive("u000", "u000"), Enter("r", "R", "u000", "u000"))
    await trio.sleep(10)
    await second.engine.beat(b"second")
    await trio.sleep(6)
    assert await second.engine.nodes() == [Node(second.engine.node, trio_now() + 9_000, b"second")]
    assert await second.engine.bury(5_000)
    while await second.engine.bury(5_000):
        pass
    assert [one.user for one in await second.engine.members("r")] == ["u000"]
    assert await second.one(Claim("u000", "x", ("u001",))) == NICK_TAKEN
    await trio.sleep(6)
    assert await second.one(Claim("u000", "x", ("u001",))) is None
    with pytest.raises(Stale):
        await first.do(post("late"))
    with pytest.raises(Stale):
        await first.engine.beat(b"")


async def test_batches_are_done_once_and_in_order(clients: tuple[Client, Client]) -> None:
    first, _ = clients
    engine = first.engine
    done = await engine.commit(1, [post("1")])
    assert await engine.commit(1, [post("1")]) == done
    assert await engine.void(engine.node, 1) == done
    assert await engine.void(engine.node, 2) is None
    with pytest.raises(Unavailable, match="too late"):
        await engine.commit(2, [post("2")])
    with pytest.raises(Stale):
        await engine.commit(4, [post("4")])
    await engine.commit(3, [post("3")])
    with pytest.raises(Unavailable, match="too late"):
        await engine.commit(1, [post("1")])
    assert await engine.void(engine.node, 1) is None
    assert [event.text for event in await engine.read("r", 0, 9, 9)] == ["1", "3"]


async def test_a_former_epoch_ends_where_the_lives_part(store: ModelStore) -> None:
    client = Client(store)
    first = await client.engine.enter(None, 0, b"")
    await client.do(post("1"))
    await client.do(post("2"))
    store.restart()
    second = await client.engine.enter((2, f"{first.node}.2.0"), 2, b"")
    assert (second.lost, second.former, second.node) == (False, {first.epoch: 2}, first.node)
    store.restart(lose=2)  # the entry and the second batch
    third = await client.engine.enter((3, "-any.0"), 2, b"")
    assert third.lost
    assert third.node != first.node
    # The second epoch was lost with its beginning.
    assert third.former == {first.epoch: 1}


async def test_an_engine_without_a_link_says_so(store: ModelStore) -> None:
    engine = ModelEngine(store)
    with pytest.raises(Lost):
        await engine.head("r")
    store.kill()
    with pytest.raises(Lost, match="nothing listens"):
        await engine.enter(None, 0, b"")


def test_times_are_the_servers() -> None:
    store = ModelStore(lambda: NOW)

    async def main() -> None:
        client = Client(store)
        await client.engine.enter(None, 0, b"")
        store.jump_ms = 7_000
        await client.do(post("1"))
        store.jump_ms = 0
        await client.do(post("2"))
        times = [event.at for event in await client.engine.read("r", 0, 9, 9)]
        assert times == [NOW + 7_000, NOW + 7_000]

    trio.run(main)


# ---- replicas


async def test_nothing_is_read_that_too_few_replicas_have(autojump_clock: MockClock) -> None:
    store = ModelStore(trio_now, replicas=1)
    client = Client(store)
    await client.engine.enter(None, 0, b"")
    await client.do(post("1"))
    store.cut_replica(0)
    assert (await client.engine.head("r")) is not None  # the other one has it
    store.cut_replicas()
    async with closed_after(2, client.engine):
        with pytest.raises(Lost):
            await client.do(post("2"))
    with pytest.raises(Lost):
        await client.engine.enter(None, 0, b"")
    with pytest.raises(Lost):
        await client.engine.head("r")
    with pytest.raises(Lost):
        await client.engine.feed(0, lambda _room: True)
    store.heal_replicas()
    await client.engine.enter(None, 0, b"")
    assert len(await items(client)) == 2


async def test_a_replica_that_is_promoted_has_what_was_waited_for(
    autojump_clock: MockClock,
) -> None:
    for replicas, kept in ((1, 1), (0, 0)):
        store = ModelStore(trio_now, replicas=replicas)
        client = Client(store)
        await client.engine.enter(None, 0, b"")
        await client.do(post("1"))
        store.fail_over(lose=1)
        await client.engine.enter(None, 0, b"")
        assert len(await client.engine.read("r", 0, 9, 9)) == kept


async def test_two_servers_live_until_one_is_demoted(
    clients: tuple[Client, Client], store: ModelStore
) -> None:
    first, second = clients
    await first.do(post("1"))
    store.fail_over(apart=[first.engine])
    await first.do(post("2"))  # on its old link
    await first.engine.enter(None, 0, b"")  # and on a new one
    life = await second.engine.enter(None, 0, b"")
    await second.do(post("other 2"))
    assert [event.text for event in await first.engine.read("r", 0, 9, 9)] == ["1", "2"]
    store.demote()
    with pytest.raises(Lost):
        await first.engine.head("r")
    back = await first.engine.enter((3, f"{first.engine.node}.2.0"), 2, b"")
    assert (back.epoch, back.lost) == (life.epoch, True)
    assert [event.text for event in await first.engine.read("r", 0, 9, 9)] == ["1", "other 2"]
    store.fail_over()
    again = await first.engine.enter(None, 0, b"")
    assert again.former == {**back.former, back.epoch: again.position - 1}


async def test_an_entry_of_no_node_is_known_from_one_of_another_life(
    clients: tuple[Client, Client], store: ModelStore
) -> None:
    first, second = clients
    await second.do(Enter("r", "R", "u", "ann"))
    await second.engine.leave(0)
    await first.engine.bury(0)  # appends an entry
    await first.engine.bury(0)
    [_, buried] = await first.engine.feed(0, lambda _room: True)
    assert isinstance(buried, Fed)
    store.fail_over(lose=2)
    renewed = await second.engine.enter(None, 0, b"")
    assert renewed.position == buried.position
    assert (await first.engine.enter((buried.position, buried.origin), 0, b"")).lost


async def test_only_the_last_former_epochs_are_known(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatd.journal.modelled.state.FORMER_EPOCHS", 2)
    engine = ModelEngine(store)
    lives = []
    for _ in range(5):
        lives.append(await engine.enter(None, 0, b""))
        store.restart()
    assert lives[4].former == {lives[2].epoch: 2, lives[3].epoch: 3}
