"""The append store: a stream as JetStream keeps it, as far as the protocol uses it.

Sequences are the stream's, not the subject's. An expectation is checked when the append
arrives; the copy of an append that was accepted is refused like any other; a rollup
removes what is older on its subject and nothing if it is refused; a message with a time
to live is gone after it, and then its subject's last sequence is 0 again. A request that
is under way arrives even if its sender has died.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from attrs import define, field, frozen

from tests.simulation._world import Process, World

__all__ = ["Answer", "Result", "Store", "Stored"]


class Result(Enum):
    """What the store says to an append."""

    OK = "ok"
    REFUSED = "refused"
    AGAIN = "again"


@frozen
class Answer:
    """The store's answer: the sequence of the append, or the subject's last one."""

    result: Result
    sequence: int


@define
class Stored:
    """One message of the stream. ``expires`` is a reading of the virtual clock."""

    sequence: int
    payload: bytes
    expires: float | None = None


@define
class _Subject:
    messages: list[Stored] = field(factory=list[Stored])
    last: int = 0
    let_go: int = 0
    has_ttl: bool = False


type OnAccept = Callable[[str, int, bytes, bool, Any], None]


class Store:
    """One stream. ``on_accept`` sees every append at the moment it takes effect."""

    def __init__(self, world: World, on_accept: OnAccept) -> None:
        self.world = world
        self.sequence = 0
        self.available = True
        self._on_accept = on_accept
        self._subjects: dict[str, _Subject] = {}

    # -- over the network ---------------------------------------------------------------

    def append(
        self,
        sender: Process,
        subject: str,
        payload: bytes,
        reply: Callable[[Answer], None],
        *,
        expect: int | None,
        rollup: bool = False,
        ttl: float | None = None,
        about: Any = None,
        batch: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Send an append; ``reply`` runs in ``sender`` if an answer comes through.

        What is in the ``batch``, subjects and payloads, is stored with it or not at all.
        ``about`` goes to ``on_accept``: what the checker knows of this append.
        """
        world = self.world

        def arrive() -> None:
            if not self.available:
                world.count("store unavailable")
                return
            if expect is not None and world.chance(world.faults.again):
                answer = Answer(Result.AGAIN, 0)
                world.count("append: again")
            else:
                answer = self.append_now(
                    subject, payload, expect=expect, rollup=rollup, ttl=ttl, about=about
                )
                for other, beside in batch if answer.result is Result.OK else ():
                    self.append_now(other, beside, expect=None)
            world.note("%s: %s expects %s: %s", subject, sender.name, expect, answer)
            world.transmit(world.faults.acknowledgement, bound(answer))

        def bound(answer: Answer) -> Callable[[], None]:
            return lambda: receive(answer)

        incarnation = sender.incarnation

        def receive(answer: Answer) -> None:
            if sender.alive and sender.incarnation == incarnation:
                sender.execute(lambda: reply(answer))

        world.transmit(world.faults.request, arrive)

    def read(
        self, sender: Process, subject: str, start: int, reply: Callable[[list[Stored]], None]
    ) -> None:
        """Send a read; it sees what stands there on arrival, or a little less."""
        world = self.world
        incarnation = sender.incarnation

        def arrive() -> None:
            if not self.available:
                world.count("store unavailable")
                return
            found = self.read_now(subject, start)
            if found and world.chance(world.faults.lagging_read):
                found = found[: world.rng.randrange(len(found))]
                world.count("read lagged")

            def receive() -> None:
                if sender.alive and sender.incarnation == incarnation:
                    sender.execute(lambda: reply(found))

            world.transmit(world.faults.acknowledgement, receive, copies=False)

        world.transmit(world.faults.request, arrive, copies=False)

    # -- at once ------------------------------------------------------------------------

    def append_now(
        self,
        subject: str,
        payload: bytes,
        *,
        expect: int | None,
        rollup: bool = False,
        ttl: float | None = None,
        about: Any = None,
    ) -> Answer:
        """Take an append in, or refuse it."""
        place = self._place(subject)
        if expect is not None and expect != place.last:
            self.world.count("append: refused")
            return Answer(Result.REFUSED, place.last)
        self.sequence += 1
        if rollup:
            place.messages.clear()
        place.last = self.sequence
        expires = None if ttl is None else self.world.now + ttl
        place.has_ttl = ttl is not None
        place.messages.append(Stored(self.sequence, payload, expires))
        self._on_accept(subject, self.sequence, payload, rollup, about)
        return Answer(Result.OK, self.sequence)

    def read_now(self, subject: str, start: int = 1) -> list[Stored]:
        """Return the messages of a subject from ``start`` on."""
        return [stored for stored in self._place(subject).messages if stored.sequence >= start]

    def first_sequence(self, subject: str) -> int:
        """Return before which sequence nothing is left of a subject that lets go."""
        return self._place(subject).let_go + 1

    def let_go(self, subject: str, count: int) -> int:
        """Let go of the oldest messages; return the sequence of the last that is gone."""
        place = self._place(subject)
        gone, place.messages = place.messages[:count], place.messages[count:]
        if gone:
            place.let_go = gone[-1].sequence
        return place.let_go

    def _place(self, subject: str) -> _Subject:
        place = self._subjects.get(subject)
        if place is None:
            place = self._subjects[subject] = _Subject()
        now = self.world.now
        if place.has_ttl and any(
            stored.expires is not None and stored.expires <= now for stored in place.messages
        ):
            self.world.count("claim expired")
            place.messages = [
                stored
                for stored in place.messages
                if stored.expires is None or stored.expires > now
            ]
            if not place.messages:
                place.last = 0
        return place
