"""Owners that die, hang, leave or are evicted, and who takes over, over both transports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from aegis.actors._control import SupervisorCandidate
from aegis.actors._lease import InstanceLoad
from aegis.actors._membership import Membership
from aegis.actors._obituary import Obituary, connection_name, node_of
from aegis.contracts import Role
from aegis.errors import Conflict
from aegis.transport._nats import connect_nats
from aegis.transport._nats_options import NatsOptions
from tests.actors.control_world import ELECTION, LEASE, Listener, Play, World
from tests.actors.control_world import play as play_scenario
from tests.support.nats import NatsServer
from tests.support.poll import wait_until
from tests.support.virtual import pass_time

pytestmark = pytest.mark.timeout(60)


async def pair(world: World, *names: str) -> tuple[Membership, Membership]:
    """Start two nodes: ``acct-1`` owns the resources, ``acct-2`` stands by for them."""
    one = await world.member("node-1", listener=Listener())
    two = await world.member("node-2", listener=Listener())
    await one.register("account", "acct-1")
    await two.register("account", "acct-2")
    names = names or ("R-1",)
    held = await one.register_resources("account", "acct-1", names)
    for name in names:
        await one.wait_covered("account", name, held.epochs[name], timeout=5)
    stands = await two.register_resources("account", "acct-2", names, role=Role.STANDBY)
    assert (stands.registered, stands.epochs) == (list(names), {})
    return one, two


async def kill(world: World, node: Membership) -> None:
    """End a node as SIGKILL does: nobody is at its addresses, and nothing is told."""
    await node.stop()
    await (await world.transport(node.node_id)).close()


# -- by timeout -------------------------------------------------------------------------


def test_a_silent_owner_is_succeeded_by_its_standby(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one, two = await pair(world)
        directory = await world.directory()
        before = await directory.route("account", "R-1")
        await kill(world, one)
        killed = world.clock.boot_seconds()
        event = await world.wait_event("promoted", instance_id="acct-2")
        assert world.clock.boot_seconds() - killed < LEASE.heartbeat_timeout + 0.3
        assert (event["old_instance_id"], event["old_node_id"]) == ("acct-1", "node-1")
        assert (event["cause"], event["resource_ids"]) == ("silence", ["R-1"])
        assert event["old_epochs"] == {"R-1": before.epoch}
        assert event["durations"]["detected"] >= LEASE.heartbeat_timeout
        assert 0 <= event["durations"]["decided"] < 1
        epoch = event["epochs"]["R-1"]
        assert epoch > before.epoch
        await two.wait_covered("account", "R-1", epoch, timeout=5)
        await wait_until(
            lambda: directory.routes["account", "R-1"].instance_id == "acct-2",
            what="callers are told",
        )
        await world.wait_event("gone", instance_id="acct-1")

    play(scenario)


def test_a_stalled_owner_loses_its_resources_and_may_stand_by(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        stalled: list[float] = [0.0]
        one = await world.member(
            "node-1",
            listener=Listener(),
            load=lambda: {"acct-1": InstanceLoad(depth=1, stalled=stalled[0])},
        )
        two = await world.member("node-2")
        await one.register("account", "acct-1")
        await two.register("account", "acct-2")
        first = await one.register_resources("account", "acct-1", ["R-1"])
        await two.register_resources("account", "acct-2", ["R-1"], role=Role.STANDBY)
        await one.wait_covered("account", "R-1", first.epochs["R-1"], timeout=5)
        stalled[0] = 99.0
        event = await world.wait_event("promoted", cause="stalled")
        # It lives, and agrees as soon as it is told.
        await two.wait_covered("account", "R-1", event["epochs"]["R-1"], timeout=0.6)
        assert not one.covers("account", "R-1", first.epochs["R-1"])
        stalled[0] = 0.0
        again = await one.register_resources("account", "acct-1", ["R-1"], role=Role.STANDBY)
        assert again.registered == ["R-1"]
        await world.wait_event("healthy", instance_id="acct-1")
        await two.unregister("account", "acct-2")
        await world.wait_event("promoted", instance_id="acct-1")

    play(scenario)


# -- without a timeout ------------------------------------------------------------------


def test_a_drained_owner_hands_over_without_a_wait(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one, two = await pair(world)
        lease_end = one.lease.valid_until
        await one.unregister("account", "acct-1")
        event = await world.wait_event("promoted", cause="unregistered")
        await two.wait_covered("account", "R-1", event["epochs"]["R-1"], timeout=5)
        assert world.clock.boot_seconds() < lease_end

    play(scenario)


def test_a_release_hands_over_without_a_wait(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one, two = await pair(world)
        lease_end = one.lease.valid_until
        assert await one.release_resources("account", "acct-1", ["R-1"]) == ["R-1"]
        event = await world.wait_event("promoted", cause="released")
        await two.wait_covered("account", "R-1", event["epochs"]["R-1"], timeout=5)
        assert world.clock.boot_seconds() < lease_end

    play(scenario)


def test_a_standby_for_what_nobody_holds_is_promoted_at_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        listener = Listener()
        node = await world.member("node-1", listener=listener)
        await node.register("account", "acct-1", role=Role.STANDBY)
        stands = await node.register_resources("account", "acct-1", ["R-1"], role=Role.STANDBY)
        assert stands.registered == ["R-1"]
        event = await world.wait_event("promoted", cause="vacant")
        # A node that missed the event learns it from its lease.
        await wait_until(
            lambda: listener.covered == {("account", "R-1"): event["epochs"]["R-1"]},
            what="it is covered",
        )

    play(scenario)


def test_an_evicted_owner_is_succeeded_and_told_by_its_next_beat(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one, two = await pair(world)
        reply = await world.ask("service.disconnect", {"instance_id": "acct-1"})
        assert reply["success"] is True
        assert reply["promoted"] == {"R-1": "acct-2"}
        event = await world.wait_event("promoted", cause="disconnected")
        await two.wait_covered("account", "R-1", event["epochs"]["R-1"], timeout=0.7)
        listener = one._listener  # pyright: ignore[reportPrivateUsage]
        assert isinstance(listener, Listener)
        await wait_until(lambda: listener.evicted == [("acct-1", 410)], what="it is told")
        await one.register("account", "acct-1")
        refused = await one.register_resources("account", "acct-1", ["R-1"])
        assert refused.conflicts == {"R-1": "acct-2"}
        assert (await world.ask("service.disconnect", {"instance_id": "nobody"}))["code"] == 404

    play(scenario)


# -- a new process ----------------------------------------------------------------------


def test_callers_meet_no_404_while_a_new_process_takes_the_place_of_a_dead_one(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one, two = await world.member("node-1"), await world.member("node-2")
        await one.register("account", "acct-1")
        held = await one.register_resources("account", "acct-1", ["R-1"])
        await kill(world, one)
        await two.register("account", "acct-1")
        query = {"service_name": "account", "resource_id": "R-1"}
        reply = await world.ask("resource.query", query)
        assert (reply["owner"], reply["epoch"]) == ("acct-1", held.epochs["R-1"])
        again = await two.register_resources("account", "acct-1", ["R-1"])
        assert again.epochs["R-1"] > held.epochs["R-1"]
        await two.wait_covered("account", "R-1", again.epochs["R-1"], timeout=5)
        assert not [event for event in world.events if event["event"] == "released"]

    play(scenario)


def test_what_a_new_process_does_not_claim_is_released_after_the_grace(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one, two = await world.member("node-1"), await world.member("node-2")
        await one.register("account", "acct-1")
        await one.register_resources("account", "acct-1", ["R-1", "R-2"])
        await kill(world, one)
        await two.register("account", "acct-1")
        replaced = world.clock.boot_seconds()
        await two.register_resources("account", "acct-1", ["R-1"])
        event = await world.wait_event("released", cause="abandoned")
        assert event["resource_ids"] == ["R-2"]
        assert world.clock.boot_seconds() - replaced >= LEASE.gone_timeout - 0.2

    play(scenario)


def test_two_nodes_that_start_with_the_id_of_a_dead_one_at_once_get_one_winner(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        dead = await world.instance("node-0", "acct-1")
        await dead.register_resources("account", "acct-1", ["R-1"])
        await kill(world, dead)
        nodes = [await world.member(f"node-{index}") for index in (1, 2)]
        results = await asyncio.gather(
            *[node.register("account", "acct-1") for node in nodes], return_exceptions=True
        )
        assert len([result for result in results if isinstance(result, Conflict)]) == 1
        query = {"service_name": "account", "resource_id": "R-1"}
        assert (await world.ask("resource.query", query))["owner"] == "acct-1"

    play(scenario)


# -- what standbys have applied ---------------------------------------------------------


def _always(sequence: int) -> Callable[[str, str], int]:
    return lambda instance_id, resource_id: sequence


def test_the_standby_that_has_applied_most_is_promoted_and_queries_show_its_lag(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        await world.leader("sup-1")
        await world.candidate("sup-2")
        nodes = [
            await world.member(
                f"node-{number}",
                load=lambda number=number, at=at: {
                    f"acct-{number}": InstanceLoad(applied={"R-1": at})
                },
                applied=_always(at),
            )
            for number, at in ((1, 90), (2, 70), (3, 80))
        ]
        for number, node in enumerate(nodes, 1):
            await node.register("account", f"acct-{number}")
            role = Role.ACTIVE if number == 1 else Role.STANDBY
            await node.register_resources("account", f"acct-{number}", ["R-1"], role=role)

        async def lags() -> bool:
            reply = await world.ask(
                "resource.query", {"service_name": "account", "resource_id": "R-1"}
            )
            shown = {s["instance_id"]: (s["applied"], s["lag"]) for s in reply["standbys"]}
            return shown == {"acct-2": (70, 20), "acct-3": (80, 10)}

        await wait_until(lags, what="the lag in the answer")
        await nodes[0].unregister("account", "acct-1")
        await world.wait_event("promoted", instance_id="acct-3")

    play(scenario)


# -- many -------------------------------------------------------------------------------


def test_a_thousand_resources_fail_over_together(play: Play) -> None:
    async def scenario(world: World) -> None:
        candidate = await world.leader()
        names = [f"R-{index}" for index in range(1000)]
        one, two = await pair(world, *names)
        await kill(world, one)
        promoted: dict[str, int] = {}

        def all_told() -> bool:
            for event in world.events:
                if event["event"] == "promoted":
                    promoted.update(event["epochs"])
            return len(promoted) == 1000

        await wait_until(all_told, what="all promotions are told")
        told = world.clock.boot_seconds()
        for name in names:
            await two.wait_covered("account", name, promoted[name], timeout=5)
        assert world.clock.boot_seconds() - told < 2
        await wait_until(lambda: not candidate.registry.standbys, what="all is tidied up")
        found = {name: r.epoch for (_, name), r in candidate.registry.resources.items()}
        assert found == promoted

    play(scenario)


# -- leaders ----------------------------------------------------------------------------


def test_a_new_leader_finishes_a_promotion_and_judges_by_its_own_time() -> None:
    async def scenario(world: World) -> None:
        first = await world.leader("sup-1")
        second = await world.candidate("sup-2")
        one, two = await pair(world)
        await kill(world, one)
        await pass_time(LEASE.heartbeat_timeout - 0.1)
        await first.stop()
        await second.wait_leading()
        began = world.clock.boot_seconds()
        event = await world.wait_event("promoted", instance_id="acct-2")
        assert world.clock.boot_seconds() - began >= LEASE.heartbeat_timeout - 0.01
        await two.wait_covered("account", "R-1", event["epochs"]["R-1"], timeout=5)

    play_scenario(scenario)


def test_a_promotion_whose_write_has_no_answer_is_told_all_the_same() -> None:
    async def scenario(world: World) -> None:
        await world.leader("sup-1", write_timeout=0.2)
        one, two = await pair(world)
        broker = world.memory("sup-1").broker
        lost: list[str] = []

        def fate(hop: object) -> tuple[float, ...]:
            subject = getattr(hop, "subject", "")
            if getattr(hop, "kind", "") == "acknowledgement" and ".resource." in subject:
                lost.append(subject)
                broker.fate = None
                return ()
            return (broker.latency,)

        broker.fate = fate
        await one.unregister("account", "acct-1")
        assert lost
        event = await world.wait_event("promoted", instance_id="acct-2")
        assert set(event["epochs"]) == {"R-1"}
        await two.wait_covered("account", "R-1", event["epochs"]["R-1"], timeout=5)

    play_scenario(scenario)


def test_a_query_to_a_supervisor_that_stops_is_answered_without_a_wait(play: Play) -> None:
    async def scenario(world: World) -> None:
        first = await world.leader("sup-1")
        waiting = asyncio.create_task(world.ask("service.query", {"min_sequence": 10**9}))
        await asyncio.sleep(0)
        transport = await world.transport("test")
        await transport.flush()
        await wait_until(lambda: bool(first.waiting_queries), what="it waits")
        stopped = world.clock.boot_seconds()
        await first.stop()
        assert (await waiting)["code"] == 503
        assert world.clock.boot_seconds() - stopped < 0.5

    play(scenario)


def test_a_lookup_that_is_lost_is_repeated_soon() -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        node = await world.instance("node-1", "acct-1")
        await node.register_resources("account", "acct-1", ["R-1"])
        directory = await world.directory()
        broker = world.memory("sup-1").broker

        lost: list[str] = []

        def fate(hop: object) -> tuple[float, ...]:
            if ".resource.query" in getattr(hop, "subject", "") and not lost:
                lost.append("")
                return ()
            return (broker.latency,)

        broker.fate = fate
        asked = world.clock.boot_seconds()
        await directory.route("account", "R-1")
        assert lost
        assert world.clock.boot_seconds() - asked < 0.4

    play_scenario(scenario)


# -- proof of death ---------------------------------------------------------------------


async def tell(world: World, node_id: str, reason: str = "Client Closed") -> None:
    """Publish what the server tells the system account of a node's connection."""
    transport = await world.transport("test")
    event = {"client": {"id": 7, "name": connection_name(node_id)}, "reason": reason}
    transport.publish("$SYS.ACCOUNT.APP.DISCONNECT", json.dumps(event).encode())


async def obituary(world: World, candidate: SupervisorCandidate) -> None:
    listening = Obituary(await world.transport("system"), candidate.suspect_node)
    await listening.start()


def test_a_killed_owner_is_succeeded_in_milliseconds_with_proof_of_death() -> None:
    async def scenario(world: World) -> None:
        await obituary(world, await world.leader())
        one, two = await pair(world)
        await kill(world, one)
        killed = world.clock.boot_seconds()
        await tell(world, "node-1")
        event = await world.wait_event("promoted", instance_id="acct-2")
        await two.wait_covered("account", "R-1", event["epochs"]["R-1"], timeout=5)
        # The lease of the dead one would have run for most of a second.
        assert world.clock.boot_seconds() - killed < 0.1
        assert event["cause"] == "died"
        assert 0.02 < event["durations"]["detected"] < 0.1
        await world.wait_event("gone", instance_id="acct-1")
        assert world.clock.boot_seconds() - killed < LEASE.gone_timeout

    play_scenario(scenario)


async def kill_leader(world: World, node: Membership) -> float:
    """Kill a node that is owner and leader; tell of it; return when that was."""
    await node.stop()
    world.memory(node.node_id).close_for_good("killed")
    await tell(world, node.node_id)
    return world.clock.boot_seconds()


async def wait_succeeded(world: World, node: Membership, instance_id: str) -> None:
    """Return when ``node`` answers for R-1 as its new owner."""
    event = await world.wait_event("promoted", instance_id=instance_id)
    await node.wait_covered("account", "R-1", event["epochs"]["R-1"], timeout=5)


def test_a_killed_owner_that_was_leader_too_is_succeeded_in_milliseconds() -> None:
    async def scenario(world: World) -> None:
        await world.leader("node-1")
        second = await world.candidate("node-2")
        await obituary(world, second)
        one, two = await pair(world)
        killed = await kill_leader(world, one)
        await wait_succeeded(world, two, "acct-2")
        assert second.leading
        assert world.clock.boot_seconds() - killed < 0.15

    play_scenario(scenario)


def test_a_candidate_that_came_a_moment_ago_uses_the_proof_of_its_leaders_death() -> None:
    async def scenario(world: World) -> None:
        await world.leader("node-1")
        one, two = await pair(world)
        await pass_time(3)
        # It has not seen who led before, and does not have to.
        await obituary(world, await world.candidate("node-2"))
        killed = await kill_leader(world, one)
        await wait_succeeded(world, two, "acct-2")
        assert world.clock.boot_seconds() - killed < 0.15

    play_scenario(scenario)


def test_two_leaders_killed_one_after_the_other_hold_nothing_up() -> None:
    async def scenario(world: World) -> None:
        await world.leader("node-1")
        one, two = await pair(world)
        three = await world.member("node-3", listener=Listener())
        await three.register("account", "acct-3")
        await three.register_resources("account", "acct-3", ["R-1"], role=Role.STANDBY)
        second = await world.candidate("node-2", election=evolve(ELECTION, jitter=0.0))
        third = await world.candidate("node-3", election=evolve(ELECTION, jitter=0.05))
        await obituary(world, second)
        await obituary(world, third)
        await pass_time(3)
        await kill_leader(world, one)
        await wait_succeeded(world, two, "acct-2")
        assert second.leading
        await pass_time(0.05)
        killed = await kill_leader(world, two)
        await wait_succeeded(world, three, "acct-3")
        assert third.leading
        assert world.clock.boot_seconds() - killed < 0.2

    play_scenario(scenario)


def test_a_proof_counts_again_when_a_leader_that_may_live_is_outlived() -> None:
    async def scenario(world: World) -> None:
        await world.leader("sup-1")
        second = await world.candidate("sup-2")
        await obituary(world, second)
        one, two = await pair(world)
        await pass_time(2)
        # Nothing proves that it cannot answer the owner's beats.
        world.memory("sup-1").disconnect()
        await second.wait_leading()
        began = world.clock.boot_seconds()
        await kill(world, one)
        await tell(world, "node-1")
        await wait_succeeded(world, two, "acct-2")
        waited = world.clock.boot_seconds() - began
        timeout = ELECTION.leader_timeout
        assert timeout < waited < timeout + LEASE.lease_duration

    play_scenario(scenario)


@pytest.mark.parametrize("reason", ["Client Closed", "Stale Connection", ""])
def test_a_node_that_lives_is_not_taken_for_dead_whatever_is_told(reason: str) -> None:
    async def scenario(world: World) -> None:
        candidate = await world.leader("sup-1")
        await obituary(world, candidate)
        one, _ = await pair(world)
        epoch = one.epochs["account", "R-1"]
        for _ in range(20):
            await tell(world, "node-1", reason)
            await tell(world, "sup-1", reason)
            await pass_time(0.05)
        assert one.covers("account", "R-1", epoch)
        assert candidate.leading
        assert not [e for e in world.events if e["event"] in ("promoted", "unhealthy")]

    play_scenario(scenario)


def test_a_node_that_is_back_within_the_probes_is_not_taken_for_dead() -> None:
    async def scenario(world: World) -> None:
        await obituary(world, await world.leader())
        one, _ = await pair(world)
        world.memory("node-1").disconnect()
        await tell(world, "node-1")
        await pass_time(0.01)
        world.memory("node-1").reconnect()
        await one.wait_covered("account", "R-1", one.epochs["account", "R-1"], timeout=5)
        await pass_time(1)
        assert not [e for e in world.events if e["event"] in ("promoted", "unhealthy")]

    play_scenario(scenario)


def test_a_node_that_stands_still_is_not_taken_for_dead_when_it_is_disconnected() -> None:
    async def scenario(world: World) -> None:
        await obituary(world, await world.leader())
        one, _ = await pair(world)
        lease_end = one.lease.valid_until
        # It has not noticed, and so may answer until its lease has run out.
        await one._subscriptions[1].unsubscribe()  # pyright: ignore[reportPrivateUsage]
        await tell(world, "node-1", "Stale Connection")
        await pass_time(0.2)
        assert world.clock.boot_seconds() < lease_end
        assert not [e for e in world.events if e["event"] == "promoted"]

    play_scenario(scenario)


def test_a_dead_owner_without_standby_keeps_its_resources_until_its_silence_is_over() -> None:
    async def scenario(world: World) -> None:
        await obituary(world, await world.leader())
        one = await world.instance("node-1", "acct-1")
        await one.register_resources("account", "acct-1", ["R-1"])
        await kill(world, one)
        killed = world.clock.boot_seconds()
        await tell(world, "node-1")
        unhealthy = await world.wait_event("unhealthy", cause="died")
        assert unhealthy["instance_id"] == "acct-1"
        assert world.clock.boot_seconds() - killed < 0.1
        # Whoever restarts it has as much time as without the proof.
        two = await world.instance("node-2", "acct-1")
        await world.own(two, "acct-1", "R-1")
        assert world.clock.boot_seconds() - killed < 0.2
        assert not [e for e in world.events if e["event"] == "released"]

    play_scenario(scenario)


def test_a_lost_event_leaves_it_to_the_timeout() -> None:
    async def scenario(world: World) -> None:
        await obituary(world, await world.leader())
        one, _ = await pair(world)
        await kill(world, one)
        event = await world.wait_event("promoted", instance_id="acct-2")
        assert event["cause"] == "silence"

    play_scenario(scenario)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"7",
        b"[]",
        b"{}",
        b'{"client": 7}',
        b'{"client": {}}',
        b'{"client": {"name": 7}, "reason": "Client Closed"}',
        b'{"client": {"name": "aegis-node-node-1"}, "reason": 7}',
        b'{"client": {"name": "aegis-node-"}, "reason": "Client Closed"}',
        b'{"client": {"name": "somebody"}, "reason": "Client Closed"}',
        b"[" * 100_000,
    ],
)
def test_an_event_that_says_nothing_of_a_node_is_passed_over(payload: bytes) -> None:
    async def scenario(world: World) -> None:
        suspected: list[str] = []
        listening = Obituary(await world.transport("system"), suspected.append)
        await listening.start()
        transport = await world.transport("test")
        transport.publish("$SYS.ACCOUNT.APP.DISCONNECT", payload)
        await tell(world, "node-9")
        await wait_until(lambda: suspected == ["node-9"], what="the one that counts")
        await listening.stop()

    play_scenario(scenario)


@pytest.mark.parametrize("node_id", ["n", "host-1-abc", "a b.é", "aegis-node-"])
def test_a_node_is_known_by_the_name_of_its_connection(node_id: str) -> None:
    assert node_of(connection_name(node_id)) == node_id


@pytest.mark.parametrize("name", ["", "aegis-node-", "aegis-node", "other", "x-aegis-node-n"])
def test_any_other_name_is_no_nodes(name: str) -> None:
    assert node_of(name) is None


def test_a_real_server_tells_of_a_closed_connection_and_the_owner_is_succeeded(
    nats_server: NatsServer,
) -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader()
        system = await connect_nats(NatsOptions(world.url, user="system", password="system"))
        listening = Obituary(system, leader.suspect_node)
        await listening.start()
        await system.flush()
        world._transports["node-1"] = await connect_nats(  # pyright: ignore[reportPrivateUsage]
            NatsOptions(world.url, name=connection_name("node-1"))
        )
        one, two = await pair(world)
        # Its last breath must not be a word to the leader.
        await (await world.transport("node-1")).close()
        killed = world.clock.boot_seconds()
        event: dict[str, Any] = await world.wait_event("promoted", instance_id="acct-2")
        await two.wait_covered("account", "R-1", event["epochs"]["R-1"], timeout=5)
        assert event["cause"] == "died"
        assert world.clock.boot_seconds() - killed < LEASE.heartbeat_timeout / 2
        await one.stop()
        await listening.stop()
        await system.close()

    play_scenario(scenario, nats_server)
