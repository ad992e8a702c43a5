"""One seed from its start to its rest."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog
from attrs import asdict, define

from aegis.actors._appending import APPEND_TIMEOUT
from aegis.actors._owner import SNAPSHOT_EVERY_RECORDS, OwnerLimits
from aegis.contracts import Role
from aegis.errors import AegisError
from aegis.transport import HostLoop, MemoryTransport
from aegis.transport._codec import encode_value
from tests.simulation.system._checker import Checker
from tests.simulation.system._inside import Inside
from tests.simulation.system._machines import CallerMachine, Machine, NodeMachine, Provided
from tests.simulation.system._network import LATE_ANSWER_SECONDS, Cut, Network
from tests.simulation.system._plan import Plan, draw_plan
from tests.simulation.system._plants import PLANTS, planted
from tests.simulation.system._services import SERVICES
from tests.simulation.system._world import InvariantViolated, World
from tests.support.virtual import pass_time

__all__ = ["Outcome", "SeedFailed", "run_seed"]

REST_SECONDS: Final = 40.0
"""So long after the faults everything must work again: registrations of nodes that start
wait for a leader, resources of hosts that are gone are released after 10 s."""

POLL_SECONDS: Final = 0.1

PROBE_TIMEOUT: Final = APPEND_TIMEOUT + 2.0
"""An append that the store swallowed with the last fault is repeated after its own timeout
and a pause; what stands behind it waits as long."""

CATCH_UP_SECONDS: Final = 4.0
"""What was late or lost while there were faults comes again within this time."""

MAX_CALLBACKS: Final = 600_000
"""A seed that needs more goes in a circle."""


class SeedFailed(AssertionError):
    """A seed has broken a promise; the message has the command that replays it."""


@define
class Outcome:
    """What happened in a seed."""

    counters: Counter[str]
    fingerprint: int
    seconds: float
    """How long the system ran, in virtual seconds."""
    rest_seconds: float
    """How long it took to converge after the faults."""


def run_seed(
    seed: int,
    *,
    plant: str = "",
    mix: Callable[[Plan], Plan] | None = None,
    detailed: bool = False,
) -> Outcome:
    """Run one seed; the same seed does exactly the same each time.

    ``mix`` changes what the seed has drawn, by default as the plant needs it.

    Raises:
        SeedFailed: a promise was broken.
    """
    plan = draw_plan(seed)
    mix = mix or (PLANTS[plant].mix if plant else None)
    if mix is not None:
        plan = mix(plan)
    before = random.getstate()
    # The supervisors of actors draw the jitter of restarts from the global generator.
    random.seed(f"global {seed}")
    collecting = gc.isenabled()
    # A collection could run the cleanup of what a killed host has left, at any moment.
    gc.disable()
    try:
        with planted(plant, limits=_limits(plan), small_mail=plan.mail):
            return _Simulation(seed, plan, plant, detailed=detailed).run()
    finally:
        random.setstate(before)
        if collecting:
            gc.enable()


def _limits(plan: Plan) -> OwnerLimits | None:
    if plan.mail:
        every = 6 if plan.small_snapshots else SNAPSHOT_EVERY_RECORDS
        return OwnerLimits(snapshot_every_records=every, mail_ahead=3)
    return OwnerLimits(snapshot_every_records=6) if plan.small_snapshots else None


class _Simulation:
    """The participants of one seed, and what is done to them."""

    def __init__(self, seed: int, plan: Plan, plant: str, *, detailed: bool) -> None:
        self.seed = seed
        self.plan = plan
        self.plant = plant
        self.detailed = detailed
        self.world: World
        self.network: Network
        self.checker: Checker
        self.nodes: list[NodeMachine] = []
        self.callers: list[CallerMachine] = []

    def run(self) -> Outcome:
        """Run it to its end."""
        with (
            structlog.testing.capture_logs(processors=[self._on_log]),
            asyncio.Runner(loop_factory=HostLoop) as runner,
        ):
            loop = runner.get_loop()
            assert isinstance(loop, HostLoop)
            loop.max_callbacks = MAX_CALLBACKS
            loop.set_exception_handler(lambda _, context: self._on_exception(context))
            self.world = World(self.seed, loop, detailed=self.detailed)
            try:
                return runner.run(self._main(loop))
            except Exception as error:
                raise SeedFailed(self._report(error)) from error
            finally:
                self.world.over = True

    async def _main(self, loop: HostLoop) -> Outcome:
        try:
            self._build()
            await self._play()
            rest = await self._converge()
            await self._probe()
            self.checker.check_histories()
            self.world.check()
            return Outcome(self.world.counters, self.world.fingerprint, self.world.now, rest)
        finally:
            await self._end(loop)

    async def _end(self, loop: HostLoop) -> None:
        """Let everything go that is left, also of the lives that were killed."""
        self.world.over = True
        self.network.end()
        loop.release_all()
        loop.max_callbacks = loop.callbacks + MAX_CALLBACKS
        ends = [end for machine in self.nodes for end in machine.end_all()]
        await asyncio.gather(*ends, return_exceptions=True)

    # -- the participants ---------------------------------------------------------------

    def _build(self) -> None:
        world, plan = self.world, self.plan
        rng = random.Random(f"layout {self.seed}")
        names = list(SERVICES)
        resources = [(rng.choice(names), f"R{number}") for number in range(plan.resources)]
        self.resources = resources
        self.network = Network(world, plan)
        self.checker = Checker(world, plan, resources)
        self.network.broker.on_stored = self.checker.on_stored
        providers = plan.nodes - plan.supervisor_only
        for number in range(plan.nodes):
            provided: list[Provided] = []
            if number < providers:
                for service, actor_class in SERVICES.items():
                    mine = [name for kind, name in resources if kind == service]
                    active = tuple(r for i, r in enumerate(mine) if i % providers == number)
                    standby = tuple(
                        r
                        for r in mine
                        if r not in active and (providers == 2 or rng.random() < 0.7)
                    )
                    # One instance for each role, as two terminals would start them.
                    for role, held in ((Role.ACTIVE, active), (Role.STANDBY, standby)):
                        if held:
                            name = f"{service}-{number}{role.value[0]}"
                            provided.append(Provided(actor_class, name, held, role))
            machine = NodeMachine(
                world,
                self.network,
                plan,
                f"n{number}",
                provided=tuple(provided),
                no_supervisor=plan.no_supervisor and number == 1,
            )
            self.nodes.append(machine)
        self.inside = Inside(self.checker, self.nodes)
        for number in range(plan.callers):
            self.callers.append(self._caller(f"c{number}", lanes=rng.choice([1, 2, 3])))

    def _caller(self, name: str, *, lanes: int) -> CallerMachine:
        return CallerMachine(
            self.world,
            self.network,
            self.plan,
            name,
            checker=self.checker,
            resources=self.resources,
            lanes=lanes,
        )

    # -- the faults ---------------------------------------------------------------------

    async def _play(self) -> None:
        world, plan = self.world, self.plan
        for machine in self.nodes:
            machine.start_later(world.rng.uniform(0.0, 0.3))
        for caller in self.callers:
            caller.start_later(world.rng.uniform(0.3, 1.0))
        await pass_time(world.rng.choice([0.2, 1.5]))
        rates: list[tuple[float, Callable[[], None]]] = [
            (plan.kill_rate, self._kill),
            (plan.freeze_rate, self._freeze),
            (plan.cut_rate, self._cut),
            (plan.pair_cut_rate, self._cut_pair),
            (plan.split_rate, self._split),
            (plan.reconnect_rate, self._reconnect),
            (plan.restart_rate, self._restart_server),
            (plan.outage_rate, self._outage),
            (plan.drain_rate, lambda: self._node().drain()),
            (plan.evict_rate, self._evict),
            (plan.force_rate, self._force),
            (plan.caller_kill_rate, self._kill_caller),
            (plan.caller_freeze_rate, self._freeze_caller),
            (plan.clock_jump_rate, self._jump_clock),
            (plan.false_event_rate, self._false_event),
            (plan.lone_owner_rate, self._leave_owner_alone),
        ]
        for rate, action in rates:
            if rate > 0.0:
                self._at_rate(rate, action)
        await self._wait(plan.seconds)

    async def _wait(self, seconds: float) -> None:
        end = self.world.now + seconds
        while self.world.now < end:
            await pass_time(POLL_SECONDS)
            self.inside.check()
            self.world.check()

    def _at_rate(self, rate: float, action: Callable[[], None]) -> None:
        world = self.world

        def happen() -> None:
            if world.faulty:
                action()
                world.later(world.rng.expovariate(rate), happen)

        world.later(world.rng.expovariate(rate), happen)

    def _node(self, among: list[NodeMachine] | None = None) -> NodeMachine:
        return self.world.rng.choice(among or self.nodes)

    def _machine(self) -> Machine:
        everybody: list[Machine] = [*self.nodes, *self.callers]
        return self.world.rng.choice(everybody)

    def _kill(self) -> None:
        machine = self._node()
        machine.kill()
        machine.start_later(self.world.rng.uniform(0.05, 3.0))

    def _freeze(self) -> None:
        self._freeze_node(self._node())

    def _freeze_node(self, machine: NodeMachine) -> None:
        seconds = self.world.rng.uniform(0.1, 1.0) * self.plan.freeze_seconds
        host = machine.host
        if host is not None and not host.frozen:
            machine.freeze(seconds)
            if seconds > (0.3 if self.plan.halved else 0.6):
                self.checker.frozen_until[host.name] = self.world.loop.now + seconds

    def _cut(self) -> None:
        rng = self.world.rng
        seconds = rng.uniform(0.1, 1.0) * self.plan.cut_seconds
        outward, inward = rng.choice([(True, True), (True, True), (True, False), (False, True)])
        self.world.count(
            "cut: both ways" if outward and inward else "cut: outward" if outward else "cut: inward"
        )
        stalls = rng.random() < 0.5
        self.network.cut(Cut(self._machine().name, "", outward, inward, stalls=stalls), seconds)

    def _cut_pair(self) -> None:
        rng = self.world.rng
        one, other = self._machine().name, self._node().name
        if one != other:
            self.world.count("cut: between two")
            cut = Cut(one, other, stalls=rng.random() < 0.3)
            self.network.cut(cut, rng.uniform(0.1, 1.0) * self.plan.cut_seconds)

    def _split(self) -> None:
        """Two servers of a cluster are cut apart, each with some of the hosts.

        Whoever is on the other side is not heard; the stream is reached by all. Right
        then ownership changes, or the leader: what is said of it is heard by one half.
        """
        world, rng = self.world, self.world.rng
        if self.network.cuts:
            return
        world.count("split")
        seconds = rng.uniform(0.5, 1.0) * self.plan.split_seconds
        led = next((m for m in self.nodes if m.host and m.host.name == self.checker.leader), None)
        owner, heirs = self._draw_owner(led)
        loses_leader = led is not None and led is not owner and rng.random() < 0.5
        # Of the owner's half is the leader that is lost, and else the leader is not; on
        # the other side is somebody who could own the resource next.
        there: list[Machine] = [owner]
        here: list[Machine] = [one for one in heirs[:1] if one is not led or not loses_leader]
        for machine in self.nodes:
            if machine is led and machine not in (owner, *here):
                (there if loses_leader else here).append(machine)
            elif machine not in (owner, *here):
                (there if here and rng.random() < 0.3 else here).append(machine)
        callers = rng.sample(self.callers, len(self.callers))
        for index, caller in enumerate(callers):
            (there if index % 2 == 0 else here).append(caller)
        stalls = rng.random() < 0.3
        for one in here:
            for other in there:
                self.network.cut(Cut(one.name, other.name, stalls=stalls), seconds)
        delay = rng.uniform(0.0, 0.15) * seconds
        if led is not None and loses_leader:
            world.later(delay, self._lose, led)
            delay += rng.choice([0.02, 0.1, 0.3, 0.8])
        rivals = [machine for machine in self.nodes if machine in here]
        mistakes: list[Callable[[], None]] = [
            partial(self._force, rivals),
            partial(self._false_event, [owner], "Client Closed"),
            partial(self._evict, [owner]),
        ]
        world.later(delay, rng.choices(mistakes, [4, 4, 1])[0])

    def _leave_owner_alone(self) -> None:
        """Answers to an owner's beats are late; then it hears of one caller alone.

        That one only reads, so the owner does not meet the fence of its successor, and
        for all that it knows its lease may go on. Those who write are on the other side.
        """
        world, network, rng = self.world, self.network, self.world.rng
        if network.cuts or network.late_answers_to:
            return
        led = next((m for m in self.nodes if m.host and m.host.name == self.checker.leader), None)
        owner, heirs = self._draw_owner(led)
        if led is None or not heirs or len(self.callers) < 2:
            return
        world.count("owner left alone")
        lease = 1.0 if self.plan.halved else 2.0
        before, seconds = rng.uniform(0.3, 0.8) * lease, 1.5 * lease + LATE_ANSWER_SECONDS[1]
        reader = rng.choice(self.callers)
        others = [one for one in (*self.nodes, *self.callers) if one not in (owner, reader)]
        network.late_answers_to = owner.name
        for caller in self.callers:
            caller.only = "read" if caller is reader else "write"

        def split() -> None:
            network.late_answers_to = ""
            for one in others if world.faulty else ():
                for other in (owner, reader):
                    network.cut(Cut(one.name, other.name), seconds)

        def end() -> None:
            for caller in self.callers:
                caller.only = ""

        world.later(before, split)
        world.later(before + seconds, end)

    def _draw_owner(self, led: NodeMachine | None) -> tuple[NodeMachine, list[NodeMachine]]:
        """Return an owner that does not lead, if there is one, and who stands by for it.

        What it owns is called most from now on.
        """
        found: list[tuple[int, NodeMachine, list[NodeMachine]]] = []
        for index, resource in enumerate(self.resources):
            owners = self.inside.owners(*resource)
            standbys = {name for name, _ in self.inside.followers(*resource)}
            heirs = [machine for machine in self.nodes if machine.name in standbys - {*owners}]
            for machine in self.nodes:
                if machine.name in owners and machine is not led and heirs:
                    found.append((index, machine, heirs))
        if not found:
            return self._node(), []
        index, owner, heirs = self.world.rng.choice(found)
        self.resources.insert(0, self.resources.pop(index))
        return owner, heirs

    def _lose(self, machine: NodeMachine) -> None:
        if self.world.rng.random() < 0.5:
            machine.kill()
            machine.start_later(self.world.rng.uniform(0.05, 3.0))
        else:
            self._freeze_node(machine)

    def _reconnect(self) -> None:
        rng = self.world.rng
        self.world.count("reconnected")
        self.network.reconnect(self._machine().name, seconds=rng.choice([0.01, 0.1, 0.6]))

    def _restart_server(self) -> None:
        self.world.count("server restarted")
        self.network.restart(self.world.rng.choice([0.02, 0.3, 1.5]))

    def _outage(self) -> None:
        rng = self.world.rng
        kind = rng.choice(["refuse", "silent"])
        self.world.count(f"store: {kind}")
        self.network.outage(rng.uniform(0.1, 1.0) * self.plan.outage_seconds, kind)

    def _evict(self, among: list[NodeMachine] | None = None) -> None:
        provided = self._node(among).provided
        if provided:
            one = self.world.rng.choice(provided)
            self.world.note("evicted: %s", one.instance_id)
            self.world.count("evicted")
            self._operator({"instance_id": one.instance_id})

    def _operator(self, payload: dict[str, Any]) -> None:
        """Ask the leader once, as ``aegis disconnect`` does, and wait for nothing."""
        operator = MemoryTransport(self.network.broker, name="operator")
        subject = f"{self.world.subjects.control_prefix}.service.disconnect"
        operator.publish(subject, encode_value(payload))

    def _force(self, among: list[NodeMachine] | None = None) -> None:
        rng = self.world.rng
        machine = self._node(among)
        hot = self.resources[0][1] if rng.random() < self.plan.hot else ""
        choices = [(one, name) for one in machine.provided for name in one.resources]
        choices = [choice for choice in choices if choice[1] == hot] or choices
        if choices:
            machine.take(*rng.choice(choices))

    def _kill_caller(self) -> None:
        machine = self.world.rng.choice(self.callers)
        machine.kill()
        machine.start_later(self.world.rng.uniform(0.05, 1.0))

    def _freeze_caller(self) -> None:
        rng = self.world.rng
        rng.choice(self.callers).freeze(rng.uniform(0.1, 1.0) * self.plan.freeze_seconds)

    def _jump_clock(self) -> None:
        rng = self.world.rng
        clock = self._machine().clock
        clock.wall_error_ms = int(rng.uniform(-290_000, 290_000))
        self.world.count("clock jumped")

    def _false_event(self, among: list[NodeMachine] | None = None, reason: str = "") -> None:
        rng = self.world.rng
        machine = self._node(among)
        if machine.host is not None:
            self.world.count("false disconnect event")
            drawn = rng.choice(["Client Closed", "Read Error", "Stale Connection"])
            self.network.tell_disconnected(machine.host.name, reason or drawn)

    # -- afterwards ---------------------------------------------------------------------

    async def _converge(self) -> float:
        """End the faults, and wait until everything works again."""
        world = self.world
        world.note("the faults stop")
        world.faulty = False
        self.network.heal()
        # A freeze that ends here may have been too short for a leader to notice.
        ends = self.checker.frozen_until
        self.checker.frozen_until = {name: at for name, at in ends.items() if at <= world.loop.now}
        machines: list[Machine] = [*self.nodes, *self.callers]
        for machine in machines:
            machine.resume()
            machine.start()
        for caller in self.callers:
            caller.calling = False
        began = world.now
        if self.plan.late or self.plan.copies or self.plan.request_copies:
            # What is still on its way, such as a late request to leave, has its effect first.
            await self._wait(self.plan.late_seconds)
        while not self._has_converged():
            if world.now - began > REST_SECONDS:
                raise InvariantViolated(f"after {REST_SECONDS:g} s: {self._what_is_missing()}")
            await self._wait(POLL_SECONDS)
        return world.now - began

    def _has_converged(self) -> bool:
        return (
            all(len(self.inside.owners(*resource)) == 1 for resource in self.resources)
            and not any(caller.open_calls for caller in self.callers)
            and all(machine.started and machine.running for machine in self.nodes)
        )

    def _what_is_missing(self) -> str:
        for resource in self.resources:
            owners = self.inside.owners(*resource)
            if len(owners) != 1:
                return f"{'/'.join(resource)} has {owners or 'nobody'} as its owner"
        for caller in self.callers:
            if caller.open_calls:
                return f"{caller.name} has {caller.open_calls} open calls"
        return "a node has not started"

    async def _probe(self) -> None:
        """Each resource takes a command and a query at once, and standbys catch up."""
        prober = self._caller("prober", lanes=0)
        prober.start()
        await self._wait(POLL_SECONDS)
        assert prober.host is not None
        tasks = [
            prober.host.start(call(service, resource))
            for service, resource in self.resources
            for call in (
                partial(prober.command, name="deposit", timeout=PROBE_TIMEOUT),
                partial(prober.read, timeout=PROBE_TIMEOUT),
            )
        ]
        if self.plan.mail:
            tasks += [
                prober.host.start(prober.send(service, resource, PROBE_TIMEOUT))
                for service, resource in self.resources
            ]
        while not all(task.done() for task in tasks):
            await self._wait(POLL_SECONDS)
        if not all(task.result() for task in tasks):
            raise InvariantViolated("a resource does not answer though all is well")
        end = self.world.now + CATCH_UP_SECONDS
        while behind := self._who_is_behind():
            if self.world.now > end:
                raise InvariantViolated(behind)
            await self._wait(POLL_SECONDS)

    def _who_is_behind(self) -> str:
        for key, journal in self.checker.journals.items():
            for name, applied in self.inside.followers(*key):
                if applied != journal.last_sequence:
                    return (
                        f"{journal.name}: {name} follows up to {applied}, "
                        f"the journal ends at {journal.last_sequence}"
                    )
        return self.checker.mail.waiting()

    # -- what is told -------------------------------------------------------------------

    def _on_log(
        self, _: Any, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        # How long a handler took in reality says nothing here.
        if not self.world.over and event.get("event") != "handler_slow":
            facts = {k: v for k, v in event.items() if k not in ("event", "exc_info", "trace_id")}
            self.world.note("log %s: %s %s", method, event["event"], facts)
            if event.get("exc_info"):
                self.world.count("logged with a traceback")
        raise structlog.DropEvent

    def _on_exception(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self.world.over and not isinstance(error, AegisError):
            self.world.fail("unhandled: %s %r", context.get("message"), error)

    def _report(self, error: Exception) -> str:
        world = self.world
        plant = f" --plant {self.plant}" if self.plant else ""
        what = str(error) if isinstance(error, InvariantViolated) else repr(error)
        mix = {name: value for name, value in asdict(self.plan).items() if value}
        return (
            f"system seed {self.seed}: {what}\n"
            f"replay: python -m tests.simulation --system --seed {self.seed}{plant}\n"
            f"faults: {mix}\n"
            f"the last events (virtual seconds, host):\n{world.shown_trace()}"
        )
