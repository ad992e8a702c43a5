from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.actors._restarts import (
    Child,
    Exit,
    Plan,
    RestartLimits,
    Restarts,
    RestartType,
    Strategy,
    restart_delay,
)

NO_DELAY = RestartLimits(first_delay=0.0)

FOUR = [Child("a"), Child("b"), Child("c"), Child("d")]


def decide(
    strategy: Strategy,
    children: list[Child],
    name: str,
    exit: Exit = Exit.FAILED,
    limits: RestartLimits = NO_DELAY,
) -> Plan:
    return Restarts(strategy, limits).child_exited(children, name, exit, now=0.0)


def test_one_for_one_restarts_that_child_alone() -> None:
    assert decide(Strategy.ONE_FOR_ONE, FOUR, "b") == Plan(start=("b",))


def test_one_for_all_stops_the_others_in_reverse_and_starts_all_in_order() -> None:
    assert decide(Strategy.ONE_FOR_ALL, FOUR, "b") == Plan(
        stop=("d", "c", "a"), start=("a", "b", "c", "d")
    )


def test_rest_for_one_takes_along_only_those_that_were_started_later() -> None:
    assert decide(Strategy.REST_FOR_ONE, FOUR, "b") == Plan(stop=("d", "c"), start=("b", "c", "d"))
    assert decide(Strategy.REST_FOR_ONE, FOUR, "d") == Plan(start=("d",))


@pytest.mark.parametrize(
    ("restart", "exit", "restarted"),
    [
        (RestartType.PERMANENT, Exit.NORMAL, True),
        (RestartType.PERMANENT, Exit.FAILED, True),
        (RestartType.PERMANENT, Exit.FAILED_FOR_GOOD, False),
        (RestartType.TRANSIENT, Exit.NORMAL, False),
        (RestartType.TRANSIENT, Exit.FAILED, True),
        (RestartType.TRANSIENT, Exit.FAILED_FOR_GOOD, False),
        (RestartType.TEMPORARY, Exit.NORMAL, False),
        (RestartType.TEMPORARY, Exit.FAILED, False),
        (RestartType.TEMPORARY, Exit.FAILED_FOR_GOOD, False),
    ],
)
@pytest.mark.parametrize("strategy", list(Strategy))
def test_the_restart_type_decides_whether_an_exit_leads_to_a_restart(
    strategy: Strategy, restart: RestartType, exit: Exit, restarted: bool
) -> None:
    plan = decide(strategy, [Child("x"), Child("y", restart)], "y", exit)
    if restarted:
        assert "y" in plan.start
    else:
        assert plan == Plan(forget=("y",))


@pytest.mark.parametrize(("strategy", "restart"), list(product(Strategy, RestartType)))
def test_an_escalated_failure_takes_the_supervisor_along_whatever_the_child(
    strategy: Strategy, restart: RestartType
) -> None:
    assert decide(strategy, [Child("x", restart)], "x", Exit.ESCALATED) == Plan(escalate=True)


def test_temporary_children_of_a_group_end_with_it_and_do_not_come_back() -> None:
    children = [Child("a"), Child("t", RestartType.TEMPORARY), Child("b")]
    assert decide(Strategy.ONE_FOR_ALL, children, "a") == Plan(
        forget=("t",), stop=("b",), start=("a", "b")
    )


def test_more_restarts_than_allowed_within_the_window_escalate() -> None:
    restarts = Restarts(limits=RestartLimits(max_restarts=2, window=10.0))
    plans = [
        restarts.child_exited(FOUR, name, Exit.FAILED, now=now)
        for name, now in (("a", 0.0), ("b", 4.0), ("a", 9.9))
    ]
    assert [plan.escalate for plan in plans] == [False, False, True]


def test_restarts_that_left_the_window_do_not_count() -> None:
    restarts = Restarts(limits=RestartLimits(max_restarts=2, window=10.0))
    plans = [
        restarts.child_exited(FOUR, "a", Exit.FAILED, now=now) for now in (0.0, 4.0, 10.0, 14.0)
    ]
    assert not any(plan.escalate for plan in plans)


def test_no_restarts_at_all_can_be_allowed() -> None:
    assert decide(Strategy.ONE_FOR_ONE, FOUR, "a", limits=RestartLimits(max_restarts=0)) == Plan(
        escalate=True
    )


def test_exits_that_lead_to_no_restart_do_not_count() -> None:
    restarts = Restarts(limits=RestartLimits(max_restarts=1))
    children = [Child("t", RestartType.TEMPORARY), Child("a")]
    for _ in range(5):
        assert not restarts.child_exited(children, "t", Exit.FAILED, now=0.0).escalate
    assert not restarts.child_exited(children, "a", Exit.FAILED, now=0.0).escalate


def test_a_supervisor_that_begins_anew_has_all_its_restarts_again() -> None:
    restarts = Restarts(limits=RestartLimits(max_restarts=1))
    restarts.child_exited(FOUR, "a", Exit.FAILED, now=0.0)
    restarts.reset()
    assert not restarts.child_exited(FOUR, "a", Exit.FAILED, now=0.0).escalate


def test_the_delay_doubles_for_the_child_that_fails_again_and_for_no_other() -> None:
    limits = RestartLimits(max_restarts=20, window=100.0, first_delay=1.0, max_delay=5.0, jitter=0)
    restarts = Restarts(limits=limits)
    delays = [restarts.child_exited(FOUR, "a", Exit.FAILED, now=float(n)).delay for n in range(5)]
    assert delays == [1, 2, 4, 5, 5]
    assert restarts.child_exited(FOUR, "b", Exit.FAILED, now=5.0).delay == 1
    assert restarts.child_exited(FOUR, "a", Exit.FAILED, now=200.0).delay == 1


def test_jitter_takes_a_share_of_the_delay_off() -> None:
    restarts = Restarts(limits=RestartLimits(first_delay=1.0, jitter=0.5, max_restarts=9))
    assert restarts.child_exited(FOUR, "a", Exit.FAILED, now=0, draw=0.0).delay == 1.0
    assert restarts.child_exited(FOUR, "b", Exit.FAILED, now=0, draw=0.5).delay == 0.75


@given(st.integers(0, 10_000), st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_delay_never_exceeds_its_limit_and_never_falls(
    attempt: int, first: float, limit: float
) -> None:
    delay = restart_delay(attempt, first=first, limit=limit)
    assert 0 <= delay <= limit
    assert delay <= restart_delay(attempt + 1, first=first, limit=limit)


def test_a_negative_attempt_is_refused() -> None:
    with pytest.raises(ValueError, match="count from 0"):
        restart_delay(-1, first=1, limit=1)


@pytest.mark.parametrize("wrong", [{"window": 0.0}, {"max_restarts": -1}, {"jitter": -0.1}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RestartLimits(**wrong)  # type: ignore[arg-type] # pyright: ignore


children_lists = st.lists(st.sampled_from(list(RestartType)), min_size=1, max_size=6).map(
    lambda types: [Child(f"c{i}", restart) for i, restart in enumerate(types)]
)


@given(
    strategy=st.sampled_from(list(Strategy)),
    children=children_lists,
    exits=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(list(Exit)), st.floats(0, 3)), max_size=30
    ),
    max_restarts=st.integers(0, 5),
)
def test_every_plan_is_consistent_and_the_limit_holds(
    strategy: Strategy,
    children: list[Child],
    exits: list[tuple[int, Exit, float]],
    max_restarts: int,
) -> None:
    limits = RestartLimits(max_restarts=max_restarts, window=5.0)
    restarts = Restarts(strategy, limits)
    order = {child.name: position for position, child in enumerate(children)}
    now = 0.0
    granted: list[float] = []
    for index, exit, pause in exits:
        now += pause
        name = children[index % len(children)].name
        plan = restarts.child_exited(children, name, exit, now=now, draw=0.5)
        if plan.escalate:
            assert plan == Plan(escalate=True)
            granted.clear()
            continue
        # Each child has one fate; what is started stands in order, what is stopped in
        # reverse; nobody temporary starts, and the child itself needs no stop.
        assert not set(plan.forget) & set(plan.start)
        assert set(plan.stop) <= set(plan.start) - {name}
        positions = [order[other] for other in plan.start]
        assert positions == sorted(positions)
        assert [order[other] for other in plan.stop] == sorted(
            (order[other] for other in plan.stop), reverse=True
        )
        assert all(children[order[c]].restart is not RestartType.TEMPORARY for c in plan.start)
        assert name in plan.start or plan.forget == (name,)
        if plan.start:
            granted.append(now)
            assert sum(1 for at in granted if at > now - limits.window) <= max_restarts
            affected = set(plan.start) | set(plan.forget)
            if strategy is Strategy.ONE_FOR_ONE:
                assert affected == {name}
            elif strategy is Strategy.ONE_FOR_ALL:
                assert affected == set(order)
            else:
                assert affected == {c for c in order if order[c] >= order[name]}
