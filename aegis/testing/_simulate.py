"""The seeded simulator for a user's own actors: `simulate`."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from attrs import evolve, frozen

from aegis.actors._actor import AegisActor
from aegis.errors import ConfigurationError
from aegis.testing._operations import Commands, Subjects, Turn, draw_turns
from aegis.testing._outside import Outside
from aegis.testing._trial import Invariant, Rules, Trial, Violation
from aegis.transport._virtual_hosts import HostLoop

__all__ = ["SimulationFailed", "SimulationReport", "simulate"]

MAX_SHRINKS: Final = 200
"""So many shorter runs are tried before a failure is told."""


_PLAINER: Final[tuple[dict[str, Any], ...]] = (
    {"overlaps": False},
    {"pause": 0.0},
    {"by_mail": False},
    {"trouble": None},
    {"step": None},
)
"""What can be left out of a turn, one after another."""


class SimulationFailed(AssertionError):
    """A seed broke a rule; the text has the shortest run found that breaks it.

    ``seed`` is which one, ``problem`` what was wrong, ``turns`` the commands and faults that
    lead to it, and ``history`` what happened then, each a list of lines.
    """

    def __init__(
        self, seed: int, problem: str, turns: list[str], history: list[str], drawn: int
    ) -> None:
        self.seed = seed
        self.problem = problem
        self.turns = turns
        self.history = history
        lines = [
            problem,
            "",
            f"seed {seed}, {len(turns)} of its {drawn} commands, the shortest run that was found:",
            *(f"  {line}" for line in history),
            "",
            f"run it again with simulate(..., seeds=[{seed}])",
        ]
        super().__init__("\n".join(lines))


@frozen
class SimulationReport:
    """What a simulation did that found nothing wrong."""

    seeds: int
    commands: int
    crashes: int
    failovers: int
    """Takeovers of a resource, by crashes, drains, freezes and restarts."""
    seconds: float
    """How long it took."""
    counts: Mapping[str, int]
    """Each kind of fault, messages between actors, reminders."""

    def __str__(self) -> str:
        rate = self.seeds / self.seconds if self.seconds else 0.0
        return (
            f"{self.seeds} seeds, {self.commands} commands, {self.crashes} crashes, "
            f"{self.failovers} failovers in {self.seconds:.1f} s ({rate:.0f} seeds/s)"
        )


def simulate(
    actor: type[AegisActor] | Mapping[type[AegisActor], Sequence[str]],
    commands: Commands,
    invariants: Invariant | Iterable[Invariant] = (),
    *,
    seeds: int | Iterable[int] = 100,
    length: int = 20,
    seconds: float = 5.0,
    outside: Outside | Iterable[Outside] = (),
    setup: Callable[[], object] | None = None,
    may_fail: bool = False,
    replayed: bool = True,
) -> SimulationReport:
    """Give random commands to actors whose nodes die, and check that nothing goes wrong.

    ``actor`` is a class, of which one resource is simulated, or a map of classes to the
    names of their resources. ``commands`` draws a `Do` with the ``random.Random`` that it
    is given, ``length`` times a seed; or it is a list of them. Each seed is a system of its
    own, with crashes at every `Step`, failovers, drains, freezes and restarts, lost,
    repeated and late messages; it lasts about ``seconds``, so that reminders come.

    After each record of a journal every invariant is called with the `States`. Besides,
    each seed is replayed without failures, and must give the same answers, states and
    messages (turn it off with ``replayed=False``); a handler must raise nothing but
    `Rejected` (allow it with ``may_fail``); and no `Outside` may be asked twice for one
    command. ``setup`` is called before each run.

    Raises:
        SimulationFailed: something is wrong; it has the seed and a short run.
        ConfigurationError: a command, an actor or a seed does not exist.
    """
    _refuse_in_loop()
    subjects = Subjects(actor)
    rules = Rules(
        (invariants,) if callable(invariants) else tuple(invariants),
        (outside,) if isinstance(outside, Outside) else tuple(outside),
        may_fail,
        replayed,
    )
    numbers = range(seeds) if isinstance(seeds, int) else list(seeds)
    began = time.perf_counter()
    total: Counter[str] = Counter()
    for seed in numbers:
        rng = random.Random(f"simulation {seed}")
        turns = draw_turns(rng, subjects, commands, length=length, seconds=seconds)
        found, trial = _try(seed, subjects, turns, rules, setup)
        if found is not None:
            raise _failure(seed, subjects, turns, rules, setup, found)
        total.update(trial.counters)
    took = time.perf_counter() - began
    # Each resource is fenced once when it is started, and that is no failover.
    failovers = total["promotions"] - len(numbers) * len(subjects.addresses())
    return SimulationReport(
        len(numbers),
        total["commands"],
        total["crashes"],
        failovers,
        took,
        {name: count for name, count in sorted(total.items()) if count},
    )


def _refuse_in_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("simulate runs event loops of its own: call it from a plain def test")


def _try(
    seed: int,
    subjects: Subjects,
    turns: Sequence[Turn],
    rules: Rules,
    setup: Callable[[], object] | None,
) -> tuple[Violation | None, Trial]:
    """Run some turns; return what they broke."""
    if setup is not None:
        setup()
    trial = Trial(seed, subjects, turns, rules)
    before = random.getstate()
    # The runtime draws the jitter of restarts from the global generator.
    random.seed(f"global {seed}")
    collecting = gc.isenabled()
    # A collection could run the cleanup of a node that was killed at any moment.
    gc.disable()
    try:
        with (
            structlog.testing.capture_logs(processors=[_drop]),
            asyncio.Runner(loop_factory=HostLoop) as runner,
        ):
            runner.run(trial.run())
    except Violation as violation:
        if violation.kind == "wrong use":
            raise ConfigurationError(violation.text) from None
        return violation, trial
    finally:
        random.setstate(before)
        if collecting:
            gc.enable()
    return None, trial


def _drop(_logger: Any, _name: str, _event: Any) -> Any:
    raise structlog.DropEvent


def _failure(
    seed: int,
    subjects: Subjects,
    turns: list[Turn],
    rules: Rules,
    setup: Callable[[], object] | None,
    found: Violation,
) -> SimulationFailed:
    """Look for a shorter run that breaks the same rule, and tell that."""
    left = [MAX_SHRINKS]

    def breaks(candidate: list[Turn]) -> tuple[Violation, Trial] | None:
        if not left[0]:
            return None
        left[0] -= 1
        violation, trial = _try(seed, subjects, candidate, rules, setup)
        return (violation, trial) if violation is not None and violation.kind == kind else None

    kind, best = found.kind, list(turns)
    shown, trial = found, None
    for changes in _PLAINER:
        # First of all at once: runs with less in them take less time, too.
        plainer = [evolve(turn, **changes) for turn in best]
        broken = breaks(plainer) if plainer != best else None
        if broken is not None:
            best, (shown, trial) = plainer, broken
    size = max(1, len(best) // 2)
    while size:
        start = 0
        while start < len(best):
            shorter = best[:start] + best[start + size :]
            broken = breaks(shorter) if shorter else None
            if broken is None:
                start += size
            else:
                best, (shown, trial) = shorter, broken
        size //= 2
    for index in range(len(best)):
        for changes in _PLAINER:
            plainer = [*best[:index], evolve(best[index], **changes), *best[index + 1 :]]
            broken = breaks(plainer) if plainer != best else None
            if broken is not None:
                best, (shown, trial) = plainer, broken
    if trial is None:
        again = _try(seed, subjects, best, rules, setup)
        shown, trial = again[0] or found, again[1]
    return SimulationFailed(
        seed, shown.text, [str(turn) for turn in best], trial.history, len(turns)
    )
