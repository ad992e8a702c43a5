"""The linearizability checker: against a checker that tries everything, and planted faults."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.ops._linearizability import (
    Account,
    Counter,
    Model,
    Operation,
    Register,
    Violation,
    check,
)

UNKNOWN = math.inf


def is_linearizable(
    history: Sequence[Operation], model: Model[Any], until: float = sys.float_info.max
) -> bool:
    """Try every order of all that returned by then, and any of what else was called."""
    return explains([one for one in history if one.called <= until], model, until, model.initial())


def explains(left: list[Operation], model: Model[Any], until: float, state: Any) -> bool:
    """Whether some order of what is left goes on from the state: no memory, no cleverness."""
    if not any(one.returned <= until for one in left):
        return True
    for one in left:
        if any(other.returned < one.called for other in left):
            continue
        following, output = model.apply(state, one.input)
        if one.is_known and output != one.output:
            continue
        if explains([other for other in left if other is not one], model, until, following):
            return True
    return False


SMALL = st.integers(0, 2)
REQUESTS = {
    "register": st.one_of(
        st.tuples(st.just("read")),
        st.tuples(st.just("write"), SMALL),
        st.tuples(st.just("cas"), SMALL, SMALL),
    ),
    "account": st.one_of(
        st.tuples(st.just("read")),
        st.tuples(st.sampled_from(["deposit", "withdraw"]), st.integers(1, 2)),
    ),
    "counter": st.one_of(st.tuples(st.just("read")), st.tuples(st.just("add"), st.integers(-1, 2))),
}
MODELS: dict[str, Model[Any]] = {
    "register": Register(0),
    "account": Account(2),
    "counter": Counter(),
}


@st.composite
def histories(draw: st.DrawFn) -> tuple[Model[Any], list[Operation]]:
    """Short histories; outputs are those of an order near the real one, or changed."""
    kind = draw(st.sampled_from(sorted(MODELS)))
    model, requests = MODELS[kind], REQUESTS[kind]
    state = model.initial()
    history: list[Operation] = []
    for _ in range(draw(st.integers(0, 6))):
        request = draw(requests)
        called = draw(st.integers(0, 8))
        returned = draw(st.one_of(st.integers(called, 10), st.just(UNKNOWN)))
        following, output = model.apply(state, request)
        if draw(st.integers(0, 3)):
            state = following
        if not draw(st.integers(0, 4)):
            output = draw(st.sampled_from([None, True, False, 0, 1, 2, 3]))
        if returned == UNKNOWN:
            output = None
        history.append(Operation(called, returned, request, output, client=f"c{len(history)}"))
    return model, draw(st.permutations(history))


@settings(max_examples=400, deadline=None)
@given(histories())
def test_the_checker_agrees_with_one_that_tries_every_order(
    case: tuple[Model[Any], list[Operation]],
) -> None:
    model, history = case
    violation = check(history, model)
    assert (violation is None) == is_linearizable(history, model), history
    assert violation is None or not violation.undecided


@settings(max_examples=300, deadline=None)
@given(histories())
def test_the_operation_named_is_where_the_shortest_failing_beginning_ends(
    case: tuple[Model[Any], list[Operation]],
) -> None:
    model, history = case
    violation = check(history, model)
    if violation is None:
        return

    ends = sorted({one.returned for one in history if one.is_known})
    failing = next(end for end in ends if not is_linearizable(history, model, end))
    named = [one for one in violation.operations if one.returned == failing]
    assert named, (failing, str(violation))


def recorded(seed: int, *, clients: int = 8, operations: int = 400) -> list[Operation]:
    """A long linearizable history of a register: overlapping, some outcomes unknown."""
    rng = random.Random(seed)
    free = [(0.0, f"c{number}") for number in range(clients)]
    taken: list[tuple[float, float, float, Any, str]] = []
    for number in range(operations):
        free.sort()
        now, client = free.pop(0)
        called = now + rng.random()
        effect = called + rng.random() * 5
        returned = effect + rng.random() * 5
        request = ("read",) if rng.random() < 0.5 else ("write", number)
        if rng.random() < 0.05:
            effect = called + rng.random() * 60 if rng.random() < 0.7 else UNKNOWN
            returned = UNKNOWN
        taken.append((effect, called, returned, request, client))
        free.append((called + 10 if returned == UNKNOWN else returned, client))
    state: Any = 0
    history: list[Operation] = []
    for effect, called, returned, request, client in sorted(taken, key=lambda one: one[0]):
        output = None
        if effect != UNKNOWN:
            state, output = Register(0).apply(state, request)
        told = None if returned == UNKNOWN else output
        history.append(Operation(called, returned, request, told, client))
    return history


@pytest.mark.parametrize("seed", range(5))
def test_a_long_history_with_unknown_outcomes_is_found_linearizable(seed: int) -> None:
    assert check(recorded(seed), Register(0)) is None


@pytest.mark.parametrize("seed", range(5))
def test_one_stale_read_in_a_long_history_is_found(seed: int) -> None:
    history = sorted(recorded(seed), key=lambda one: one.called)
    values = [one.output for one in history if one.input == ("read",) and one.is_known]
    place = next(
        i
        for i in range(len(history) // 2, len(history))
        if history[i].input == ("read",) and history[i].is_known
    )
    stale = history[place]
    history[place] = Operation(stale.called, stale.returned, stale.input, values[0], stale.client)
    violation = check(history, Register(0))
    assert violation is not None
    assert not violation.undecided
    assert history[place] in violation.operations


# -- planted violations ----------------------------------------------------------------------

STALE_READ = [
    Operation(0, 1, ("write", 1), None, "a"),
    Operation(2, 3, ("write", 2), None, "a"),
    Operation(4, 5, ("read",), 1, "b"),
]
LOST_WRITE = [
    Operation(0, 1, ("write", 1), None, "a"),
    Operation(2, 3, ("read",), 0, "b"),
    Operation(4, 5, ("read",), 0, "a"),
]
READ_BACKWARDS = [
    Operation(0, 9, ("write", 1), None, "a"),
    Operation(1, 2, ("read",), 1, "b"),
    Operation(3, 4, ("read",), 0, "c"),
]
BOTH_SWAPPED = [
    Operation(0, 5, ("cas", 0, 1), True, "a"),
    Operation(0, 5, ("cas", 0, 2), True, "b"),
]
UNKNOWN_UNDONE = [
    Operation(0, UNKNOWN, ("write", 1), None, "a"),
    Operation(1, 2, ("read",), 1, "b"),
    Operation(3, 4, ("read",), 0, "b"),
]
DOUBLE_APPLY = [
    Operation(0, 1, ("add", 5), 5, "a"),
    Operation(2, 3, ("read",), 10, "b"),
]
UNKNOWN_TWICE = [
    Operation(0, UNKNOWN, ("add", 5), None, "a"),
    Operation(1, 2, ("read",), 5, "b"),
    Operation(3, 4, ("read",), 10, "b"),
]
OVERDRAWN = [
    Operation(0, 5, ("withdraw", 2), 0, "a"),
    Operation(0, 5, ("withdraw", 2), 0, "b"),
]
EITHER_UNKNOWN = [
    Operation(0, UNKNOWN, ("write", 1), None, "a"),
    Operation(0, UNKNOWN, ("cas", 0, 1), None, "b"),
    Operation(1, 2, ("read",), 1, "c"),
    Operation(3, 4, ("write", 5), None, "c"),
    Operation(5, 6, ("read",), 1, "c"),
]
MONEY_FROM_NOWHERE = [
    Operation(0, 1, ("deposit", 3), 5, "a"),
    Operation(2, 3, ("withdraw", 4), None, "a"),
]


@pytest.mark.parametrize(
    ("model", "history"),
    [
        pytest.param(Register(0), STALE_READ, id="stale read"),
        pytest.param(Register(0), LOST_WRITE, id="lost write"),
        pytest.param(Register(0), READ_BACKWARDS, id="reads that go back"),
        pytest.param(Register(0), BOTH_SWAPPED, id="two won a compare-and-set"),
        pytest.param(Register(0), UNKNOWN_UNDONE, id="unknown write seen and undone"),
        pytest.param(Counter(), DOUBLE_APPLY, id="double apply"),
        pytest.param(Counter(), UNKNOWN_TWICE, id="unknown add applied twice"),
        pytest.param(Account(2), OVERDRAWN, id="overdrawn"),
        pytest.param(Account(2), MONEY_FROM_NOWHERE, id="refused though covered"),
    ],
)
def test_a_planted_violation_is_caught(model: Model[Any], history: list[Operation]) -> None:
    assert not is_linearizable(history, model)
    violation = check(history, model)
    assert isinstance(violation, Violation)
    assert not violation.undecided


@pytest.mark.parametrize(
    ("model", "history"),
    [
        pytest.param(Register(0), [], id="nothing"),
        pytest.param(Register(0), [*STALE_READ[:2], Operation(2.5, 5, ("read",), 1, "b")], id="1"),
        pytest.param(Register(0), [*LOST_WRITE[:1], Operation(1, 3, ("read",), 0, "b")], id="tie"),
        pytest.param(Register(0), UNKNOWN_UNDONE[:2], id="an unknown write that happened"),
        pytest.param(Register(0), UNKNOWN_UNDONE[:1] + UNKNOWN_UNDONE[2:], id="that did not yet"),
        pytest.param(
            Counter(), [*UNKNOWN_TWICE, Operation(0, UNKNOWN, ("add", 5), None, "c")], id="twins"
        ),
        pytest.param(Register(0), EITHER_UNKNOWN, id="only the later of two unknown came first"),
        pytest.param(Account(2), [OVERDRAWN[0], Operation(0, 5, ("withdraw", 2), None)], id="no"),
    ],
)
def test_what_can_be_explained_is_not_a_violation(
    model: Model[Any], history: list[Operation]
) -> None:
    assert is_linearizable(history, model)
    assert check(history, model) is None


def test_resources_are_judged_one_by_one() -> None:
    fine = [
        Operation(0, 1, ("write", 1), None, "a", "R-1"),
        Operation(2, 3, ("read",), 0, "a", "R-2"),
    ]
    assert check(fine, Register(0)) is None
    violation = check([*fine, Operation(4, 5, ("read",), 7, "a", "R-2")], Register(0))
    assert violation is not None
    assert violation.resource == "R-2"


def test_an_explanation_names_the_operation_that_does_not_fit_and_what_was_expected() -> None:
    violation = check([*STALE_READ, Operation(2.5, UNKNOWN, ("write", 9), None, "d")], Register(0))
    assert violation is not None
    text = str(violation)
    assert "[4.000000, 5.000000] b: read() -> 1" in text
    assert "[2.000000, 3.000000] a: write(2) -> None" in text
    assert "d: write(9)" in text


def test_a_search_that_is_cut_is_a_failure_and_never_a_success() -> None:
    violation = check(recorded(1), Register(0), limit=50)
    assert violation is not None
    assert violation.undecided
    assert "undecided after" in str(violation)


def test_a_return_before_the_call_is_refused() -> None:
    with pytest.raises(ValueError, match="returned before it was called"):
        check([Operation(2, 1, ("read",), 0)], Register(0))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_a_request_that_the_model_does_not_know_is_an_error(model: Model[Any]) -> None:
    with pytest.raises(ValueError, match="does not know"):
        check([Operation(0, 1, ("jump",), None)], model)


def test_requests_that_cannot_be_hashed_are_judged_too() -> None:
    class Longest:
        def initial(self) -> int:
            return 0

        def apply(self, state: int, request: Any) -> tuple[int, int]:
            return max(state, len(request)), max(state, len(request))

    history = [
        Operation(0, UNKNOWN, [1, 2, 3], None),
        Operation(0, UNKNOWN, [1, 2], None),
        Operation(1, 2, [1], 2),
        Operation(3, 4, [1], 3),
    ]
    assert check(history, Longest()) is None
    assert check([*history, Operation(5, 6, [], 2)], Longest()) is not None
