"""Supervisors, nodes and callers together, over both transports."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import nats
import pytest
from nats.aio.msg import Msg

from aegis.actors._control import SupervisorCandidate
from aegis.actors._lease import InstanceLoad
from aegis.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    NotOwner,
    TooManyResources,
    Unavailable,
)
from aegis.transport._base import Append, Refused
from tests.actors.control_world import LEASE, Listener, Play, World
from tests.actors.control_world import play as play_scenario
from tests.support.nats import NatsServer
from tests.support.poll import wait_until
from tests.support.virtual import pass_time

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


# -- lookup -----------------------------------------------------------------------------


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


# -- health -----------------------------------------------------------------------------


def test_a_node_answers_health_requests_with_its_instances(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        await world.instance("node-1", "acct-1", health=lambda: {"tasks": 3})
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


# -- leaders ----------------------------------------------------------------------------


async def wait_led(candidates: list[SupervisorCandidate]) -> SupervisorCandidate:
    await wait_until(lambda: any(c.leading for c in candidates), what="one leads")
    [leader] = [c for c in candidates if c.leading]
    return leader


def test_one_of_several_candidates_leads(play: Play) -> None:
    async def scenario(world: World) -> None:
        candidates = [await world.candidate(f"sup-{index}") for index in range(4)]
        leader = await wait_led(candidates)
        await wait_until(
            lambda: all(c.election.leader == leader.node_id for c in candidates),
            what="all agree on the leader",
        )
        assert [c.leading for c in candidates].count(True) == 1

    play(scenario)


def test_a_leader_that_stops_is_succeeded_at_once_and_nothing_is_lost(play: Play) -> None:
    async def scenario(world: World) -> None:
        first = await world.leader("sup-1")
        second = await world.candidate("sup-2")
        node = await world.instance("node-1", "acct-1")
        held = await node.register_resources("account", "acct-1", ["R-1"])
        await first.stop()
        async with asyncio.timeout(10):
            await second.wait_leading()
        assert second.election.term == 2
        again = await node.register_resources("account", "acct-1", ["R-1"])
        assert again.epochs == held.epochs
        await node.wait_covered("account", "R-1", held.epochs["R-1"], timeout=5)
        # A change of leader makes nobody unhealthy.
        assert "unhealthy" not in {event["event"] for event in world.events}

    play(scenario)


def test_the_registry_outlives_all_supervisors(play: Play) -> None:
    async def scenario(world: World) -> None:
        first = await world.leader("sup-1")
        node = await world.member("node-1")
        await node.register("account", "acct-1", metadata={"zone": "a"})
        held = await node.register_resources("account", "acct-1", ["R-1", "é.*"])
        await first.stop()
        second = await world.leader("sup-2")
        found = {r.resource_id: r.epoch for r in second.registry.resources.values()}
        assert found == held.epochs
        assert second.registry.instances["acct-1"].metadata == {"zone": "a"}

    play(scenario)


def test_a_deposed_leader_can_change_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader("sup-1")
        transport = await world.transport("test")
        subject = world.subjects.registry("leader")
        mine = leader.election.sequence
        usurped = await transport.append(
            Append(subject, msgpack.packb({"node": "other", "term": 9}), expect=mine, rollup=True),
            timeout=5,
        )
        assert not isinstance(usurped, Refused)
        late = await transport.append(
            Append(
                world.subjects.registry("resource", "account", "R-1"),
                b"\x80",
                expect=mine,
                expect_subject=subject,
                rollup=True,
            ),
            timeout=5,
        )
        assert isinstance(late, Refused)
        assert late.conflict
        # It notices, and takes over anew when the other one turns out to be nobody.
        await wait_until(
            lambda: leader.leading and leader.election.term == 10, what="it leads again"
        )

    play(scenario)


# -- a foreign client -------------------------------------------------------------------


async def test_a_plain_nats_client_that_speaks_msgpack_can_use_everything(
    nats_server: NatsServer,
) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        client = await nats.connect(world.url)  # pyright: ignore[reportUnknownMemberType]
        prefix = world.subjects.control_prefix

        async def ask(operation: str, **payload: object) -> dict[str, Any]:
            reply = await client.request(f"{prefix}.{operation}", msgpack.packb(payload), timeout=5)
            answer: dict[str, Any] = msgpack.unpackb(reply.data)
            return answer

        async def alive(message: Msg) -> None:
            await message.respond(b"")

        await client.subscribe(  # pyright: ignore[reportUnknownMemberType]
            f"{world.subjects.namespace}.instance.feed-1", cb=alive
        )
        feed = {"service_name": "feed", "instance_id": "feed-1"}
        one = {"timestamp": 1.0, "metadata": {"language": "C"}, "role": "active"}
        assert (await ask("service.register", **feed, **one))["success"] is True
        assert (await ask("service.register", **feed, **one))["success"] is True
        taken = await ask("service.register", **feed, timestamp=2.0)
        assert (taken["success"], taken["code"], taken["holder"]) == (False, 409, "feed-1")
        bad = await ask("service.register", service_name="feed", instance_id="feed 1")
        assert (bad["code"], bad["field"]) == (400, "instance_id")
        got = await ask("resource.register", **feed, resource_ids=["EUR", "USD"], trace_id="t-1")
        assert (got["success"], got["registered"], got["conflicts"], got["trace_id"]) == (
            True,
            ["EUR", "USD"],
            {},
            "t-1",
        )
        await ask("service.register", service_name="feed", instance_id="feed-2", timestamp=1.0)
        refused = await ask(
            "resource.register",
            service_name="feed",
            instance_id="feed-2",
            resource_ids=["EUR"],
        )
        assert (refused["code"], refused["conflicts"]) == (409, {"EUR": "feed-1"})
        forced = await ask(
            "resource.register",
            service_name="feed",
            instance_id="feed-2",
            resource_ids=["EUR"],
            force=True,
        )
        assert forced["success"] is True
        stranger = await ask("resource.release", **feed, resource_ids=["EUR"])
        assert (stranger["code"], stranger["owner"]) == (403, "feed-2")
        too_many = await ask(
            "resource.register", **feed, resource_ids=[str(i) for i in range(1001)]
        )
        assert (too_many["code"], too_many["limit"]) == (429, 1000)
        where = await ask("resource.query", service_name="feed", resource_id="EUR")
        assert (where["owner"], where["role"]) == ("feed-2", "active")
        assert (await ask("resource.query", resource_id="GBP"))["code"] == 404
        listing = await ask("service.query")
        assert listing["success"] is True
        # It may beat, too: then it stays healthy, and is told what its lease covers.
        beat = {"node_id": "feed-1", "number": 1, "instances": {"feed-1": {"depth": 0}}}
        reply = await client.request(
            f"{world.subjects.namespace}.heartbeat", msgpack.packb(beat), timeout=5
        )
        assert msgpack.unpackb(reply.data)["covers"] == {"feed": {"USD": got["epochs"]["USD"]}}
        assert (await ask("resource.release", **feed, resource_ids=["USD"]))["success"] is True
        assert (await ask("service.unregister", **feed))["success"] is True
        assert (await ask("service.unregister", **feed))["code"] == 404
        await client.close()

    await asyncio.to_thread(play_scenario, scenario, nats_server)


# -- exact times and broken networks (virtual time) -------------------------------------


def test_a_leader_that_resigns_is_succeeded_without_any_timeout() -> None:
    async def scenario(world: World) -> None:
        first = await world.leader("sup-1")
        second = await world.candidate("sup-2")
        await wait_until(lambda: second.election.leader == "sup-1", what="it follows")
        resigned = world.clock.boot_seconds()
        await first.stop()
        await second.wait_leading()
        assert world.clock.boot_seconds() - resigned < 0.1

    play_scenario(scenario)


def test_a_leader_that_is_nowhere_is_succeeded_before_its_timeout() -> None:
    async def scenario(world: World) -> None:
        await world.leader("sup-1")
        world.memory("sup-1").close_for_good("killed")
        started = world.clock.boot_seconds()
        second = await world.leader("sup-2")
        assert world.clock.boot_seconds() - started < second.options.election.leader_timeout / 2

    play_scenario(scenario)


def test_new_resources_are_covered_without_waiting_for_a_beat() -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        node = await world.instance("node-1", "acct-1")
        await wait_until(lambda: node.lease.valid(world.clock.boot_seconds()), what="a lease")
        await pass_time(LEASE.heartbeat_interval / 2)
        beat = node.lease.valid_until
        held = await node.register_resources("account", "acct-1", ["R-1"])
        await wait_until(
            lambda: node.covers("account", "R-1", held.epochs["R-1"]), what="it is covered"
        )
        assert node.lease.valid_until == beat

    play_scenario(scenario)


def test_a_release_under_way_is_not_covered_any_more() -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        node = await world.instance("node-1", "acct-1")
        held = await world.own(node, "acct-1", "R-1")
        releasing = asyncio.create_task(node.release_resources("account", "acct-1", ["R-1"]))
        await asyncio.sleep(0)
        assert not releasing.done()
        assert not node.covers("account", "R-1", held.epochs["R-1"])
        await releasing

    play_scenario(scenario)


def test_a_leader_that_was_deposed_before_its_write_landed_has_changed_nothing() -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader("sup-1")
        broker = world.memory("sup-1").broker
        usurper = Append(
            world.subjects.registry("leader"),
            msgpack.packb({"node": "other", "term": 9}),
            rollup=True,
        )

        def fate(hop: object) -> tuple[float, ...]:
            if getattr(hop, "kind", "") == "append" and ".instance." in getattr(hop, "subject", ""):
                broker.fate = None
                broker.append("other", usurper)
            return (broker.latency,)

        broker.fate = fate
        reply = await world.ask("service.register", {"service_name": "s", "instance_id": "i"})
        assert reply["code"] == 503
        assert leader.registry.instances == {}
        assert broker.last_sequence(world.subjects.registry("instance", "i")) == 0

    play_scenario(scenario)


def test_a_leader_that_is_cut_off_is_succeeded_within_the_timeout() -> None:
    async def scenario(world: World) -> None:
        first = await world.leader("sup-1")
        second = await world.candidate("sup-2")
        node = await world.instance("node-1", "acct-1")
        world.memory("sup-1").disconnect()
        cut = world.clock.boot_seconds()
        async with asyncio.timeout(10):
            await second.wait_leading()
        assert world.clock.boot_seconds() - cut < 2 * second.options.election.leader_timeout
        await wait_until(lambda: not first.leading, what="the first one notices")
        await node.register_resources("account", "acct-1", ["R-1"])
        world.memory("sup-1").reconnect()
        await wait_until(
            lambda: ("account", "R-1") in first.registry.resources, what="it follows again"
        )
        assert not first.leading
        assert second.leading

    play_scenario(scenario)


def test_a_node_that_loses_its_connection_drops_its_lease_and_gets_it_back() -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        listener = Listener()
        node = await world.instance("node-1", "acct-1", listener=listener)
        held = await node.register_resources("account", "acct-1", ["R-1"])
        epoch = held.epochs["R-1"]
        await node.wait_covered("account", "R-1", epoch, timeout=5)
        world.memory("node-1").disconnect()
        assert not node.covers("account", "R-1", epoch)
        assert listener.covered == {}
        world.memory("node-1").reconnect()
        await node.wait_covered("account", "R-1", epoch, timeout=5)
        assert listener.covered == {("account", "R-1"): epoch}

    play_scenario(scenario)


def test_a_directory_trusts_nothing_from_before_a_reconnect() -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        node = await world.instance("node-1", "acct-1")
        await node.register_resources("account", "acct-1", ["R-1"])
        directory = await world.directory()
        await directory.route("account", "R-1")
        world.memory("caller").disconnect()
        assert directory.routes == {}
        await node.release_resources("account", "acct-1", ["R-1"])
        world.memory("caller").reconnect()
        with pytest.raises(NotFound):
            await directory.route("account", "R-1")

    play_scenario(scenario)


def test_a_write_whose_answer_is_lost_is_found_again_and_answered() -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader("sup-1", write_timeout=0.2)
        node = await world.instance("node-1", "acct-1")
        broker = world.memory("sup-1").broker
        lost: list[str] = []

        def fate(hop: object) -> tuple[float, ...]:
            if getattr(hop, "kind", "") == "acknowledgement" and "resource" in getattr(
                hop, "subject", ""
            ):
                lost.append("")
                broker.fate = None
                return ()
            return (broker.latency,)

        broker.fate = fate
        found = await node.register_resources("account", "acct-1", ["R-1"])
        assert lost
        assert leader.registry.resources["account", "R-1"].epoch == found.epochs["R-1"]
        event = await world.wait_event("registered", resource_ids=["R-1"])
        assert event["epochs"] == found.epochs

    play_scenario(scenario)


def test_a_release_whose_write_has_no_answer_is_answered_as_done() -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader("sup-1", write_timeout=0.2)
        node = await world.instance("node-1", "acct-1")
        await node.register_resources("account", "acct-1", ["R-1"])
        broker = world.memory("sup-1").broker

        def fate(hop: object) -> tuple[float, ...]:
            if getattr(hop, "kind", "") == "acknowledgement" and "resource" in getattr(
                hop, "subject", ""
            ):
                broker.fate = None
                return ()
            return (broker.latency,)

        broker.fate = fate
        reply = await world.ask(
            "resource.release",
            {
                "service_name": "account",
                "instance_id": "acct-1",
                "resource_ids": ["R-1"],
                "node_id": "node-1",
            },
        )
        assert reply["success"] is True
        assert reply["released"] == ["R-1"]
        assert leader.registry.resources == {}

    play_scenario(scenario)


def test_a_node_that_cannot_hear_the_leader_keeps_no_lease_beyond_its_time() -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        node = await world.instance("node-1", "acct-1")
        held = await world.own(node, "acct-1", "R-1")
        broker = world.memory("sup-1").broker

        def fate(hop: object) -> tuple[float, ...]:
            cut = "node-1" in (getattr(hop, "source", ""), getattr(hop, "destination", ""))
            return () if cut else (broker.latency,)

        broker.fate = fate
        cut_at = world.clock.boot_seconds()
        await wait_until(
            lambda: not node.covers("account", "R-1", held.epochs["R-1"]), what="the lease ends"
        )
        assert world.clock.boot_seconds() - cut_at <= LEASE.lease_duration + 0.05

    play_scenario(scenario)


def test_a_request_at_which_the_leader_fails_ends_neither_it_nor_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader()
        feed = {"service_name": "feed", "instance_id": "feed-1"}

        def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as broken:
            broken.setattr("aegis.actors._reign.handle", fail)
            assert (await world.ask("service.register", feed))["code"] == 500
        assert leader.leading
        assert (await world.ask("service.register", feed))["success"] is True

    play_scenario(scenario)
