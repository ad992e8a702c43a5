"""Running the commands of one resource: what each did, or, if it failed, nothing.

While a handler runs, its effects are gathered. What comes of it is a `Ran`: all that its
entry in the journal says. Of a command that does not succeed the state is brought back to
what it was before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import structlog
from attrs import define

from aegis.actors._answers import AnswerSink, error_bytes
from aegis.actors._committer import Committer
from aegis.actors._effects import Effects
from aegis.actors._execution import NOT_RUN, PUT_ASIDE, execute, stashed_too_late
from aegis.actors._handlers import HandlerSpec
from aegis.actors._journal import RESERVED_BYTES, Journal
from aegis.actors._live_state import LiveState
from aegis.actors._post_office import PostOffice
from aegis.actors._record import CommandEntry, Event
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._replies import answer_params
from aegis.actors._schedule import Schedule
from aegis.contracts import OK, Kind, ReplyTo, Request
from aegis.errors import AegisError, HandlerFailed, InvalidRequest, StashFull
from aegis.transport._codec import encode_value

__all__ = ["CommandRunner", "Ran"]

_log = structlog.get_logger("aegis.resource")

WARN_AT: Final = 0.5
"""The share of the largest state at which its size is told."""


@define(slots=True, eq=False)
class Ran:
    """How a command ended, with all that is to be journaled of it."""

    status: int
    value: bytes
    state: bytes | None = None
    effects: Effects | None = None
    published: Sequence[AnswerSink] = ()
    """What leaves once the record is stored, each when it is answered 200."""

    def entry(self, request: Request) -> CommandEntry:
        """Return what the journal says of it."""
        effects = self.effects
        return CommandEntry(
            request.session,
            request.n,
            request.low,
            self.status,
            self.value,
            None if effects is None else effects.events or None,
            None if effects is None else effects.outgoing or None,
            reminders=None if effects is None else effects.reminders or None,
        )


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
        self,
        handler: HandlerSpec,
        request: Request,
        reply_to: ReplyTo | None = None,
        *,
        may_wait: bool = False,
    ) -> Ran:
        """Run a handler; of one that does not succeed nothing is left.

        With ``may_wait`` it may put the message aside; see `execute`.
        """
        self._is_running = True
        self._effects = None
        outcome = await execute(self._live.actor, handler, request, may_wait=may_wait)
        effects = self._effects
        ran = Ran(outcome.status, outcome.encoded, None, effects)
        if ran.status in (PUT_ASIDE, StashFull.code):
            self._check_untouched(ran, request)
        if ran.status == PUT_ASIDE:
            self._effects = None
            self._is_running = False
            return ran
        if ran.status == OK:
            self._take_state(ran, copies=1 if reply_to is None else 2)
        if ran.status != OK and ran.status not in NOT_RUN:
            await self._undo(effects)
        if ran.status == OK:
            ran.published = outcome.published
        else:
            ran.state = None
            ran.effects = None
        if ran.status != StashFull.code:
            self.add_answer(request, reply_to, ran)
        # Not where it is interrupted: then the state may be half changed, and `stop` must
        # not wait for anything of this life.
        self._effects = None
        self._is_running = False
        return ran

    def _check_untouched(self, ran: Ran, request: Request) -> None:
        """Make a failure of a message put aside whose handler has done something before."""
        effects, what = ran.effects, ""
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
            ran.status, ran.value = failure.code, error_bytes(failure)

    def _has_changed(self) -> bool:
        try:
            return self._live.changed() is not None
        except AegisError:
            return True

    def _take_state(self, ran: Ran, *, copies: int) -> None:
        """Take the encoded state if it changed; the command fails if it cannot be kept.

        ``copies`` is how often the record will hold the reply.
        """
        try:
            ran.state = self._live.changed()
        except AegisError as error:
            failure = HandlerFailed(f"the new state cannot be journaled: {error}")
            ran.status, ran.value = failure.code, error_bytes(failure)
            return
        problem = self._too_large(ran, copies)
        if problem is not None:
            ran.status, ran.value = problem.code, error_bytes(problem)

    def add_answer(self, request: Request, reply_to: ReplyTo | None, ran: Ran) -> None:
        """Let the reply leave as a message, if the sender wants it."""
        if reply_to is None:
            return
        if ran.effects is None:
            ran.effects = self._new_effects()
        for params in answer_params(request, ran.status, ran.value):
            try:
                # However many wait: a reply is no burden of this actor's own making.
                ran.effects.send_anyway(
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
            InvalidRequest: no command is running, or something of it is wrong.
            NotFound: ``reply_to`` is no command of the class.
            TooLarge, Overloaded: it is too large, or too many wait to be forwarded.
        """
        effects = self._running("messages are sent", "method")
        if reply_to is None:
            return effects.send(service, resource, method, params)
        back = ReplyTo(*self._key, self._spec.handler(reply_to, Kind.COMMAND).name)
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

    def _too_large(self, ran: Ran, copies: int) -> HandlerFailed | None:
        limit = self._office.transport.max_payload_bytes - RESERVED_BYTES
        size = copies * len(ran.value) + len(ran.state or b"")
        if ran.effects is not None:
            size += ran.effects.size_bytes
        if ran.state is not None and not self._warned and size > limit * WARN_AT:
            self._warned = True
            _log.warning(
                "state_grows_large",
                service_name=self._key[0],
                resource_id=self._key[1],
                size_bytes=len(ran.state),
                limit_bytes=limit,
            )
        # A snapshot record carries the tables, too.
        if size + self._owner.tables_bytes <= limit:
            return None
        return HandlerFailed(
            f"the command's effect takes {size} bytes, more than a record may have; "
            "keep the state, the answer or what is sent smaller",
            size_bytes=size,
            limit_bytes=limit,
        )

    async def _undo(self, effects: Effects | None) -> None:
        """Bring the state back to what it was before the command that failed."""
        if not self._spec.has_state:
            return
        if not self._spec.is_event_sourced:
            self._live.undo()
        elif effects is not None and effects.events:
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
