"""A linearizability checker over recorded histories, after Wing and Gong, and Lowe.

A history is linearizable if every operation can be given one moment between its call and
its return such that a plain sequential object, asked in the order of these moments, would
have given the same answers. `check` looks for such an order:

    history = [
        Operation(0.0, 1.0, ("write", 5), None, client="a", resource="R-1"),
        Operation(0.5, 2.0, ("read",), 5, client="b", resource="R-1"),
        Operation(2.1, math.inf, ("write", 6), client="a", resource="R-1"),  # outcome unknown
    ]
    violation = check(history, Register())
    assert violation is None, violation

An operation whose outcome is unknown returns at infinity: it may take effect at any moment
after its call, or never. An operation that surely had no effect does not belong in the
history. Calls and returns at the same instant are taken as overlapping, which never finds
a violation where there is none.

The search is Wing and Gong's: try each operation that may come next, go back where no order
fits. It remembers the configurations it has been in (what is done, and the state), as Lowe
proposed, so each is entered once; resources are judged one by one, since a history is
linearizable exactly if that of each resource is. Three more rules keep unknown outcomes
from multiplying the work. They are tried last; where two are the same request only the
older is tried; and a configuration is left at once if an earlier one had the same known
operations done and the same state with fewer unknown ones spent. The problem is still
NP-complete, so the search is bounded, and what is not decided within the bound is reported
as a failure, never as success.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Final, Protocol

from attrs import define, field, frozen

__all__ = [
    "Account",
    "Counter",
    "Model",
    "Operation",
    "Register",
    "Violation",
    "check",
]

STEP_LIMIT: Final = 5_000_000
"""Configurations that may be tried for one resource; some 10 s."""

SHOWN_BEFORE: Final = 6
"""Operations before the one that does not fit that an explanation shows."""

SHOWN_OPEN: Final = 8


@frozen
class Operation:
    """One operation as its client saw it.

    ``returned`` is `math.inf` where the outcome is unknown; ``output`` then says nothing.
    Both times are of one clock, in any unit.
    """

    called: float
    returned: float
    input: Any
    output: Any = None
    client: str = ""
    resource: Hashable = ""

    @property
    def is_known(self) -> bool:
        """Whether the client was told the outcome."""
        return self.returned != math.inf

    def __str__(self) -> str:
        """Return one readable line."""
        returned = f"{self.returned:.6f}" if self.is_known else "unknown"
        told = f" -> {self.output!r}" if self.is_known else ""
        return f"[{self.called:.6f}, {returned}] {self.client}: {_request(self.input)}{told}"


class Model[S](Protocol):
    """A sequential object: what the answers would be if one operation ran at a time.

    States must be hashable. `apply` takes any input in any state; a refusal is an output.
    """

    def initial(self) -> S:
        """Return the state before the first operation."""
        ...

    def apply(self, state: S, request: Any) -> tuple[S, Any]:
        """Return the state after a request, and the output."""
        ...


class Register:
    """One value: ``("read",)``, ``("write", value)``, ``("cas", expected, value)``.

    A read returns the value, a write None, a compare-and-set whether it wrote.
    """

    def __init__(self, value: Hashable = None) -> None:
        self._value = value

    def initial(self) -> Hashable:
        """Return the value before the first write."""
        return self._value

    def apply(self, state: Hashable, request: Any) -> tuple[Hashable, Any]:
        """Return the value after a request, and the output."""
        match request:
            case ("read",):
                return state, state
            case ("write", value):
                return value, None
            case ("cas", expected, value):
                return (value, True) if state == expected else (state, False)
            case _:
                raise ValueError(f"a register does not know {request!r}")


class Account:
    """A balance that is never below zero: ``("deposit", n)``, ``("withdraw", n)``, ``("read",)``.

    Each returns the balance after it; a withdrawal that is not covered returns None and
    changes nothing.
    """

    def __init__(self, balance: int = 0) -> None:
        self._balance = balance

    def initial(self) -> int:
        """Return the balance at the beginning."""
        return self._balance

    def apply(self, state: int, request: Any) -> tuple[int, int | None]:
        """Return the balance after a request, and the output."""
        match request:
            case ("read",):
                return state, state
            case ("deposit", int(amount)):
                return state + amount, state + amount
            case ("withdraw", int(amount)):
                return (state, None) if amount > state else (state - amount, state - amount)
            case _:
                raise ValueError(f"an account does not know {request!r}")


class Counter:
    """A number: ``("add", n)`` and ``("read",)``; both return it as it is afterwards."""

    def initial(self) -> int:
        """Return zero."""
        return 0

    def apply(self, state: int, request: Any) -> tuple[int, int]:
        """Return the number after a request, twice."""
        match request:
            case ("read",):
                return state, state
            case ("add", int(amount)):
                return state + amount, state + amount
            case _:
                raise ValueError(f"a counter does not know {request!r}")


@frozen
class Violation:
    """Why a history is not linearizable, or that it could not be decided.

    ``operations`` are those worth looking at: the last ones of the longest order that was
    found, then the one that fits nowhere, then what else was open at that time. ``str()``
    tells it in lines for a person.
    """

    resource: Hashable
    reason: str
    operations: tuple[Operation, ...] = ()
    undecided: bool = False
    """The search was cut: the history may be linearizable, but nobody knows."""

    def __str__(self) -> str:
        """Return the explanation."""
        return self.reason


def check[S](
    history: Iterable[Operation], model: Model[S], *, limit: int = STEP_LIMIT
) -> Violation | None:
    """Return None if the history is linearizable, else the first violation found.

    The resources of the history are independent objects that all follow ``model``.
    ``limit`` bounds the configurations tried for each; a search that is cut is a
    `Violation` with ``undecided`` set.

    Raises:
        ValueError: an operation returned before it was called, or the model does not
            know a request.
    """
    resources: dict[Hashable, list[Operation]] = {}
    for operation in history:
        if not operation.called <= operation.returned:
            raise ValueError(f"returned before it was called: {operation}")
        resources.setdefault(operation.resource, []).append(operation)
    for resource, operations in resources.items():
        violation = _Search(resource, operations, model, limit).run()
        if violation is not None:
            return violation
    return None


@define
class _Frame:
    """One configuration on the current path, and what is still to be tried from it."""

    state: Any
    base: int
    """All known operations before this one, by call, are done."""
    ahead: int
    """Bit i: operation ``base + i`` is done too."""
    spent: int
    """Bit i: the unknown operation i took effect."""
    candidates: Iterator[tuple[int, _Frame]] = field(repr=False)
    chosen: int = -1
    """The operation that was tried last: an index of ``_Search._operations``."""


class _Search:
    """The search for one resource's order."""

    def __init__(
        self, resource: Hashable, operations: list[Operation], model: Model[Any], limit: int
    ) -> None:
        self._resource = resource
        self._model = model
        self._limit = limit
        by_call = sorted(operations, key=lambda operation: operation.called)
        known = [operation for operation in by_call if operation.is_known]
        unknown = [operation for operation in by_call if not operation.is_known]
        # Known operations first, so that an index below `_known` is one of them.
        self._operations = [*known, *unknown]
        self._known = len(known)
        self._older_twins = _older_twins(unknown)
        # Calls and returns of known operations in the order of time, as a linked list from
        # which the pair of an operation that has got its place is taken out, as in Lowe's
        # version: what may come next stands before the first return that is left.
        # At the same instant a call goes first: so the two overlap.
        events = sorted(
            [(operation.called, 0, i) for i, operation in enumerate(known)]
            + [(operation.returned, 1, i) for i, operation in enumerate(known)]
        )
        self._event_of = [-1] * (2 * len(known))
        """The operation of each call event; -1 - operation of each return event."""
        self._call_at = [0] * len(known)
        self._return_at = [0] * len(known)
        for at, (_, is_return, i) in enumerate(events):
            self._event_of[at] = -1 - i if is_return else i
            (self._return_at if is_return else self._call_at)[i] = at
        end = len(events)
        self._next = [*range(1, end + 1), 0]  # the last stands for head and end at once
        self._previous = [end, *range(end)]
        self._seen: dict[tuple[int, int, Any], list[int]] = {}
        self._steps = 0
        self._stuck_at = -1
        """The latest return that no order got past; the configuration that came so far,
        how many operations were done there, and the last of them."""
        self._stuck: _Frame | None = None
        self._stuck_done = 0
        self._stuck_after: list[int] = []

    def run(self) -> Violation | None:
        """Return what is wrong, or None."""
        path = [self._enter(self._model.initial(), 0, 0, 0)]
        while True:
            frame = path[-1]
            if frame.base == self._known:
                return None
            following = self._follow(frame)
            if following is not None:
                path.append(following)
                continue
            if self._steps >= self._limit:
                return self._undecided(path)
            self._note_stuck(path)
            path.pop()
            if not path:
                return self._violation()
            self._put_back(path[-1].chosen)

    # -- one step ------------------------------------------------------------------------

    def _follow(self, frame: _Frame) -> _Frame | None:
        """Return the next configuration that is worth entering."""
        if self._steps >= self._limit:
            return None
        candidate = next(frame.candidates, None)
        if candidate is None:
            return None
        frame.chosen, following = candidate
        self._take_out(frame.chosen)
        return following

    def _enter(self, state: Any, base: int, ahead: int, spent: int) -> _Frame:
        frame = _Frame(state, base, ahead, spent, iter(()))
        frame.candidates = self._following(frame)
        return frame

    def _following(self, frame: _Frame) -> Iterator[tuple[int, _Frame]]:
        """Yield what may come next, as nothing that is left returned before its call,
        and where it leads.
        """
        end = len(self._event_of)
        at = self._next[end]
        while at != end and self._event_of[at] >= 0:
            chosen = self._event_of[at]
            following = self._tried(frame, chosen)
            if following is not None:
                yield chosen, following
            # What was taken out is back in its place when the search comes here again.
            at = self._next[at]
        if at == end:
            return
        first_return = self._operations[-1 - self._event_of[at]].returned
        # All of them are noted before the first is entered. Else the search would go from
        # one to the next, and so through all their subsets.
        yield from [
            (self._known + i, following)
            for i in self._open_unknown(first_return, frame.spent)
            if (following := self._tried(frame, self._known + i)) is not None
        ]

    def _open_unknown(self, before: float, spent: int) -> Iterator[int]:
        for i, older in enumerate(self._older_twins):
            if self._operations[self._known + i].called > before:
                return
            if not spent >> i & 1 and (older < 0 or spent >> older & 1):
                yield i

    def _tried(self, frame: _Frame, chosen: int) -> _Frame | None:
        """Return where an operation leads, if it fits there and the place is new."""
        self._steps += 1
        operation = self._operations[chosen]
        state, output = self._model.apply(frame.state, operation.input)
        base, ahead, spent = frame.base, frame.ahead, frame.spent
        if chosen < self._known:
            if output != operation.output:
                return None
            ahead |= 1 << (chosen - base)
            while ahead & 1:
                ahead >>= 1
                base += 1
        else:
            if state == frame.state:
                return None  # with or without it is the same
            spent |= 1 << (chosen - self._known)
        return (
            self._enter(state, base, ahead, spent)
            if self._is_new(base, ahead, state, spent)
            else None
        )

    def _is_new(self, base: int, ahead: int, state: Any, spent: int) -> bool:
        """Note a configuration, unless one that leaves at least as much open was there."""
        before = self._seen.setdefault((base, ahead, state), [])
        if any(less & ~spent == 0 for less in before):
            return False
        before.append(spent)
        return True

    def _take_out(self, chosen: int) -> None:
        if chosen < self._known:
            for at in (self._call_at[chosen], self._return_at[chosen]):
                before, after = self._previous[at], self._next[at]
                self._next[before], self._previous[after] = after, before

    def _put_back(self, chosen: int) -> None:
        if chosen < self._known:
            for at in (self._return_at[chosen], self._call_at[chosen]):
                before, after = self._previous[at], self._next[at]
                self._next[before] = self._previous[after] = at

    # -- explanations --------------------------------------------------------------------

    def _note_stuck(self, path: list[_Frame]) -> None:
        """Remember how far the search came: linearizability holds for every beginning of
        a linearizable history, so the first return that no order passes is the place.
        """
        end = len(self._event_of)
        at = self._next[end]
        while self._event_of[at] >= 0:
            at = self._next[at]
        if at > self._stuck_at:
            self._stuck_at = at
            self._stuck = path[-1]
            self._stuck_done = len(path) - 1
            self._stuck_after = [frame.chosen for frame in path[-SHOWN_BEFORE - 1 : -1]]

    def _violation(self) -> Violation:
        stuck = self._stuck
        assert stuck is not None
        failing = self._operations[-1 - self._event_of[self._stuck_at]]
        before = [self._operations[i] for i in self._stuck_after]
        others = [
            operation
            for i, operation in enumerate(self._operations)
            if not self._is_done(stuck, i)
            and operation.called <= failing.returned
            and operation is not failing
        ]
        others = sorted(others, key=lambda operation: operation.called)[-SHOWN_OPEN:]
        _, output = self._model.apply(stuck.state, failing.input)
        lines = [f"{self._resource}: not linearizable. No order of its operations explains"]
        lines += [f"    {failing}"]
        if self._stuck_done > len(before):
            lines += [f"  after {self._stuck_done - len(before)} operations, and then"]
        elif before:
            lines += ["  after"]
        lines += [f"    {operation}" for operation in before]
        lines += [f"  where the state is {stuck.state!r}, so it would return {output!r}"]
        if others:
            lines += ["  open at that time, and of no help:", *(f"    {one}" for one in others)]
        return Violation(self._resource, "\n".join(lines), (*before, failing, *others))

    def _is_done(self, frame: _Frame, i: int) -> bool:
        if i >= self._known:
            return bool(frame.spent >> (i - self._known) & 1)
        return i < frame.base or bool(frame.ahead >> (i - frame.base) & 1)

    def _undecided(self, path: list[_Frame]) -> Violation:
        done = [self._operations[frame.chosen] for frame in path[:-1]][-SHOWN_BEFORE:]
        total, unknown = len(self._operations), len(self._operations) - self._known
        lines = [
            f"{self._resource}: undecided after {self._steps:,} steps: {total:,} operations, "
            f"{unknown:,} of them with an unknown outcome; the search was at",
            *(f"    {operation}" for operation in done),
        ]
        return Violation(self._resource, "\n".join(lines), tuple(done), undecided=True)


def _older_twins(unknown: list[Operation]) -> list[int]:
    """Return for each unknown operation the last one before it that asks the same, or -1.

    All that was called stays possible for ever, so of equal requests the oldest may stand
    for the others.
    """
    last: dict[Any, int] = {}
    twins: list[int] = []
    for i, operation in enumerate(unknown):
        try:
            twins.append(last.get(operation.input, -1))
            last[operation.input] = i
        except TypeError:  # a request that cannot be hashed has no twin
            twins.append(-1)
    return twins


def _request(request: Any) -> str:
    """Return a request as one would write a call."""
    match request:
        case (str(name), *arguments):
            return f"{name}({', '.join(map(repr, arguments))})"
        case _:
            return repr(request)
