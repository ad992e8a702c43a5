"""Registration, and what becomes of those who registered, over both transports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgpack
import pytest

from aegis.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    NotOwner,
    TooManyResources,
    Unavailable,
)
from tests.actors.control_world import LEASE, Listener, Play, World
from tests.support.poll import wait_until

pytestmark = pytest.mark.timeout(60)


# -- registration -----------------------------------------------------------------------


def test_a_node_registers_and_is_covered_and_found(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        listener = Listener()
        node = await world.member("node-1", listener=listener)
        await node.register("account", "acct-1", metadata={"zone": "a"})
        found = await node.register_resources("account", "acct-1", ["R-1", "R-2"])
        assert found.registered == ["R-1", "R-2"]
        await node.wait_covered("account", "R-1", found.epochs["R-1"], timeout=5)
        assert node.covers("account", "R-1", found.epochs["R-1"])
        assert not node.covers("account", "R-1", found.epochs["R-2"])
        assert listener.covered == {("account", n): e for n, e in found.epochs.items()}
        directory = await world.directory()
        route = await directory.route("account", "R-2")
        assert (route.instance_id, route.node_id) == ("acct-1", "node-1")
        assert route.epoch == found.epochs["R-2"]
        assert [p.instance_id for p in await directory.instances("account")] == ["acct-1"]

    play(scenario)


def test_registration_waits_for_a_leader_and_then_succeeds(play: Play) -> None:
    async def scenario(world: World) -> None:
        node = await world.member("node-1")
        registering = asyncio.create_task(node.register("account", "acct-1", timeout=15))
        await wait_until(lambda: node.lease.valid_until < 0, what="no lease")
        await world.leader()
        assert (await registering)["success"] is True

    play(scenario)


def test_registration_without_a_leader_is_unavailable_at_its_deadline(play: Play) -> None:
    async def scenario(world: World) -> None:
        node = await world.member("node-1")
        with pytest.raises(Unavailable, match="no answer within"):
            await node.register("account", "acct-1", timeout=0.3)

    play(scenario)


def test_an_instance_id_alive_on_another_node_is_a_conflict(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one, two = await world.member("node-1"), await world.member("node-2")
        await one.register("account", "acct-1")
        with pytest.raises(Conflict) as caught:
            await two.register("account", "acct-1")
        assert caught.value.facts["holder"] == "node-1"
        # From the same process it is no conflict.
        assert (await one.register("account", "acct-1"))["success"] is True

    play(scenario)


def test_an_instance_id_of_a_dead_process_is_taken_over(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one, two = await world.member("node-1"), await world.member("node-2")
        await one.register("account", "acct-1")
        held = await world.own(one, "acct-1", "R-1")
        lease_end = one.lease.valid_until
        await one.stop()
        await two.register("account", "acct-1")
        taken = await two.register_resources("account", "acct-1", ["R-1"])
        assert taken.epochs["R-1"] > held.epochs["R-1"]
        # Nothing proves that the first one is dead: its lease has to run out.
        assert not two.covers("account", "R-1", taken.epochs["R-1"])
        await two.wait_covered("account", "R-1", taken.epochs["R-1"], timeout=10)
        assert world.clock.boot_seconds() >= lease_end

    play(scenario)


def test_two_nodes_that_start_with_one_instance_id_at_once_get_one_winner(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        nodes = [await world.member(f"node-{i}") for i in range(2)]
        results = await asyncio.gather(
            *[node.register("account", "acct-1") for node in nodes], return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, Conflict)]
        assert len(refused) == 1
        assert refused[0].code == 409

    play(scenario)


def test_resources_of_others_are_conflicts_unless_forced(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one = await world.instance("node-1", "acct-1")
        two = await world.instance("node-2", "acct-2")
        first = await world.own(one, "acct-1", "R-1")
        refused = await two.register_resources("account", "acct-2", ["R-1", "R-2"])
        assert refused.conflicts == {"R-1": "acct-1"}
        assert refused.registered == ["R-2"]
        forced = await two.register_resources("account", "acct-2", ["R-1"], force=True)
        await two.wait_covered("account", "R-1", forced.epochs["R-1"], timeout=10)
        # Only one may answer at a time.
        assert not one.covers("account", "R-1", first.epochs["R-1"])

    play(scenario)


def test_releasing_lets_the_next_owner_answer_without_a_wait(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one = await world.instance("node-1", "acct-1")
        two = await world.instance("node-2", "acct-2")
        first = await world.own(one, "acct-1", "R-1")
        with pytest.raises(NotOwner) as caught:
            await two.release_resources("account", "acct-2", ["R-1"])
        assert caught.value.facts["owner"] == "acct-1"
        lease_end = one.lease.valid_until
        assert await one.release_resources("account", "acct-1", ["R-1"]) == ["R-1"]
        assert not one.covers("account", "R-1", first.epochs["R-1"])
        await world.own(two, "acct-2", "R-1")
        assert world.clock.boot_seconds() < lease_end
        with pytest.raises(NotFound):
            await one.release_resources("account", "acct-1", ["R-9"])

    play(scenario)


def test_a_thousand_resources_are_registered_at_once_and_one_more_refused(play: Play) -> None:
    async def scenario(world: World) -> None:
        candidate = await world.leader()
        node = await world.instance("node-1", "acct-1")
        names = [f"R-{index}" for index in range(1000)]
        found = await node.register_resources("account", "acct-1", names)
        # The epoch is the sequence of the record that names the owner.
        transport = await world.transport("test")
        records = world.subjects.registry("resource", "account") + ".*"
        async for stored in transport.read(records):
            name = stored.subject.rpartition(".")[2]
            assert found.epochs[name] == stored.sequence
        assert len(set(found.epochs.values())) == 1000
        await node.wait_covered("account", "R-999", found.epochs["R-999"], timeout=5)
        assert len(node.lease.covered) == 1000
        with pytest.raises(TooManyResources) as caught:
            await node.register_resources("account", "acct-1", ["one-more"])
        assert caught.value.facts["limit"] == 1000
        assert len(await node.release_resources("account", "acct-1", names)) == 1000
        assert candidate.registry.resources == {}

    play(scenario)


def test_unregistering_takes_an_instance_out_with_what_it_holds(play: Play) -> None:
    async def scenario(world: World) -> None:
        candidate = await world.leader()
        node = await world.instance("node-1", "acct-1")
        await node.register_resources("account", "acct-1", ["R-1"])
        await node.unregister("account", "acct-1")
        assert candidate.registry.instances == {}
        assert candidate.registry.resources == {}
        gone = await world.wait_event("gone", instance_id="acct-1")
        assert gone["cause"] == "unregistered"
        # Once more is no error.
        await node.unregister("account", "acct-1")

    play(scenario)


def test_a_wrong_field_reaches_the_node_as_an_invalid_request(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        node = await world.member("node-1")
        with pytest.raises(InvalidRequest) as caught:
            await node.register("account", "has space")
        assert caught.value.facts["field"] == "instance_id"

    play(scenario)


def test_garbage_on_every_subject_is_refused_and_does_no_harm(play: Play) -> None:
    async def scenario(world: World) -> None:
        candidate = await world.leader()
        for operation in ("service.register", "service.unregister", "service.query"):
            for garbage in (b"\xc1", b"\x93\x01", b"\x01\x02", b"\xa3abc"):
                reply = await world.ask(operation, garbage)
                assert (reply["code"], reply["field"]) == (400, "payload")
        for operation in ("resource.register", "resource.release", "resource.query"):
            assert (await world.ask(operation, b"\x07"))["code"] == 400
        transport = await world.transport("test")
        for garbage in (b"", b"\xc1", b"\x07", b"\x80"):
            transport.publish(world.subjects.heartbeat, garbage)
            for name in ("gone", "promoted", "first_answer"):
                transport.publish(world.subjects.event(name), garbage)
        await transport.flush()
        await world.instance("node-1", "acct-1")
        assert candidate.leading

    play(scenario)


# -- health -----------------------------------------------------------------------------


def test_a_node_answers_health_requests_with_its_instances(play: Play) -> None:
    def health(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"tasks": 3, **asked}

    async def scenario(world: World) -> None:
        await world.leader()

        await world.instance("node-1", "acct-1", health=health)
        transport = await world.transport("test")
        reply = await transport.request(world.subjects.health("node-1"), b"", timeout=5)
        facts = msgpack.unpackb(reply.payload)
        assert (facts["node_id"], facts["instances"], facts["tasks"]) == ("node-1", ["acct-1"], 3)

    play(scenario)


def test_a_dead_instance_becomes_unhealthy_and_its_resources_are_released(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        node = await world.instance("node-1", "acct-1")
        await node.register_resources("account", "acct-1", ["R-1"])
        directory = await world.directory()
        await directory.route("account", "R-1")
        await node.stop()
        stopped = world.clock.boot_seconds()
        unhealthy = await world.wait_event("unhealthy", instance_id="acct-1")
        assert unhealthy["cause"] == "silence"
        released = await world.wait_event("released", instance_id="acct-1")
        assert released["resource_ids"] == ["R-1"]
        await world.wait_event("gone", instance_id="acct-1")
        # Nobody is at its address, so there is nothing more to wait for.
        assert world.clock.boot_seconds() - stopped < LEASE.gone_timeout
        with pytest.raises(NotFound):
            await directory.route("account", "R-1")

    play(scenario)


def test_a_silent_instance_that_is_still_there_is_kept_until_the_gone_timeout(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        candidate = await world.leader()
        await world.answer_at(world.subjects.instance("feed-1"))
        await world.ask("service.register", {"service_name": "feed", "instance_id": "feed-1"})
        registered = world.clock.boot_seconds()
        await world.wait_event("unhealthy", instance_id="feed-1")
        assert "feed-1" in candidate.registry.instances
        directory = await world.directory()
        with pytest.raises(Unavailable, match="no healthy instance"):
            await directory.instances("feed")
        await world.wait_event("gone", instance_id="feed-1")
        assert world.clock.boot_seconds() - registered >= LEASE.gone_timeout

    play(scenario)


def test_an_evicted_instance_is_told_by_its_next_beat_and_may_register_anew(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        listener = Listener()
        node = await world.instance("node-1", "acct-1", listener=listener)
        first = await world.own(node, "acct-1", "R-1")
        evicted = await world.ask(
            "service.unregister", {"service_name": "account", "instance_id": "acct-1"}
        )
        assert evicted["success"] is True
        await wait_until(lambda: bool(listener.evicted), what="the node is told")
        assert listener.evicted == [("acct-1", 410)]
        assert not node.covers("account", "R-1", first.epochs["R-1"])
        await node.register("account", "acct-1")
        again = await node.register_resources("account", "acct-1", ["R-1"])
        assert again.epochs["R-1"] > first.epochs["R-1"]
        await node.wait_covered("account", "R-1", again.epochs["R-1"], timeout=10)

    play(scenario)
