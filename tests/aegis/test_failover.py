"""An active instance is lost, leaves or comes back, and its standby carries on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from attrs import define

from aegis import AegisActor, Conflict, applies, command, query
from aegis._holdings import Holding
from aegis._inspect import Inspector
from aegis._node import Node
from aegis.contracts import Kind, Role
from aegis.testing import MemoryTransport
from aegis.transport._codec import decode_value
from tests.support.poll import wait_until
from tests.support.services import Ledger, Vault
from tests.support.system import System, on_both
from tests.support.virtual import pass_time

pytestmark = pytest.mark.timeout(120)


class Load:
    """Callers that add 1 to a resource, over and over; what they were told."""

    def __init__(self, system: System, service: str, resource: str, callers: int = 8) -> None:
        self.acknowledged = 0
        self.totals: list[Decimal] = []
        self.failed: list[BaseException] = []
        self.longest = 0.0
        self._system = system
        self._address = (service, resource)
        self._going = True
        self._tasks = [asyncio.ensure_future(self._call()) for _ in range(callers)]

    async def _call(self) -> None:
        service, resource = self._address
        loop = asyncio.get_running_loop()
        while self._going:
            begun = loop.time()
            try:
                total = await self._system.cluster.call(
                    service, "deposit", {"amount": "1"}, resource_id=resource
                )
            except Exception as error:
                self.failed.append(error)
                return
            self.longest = max(self.longest, loop.time() - begun)
            self.acknowledged += 1
            self.totals.append(Decimal(total))
            if self._system.is_virtual:
                await pass_time(0.001)  # Or else no time would ever pass.

    async def wait_more(self, count: int = 50) -> None:
        wanted = self.acknowledged + count
        await wait_until(
            lambda: self.acknowledged >= wanted or bool(self.failed),
            what=f"{count} more calls are answered",
            timeout=40,
        )
        assert not self.failed, self.failed

    async def end(self) -> None:
        self._going = False
        await asyncio.wait_for(asyncio.gather(*self._tasks), 60)
        assert not self.failed, self.failed

    def assert_exact(self) -> None:
        """Each deposit took effect once: the totals told are 1, 2, 3 and so on."""
        assert sorted(self.totals) == [Decimal(n) for n in range(1, self.acknowledged + 1)]


def holding(node: Node, instance_id: str, resource_id: str) -> Holding:
    return node._instances[instance_id].holdings.all[resource_id]


def follows(node: Node, instance_id: str, resource_id: str, sequence: int) -> Callable[[], bool]:
    def is_there() -> bool:
        held = holding(node, instance_id, resource_id)
        return held.behaviour is not None and held.behaviour.applied >= sequence

    return is_there


async def owner_of(system: System, service: str, resource_id: str) -> dict[str, Any]:
    inspector = Inspector(system.transport, system.subjects)
    (route,) = await inspector.routes(resource_id, service)
    return route


async def last_sequence(system: System, service: str, resource: str) -> int:
    return (await system.records(service, resource))[-1][0]


# -- loss of the active instance ------------------------------------------------------------


@pytest.mark.parametrize("actor_class", [Vault, Ledger])
def test_a_standby_takes_over_from_a_killed_owner_with_nothing_lost_or_repeated(
    backend: Any, actor_class: type[AegisActor]
) -> None:
    async def scenario(system: System) -> None:
        service = str(actor_class.service)  # type: ignore[attr-defined]
        first = await system.start_node((actor_class, ["R-1"]), instance_id="a")
        second = await system.start_node((actor_class, ["R-1"]), instance_id="b", role="standby")
        before = (await owner_of(system, service, "R-1"))["epoch"]
        load = Load(system, service, "R-1")
        await load.wait_more()
        await system.kill_node(first)
        await load.wait_more()
        await load.end()
        load.assert_exact()
        route = await owner_of(system, service, "R-1")
        assert route["instance_id"] == "b"
        assert route["epoch"] > before
        held = holding(second, "b", "R-1")
        assert held.cell is not None
        assert held.cell.actor.role is Role.ACTIVE
        assert held.cell.actor.epoch == route["epoch"]
        total = await system.cluster.call(service, "total", resource_id="R-1")
        assert Decimal(total) == load.acknowledged

    backend.run(scenario)


@on_both
async def test_epochs_rise_with_each_owner_and_the_state_goes_along(system: System) -> None:
    nodes = {"a": await system.start_node((Vault, ["V-1"]), instance_id="a")}
    epochs: list[int] = []
    for number, (old, new) in enumerate([("a", "b"), ("b", "c"), ("c", "d")], 1):
        nodes[new] = await system.start_node((Vault, ["V-1"]), instance_id=new, role="standby")
        call = system.cluster.call("vault", "deposit", {"amount": "1"}, resource_id="V-1")
        assert await call == str(number)
        epochs.append((await owner_of(system, "vault", "V-1"))["epoch"])
        await system.kill_node(nodes[old])
    call = system.cluster.call("vault", "deposit", {"amount": "1"}, resource_id="V-1")
    assert await call == "4"
    epochs.append((await owner_of(system, "vault", "V-1"))["epoch"])
    assert epochs == sorted(set(epochs))
    fences = [r.epoch for _, r in await system.records("vault", "V-1") if r.is_fence]
    assert fences == epochs


@on_both
async def test_a_repeat_is_answered_by_the_new_owner_from_its_table(system: System) -> None:
    first = await system.start_node((Vault, ["V-1"]), instance_id="a")
    await system.start_node((Vault, ["V-1"]), instance_id="b", role="standby")
    request = system.request("vault", "deposit", {"amount": "5"}, resource="V-1")
    answer = await system.ask("a", request)
    await system.kill_node(first)
    call = system.cluster.call("vault", "deposit", {"amount": "1"}, resource_id="V-1")
    assert await call == "6"
    request.attempt = 2
    assert await system.ask("b", request) == answer


@on_both
async def test_both_nodes_killed_and_started_again_have_everything(system: System) -> None:
    first = await system.start_node((Ledger, ["L-1"]), instance_id="a")
    second = await system.start_node((Ledger, ["L-1"]), instance_id="b", role="standby")
    load = Load(system, "ledger", "L-1")
    await load.wait_more()
    await load.end()
    await system.kill_node(first)
    await system.kill_node(second)
    await system.start_node((Ledger, ["L-1"]), instance_id="b", role="standby")
    await system.start_node((Ledger, ["L-2"]), instance_id="a")
    total = await system.cluster.call("ledger", "total", resource_id="L-1")
    assert Decimal(total) == load.acknowledged


@on_both
async def test_a_standby_for_a_resource_that_nobody_holds_becomes_its_owner(
    system: System,
) -> None:
    node = await system.start_node((Vault, ["V-1"]), instance_id="b", role="standby")
    held = holding(node, "b", "V-1")
    await wait_until(
        lambda: held.role is Role.ACTIVE and held.matches(), what="the standby is the owner"
    )
    call = system.cluster.call("vault", "deposit", {"amount": "1"}, resource_id="V-1")
    assert await call == "1"
    assert (await owner_of(system, "vault", "V-1"))["instance_id"] == "b"


# -- following ------------------------------------------------------------------------------


@on_both
async def test_a_standby_answers_nothing_and_is_as_far_as_the_owner(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="a")
    second = await system.start_node((Vault, ["V-1"]), instance_id="b", role="standby")
    for _ in range(5):
        await system.cluster.call("vault", "deposit", {"amount": "1"}, resource_id="V-1")
    last = await last_sequence(system, "vault", "V-1")
    await wait_until(follows(second, "b", "V-1", last), what="the standby has followed")
    for kind, method in ((Kind.QUERY, "total"), (Kind.COMMAND, "deposit")):
        request = system.request("vault", method, {}, resource="V-1", kind=kind)
        assert (await system.ask("b", request)).status == 421

    async def tells_no_lag() -> bool:
        (standby,) = (await owner_of(system, "vault", "V-1"))["standbys"]
        return (standby["instance_id"], standby.get("lag")) == ("b", 0)

    await wait_until(tells_no_lag, what="the supervisors tell that the standby has no lag")


@on_both
async def test_a_standby_that_comes_late_reads_what_was_there_before(system: System) -> None:
    first = await system.start_node((Ledger, ["L-1", "L-2", "L-3"]), instance_id="a")
    for resource in ("L-1", "L-2", "L-3"):
        await system.cluster.call("ledger", "deposit", {"amount": "2"}, resource_id=resource)
    second = await system.start_node((Ledger, ["L-1"]), instance_id="b", role="standby")
    last = await last_sequence(system, "ledger", "L-1")
    await wait_until(follows(second, "b", "L-1", last), what="the first journal is followed")
    # These come when the service's journals are being followed already.
    await second.add_resources("b", ["L-2", "L-3"], role=Role.STANDBY)
    for resource in ("L-2", "L-3"):
        await system.cluster.call("ledger", "deposit", {"amount": "3"}, resource_id=resource)
        last = await last_sequence(system, "ledger", resource)
        await wait_until(follows(second, "b", resource, last), what="the others are followed")
    await system.kill_node(first)
    totals = [
        await system.cluster.call("ledger", "total", resource_id=resource)
        for resource in ("L-1", "L-2", "L-3")
    ]
    assert totals == ["2", "5", "5"]


@pytest.mark.parametrize("actor_class", [Vault, Ledger])
def test_a_standby_loads_a_snapshot_that_comes_while_it_follows(
    backend: Any, actor_class: type[AegisActor]
) -> None:
    async def scenario(system: System) -> None:
        service = str(actor_class.service)  # type: ignore[attr-defined]
        first = await system.start_node((actor_class, ["R-1"]), instance_id="a")
        second = await system.start_node((actor_class, ["R-1"]), instance_id="b", role="standby")
        for _ in range(520):
            await system.cluster.call(service, "deposit", {"amount": "1"}, resource_id="R-1")
        records = await system.records(service, "R-1")
        assert records[0][1].is_snapshot
        assert len(records) < 520
        await wait_until(follows(second, "b", "R-1", records[-1][0]), what="it has followed")
        await system.kill_node(first)
        assert await system.cluster.call(service, "total", resource_id="R-1") == "520"

    backend.run(scenario)


@pytest.mark.parametrize("actor_class", [Vault, Ledger])
def test_the_state_of_a_standby_is_that_of_the_owner_at_the_same_sequence(
    backend: Any, actor_class: type[AegisActor]
) -> None:
    async def scenario(system: System) -> None:
        service = str(actor_class.service)  # type: ignore[attr-defined]
        first = await system.start_node((actor_class, ["R-1"]), instance_id="a")
        second = await system.start_node((actor_class, ["R-1"]), instance_id="b", role="standby")
        load = Load(system, service, "R-1")
        await load.wait_more(200)
        await load.end()
        last = await last_sequence(system, service, "R-1")
        await wait_until(follows(second, "b", "R-1", last), what="the standby has followed")
        active, standby = holding(first, "a", "R-1"), holding(second, "b", "R-1")
        assert active.behaviour is not None
        assert standby.behaviour is not None
        assert active.cell is not None
        assert standby.cell is not None
        mine, theirs = standby.behaviour.owner, active.behaviour.owner
        assert mine.sessions.to_wire() == theirs.sessions.to_wire()
        assert mine.last_sequence == theirs.last_sequence
        if actor_class is Ledger:
            state = standby.cell.actor.state  # type: ignore[attr-defined]
            assert state == active.cell.actor.state  # type: ignore[attr-defined]
        else:
            # A standby keeps a snapshot as it is stored, and opens it when it is promoted.
            assert mine.state is not None
            assert mine.state == theirs.state
        await system.kill_node(first)
        total = await system.cluster.call(service, "total", resource_id="R-1")
        assert Decimal(total) == load.acknowledged

    backend.run(scenario)


# -- hooks ----------------------------------------------------------------------------------


@define
class Added:
    amount: int


@define
class TallyState:
    value: int = 0


def telling(told: list[tuple[Any, ...]]) -> type[AegisActor]:
    """Return a service whose hooks say what happens to it."""

    class Tally(AegisActor):
        service = "tally"
        state: TallyState

        @applies(Added)
        def on_added(self, event: Added) -> None:
            self.state.value += event.amount

        async def on_start(self) -> None:
            if self.resource_id is None:
                return  # This is the actor of the instance itself.
            told.append((self.instance_id, "start", str(self.role)))

        async def on_promote(self, epoch: int) -> None:
            assert epoch == self.epoch
            assert self.role is Role.ACTIVE
            told.append((self.instance_id, "promote", self.state.value))

        def on_demote(self) -> None:
            told.append((self.instance_id, "demote"))

        @command
        async def add(self, amount: int) -> int:
            self.emit(Added(amount))
            return self.state.value

        @query
        async def value(self) -> int:
            return self.state.value

    return Tally


@on_both
async def test_hooks_tell_of_promotion_and_demotion_once_each(system: System) -> None:
    told: list[tuple[Any, ...]] = []
    tally = telling(told)
    first = await system.start_node((tally, ["T-1"]), instance_id="a")
    await system.start_node((tally, ["T-1"]), instance_id="b", role="standby")
    await system.cluster.call("tally", "add", {"amount": 7}, resource_id="T-1")
    assert told == [("a", "start", "active"), ("a", "promote", 0), ("b", "start", "standby")]
    told.clear()
    # Taken by force, the first one becomes a standby.
    third = await system.start_node(tally, instance_id="c")
    await third.add_resources("c", ["T-1"], force=True)
    assert await system.cluster.call("tally", "value", resource_id="T-1") == 7
    await wait_until(
        lambda: ("a", "start", "standby") in told, what="the old owner has become a standby"
    )
    assert [entry for entry in told if entry[0] == "a"] == [
        ("a", "demote"),
        ("a", "start", "standby"),
    ]
    told.clear()
    await system.stop_node(third)
    assert await system.cluster.call("tally", "value", resource_id="T-1") == 7
    (promoted,) = told[-1:]
    assert promoted in (("a", "promote", 7), ("b", "promote", 7))
    assert first in system.nodes


@on_both
async def test_a_promotion_is_told_with_the_time_of_each_step(system: System) -> None:
    heard = await system.overhear("event.>")
    first = await system.start_node((Vault, ["V-1"]), instance_id="a")
    await system.start_node((Vault, ["V-1"]), instance_id="b", role="standby")
    await system.cluster.call("vault", "deposit", {"amount": "1"}, resource_id="V-1")
    await system.kill_node(first)
    await system.cluster.call("vault", "deposit", {"amount": "1"}, resource_id="V-1")

    def events(name: str) -> list[dict[str, Any]]:
        facts = [decode_value(message.payload) for message in heard]
        return [fact for fact in facts if fact["event"] == name]

    await wait_until(lambda: bool(events("first_answer")), what="the first answer is told")
    (serving,), (answer,) = events("serving"), events("first_answer")
    assert (serving["instance_id"], serving["resource_id"]) == ("b", "V-1")
    assert 0 <= serving["fenced_ms"] <= serving["replayed_ms"] <= serving["covered_ms"]
    assert answer["first_answer_ms"] >= answer["covered_ms"]
    assert answer["epoch"] == serving["epoch"]
    assert serving["epochs"] == {"V-1": serving["epoch"]}
    # The leader joins that to the reason, and to what it took itself.
    await wait_until(lambda: bool(events("failed_over")), what="the failover is told as a whole")
    (promoted,), (failover,) = events("promoted"), events("failed_over")
    assert (failover["old_instance_id"], failover["instance_id"]) == ("a", "b")
    assert failover["cause"] == promoted["cause"] == "silence"
    assert failover["epochs"] == promoted["epochs"] == answer["epochs"]
    steps = failover["durations"]
    assert steps["detected"] == promoted["durations"]["detected"] > 0
    assert steps["decided"] == promoted["durations"]["decided"] >= 0
    assert 0 <= steps["fenced"] <= steps["replayed"] <= steps["covered"] <= steps["first_answer"]
    assert steps["total"] >= steps["detected"] + steps["decided"] + steps["first_answer"] - 1e-6


@on_both
async def test_promotions_of_one_moment_are_told_together(system: System) -> None:
    heard = await system.overhear("event.serving")
    names = [f"V-{number}" for number in range(40)]
    first = await system.start_node((Vault, names), instance_id="a")
    await system.start_node((Vault, names), instance_id="b", role="standby")
    await system.kill_node(first)
    told: dict[str, int] = {}

    def all_are_told() -> bool:
        for message in heard:
            told.update(decode_value(message.payload)["epochs"])
        return set(names) <= set(told)

    await wait_until(all_are_told, what="every promotion is told")
    assert len(heard) < len(names) / 4
    for facts in (decode_value(message.payload) for message in heard):
        assert sorted(facts["epochs"]) == sorted(facts["resource_ids"])
        assert facts["resources"] == len(facts["epochs"])
        assert 0 <= facts["fenced_ms"] <= facts["replayed_ms"] <= facts["covered_ms"]


# -- leaving in good order ------------------------------------------------------------------


@on_both
async def test_a_node_that_drains_hands_over_without_any_timeout(system: System) -> None:
    await system.start_node()  # leads, and stays
    first = await system.start_node((Vault, ["V-1"]), instance_id="a")
    second = await system.start_node((Vault, ["V-1"]), instance_id="b", role="standby")
    load = Load(system, "vault", "V-1")
    await load.wait_more()
    load.longest = 0.0
    await system.stop_node(first)
    await load.wait_more()
    await load.end()
    load.assert_exact()
    assert holding(second, "b", "V-1").role is Role.ACTIVE
    assert load.longest < 0.5


@on_both
async def test_a_node_that_leads_drains_as_fast(system: System) -> None:
    first = await system.start_node((Vault, ["V-1"]), instance_id="a")
    await system.start_node((Vault, ["V-1"]), instance_id="b", role="standby")
    assert first.supervisor is not None
    assert first.supervisor.leading
    load = Load(system, "vault", "V-1")
    await load.wait_more()
    load.longest = 0.0
    await system.stop_node(first)
    await load.wait_more()
    await load.end()
    load.assert_exact()
    assert load.longest < 0.5


@on_both
async def test_a_new_owner_that_waits_for_an_old_lease_can_end_at_once(system: System) -> None:
    await system.start_node()  # leads, and stays
    first = await system.start_node((Vault, ["V-1"]), instance_id="a")
    second = await system.start_node((Vault, ["V-1"]), instance_id="b", role="standby")
    await system.cluster.call("vault", "deposit", {"amount": "1"}, resource_id="V-1")
    if not isinstance(first.transport, MemoryTransport):
        return  # A connection to a real server is back at once.
    first.transport.disconnect()
    await Inspector(system.transport, system.subjects).disconnect("a")
    behaviour = holding(second, "b", "V-1").behaviour
    assert behaviour is not None
    await wait_until(lambda: behaviour.owns, what="the new owner waits for the lease alone")
    assert behaviour.is_succeeding
    begun = asyncio.get_running_loop().time()
    await system.stop_node(second)
    assert asyncio.get_running_loop().time() - begun < 0.5


@on_both
async def test_an_instance_that_is_disconnected_comes_back_as_a_standby(system: System) -> None:
    first = await system.start_node((Vault, ["V-1"]), instance_id="a")
    await system.start_node((Vault, ["V-1"]), instance_id="b", role="standby")
    load = Load(system, "vault", "V-1")
    await load.wait_more()
    answer = await Inspector(system.transport, system.subjects).disconnect("a")
    assert answer["promoted"] == {"V-1": "b"}
    await load.wait_more()
    await load.end()
    load.assert_exact()

    async def stands_by() -> bool:
        route = await owner_of(system, "vault", "V-1")
        names = [standby["instance_id"] for standby in route["standbys"]]
        return (route["instance_id"], names) == ("b", ["a"])

    await wait_until(stands_by, what="the evicted instance stands by")
    await wait_until(
        follows(first, "a", "V-1", await last_sequence(system, "vault", "V-1")),
        what="the evicted instance follows",
    )


# -- zombies --------------------------------------------------------------------------------


@on_both
async def test_an_owner_that_was_cut_off_comes_back_as_a_standby(system: System) -> None:
    await system.start_node()  # leads, and stays
    first = await system.start_node((Vault, ["V-1"]), instance_id="a")
    second = await system.start_node((Vault, ["V-1"]), instance_id="b", role="standby")
    load = Load(system, "vault", "V-1")
    await load.wait_more()
    transport = first.transport
    if not isinstance(transport, MemoryTransport):
        await load.end()
        return  # A connection to a real server is back at once: see the processes' tests.
    transport.disconnect()
    await load.wait_more()
    transport.reconnect()
    await wait_until(
        lambda: holding(first, "a", "V-1").role is Role.STANDBY
        and holding(first, "a", "V-1").matches(),
        what="the old owner has become a standby",
    )
    await load.wait_more()
    await load.end()
    load.assert_exact()
    last = await last_sequence(system, "vault", "V-1")
    await wait_until(follows(first, "a", "V-1", last), what="the old owner follows the new one")
    await system.kill_node(second)
    total = await system.cluster.call("vault", "total", resource_id="V-1")
    assert Decimal(total) == load.acknowledged


@on_both
async def test_a_start_by_force_takes_resources_and_leaves_their_owner_as_a_standby(
    system: System,
) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="one")
    vault = system.cluster.actor(Vault, "V-1")
    await vault.deposit(amount=Decimal(1))
    with pytest.raises(Conflict, match="--force"):
        await system.start_node((Vault, ["V-1"]), instance_id="two")
    await system.stop_node(system.nodes[-1])
    taker = await system.start_node((Vault, ["V-1"]), instance_id="two", force=True)
    assert await vault.deposit(amount=Decimal(2)) == 3
    inspector = Inspector(system.transport, system.subjects)

    async def is_followed() -> bool:
        (route,) = await inspector.routes("V-1")
        return [one["instance_id"] for one in route["standbys"]] == ["one"]

    await wait_until(is_followed, what="the one before stands by", timeout=30)
    await system.stop_node(taker)
    assert await vault.deposit(amount=Decimal(4)) == 7
