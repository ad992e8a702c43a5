"""Callers: processes that call resources and service groups, repeat, and may die."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from attrs import define, evolve

from aegis.actors._caller import Call, Destination, Done, new_session
from aegis.errors import AegisError, NotFound, Unavailable
from tests.simulation import _plants as plants
from tests.simulation._mail import Sender
from tests.simulation._model import COMMANDS, PLAIN, SENT, TOPIC, Command, unpack
from tests.simulation._node import Message, Node
from tests.simulation._simulation import Simulation
from tests.simulation._supervisor import Supervisor
from tests.simulation._world import Process

__all__ = ["Caller"]

GROUP: Final = "pricing"
"""The name of the service group."""

LOOKUP_SECONDS: Final = 0.001


@define(eq=False)
class _Open:
    """One open call."""

    kind: str
    command: Command
    resource: str
    destination: Destination | None
    session: str
    n: int
    low: int
    call: Call
    first_sent_ms: int = 0
    node: Node | None = None
    timer: int = 0
    done: bool = False


class Caller(Process):
    """A process that calls at random, one destination a resource."""

    def __init__(self, simulation: Simulation, supervisor: Supervisor, name: str) -> None:
        super().__init__(simulation.world, name)
        self.simulation = simulation
        self.supervisor = supervisor
        self.calling = True
        self._calls = 0
        self._destinations: dict[str, Destination] = {}
        self._cache: dict[str, Node] = {}
        self._open: set[_Open] = set()
        self._turn = 0
        self._sender = Sender(simulation, self)

    def start(self) -> None:
        self._schedule()

    def on_crash(self) -> None:
        for opened in self._open:
            if opened.kind != "resolve":
                self.simulation.checker.on_abandoned(opened.command.uid)
        self._open = set()
        self._destinations = {}
        self._cache = {}
        self._sender.forget()

    def on_restart(self) -> None:
        self._schedule()

    # -- the load -------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self.calling:
            self.after(self.world.rng.expovariate(1.0 / self.world.faults.load), self._next)

    def _next(self) -> None:
        rng = self.world.rng
        self._schedule()
        if not self.calling:
            return
        timeout = rng.choice([0.02, 0.06, 0.4, 1.5, 4.0])
        resource = rng.choice(list(self.simulation.resources))
        dice = rng.random()
        if dice < 0.15:
            self.call("query", resource, "read", timeout)
        elif dice < 0.3:
            names = ["price", "reject", "carry"] if self.simulation.mail else ["price", "reject"]
            self.call("group", GROUP, rng.choice(names), timeout)
        elif dice < 0.35 and self.simulation.mail:
            self.send(TOPIC, "hear", timeout)
        elif dice < 0.5 and self.simulation.mail:
            self.send(resource, rng.choices(list(SENT), list(SENT.values()))[0], timeout)
        else:
            commands = COMMANDS if self.simulation.mail else PLAIN
            name = rng.choices(list(commands), list(commands.values()))[0]
            self.call("command", resource, name, timeout)

    def call(self, kind: str, resource: str, name: str, timeout: float) -> str | None:
        """Begin a call; return its uid, or None if the window is full."""
        world = self.world
        destination: Destination | None = None
        session, n, low = "", 0, 0
        if kind != "query":
            destination = self._destination(resource)
            while not destination.has_room:
                if not destination.abandon_oldest():
                    world.count("window of the caller full")
                    return None
            n = destination.open()
            session, low = destination.session, destination.low
        command = self._command(name)
        deadline = world.now + timeout
        self.simulation.checker.on_call(command, resource, kind, deadline)
        opened = _Open(
            kind,
            command,
            resource,
            destination,
            session,
            n,
            low,
            plants.make_call(self.simulation.plant, deadline, exact=kind != "query"),
            first_sent_ms=self.wall_ms(),
        )
        self._open.add(opened)
        self._watch_deadline(opened)
        self._try(opened)
        return command.uid

    def send(self, resource: str, name: str, timeout: float) -> str:
        """Begin a durable send; return its uid."""
        if not self.simulation.poisoned and self.world.chance(0.003):
            self.simulation.poisoned = True
            name = "poison"
        command = self._command(name)
        self._sender.send(resource, command, timeout)
        return command.uid

    def _command(self, name: str) -> Command:
        self._calls += 1
        rng = self.world.rng
        to = rng.choice(list(self.simulation.resources)) if name in ("transfer", "carry") else ""
        return Command(f"{self.name}.{self._calls}", name, rng.randrange(1, 50), to)

    def _destination(self, resource: str, *, above: int = -1) -> Destination:
        destination = self._destinations.get(resource)
        if destination is None:
            start = max(self.wall_ms(), above + 1)
            random_text = f"{self.world.rng.getrandbits(40):010x}"
            destination = self._destinations[resource] = Destination(
                new_session(start, random_text), window=self.simulation.limits.window
            )
        return destination

    # -- one attempt ----------------------------------------------------------------------

    def _try(self, opened: _Open) -> None:
        if opened.done:
            return
        node = self._choose(opened)
        if node is None:
            self._set_timer(opened, LOOKUP_SECONDS, partial(self._look_up, opened))
        else:
            self._send(opened, node)

    def _choose(self, opened: _Open) -> Node | None:
        if opened.kind != "group":
            return self._cache.get(opened.resource)
        # Retries stay with one instance while it lives.
        if opened.node is not None and opened.node.alive:
            return opened.node
        living = [node for node in self.supervisor.nodes if node.alive]
        if not living:
            return None
        self._turn += 1
        return living[self._turn % len(living)]

    def _look_up(self, opened: _Open) -> None:
        if opened.kind == "group":
            node = self._choose(opened)
        else:
            stale = self.world.chance(self.world.faults.stale_lookup)
            node = self.supervisor.owner_of(opened.resource, stale=stale)
        if node is not None:
            if opened.kind != "group":
                self._cache[opened.resource] = node
            self._send(opened, node)
        elif self.world.chance(0.5):
            error = NotFound(f"there is no {opened.resource}")
            if opened.call.sent == 0:
                self._finish(opened, Done(error=error))
            else:
                self._back_off(opened, error)
        else:
            self._back_off(opened, Unavailable("nobody is there"))

    def _send(self, opened: _Open, node: Node) -> None:
        world = self.world
        left = opened.call.deadline - world.now
        if left <= 0:
            self._finish(opened, opened.call.expired())
            return
        attempt = opened.call.attempt()
        if attempt > 1:
            world.count("call repeated")
        opened.node = node
        reply = self._bind_reply(opened)
        message = Message(
            opened.kind,
            opened.session,
            opened.n,
            opened.low,
            opened.resource,
            opened.command,
            world.now + left,
            opened.first_sent_ms,
            reply,
        )
        world.note(
            "%s: %s (%s-%d) to %s, attempt %d",
            self.name,
            opened.command,
            opened.session,
            opened.n,
            node.name,
            attempt,
        )
        link = world.faults.group if opened.kind == "group" else world.faults.call
        copied = False

        def arrive() -> None:
            if node.alive:
                # Time left travels, and no reading of a clock: what comes late may still run.
                here = evolve(message, deadline=world.now + left)
                node.execute(lambda: node.receive(here))
            elif not copied:
                self._nobody_there(opened)

        copied = world.transmit(link, arrive)
        if copied:
            self.simulation.checker.on_copied(opened.command.uid)
        self._set_timer(opened, min(left, opened.call.silence()), partial(self._on_timer, opened))
        self.point("attempt under way")

    def _bind_reply(self, opened: _Open) -> Any:
        world = self.world

        def receive(status: int, value: bytes) -> None:
            def arrive() -> None:
                if not opened.done and self.alive and opened in self._open:
                    self.execute(lambda: self._on_answer(opened, status, unpack(value)))
                elif opened.done:
                    world.count("answer after the end")

            world.transmit(world.faults.call, arrive)

        return receive

    def _nobody_there(self, opened: _Open) -> None:
        """The server says that the last attempt reached nobody, or it says nothing."""
        if self.world.chance(0.4) or not self.alive or opened not in self._open:
            return
        self.world.count("no responders")

        def learn() -> None:
            if not opened.done:
                opened.call.undelivered()
                self._cache.pop(opened.resource, None)
                self._back_off(opened, Unavailable("no responders"))

        self.execute(learn)

    # -- answers --------------------------------------------------------------------------

    def _on_answer(self, opened: _Open, status: int, value: Any) -> None:
        if opened.done:
            return
        done = opened.call.answered(status, value)
        if done is None:
            self._back_off(opened, None)
        else:
            self._finish(opened, done)

    def _back_off(self, opened: _Open, error: AegisError | None) -> None:
        decision = opened.call.refused(self.world.now, self.world.rng.random(), error=error)
        if isinstance(decision, Done):
            self._finish(opened, decision)
            return
        if decision.moved:
            self._cache.pop(opened.resource, None)
        self._set_timer(opened, decision.delay, partial(self._on_timer, opened))

    def _finish(self, opened: _Open, done: Done) -> None:
        opened.done = True
        self._open.discard(opened)
        is_unknown = done.error is not None and done.error.code == 504
        if opened.destination is not None and is_unknown and opened.kind != "group":
            opened.destination.leave(opened.n)
        elif opened.destination is not None:
            opened.destination.close(opened.n)
        if opened.kind == "resolve":
            self._resolved(opened, done)
            return
        floor = opened.call.too_old_to_begin(done.error) if opened.kind == "command" else None
        if floor is not None and self.world.now < opened.call.deadline:
            self._begin_anew(opened, floor)
            return
        error = done.error
        self.world.note(
            "%s: %s ends with %s", self.name, opened.command.uid, error.code if error else "200"
        )
        if error is None:
            self.simulation.checker.on_end(opened.command.uid, 200, done.value)
        else:
            value = {"message": error.message, **error.facts}
            self.simulation.checker.on_end(opened.command.uid, error.code, value)
            if is_unknown and opened.kind == "command" and self.world.rng.random() < 0.4:
                self._resolve(opened)

    def _resolve(self, unknown: _Open) -> None:
        """Ask for the outcome of a call, or see to it that it never runs."""
        timeout = self.world.rng.choice([0.06, 0.4, 4.0])
        opened = _Open(
            "resolve",
            Command(unknown.command.uid, "withdrawn"),
            unknown.resource,
            unknown.destination,
            unknown.session,
            unknown.n,
            unknown.low,
            plants.make_call(self.simulation.plant, self.world.now + timeout, exact=True),
        )
        self._open.add(opened)
        self._watch_deadline(opened)
        self._try(opened)

    def _resolved(self, opened: _Open, done: Done) -> None:
        code, value = 200, done.value
        if done.error is not None:
            code, value = done.error.code, {"message": done.error.message, **done.error.facts}
        self.simulation.checker.on_resolved(opened.command.uid, opened.resource, code, value)

    def _begin_anew(self, old: _Open, floor: int) -> None:
        """The session is too old for the owner: the same command in a younger one."""
        world = self.world
        world.count("session begun anew")
        if self._destinations.get(old.resource) is old.destination:
            del self._destinations[old.resource]
        destination = self._destination(old.resource, above=floor)
        if not destination.has_room:
            # It did not run, and there is no room to try again.
            self.simulation.checker.on_end(old.command.uid, 410, {})
            return
        n = destination.open()
        opened = _Open(
            old.kind,
            old.command,
            old.resource,
            destination,
            destination.session,
            n,
            destination.low,
            plants.make_call(self.simulation.plant, old.call.deadline, exact=True),
            first_sent_ms=old.first_sent_ms,
        )
        self._open.add(opened)
        self._watch_deadline(opened)
        self._try(opened)

    # -- time -----------------------------------------------------------------------------

    def _set_timer(self, opened: _Open, delay: float, action: Any) -> None:
        opened.timer += 1
        timer = opened.timer

        def fire() -> None:
            if opened.timer == timer and not opened.done:
                action()

        self.after(delay, fire)

    def _on_timer(self, opened: _Open) -> None:
        if self.world.now >= opened.call.deadline:
            self._finish(opened, opened.call.expired())
        else:
            self._try(opened)

    def _watch_deadline(self, opened: _Open) -> None:
        def fire() -> None:
            if not opened.done:
                self._finish(opened, opened.call.expired())

        self.after(opened.call.deadline - self.world.now, fire)
