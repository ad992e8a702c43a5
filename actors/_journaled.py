"""A resource under its journal: each command takes effect exactly once.

A standby has the same behaviour: it follows the journal, refuses every message with
421, and goes on as the owner once it is promoted.

`JournaledBehaviour` ties these together: the `CommandRunner` and its `LiveState`,
the `Owner` (sans-I/O) that decides what is known and what may be answered, the `Journal`
that stores it and the `Committer` that moves records there, and what beside calls comes
in and goes out: `MailDesk`, `ReminderTimer`, `Forwarder`. One message at a time comes in
through `handle`; appends run beside it, one at a time, each with all that committed
meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import cache, partial
from typing import Any, Final, Protocol, cast

import structlog
from attrs import define

from aegis._trace import current_traceparent
from aegis.actors._actor import AegisActor
from aegis.actors._answers import NO_ANSWER, AnswerSink, CallbackAnswer, error_bytes
from aegis.actors._cell import ActorCell
from aegis.actors._command_runner import CommandRunner, entry_of
from aegis.actors._committer import Committer
from aegis.actors._execution import NOT_RUN, PUT_ASIDE, Outcome, execute
from aegis.actors._forwarder import Forwarder
from aegis.actors._handlers import ActorSpec, HandlerSpec, describe
from aegis.actors._journal import RESERVED_BYTES, Journal
from aegis.actors._live_state import LiveState
from aegis.actors._mail_desk import RESULT_METHOD, MailDesk, Slip
from aegis.actors._mail_source import MailboxSource, MailSource, TopicSource
from aegis.actors._mailbox import current_envelope
from aegis.actors._owner import Owner, OwnerLimits, Phase
from aegis.actors._post_office import PostOffice
from aegis.actors._record import CommandEntry, Record
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._remainder import Remainder
from aegis.actors._reminder_timer import ReminderTimer, Ring
from aegis.actors._schedule import Schedule
from aegis.actors._sessions import MAX_KEPT_BYTES, Known, Refusal
from aegis.actors._standby import StandbyFeed
from aegis.actors._stash import put_aside
from aegis.actors._streams import OpenStreams
from aegis.actors._tracer import Operation, SpanSink
from aegis.actors._withdrawal import WITHDRAW_METHOD, WITHDRAWN
from aegis.contracts import OK, Kind, Mail, Request, Role
from aegis.errors import (
    AegisError,
    DeadlineExpired,
    Fenced,
    HandlerFailed,
    InvalidRequest,
    JournalUnreadable,
    Moved,
    Overloaded,
    Rejected,
    StashFull,
    TooOld,
    Unavailable,
    from_wire,
)
from aegis.transport._codec import decode_value, encode_value

__all__ = ["JournaledBehaviour", "Ownership", "Takeover"]

_log = structlog.get_logger("aegis.resource")

DRAIN_SECONDS: Final = 2.0
"""How long an owner that stops forwards what it has committed; the next one goes on."""

_FENCED: Final = error_bytes(Moved("a newer owner has taken over; look the resource up again"))


class Ownership(Protocol):
    """What a resource must know of its node's standing with the supervisor."""

    def lease_covers(self, service: str, resource: str, epoch: int) -> bool:
        """Whether queries may be answered at this moment."""
        ...

    async def wait_covered(self, service: str, resource: str, epoch: int) -> None:
        """Return once no earlier owner can answer any more."""
        ...

    def on_fenced(self, service: str, resource: str, epoch: int, newer_epoch: int) -> None:
        """The owner has met a newer epoch, and has stopped."""
        ...

    def hand_over(self, service: str, resource: str, epoch: int, to: str | None) -> None:
        """The owner wants a standby to own the resource, any if none is named."""
        ...


@define
class Takeover:
    """How a promotion went: seconds from its beginning to the end of each step."""

    epoch: int
    records: int = 0
    """How many had to be read that the standby had not followed yet."""
    fenced: float = 0.0
    replayed: float = 0.0
    covered: float = 0.0
    first_answer: float = 0.0
    trace: str = ""
    """The traceparent of the failover, if it is known."""


class JournaledBehaviour:
    """What a resource actor does with requests.

    With ``feed`` it begins as a standby, which that shows the journal; ``epoch`` is
    what it is promoted with. ``reads`` has its turn before each read of the journal; the
    resources of a node share one. ``on_first_answer`` is called once after each promotion.
    """

    __slots__ = (
        "_actor",
        "_cell",
        "_committer",
        "_desk",
        "_desks",
        "_feed",
        "_forwarder",
        "_journal",
        "_live",
        "_loop",
        "_office",
        "_on_first_answer",
        "_ownership",
        "_ready",
        "_remainder",
        "_runner",
        "_spec",
        "_streams",
        "_timer",
        "_voided",
        "owner",
        "owns",
        "resource",
        "service",
    )

    def __init__(
        self,
        office: PostOffice,
        ownership: Ownership,
        *,
        actor_class: type[AegisActor],
        resource: str,
        epoch: int = 0,
        feed: StandbyFeed | None = None,
        reads: asyncio.Semaphore | None = None,
        on_first_answer: Callable[[Takeover], object] | None = None,
    ) -> None:
        spec = describe(actor_class)
        self._spec: ActorSpec = spec
        self.service = spec.service
        self.resource = resource
        self._office = office
        self._ownership = ownership
        subject = office.subjects.journal(spec.service, resource)
        self._journal = Journal(office.transport, subject, reads)
        # A class without state has snapshots too: they hold its tables.
        limits = _limits(office.transport.max_payload_bytes)
        by_snapshots = not spec.is_event_sourced
        if feed is None:
            self.owner = Owner(epoch=epoch, snapshot_state=by_snapshots, limits=limits)
        else:
            self.owner = Owner.standby(snapshot_state=by_snapshots, limits=limits)
        self._feed = feed
        self._remainder: Remainder | None = None
        """What is still shown to a standby that is being promoted."""
        self.owns = False
        """Whether the actor has been told that it is the owner, or was from the start."""
        self._committer = Committer(self.owner, self._journal, self)
        self._live = LiveState(spec, self.owner, subject)
        self._runner = CommandRunner(self.key, office, self._committer, self._journal, self._live)
        self._forwarder = Forwarder(office, self.owner)
        self._desk: MailDesk | None = None
        self._desks: list[MailDesk] = []
        """That of the mailbox, and one for each durable subscription."""
        self._timer: ReminderTimer | None = None
        self._streams: OpenStreams | None = None
        self._on_first_answer = on_first_answer
        self._ready = False
        self._voided = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._actor: Any = None
        self._cell: ActorCell = cast("ActorCell", None)

    # -- life -------------------------------------------------------------------------

    async def start(self, actor: AegisActor) -> None:
        """Become the owner: fence, replay, and wait until every earlier owner is out.

        A standby only begins to follow.

        Raises:
            Fenced: a newer owner exists already.
            JournalUnreadable: a record cannot be read; this actor alone stops.
        """
        self._actor = actor
        self._cell = actor.actor_cell
        self._live.begin(actor)
        if self._feed is not None:
            actor.role = Role.STANDBY
            self._feed.add(self)
            return
        await self._journal.fence(self.owner)
        await self._replay()
        self.owns = True
        await self._wait_covered()
        self._ready = True

    async def promote(self, epoch: int) -> Takeover:
        """Go from standby to owner; in a turn of the actor's own, see `ActorCell.perform`.

        Messages that come meanwhile wait in the mailbox.

        Raises:
            Fenced: a newer owner exists.
            JournalUnreadable: a record cannot be read.
            Exception: what ``on_promote`` raised.
        """
        tracer = self._cell.runtime.tracer
        if tracer is None:
            return await self._promote(epoch)
        span = tracer.begin(
            Operation.PROMOTE,
            service=self.service,
            resource=self.resource,
            instance=self._cell.props.instance_id,
            epoch=epoch,
        )
        span.enter()
        try:
            takeover = await self._promote(epoch)
        except BaseException as error:
            span.end(getattr(error, "code", HandlerFailed.code))
            raise
        span.end(
            OK,
            records=takeover.records,
            fenced=takeover.fenced,
            replayed=takeover.replayed,
            covered=takeover.covered,
        )
        return takeover

    async def _promote(self, epoch: int) -> Takeover:
        owner, actor, loop = self.owner, self._actor, self._loop
        begun = loop.time()
        takeover = Takeover(epoch, trace=current_traceparent())
        feed, self._feed = self._feed, None
        if feed is not None:
            # The fence tells up to where it has to be seen what the feed shows from now on.
            self._remainder = Remainder(feed, self)
        if owner.stopped or not owner.promote(epoch):
            raise self._fenced()
        await self._journal.fence(owner)
        takeover.fenced = loop.time() - begun
        takeover.records = await self._replay()
        self._leave_feed()
        takeover.replayed = loop.time() - begun
        actor.role, actor.epoch = Role.ACTIVE, epoch
        self.owns = True
        await actor.actor_cell.call_hook("on_promote", epoch)
        await self._wait_covered()
        self._ready = True
        takeover.covered = loop.time() - begun
        if self._on_first_answer is not None:
            self._committer.on_first_answer = partial(
                self._answered_first, self._on_first_answer, takeover, begun
            )
        self._open()
        return takeover

    def _answered_first(
        self, tell: Callable[[Takeover], object], takeover: Takeover, begun: float
    ) -> None:
        takeover.first_answer = self._loop.time() - begun
        tell(takeover)

    async def _wait_covered(self) -> None:
        """Wait for the leases of earlier owners, unless a newer owner comes."""
        owner = self.owner
        if self._covered() and not owner.stopped:
            return  # As most are when many change hands at once.
        voided = self._loop.create_task(self._voided.wait())
        covered = asyncio.ensure_future(
            self._ownership.wait_covered(self.service, self.resource, owner.epoch)
        )
        try:
            await asyncio.wait((voided, covered), return_when=asyncio.FIRST_COMPLETED)
            if owner.stopped:
                raise self._fenced()
            covered.result()
        finally:
            voided.cancel()
            covered.cancel()

    def void(self) -> None:
        """A newer owner exists: answer nothing any more, from this instant on."""
        self._leave_feed()
        self._give_up()

    def _leave_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.remove(self)
        remainder, self._remainder = self._remainder, None
        if remainder is not None:
            remainder.leave()

    def _fenced(self) -> Fenced:
        newer = self.owner.newer_epoch
        self._tell_fence()
        return Fenced(f"{self._journal.subject}: a newer owner has epoch {newer}", epoch=newer)

    async def started(self, actor: AegisActor) -> None:
        """Tell an owner that it is one: it has its state, and nobody else acts."""
        if self.owns:
            await actor.actor_cell.call_hook("on_promote", self.owner.epoch)
            self._open()

    def _open(self) -> None:
        """Begin with what does not come from callers: mail, reminders, what has to go out."""
        if self.owner.stopped:
            return
        mailbox = self._cell.mailbox
        office, subjects = self._office, self._office.subjects
        sources: list[MailSource] = [MailboxSource.of(self.key, subjects)]
        for spec in self._spec.durable_subscriptions:
            stream = office.kept.stream_of(spec.pattern)
            sources.append(TopicSource.of(self.key, subjects, spec, stream))
        self._desks = [
            MailDesk(
                self.key,
                source,
                office,
                self._committer,
                mailbox,
                self._run_mail,
                self._on_repeat,
                self._may_retry,
            )
            for source in sources
        ]
        self._desk = self._desks[0]
        self._timer = ReminderTimer(self.key, self._office.clock, self.owner, mailbox)
        self._timer.arm()
        self.on_committed()

    async def stop(self, actor: AegisActor) -> None:
        """Finish the append under way and every answer that waits for it, then stop."""
        self._leave_feed()
        # Nothing that a killed actor still does may count, whether it is in the middle of
        # a handler or waits for an append: another life may fence with the same epoch now.
        if self._cell.is_killed:
            self._give_up()
        if self._streams is not None:
            await self._streams.close()
        if self.owner.serving and not self._runner.is_running:
            await self._committer.wait_quiescent()
            self._forwarder.wake()
            await self._forwarder.drain(DRAIN_SECONDS)
        self._give_up()

    @property
    def next_reminder_ms(self) -> int | None:
        """When the next reminder is due, in Unix ms."""
        first = self.owner.reminders.next()
        return None if first is None else first.due_ms

    def look_at_clock(self) -> None:
        """Let reminders come that are due now: the wall clock has been set."""
        if self._timer is not None:
            self._timer.arm()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way that a stop would have to wait for."""
        return self.owner.quiescent

    @property
    def is_running(self) -> bool:
        """Whether a command is in the middle of its handler."""
        return self._runner.is_running

    async def _replay(self) -> int:
        """Read what is missing up to the fence; return how many records that were."""
        owner = self.owner
        count = 0
        if owner.phase is Phase.REPLAYING and self._remainder is not None:
            count = await self._apply_missing(self._still_shown(self._remainder))
        if owner.phase is Phase.REPLAYING:
            async with self._journal.reads:
                missing = self._journal.read(start=owner.read_from, until=owner.read_until)
                count += await self._apply_missing(missing)
        if owner.stopped:
            raise self._fenced()
        if not owner.serving:
            raise JournalUnreadable(
                f"{self._journal.subject}: the epoch record at {owner.read_until} is missing",
                subject=self._journal.subject,
                sequence=owner.read_until,
            )
        self._live.complete()
        return count

    async def _still_shown(self, remainder: Remainder) -> AsyncIterator[tuple[int, Record, int]]:
        async for sequence, payload in remainder.read(until=self.owner.read_until):
            # What a standby has only begun to read is shown once more as it comes.
            if sequence > self.owner.last_sequence:
                yield sequence, self._journal.decode(sequence, payload), len(payload)

    async def _apply_missing(self, missing: AsyncIterator[tuple[int, Record, int]]) -> int:
        owner, count = self.owner, 0
        async for sequence, record, size in missing:
            count += 1
            if owner.stopped:
                raise self._fenced()
            if owner.replay(sequence, record, size):
                self._live.replay(sequence, record)
            if owner.stopped:
                raise self._fenced()
        return count

    # -- as a standby -----------------------------------------------------------------

    @property
    def key(self) -> ResourceKey:
        """The service and the resource."""
        return (self.service, self.resource)

    @property
    def is_standby(self) -> bool:
        """Whether it follows another owner, and nothing has ended that yet."""
        return self._feed is not None

    @property
    def is_succeeding(self) -> bool:
        """Whether it is on its way to own the resource, and has answered nobody yet."""
        return not self.is_standby and not self._ready

    @property
    def applied(self) -> int:
        """The sequence of the last record that this standby or owner knows."""
        return self.owner.last_sequence

    def feed(self, sequence: int, payload: bytes) -> None:
        """Apply one record of the active owner.

        Raises:
            JournalUnreadable: it is broken, or of another release.
        """
        if self._remainder is not None:
            self._remainder.put(sequence, payload)
            return
        record = self._journal.decode(sequence, payload)
        if self.owner.follow(sequence, record, len(payload)):
            self._live.replay(sequence, record)
        self._cell.runtime.awake.add(self._cell)

    # -- messages ---------------------------------------------------------------------

    async def handle(self, request: Request, reply_to: AnswerSink | None) -> None:
        """Take one request to its answer, or to where only its append is missing."""
        if isinstance(reply_to, Slip):
            if reply_to.desk in self._desks:
                await reply_to.desk.handle(reply_to)
            return
        if isinstance(reply_to, Ring):
            await self._ring(reply_to)
            return
        sink = NO_ANSWER if reply_to is None else reply_to
        owner = self.owner
        if not owner.serving:
            self._observe_refusal(request.kind, Moved.code)
            sink.answer(Moved.code, _FENCED)
            return
        drops: str | None = None
        # The table comes before every other check: a repeat is answered as before,
        # whatever the deadline or the class say now.
        if request.kind == Kind.COMMAND:
            known = owner.admit(request.session, request.n, request.low)
            if isinstance(known, Known):
                self._on_repeat()
                self._committer.hold(sink, known.status, known.reply)
                return
            if isinstance(known, Refusal):
                self._observe_refusal(request.kind, known.status)
                sink.answer(known.status, error_bytes(_refusal(known)))
                return
            drops = known.drops
            if request.method == WITHDRAW_METHOD:
                self._withdraw(request, sink, drops)
                return
            if self._cell.has_stashed(request):
                self._on_repeat()
                put_aside()
                return
        elif request.method == RESULT_METHOD and self._desk is not None:
            self._desk.ask(request, sink)
            return
        try:
            handler = self._spec.handler(request.method)
            if request.remaining_ms <= 0:
                raise DeadlineExpired(
                    "the deadline passed while the message waited; it did not run"
                )
            if handler.kind is Kind.COMMAND and request.kind != Kind.COMMAND:
                raise InvalidRequest(
                    f"kind: {self.service}.{handler.name} is a command, not a query", field="kind"
                )
        except AegisError as error:
            self._observe_refusal(request.kind, error.code)
            sink.answer(error.code, error_bytes(error))
            return
        if handler.kind is Kind.QUERY:
            await self._query(handler, request, sink)
        else:
            await self._command(handler, request, sink, drops)

    async def _query(self, handler: HandlerSpec, request: Request, sink: AnswerSink) -> None:
        if not self._covered():
            self._observe_refusal(request.kind, Unavailable.code)
            sink.answer(Unavailable.code, error_bytes(_no_lease(self.resource)))
            return
        if handler.is_stream:
            if self._streams is None:
                limit = self._office.transport.max_payload_bytes - RESERVED_BYTES
                self._streams = OpenStreams(self._actor, limit)
            await self._streams.handle(handler, request, partial(self._answer_query, sink))
            return
        outcome = await execute(self._actor, handler, request)
        if outcome.status == PUT_ASIDE:
            put_aside()
            return
        envelope = current_envelope.get()
        if envelope is not None and envelope.task is None:
            # It has not waited: what it read is what there was when the lease covered it.
            self._committer.hold(sink, outcome.status, outcome.encoded)
        else:
            self._answer_query(sink, outcome.status, outcome.encoded)

    def _answer_query(self, sink: AnswerSink, status: int, value: bytes) -> None:
        """Answer a query that has waited, if no other owner can have written meanwhile."""
        if not self.owner.serving or not self._covered():
            sink.answer(Unavailable.code, error_bytes(_no_lease(self.resource)))
            return
        self._committer.hold(sink, status, value)

    def _covered(self) -> bool:
        return self._ownership.lease_covers(self.service, self.resource, self.owner.epoch)

    async def _command(
        self, handler: HandlerSpec, request: Request, sink: AnswerSink, drops: str | None
    ) -> None:
        outcome = await self._runner.run(handler, request)
        status = outcome.status
        if status == PUT_ASIDE:
            put_aside()
        elif status in NOT_RUN:
            sink.answer(status, outcome.encoded)  # There is nothing to journal.
        elif not self.owner.serving:
            sink.answer(Moved.code, _FENCED)  # Fenced while the handler ran.
        else:
            self._commit(outcome, entry_of(outcome, request), drops)
            self._committer.hold(sink, status, outcome.encoded)

    def _withdraw(self, request: Request, sink: AnswerSink, drops: str | None) -> None:
        """Journal that the message has not run: now it never will."""
        withdrawn = Outcome(DeadlineExpired.code, WITHDRAWN)
        self._observe_refusal(request.kind, withdrawn.status)
        self._commit(withdrawn, entry_of(withdrawn, request), drops)
        self._committer.hold(sink, withdrawn.status, withdrawn.encoded)

    async def _run_mail(self, slip: Slip, mail: Mail, drops: str | None) -> int | AegisError:
        """Run a message of the mailbox: whatever comes of it is its effect.

        Return its status. One that was put aside, or could not be, has had none. What has
        failed of a publication is returned itself: nobody waits for its answer.
        """
        source, request = slip.desk.source, mail.request
        try:
            handler = self._spec.handler(request.method)
            if handler.kind is Kind.QUERY:
                raise InvalidRequest(
                    f"method: {self.service}.{handler.name} is a query; only commands can be sent",
                    field="method",
                )
            outcome = await self._runner.run(handler, request, mail.reply_to)
        except AegisError as error:
            self._observe_refusal(request.kind, error.code)
            outcome = self._runner.refusal(error)
            if mail.reply_to is not None:
                self._runner.add_answer(request, mail.reply_to, outcome)
        status = outcome.status
        if source and status in (PUT_ASIDE, StashFull.code):
            return HandlerFailed(
                f"{self.service}.{request.method} called self.stash(): what a durable subscription "
                "reads cannot be put aside; let it send itself what has to wait (self.send)"
            )
        if source and status not in (OK, Rejected.code):
            return from_wire(status, decode_value(outcome.encoded))
        if self.owner.serving and status not in (PUT_ASIDE, StashFull.code):
            entry = entry_of(outcome, request)
            entry.mail, entry.source = slip.letter.sequence, source
            self._commit(outcome, entry, drops)
            slip.desk.tell(request.message_id, status, outcome.encoded)
        return status

    def _may_retry(self) -> bool:
        """Whether this life of the actor goes on after a handler has failed."""
        return self.owner.serving and not self._cell.is_interrupted(self._actor)

    async def _ring(self, ring: Ring) -> None:
        """Run a reminder that is due, unless it was changed meanwhile."""
        timer = self._timer
        if timer is None or ring.timer is not timer or not self.owner.serving:
            return
        due = timer.begin(ring)
        if due is None:
            return
        reminder, change = due
        request = ring.request
        outcome = Outcome(OK, _NIL)
        if not ring.is_missed:
            try:
                handler = self._spec.handler(reminder.method, Kind.COMMAND)
                request.params = decode_value(reminder.params)
                outcome = await self._runner.run(handler, request)
            except AegisError as error:
                self._observe_refusal(request.kind, error.code)
                outcome = self._runner.refusal(error)
            if outcome.status in (PUT_ASIDE, StashFull.code):
                # However full the stash is: the journal bounds the number of reminders.
                put_aside()
                timer.put_aside(reminder)
                return
            if outcome.status != OK:
                _log.warning(
                    "reminder_failed",
                    service_name=self.service,
                    resource_id=self.resource,
                    reminder=reminder.name,
                    operation=reminder.method,
                    status=outcome.status,
                )
        if self.owner.serving:
            entry = entry_of(outcome, request)
            entry.session, entry.n = "", 0  # Nobody repeats it.
            entry.reminders = [change, *(entry.reminders or ())]
            self._commit(outcome, entry, None)

    def _commit(self, outcome: Outcome, entry: CommandEntry, drops: str | None) -> None:
        self.owner.commit(entry, outcome.state, drops=drops)
        if entry.reminders and self._timer is not None:
            self._timer.arm()
        tracer = self._cell.runtime.tracer
        if tracer is not None:
            span = tracer.begin(Operation.COMMIT, service=self.service, resource=self.resource)
            self.release(SpanSink(span))
        for publication in outcome.published or ():
            self.release(publication)
        self._committer.flush_soon()

    # -- what handlers ask for ----------------------------------------------------------

    def emit(self, event: object) -> None:
        """Note an event for the record of the running command, and apply it."""
        self._runner.emit(event)

    def send(
        self, service: str, resource: str, method: str, params: dict[str, Any], reply_to: str | None
    ) -> str:
        """Note a message for the record of the running command; return its id."""
        return self._runner.send(service, resource, method, params, reply_to)

    def publish(self, topic: str, plain: Any) -> bool:
        """Note a publication for the record of the running command."""
        self._runner.publish(topic, plain)
        return True

    def remind(self, name: str, method: str, params: dict[str, Any], schedule: Schedule) -> None:
        """Note a reminder for the record of the running command."""
        self._runner.remind(name, method, params, schedule)

    def forget(self, name: str) -> None:
        """Note the end of a reminder for the record of the running command."""
        self._runner.forget(name)

    def hand_over(self, to: str | None) -> AnswerSink:
        """Return what asks the node for it, once all before is stored."""
        if not self.owns:
            raise InvalidRequest(
                f"{self.service}/{self.resource}: a standby has nothing to hand over", field="to"
            )

        def leave(status: int, _: bytes) -> None:
            if status == OK:
                self._ownership.hand_over(self.service, self.resource, self.owner.epoch, to)

        return CallbackAnswer(leave)

    def release(self, publication: AnswerSink) -> None:
        """Let it leave like an answer to a query: not before what it may tell of is stored."""
        if self.owner.stopped or self.owner.hold((publication, OK, b"")):
            publication.answer(Moved.code if self.owner.stopped else OK, b"")

    def take_back_changes(self) -> bool:
        """Bring the state back to what commands have made of it, if it differs.

        Of an event-sourced class that cannot be told from one encoding; `emit` refuses
        what is no command there.
        """
        spec = self._spec
        if not spec.has_state or spec.is_event_sourced or not self.owner.serving:
            return False
        return self._live.undo()

    # -- what the committer tells -------------------------------------------------------

    def whole_state(self) -> bytes | None:
        """Return the state for a snapshot, where records do not hold it anyway."""
        if not self._spec.is_event_sourced or self._runner.is_running:
            return None
        encoded = self._live.encoded()
        size = len(encoded) + self.owner.tables_bytes
        if size <= self._office.transport.max_payload_bytes - RESERVED_BYTES:
            return encoded
        _log.error(
            "snapshot_too_large",
            service_name=self.service,
            resource_id=self.resource,
            size_bytes=size,
            action="the journal grows on and recovery takes longer; keep the state smaller",
        )
        return None

    def on_appended(self, seconds: float) -> None:
        """Tell how long an append took."""
        self._cell.runtime.observer.on_committed(seconds)

    def on_committed(self) -> None:
        """Let what has become possible begin: messages out, mail in."""
        self._cell.runtime.awake.add(self._cell)
        # After each commit: what most resources have none of must cost next to nothing.
        if not self.owner.outbox.is_empty:
            self._forwarder.wake()
        for desk in self._desks:
            desk.on_committed()

    def on_append_fenced(self, newer_epoch: int) -> None:
        """Stop: whatever was under way is another owner's to do."""
        self._tell_fence()
        self._give_up()
        self._ownership.on_fenced(self.service, self.resource, self.owner.epoch, newer_epoch)

    def on_unreadable(self, error: AegisError) -> None:
        """Let the actor fall."""
        self._give_up()
        self._cell.fail(error)

    def _on_repeat(self) -> None:
        """Tell of a command that has come before."""
        cell = self._cell
        cell.runtime.observer.on_duplicate(cell)

    def _observe_refusal(self, kind: str, status: int) -> None:
        cell = self._cell
        cell.runtime.observer.on_refused(cell, kind, status)

    def _tell_fence(self) -> None:
        cell = self._cell
        _log.warning(
            "fenced",
            service_name=self.service,
            instance_id=cell.props.instance_id,
            resource_id=self.resource,
            epoch=self.owner.epoch,
            newer_epoch=self.owner.newer_epoch,
        )
        cell.runtime.observer.on_fenced(cell)

    def _give_up(self) -> None:
        """Void the memory: whoever still waits for an answer must look elsewhere."""
        for sink, _, _ in self._committer.stop():
            sink.answer(Moved.code, _FENCED)
        for desk in self._desks:
            desk.close()
        if self._timer is not None:
            self._timer.stop()
        self._forwarder.stop()
        self._voided.set()


_NIL: Final = encode_value(None)


@cache
def _limits(max_payload_bytes: int) -> OwnerLimits:
    """Return the bounds for a server: a snapshot holds the kept replies beside the state."""
    return OwnerLimits(
        record_bytes=max_payload_bytes - RESERVED_BYTES,
        max_kept_bytes=min(MAX_KEPT_BYTES, max_payload_bytes // 4),
        max_stash_bytes=min(MAX_KEPT_BYTES, max_payload_bytes // 4),
    )


def _refusal(refusal: Refusal) -> AegisError:
    if refusal.status == TooOld.code:
        return TooOld(refusal.message, **refusal.facts)
    return Overloaded(refusal.message)


def _no_lease(resource: str) -> Unavailable:
    return Unavailable(f"{resource}: the node holds no lease on it at this moment")
