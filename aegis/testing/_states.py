"""The states of simulated actors, as their journals have them after each record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import ActorSpec, describe
from aegis.actors._record import CommandEntry, Record
from aegis.testing._bare import bare_actor
from aegis.transport._codec import decode_value, encode_value

__all__ = ["Follower", "States"]


class Follower:
    """What the journal of one resource says: nothing but records makes this state."""

    def __init__(self, spec: ActorSpec, resource: str) -> None:
        self.spec = spec
        self.actor = bare_actor(spec, resource)
        self.sequence = 0
        self._encoded: bytes | None = None
        """Of a state that is journaled whole: the last one, not decoded before it is asked for."""

    def follow(self, sequence: int, record: Record) -> None:
        """Take a record in."""
        self.sequence = sequence
        spec = self.spec
        if not spec.has_state:
            return
        if record.state is not None:
            self._encoded = record.state
            if spec.is_event_sourced:
                self.actor.state = spec.structure_state(decode_value(record.state))
        if spec.is_event_sourced:
            for entry in record.entries or ():
                for event in (entry.events or ()) if isinstance(entry, CommandEntry) else ():
                    found = spec.events[event.name]
                    found.apply(self.actor, found.read(event.version, decode_value(event.body)))

    @property
    def state(self) -> Any:
        """The state; it is nobody else's."""
        if not self.spec.is_event_sourced and self._encoded is not None:
            self.actor.state = self.spec.structure_state(decode_value(self._encoded))
            self._encoded = None
        return getattr(self.actor, "state", None)

    def encoded(self) -> bytes:
        """Return the state in the one form in which states are compared."""
        return encoded_state(self.spec, self.state)


def encoded_state(spec: ActorSpec, state: Any) -> bytes:
    """Return a state as bytes; empty for a class that has none."""
    return encode_value(spec.unstructure_state(state)) if spec.has_state else b""


class States:
    """What invariants look at: the state of each simulated resource at one moment.

    ``states.only`` is that of the only one, ``states[Account, "ACC-1"]`` that of one of
    several, and ``states.of(Account)`` has those of a class by name.
    """

    def __init__(self, followers: dict[tuple[str, str], Follower]) -> None:
        self._followers = followers
        self.at_rest = False
        """Whether nothing is on its way any more: the end of a seed."""

    @property
    def only(self) -> Any:
        """The state of the only resource that is simulated."""
        if len(self._followers) != 1:
            names = ", ".join(f"{service}/{name}" for service, name in self._followers)
            raise LookupError(f"there are several: {names}; take states[Actor, 'resource']")
        (follower,) = self._followers.values()
        return follower.state

    def __getitem__[A: AegisActor](self, key: tuple[type[A], str]) -> Any:
        actor, resource = key
        follower = self._followers.get((describe(actor).service, resource))
        if follower is None:
            names = ", ".join(f"{service}/{name}" for service, name in self._followers)
            raise LookupError(f"no {actor.__qualname__} {resource!r} is simulated; only {names}")
        return follower.state

    def of(self, actor: type[AegisActor]) -> dict[str, Any]:
        """Return the states of a class, by the names of its resources."""
        service = describe(actor).service
        return {name: one.state for (kind, name), one in self._followers.items() if kind == service}

    def __repr__(self) -> str:
        return ", ".join(
            f"{service}/{name}: {one.state!r}" for (service, name), one in self._followers.items()
        )

    def __iter__(self) -> Iterator[Any]:
        return (follower.state for follower in self._followers.values())
