"""Faults planted into the production code, to show that the checker can fail."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from attrs import frozen

from aegis.actors import _inbox, _journaled, _shared_read
from aegis.actors._examiner import Examiner
from aegis.actors._journal import Journal
from aegis.actors._lease import BeatAnswer
from aegis.actors._membership import Membership
from aegis.actors._owner import Owner, OwnerLimits
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._registry_writer import RegistryWriter
from aegis.actors._roster import Roster
from aegis.actors._shared_read import SharedRead
from aegis.actors._standby import _ServiceFeed
from aegis.errors import ProtocolError
from aegis.transport import Append, Message
from aegis.transport._codec import decode_value
from tests.simulation.system._plan import (
    Plan,
    with_frozen_leaders,
    with_lone_owners,
    with_mail,
    with_splits,
)

__all__ = ["PLANTS", "Plant", "planted"]


async def _no_fence(self: Journal, owner: Owner) -> None:
    last = 0
    async for sequence, _, _ in self.read(start=1, until=None):
        last = sequence
    owner.fenced_at(last, is_first=last <= owner.last_sequence)


def _lease_from_receipt(original: Any) -> Any:
    def on_answer(self: Membership, message: Message) -> None:
        try:
            answer = BeatAnswer.from_wire(decode_value(message.payload))
        except ProtocolError:
            return
        if answer.number in self.lease._sent:
            self.lease._sent[answer.number] = self._clock.boot_seconds()
        original(self, message)

    return on_answer


def _covers_at_once(self: Roster, node_id: str, key: ResourceKey) -> int | None:
    resource = self.registry.resources.get(key)
    return None if resource is None or resource.node_id != node_id else resource.epoch


def _unconditional(original: Any) -> Any:
    def mine(self: RegistryWriter, write: Any, *, conditional: bool = True) -> Append:
        append: Append = original(self, write, conditional=False)
        return append

    return mine


def _begins_as_first(original: Any) -> Any:
    def begin(self: Roster, now: float, **facts: Any) -> None:
        original(self, now, **{**facts, "first": True})

    return begin


def _never_pauses(original: Any) -> Any:
    def tick(self: Roster, now: float) -> Any:
        self._ticked = now
        return original(self, now)

    return tick


def _never_catches_up(original: Any) -> Any:
    def add(self: _ServiceFeed, subject: str, follower: Any) -> None:
        original(self, subject, follower)
        self.places[subject].waiting = None
        self._behind = [place for place in self._behind if place.subject != subject]

    return add


def _begins_with_new(original: Any) -> Any:
    def add(self: SharedRead, reader: Any) -> None:
        original(self, reader)
        self._behind.pop(reader, None)

    return add


def _goes_on_with_new(original: Any) -> Any:
    async def follow_on(self: SharedRead, start: int) -> None:
        usage = await self._transport.usage(self._stream)
        await original(self, max(start, usage.last_sequence + 1))

    return follow_on


_FORGETS: Final = property(lambda _: 0, lambda _, value: None)


async def _is_nowhere(self: Examiner, node_id: str) -> bool:
    return True


def _answers_at_once(self: Owner, answer: Any) -> bool:
    return True


def _no_tables(self: Owner) -> list[Any]:
    return [[0, []]]


@frozen
class Plant:
    """A fault to plant."""

    what: str
    owner: Any
    """The class of which something is replaced, and what of it."""
    attribute: str
    replacement: Any
    mix: Callable[[Plan], Plan] | None = None
    """What it shows in only, put into every seed, so that few of them are enough."""


PLANTS: dict[str, Plant] = {
    "no-fence": Plant(
        "a new owner reads the journal and writes no epoch record",
        Journal,
        "fence",
        _no_fence,
        mix=with_splits,
    ),
    "lease-from-receipt": Plant(
        "a lease is counted from when its answer came, not from when the beat was sent",
        Membership,
        "_on_answer",
        _lease_from_receipt(Membership._on_answer),
        mix=with_lone_owners,
    ),
    "covered-at-once": Plant(
        "a new owner is covered before the lease of the one before has run out",
        Roster,
        "_wanted",
        _covers_at_once,
        mix=with_splits,
    ),
    "unconditional-registry": Plant(
        "the registry is written without the condition on the leader's record",
        RegistryWriter,
        "_mine",
        _unconditional(RegistryWriter._mine),
    ),
    "early-answer": Plant(
        "answers leave before the append is acknowledged", Owner, "hold", _answers_at_once
    ),
    "no-tables": Plant(
        "snapshots leave the session table out", Owner, "_tables_to_wire", _no_tables
    ),
    "standby-gap": Plant(
        "a standby that joins late is shown only what comes from then on",
        _ServiceFeed,
        "add",
        _never_catches_up(_ServiceFeed.add),
    ),
    "mail-before-start": Plant(
        "an owner that starts is shown only the mail that comes from then on",
        SharedRead,
        "add",
        _begins_with_new(SharedRead.add),
        mix=with_mail,
    ),
    "mail-while-reading": Plant(
        "mail that comes while an owner reads what was there is not shown to it",
        _shared_read._Behind,
        "skipped",
        _FORGETS,
        mix=with_mail,
    ),
    "mail-after-break": Plant(
        "a read of mailboxes that has broken off goes on with what is new",
        SharedRead,
        "_follow_on",
        _goes_on_with_new(SharedRead._follow_on),
        mix=with_mail,
    ),
    "death-by-event": Plant(
        "a disconnect event alone counts as proof of death",
        Examiner,
        "_is_nowhere",
        _is_nowhere,
        mix=with_splits,
    ),
    "no-grace": Plant(
        "a new leader does not wait for leases that its predecessors gave",
        Roster,
        "begin",
        _begins_as_first(Roster.begin),
        mix=with_splits,
    ),
    "judges-after-pause": Plant(
        "a leader that was frozen judges at once by the silence that it slept through",
        Roster,
        "tick",
        _never_pauses(Roster.tick),
        mix=with_frozen_leaders,
    ),
}
"""Each plant by its name."""


@contextmanager
def planted(
    name: str, *, limits: OwnerLimits | None = None, small_mail: bool = False
) -> Generator[None]:
    """Plant a fault for the time of the block; and let journals and mailboxes be small."""

    def small(_: int) -> OwnerLimits | None:
        return limits

    with ExitStack() as stack:
        if limits is not None:
            stack.enter_context(patch.object(_journaled, "_limits", small))
        if small_mail:
            stack.enter_context(patch.object(_inbox, "INBOX_CAPACITY", 6))
            stack.enter_context(patch.object(_shared_read, "MAX_SINGLE_READS", 1))
            stack.enter_context(patch.object(_shared_read, "TURN_MESSAGES", 2))
        if name:
            plant = PLANTS[name]
            stack.enter_context(patch.object(plant.owner, plant.attribute, plant.replacement))
        yield
