"""What the live page calls wrong, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from aegis._inspect import NodeHealth
from aegis.actors._failover_log import FailoverLog
from aegis.actors._lease import Beat, InstanceLoad
from aegis.ops._live_beats import LiveBeats
from aegis.ops._live_contracts import LiveProblem
from aegis.ops._live_view import LiveView

NODE = "n1"


class World:
    """A view of a system of one leader and some instances, all well at first."""

    def __init__(self, *instances: dict[str, Any]) -> None:
        self.now = 1_000.0
        self.log = FailoverLog()
        self.view = LiveView(
            namespace="aegis",
            node_id=NODE,
            version="1",
            failovers=self.log,
            beats=LiveBeats(interval=0.5, timeout=2.0),
        )
        self.instances = instances or (instance("a"),)
        self.overview()
        self.view.on_health(NodeHealth(NODE, {"host": "h", "pid": 7, "candidate": True}))
        self.beat()

    def overview(self, leader: str = NODE) -> None:
        services = [{"service_name": "account", "instances": list(self.instances)}]
        self.view.on_overview(services, {"node_id": leader, "term": 1}, self.now)

    def beat(self, **loads: InstanceLoad) -> None:
        told = {one["instance_id"]: InstanceLoad() for one in self.instances} | loads
        self.view.beats.heard(Beat(NODE, 1, instances=told), self.now)

    def event(self, **facts: Any) -> None:
        if facts["event"] == "promoted":
            self.log.promoted(facts, at=self.now)
        elif facts["event"] == "serving":
            self.log.serving(facts)
        self.view.on_event(facts, self.now)

    def problems(self) -> list[tuple[str, str]]:
        found: list[LiveProblem] = list(self.view.rows(self.now).problems.values())
        return [(one.severity, one.text) for one in found]


def instance(instance_id: str, **facts: Any) -> dict[str, Any]:
    return {"instance_id": instance_id, "node_id": NODE, "state": "healthy", **facts}


def promoted(*names: str, to: str = "b", epoch: int = 7) -> dict[str, Any]:
    return {
        "event": "promoted",
        "service_name": "account",
        "instance_id": to,
        "node_id": NODE,
        "old_instance_id": "a",
        "old_node_id": "n0",
        "cause": "died",
        "epochs": dict.fromkeys(names, epoch),
        "durations": {"detected": 0.01, "decided": 0.01},
    }


def serving(*names: str, epoch: int = 7) -> dict[str, Any]:
    return {
        "event": "serving",
        "service_name": "account",
        "epochs": dict.fromkeys(names, epoch),
        **{f"{step}_ms": 1.0 for step in ("fenced", "replayed", "covered")},
    }


def test_a_system_that_is_well_has_no_problems() -> None:
    assert World().problems() == []


def test_without_a_connection_or_a_leader_that_is_said_first() -> None:
    world = World()
    world.overview(leader="")
    assert world.problems() == [("critical", "No supervisor leads: nothing can fail over now.")]
    world.overview(leader="one-that-nobody-hears-of")
    assert world.problems()[0][0] == "critical"
    world.view.on_connected(False)
    (problem,) = world.problems()
    assert "no connection to NATS" in problem[1]


def test_a_failover_is_critical_until_each_resource_is_served_again() -> None:
    world = World()
    world.event(**promoted("R-1", "R-2"))
    (problem,) = world.problems()
    assert problem == (
        "critical",
        "2 resources of account are being failed over from a to b (died).",
    )
    world.event(**serving("R-1"))
    assert world.problems()[0][1].startswith("1 resource of account is being failed over")
    world.event(**serving("R-2"))
    assert world.problems() == []


def test_a_resource_that_went_on_to_yet_another_owner_is_waited_for_there_alone() -> None:
    world = World()
    world.event(**promoted("R-1"))
    world.event(**promoted("R-1", to="c", epoch=8))
    (problem,) = world.problems()
    assert "to c" in problem[1]
    world.event(**serving("R-1", epoch=8))
    assert world.problems() == []


@pytest.mark.parametrize(
    ("cause", "severity"),
    [("died", "critical"), ("silence", "critical"), ("unregistered", "warning")],
)
def test_what_has_no_owner_is_named_until_it_has_one(cause: str, severity: str) -> None:
    world = World()
    lost = {
        "event": "released",
        "role": "active",
        "service_name": "account",
        "instance_id": "a",
        "cause": cause,
        "resource_ids": ["R-1", "R-2", "R-3", "R-4"],
    }
    world.event(**lost)
    (problem,) = world.problems()
    assert problem[0] == severity
    assert problem[1].startswith("4 resources of account have no owner: R-1, R-2, R-3 ...")
    registered = {"event": "registered", "service_name": "account"}
    world.event(**registered, epochs={"R-1": 1, "R-2": 1, "R-3": 1})
    (problem,) = world.problems()
    assert problem[1].startswith("1 resource of account has no owner: R-4")
    world.event(**lost | {"cause": "released", "resource_ids": ["R-4"]})
    assert world.problems() == [], "given back on purpose, it is missed by nobody"


def test_a_standby_that_leaves_loses_nothing() -> None:
    world = World()
    facts = {"event": "released", "role": "standby", "service_name": "account"}
    world.event(**facts, instance_id="a", cause="died", resource_ids=["R-1"])
    assert world.problems() == []


def test_an_unhealthy_instance_is_critical_while_it_owns_something() -> None:
    world = World(instance("a", state="unhealthy", cause="stalled", resources=3))
    assert world.problems() == [
        ("critical", "a (account) is unhealthy: stalled and still owns 3 resources.")
    ]
    world = World(instance("a", state="unhealthy", cause="stalled"))
    assert world.problems() == [("warning", "a (account) is unhealthy: stalled.")]


def test_a_queue_is_told_when_it_is_long_for_the_rate_at_which_it_goes() -> None:
    world = World()
    for number in range(4):
        world.now += 0.5
        world.beat(a=InstanceLoad(depth=300, progress=200 * number))
    assert world.problems() == [], "less than a second of work"
    world.beat(a=InstanceLoad(depth=4_000, progress=600))
    assert world.problems() == [("warning", "4,000 messages wait for a (account), 13 s of work.")]


def test_an_actor_without_progress_is_told() -> None:
    world = World()
    world.beat(a=InstanceLoad(depth=1, stalled=0.4))
    assert world.problems() == []
    world.beat(a=InstanceLoad(depth=1, stalled=7.2))
    assert world.problems() == [
        ("warning", "a (account) has mail, and an actor without progress for 7 s.")
    ]


def test_a_node_that_beats_no_more_is_late_then_silent_and_no_leader() -> None:
    world = World()
    world.now += 1.5
    assert world.problems() == [("warning", "Node h pid 7 is late with its beats.")]
    world.now += 1.0
    assert [severity for severity, _ in world.problems()] == ["critical", "warning"]
    assert "silent" in world.problems()[1][1]


def test_a_node_that_has_left_is_missed_by_nobody() -> None:
    world = World()
    world.view.beats.heard(Beat("n2", 1), world.now)
    assert len(world.view.rows(world.now).nodes) == 2
    for _ in range(5):
        world.now += 0.5
        world.beat()
    assert len(world.view.rows(world.now).nodes) == 1
    assert world.problems() == []


def test_a_restarted_process_does_not_count_backwards() -> None:
    world = World()
    for progress in (1_000, 1_100, 0, 50):
        world.now += 0.5
        world.beat(a=InstanceLoad(progress=progress))
    assert world.view.rows(world.now).loads["a"].rate == 100


def test_there_is_an_end_to_problems_of_one_kind() -> None:
    world = World(*(instance(f"i{n}", state="unhealthy", cause="died") for n in range(500)))
    found = world.problems()
    assert len(found) == 21
    assert "There is more of this kind" in found[-1][1]


def test_the_worst_comes_first() -> None:
    world = World(instance("a", state="unhealthy", cause="stalled"))
    world.view.alone = "3 resources"
    world.event(**promoted("R-1"))
    assert [severity for severity, _ in world.problems()] == ["critical", "warning", "notice"]


def test_latencies_are_of_the_messages_since_the_last_turn() -> None:
    world = World()
    latency = world.view.latency

    def told(fast: int, slow: int) -> dict[str, Any]:
        buckets = [0] * 17
        buckets[0], buckets[9] = fast, slow
        return {"handled": {"account": buckets}, "commits": buckets}

    latency.heard(NODE, told(1_000, 0))
    latency.turn({NODE})
    assert latency.of_handlers(0.5) is None, "what was before the first look is not known"
    latency.heard(NODE, told(1_000, 100))
    latency.turn({NODE})
    assert latency.of_handlers(0.5, service="account") == pytest.approx(75)
    assert latency.of_handlers(0.99) == latency.of_commits(0.99) == pytest.approx(99.5)
    latency.heard(NODE, told(1_010, 100))
    latency.turn({NODE})
    assert latency.of_handlers(0.99) == pytest.approx(0.099)
    latency.heard(NODE, "what a node of another release may say")
    latency.heard(NODE, {"handled": {"account": [1, 2]}})
    latency.turn({NODE})
    assert latency.of_handlers(0.5) is None


def test_rows_do_not_change_while_nothing_does() -> None:
    world = World()
    before = world.view.rows(world.now)
    world.now += 0.5
    world.beat()
    assert evolve(world.view.rows(world.now)) == before
