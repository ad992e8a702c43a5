"""Which standby owns a resource next, when, and who is told what."""

from __future__ import annotations

from typing import Any

import pytest

from aegis.actors import _placement as placement
from aegis.actors import _queries as queries
from aegis.actors import _registration as registration
from aegis.actors._decision import Decision, Holder
from aegis.actors._registry_entries import InstanceState, resource_key, standby_key
from tests.actors.registry_bench import Bench, instance, resources

REGISTER = "service.register"
UNREGISTER = "service.unregister"
DISCONNECT = "service.disconnect"
CLAIM = "resource.register"
RELEASE = "resource.release"

R1 = ("account", "R-1")


def of(number: int, *resource_ids: str, **fields: Any) -> dict[str, Any]:
    """Return a payload about resources of ``acct-<number>`` on ``node-<number>``."""
    return resources(
        *resource_ids, instance_id=f"acct-{number}", node_id=f"node-{number}", **fields
    )


@pytest.fixture
def bench() -> Bench:
    """``acct-1`` owns R-1 and R-2; ``acct-2`` and ``acct-3`` stand by for R-1."""
    bench = Bench(limit=10)
    for number in (1, 2, 3):
        payload = instance(f"acct-{number}", node_id=f"node-{number}")
        assert bench.ask(REGISTER, payload)["success"]
    bench.ask(CLAIM, of(1, "R-1", "R-2"))
    bench.ask(CLAIM, of(2, "R-1", role="standby"))
    bench.ask(CLAIM, of(3, "R-1", role="standby"))
    bench.events.clear()
    return bench


def apply(bench: Bench, number: int, sequence: int, resource_id: str = "R-1") -> None:
    bench.registry.applied.note(
        f"acct-{number}", f"node-{number}", {resource_id: sequence}, {"R-1", "R-2"}
    )


def mark(bench: Bench, number: int, state: InstanceState, cause: str = "silence") -> None:
    decision = placement.mark(bench.registry, f"acct-{number}", state, cause, bench.unsettled)
    assert decision is not None
    bench.commit(decision)


def relocate(bench: Bench) -> None:
    decision = placement.relocate(bench.registry, bench.unsettled)
    assert decision is not None
    bench.commit(decision)
    assert placement.relocate(bench.registry, bench.unsettled) is None


def owner(bench: Bench, resource_id: str = "R-1") -> str | None:
    resource = bench.registry.resources.get(("account", resource_id))
    return None if resource is None else resource.instance_id


def replace(bench: Bench, number: int, node_id: str, **fields: Any) -> None:
    name = f"acct-{number}"
    bench.alive = {Holder(name, f"node-{number}"): False}
    assert bench.ask(REGISTER, instance(name, node_id=node_id, **fields))["success"]


# -- who --------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "behind"), [(2, 3), (3, 2)])
def test_the_standby_that_has_applied_most_is_promoted(
    bench: Bench, ahead: int, behind: int
) -> None:
    apply(bench, ahead, 71)
    apply(bench, behind, 70)
    mark(bench, 1, InstanceState.UNHEALTHY)
    assert owner(bench) == f"acct-{ahead}"
    assert set(bench.registry.standbys[R1]) == {f"acct-{behind}"}


def test_a_standby_that_told_nothing_comes_last(bench: Bench) -> None:
    apply(bench, 3, 0)
    mark(bench, 1, InstanceState.UNHEALTHY)
    assert owner(bench) == "acct-3"


def test_what_an_earlier_process_had_applied_does_not_count(bench: Bench) -> None:
    apply(bench, 2, 10)
    apply(bench, 3, 90)
    replace(bench, 3, "node-9")
    bench.ask(CLAIM, resources("R-1", instance_id="acct-3", node_id="node-9", role="standby"))
    mark(bench, 1, InstanceState.UNHEALTHY)
    assert owner(bench) == "acct-2"


def test_among_equals_the_one_that_owns_least_is_promoted() -> None:
    bench = Bench()
    names = [f"R-{index}" for index in range(10)]
    for number in (1, 2, 3):
        bench.ask(REGISTER, instance(f"acct-{number}", node_id=f"node-{number}"))
    bench.ask(CLAIM, of(1, *names))
    bench.ask(CLAIM, of(2, *names, role="standby"))
    bench.ask(CLAIM, of(3, *names, role="standby"))
    mark(bench, 1, InstanceState.UNHEALTHY)
    assert len(bench.registry.owned["acct-2"]) == len(bench.registry.owned["acct-3"]) == 5


def test_a_standby_on_another_node_is_preferred(bench: Bench) -> None:
    bench.ask(REGISTER, instance("twin", node_id="node-1"))
    bench.ask(CLAIM, of(1, "R-3"))
    for name, node in (("twin", "node-1"), ("acct-2", "node-2")):
        bench.ask(CLAIM, resources("R-3", instance_id=name, node_id=node, role="standby"))
    bench.ask(UNREGISTER, instance("acct-1"))
    assert owner(bench, "R-3") == "acct-2"


@pytest.mark.parametrize("doubted", [True, False])
def test_an_unhealthy_standby_is_not_promoted(bench: Bench, doubted: bool) -> None:
    apply(bench, 2, 70)
    apply(bench, 3, 71)
    if doubted:
        # The roster knows it, and the record does not say so yet.
        bench.registry.doubted = {"acct-3"}
    else:
        mark(bench, 3, InstanceState.UNHEALTHY)
    mark(bench, 1, InstanceState.UNHEALTHY)
    assert owner(bench) == "acct-2"


# -- when -------------------------------------------------------------------------------


def test_one_write_names_the_new_owner_and_its_sequence_is_the_epoch(bench: Bench) -> None:
    old = bench.registry.resources[R1].epoch
    decision = placement.mark(bench.registry, "acct-1", InstanceState.UNHEALTHY, "silence")
    assert decision is not None
    assert [write.key for write in decision.writes if write.key[0] == "resource"] == [
        resource_key(*R1)
    ]
    assert owner(bench) == "acct-1"
    before = bench.sequence
    bench.commit(decision)
    after = bench.registry.resources[R1]
    assert (after.epoch, after.contested) == (before + 1, True)
    assert after.epoch > old
    [promoted] = [event for event in bench.events if event["event"] == "promoted"]
    assert promoted["epochs"] == {"R-1": after.epoch}


def test_an_unhealthy_owner_keeps_what_has_no_standby_until_it_is_gone(bench: Bench) -> None:
    mark(bench, 1, InstanceState.UNHEALTHY)
    assert owner(bench, "R-2") == "acct-1"
    decision = placement.give_up(bench.registry, "acct-1", "node-1", "silence")
    assert decision is not None
    bench.commit(decision)
    assert owner(bench, "R-2") is None
    assert owner(bench) == "acct-2"


def test_a_gone_owner_is_succeeded_and_the_rest_released(bench: Bench) -> None:
    decision = placement.give_up(bench.registry, "acct-1", "node-1", "silence")
    assert decision is not None
    bench.commit(decision)
    assert (owner(bench), owner(bench, "R-2")) == ("acct-2", None)
    assert [event["event"] for event in bench.events] == ["promoted", "released", "gone"]
    assert bench.registry.resources[R1].contested is True


def test_a_drained_owner_has_agreed_so_its_successor_need_not_wait(bench: Bench) -> None:
    reply = bench.ask(UNREGISTER, instance("acct-1"))
    assert (reply["promoted"], reply["released"]) == ({"R-1": "acct-2"}, ["R-2"])
    assert bench.registry.resources[R1].contested is False


def test_a_drained_owner_whose_predecessor_may_still_answer_leaves_it_contested(
    bench: Bench,
) -> None:
    bench.unsettled = {R1}
    bench.ask(UNREGISTER, instance("acct-1"))
    assert bench.registry.resources[R1].contested is True


def test_releasing_hands_over_to_a_standby(bench: Bench) -> None:
    reply = bench.ask(RELEASE, of(1, "R-1", "R-2", trace_id="t-1"))
    assert reply["released"] == ["R-1", "R-2"]
    assert reply["promoted"] == {"R-1": "acct-2"}
    assert (owner(bench), owner(bench, "R-2")) == ("acct-2", None)
    assert bench.registry.resources[R1].contested is False
    assert {event["trace_id"] for event in bench.events} == {"t-1"}


def test_a_standby_for_what_nobody_holds_is_promoted(bench: Bench) -> None:
    reply = bench.ask(CLAIM, of(3, "R-9", role="standby"))
    assert (reply["registered"], reply["epochs"]) == (["R-9"], {})
    relocate(bench)
    assert owner(bench, "R-9") == "acct-3"
    assert bench.events[-1]["cause"] == "vacant"
    assert bench.events[-1]["old_instance_id"] == ""
    assert ("account", "R-9") not in bench.registry.standbys


def test_a_standby_that_comes_after_its_owner_became_unhealthy_is_promoted(bench: Bench) -> None:
    mark(bench, 1, InstanceState.UNHEALTHY, "stalled")
    assert placement.relocate(bench.registry) is None
    bench.ask(CLAIM, of(3, "R-2", role="standby"))
    relocate(bench)
    assert owner(bench, "R-2") == "acct-3"
    assert bench.events[-1]["cause"] == "stalled"


def test_a_standby_that_is_healthy_again_is_promoted(bench: Bench) -> None:
    for number in (2, 3, 1):
        mark(bench, number, InstanceState.UNHEALTHY)
    assert owner(bench) == "acct-1"
    assert placement.relocate(bench.registry) is None
    mark(bench, 3, InstanceState.HEALTHY)
    relocate(bench)
    assert owner(bench) == "acct-3"


def test_nothing_moves_from_a_healthy_owner(bench: Bench) -> None:
    assert placement.relocate(bench.registry) is None


def test_an_old_owner_that_lives_on_stands_by_when_it_asks_to(bench: Bench) -> None:
    mark(bench, 1, InstanceState.UNHEALTHY)
    mark(bench, 1, InstanceState.HEALTHY)
    assert bench.ask(CLAIM, of(1, "R-1"))["conflicts"] == {"R-1": "acct-2"}
    assert bench.ask(CLAIM, of(1, "R-1", role="standby"))["registered"] == ["R-1"]
    apply(bench, 1, 500)
    mark(bench, 2, InstanceState.UNHEALTHY)
    assert owner(bench) == "acct-1"


def test_a_leader_that_fell_half_way_is_finished_by_the_next(bench: Bench) -> None:
    decision = placement.mark(bench.registry, "acct-1", InstanceState.UNHEALTHY, "silence")
    assert decision is not None
    bench.write(decision.writes[0])
    assert owner(bench) == "acct-2"
    assert "acct-2" in bench.registry.standbys[R1]
    # The record as a standby is in excess, whoever leads now.
    relocate(bench)
    assert set(bench.registry.standbys[R1]) == {"acct-3"}
    mark(bench, 1, InstanceState.UNHEALTHY)
    assert owner(bench) == "acct-2"


# -- a new process of the owner ---------------------------------------------------------


def test_what_a_new_process_does_not_claim_in_time_is_released(bench: Bench) -> None:
    bench.ask(RELEASE, of(2, "R-1"))
    bench.ask(RELEASE, of(3, "R-1"))
    replace(bench, 1, "node-9")
    assert bench.ask(CLAIM, resources("R-1", node_id="node-9"))["success"]
    decision = placement.abandon(bench.registry, "acct-1")
    assert decision is not None
    bench.commit(decision)
    assert (owner(bench), owner(bench, "R-2")) == ("acct-1", None)
    assert bench.events[-1]["cause"] == "abandoned"
    assert placement.abandon(bench.registry, "acct-1") is None


def test_a_standby_is_promoted_when_its_owner_is_replaced(bench: Bench) -> None:
    replace(bench, 1, "node-9")
    assert (owner(bench), owner(bench, "R-2")) == ("acct-2", "acct-1")
    assert bench.ask(CLAIM, resources("R-1", node_id="node-9"))["conflicts"] == {"R-1": "acct-2"}


def test_a_standby_that_comes_while_a_new_process_starts_waits_for_it(bench: Bench) -> None:
    replace(bench, 1, "node-9")
    bench.ask(CLAIM, of(3, "R-2", role="standby"))
    assert placement.relocate(bench.registry) is None
    decision = placement.abandon(bench.registry, "acct-1")
    assert decision is not None
    bench.commit(decision)
    assert owner(bench, "R-2") == "acct-3"


def test_a_new_process_that_only_stands_by_gives_up_what_the_one_before_owned(
    bench: Bench,
) -> None:
    replace(bench, 1, "node-9", role="standby")
    payload = resources("R-2", node_id="node-9", role="standby")
    assert bench.ask(CLAIM, payload)["registered"] == ["R-2"]
    relocate(bench)
    resource = bench.registry.resources["account", "R-2"]
    # Nobody else is there for it.
    assert (resource.instance_id, resource.node_id) == ("acct-1", "node-9")
    assert resource.contested is True


def test_a_new_process_with_the_id_for_another_service_releases_everything(bench: Bench) -> None:
    bench.alive = {Holder("acct-1", "node-1"): False}
    assert bench.ask(REGISTER, instance("acct-1", "risk", node_id="node-9"))["success"]
    assert (owner(bench), owner(bench, "R-2")) == ("acct-2", None)


# -- roles and force --------------------------------------------------------------------


def test_a_second_active_is_a_conflict_that_names_the_holder(bench: Bench) -> None:
    reply = bench.ask(CLAIM, of(2, "R-1"))
    assert (reply["code"], reply["holder"]) == (409, "acct-1")
    assert "acct-2" in bench.registry.standbys[R1]


def test_a_standby_may_take_over_by_force_and_stands_by_no_more(bench: Bench) -> None:
    assert bench.ask(CLAIM, of(2, "R-1", force=True))["registered"] == ["R-1"]
    assert owner(bench) == "acct-2"
    assert set(bench.registry.standbys[R1]) == {"acct-3"}


def test_force_takes_nothing_for_a_standby(bench: Bench) -> None:
    reply = bench.ask(CLAIM, of(3, "R-2", role="standby", force=True))
    assert (reply["registered"], reply["epochs"]) == (["R-2"], {})
    assert owner(bench, "R-2") == "acct-1"


def test_an_owner_that_asks_to_stand_by_is_told_to_release_first(bench: Bench) -> None:
    reply = bench.ask(CLAIM, of(1, "R-1", role="standby"))
    assert (reply["code"], reply["conflicts"]) == (409, {"R-1": "acct-1"})


def test_force_does_not_cross_a_change_of_owner_that_is_under_way(bench: Bench) -> None:
    mark(bench, 1, InstanceState.UNHEALTHY)
    bench.unsettled = {R1}
    reply = bench.ask(CLAIM, of(3, "R-1", force=True))
    assert (reply["code"], reply["holder"]) == (503, "acct-2")
    assert "try again" in reply["message"]
    bench.unsettled = set()
    assert bench.ask(CLAIM, of(3, "R-1", force=True))["success"]


def test_force_takes_from_a_process_that_has_yet_to_claim_it_again(bench: Bench) -> None:
    replace(bench, 1, "node-9")
    assert bench.ask(CLAIM, of(3, "R-2", force=True))["success"]
    assert bench.registry.displaced == {}


# -- disconnect -------------------------------------------------------------------------


def test_disconnecting_moves_what_it_held_and_needs_only_its_name(bench: Bench) -> None:
    reply = bench.ask(DISCONNECT, {"instance_id": "acct-1", "trace_id": "t-1"})
    assert reply["success"] is True
    assert (reply["service_name"], reply["node_id"]) == ("account", "node-1")
    assert (reply["promoted"], reply["released"]) == ({"R-1": "acct-2"}, ["R-2"])
    assert "acct-1" not in bench.registry.instances
    # It has agreed to nothing.
    assert bench.registry.resources[R1].contested is True
    assert bench.events[-1]["cause"] == "disconnected"
    assert {event["trace_id"] for event in bench.events} == {"t-1"}


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"instance_id": "nobody"}, 404),
        ({"instance_id": "acct-1", "service_name": "risk"}, 404),
        ({"instance_id": "a b"}, 400),
        ({"instance_id": 7}, 400),
        ({"service_name": "account"}, 400),
        ({}, 400),
        (None, 400),
        ("acct-1", 400),
    ],
)
def test_disconnecting_what_is_not_there_or_no_name_is_refused(
    bench: Bench, payload: Any, code: int
) -> None:
    assert bench.ask(DISCONNECT, payload)["code"] == code
    assert len(bench.registry.instances) == 3


# -- what is told -----------------------------------------------------------------------


def test_a_promotion_names_old_and_new_owner_epochs_and_cause(bench: Bench) -> None:
    old = bench.registry.resources[R1].epoch
    mark(bench, 1, InstanceState.UNHEALTHY, "stalled")
    promoted, unhealthy = bench.events
    assert promoted == {
        "event": "promoted",
        "service_name": "account",
        "instance_id": "acct-2",
        "node_id": "node-2",
        "cause": "stalled",
        "role": "active",
        "resource_ids": ["R-1"],
        "epochs": {"R-1": bench.registry.resources[R1].epoch},
        "sequence": promoted["sequence"],
        "trace_id": "",
        "old_instance_id": "acct-1",
        "old_node_id": "node-1",
        "old_epochs": {"R-1": old},
        "durations": {"detected": 0.0, "decided": 0.0},
    }
    assert unhealthy["event"] == "unhealthy"


def test_standbys_that_come_and_go_are_told(bench: Bench) -> None:
    bench.ask(CLAIM, of(3, "R-2", role="standby"))
    bench.ask(RELEASE, of(3, "R-2"))
    told = [(event["event"], event["role"], event["resource_ids"]) for event in bench.events]
    assert told == [("registered", "standby", ["R-2"]), ("released", "standby", ["R-2"])]


def test_many_promotions_are_told_in_events_of_bounded_size_before_all_is_tidied_up() -> None:
    bench = Bench()
    names = [f"R-{index}" for index in range(1000)]
    for number in (1, 2):
        bench.ask(REGISTER, instance(f"acct-{number}", node_id=f"node-{number}"))
    bench.ask(CLAIM, of(1, *names))
    bench.ask(CLAIM, of(2, *names, role="standby"))
    decision = placement.mark(bench.registry, "acct-1", InstanceState.UNHEALTHY, "silence")
    assert isinstance(decision, Decision)
    assert [write.key[0] for write in decision.writes[:1000]] == ["resource"] * 1000
    assert [write.key[0] for write in decision.writes[1000:2000]] == ["standby"] * 1000
    assert len(decision.writes) == 2001
    promoted = [event for event in decision.events if event.name == "promoted"]
    assert [len(event.resources) for event in promoted] == [400, 400, 200]
    first = decision.ready(list(range(11, 511)))
    assert first == promoted[:1]
    assert first[0].sequence == 410
    assert set(first[0].epochs.values()) == set(range(11, 411))
    assert decision.ready(list(range(11, 1011))) == promoted


# -- queries ----------------------------------------------------------------------------


def test_a_query_shows_standbys_with_what_they_have_applied_and_their_lag(bench: Bench) -> None:
    apply(bench, 1, 120)
    apply(bench, 2, 100)
    answer = queries.query_resources(
        bench.registry,
        registration.query_resources({"service_name": "account", "resource_id": "R-1"}),
    )
    assert (answer["role"], answer["applied"]) == ("active", 120)
    second, third = answer["standbys"]
    assert (second["role"], second["applied"], second["lag"]) == ("standby", 100, 20)
    assert (third["applied"], third["lag"]) == (None, None)


def test_a_standby_ahead_of_what_its_owner_last_told_has_no_lag(bench: Bench) -> None:
    apply(bench, 1, 120)
    apply(bench, 2, 125)
    answer = queries.query_resources(
        bench.registry,
        registration.query_resources({"service_name": "account", "resource_id": "R-1"}),
    )
    assert answer["standbys"][0]["lag"] == 0


def test_a_tombstone_of_a_standby_that_is_the_owner_by_then_changes_nothing(bench: Bench) -> None:
    decision = placement.mark(bench.registry, "acct-1", InstanceState.UNHEALTHY, "silence")
    assert decision is not None
    assert standby_key(*R1, "acct-2") in [write.key for write in decision.writes]
    bench.commit(decision)
    follower = bench.follower()
    assert follower.resources[R1] == bench.registry.resources[R1]
    assert follower.standbys == bench.registry.standbys
