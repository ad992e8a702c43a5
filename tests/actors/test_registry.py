"""What control requests are refused, and what those that are granted change."""

from __future__ import annotations

from typing import Any

import pytest

from aegis.actors import _placement as placement
from aegis.actors import _queries as queries
from aegis.actors import _registration as registration
from aegis.actors._decision import Decision, Holder, Probe
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import InstanceState, resource_key
from aegis.errors import InvalidRequest, NotFound
from tests.actors.registry_bench import Bench, instance, resources

REGISTER = "service.register"
UNREGISTER = "service.unregister"
CLAIM = "resource.register"
RELEASE = "resource.release"

LONG = "x" * 201
MISSING = object()

WRONG_NAMES: list[tuple[Any, str]] = [
    (MISSING, "is missing"),
    (None, "is missing"),
    ("", "must not be empty"),
    ("has space", "spaces"),
    ("tab\t", "spaces"),
    ("bell\x07", "control"),
    (LONG, "201 bytes"),
    ("é" * 101, "202 bytes"),
    ("\ud800", "Unicode"),
    (7, "must be text, not int"),
    (b"x", "must be text, not bytes"),
    (["x"], "must be text, not list"),
]


def changed(payload: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    payload = dict(payload)
    if value is MISSING:
        payload.pop(field, None)
    else:
        payload[field] = value
    return payload


def assert_refused(reply: dict[str, Any], field: str, text: str) -> None:
    assert reply["success"] is False
    assert reply["code"] == 400
    assert reply["field"] == field
    assert reply["message"].startswith(f"{field}: ")
    assert text in reply["message"]


@pytest.fixture
def bench() -> Bench:
    """Two instances of one service, on two nodes."""
    bench = Bench(limit=5)
    assert bench.ask(REGISTER, instance("acct-1", node_id="node-1"))["success"]
    assert bench.ask(REGISTER, instance("acct-2", node_id="node-2"))["success"]
    return bench


def claim_2(*resource_ids: str, **fields: Any) -> dict[str, Any]:
    return resources(*resource_ids, instance_id="acct-2", node_id="node-2", **fields)


# -- what is invalid --------------------------------------------------------------------


@pytest.mark.parametrize("payload", [None, 7, "text", b"bytes", [], [1, 2]])
@pytest.mark.parametrize("operation", [REGISTER, UNREGISTER, CLAIM, RELEASE])
def test_a_payload_that_is_no_map_is_refused(operation: str, payload: Any) -> None:
    assert_refused(Bench().ask(operation, payload), "payload", "must be a map")


@pytest.mark.parametrize(("value", "text"), WRONG_NAMES)
@pytest.mark.parametrize("field", ["service_name", "instance_id"])
@pytest.mark.parametrize("operation", [REGISTER, UNREGISTER, CLAIM, RELEASE])
def test_a_wrong_name_is_refused_by_its_field(
    bench: Bench, operation: str, field: str, value: Any, text: str
) -> None:
    payload = instance() if operation in (REGISTER, UNREGISTER) else resources("R-1")
    assert_refused(bench.ask(operation, changed(payload, field, value)), field, text)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("timestamp", "now", "must be a number, not str"),
        ("timestamp", True, "must be a number, not bool"),
        ("timestamp", -1, "Unix seconds"),
        ("timestamp", float("nan"), "Unix seconds"),
        ("timestamp", float("inf"), "Unix seconds"),
        ("metadata", [], "must be a map, not list"),
        ("metadata", "x", "must be a map, not str"),
        ("metadata", {1: 2}, "keys must be text"),
        ("metadata", {"a": "x" * 5000}, "at most 4096"),
        ("role", "leader", "'active' or 'standby'"),
        ("role", "ACTIVE", "'active' or 'standby'"),
        ("role", 1, "must be text, not int"),
        ("role", "", "'active' or 'standby'"),
        ("node_id", 7, "must be text, not int"),
        ("node_id", "a b", "spaces"),
        ("node_id", "", "must not be empty"),
        ("trace_id", 7, "must be text, not int"),
        ("trace_id", "x" * 201, "at most 200"),
    ],
)
def test_a_wrong_field_of_an_instance_is_refused(field: str, value: Any, text: str) -> None:
    assert_refused(Bench().ask(REGISTER, changed(instance(), field, value)), field, text)


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"a": {"b": object()}}, "metadata.a.b"),
        ({"a": [1, {"c": {2: 3}}]}, "metadata.a[1].c"),
        ({"a": 2**64}, "metadata.a"),
        ({"a": "\ud800"}, "metadata.a"),
    ],
)
def test_a_wrong_value_deep_in_metadata_is_named_by_its_path(
    metadata: dict[str, Any], field: str
) -> None:
    assert Bench().ask(REGISTER, instance(metadata=metadata))["field"] == field


def test_metadata_that_is_nested_without_end_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    reply = Bench().ask(REGISTER, instance(metadata=deep))
    assert reply["code"] == 400
    assert "nested too deep" in reply["message"]


@pytest.mark.parametrize(
    ("field", "value", "path", "text"),
    [
        ("resource_ids", MISSING, "resource_ids", "is missing"),
        ("resource_ids", None, "resource_ids", "is missing"),
        ("resource_ids", [], "resource_ids", "must not be empty"),
        ("resource_ids", "R-1", "resource_ids", "must be a list, not str"),
        ("resource_ids", {"R-1": 1}, "resource_ids", "must be a list, not dict"),
        ("resource_ids", ["R-1", 7], "resource_ids[1]", "must be text"),
        ("resource_ids", ["R-1", ""], "resource_ids[1]", "must not be empty"),
        ("resource_ids", ["R 1"], "resource_ids[0]", "spaces"),
        ("resource_ids", [LONG], "resource_ids[0]", "201 bytes"),
        ("resource_ids", ["R-1", "R-2", "R-1"], "resource_ids[2]", "twice"),
    ],
)
@pytest.mark.parametrize("operation", [CLAIM, RELEASE])
def test_a_wrong_list_of_resources_is_refused(
    bench: Bench, operation: str, field: str, value: Any, path: str, text: str
) -> None:
    assert_refused(bench.ask(operation, changed(resources(), field, value)), path, text)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("force", 1, "true or false"),
        ("force", "yes", "true or false"),
        ("role", "owner", "'active' or 'standby'"),
        ("metadata", 7, "must be a map"),
        ("trace_id", b"x", "must be text"),
    ],
)
def test_a_wrong_field_of_a_claim_is_refused(
    bench: Bench, field: str, value: Any, text: str
) -> None:
    assert_refused(bench.ask(CLAIM, changed(resources("R-1"), field, value)), field, text)
    assert bench.registry.resources == {}


def test_any_other_field_is_left_alone(bench: Bench) -> None:
    assert bench.ask(CLAIM, resources("R-1", colour="green"))["success"]


def test_a_refusal_carries_the_trace_id_of_its_request(bench: Bench) -> None:
    assert bench.ask(CLAIM, resources(trace_id="t-1"))["trace_id"] == "t-1"


def test_names_of_200_bytes_and_odd_characters_are_legal() -> None:
    bench = Bench()
    odd = "é.*>/=@" + "x" * 192
    assert len(odd.encode()) == 200
    assert bench.ask(REGISTER, instance(odd, service=odd))["success"]
    reply = bench.ask(CLAIM, resources(odd, instance_id=odd, service=odd))
    assert reply["registered"] == [odd]


# -- instances --------------------------------------------------------------------------


def test_an_instance_is_there_when_its_write_is_acknowledged_and_not_before() -> None:
    bench = Bench()
    decision = bench.decide(REGISTER, instance())
    assert isinstance(decision, Decision)
    assert bench.registry.instances == {}
    assert bench.commit(decision)["success"] is True
    assert bench.registry.instances["acct-1"].sequence == bench.sequence


def test_registering_an_instance_again_from_its_process_writes_nothing(bench: Bench) -> None:
    before = bench.sequence
    assert bench.ask(REGISTER, instance(timestamp=99.0))["success"] is True
    assert bench.sequence == before
    assert bench.probes == []


def test_registering_an_instance_again_with_other_metadata_replaces_it(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    epoch = bench.registry.resources["account", "R-1"].epoch
    assert bench.ask(REGISTER, instance(metadata={"zone": "b"}))["success"] is True
    assert bench.registry.instances["acct-1"].metadata == {"zone": "b"}
    assert bench.registry.resources["account", "R-1"].epoch == epoch


def test_an_instance_alive_in_another_process_is_a_conflict_with_its_holder(bench: Bench) -> None:
    bench.alive = {Holder("acct-1", "node-1"): True}
    reply = bench.ask(REGISTER, instance("acct-1", node_id="node-9"))
    assert reply["code"] == 409
    assert reply["holder"] == "node-1"
    assert reply["instance_id"] == "acct-1"
    assert bench.registry.instances["acct-1"].node_id == "node-1"


def test_nothing_is_decided_about_a_taken_instance_id_before_its_holder_is_probed(
    bench: Bench,
) -> None:
    decision = bench.decide(REGISTER, instance("acct-1", node_id="node-9"))
    assert decision == Probe(frozenset({Holder("acct-1", "node-1")}))


def test_a_dead_instance_is_replaced_and_what_it_owned_waits_for_the_new_process(
    bench: Bench,
) -> None:
    bench.ask(CLAIM, resources("R-1", "R-2"))
    bench.ask(CLAIM, resources("R-3", role="standby"))
    bench.alive = {Holder("acct-1", "node-1"): False}
    assert bench.ask(REGISTER, instance("acct-1", node_id="node-9"))["success"] is True
    assert bench.registry.instances["acct-1"].node_id == "node-9"
    assert bench.registry.standbys == {}
    assert [event["event"] for event in bench.events[-3:]] == ["released", "gone", "registered"]
    assert (bench.events[-3]["role"], bench.events[-3]["resource_ids"]) == ("standby", ["R-3"])
    # No caller meets a 404 meanwhile, and nobody else gets what it owned.
    answer = query_resources(bench.registry, service_name="account", resource_id="R-1")
    assert answer["owner"] == "acct-1"
    assert bench.ask(CLAIM, claim_2("R-1"))["conflicts"] == {"R-1": "acct-1"}
    old = bench.registry.resources["account", "R-1"].epoch
    reply = bench.ask(CLAIM, resources("R-1", node_id="node-9"))
    assert reply["epochs"]["R-1"] > old
    # Its lease may still be running: a probe is no proof.
    assert bench.registry.resources["account", "R-1"].contested is True
    assert bench.registry.displaced == {"acct-1": {("account", "R-2")}}


def test_an_instance_id_belongs_to_one_service_only(bench: Bench) -> None:
    reply = bench.ask(REGISTER, instance("acct-1", service="risk"))
    assert reply["code"] == 409
    assert reply["service_name"] == "account"


def test_a_caller_without_a_node_is_known_by_its_instance_and_timestamp() -> None:
    bench = Bench()
    payload = {"service_name": "feed", "instance_id": "feed-1", "timestamp": 5.0}
    assert bench.ask(REGISTER, payload)["node_id"] == "feed-1"
    assert bench.ask(REGISTER, payload)["success"] is True
    assert bench.probes == []
    bench.alive = {Holder("feed-1", "feed-1"): True}
    assert bench.ask(REGISTER, payload | {"timestamp": 6.0})["code"] == 409


def test_unregistering_removes_the_instance_and_releases_what_it_held(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    assert bench.ask(UNREGISTER, instance())["success"] is True
    assert "acct-1" not in bench.registry.instances
    assert bench.registry.resources == {}
    # It went by itself, so it has given up its lease.
    assert bench.registry.contested_tombstones == {}
    released, gone = bench.events[-2:]
    assert (released["event"], released["resource_ids"]) == ("released", ["R-1"])
    assert (gone["event"], gone["cause"]) == ("gone", "unregistered")


def test_unregistering_by_an_operator_leaves_its_resources_contested(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    payload = {"service_name": "account", "instance_id": "acct-1"}
    assert bench.ask(UNREGISTER, payload)["success"] is True
    assert set(bench.registry.contested_tombstones) == {("account", "R-1")}
    assert bench.events[-1]["cause"] == "disconnected"


def test_unregistering_from_another_node_is_refused_and_names_the_owner(bench: Bench) -> None:
    reply = bench.ask(UNREGISTER, instance(node_id="node-9"))
    assert (reply["code"], reply["owner"]) == (403, "node-1")
    assert "acct-1" in bench.registry.instances


@pytest.mark.parametrize(("instance_id", "service"), [("nobody", "account"), ("acct-1", "risk")])
def test_unregistering_what_is_not_there_is_404(
    bench: Bench, instance_id: str, service: str
) -> None:
    assert bench.ask(UNREGISTER, instance(instance_id, service))["code"] == 404


# -- resources --------------------------------------------------------------------------


def test_resources_are_registered_with_the_sequence_of_their_record_as_epoch(
    bench: Bench,
) -> None:
    reply = bench.ask(CLAIM, resources("R-1", "R-2", trace_id="t-9"))
    first = bench.sequence - 1
    assert reply == {
        "success": True,
        "registered": ["R-1", "R-2"],
        "conflicts": {},
        "trace_id": "t-9",
        "epochs": {"R-1": first, "R-2": first + 1},
        "sequence": first + 1,
    }
    assert bench.registry.resources["account", "R-2"].epoch == first + 1
    event = bench.events[-1]
    assert event["event"] == "registered"
    assert event["epochs"] == {"R-1": first, "R-2": first + 1}
    assert event["trace_id"] == "t-9"


def test_resources_change_hands_when_the_write_is_acknowledged_and_not_before(
    bench: Bench,
) -> None:
    bench.ask(CLAIM, resources("R-1"))
    decision = bench.decide(CLAIM, claim_2("R-1", force=True))
    assert isinstance(decision, Decision)
    assert bench.registry.resources["account", "R-1"].instance_id == "acct-1"
    bench.commit(decision)
    assert bench.registry.resources["account", "R-1"].instance_id == "acct-2"


def test_registering_an_owned_resource_again_keeps_its_epoch(bench: Bench) -> None:
    epochs = bench.ask(CLAIM, resources("R-1"))["epochs"]
    before = bench.sequence
    assert bench.ask(CLAIM, resources("R-1"))["epochs"] == epochs
    assert bench.sequence == before


def test_a_resource_of_another_is_a_conflict_that_names_the_owner(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    reply = bench.ask(CLAIM, claim_2("R-1", "R-2"))
    assert reply["success"] is False
    assert reply["code"] == 409
    assert reply["conflicts"] == {"R-1": "acct-1"}
    assert reply["holder"] == "acct-1"
    assert reply["registered"] == ["R-2"]
    assert set(reply["epochs"]) == {"R-2"}


def test_force_takes_a_resource_with_a_higher_epoch_and_leaves_it_contested(
    bench: Bench,
) -> None:
    old = bench.ask(CLAIM, resources("R-1"))["epochs"]["R-1"]
    reply = bench.ask(CLAIM, claim_2("R-1", force=True))
    assert reply["success"] is True
    assert reply["epochs"]["R-1"] > old
    assert bench.registry.resources["account", "R-1"].contested is True
    assert bench.registry.owned == {"acct-2": {("account", "R-1")}}


def test_a_resource_whose_earlier_lease_may_run_is_registered_as_contested(bench: Bench) -> None:
    bench.unsettled = {("account", "R-1")}
    bench.ask(CLAIM, resources("R-1", "R-2"))
    found = bench.registry.resources
    assert found["account", "R-1"].contested is True
    assert found["account", "R-2"].contested is False


def test_the_same_id_in_two_services_is_two_resources(bench: Bench) -> None:
    bench.ask(REGISTER, instance("risk-1", "risk"))
    bench.ask(CLAIM, resources("R-1"))
    assert bench.ask(CLAIM, resources("R-1", instance_id="risk-1", service="risk"))["success"]


def test_an_instance_that_is_not_registered_cannot_hold_resources(bench: Bench) -> None:
    assert bench.ask(CLAIM, resources("R-1", instance_id="nobody"))["code"] == 404
    assert bench.ask(CLAIM, resources("R-1", service="risk"))["code"] == 404


def test_a_process_that_lost_its_instance_to_another_cannot_claim_for_it(bench: Bench) -> None:
    reply = bench.ask(CLAIM, resources("R-1", node_id="node-0"))
    assert (reply["code"], reply["holder"]) == (409, "node-1")


def test_one_resource_beyond_the_limit_is_refused_and_nothing_is_registered(
    bench: Bench,
) -> None:
    assert bench.ask(CLAIM, resources("1", "2", "3"))["success"]
    reply = bench.ask(CLAIM, resources("4", "5", "6"))
    assert reply["code"] == 429
    assert reply["error"] == "TooManyResources"
    assert reply["limit"] == 5
    assert "5" in reply["message"]
    assert len(bench.registry.resources) == 3
    # Those held already do not count twice.
    assert bench.ask(CLAIM, resources("1", "2", "3", "4", "5"))["success"]


def test_standbys_count_towards_the_limit(bench: Bench) -> None:
    bench.ask(CLAIM, resources("1", "2", "3"))
    assert bench.ask(CLAIM, claim_2("1", "2", "3", "4", "5", role="standby"))["success"]
    assert bench.ask(CLAIM, claim_2("6"))["code"] == 429


def test_the_limit_is_1000_unless_it_is_said_otherwise() -> None:
    assert Registry().max_resources_per_instance == 1000


def test_a_standby_does_not_change_the_epoch_of_the_owner(bench: Bench) -> None:
    epoch = bench.ask(CLAIM, resources("R-1"))["epochs"]["R-1"]
    reply = bench.ask(CLAIM, claim_2("R-1", role="standby"))
    assert reply["success"] is True
    assert reply["epochs"] == {}
    assert bench.registry.resources["account", "R-1"].epoch == epoch
    assert set(bench.registry.standbys["account", "R-1"]) == {"acct-2"}


def test_a_standby_for_a_resource_that_nobody_holds_is_allowed(bench: Bench) -> None:
    assert bench.ask(CLAIM, claim_2("R-9", role="standby"))["registered"] == ["R-9"]


def test_an_owner_cannot_stand_by_for_itself(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    assert bench.ask(CLAIM, resources("R-1", role="standby"))["conflicts"] == {"R-1": "acct-1"}


def test_a_standby_that_becomes_the_owner_stands_by_no_more(bench: Bench) -> None:
    bench.ask(CLAIM, claim_2("R-1", role="standby"))
    assert set(bench.ask(CLAIM, claim_2("R-1"))["epochs"]) == {"R-1"}
    assert bench.registry.standbys == {}
    assert bench.registry.resources["account", "R-1"].instance_id == "acct-2"


def test_a_claim_on_what_an_unhealthy_holder_owns_asks_for_a_probe(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    marked = placement.mark(bench.registry, "acct-1", InstanceState.UNHEALTHY, "silence")
    assert marked is not None
    bench.commit(marked)
    holder = Holder("acct-1", "node-1")
    assert bench.decide(CLAIM, claim_2("R-1")) == Probe(frozenset({holder}))
    bench.alive = {holder: True}
    assert bench.ask(CLAIM, claim_2("R-1"))["conflicts"] == {"R-1": "acct-1"}
    bench.alive = {holder: False}
    assert bench.ask(CLAIM, claim_2("R-1"))["registered"] == ["R-1"]
    assert bench.registry.resources["account", "R-1"].contested is True


# -- release ----------------------------------------------------------------------------


def test_an_owner_releases_its_resources(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1", "R-2"))
    reply = bench.ask(RELEASE, resources("R-1", trace_id="t"))
    assert reply["success"] is True
    assert reply["released"] == ["R-1"]
    assert reply["trace_id"] == "t"
    assert set(bench.registry.resources) == {("account", "R-2")}
    assert bench.registry.contested_tombstones == {}
    assert bench.events[-1]["event"] == "released"
    assert bench.ask(CLAIM, claim_2("R-1"))["success"] is True


def test_a_stranger_cannot_release_and_is_told_the_owner(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    bench.ask(CLAIM, claim_2("R-2"))
    reply = bench.ask(RELEASE, claim_2("R-2", "R-1"))
    assert reply["code"] == 403
    assert reply["owner"] == "acct-1"
    assert reply["owners"] == {"R-1": "acct-1"}
    assert len(bench.registry.resources) == 2


def test_an_earlier_process_of_the_owner_is_a_stranger(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    reply = bench.ask(RELEASE, resources("R-1", node_id="node-0"))
    assert (reply["code"], reply["owner"], reply["node_id"]) == (403, "acct-1", "node-1")


def test_releasing_in_the_name_of_an_owner_leaves_the_resource_contested(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    payload = resources("R-1")
    del payload["node_id"]
    assert bench.ask(RELEASE, payload)["released"] == ["R-1"]
    assert set(bench.registry.contested_tombstones) == {("account", "R-1")}


def test_releasing_what_nobody_holds_is_404_and_names_it(bench: Bench) -> None:
    reply = bench.ask(RELEASE, resources("R-1"))
    assert reply["code"] == 404
    assert reply["missing"] == ["R-1"]
    assert "'R-1'" in reply["message"]


def test_releasing_a_list_of_which_some_are_there_releases_those(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    reply = bench.ask(RELEASE, resources("R-1", "R-9"))
    assert (reply["released"], reply["missing"]) == (["R-1"], ["R-9"])


def test_a_standby_releases_its_place(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    bench.ask(CLAIM, claim_2("R-1", role="standby"))
    assert bench.ask(RELEASE, claim_2("R-1"))["released"] == ["R-1"]
    assert bench.registry.standbys == {}
    assert set(bench.registry.resources) == {("account", "R-1")}


# -- health -----------------------------------------------------------------------------


def test_giving_up_an_instance_releases_what_it_held_and_leaves_it_contested(
    bench: Bench,
) -> None:
    bench.ask(CLAIM, resources("R-1"))
    decision = placement.give_up(bench.registry, "acct-1", "node-1", "silence")
    assert decision is not None
    bench.commit(decision)
    assert bench.registry.resources == {}
    assert set(bench.registry.contested_tombstones) == {("account", "R-1")}
    released, gone = bench.events[-2:]
    assert (released["event"], released["resource_ids"]) == ("released", ["R-1"])
    assert (gone["event"], gone["cause"]) == ("gone", "silence")


def test_an_instance_that_moved_to_another_node_is_not_given_up(bench: Bench) -> None:
    assert placement.give_up(bench.registry, "acct-1", "node-0", "silence") is None


def test_marking_an_instance_as_it_is_writes_nothing(bench: Bench) -> None:
    assert placement.mark(bench.registry, "acct-1", InstanceState.HEALTHY, "") is None
    assert placement.mark(bench.registry, "nobody", InstanceState.UNHEALTHY, "") is None


def test_registering_an_unhealthy_instance_again_makes_it_healthy(bench: Bench) -> None:
    marked = placement.mark(bench.registry, "acct-1", InstanceState.UNHEALTHY, "stalled")
    assert marked is not None
    bench.commit(marked)
    assert bench.events[-1]["event"] == "unhealthy"
    assert bench.events[-1]["cause"] == "stalled"
    bench.ask(REGISTER, instance())
    assert bench.registry.instances["acct-1"].state is InstanceState.HEALTHY


# -- queries ----------------------------------------------------------------------------


def query_resources(registry: Registry, **fields: Any) -> dict[str, Any]:
    return queries.query_resources(registry, registration.query_resources(fields))


def query_services(registry: Registry, **fields: Any) -> dict[str, Any]:
    return queries.query_services(registry, registration.query_services(fields), {"acct-1": 3}.get)


def test_a_resource_is_found_with_owner_epoch_state_and_standbys(bench: Bench) -> None:
    epoch = bench.ask(CLAIM, resources("R-1", metadata={"desk": 7}))["epochs"]["R-1"]
    bench.ask(CLAIM, claim_2("R-1", role="standby"))
    answer = query_resources(bench.registry, service_name="account", resource_id="R-1")
    assert answer["success"] is True
    assert (answer["owner"], answer["instance_id"], answer["node_id"]) == (
        "acct-1",
        "acct-1",
        "node-1",
    )
    assert (answer["role"], answer["epoch"], answer["state"]) == ("active", epoch, "healthy")
    assert answer["metadata"] == {"desk": 7}
    assert [s["instance_id"] for s in answer["standbys"]] == ["acct-2"]
    assert answer["sequence"] == bench.sequence


def test_a_resource_is_found_without_its_service(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    answer = query_resources(bench.registry, resource_id="R-1")
    assert answer["service_name"] == "account"
    assert len(answer["resources"]) == 1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"service_name": "account"}, "'R-1'"),
        ({"service_name": "risk"}, "no service 'risk'"),
        ({}, "'R-1'"),
    ],
)
def test_a_resource_that_nobody_holds_is_not_found(
    bench: Bench, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(NotFound, match=named):
        query_resources(bench.registry, resource_id="R-1", **fields)


def test_several_resources_are_found_at_once_and_the_missing_named(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1", "R-2"))
    answer = query_resources(
        bench.registry, service_name="account", resource_ids=["R-2", "R-9", "R-1"]
    )
    assert [r["resource_id"] for r in answer["resources"]] == ["R-2", "R-1"]
    assert answer["missing"] == ["R-9"]


@pytest.mark.parametrize(
    "fields",
    [{}, {"service_name": "account"}, {"service_name": "account", "instance_id": "acct-1"}],
)
def test_a_listing_comes_page_by_page_and_complete(bench: Bench, fields: dict[str, Any]) -> None:
    names = ["1", "2", "3", "4", "5"]
    bench.ask(CLAIM, resources(*names))
    seen: list[str] = []
    after: Any = None
    for _ in range(10):
        page = query_resources(bench.registry, limit=2, after=after, **fields)
        assert len(page["resources"]) <= 2
        seen += [r["resource_id"] for r in page["resources"]]
        after = page["next"]
        if after is None:
            break
    assert seen == names


def test_a_listing_shows_only_the_service_and_instance_asked_for(bench: Bench) -> None:
    for service in ("a", "b", "c"):
        bench.ask(REGISTER, instance(service, service))
        bench.ask(CLAIM, resources("1", "2", instance_id=service, service=service))
    bench.ask(CLAIM, claim_2("1"))
    assert {
        (r["service_name"], r["resource_id"])
        for r in query_resources(bench.registry, service_name="b")["resources"]
    } == {("b", "1"), ("b", "2")}
    assert [
        r["service_name"]
        for r in query_resources(bench.registry, instance_id="acct-2")["resources"]
    ] == ["account"]


def test_services_are_listed_with_their_instances(bench: Bench) -> None:
    bench.ask(REGISTER, instance("risk-1", "risk", node_id="node-3", role="standby"))
    bench.ask(CLAIM, resources("R-1", "R-2"))
    answer = query_services(bench.registry)
    assert [s["service_name"] for s in answer["services"]] == ["account", "risk"]
    account, risk = answer["services"]
    assert [i["instance_id"] for i in account["instances"]] == ["acct-1", "acct-2"]
    first = account["instances"][0]
    assert (first["resources"], first["queue_depth"], first["state"]) == (2, 3, "healthy")
    assert account["instances"][1]["queue_depth"] is None
    assert risk["instances"][0]["role"] == "standby"


def test_one_service_and_one_instance_can_be_asked_for(bench: Bench) -> None:
    assert len(query_services(bench.registry, service_name="account")["services"]) == 1
    found = query_services(bench.registry, instance_id="acct-2")["services"]
    assert [i["instance_id"] for i in found[0]["instances"]] == ["acct-2"]
    with pytest.raises(NotFound, match="no service 'risk'"):
        query_services(bench.registry, service_name="risk")
    with pytest.raises(NotFound, match="no instance 'nobody'"):
        query_services(bench.registry, instance_id="nobody")


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"resource_id": 7}, "resource_id"),
        ({"resource_id": "a b"}, "resource_id"),
        ({"service_name": ""}, "service_name"),
        ({"resource_id": "a", "resource_ids": ["b"]}, "resource_ids"),
        ({"resource_ids": []}, "resource_ids"),
        ({"resource_ids": [str(i) for i in range(1001)]}, "resource_ids"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": True}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"after": "R-1"}, "after"),
        ({"after": ["account"]}, "after"),
        ({"after": ["account", 7]}, "after[1]"),
        ({"min_sequence": -1}, "min_sequence"),
    ],
)
def test_a_wrong_field_of_a_query_is_named(payload: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        registration.query_resources(payload)
    assert caught.value.facts["field"] == field


# -- replay -----------------------------------------------------------------------------


def test_a_delivery_behind_an_own_newer_write_is_passed_over(bench: Bench) -> None:
    bench.ask(CLAIM, resources("R-1"))
    registered = bench.stream[-1]
    bench.ask(RELEASE, resources("R-1"))
    released = bench.stream[-1]
    registry = bench.registry
    for sequence, key, record in (registered, released):
        registry.replayed(key, record, sequence)
        assert registry.resources == {}
    # What another leader writes afterwards counts.
    registry.replayed(resource_key("account", "R-1"), registered[2], released[0] + 5)
    assert registry.resources["account", "R-1"].epoch == released[0] + 5


def test_a_write_that_is_delivered_before_its_acknowledgement_changes_hands_once(
    bench: Bench,
) -> None:
    bench.ask(CLAIM, resources("R-1"))
    decision = bench.decide(CLAIM, claim_2("R-1", force=True))
    assert isinstance(decision, Decision)
    [write] = decision.writes
    delivered = bench.registry.replayed(write.key, write.record, bench.sequence + 1)
    assert delivered is not None
    assert delivered.before is not None
    assert delivered.before.instance_id == "acct-1"
    assert bench.registry.acknowledged(write, bench.sequence + 1) is None
    assert bench.registry.resources["account", "R-1"].instance_id == "acct-2"


def test_records_of_a_newer_release_are_left_alone() -> None:
    registry = Registry()
    assert registry.replayed(("quota", "x"), {"limit": 1}, 7) is None
    assert registry.sequence == 7
