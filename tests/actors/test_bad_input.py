"""What the leader makes of requests that cannot be right, or come at a bad moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aegis.actors._lease import InstanceLoad
from aegis.actors._membership import Membership
from aegis.contracts import Role
from aegis.errors import Conflict
from tests.actors.control_world import LEASE, Listener, Play, World
from tests.actors.control_world import play as play_scenario
from tests.support.poll import wait_until

pytestmark = pytest.mark.timeout(60)


async def claim(world: World, number: int, **fields: Any) -> dict[str, Any]:
    """Ask for R-1 in the name of ``acct-<number>``, and return the bare answer."""
    payload = {"service_name": "account", "instance_id": f"acct-{number}", "resource_ids": ["R-1"]}
    return await world.ask("resource.register", {**payload, **fields})


async def owner_and_standby(world: World) -> tuple[Membership, Membership]:
    """Start ``acct-1``, which owns R-1, and ``acct-2``, which stands by for it."""
    one = await world.member("node-1", listener=Listener())
    two = await world.member("node-2", listener=Listener())
    await one.register("account", "acct-1")
    await two.register("account", "acct-2")
    await world.own(one, "acct-1", "R-1")
    await two.register_resources("account", "acct-2", ["R-1"], role=Role.STANDBY)
    return one, two


@pytest.mark.parametrize(
    ("operation", "payload", "field", "text"),
    [
        (
            "service.register",
            {"service_name": "account", "instance_id": "acct-1", "role": "leader"},
            "role",
            "must be 'active' or 'standby'",
        ),
        (
            "resource.register",
            {
                "service_name": "account",
                "instance_id": "acct-1",
                "resource_ids": ["R-1"],
                "role": "Active",
            },
            "role",
            "must be 'active' or 'standby'",
        ),
        (
            "service.register",
            {"service_name": "account", "instance_id": "acct 1"},
            "instance_id",
            "spaces",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_field(
    play: Play, operation: str, payload: dict[str, Any], field: str, text: str
) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        reply = await world.ask(operation, payload)
        assert (reply["code"], reply["field"]) == (400, field)
        assert text in reply["message"]

    play(scenario)


def test_an_owner_that_asks_to_stand_by_is_told_to_release_first(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        await owner_and_standby(world)
        reply = await claim(world, 1, role="standby")
        assert (reply["code"], reply["conflicts"]) == (409, {"R-1": "acct-1"})
        assert "owned by 'acct-1' itself" in reply["message"]
        assert "release" in reply["message"]

    play(scenario)


def test_a_role_changes_by_a_release_and_back_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        one, two = await owner_and_standby(world)
        await one.release_resources("account", "acct-1", ["R-1"])
        first = await world.wait_event("promoted", instance_id="acct-2")
        await two.wait_covered("account", "R-1", first["epochs"]["R-1"], timeout=5)
        stands = await one.register_resources("account", "acct-1", ["R-1"], role=Role.STANDBY)
        assert stands.registered == ["R-1"]
        await two.release_resources("account", "acct-2", ["R-1"])
        second = await world.wait_event("promoted", instance_id="acct-1")
        await one.wait_covered("account", "R-1", second["epochs"]["R-1"], timeout=5)
        assert second["epochs"]["R-1"] > first["epochs"]["R-1"]

    play(scenario)


def test_a_resource_whose_owner_changes_cannot_be_forced_away_until_that_is_over() -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader()
        one, _ = await owner_and_standby(world)
        three = await world.instance("node-3", "acct-3")
        await one.stop()
        await world.ask("service.disconnect", {"instance_id": "acct-1"})
        await world.wait_event("promoted", instance_id="acct-2")
        assert leader.roster.unsettled
        # The lease of the first owner may still run: who asks is told whose turn it is.
        busy = await claim(world, 3, force=True)
        assert (busy["code"], busy["holder"]) == (503, "acct-2")
        assert "try again" in busy["message"]
        taken = await claim(world, 3)
        assert (taken["code"], taken["conflicts"]) == (409, {"R-1": "acct-2"})
        stands = await three.register_resources("account", "acct-3", ["R-1"], role=Role.STANDBY)
        assert stands.registered == ["R-1"]
        await wait_until(lambda: not leader.roster.unsettled, what="the change is over")
        assert (await claim(world, 3, force=True))["success"] is True

    play_scenario(scenario)


def test_an_owner_that_is_replaced_while_it_asks_for_its_role_gets_one_clear_answer(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        stalled = [0.0]
        one = await world.member(
            "node-1", load=lambda: {"acct-1": InstanceLoad(depth=1, stalled=stalled[0])}
        )
        two = await world.member("node-2")
        await one.register("account", "acct-1")
        await two.register("account", "acct-2")
        await one.register_resources("account", "acct-1", ["R-1"])
        await two.register_resources("account", "acct-2", ["R-1"], role=Role.STANDBY)
        stalled[0] = 99.0
        await world.wait_event("promoted", instance_id="acct-2")
        again = await one.register_resources("account", "acct-1", ["R-1"])
        assert (again.registered, again.conflicts) == ([], {"R-1": "acct-2"})
        stands = await one.register_resources("account", "acct-1", ["R-1"], role=Role.STANDBY)
        assert stands.registered == ["R-1"]

    play(scenario)


def test_a_process_that_returns_as_active_is_told_who_has_its_resource_and_what_to_do(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader()
        one, two = await owner_and_standby(world)
        await one.stop()
        await (await world.transport("node-1")).close()
        event = await world.wait_event("promoted", instance_id="acct-2")
        again = await world.member("node-3", listener=Listener())
        await again.register("account", "acct-1")
        reply = await claim(world, 1, node_id="node-3")
        assert (reply["success"], reply["code"], reply["holder"]) == (False, 409, "acct-2")
        assert reply["conflicts"] == {"R-1": "acct-2"}
        assert "role standby" in reply["message"]
        assert "force" in reply["message"]
        # Nothing has changed, and either way out is open.
        await two.wait_covered("account", "R-1", event["epochs"]["R-1"], timeout=5)
        stands = await again.register_resources("account", "acct-1", ["R-1"], role=Role.STANDBY)
        assert stands.registered == ["R-1"]
        await wait_until(lambda: not leader.roster.unsettled, what="the change is over")
        forced = await again.register_resources("account", "acct-1", ["R-1"], force=True)
        await again.wait_covered("account", "R-1", forced.epochs["R-1"], timeout=5)
        assert not two.covers("account", "R-1", event["epochs"]["R-1"])

    play(scenario)


def test_of_two_processes_with_one_instance_id_the_one_that_came_first_stays(play: Play) -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader()
        nodes = [await world.member(f"node-{number}") for number in range(4)]
        answers = await asyncio.gather(
            *[node.register("account", "acct-1") for node in nodes], return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, Conflict)]
        [winner] = [
            node for node, answer in zip(nodes, answers, strict=True) if isinstance(answer, dict)
        ]
        assert leader.registry.instances["acct-1"].node_id == winner.node_id
        assert len(refused) == 3
        for error in refused:
            assert error.code == 409
            assert error.facts["holder"] == winner.node_id
            assert "choose another instance id" in str(error)
        # Those that lost beat on, and take nothing from the winner.
        held = await world.own(winner, "acct-1", "R-1")
        later = world.clock.boot_seconds() + 2 * LEASE.heartbeat_timeout
        await wait_until(lambda: world.clock.boot_seconds() > later, what="some beats later")
        assert winner.covers("account", "R-1", held.epochs["R-1"])
        assert leader.registry.instances["acct-1"].node_id == winner.node_id

    play(scenario)
