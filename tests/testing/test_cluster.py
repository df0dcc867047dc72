"""Several daemons in memory, as users of chatd.testing have them."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from chatd import client
from chatd.settings import Auth, Limits, Settings
from chatd.testing import JsonClient, open_cluster


async def test_clients_of_all_daemons_share_a_room(autojump_clock: object) -> None:
    async with open_cluster(nodes=2) as cluster:
        ann = await cluster.nodes[0].client("ann")
        bob = await cluster.nodes[1].client("bob", "socketio")
        await ann.say("from the first")
        await bob.say("from the second")
        assert await ann.texts(2) == ["from the first", "from the second"]
        assert await bob.texts(2) == ["from the first", "from the second"]


async def test_a_client_goes_on_elsewhere_when_its_daemon_is_killed(autojump_clock: object) -> None:
    async with open_cluster(nodes=2) as cluster:
        one, two = cluster.nodes
        ann, bob = await one.client("ann"), await two.client("bob")
        await one.kill()
        await bob.say("are you there?")
        await cluster.move(ann, two)
        assert await ann.texts(1) == ["are you there?"]
        await one.start()
        await cluster.move(ann, one)
        await ann.say("yes")
        assert await bob.texts(2) == ["are you there?", "yes"]


async def test_a_daemon_without_its_engine_refuses(autojump_clock: object) -> None:
    async with open_cluster(nodes=2) as cluster:
        ann = await cluster.nodes[0].client("ann")
        bob = await cluster.nodes[1].client("bob")
        cluster.nodes[0].cut_off()
        began = trio.current_time()
        with pytest.raises(client.Refused, match="unavailable"):
            await ann.say("1", key="1")
        assert trio.current_time() - began <= 2.5
        await bob.say("2")
        assert ann.waiting("message") == []
        cluster.nodes[0].heal()
        assert await ann.texts(1) == ["2"]


async def test_an_engine_that_starts_again_has_another_epoch(autojump_clock: object) -> None:
    async with open_cluster(nodes=1) as cluster:
        ann = await cluster.nodes[0].client("ann")
        await ann.say("1")
        cluster.kill_engine()
        with pytest.raises(client.Refused, match="unavailable"):
            await ann.say("2", key="2")
        cluster.start_engine()
        await trio.sleep(2)
        assert (await ann.say("2", key="2")).epoch != ann.entered.epoch  # type: ignore[union-attr]
        assert await ann.texts(2) == ["1", "2"]


async def test_a_trimmed_feed_is_made_up_from_the_logs(autojump_clock: object) -> None:
    async with open_cluster(nodes=2) as cluster:
        ann = await cluster.nodes[0].client("ann")
        bob = await cluster.nodes[1].client("bob")
        cluster.nodes[0].cut_off()
        for text in "123":
            await bob.say(text)
        cluster.trim_feed()
        cluster.nodes[0].heal()
        assert await ann.texts(3) == ["1", "2", "3"]


async def test_an_engine_that_stops_goes_on_with_what_was_sent(autojump_clock: object) -> None:
    async with open_cluster(nodes=1) as cluster:
        ann = await cluster.nodes[0].client("ann")
        cluster.stall_engine()
        with pytest.raises(client.Refused, match="unavailable"):
            await ann.say("1", key="1")
        cluster.resume_engine()
        await trio.sleep(2)
        assert (await ann.say("1", key="1")).duplicate
        await cluster.wait_idle()
        assert await ann.texts(1) == ["1"]
        assert cluster.logged("store")


async def test_a_failover_closes_those_who_saw_what_it_lost(autojump_clock: object) -> None:
    async with open_cluster(nodes=2) as cluster:
        ann = await cluster.nodes[0].client("ann")
        bob = await cluster.nodes[1].client("bob")
        await ann.say("1")
        assert await bob.texts(1) == ["1"]
        cluster.cut_replicas()
        await ann.say("2")
        assert await bob.texts(1) == ["2"]
        assert await ann.texts(2) == ["1", "2"]
        cluster.fail_over()
        for one in (ann, bob):
            assert (await one.lost()).code == 1001
            await one.reconnect()
        assert await ann.texts(1) == await bob.texts(1) == ["1"]  # the true page
        await bob.say("3")
        assert await ann.texts(1) == ["3"]


async def test_a_failover_loses_nothing_that_a_replica_had_to_have(autojump_clock: object) -> None:
    async with open_cluster(nodes=2, replicas=1) as cluster:
        ann = await cluster.nodes[0].client("ann")
        bob = await cluster.nodes[1].client("bob")
        await ann.say("1")
        cluster.cut_replicas()
        with pytest.raises(client.Refused, match="unavailable"):
            await ann.say("2")
        cluster.fail_over(lose=5)
        cluster.heal_replicas()
        await trio.sleep(2)
        await bob.say("3")
        assert await ann.texts(2) == ["1", "3"]
        assert await bob.texts(2) == ["1", "3"]


async def test_a_former_primary_goes_on_until_it_is_demoted(autojump_clock: object) -> None:
    async with open_cluster(nodes=2) as cluster:
        ann = await cluster.nodes[0].client("ann")
        bob = await cluster.nodes[1].client("bob")
        cluster.fail_over(apart=cluster.nodes[:1])
        await ann.say("on the former one")
        await trio.sleep(10)
        await bob.say("on the new one")
        cluster.demote_engine()
        assert (await ann.lost()).code == 1001
        await ann.reconnect()
        assert await bob.texts(1) == ["on the new one"]
        [event] = (await ann.history()).events
        assert isinstance(event, client.Message)
        assert event.text == "on the new one"


async def test_a_user_at_two_daemons_has_one_limit(autojump_clock: object) -> None:
    limits = Limits(messages_per_second=1, messages_burst=5)
    settings = Settings(auth=Auth(mode="token"), limits=limits)
    async with open_cluster(settings, nodes=2) as cluster:
        token = cluster.nodes[0].token("ann")
        clients = [await node.client("ann", token=token) for node in cluster.nodes]
        said = 0

        async def say(one: JsonClient) -> None:
            nonlocal said
            with suppress(client.Refused):  # rate_limited
                await one.say("hello")
                said += 1

        for _ in range(200):  # 20 seconds
            async with trio.open_nursery() as nursery:
                for one in clients:
                    nursery.start_soon(say, one)
            await trio.sleep(0.1)
        assert 20 <= said <= 5 + 20 + 5  # each daemon lets a burst through, before it hears more
