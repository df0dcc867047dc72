"""The examples of the pages on Socket.IO and Engine.IO in docs/, run as they are."""

from __future__ import annotations

import pydoc
import re
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from chatd import engineio, socketio
from chatd.socketio.packets import PacketType
from tests.engineio.served import serve_handler, upgrade
from tests.socketio.client import Client, Stage, running, settled

DOCS: Final = Path(__file__).parents[2] / "docs"
# Another package's, to compare with.
FOREIGN: Final = "import socketio\n"


def run_examples(monkeypatch: pytest.MonkeyPatch, page: str, before: str = "\0") -> dict[str, Any]:
    """Execute a page's examples in one namespace, up to a heading; ``trio.run`` runs nothing."""
    monkeypatch.setattr(trio, "run", lambda *args: None)
    text = (DOCS / page).read_text().partition(before)[0]
    names: dict[str, Any] = {"__name__": "example"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "public").mkdir()
        monkeypatch.chdir(folder)
        for example in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            if not example.startswith(FOREIGN):
                exec(compile(example, page, "exec"), names)
        monkeypatch.undo()
    return names


@pytest.mark.parametrize("page", ["socketio.md", "socketio-migration.md", "engineio.md"])
def test_every_example_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_examples(monkeypatch, page)
    assert "io" in names or "server" in names


async def ask(client: Client, event: str, *args: Any, namespace: str = "/") -> Any:
    """Send an event, and return the arguments of its acknowledgement, which comes next."""
    await client.emit(event, *args, ack=7, namespace=namespace)
    packet = await client.packet()
    assert (packet.type, packet.id) == (PacketType.ACK, 7), packet
    return packet.data


async def pair(stage: Stage) -> tuple[Client, Client]:
    return await stage.joined(), await stage.joined()


async def test_the_handlers_do_what_the_page_says(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    io = run_examples(monkeypatch, "socketio.md", "## Shutting down")["io"]
    async with running(io) as stage:
        ann, bob = await pair(stage)
        first, second = io.fetch_sockets()
        # Events
        await ann.emit("move", 1, 2)
        assert await ann.event() == ["moved", {"x": 1, "y": 2, "by": first.id}]
        assert await ask(ann, "nothing like it", 1) == [
            {"error": "There is no event nothing like it."}
        ]
        # Acknowledgements
        assert await ask(ann, "add", 1, 2) == [3]
        assert await ask(ann, "divide", 7, 2) == [3, 1]
        assert await ask(ann, "forget") == []
        assert await ask(ann, "order", "soup") == [{"accepted": "soup"}]
        assert await ann.event() == ["served", "soup"]
        await ann.emit("ask me")
        question = await ann.packet()
        assert question.data == ["what is your name?", "please"]
        await ann.say(f'3{question.id}["ann"]')
        assert await ann.event() == ["hello", "ann"]
        await ann.emit("roll call", ack=7)
        for client in (ann, bob):
            question = await client.packet()
            assert question.data == ["are you there?"]
        await ann.say(f"3{question.id}[1]")
        answer = await ann.packet()
        assert answer.data == [{"here": [first.id], "missing": [second.id]}]
        # Rooms
        assert await ask(bob, "enter", "lobby") == [["lobby"]]
        assert await ask(ann, "enter", "lobby") == [["lobby"]]
        assert await bob.event() == ["entered", first.id]
        assert await ask(ann, "close room", "lobby") == [[None, None]]
        assert io.to("lobby").fetch_sockets() == []
        assert set(io.to("archive").fetch_sockets()) == {first, second}
        # Binary, volatile events
        assert await ask_after(ann, "upload", {"name": "a", "data": b"12345"}) == (
            ["stored", {"name": "a", "first": b"1234"}],
            [5],
        )
        await ann.emit("pointer", 3, 4)
        assert await bob.event() == ["pointer", first.id, 3, 4]
        # Middleware
        await ann.emit("chat message", "SHOUTED")
        await ann.emit("chat message", "said")
        assert await ann.event() == ["chat message", "said"]
        assert first._connection.data == {"address": "memory"}
        # Tasks of a client
        await ann.emit("watch", "clock")
        times = [await ann.event() for _ in range(3)]
        assert [time[:2] for time in times] == [["time", "clock"]] * 3
        assert times[2][2] - times[0][2] == pytest.approx(2)
        ann.cut()
        # Limits
        assert await bob.event() == ["chat message", "said"]
        await bob.emit("download", 20)
        parts = [await bob.event() for _ in range(20)]
        assert [part[1] for part in parts] == list(range(20))
    assert "a user connected" in capsys.readouterr().out


async def ask_after(client: Client, event: str, *args: Any) -> tuple[Any, Any]:
    """Send an event, and return the event that its handler sends, and the acknowledgement."""
    await client.emit(event, *args, ack=7)
    return await client.event(), (await client.packet()).data


async def test_the_namespaces_do_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    io = run_examples(monkeypatch, "socketio.md", "## Shutting down")["io"]
    async with running(io) as stage:
        client = await stage.joined()
        await client.say('0/admin,{"token":"wrong"}')
        refusal = await client.packet()
        assert refusal.data == {"message": "not authorized", "data": {"hint": "ask ann"}}
        await client.join("/admin", {"token": "s3cret"})
        assert await client.event() == ["admins", 1]
        await client.join("/game-1")
        assert await client.event() == ["players", "/game-1", 1]
        await client.join("/tenant-a", {"token": ""})
        assert await ask(client, "whoami", namespace="/tenant-a") == ["/tenant-a"]
        await client.say("0/nowhere,")
        assert (await client.packet()).data == {"message": "Invalid namespace"}


async def test_a_wrong_number_of_arguments_goes_to_the_error_handler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    io = run_examples(monkeypatch, "socketio.md", "## Shutting down")["io"]
    async with running(io) as stage:
        client = await stage.joined()
        await client.emit("add", 1)
        await settled()
    assert "in add TypeError" in capsys.readouterr().out


async def test_the_tests_of_the_page_pass(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_examples(monkeypatch, "socketio.md")["test_an_echo"](nursery)


async def test_the_test_with_a_virtual_clock_passes(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = run_examples(monkeypatch, "socketio.md")
    await names["test_a_silent_client_is_disconnected"](nursery, autojump_clock)


async def test_the_echo_of_engine_io(monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_examples(monkeypatch, "engineio.md")
    async with serve_handler(names["echo"]) as (_server, dial, _recording):
        client = dial()
        assert (await upgrade(client, "EIO=4&transport=websocket"))[0] == 101
        await client.hear()
        await client.text("4hello")
        assert await client.hear() == "4hello"


@pytest.mark.parametrize("package", [engineio, socketio])
def test_help_describes_every_public_name(package: ModuleType) -> None:
    text = pydoc.plain(pydoc.render_doc(package))
    for name in package.__all__:
        value = getattr(package, name)
        assert name in text
        if isinstance(value, type):
            assert value.__doc__, name
            methods = [value for key, value in vars(value).items() if not key.startswith("_")]
            assert all(method.__doc__ for method in methods if callable(method)), name
