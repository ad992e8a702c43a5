"""One run of a simulation's turns: a system of its own, with its faults, and its judge."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define, field

from aegis._node import Node
from aegis.actors._handlers import describe
from aegis.actors._record import CommandEntry, Record
from aegis.contracts import OK
from aegis.errors import AegisError, HandlerFailed, OutcomeUnknown
from aegis.testing._memory_cluster import MemoryCluster
from aegis.testing._operations import Subjects, Trouble, Turn
from aegis.testing._outside import Outside
from aegis.testing._replay import Committed, explain, replay
from aegis.testing._states import Follower, States, encoded_state
from aegis.testing._steps import Crash
from aegis.testing._tap import Run
from aegis.transport._codec import decode_value
from aegis.transport._memory import Hop

__all__ = ["Invariant", "Rules", "Trial", "Violation"]

type Invariant = Callable[[States], object]
"""Raises AssertionError or returns False if the states break it."""

CALL_TIMEOUT: Final = 20.0
REST_SECONDS: Final = 60.0
"""So long after the last command everything must be answered and delivered."""

_NOT_DONE: Final = frozenset({404, 408, 421, 429, 503})
"""What a caller is told who could not be served in time."""

FREEZE_SECONDS: Final = 4.0
LATE_SECONDS: Final = 1.5


class Violation(Exception):
    """A rule was broken; ``kind`` is which one."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


@define
class Rules:
    """What must hold in each trial."""

    invariants: Sequence[Invariant]
    outside: Sequence[Outside]
    may_fail: bool
    """Whether a handler may raise something else than `Rejected`."""
    replayed: bool
    """Whether a plain replay has to give the same."""


@define(eq=False)
class _Given:
    """A command that was given, and what its caller was told."""

    turn: Turn
    answer: tuple[int, Any] | None = None
    """Status and value, or None where the caller cannot tell."""

    @property
    def told(self) -> str:
        """What its caller was told, for people."""
        if self.answer is None:
            return "no answer"
        status, value = self.answer
        return f"{status} {value!r}" if status == OK else f"{status} {value}"


@define(eq=False)
class _Journal:
    """One resource: its commands in the order of its journal, and the state after each record."""

    follower: Follower
    resource: str
    is_whole: bool = True
    """Whether each of its commands was seen: a snapshot holds some that nobody saw alone."""
    committed: list[Committed] = field(factory=list[Committed])
    keys: set[str] = field(factory=set[str])
    states: dict[int, bytes] = field(factory=dict[int, bytes])


class Trial:
    """Runs turns on a system of its own, and raises the first `Violation`."""

    def __init__(self, seed: int, subjects: Subjects, turns: Sequence[Turn], rules: Rules) -> None:
        self.counters: Counter[str] = Counter()
        self.history: list[str] = []
        """What happened, a line each."""
        self._seed = seed
        self._subjects = subjects
        self._turns = turns
        self._rules = rules
        self._violation: Violation | None = None
        self._journals = {
            key: _Journal(Follower(subjects.specs[key[0]], key[1]), key[1])
            for key in subjects.addresses()
        }
        self._by_subject: dict[str, _Journal] = {}
        self._runs: dict[str, list[Run]] = {}
        self._running = 0
        self._states = States({key: one.follower for key, one in self._journals.items()})
        self._given: list[_Given] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._memory: MemoryCluster
        self._promotions = 0

    async def run(self) -> None:
        """Run all turns to their end.

        Raises:
            Violation: a rule was broken.
        """
        for outside in self._rules.outside:
            outside.reset()
        async with MemoryCluster(timeout=CALL_TIMEOUT) as memory:
            self._memory = memory
            memory.taps.append(self)
            memory.broker.watchers.append(self._on_stored)
            for (service, resource), journal in self._journals.items():
                self._by_subject[memory.subjects.journal(service, resource)] = journal
            _seed_client(memory.cluster, f"caller {self._seed}")
            await memory.start_node()  # It leads, and is never killed.
            await self._start("active")
            await self._start("standby")
            try:
                for turn in self._turns:
                    await self._take(turn)
                    self._check()
                await self._rest()
            finally:
                for task in self._tasks:
                    task.cancel()
                # Nobody needs them to end in good order, and killing is quicker.
                for node in list(memory.nodes):
                    await memory.kill_node(node)
        await self._judge()

    def _check(self) -> None:
        if self._violation is not None:
            raise self._violation

    def _fail(self, kind: str, text: str) -> None:
        if self._violation is None:
            self._violation = Violation(kind, text)

    # -- nodes --------------------------------------------------------------------------

    async def _start(self, role: str) -> None:
        services = [(one, list(names)) for one, names in self._subjects.resources.items()]
        try:
            node = await self._memory.start_node(*services, role=role, no_supervisor=True)
        except AegisError as error:
            raise Violation("failure", f"a node cannot start: {error}") from error
        _seed_client(node.cluster, f"{node.node_id} {self._seed}")

    def _providers(self) -> list[Node]:
        return self._memory.nodes[1:]

    async def _replace(self) -> None:
        """Start a standby for each node that is gone."""
        while len(self._providers()) < 2:
            await self._start("standby")

    def _note(self, text: str) -> None:
        self.history.append(f"{self._memory.now - 1000:8.3f} s  {text}")

    # -- turns --------------------------------------------------------------------------

    async def _take(self, turn: Turn) -> None:
        memory = self._memory
        if turn.pause:
            await memory.advance(turn.pause)
            self._check()
        await self._replace()
        given = _Given(turn)
        self._given.append(given)
        number = len(self._given)
        self._note(f"{number}. {turn}")
        crash: Crash | None = None
        if turn.step is not None:
            crash = memory.crash_at(turn.step, turn.service, turn.resource)
        await self._before(turn)
        gate = self._gate_of(turn)
        if gate is not None:
            memory.broker.gates.append(gate)
        task = asyncio.ensure_future(self._give(given, number))
        self._tasks.append(task)
        await self._during(turn)
        if turn.overlaps:
            await memory.advance(0.0)
        while not turn.overlaps and not task.done():
            await asyncio.wait((task,), timeout=1.0)
            await self._replace()
        if crash is not None:
            self._end_crash(crash, keep=turn.overlaps)
        if gate is not None and not turn.overlaps:
            memory.broker.gates.remove(gate)

    def _end_crash(self, crash: Crash, *, keep: bool) -> None:
        if crash.happened:
            self.counters["crashes"] += 1
            self.counters[f"died {crash.step}"] += 1
            self._note(f"   {crash.node_id} died {crash.step}")
        if not keep:
            crash.disarm()

    async def _give(self, given: _Given, number: int) -> None:
        turn, cluster = given.turn, self._memory.cluster
        actor = self._subjects.classes[turn.service]
        self.counters["commands"] += 1
        try:
            if turn.by_mail:
                receipt = await cluster.send(
                    actor, turn.do.method, turn.do.params, resource_id=turn.resource
                )
                value = await cluster.result(receipt)
            else:
                call = getattr(
                    cluster.actor(actor, turn.resource), _attribute(actor, turn.do.method)
                )
                value = await call(**turn.do.params)
            given.answer = (OK, value)
        except OutcomeUnknown:
            given.answer = None
        except AegisError as error:
            given.answer = (error.code, error.message)
        self._note(f"   {number}. {given.told}")

    async def _before(self, turn: Turn) -> None:
        if turn.trouble is Trouble.RESTART:
            self.counters["restarts"] += 1
            for node in self._providers():
                await self._memory.kill_node(node)
            await self._replace()
        elif turn.trouble is Trouble.HANDOVER:
            owner = self._owner(turn)
            if owner is not None:
                self.counters["handovers"] += 1
                await self._memory.stop_node(owner)
                await self._replace()

    async def _during(self, turn: Turn) -> None:
        if turn.trouble is not Trouble.FREEZE:
            return
        owner = self._owner(turn)
        if owner is None:
            return
        self.counters["freezes"] += 1
        self._memory.freeze_node(owner)
        await self._memory.advance(FREEZE_SECONDS)
        if owner in self._memory.nodes:
            self._memory.resume_node(owner)

    def _owner(self, turn: Turn) -> Node | None:
        try:
            return self._memory.owner_of(turn.service, turn.resource)
        except LookupError:
            return None

    def _gate_of(self, turn: Turn) -> Callable[[Hop], Sequence[float] | None] | None:
        """Return what befalls the first request to an owner, or the first reply."""
        trouble = turn.trouble
        fates: dict[Trouble, tuple[bool, Sequence[float]]] = {
            Trouble.LOST_REQUEST: (True, ()),
            Trouble.LOST_REPLY: (False, ()),
            Trouble.REPEATED: (True, (0.0, 0.001)),
            Trouble.LATE: (True, (LATE_SECONDS,)),
        }
        if trouble is None or trouble not in fates or turn.by_mail:
            return None
        is_request, delays = fates[trouble]
        instances = f"{self._memory.subjects.namespace}.instance."
        left = [1]

        def gate(hop: Hop) -> Sequence[float] | None:
            if hop.kind != "message" or not left[0]:
                return None
            to_owner = hop.subject.startswith(instances) and bool(hop.payload)
            to_caller = hop.subject.startswith(self._memory.cluster.transport.inbox_prefix)
            if not (to_owner if is_request else to_caller and _from_node(hop)):
                return None
            left[0] = 0
            self.counters[str(trouble)] += 1
            return delays

        return gate

    # -- what is seen -------------------------------------------------------------------

    def begins(self, run: Run) -> bool:
        """A handler is about to run."""
        if run.is_command:
            self._runs.setdefault(_key(run), []).append(run)
        return True

    def ends(self, run: Run, error: BaseException | None) -> None:
        """A handler has ended."""
        if not isinstance(error, Exception) or self._rules.may_fail:
            return
        status = getattr(error, "code", HandlerFailed.code)
        if status >= 500 or not isinstance(error, AegisError):
            self._fail(
                "failure",
                f"{run.service}/{run.resource}: {run.handler.name}({_shown(run.arguments)}) raised "
                f"{type(error).__name__}: {error}",
            )

    def _on_stored(self, source: str, subject: str, sequence: int, payload: bytes) -> None:
        journal = self._by_subject.get(subject)
        if journal is None or self._violation is not None:
            return
        record = Record.from_wire(decode_value(payload))
        if record.is_fence:
            self.counters["promotions"] += 1
            return
        journal.is_whole = journal.is_whole and not record.is_snapshot
        for entry in record.entries or ():
            if isinstance(entry, CommandEntry):
                self._take_entry(journal, entry, source)
        try:
            journal.follower.follow(sequence, record)
            journal.states[sequence] = journal.follower.encoded()
        except Exception as error:
            service = journal.follower.spec.service
            self._fail("state", f"{service}: its journal cannot be applied: {_error(error)}")
            return
        self._look()

    def _take_entry(self, journal: _Journal, entry: CommandEntry, source: str) -> None:
        if entry.session:
            key = f"{entry.session}-{entry.n}"
        else:
            names = [change.name for change in entry.reminders or ()]
            service = journal.follower.spec.service
            key = f"reminder {service}/{journal.resource}/{names[0] if names else ''}"
        runs = [run for run in self._runs.get(key, ()) if run.host == source]
        if not runs:
            return
        # A reminder that comes again and again has the same name each time.
        run = runs[-1] if entry.session else runs[0]
        self._runs[key].remove(run)
        if entry.session and key in journal.keys:
            self._fail("once", f"{run.handler.name} is in the journal twice, as {key}")
        journal.keys.add(key)
        journal.committed.append(Committed(entry, run))
        self.counters["messages"] += len(entry.outgoing or ())
        self.counters["reminders"] += not entry.session

    def _look(self) -> None:
        """Check the invariants on what the journals say now."""
        for invariant in self._rules.invariants:
            name = getattr(invariant, "__name__", repr(invariant))
            try:
                holds = invariant(self._states)
            except AssertionError as error:
                text = str(error)
                self._fail("invariant", f"{name} does not hold{': ' if text else ''}{text}")
            except Exception as error:
                self._fail(
                    "wrong use",
                    f"the invariant {name} raised {_error(error)}; an invariant asserts, or "
                    "returns whether it holds",
                )
            else:
                if holds is not None and not holds:
                    self._fail("invariant", f"{name} does not hold, it returned {holds!r}")
        if self._violation is not None:
            self._violation.text += f"\nstates: {self._states!r}"

    # -- the end ------------------------------------------------------------------------

    async def _rest(self) -> None:
        """Let all faults end, and everything that is under way."""
        memory = self._memory
        await self._replace()
        for node in memory.nodes:
            memory.resume_node(node)
        memory.broker.gates[1:] = []
        for crash in list(memory._crashes):
            crash.disarm()
        waited = 0.0
        while waited < REST_SECONDS and not (all(t.done() for t in self._tasks) and self._quiet()):
            await memory.advance(0.5)
            self._check()
            waited += 0.5
        self._check()
        if waited >= REST_SECONDS:
            open_ = [
                str(one.turn)
                for one, task in zip(self._given, self._tasks, strict=True)
                if not task.done()
            ]
            text = "; ".join(open_) or "messages between actors have not all arrived"
            raise Violation("stuck", f"not at rest {REST_SECONDS:g} s after the last fault: {text}")
        self._states.at_rest = True
        self._look()
        self._check()
        self._compare()

    def _quiet(self) -> bool:
        """Whether nothing is on its way between actors, and everybody knows it."""
        for service, resource in self._journals:
            try:
                owner = self._memory.owner_of(service, resource)
            except LookupError:
                return False
            behaviour = self._memory.behaviour(owner, service, resource)
            if behaviour is None or not behaviour.owner.serving or not behaviour.owner.quiescent:
                return False
            if behaviour.owner.outbox.due():
                return False
            subject = self._memory.subjects.mailbox(service, resource)
            # A repeat that was passed over stands in no record until there is another one.
            if self._memory.broker.last_sequence(subject) > behaviour.owner.cursor:
                return False
        return True

    def _compare(self) -> None:
        """Compare what nodes hold in memory with what the journals say."""
        for (service, resource), journal in self._journals.items():
            spec = journal.follower.spec
            if not spec.has_state:
                continue
            for node in self._providers():
                behaviour = self._memory.behaviour(node, service, resource)
                expected = journal.states.get(behaviour.applied) if behaviour else None
                if behaviour is None or expected is None:
                    continue
                if behaviour.is_standby and not spec.is_event_sourced:
                    continue  # It holds the very bytes of the journal.
                state = behaviour._actor.state
                if encoded_state(spec, state) != expected:
                    role = "a standby" if behaviour.is_standby else "the owner"
                    raise Violation(
                        "state",
                        f"{service}/{resource}: {role} has the state {state!r}, and the journal says "
                        f"{journal.follower.state!r}: something else than its commands has changed "
                        "it, or an @applies method does not do the same each time",
                    )

    async def _judge(self) -> None:
        self._check()
        for outside in self._rules.outside:
            problem = outside.problem()
            if problem is not None:
                raise Violation("outside", problem)
        self._check_answers()
        if not self._rules.replayed:
            return
        for (_, resource), journal in self._journals.items():
            if not journal.is_whole:
                self.counters["journals not replayed"] += 1
                continue
            spec = journal.follower.spec
            problem, state = await replay(spec, resource, journal.committed)
            if not problem and state != journal.follower.encoded():
                problem = (
                    f"{spec.service}/{resource}: the state is {journal.follower.state!r} in the run, "
                    "and another one after a replay without failures"
                )
            if problem:
                why = await explain(spec, resource, journal.committed)
                raise Violation("replay", f"{problem}\n{why}" if why else problem)

    def _check_answers(self) -> None:
        """Compare what callers were told with how often their commands are in the journals."""
        for given in self._given:
            if given.answer is None or given.answer[0] in _NOT_DONE:
                raise Violation(
                    "stuck",
                    f"{given.turn}: {given.told} within {CALL_TIMEOUT:g} s, with nodes there",
                )
        for (service, resource), journal in self._journals.items():
            if not journal.is_whole:
                continue
            there = Counter(one.run.handler.name for one in journal.committed if one.entry.session)
            told = Counter(
                given.turn.do.method
                for given in self._given
                if (given.turn.service, given.turn.resource) == (service, resource)
                and given.answer is not None
                and given.answer[0] in (OK, 422)
                and journal.follower.spec.handler(given.turn.do.method).kind == "command"
            )
            for method, count in told.items():
                if there[method] < count:
                    raise Violation(
                        "once",
                        f"{service}/{resource}: {count} calls of {method} were answered, and only "
                        f"{there[method]} are in the journal",
                    )


def _key(run: Run) -> str:
    if run.reminder:
        return f"reminder {run.service}/{run.resource}/{run.reminder}"
    return run.key


def _attribute(actor: type, method: str) -> str:
    spec = describe(actor)
    function = spec.handlers[method].function
    return next(name for name in dir(actor) if getattr(actor, name, None) is function)


def _from_node(hop: Hop) -> bool:
    return hop.source.startswith("node-")


def _shown(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _seed_client(cluster: Any, seed: str) -> None:
    cluster._client._rng = random.Random(f"client {seed}")
    cluster.sender._rng = random.Random(f"sender {seed}")
