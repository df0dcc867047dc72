"""The harness's client for HTTP: requests, the stream, cuts, and the reader of event streams."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatd import client
from chatd.chat.moderation import moderate
from chatd.protocol import commands
from chatd.settings import Auth, Chat, Settings
from chatd.testing import Harness, open_chat, open_cluster
from chatd.testing.http import Block, EventStreamReader


async def test_a_script_and_people(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    ci = await chat.client("ci", protocol="http")
    assert (ci.nick, ci.room, ci.protocol) == ("ci", "lobby", "http")
    said = await ci.say("build 41 is green")
    message = await ann.next("message")
    assert (message.text, message.nick, message.user) == ("build 41 is green", "ci", ci.user)
    assert (await ci.next("message")).seq == said.seq
    await ann.say("thanks")
    assert await ci.texts(1) == ["thanks"]
    page = await ci.history()
    assert [event.text for event in page.events if isinstance(event, client.Message)] == [
        "build 41 is green",
        "thanks",
    ]
    assert (page.recovered, page.more, page.position) == (None, False, ci.position)
    rest = await ci.history(since=page.position)
    assert (list(rest.events), rest.recovered) == ([], True)
    assert (await ci.history(since="garbage", limit=1)).recovered is False
    assert [room.room for room in await ci.rooms()] == ["lobby"]


async def test_a_short_outage_loses_nothing(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    bob = await chat.client("bob", "http")
    await ann.say("one")
    assert await bob.texts(1) == ["one"]
    await chat.cut(bob)
    assert (await bob.lost()).code == 1006
    with pytest.raises(client.ConnectError):
        await bob.say("hm")
    await ann.say("two")
    await trio.sleep(600)
    await ann.say("three")
    await bob.reconnect()
    assert await bob.texts(2) == ["two", "three"]
    assert (await bob.next("lost")).on == "lost"
    assert bob.waiting() == []


async def test_it_stalls(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    bob = await chat.client("bob", "http")
    chat.stall(bob)
    await ann.say("one")
    await chat.wait_idle()
    assert bob.waiting() == []
    chat.unstall(bob)
    assert await bob.texts(1) == ["one"]


async def test_the_clock_is_virtual(chat: Harness, autojump_clock: MockClock) -> None:
    bob = await chat.client("bob", "http")
    await trio.sleep(61)
    assert bob.comments == 4


async def test_rooms(chat: Harness, autojump_clock: MockClock) -> None:
    ann = await chat.client("ann")
    bob = await chat.client("bob", "http", room=None)
    with pytest.raises(ValueError, match="bob is in no room"):
        await bob.say("hm")
    said = await bob.say("in the caf\u00e9", room="caf\u00e9/1")
    assert said.room == "caf\u00e9/1"
    await bob.join("caf\u00e9/1")
    assert await bob.texts(1) == ["in the caf\u00e9"]
    assert await ann.who("caf\u00e9/1") == ["bob"]
    await bob.join("lobby")
    await trio.sleep(11)
    assert await ann.who("lobby") == ["ann", "bob"]
    assert await ann.who("caf\u00e9/1") == []
    await bob.aclose()
    assert (await bob.lost()).code == 1000


async def test_the_end(chat: Harness, autojump_clock: MockClock) -> None:
    bob = await chat.client("bob", "http")
    kick = commands.Kick(nick="bob", reason="enough")
    await moderate(chat.daemon.chat, "console", kick)
    assert await bob.lost() == client.Ending(4500, "enough", reconnect=False, retry_ms=0)
    assert (await bob.next("bye")).reason == "enough"
    with pytest.raises(client.ConnectError, match="403") as refused:
        await bob.reconnect()
    assert (refused.value.status, refused.value.hopeless) == (403, True)
    with pytest.raises(client.Refused) as said:
        await bob.say("hm")
    assert said.value.code == "forbidden"
    await trio.sleep(61)
    await bob.reconnect()
    assert bob.retry == 2000


async def test_a_position_that_is_gone(chat: Harness, autojump_clock: MockClock) -> None:
    bob = await chat.client("bob", "http")
    await bob.say("one")
    assert await bob.texts(1) == ["one"]
    bob.position = "other.1"
    await bob.reconnect()
    reset = await bob.next("reset")
    assert isinstance(reset, client.Unknown)
    assert reset.fields["room"] == "lobby"
    assert await bob.texts(1) == ["one"]


async def test_another_epoch_brings_another_position(autojump_clock: MockClock) -> None:
    async with open_cluster(nodes=1) as cluster:
        ann = await cluster.nodes[0].client("ann", "http")
        bob = await cluster.nodes[0].client("bob")
        await bob.say("1")
        assert await ann.texts(1) == ["1"]
        before = ann.position
        cluster.kill_engine()
        cluster.start_engine()
        epoch = await ann.next("epoch")
        assert isinstance(epoch, client.Epoch)
        await cluster.wait_idle()
        assert ann.position == f"{epoch.epoch}.1" != before
        await ann.aclose()
        await bob.say("2")
        await ann.reconnect()
        assert await ann.texts(1) == ["2"]
        assert ann.waiting("reset") == []


async def test_any_node_answers(autojump_clock: MockClock) -> None:
    async with open_cluster(nodes=2) as cluster:
        one, two = [await node.client("ci", "http", room=None) for node in cluster.nodes]
        first = await one.say("1", room="lobby", key="k")
        again = await two.say("1", room="lobby", key="k")
        assert (again.seq, again.duplicate) == (first.seq, True)
        assert one.user == two.user
        await one.join("lobby")
        assert await one.texts(1) == ["1"]
        position = one.position
        await one.aclose()
        await two.say("2", room="lobby")
        page = await two.history("lobby", since=position)
        assert (page.recovered, len(page.events)) == (True, 1)


async def test_keys_and_tokens(autojump_clock: MockClock) -> None:
    settings = Settings(auth=Auth(mode="token"), chat=Chat(backlog=0))
    async with open_chat(settings) as chat:
        with pytest.raises(client.ConnectError, match="401"):
            await chat.client("bob", "http")
        bob = await chat.client("bob", "http", token=chat.token("bob"))
        first = await bob.say("one", key="k")
        assert (await bob.say("one", key="k")).duplicate
        assert (bob.user, first.seq) == ("bob", 1)


async def test_an_unreachable_daemon(chat: Harness, autojump_clock: MockClock) -> None:
    bob = await chat.client("bob", "http", room=None)

    async def broken() -> None:
        raise ConnectionRefusedError

    bob.plug._dial = broken  # type: ignore[assignment]
    with pytest.raises(client.ConnectError):
        await bob.join("lobby")
    with pytest.raises(client.ConnectError):
        await bob.history("lobby")


# ---- the reader

FIELDS = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1)


@given(
    st.lists(
        st.builds(Block, st.none() | FIELDS, st.none() | FIELDS, st.none() | st.integers(0)),
        max_size=5,
    ),
    st.data(),
)
def test_any_pieces_are_the_same_blocks(blocks: list[Block], data: st.DataObject) -> None:
    written = b""
    for block in blocks:
        fields = {"id": block.id, "data": block.data, "retry": block.retry}
        lines = [f"{name}: {value}\n" for name, value in fields.items() if value is not None]
        written += ("".join(lines) or ":\n").encode() + b"\n"
    reader, found = EventStreamReader(), []
    while written:
        size = data.draw(st.integers(1, len(written)))
        found += reader.feed(written[:size])
        written = written[size:]
    assert found == blocks
