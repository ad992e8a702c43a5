"""Whatever is asked of the registry, in any order, and whatever is in the payloads."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aegis.actors._registry import Decision, Holder, Probe, Registry
from aegis.actors._registry_entries import ResourceKey
from tests.actors.registry_bench import Bench, instance, resources

OPERATIONS = ["service.register", "service.unregister", "resource.register", "resource.release"]

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        "service_name",
        "instance_id",
        "node_id",
        "role",
        "metadata",
        "timestamp",
        "trace_id",
        "resource_ids",
        "force",
    ]
)
good_names = st.text(string.ascii_letters + string.digits + "-_.*>/é", min_size=1, max_size=5)


@given(st.sampled_from(OPERATIONS), plain | st.dictionaries(fields, plain | good_names))
def test_any_payload_gets_an_answer_and_only_a_good_one_writes(
    operation: str, payload: Any
) -> None:
    decision = Registry().handle(operation, payload)
    assert isinstance(decision, Decision)
    if decision.reply["success"]:
        assert decision.writes
    else:
        assert not decision.writes
        assert decision.reply["code"] in (400, 404)
        assert decision.reply["message"]
        if decision.reply["code"] == 400:
            assert isinstance(decision.reply["field"], str)


INSTANCES = ["a", "b", "c"]
NODES = ["n1", "n2"]
RESOURCES = ["1", "2", "3", "4"]
LIMIT = 3


class RegistryMachine(RuleBasedStateMachine):
    """Instances come, go, die and take resources from each other."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(limit=LIMIT)
        self.highest: dict[ResourceKey, int] = {}

    @rule(
        name=st.sampled_from(INSTANCES),
        node=st.sampled_from(NODES),
        alive=st.booleans(),
        service=st.sampled_from(["s", "s", "s", "t"]),
    )
    def register(self, name: str, node: str, alive: bool, service: str) -> None:
        before = self.bench.registry.instances.get(name)
        if before is not None:
            self.bench.alive = {Holder(name, before.node_id): alive}
        reply = self.bench.ask("service.register", instance(name, service, node_id=node))
        if reply["success"]:
            assert self.bench.registry.instances[name].node_id == node
        else:
            assert before is not None
            assert reply["code"] == 409
            assert self.bench.registry.instances[name] == before

    @rule(name=st.sampled_from(INSTANCES), node=st.sampled_from(NODES))
    def unregister(self, name: str, node: str) -> None:
        self.bench.ask("service.unregister", instance(name, "s", node_id=node))

    @rule(
        name=st.sampled_from(INSTANCES),
        node=st.sampled_from(NODES),
        ids=st.lists(st.sampled_from(RESOURCES), unique=True, min_size=1),
        force=st.booleans(),
        role=st.sampled_from(["active", "standby"]),
    )
    def claim(self, name: str, node: str, ids: list[str], force: bool, role: str) -> None:
        before = dict(self.bench.registry.resources)
        reply = self.bench.ask(
            "resource.register",
            resources(*ids, instance_id=name, service="s", node_id=node, force=force, role=role),
        )
        if "conflicts" not in reply:
            assert self.bench.registry.resources == before
            return
        assert sorted([*reply["registered"], *reply["conflicts"]]) == sorted(ids)
        for resource_id, owner in reply["conflicts"].items():
            assert before["s", resource_id].instance_id == owner
        for resource_id, epoch in reply["epochs"].items():
            after = self.bench.registry.resources["s", resource_id]
            assert (after.instance_id, after.node_id, after.epoch) == (name, node, epoch)
            old = before.get(("s", resource_id))
            if old is not None and (old.instance_id, old.node_id) != (name, node):
                assert force or self.was_orphaned(old.instance_id, old.node_id)
                assert after.contested

    def was_orphaned(self, owner: str, node: str) -> bool:
        current = self.bench.registry.instances.get(owner)
        return current is None or current.node_id != node

    @rule(
        name=st.sampled_from(INSTANCES),
        node=st.sampled_from(NODES),
        ids=st.lists(st.sampled_from(RESOURCES), unique=True, min_size=1),
    )
    def release(self, name: str, node: str, ids: list[str]) -> None:
        before = dict(self.bench.registry.resources)
        reply = self.bench.ask(
            "resource.release", resources(*ids, instance_id=name, service="s", node_id=node)
        )
        gone = before.keys() - self.bench.registry.resources.keys()
        if not reply["success"]:
            assert not gone
        for key in gone:
            assert (before[key].instance_id, before[key].node_id) == (name, node)

    @rule(name=st.sampled_from(INSTANCES), node=st.sampled_from(NODES))
    def give_up(self, name: str, node: str) -> None:
        decision = self.bench.registry.give_up(name, node, "silence")
        if decision is not None:
            self.bench.commit(decision)

    @rule(name=st.sampled_from(INSTANCES), ids=st.lists(st.sampled_from(RESOURCES), unique=True))
    def a_decision_whose_write_is_refused(self, name: str, ids: list[str]) -> None:
        before = self.snapshot(self.bench.registry)
        decision = self.bench.decide(
            "resource.register", resources(*ids, instance_id=name, service="s", force=True)
        )
        assert isinstance(decision, Decision | Probe)
        assert self.snapshot(self.bench.registry) == before

    @invariant()
    def epochs_never_fall(self) -> None:
        for key, resource in self.bench.registry.resources.items():
            assert resource.epoch >= self.highest.get(key, 0)
            self.highest[key] = resource.epoch

    @invariant()
    def every_owner_is_registered_on_its_node_and_within_its_limit(self) -> None:
        registry = self.bench.registry
        for key, resource in registry.resources.items():
            owner = registry.instances[resource.instance_id]
            assert (owner.node_id, owner.service) == (resource.node_id, key[0])
        for name in INSTANCES:
            held = registry.owned.get(name, set()) | registry.stood_by.get(name, set())
            assert len(held) <= LIMIT

    @invariant()
    def indexes_agree_with_the_records(self) -> None:
        registry = self.bench.registry
        owned: dict[str, set[ResourceKey]] = {}
        for key, resource in registry.resources.items():
            owned.setdefault(resource.instance_id, set()).add(key)
        assert registry.owned == owned
        stood_by: dict[str, set[ResourceKey]] = {}
        for key, standbys in registry.standbys.items():
            for name in standbys:
                stood_by.setdefault(name, set()).add(key)
        assert registry.stood_by == stood_by

    @invariant()
    def a_follower_of_the_stream_has_the_same_state(self) -> None:
        assert self.snapshot(self.bench.follower()) == self.snapshot(self.bench.registry)

    @staticmethod
    def snapshot(registry: Registry) -> Any:
        return (
            dict(registry.instances),
            dict(registry.resources),
            {key: dict(standbys) for key, standbys in registry.standbys.items()},
            dict(registry.contested_tombstones),
            {name: set(members) for name, members in registry.by_service.items()},
            {name: set(members) for name, members in registry.by_node.items()},
        )


TestRegistryMachine = RegistryMachine.TestCase
