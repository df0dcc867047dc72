from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from chatd.socketio import Broadcast, Socket
from chatd.socketio.packets import PacketType
from tests.socketio.client import Client, Stage, quiet, running, settled


async def three(stage: Stage) -> tuple[list[Client], list[Socket]]:
    """Connect three: the first in rooms a and b, the second in b, the third in c."""
    clients = [await stage.joined() for _ in range(3)]
    sockets = stage.io.fetch_sockets()
    for socket, rooms in zip(sockets, ("ab", "b", "c"), strict=True):
        socket.join(*rooms)
    return clients, sockets


async def test_audiences_are_rooms_and_exceptions() -> None:
    io, _ = quiet()
    async with running(io) as stage:
        _, (a, b, c) = await three(stage)
        assert io.fetch_sockets() == io.to().fetch_sockets() == [a, b, c]
        assert set(io.to("a", "b").fetch_sockets()) == {a, b}
        assert set(io.to("a").to("c").fetch_sockets()) == {a, c}
        assert io.to("a", "b").except_("a").fetch_sockets() == [b]
        assert io.except_("b").except_("nobody").fetch_sockets() == [c]
        assert io.to(b.id).fetch_sockets() == [b]
        assert io.to("nobody").fetch_sockets() == []
        assert a.to("b").except_(b.id).fetch_sockets() == []
        assert dict(io.sockets) == {a.id: a, b.id: b, c.id: c}
        # Narrowing leaves what was narrowed as it was.
        everybody = io.to("a")
        everybody.to("b")
        assert everybody.fetch_sockets() == [a]


async def test_an_emit_goes_to_each_of_them_once() -> None:
    io, _ = quiet()
    async with running(io) as stage:
        clients, _ = await three(stage)
        await io.to("a", "b").except_("c").emit("x", 1)
        await io.emit("end")
        assert [await clients[0].event() for _ in range(2)] == [["x", 1], ["end"]]
        assert [await clients[1].event() for _ in range(2)] == [["x", 1], ["end"]]
        assert await clients[2].event() == ["end"]


async def test_rooms_are_changed_for_all_of_them() -> None:
    io, _ = quiet()
    async with running(io) as stage:
        clients, (a, b, _) = await three(stage)
        io.to("b").sockets_join("d", "e")
        assert set(io.to("d").fetch_sockets()) == {a, b}
        io.sockets_leave("d")
        assert io.to("d").fetch_sockets() == []
        io.to("c").disconnect_sockets()
        assert (await clients[2].packet()).type is PacketType.DISCONNECT
        io.disconnect_sockets(close=True)
        for client in clients[:2]:
            assert (await client.packet()).type is PacketType.DISCONNECT
            await client.over.wait()
        assert not clients[2].over.is_set()
        assert io.fetch_sockets() == []


async def test_acknowledgements_are_gathered(autojump_clock: MockClock) -> None:
    io, _ = quiet(ack_timeout=9.0)
    async with running(io) as stage:
        clients, (a, b, c) = await three(stage)

        async def answer(client: Client, *args: str) -> None:
            packet = await client.packet()
            assert packet.data == ["q", b"bytes"]
            for arg in args:
                await client.say(f"3{packet.id}[{arg}]")

        stage.nursery.start_soon(answer, clients[1], "1", "2")
        await settled()
        connect_began = trio.current_time()
        answers = await io.to("a", "b").call("q", b"bytes")
        assert answers == [(b.id, 1)]
        assert answers.missing == (a.id,)
        assert trio.current_time() - connect_began == 9
        await clients[0].packet()

        stage.nursery.start_soon(answer, clients[0], "1,2")
        stage.nursery.start_soon(answer, clients[1])
        stage.nursery.start_soon(answer, clients[2], "")

        async def leave() -> None:
            await trio.sleep(1)
            clients[1].cut()

        stage.nursery.start_soon(leave)
        connect_began = trio.current_time()
        answers = await io.timeout(5).call("q", b"bytes")
        assert sorted(answers) == sorted([(a.id, (1, 2)), (c.id, None)])
        assert answers.missing == (b.id,)
        assert trio.current_time() - connect_began == 1
        assert await io.to("nobody").call("q") == []
        assert all(not socket._replies for socket in (a, b, c))


async def test_a_call_without_a_turn_gets_no_answers(
    autojump_clock: MockClock,
) -> None:
    io, _ = quiet()
    async with running(io) as stage:
        _, (a, b, c) = await three(stage)
        turn = io._main.delivery.lock

        async def hold() -> None:
            async with turn:
                await trio.sleep(10)

        stage.nursery.start_soon(hold)
        await settled()
        answers = await io.timeout(1).call("q")
        assert answers == []
        assert set(answers.missing) == {a.id, b.id, c.id}


async def test_volatile_events_go_to_clients_with_an_empty_queue() -> None:
    io, _ = quiet()
    async with running(io) as stage:
        (first, second, _), (a, b, _) = await three(stage)
        await settled()
        second.stall()
        await settled()
        await b.emit("waits")
        waiting = b.session.waiting
        await io.volatile.to("b").emit("v", 1)
        await b.volatile.emit("v", 2)
        assert b.session.waiting == waiting
        await a.volatile.timeout(3).emit("v", 3)
        assert await first.event() == ["v", 1]


@pytest.mark.parametrize("size", [1, 1000])
async def test_emits_of_many_tasks_are_seen_in_one_order(size: int) -> None:
    io, _ = quiet()
    async with running(io) as stage:
        clients = [await stage.joined() for _ in range(5)]

        async def speak(number: int) -> None:
            for count in range(20):
                await io.emit("x", number, count, "x" * size)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(speak, number)
        seen = [[(await client.event())[1:3] for _ in range(100)] for client in clients]
        assert all(each == seen[0] for each in seen)
        for number in range(5):
            assert [count for who, count in seen[0] if who == number] == list(range(20))


def test_the_generic_form_is_deprecated() -> None:
    with pytest.deprecated_call():
        assert Broadcast["Socket"] is Broadcast  # type: ignore[misc]
