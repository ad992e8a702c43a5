"""Supervisors, nodes and callers together, over both transports: who leads, and broken networks."""

from __future__ import annotations

import asyncio

import msgpack
import pytest

from aegis.actors._control import SupervisorCandidate
from aegis.errors import (
    NotFound,
    TooLarge,
)
from aegis.transport._base import Append, Refused
from tests.actors.control_world import LEASE, Listener, Play, World
from tests.actors.control_world import play as play_scenario
from tests.support.poll import wait_until
from tests.support.virtual import pass_time

pytestmark = pytest.mark.timeout(60)


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


def test_a_leader_outlives_requests_that_it_cannot_answer() -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader("sup-1")
        transport = await world.transport("test")
        request = world.subjects.control_prefix + ".service.unregister"
        transport.publish(request, msgpack.packb({}), reply_to="no..subject")
        node = await world.instance("node-1", "acct-1")
        assert leader.leading
        world.memory("test").broker.max_payload_bytes = 8_000  # Each name is in the answer twice.
        names = [f"{number:0200}" for number in range(30)]
        with pytest.raises(TooLarge, match="less at a time"):
            await node.register_resources("account", "acct-1", names)
        assert leader.leading
        assert leader.election.term == 1
        await pass_time(1)
        told = [event for event in world.events if event["resource_ids"]]
        assert len(told) > 1
        assert [name for event in told for name in event["resource_ids"]] == names
        assert [name for event in told for name in event["epochs"]] == names

    play_scenario(scenario)


def test_a_leader_that_fails_makes_room_and_leads_again_if_nobody_else_does() -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader("sup-1")
        reign = leader._reign
        assert reign is not None

        async def fail(now: float) -> bool:
            raise RuntimeError(f"a step failed at {now}")

        reign.step = fail  # type: ignore[method-assign]
        await wait_until(lambda: not leader.leading, what="it makes room")
        await wait_until(lambda: leader.leading, what="it leads again")
        assert leader.election.term == 2
        await world.instance("node-1", "acct-1")

    play_scenario(scenario)


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
