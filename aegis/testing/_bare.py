"""An actor of no node: a user's class whose surroundings are filled in by hand.

Records are applied to it, and commands are replayed on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

import structlog

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import ActorSpec
from aegis.actors._plain_command import plain_command
from aegis.actors._replies import answer_taker
from aegis.actors._schedule import Schedule
from aegis.contracts import Kind
from aegis.errors import AegisError, InvalidRequest
from aegis.testing._tap import Run
from aegis.transport._codec import encode_value

__all__ = ["Surroundings", "bare_actor"]


class Surroundings:
    """What a bare actor is told of itself, and what it asks for."""

    def __init__(self, resource: str) -> None:
        self.resource = resource
        self.run: Run | None = None
        """The run that is repeated, whose surroundings it sees."""
        self.sent: list[tuple[str, str, str, bytes]] = []
        self.message_ids: list[str] = []
        """Those that its messages had in the run."""
        self.events: list[tuple[str, bytes]] = []
        self.learned = 0

    def begin(self, run: Run | None, message_ids: list[str]) -> None:
        """Begin with the next command."""
        self.run = run
        self.message_ids = message_ids
        self.sent.clear()
        self.events.clear()
        self.learned = 0

    def learn(self, name: str) -> Any:
        """Return what a query of another actor answered in the run that is repeated."""
        run = self.run
        known = (
            None if run is None or self.learned >= len(run.learned) else run.learned[self.learned]
        )
        if known is None or known[0] != name:
            raise LookupError(f"asks {name} of another actor, and in its run it did not")
        self.learned += 1
        if isinstance(known[1], AegisError):
            raise known[1]
        return known[1]


class _Bare(AegisActor):
    """Answers for what a node would answer for."""

    _aegis_surroundings: Surroundings
    state: Any
    _aegis_spec_of_class: ActorSpec

    @property
    def resource_id(self) -> str | None:
        return self._aegis_surroundings.resource

    @property
    def instance_id(self) -> str:
        return "replay"

    @property
    def message_id(self) -> str:
        run = self._aegis_surroundings.run
        return "" if run is None or not run.request.session else run.request.message_id

    @property
    def late_seconds(self) -> float:
        run = self._aegis_surroundings.run
        return 0.0 if run is None else run.late_seconds

    @property
    def time_left(self) -> float:
        return float("inf")

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        return cast("structlog.stdlib.BoundLogger", structlog.get_logger("aegis.testing"))

    def actor(self, service: Any, resource_id: str | None = None) -> Any:
        return _Asked(self._aegis_surroundings)

    def publish(self, topic: str, value: Any) -> Any:
        return _Done()

    def emit(self, event: object) -> None:
        found = self._aegis_spec_of_class.event_for(event)
        encoded = encode_value(found.unstructure(event))
        found.apply(self, event)
        self._aegis_surroundings.events.append((found.name, encoded))

    def send(
        self,
        service: Any,
        resource_id: str,
        method: str,
        /,
        *,
        reply_to: str | None = None,
        **params: Any,
    ) -> str:
        name, command, plain = plain_command(service, method, params)
        if reply_to is not None:
            answer_taker(self._aegis_spec_of_class, reply_to)
        surroundings = self._aegis_surroundings
        number = len(surroundings.sent)
        surroundings.sent.append((name, resource_id, command, encode_value(plain)))
        known = surroundings.message_ids
        return known[number] if number < len(known) else f"unknown-{number}"

    def remind(
        self,
        name: str,
        method: str,
        /,
        *,
        after: Any = None,
        at: Any = None,
        every: Any = None,
        tz: str | None = None,
        missed: Any = "run",
        **params: Any,
    ) -> None:
        Schedule(after, at, every, tz, missed).check(0)
        handler = self._aegis_spec_of_class.handler(method, Kind.COMMAND)
        handler.bind(handler.unstructure_params(handler.params_of((), params)))
        if not name:
            raise InvalidRequest("name: must not be empty", field="name")

    def forget(self, name: str) -> None:
        return None

    def stash(self) -> NoReturn:
        raise RuntimeError("the command took effect in the run, and puts itself aside in a replay")

    def unstash_all(self) -> None:
        return None


class _Done:
    def __await__(self) -> Any:
        return iter(())


class _Asked:
    """Stands for another actor: it answers what it answered in the run."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*_: Any, **__: Any) -> Any:
            return self._surroundings.learn(name)

        return ask


def bare_actor(spec: ActorSpec, resource: str) -> Any:
    """Return an object of the class, with a new state and surroundings of its own."""
    own = {name: value for name, value in vars(_Bare).items() if name not in _LEFT_OUT}
    made: Any = type(spec.actor_class.__name__, (spec.actor_class,), own)
    actor = made()
    actor._aegis_surroundings = Surroundings(resource)
    actor._aegis_spec_of_class = spec
    if spec.has_state:
        actor.state = spec.new_state()
    return actor


_LEFT_OUT = frozenset({"__dict__", "__weakref__", "__doc__", "__annotations__", "state"})
