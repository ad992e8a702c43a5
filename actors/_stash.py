"""The stash: messages that an actor has put aside until it can handle them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aegis.actors._mailbox import Envelope, current_envelope
from aegis.contracts import Kind, Request
from aegis.errors import StashFull

__all__ = ["DEFAULT_STASH_CAPACITY", "PutAside", "Stash", "put_aside"]

DEFAULT_STASH_CAPACITY: Final = 256
"""How many messages an actor may put aside unless its class says otherwise."""


class PutAside(BaseException):
    """What `AegisActor.stash` raises, to end the handler: it has had no effect.

    Like a cancellation it is nothing that a handler should catch.
    """

    def __init__(self) -> None:
        super().__init__(
            "self.stash() puts commands and plain queries aside, and messages of on_receive; "
            "nothing else can wait"
        )


def put_aside() -> None:
    """Keep the message in hand, once it has left its behaviour: it has had no effect.

    One that repeats a command which is kept already takes its place.
    """
    envelope = current_envelope.get()
    if envelope is not None:
        envelope.aside = True


class Stash:
    """The envelopes of one actor that wait for `take_all`, oldest first."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Envelope] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Envelope]:
        return iter(self._waiting)

    def check_room(self, address: str, capacity: int, now: float) -> list[Envelope]:
        """Make sure that one more has room; return those that had to go: nobody waits for them.

        Raises:
            StashFull: ``capacity`` messages wait already.
        """
        if len(self._waiting) < capacity:
            return []
        expired = [one for one in self._waiting if one.deadline is not None and one.deadline <= now]
        if not expired:
            raise StashFull(
                f"{address}: the stash holds its {capacity} messages; it takes more after "
                "self.unstash_all(), or with a greater stash_capacity",
                address=address,
                capacity=capacity,
            )
        self._waiting = [one for one in self._waiting if one not in expired]
        return expired

    def add(self, envelope: Envelope) -> None:
        """Put a message behind the others, or in the place of the one that it repeats."""
        found = self.find(envelope.message)
        if found is None:
            self._waiting.append(envelope)
        else:
            self._waiting[found] = envelope

    def find(self, message: object) -> int | None:
        """Return where the command stands that ``message`` is, or repeats; None if nowhere."""
        if not isinstance(message, Request) or message.kind != Kind.COMMAND or not message.session:
            return None
        for index, one in enumerate(self._waiting):
            other = one.message
            if (
                isinstance(other, Request)
                and other.kind == Kind.COMMAND
                and (other.session, other.n) == (message.session, message.n)
            ):
                return index
        return None

    def take_all(self) -> list[Envelope]:
        """Take out everything, in the order in which it was put aside."""
        waiting, self._waiting = self._waiting, []
        return waiting
