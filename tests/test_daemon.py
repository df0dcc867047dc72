"""How the daemon drains: in order, in time, and with nothing lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.client import Left
from chatd.daemon import Daemon, open_daemon
from chatd.journal.memory import MemoryJournal
from chatd.logs import open_log
from chatd.model import Operation, Outcome
from chatd.settings import Chat as ChatSettings
from chatd.settings import Drain, Limits, Settings
from chatd.testing import open_chat, open_cluster
from chatd.testing.recording import Recording
from chatd.wire.listener import open_listeners
from tests.gateways.raw import (
    Json,
    Raw,
    attach,
    attached_user,
    handshake,
    json_user,
    speak_json,
)

FAST = Limits(messages_per_second="off", messages_burst="off", bytes_per_second="off")


class Gated(MemoryJournal):
    """A store whose commits wait for ``gate``."""

    def __init__(self) -> None:
        super().__init__(now=lambda: 0)
        self.gate = trio.Event()
        self.gate.set()

    async def commit(self, batch: Sequence[Operation]) -> list[Outcome]:
        await self.gate.wait()
        return await super().commit(batch)


@asynccontextmanager
async def running(
    settings: Settings | None = None, journal: MemoryJournal | None = None
) -> AsyncIterator[tuple[Daemon, Recording]]:
    """Run a daemon for as long as the block; with its end it drains."""
    recording = Recording()
    async with open_daemon(
        settings or Settings(),
        journal=journal or MemoryJournal(now=lambda: 0),
        log=open_log(sink=recording, now=lambda: 0),
        now=lambda: 0,
    ) as running:
        yield running, recording


# ---- the drain


async def test_first_not_ready_then_no_listeners_then_goodbye(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.sock"
    async with open_chat(Settings(drain=Drain(delay_seconds=20))) as chat:
        chat.daemon.listen(open_listeners([f"unix:{path}"]))
        ann = await speak_json(chat)
        await ann.next()
        began = trio.current_time()

        async def look(seconds: float) -> tuple[int, bool]:
            await trio.sleep_until(began + seconds)
            status, _, _ = await Raw(await chat.dial()).ask("GET /readyz HTTP/1.1")
            return status, path.exists()

        assert await look(0) == (200, True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chat.daemon.drain)
            assert await look(1) == (503, True)
            # Clients that connect in that time are served.
            bob = await json_user(chat, "bob")
            assert await look(19) == (503, True)
        assert trio.current_time() == began + 20
        for client in (ann, bob):
            bye = await client.next()
            assert (bye["on"], bye["code"], bye["reconnect"]) == ("bye", 1001, True)
            assert await client.closed() == (1001, bye["reason"])
        assert not path.exists()
        (line,) = chat.logged("drain")
        assert (line["clients"], line["rooms"], line["seconds"]) == (1, 0, 10.0)


async def test_each_client_gets_its_own_time_to_reconnect(autojump_clock: MockClock) -> None:
    async with open_chat() as chat:
        clients = [await json_user(chat, f"n{number}", None) for number in range(30)]
        await chat.daemon.drain()
        waits = [(await client.next())["retry_ms"] for client in clients]
    assert all(200 <= wait < 1000 for wait in waits)
    assert len(set(waits)) > 15


async def test_who_comes_back_at_another_daemon_has_not_left(autojump_clock: MockClock) -> None:
    settings = Settings(chat=ChatSettings(presence_grace_seconds=10))
    async with open_cluster(settings, nodes=2) as cluster:
        one, two = cluster.nodes
        ann = await one.client("ann")
        bob = await two.client("bob")
        await two.client("eve")
        await ann.say("before")
        await bob.texts(1)
        await two.drain()
        await ann.say("meanwhile")
        await trio.sleep(8)
        assert ann.waiting("left") == []
        await cluster.move(bob, one)
        assert await bob.texts(1) == ["meanwhile"]
        await trio.sleep(20)
        [left] = ann.waiting("left")
        assert isinstance(left, Left)
        assert left.nick == "eve"
        assert await ann.who() == ["ann", "bob"]


async def test_clients_leave_one_by_one_while_the_store_is_away(autojump_clock: MockClock) -> None:
    async with open_cluster(nodes=1) as cluster:
        [node] = cluster.nodes
        for number in range(20):
            await node.client(f"n{number}")
        cluster.kill_engine()
        await trio.sleep(29)
        here = node.daemon.chat.connections
        assert len(here) == 20
        counts = []
        for _ in range(5):
            await trio.sleep(3)
            counts.append(len(here))
        assert counts == sorted(set(counts), reverse=True)  # some leave in every 3 seconds
        assert 5 < counts[-1] < 15
        cluster.start_engine()
        await trio.sleep(60)
        assert len(here) == counts[-1]  # the others stay
        assert {line["code"] for line in cluster.logged("disconnect")} == {1001}


async def test_nothing_to_wait_for_takes_no_time(autojump_clock: MockClock) -> None:
    async with running() as (one, recording):
        began = trio.current_time()
        await wait_all_tasks_blocked()
        fresh, kept = attach(one), Raw(attach(one))
        assert (await kept.ask("GET /healthz HTTP/1.1"))[0] == 200
        await wait_all_tasks_blocked()
    # Idle connections, never used and kept alive, hold nothing.
    assert trio.current_time() == began
    assert await fresh.receive_some() == b""
    assert await kept.rest() == b""
    assert [name for name, _ in recording.records] == ["drain"]


async def test_clients_that_answer_take_no_time(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with running() as (one, recording):
            for number in range(5):
                client = await attached_user(one, f"n{number}")
                nursery.start_soon(_until_the_end, client)
            began = trio.current_time()
        assert trio.current_time() == began
    gone = [fields for name, fields in recording.records if name == "disconnect"]
    assert [fields["code"] for fields in gone] == [1001] * 5


async def _until_the_end(client: Json) -> None:
    assert (await client.closed())[0] == 1001
    await client.aclose()


@pytest.mark.parametrize("seconds", [0, 1, 3, 10, 60])
async def test_a_client_that_never_reads_cannot_delay_it(
    autojump_clock: MockClock, seconds: float
) -> None:
    settings = Settings(limits=FAST, drain=Drain(seconds=seconds))
    async with running(settings) as (one, recording):
        ann, bob = await attached_user(one, "ann"), await attached_user(one, "bob", size=1000)
        for _ in range(10):
            await ann.do("say", room="lobby", text="x" * 10_000)
        half = attach(one)
        await half.send_all(b"GET / HTTP/1.1\r\nHost:")
        await wait_all_tasks_blocked()
        began = trio.current_time()
    took = trio.current_time() - began
    # A request's head and a closing handshake have their own deadlines too.
    assert took <= min(seconds, settings.limits.handshake_seconds)
    gone = {fields["nick"]: fields for name, fields in recording.records if name == "disconnect"}
    assert gone["bob"]["code"] == 1001
    del bob


async def test_what_waits_is_flushed_first(autojump_clock: MockClock) -> None:
    async with open_chat(Settings(limits=FAST)) as chat:
        ann, bob = await chat.client("ann"), await chat.client("bob")
        chat.stall(bob)
        for number in range(40):
            await ann.say(f"{number} " + "x" * 16_000)
        await chat.daemon.drain()
        chat.unstall(bob)
        texts = await bob.texts(40)
        assert [int((text or "").split()[0]) for text in texts] == list(range(40))
        assert (await bob.next("bye")).code == 1001
        assert (await bob.lost()).code == 1001


async def test_the_bus_commits_what_it_took(autojump_clock: MockClock) -> None:
    journal = Gated()
    async with trio.open_nursery() as nursery:
        async with running(journal=journal) as (one, recording):
            ann = await attached_user(one, "ann")
            journal.gate = trio.Event()
            for text in ("a", "b", "c"):
                await ann.text(f'{{"do":"say","id":"{text}","room":"lobby","text":"{text}"}}')
            await wait_all_tasks_blocked()
            nursery.start_soon(_until_the_end, ann)

            async def open_gate() -> None:
                await trio.sleep(2)
                journal.gate.set()

            nursery.start_soon(open_gate)
            began = trio.current_time()
        assert trio.current_time() == began + 2
    assert [event.text for event in await journal.read("lobby", 0, 9, 9)] == ["a", "b", "c"]
    assert [fields["seq"] for name, fields in recording.records if name == "message"] == [1, 2, 3]


async def test_a_store_that_hangs_cannot_hold_it(autojump_clock: MockClock) -> None:
    journal = Gated()
    async with running(Settings(drain=Drain(seconds=7)), journal) as (one, _):
        ann = await attached_user(one, "ann")
        journal.gate = trio.Event()
        await ann.text('{"do":"say","room":"lobby","text":"x"}')
        await wait_all_tasks_blocked()
        began = trio.current_time()
    assert trio.current_time() == began + 7
    assert await journal.read("lobby", 0, 9, 9) == []


async def test_all_present_users_are_saved(autojump_clock: MockClock) -> None:
    """More users than the bus takes at once, while its tender is saving them too."""
    journal = Gated()

    async def open_gate() -> None:
        await trio.sleep(8)
        journal.gate.set()

    async with (
        trio.open_nursery() as nursery,
        running(Settings(drain=Drain(seconds=60)), journal) as (one, _),
    ):
        journal.gate = trio.Event()
        nursery.start_soon(open_gate)
        for number in range(3000):
            await one.chat.new_guest("", f"n{number}")
        await trio.sleep(5)
        assert one.chat.bus.statistics().waiting == 1024
    assert len(await journal.present(0)) == 3000


async def test_a_cancellation_ends_it_at_once(autojump_clock: MockClock) -> None:
    journal = Gated()
    began = trio.current_time()
    lines: list[Recording] = []
    with trio.CancelScope() as scope:
        async with running(Settings(drain=Drain(seconds=60)), journal) as (one, recording):
            lines.append(recording)
            ann = await attached_user(one, "ann")
            journal.gate = trio.Event()
            await ann.text('{"do":"say","room":"lobby","text":"x"}')
            await wait_all_tasks_blocked()
            scope.cancel()
    assert trio.current_time() == began
    gone = [fields for name, fields in lines[0].records if name == "disconnect"]
    assert [fields["code"] for fields in gone] == [1001]


async def test_a_nick_is_held_across_a_restart(autojump_clock: MockClock) -> None:
    first = MemoryJournal(now=lambda: 0)
    async with running(journal=first) as (one, _):
        await attached_user(one, "ann")
    second = MemoryJournal(now=lambda: 0)
    second._users = first._users
    async with running(journal=second) as (one, _):
        guest = await one.chat.new_guest("", "ann")
        assert guest is not None
        assert guest.nick_notice == "The nick ann is taken. You are ann-2."


# ---- signals


async def test_a_request_begun_before_the_drain(autojump_clock: MockClock) -> None:
    """A WebSocket whose head was half here when the clients were sent away is refused."""
    settings = Settings(drain=Drain(seconds=60))
    async with running(settings) as (one, _):
        client = Raw(attach(one))
        head = handshake()
        await client.send(head[:20])
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.drain)
            await wait_all_tasks_blocked()
            await client.send(head[20:])
            status, headers, _ = await client.answer()
            assert (status, headers["retry-after"]) == (503, "1")
            assert await client.rest() == b""
