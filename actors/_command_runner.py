"""Running the commands of one resource: what each did, or, if it failed, nothing.

While a handler runs, its effects are gathered. What comes of it is an `Outcome` with all
that is to be journaled of it. Of a command that does not succeed the state is brought back
to what it was before.
"""

from __future__ import annotations

from typing import Any, Final

import structlog

from aegis.actors._answers import error_bytes
from aegis.actors._committer import Committer
from aegis.actors._effects import Effects
from aegis.actors._execution import (
    NOT_RUN,
    PUT_ASIDE,
    Outcome,
    execute,
    shortened,
    stashed_too_late,
)
from aegis.actors._handlers import HandlerSpec
from aegis.actors._journal import Journal
from aegis.actors._live_state import LiveState
from aegis.actors._post_office import PostOffice
from aegis.actors._record import CommandEntry, Event
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._replies import answer_params, answer_taker
from aegis.actors._schedule import Schedule
from aegis.contracts import OK, ReplyTo, Request
from aegis.errors import AegisError, HandlerFailed, InvalidRequest, StashFull
from aegis.transport._codec import encode_value

__all__ = ["CommandRunner", "entry_of"]

_log = structlog.get_logger("aegis.resource")

MAX_METHOD_CHARACTERS: Final = 100
"""So much of a method's name is journaled."""

ERROR_SHARE: Final = 8
"""An error takes at most one such part of a record: larger ones are cut. A record that no
server takes would be appended for ever, and nothing behind it would commit."""

WARN_AT: Final = 0.5
"""The share of the largest state at which its size is told."""


def entry_of(outcome: Outcome, request: Request) -> CommandEntry:
    """Return what the journal says of a command that has run."""
    entry = CommandEntry(request.session, request.n, request.low, outcome.status, outcome.encoded)
    # Of mail it may be anything.
    entry.method = request.method[:MAX_METHOD_CHARACTERS]
    effects = outcome.effects
    if effects is not None:
        entry.events = effects.events or None
        entry.outgoing = effects.outgoing or None
        entry.reminders = effects.reminders or None
    return entry


class CommandRunner:
    """Runs one command at a time, and takes what its handler asks for meanwhile."""

    __slots__ = (
        "_committer",
        "_effects",
        "_is_running",
        "_journal",
        "_key",
        "_live",
        "_office",
        "_owner",
        "_spec",
        "_warned",
    )

    def __init__(
        self,
        key: ResourceKey,
        office: PostOffice,
        committer: Committer,
        journal: Journal,
        live: LiveState,
    ) -> None:
        self._key = key
        self._office = office
        self._committer = committer
        self._journal = journal
        self._live = live
        self._owner = committer.owner
        self._spec = live.spec
        self._effects: Effects | None = None
        self._is_running = False
        self._warned = False

    @property
    def is_running(self) -> bool:
        """Whether a command is in the middle of its handler, or was interrupted there."""
        return self._is_running

    async def run(
        self, handler: HandlerSpec, request: Request, reply_to: ReplyTo | None = None
    ) -> Outcome:
        """Run a handler; of one that does not succeed nothing is left.

        It may put the message aside; see `execute`.
        """
        self._is_running = True
        outcome = await execute(self._live.actor, handler, request)
        if outcome.status == OK:
            outcome.effects = self._effects
            self._take_state(outcome, copies=1 if reply_to is None else 2)
        if outcome.status != OK:
            await self._take_back(outcome, request)
        if reply_to is not None and outcome.status not in (PUT_ASIDE, StashFull.code):
            self.add_answer(request, reply_to, outcome)
        # Not where it is interrupted: then the state may be half changed, and `stop` must
        # not wait for anything of this life.
        self._effects = None
        self._is_running = False
        return outcome

    async def _take_back(self, outcome: Outcome, request: Request) -> None:
        """Leave nothing of a command that did not succeed but an error that can be journaled."""
        if outcome.status in (PUT_ASIDE, StashFull.code):
            self._check_untouched(outcome, request)
        if outcome.status != PUT_ASIDE and outcome.status not in NOT_RUN:
            await self._undo()
        outcome.state = outcome.effects = outcome.published = None
        outcome.encoded = self._shortened(outcome.encoded)

    def refusal(self, error: AegisError) -> Outcome:
        """Return what the journal keeps of a message that was refused before it ran."""
        return Outcome(error.code, self._shortened(error_bytes(error)))

    def _shortened(self, encoded: bytes) -> bytes:
        return shortened(encoded, self._owner.limits.record_bytes // ERROR_SHARE)

    def _check_untouched(self, outcome: Outcome, request: Request) -> None:
        """Make a failure of a message put aside whose handler has done something before."""
        effects, what = self._effects, ""
        if effects is not None and effects.events:
            what = "emitted"
        elif effects is not None and effects.outgoing:
            what = "sent"
        elif effects is not None and effects.reminders:
            what = "set a reminder"
        elif self._has_changed():
            what = "changed the state"
        if what:
            failure = stashed_too_late(request, what)
            outcome.status, outcome.encoded = failure.code, error_bytes(failure)

    def _has_changed(self) -> bool:
        try:
            return self._live.changed() is not None
        except AegisError:
            return True

    def _take_state(self, outcome: Outcome, *, copies: int) -> None:
        """Take the encoded state if it changed; the command fails if it cannot be kept.

        ``copies`` is how often the record will hold the reply.
        """
        try:
            outcome.state = self._live.changed()
        except AegisError as error:
            failure = HandlerFailed(f"the new state cannot be journaled: {error}")
            outcome.status, outcome.encoded = failure.code, error_bytes(failure)
            return
        problem = self._too_large(outcome, copies)
        if problem is not None:
            outcome.status, outcome.encoded = problem.code, error_bytes(problem)

    def add_answer(self, request: Request, reply_to: ReplyTo, outcome: Outcome) -> None:
        """Let the reply leave as a message."""
        if outcome.effects is None:
            outcome.effects = self._new_effects()
        for params in answer_params(request, outcome.status, outcome.encoded):
            try:
                # However many wait: a reply is no burden of this actor's own making.
                outcome.effects.send_anyway(
                    reply_to.service, reply_to.resource, reply_to.method, params
                )
                return
            except AegisError as error:
                _log.warning("reply_not_sent", message_id=request.message_id, error=str(error))

    def _new_effects(self) -> Effects:
        return Effects(self._spec, self._key[1], self._owner, self._office)

    # -- what handlers ask for ----------------------------------------------------------

    def emit(self, event: object) -> None:
        """Note ``event`` for the record of the running command, and apply it.

        Raises:
            InvalidRequest: no command is running, or the class has no such event.
        """
        effects = self._running("events are emitted", "event")
        found = self._spec.event_for(event)
        encoded = encode_value(found.unstructure(event))
        found.apply(self._live.actor, event)
        effects.events.append(Event(found.name, found.version, encoded))

    def send(
        self, service: str, resource: str, method: str, params: dict[str, Any], reply_to: str | None
    ) -> str:
        """Note a message for the record of the running command; return its id.

        Raises:
            InvalidRequest: no command is running, or something of it is wrong, as that
                ``reply_to`` does not take an answer.
            NotFound: ``reply_to`` is no command of the class.
            TooLarge, Overloaded: it is too large, or too many wait to be forwarded.
        """
        effects = self._running("messages are sent", "method")
        if reply_to is None:
            return effects.send(service, resource, method, params)
        back = ReplyTo(*self._key, answer_taker(self._spec, reply_to).name)
        return effects.send(service, resource, method, params, back)

    def publish(self, topic: str, plain: Any) -> None:
        """Note a publication for the record of the running command.

        Raises:
            TooLarge, Overloaded: it is too large, or too many wait to be forwarded.
        """
        self._running("topics that are kept are published to", "topic").publish(topic, plain)

    def remind(self, name: str, method: str, params: dict[str, Any], schedule: Schedule) -> None:
        """Note a reminder for the record of the running command; see `AegisActor.remind`."""
        effects = self._running("reminders are set", "name")
        effects.remind(name, method, params, schedule)

    def forget(self, name: str) -> None:
        """Note the end of a reminder for the record of the running command."""
        self._running("reminders are forgotten", "name").forget(name)

    def _running(self, what: str, field: str) -> Effects:
        if not self._is_running:
            raise InvalidRequest(f"{what} inside commands only", field=field)
        if self._effects is None:
            self._effects = self._new_effects()  # Most commands have none.
        return self._effects

    # -- outcomes ---------------------------------------------------------------------

    def _too_large(self, outcome: Outcome, copies: int) -> HandlerFailed | None:
        limit = self._owner.limits.record_bytes
        state, effects = outcome.state, outcome.effects
        size = copies * len(outcome.encoded)
        if effects is not None:
            size += effects.size_bytes
        if state is not None:
            size += len(state)
            if size > limit * WARN_AT:
                self._warn(len(state), limit)
        # A snapshot record carries the tables, too.
        if size + self._owner.tables_bytes <= limit:
            return None
        return HandlerFailed(
            f"the command's effect takes {size} bytes, more than a record may have; "
            "keep the state, the answer or what is sent smaller",
            size_bytes=size,
            limit_bytes=limit,
        )

    def _warn(self, size: int, limit: int) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "state_grows_large",
                service_name=self._key[0],
                resource_id=self._key[1],
                size_bytes=size,
                limit_bytes=limit,
            )

    async def _undo(self) -> None:
        """Bring the state back to what it was before the command that failed."""
        if not self._spec.has_state:
            return
        if not self._spec.is_event_sourced:
            self._live.undo()
        elif self._effects is not None and self._effects.events:
            await self._reload()

    async def _reload(self) -> None:
        """Read the state anew from the journal, after all before has been stored."""
        await self._committer.wait_quiescent()
        if not self._owner.serving:
            return
        self._live.restart()
        async with self._journal.reads:
            async for sequence, record, _ in self._journal.read(
                start=1, until=self._owner.last_sequence
            ):
                self._live.replay(sequence, record)
