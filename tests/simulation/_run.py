"""One seed from its start to its rest."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any, Final

from attrs import define

from aegis.actors._owner import Phase
from aegis.actors._record import Record
from tests.simulation._caller import GROUP, Caller
from tests.simulation._checker import Checker
from tests.simulation._faults import Faults, draw_faults, draw_limits
from tests.simulation._model import TOPIC, Command, State, unpack
from tests.simulation._node import Node, fold
from tests.simulation._plants import MAIL_PLANTS, make_owner
from tests.simulation._posted import Posted
from tests.simulation._simulation import Simulation
from tests.simulation._store import Store
from tests.simulation._supervisor import Supervisor
from tests.simulation._world import InvariantViolated, Process, World

__all__ = ["Outcome", "SeedFailed", "run_seed"]

REST_SECONDS: Final = 12.0
"""After so long without faults everything must have come to rest."""

REST_SECONDS_WITH_MAIL: Final = 25.0
"""... where a message at which owners die has to be tried so often."""

FOREIGN_RATE: Final = 2.0
"""How often something is published by somebody who knows of nothing."""

LATE_SECONDS: Final = 3 * 3600.0
"""Then all that is still under way arrives."""


class SeedFailed(AssertionError):
    """A seed has broken a promise; the message has the command that replays it."""


@define
class Outcome:
    """What happened in a seed."""

    counters: Counter[str]
    events: float = 0.0


def run_seed(seed: int, *, plant: str = "", black_box: bool = False) -> Outcome:
    """Run one seed; the same seed does exactly the same each time.

    Raises:
        SeedFailed: a promise was broken.
    """
    rng = random.Random(f"faults {seed}")
    faults, limits = draw_faults(rng), draw_limits(rng)
    world = World(seed, faults)
    checker = Checker(
        world, window=limits.window, max_sessions=limits.max_sessions, black_box=black_box
    )
    checker.mail.named = plant != "no-durable-name"
    nodes: list[Node] = []

    def on_accept(subject: str, sequence: int, payload: bytes, rollup: bool, about: Any) -> None:
        checker.on_accept(subject, sequence, payload, rollup, about)
        kind, _, resource = subject.partition(".")
        if kind == "mailbox":
            for node in nodes:
                node.after(0.0005, partial(node.on_mail, resource))
        elif kind == "topic":
            for node in nodes:
                node.after(0.0005, node.on_published)

    store = Store(world, on_accept)
    resources = {f"R-{i}": rng.random() < 0.5 for i in range(rng.choice([1, 1, 2, 3]))}
    # Half of the seeds do without mail: they take less time and find other things.
    mail = plant in MAIL_PLANTS or (not plant and seed % 2 == 0)
    simulation = Simulation(world, store, checker, limits, resources, plant, mail)
    for resource, event_sourced in resources.items():
        checker.add_resource(resource, event_sourced=event_sourced)
    nodes += [Node(simulation, f"node-{i}") for i in range(rng.choice([2, 3]))]
    supervisor = Supervisor(simulation, nodes)
    callers = [Caller(simulation, supervisor, f"caller-{i}") for i in range(rng.choice([1, 2, 3]))]
    for process in [*nodes, *callers]:
        process.skew_ms = int(rng.uniform(-1.0, 1.0) * faults.skew_seconds * 1000)
    try:
        _Schedule(simulation, supervisor, nodes, callers, faults).run()
    except Exception as error:
        raise SeedFailed(_report(seed, plant, world, faults, limits, error)) from error
    return Outcome(world.counters)


class _Schedule:
    """What is done to the participants, and when."""

    def __init__(
        self,
        simulation: Simulation,
        supervisor: Supervisor,
        nodes: list[Node],
        callers: list[Caller],
        faults: Faults,
    ) -> None:
        self.simulation = simulation
        self.world = simulation.world
        self.supervisor = supervisor
        self.nodes = nodes
        self.callers = callers
        self.faults = faults
        self._foreign = 0

    def run(self) -> None:
        world, faults = self.world, self.faults
        self.supervisor.start()
        for caller in self.callers:
            caller.start()
        processes: list[Process] = [*self.nodes, *self.callers]
        self._at_rate(faults.crash_rate, lambda: world.rng.choice(processes).crash())
        self._at_rate(faults.pause_rate, partial(self._pause, self.nodes))
        self._at_rate(faults.promote_rate, self._promote)
        self._at_rate(faults.actor_restart_rate, self._restart_actor)
        self._at_rate(faults.outage_rate, self._outage)
        self._at_rate(faults.reconnect_rate, self._reconnect)
        if self.simulation.mail:
            self._at_rate(faults.let_go_rate, self._let_go)
            self._at_rate(FOREIGN_RATE, self._publish)
        world.run(faults.seconds)
        self._heal()
        rest = REST_SECONDS_WITH_MAIL if self.simulation.mail else REST_SECONDS
        world.run(world.now + rest)
        self._probe()
        self._rest()

    def _at_rate(self, rate: float, action: Any) -> None:
        if rate <= 0.0:
            return
        world = self.world

        def happen() -> None:
            if world.faulty:
                action()
                world.after(world.rng.expovariate(rate), happen)

        world.after(world.rng.expovariate(rate), happen)

    def _pause(self, nodes: list[Node]) -> None:
        seconds = self.world.rng.uniform(0.0, self.faults.pause_seconds)
        self.world.rng.choice(nodes).pause(seconds)

    def _promote(self) -> None:
        world = self.world
        resource = world.rng.choice(list(self.simulation.resources))
        self.supervisor.promote(resource)
        if world.chance(self.faults.race):
            world.count("two promotions at once")
            delay = world.rng.choice([0.0, 0.002, 0.05])
            world.after(delay, partial(self.supervisor.promote, resource))

    def _restart_actor(self) -> None:
        node = self.world.rng.choice(self.nodes)
        resource = self.world.rng.choice(list(self.simulation.resources))
        if node.alive:
            node.execute(partial(node.restart_actor, resource))

    def _outage(self) -> None:
        world, store = self.world, self.simulation.store
        if not store.available:
            return
        world.note("the store is unavailable")
        store.available = False

        def end() -> None:
            store.available = True
            world.note("the store is available")

        world.after(world.rng.uniform(0.0, self.faults.outage_seconds), end)

    def _let_go(self) -> None:
        """The topic lets go of its oldest messages."""
        world = self.world
        last = self.simulation.store.let_go(f"topic.{TOPIC}", world.rng.randrange(1, 6))
        world.note("the topic lets go of all up to %d", last)
        self.simulation.checker.mail.on_let_go(last)

    def _publish(self) -> None:
        """Somebody publishes who does not know that the topic is kept, and never repeats."""
        self._foreign += 1
        command = Command(f"foreign.{self._foreign}", "hear", self.world.rng.randrange(1, 50))
        payload = Posted("", 0, 0, command, "").encoded()
        self.simulation.store.append_now(f"topic.{TOPIC}", payload, expect=None)

    def _reconnect(self) -> None:
        node = self.world.rng.choice(self.nodes)
        node.connection += 1
        self.world.count("node reconnected")

    def _heal(self) -> None:
        """The faults stop; what they have broken is repaired, in time, by itself."""
        world = self.world
        world.note("the faults stop")
        world.faulty = False
        self.simulation.store.available = True
        for process in [*self.nodes, *self.callers]:
            process.restart()
            process.resume()
        for caller in self.callers:
            caller.calling = False

    def _probe(self) -> None:
        """Everything works again: each resource takes a new command, at once."""
        world = self.world
        for resource in self.simulation.resources:
            if not self.supervisor.is_serving(resource):
                raise InvariantViolated(f"{resource} has no owner that serves")
        caller = Caller(self.simulation, self.supervisor, "prober")
        caller.calling = False
        before = Counter(world.counters)
        expected = 0
        for resource in self.simulation.resources:
            for kind, name in (("command", "deposit"), ("query", "read")):
                if caller.call(kind, resource, name, 5.0) is None:
                    raise InvariantViolated("the window of a new caller is full")
                expected += 1
        # Its clock is as wrong as that of the nodes at most; the probe's is right.
        near = [node for node in self.nodes if abs(node.skew_ms) < 590_000]
        if len(near) == len(self.nodes):
            caller.call("group", GROUP, "price", 5.0)
            expected += 1
        world.run(world.now + 5.0)
        ended = {
            kind: world.counters[f"{kind} ended: 200"] - before[f"{kind} ended: 200"]
            for kind in ("command", "query", "group")
        }
        if sum(ended.values()) != expected:
            raise InvariantViolated(f"of {expected} calls after the faults succeeded: {ended}")

    def _rest(self) -> None:
        """Nothing is open, and every reader sees the same."""
        world, checker = self.world, self.simulation.checker
        self.supervisor.beating = False
        world.run(world.now + LATE_SECONDS)
        checker.on_rest()
        for resource, event_sourced in self.simulation.resources.items():
            for node in self.nodes:
                driver = node.drivers.get(resource)
                if driver is None or driver.owner.phase is not Phase.SERVING:
                    continue
                if driver.epoch == self.supervisor.epoch_of(resource):
                    if not driver.owner.quiescent:
                        raise InvariantViolated(f"{resource}: the owner has not come to rest")
                    checker.on_quiescent(resource, driver.owner, driver.account.state)
            self._read_all(resource, event_sourced=event_sourced)
        checker.on_end_of_all()

    def _read_all(self, resource: str, *, event_sourced: bool) -> None:
        reader = make_owner(
            "",
            epoch=self.simulation.store.sequence + 1,
            snapshot_state=not event_sourced,
            limits=self.simulation.limits,
        )
        state = State()
        for stored in self.simulation.store.read_now(f"journal.{resource}"):
            record = Record.from_wire(unpack(stored.payload))
            if reader.replay(stored.sequence, record) and event_sourced:
                fold(state, record)
        if not event_sourced and reader.state is not None:
            state = State.decode(reader.state)
        self.simulation.checker.on_reader(resource, reader, state)


def _report(
    seed: int, plant: str, world: World, faults: Faults, limits: object, error: Exception
) -> str:
    lines = [f"{time:10.4f}  {text % arguments}" for time, text, arguments in world.trace]
    planted = f" --plant {plant}" if plant else ""
    return "\n".join(
        [
            f"seed {seed}: {type(error).__name__}: {error}",
            f"faults: {faults}",
            f"limits: {limits}",
            "the last events:",
            *lines,
            f"{world.now:10.4f}  {error}",
            "replay it with",
            f"    pytest tests/simulation --seed {seed}",
            f"    python -m tests.simulation --seed {seed}{planted}",
        ]
    )
