"""The live state of a resource's actor: from the journal, into records, and back.

A handler changes the actor's own state as it runs. This module gives the actor its state
at the beginning, says what a command has changed, and brings the state back where a
command fails.
"""

from __future__ import annotations

from typing import Any

from aegis.actors._handlers import ActorSpec
from aegis.actors._owner import Owner
from aegis.actors._record import CommandEntry, Event, Record
from aegis.errors import AegisError, JournalUnreadable
from aegis.transport._codec import decode_value, encode_value

__all__ = ["LiveState"]


class LiveState:
    """What one life of an actor holds, as its class says: snapshots, events, or nothing."""

    __slots__ = ("_initial", "_owner", "_subject", "actor", "spec")

    def __init__(self, spec: ActorSpec, owner: Owner, subject: str) -> None:
        self.spec = spec
        self.actor: Any = None
        self._owner = owner
        self._subject = subject
        self._initial = b""

    def begin(self, actor: Any) -> None:
        """Give ``actor`` the state of a new resource."""
        self.actor = actor
        if self.spec.has_state:
            actor.state = self.spec.new_state()
            self._initial = encode_value(self.spec.unstructure_state(actor.state))

    # -- from the journal -----------------------------------------------------------------

    def replay(self, sequence: int, record: Record) -> None:
        """Follow a record that counts, where the state is made of events.

        Raises:
            JournalUnreadable: the class cannot read it.
        """
        if not self.spec.is_event_sourced:
            return
        if record.state is not None:
            self.actor.state = self._structure(record.state, sequence)
        for entry in record.entries or ():
            if isinstance(entry, CommandEntry):
                for event in entry.events or ():
                    self._apply(event, sequence)

    def restart(self) -> None:
        """Begin anew, to replay the whole journal."""
        self.actor.state = self.spec.new_state()

    def complete(self) -> None:
        """Take over what all records together say, where the state is journaled whole."""
        spec, owner = self.spec, self._owner
        if owner.state is not None and not spec.is_event_sourced and spec.has_state:
            self.actor.state = self._structure(owner.state, owner.last_sequence)

    def _apply(self, stored: Event, sequence: int) -> None:
        found = self.spec.events.get(stored.name)
        if found is None:
            raise self._unreadable(
                sequence,
                f"it holds the event {stored.name}, for which "
                f"{self.spec.actor_class.__qualname__} has no @applies method",
            )
        try:
            event = found.read(stored.version, decode_value(stored.body))
        except AegisError as error:
            raise self._unreadable(sequence, f"the event {stored.name}: {error}") from error
        try:
            found.apply(self.actor, event)
        except Exception as error:
            what = f"{found.apply.__qualname__} raised {type(error).__name__}: {error}"
            raise self._unreadable(sequence, f"the event {stored.name}: {what}") from error

    def _structure(self, encoded: bytes, sequence: int) -> Any:
        try:
            return self.spec.structure_state(decode_value(encoded))
        except AegisError as error:
            raise self._unreadable(sequence, f"the state: {error}") from error

    def _unreadable(self, sequence: int, what: str) -> JournalUnreadable:
        return JournalUnreadable(
            f"{self._subject}, sequence {sequence}: {what}; "
            "run the release that wrote it, or make the class read it",
            subject=self._subject,
            sequence=sequence,
        )

    # -- into the journal -----------------------------------------------------------------

    def encoded(self) -> bytes:
        """Return the whole state, encoded.

        Raises:
            AegisError: it has no form on the wire.
        """
        return encode_value(self.spec.unstructure_state(self.actor.state))

    def changed(self) -> bytes | None:
        """Return the state if it is journaled whole and a command has changed it.

        Raises:
            AegisError: it has no form on the wire.
        """
        spec = self.spec
        if not spec.has_state or spec.is_event_sourced:
            return None
        encoded = encode_value(spec.unstructure_state(self.actor.state))
        return None if encoded == self._last() else encoded

    def undo(self) -> bool:
        """Bring back a state that is journaled whole to its last encoding.

        Return whether it differed.
        """
        last = self._last()
        try:
            encoded = self.encoded()
        except AegisError:
            encoded = b""
        if encoded == last:
            return False
        before = self.actor.state = self.spec.structure_state(decode_value(last))
        # An earlier release may have written it, and the class has another form by now.
        return encoded != encode_value(self.spec.unstructure_state(before))

    def _last(self) -> bytes:
        return self._initial if self._owner.state is None else self._owner.state
