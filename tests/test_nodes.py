"""What a daemon warns of that shares its store with others, and what they know of each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd import service
from chatd.chat.token_keys import new_key, read_keys
from chatd.chat.tokens import Keys
from chatd.journal.shared import WATCH_SECONDS
from chatd.nodes import NodeFacts, facts_of
from chatd.settings import Auth, Chat, History, Limits, Settings
from chatd.systemd import Notifier
from chatd.testing import Cluster, open_cluster
from tests.admin.administered import AdministeredDaemon


async def warnings(cluster: Cluster) -> list[str]:
    """Return what all nodes have warned of after the next two looks at the store."""
    await trio.sleep(2 * WATCH_SECONDS + 10)
    return [fields["detail"] for fields in cluster.logged("warning")]


async def test_nodes_that_are_well_warn_of_nothing(autojump_clock: MockClock) -> None:
    async with open_cluster(nodes=2) as cluster:
        assert await warnings(cluster) == []


async def test_a_memory_that_fills_is_warned_of_once_each_time(autojump_clock: MockClock) -> None:
    async with open_cluster(nodes=1) as cluster:
        cluster.store.memory, cluster.store.memory_limit = 79, 100
        assert await warnings(cluster) == []
        cluster.store.memory = 83
        [warning] = await warnings(cluster)
        assert "83% of its maxmemory" in warning
        cluster.store.memory = 50
        assert len(await warnings(cluster)) == 1
        cluster.store.memory = 90
        assert len(await warnings(cluster)) == 2


@pytest.mark.parametrize(("jump_ms", "where"), [(1500, "behind"), (-1500, "ahead of")])
async def test_a_clock_that_differs_from_the_stores_is_warned_of(
    autojump_clock: MockClock, jump_ms: int, where: str
) -> None:
    async with open_cluster(nodes=1) as cluster:
        cluster.store.jump_ms = jump_ms
        [warning] = await warnings(cluster)
        assert f"1.5 s {where} that of the store's server" in warning
        cluster.store.jump_ms = 900
        assert len(await warnings(cluster)) == 1


@pytest.mark.parametrize(
    ("settings", "section"),
    [
        (Settings(chat=Chat(operators=("ann",))), "[chat]"),
        (Settings(limits=Limits(messages_per_second=1)), "[limits]"),
        (Settings(history=History(keep_days=1), auth=Auth(session_days=1)), "[auth] and [history]"),
    ],
)
async def test_a_node_with_another_configuration_is_warned_of(
    autojump_clock: MockClock, settings: Settings, section: str
) -> None:
    async with open_cluster(nodes=2) as cluster:
        cluster.nodes[1].daemon.apply(settings)
        both = await warnings(cluster)
        assert len(both) == 2
        assert all(f"differs from this one's in {section}: give all" in each for each in both)


async def test_a_node_with_other_keys_of_tokens_is_warned_of(autojump_clock: MockClock) -> None:
    async with open_cluster(nodes=2) as cluster:
        secret = new_key(symmetric=True)
        cluster.nodes[1].daemon.chat.use_keys(Keys(read_keys(secret.encode())))
        both = await warnings(cluster)
        assert len(both) == 2
        assert all("differs from this one's in [auth]: give all" in each for each in both)


async def test_what_depends_on_the_machine_may_differ(autojump_clock: MockClock) -> None:
    async with open_cluster(nodes=2) as cluster:
        settings = Settings(
            limits=Limits(connections=17), history=History(url="redis://elsewhere.example")
        )
        cluster.nodes[1].daemon.apply(settings)
        assert await warnings(cluster) == []


async def test_a_node_of_another_version_is_not_compared(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cluster(nodes=2) as cluster:
        cluster.nodes[1].daemon.apply(Settings(chat=Chat(operators=("ann",))))
        journal = cluster.nodes[1].daemon.chat.journal
        facts = journal.facts  # type: ignore[attr-defined]
        newer = lambda: facts().replace(b'"version":"', b'"version":"9')  # noqa: E731
        monkeypatch.setattr(journal, "facts", newer)
        await warnings(cluster)
        assert cluster.nodes[0].logged("warning") == []


def test_facts_of_another_version_may_lack_some_or_have_more() -> None:
    known = NodeFacts("1", "chat1", 3)
    assert facts_of(b'{"version":"1","host":"chat1","clients":3,"more":1}') == known
    assert facts_of(b"") is None
    assert facts_of(b'{"version":1}') is None
    assert replace(known, lag=0).lag == 0


# ---- what operators see of it


@asynccontextmanager
async def first_of(cluster: Cluster) -> AsyncIterator[AdministeredDaemon]:
    async with trio.open_nursery() as nursery:
        yield AdministeredDaemon(cluster.nodes[0].daemon, nursery)
        nursery.cancel_scope.cancel()


async def test_nodes_are_listed_with_their_facts(autojump_clock: MockClock) -> None:
    async with open_cluster(nodes=2) as cluster, first_of(cluster) as one:
        await cluster.nodes[0].client("ann")
        cluster.store.jump_ms = -250
        await trio.sleep(12)  # two signs of life: the second one has the new clock
        nodes = (await one.done("GET /nodes"))["nodes"]
        assert sorted(node["here"] for node in nodes) == [False, True]
        [here] = [node for node in nodes if node["here"]]
        assert (here["clients"], here["lag"], here["lost_positions"]) == (1, 0, 0)
        assert here["clock_seconds"] == 0.25
        assert here["proof_seconds"] is None
        assert {node["epoch"] for node in nodes} == {cluster.nodes[0].daemon.chat.journal.epoch}


async def test_a_node_is_known_as_soon_as_it_runs(autojump_clock: MockClock) -> None:
    async with open_cluster(nodes=1) as cluster, first_of(cluster) as one:
        await wait_all_tasks_blocked()
        [node] = (await one.done("GET /nodes"))["nodes"]
        assert node["version"] is not None
        assert trio.current_time() == 0


async def status_for_systemd(cluster: Cluster, one: AdministeredDaemon) -> list[str]:
    told = Told()
    async with trio.open_nursery() as nursery:
        daemon = cluster.nodes[0].daemon
        nursery.start_soon(service._report_status, daemon, one.reload, told)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return told.said


class Told(Notifier):
    """A service manager that records the status."""

    def __init__(self) -> None:
        super().__init__({})
        self.said: list[str] = []

    def status(self, text: str) -> bool:
        self.said.append(text)
        return True


async def test_why_the_store_cannot_be_used_is_said_everywhere(autojump_clock: MockClock) -> None:
    async with open_cluster(nodes=1) as cluster, first_of(cluster) as one:
        why = "it has no append-only file: set appendonly to yes"
        cluster.store.unfit = why
        await trio.sleep(WATCH_SECONDS + 1)
        code, _, body = await one.raw("GET /readyz")
        assert (code, body.decode()) == (503, f"{why}\n")
        told = await one.done("GET /status")
        assert (told["state"], told["store"]["problem"]) == ("unavailable", why)
        [status] = await status_for_systemd(cluster, one)
        assert status.endswith(f"turned away, because the store cannot be used: {why}")
        public = one.dial(cluster.nodes[0].daemon.server)
        code, _, body = await public.ask("GET /readyz HTTP/1.1")
        assert (code, body.decode()) == (503, "the server cannot reach its store\n")
        assert [fields["detail"] for fields in cluster.logged("store")] == [why]
        cluster.store.unfit = None
        await trio.sleep(2)
        assert (await one.raw("GET /readyz"))[0] == 200
        assert (await one.done("GET /status"))["store"]["problem"] is None
