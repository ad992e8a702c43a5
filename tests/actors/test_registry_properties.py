"""Whatever is asked of the registry, in any order, and whatever is in the payloads."""

from __future__ import annotations

import string
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aegis.actors import _placement as placement
from aegis.actors._decision import Decision, Holder, Probe
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import InstanceState, ResourceKey
from aegis.actors._requests import handle
from tests.actors.registry_bench import Bench, instance, resources

OPERATIONS = [
    "service.register",
    "service.unregister",
    "service.disconnect",
    "resource.register",
    "resource.release",
]

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
    decision = handle(Registry(), operation, payload)
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
        owned = set(self.bench.registry.owned.get(name, ()))
        if before is not None:
            self.bench.alive = {Holder(name, before.node_id): alive}
        reply = self.bench.ask("service.register", instance(name, service, node_id=node))
        if reply["success"]:
            assert self.bench.registry.instances[name].node_id == node
            if before is not None and before.node_id != node and before.service == service:
                self.assert_nothing_is_lost(owned)
        else:
            assert before is not None
            assert reply["code"] == 409
            assert self.bench.registry.instances[name] == before

    def assert_nothing_is_lost(self, keys: set[ResourceKey]) -> None:
        for key in keys:
            assert key in self.bench.registry.resources

    @rule(name=st.sampled_from(INSTANCES), node=st.sampled_from(NODES))
    def unregister(self, name: str, node: str) -> None:
        with self.a_departure_of(name, node):
            self.bench.ask("service.unregister", instance(name, "s", node_id=node))

    @rule(name=st.sampled_from(INSTANCES))
    def disconnect(self, name: str) -> None:
        before = self.bench.registry.instances.get(name)
        with self.a_departure_of(name, "" if before is None else before.node_id):
            reply = self.bench.ask("service.disconnect", {"instance_id": name})
        assert reply["success"] is (before is not None)
        assert name not in self.bench.registry.instances

    @contextmanager
    def a_departure_of(self, name: str, node: str) -> Generator[None]:
        """Check that all that ``name`` owned goes to the best standby, or to nobody."""
        registry = self.bench.registry
        before = registry.instances.get(name)
        heirs = {key: self.best(key, name) for key in registry.owned.get(name, ())}
        epochs = {key: registry.resources[key].epoch for key in heirs}
        yield
        if before is None or before.node_id != node or before.service != "s":
            return
        for key, heir in heirs.items():
            after = registry.resources.get(key)
            assert (None if after is None else after.instance_id) in heir
            if after is not None:
                assert after.epoch > epochs[key]
                assert after.instance_id not in registry.standbys.get(key, {})

    def best(self, key: ResourceKey, but: str = "") -> set[str | None]:
        """Return the healthy standbys that have applied most, or nobody, by counting."""
        registry = self.bench.registry
        fit = {
            name: registry.applied.get(name, standby.node_id, key[1])
            for name, standby in registry.standbys.get(key, {}).items()
            if name != but
            and name in registry.instances
            and registry.instances[name].state is InstanceState.HEALTHY
        }
        told = {name: -1 if applied is None else applied for name, applied in fit.items()}
        most = max(told.values(), default=None)
        return {name for name, applied in told.items() if applied == most} or {None}

    @rule(name=st.sampled_from(INSTANCES), state=st.sampled_from(InstanceState))
    def mark(self, name: str, state: InstanceState) -> None:
        registry = self.bench.registry
        owned = set(registry.owned.get(name, ()))
        heirs = {key: self.best(key, name) for key in owned}
        decision = placement.mark(registry, name, state, "silence")
        if decision is None:
            return
        self.bench.commit(decision)
        assert registry.instances[name].state is state
        self.assert_nothing_is_lost(owned)
        if state is InstanceState.UNHEALTHY:
            for key, heir in heirs.items():
                assert registry.resources[key].instance_id in {one or name for one in heir}

    @rule()
    def relocate(self) -> None:
        registry = self.bench.registry
        while (decision := placement.relocate(registry)) is not None:
            self.bench.commit(decision)
        for key in registry.standbys:
            owner = registry.resources.get(key)
            well = owner is not None and (
                key in registry.displaced.get(owner.instance_id, ())
                or registry.instances[owner.instance_id].state is InstanceState.HEALTHY
            )
            assert well or self.best(key, owner.instance_id if owner else "") == {None}

    @rule(name=st.sampled_from(INSTANCES))
    def abandon(self, name: str) -> None:
        decision = placement.abandon(self.bench.registry, name)
        if decision is not None:
            self.bench.commit(decision)
        assert name not in self.bench.registry.displaced

    @rule(
        name=st.sampled_from(INSTANCES),
        resource=st.sampled_from(RESOURCES),
        applied=st.integers(min_value=0, max_value=9),
    )
    def apply(self, name: str, resource: str, applied: int) -> None:
        found = self.bench.registry.instances.get(name)
        if found is not None:
            self.bench.registry.applied.note(name, found.node_id, {resource: applied}, RESOURCES)

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
                assert force or old.instance_id == name
                assert after.contested

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
        decision = placement.give_up(self.bench.registry, name, node, "silence")
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
            displaced = key in registry.displaced.get(owner.instance_id, ())
            assert displaced is (owner.node_id != resource.node_id)
            assert owner.service == key[0]
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
        for key, standbys in registry.standbys.items():
            owner = registry.resources.get(key)
            assert owner is None or owner.instance_id not in standbys or self.is_displaced(key)
            well = owner is not None and (
                registry.instances[owner.instance_id].state is InstanceState.HEALTHY
                or self.is_displaced(key)
            )
            if owner is None or owner.instance_id not in standbys:
                assert (key in registry.unattended) is not well
        assert registry.unattended <= registry.standbys.keys()

    def is_displaced(self, key: ResourceKey) -> bool:
        owner = self.bench.registry.resources[key].instance_id
        return key in self.bench.registry.displaced.get(owner, ())

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
            {name: set(keys) for name, keys in registry.displaced.items()},
            set(registry.unattended),
        )


TestRegistryMachine = RegistryMachine.TestCase
