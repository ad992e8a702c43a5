"""Lookups of callers in the registry, over both transports."""

from __future__ import annotations

import asyncio

import pytest

from aegis.actors._lease import InstanceLoad
from aegis.errors import (
    NotFound,
    Unavailable,
)
from tests.actors.control_world import Play, World
from tests.support.poll import wait_until

pytestmark = pytest.mark.timeout(60)


def test_a_cached_lookup_asks_nobody_and_an_event_updates_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one = await world.instance("node-1", "acct-1")
        two = await world.instance("node-2", "acct-2")
        await one.register_resources("account", "acct-1", ["R-1"])
        directory = await world.directory()
        first = await directory.route("account", "R-1")
        assert directory.lookups == 1
        assert await directory.route("account", "R-1") is first
        assert directory.route_nowait("account", "R-1") is first
        assert directory.lookups == 1
        forced = await two.register_resources("account", "acct-2", ["R-1"], force=True)
        await wait_until(
            lambda: directory.routes["account", "R-1"].instance_id == "acct-2",
            what="the event reaches the directory",
        )
        assert directory.routes["account", "R-1"].epoch == forced.epochs["R-1"]
        assert directory.lookups == 1
        await two.release_resources("account", "acct-2", ["R-1"])
        await wait_until(lambda: not directory.routes, what="the release reaches it, too")
        with pytest.raises(NotFound):
            await directory.route("account", "R-1")

    play(scenario)


def test_concurrent_misses_are_one_lookup_and_misses_are_not_remembered(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        node = await world.instance("node-1", "acct-1")
        directory = await world.directory()
        results = await asyncio.gather(
            *[directory.route("account", "R-1") for _ in range(50)], return_exceptions=True
        )
        assert all(isinstance(result, NotFound) for result in results)
        assert directory.lookups == 1
        await node.register_resources("account", "acct-1", ["R-1"])
        assert (await directory.route("account", "R-1")).instance_id == "acct-1"
        assert directory.lookups == 2

    play(scenario)


def test_an_instance_that_left_is_not_offered_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        node = await world.member("node-1")
        for name in ("p-1", "p-2", "p-3"):
            await node.register("pricing", name)
        directory = await world.directory()
        found = await directory.instances("pricing")
        assert [provider.instance_id for provider in found] == ["p-1", "p-2", "p-3"]
        await node.unregister("pricing", "p-2")
        await world.wait_event("gone", instance_id="p-2")
        await wait_until(lambda: not directory.providers, what="the event reaches it")
        found = await directory.instances("pricing")
        assert [provider.instance_id for provider in found] == ["p-1", "p-3"]
        with pytest.raises(NotFound, match="no service 'risk'"):
            await directory.instances("risk")

    play(scenario)


def test_a_lookup_without_supervisors_is_unavailable(play: Play) -> None:
    async def scenario(world: World) -> None:
        directory = await world.directory()
        with pytest.raises(Unavailable):
            await directory.route("account", "R-1", timeout=0.2)

    play(scenario)


def test_every_candidate_answers_queries_even_for_what_was_registered_just_now(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        await world.leader("sup-1")
        others = [await world.candidate(f"sup-{index}") for index in (2, 3)]
        assert not any(other.leading for other in others)
        node = await world.instance("node-1", "acct-1")
        for index in range(30):
            await node.register_resources("account", "acct-1", [f"R-{index}"])
            reply = await world.ask(
                "resource.query", {"service_name": "account", "resource_id": f"R-{index}"}
            )
            assert reply["owner"] == "acct-1"

    play(scenario)


def test_a_query_waits_for_the_sequence_it_asks_for(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader("sup-1", query_wait=0.3)
        reply = await world.ask("service.query", {"min_sequence": 10**9})
        assert reply["code"] == 503
        known = (await world.ask("service.query", {}))["sequence"]
        assert (await world.ask("service.query", {"min_sequence": known + 1}))["success"] is True

    play(scenario)


def test_services_are_listed_with_queue_depth_and_leader(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        node = await world.member("node-1", load=lambda: {"acct-1": InstanceLoad(depth=7)})
        await node.register("account", "acct-1")

        async def depth() -> bool:
            reply = await world.ask("service.query", {})
            return bool(reply["services"][0]["instances"][0]["queue_depth"] == 7)

        await wait_until(depth, what="the beat's depth in the listing")
        reply = await world.ask("service.query", {"service_name": "account"})
        assert reply["leader"]["node_id"] == "sup-1"

    play(scenario)
