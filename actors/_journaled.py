"""A resource under its journal: each command takes effect exactly once.

A standby has the same behaviour: it follows the journal, refuses every message with
421, and goes on as the owner once it is promoted.

`JournaledBehaviour` ties three things together: the actor whose handlers run, the
`Owner` (sans-I/O) that decides what is known and what may be answered, and the
`Journal` that stores it. One message at a time comes in through `handle`; appends
run beside it, one at a time, each with all that committed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Protocol

import structlog
from attrs import define

from aegis.actors._actor import AegisActor
from aegis.actors._answers import NO_ANSWER, AnswerSink, error_bytes
from aegis.actors._execution import execute
from aegis.actors._handlers import ActorSpec, HandlerSpec, describe
from aegis.actors._journal import RESERVED_BYTES, Journal, pause
from aegis.actors._owner import Owner, OwnerLimits, Phase
from aegis.actors._record import CommandEntry, Event, Record
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._sessions import MAX_KEPT_BYTES, Known, Refusal
from aegis.actors._standby import StandbyFeed
from aegis.contracts import OK, Kind, Request, Role
from aegis.errors import (
    AegisError,
    DeadlineExpired,
    Fenced,
    HandlerFailed,
    InvalidRequest,
    JournalUnreadable,
    Moved,
    Overloaded,
    TooOld,
    Unavailable,
)
from aegis.transport._base import Appended, AppendOutcome, Refused, Transport
from aegis.transport._codec import decode_value, encode_value

__all__ = ["MAX_CONCURRENT_READS", "JournaledBehaviour", "Ownership", "Takeover"]

_log = structlog.get_logger("aegis.resource")

MAX_CONCURRENT_READS: Final = 64
"""So many journals a node reads at the same time: each read is a consumer on the server,
and a thousand resources that start or change hands together need not be a thousand."""

WARN_AT: Final = 0.5
"""The share of the largest state at which its size is told."""

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


class JournaledBehaviour:
    """What a resource actor does with requests.

    With ``feed`` it begins as a standby, which that shows the journal; ``epoch`` is
    what it is promoted with. ``reads`` has its turn before each read of the journal; the
    resources of a node share one. ``on_first_answer`` is called once after each promotion.
    """

    __slots__ = (
        "_actor",
        "_append",
        "_attempt",
        "_begun",
        "_emitted",
        "_feed",
        "_flush_scheduled",
        "_idle_waiter",
        "_initial",
        "_journal",
        "_loop",
        "_mid_handler",
        "_on_first_answer",
        "_ownership",
        "_reads",
        "_ready",
        "_spec",
        "_takeover",
        "_tasks",
        "_transport",
        "_voided",
        "_warned",
        "owner",
        "owns",
        "resource",
        "service",
    )

    def __init__(
        self,
        transport: Transport,
        subject: str,
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
        self._transport = transport
        self._ownership = ownership
        self._journal = Journal(transport, subject)
        self._reads = reads or asyncio.Semaphore(MAX_CONCURRENT_READS)
        # A class without state has snapshots too: they hold its table of sessions.
        limits = _limits(transport.max_payload_bytes)
        by_snapshots = not spec.is_event_sourced
        if feed is None:
            self.owner = Owner(epoch=epoch, snapshot_state=by_snapshots, limits=limits)
        else:
            self.owner = Owner.standby(snapshot_state=by_snapshots, limits=limits)
        self._feed = feed
        self.owns = False
        """Whether the actor has been told that it is the owner, or was from the start."""
        self._on_first_answer = on_first_answer
        self._ready = False
        self._begun = 0.0
        self._takeover: Takeover | None = None
        self._voided = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._actor: Any = None
        self._initial: bytes = b""
        self._append: asyncio.Future[AppendOutcome] | None = None
        self._attempt = 0
        self._flush_scheduled = False
        self._mid_handler = False
        self._emitted: list[Event] | None = None
        self._idle_waiter: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] | None = None
        self._warned = False

    # -- life -------------------------------------------------------------------------

    async def start(self, actor: AegisActor) -> None:
        """Become the owner: fence, replay, and wait until every earlier owner is out.

        A standby only begins to follow.

        Raises:
            Fenced: a newer owner exists already.
            JournalUnreadable: a record cannot be read; this actor alone stops.
        """
        self._actor = actor
        owner, spec = self.owner, self._spec
        if spec.has_state:
            self._actor.state = spec.new_state()
            self._initial = encode_value(spec.unstructure_state(self._actor.state))
        if self._feed is not None:
            actor.role = Role.STANDBY
            self._feed.add(self)
            return
        await self._journal.fence(owner)
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
        owner, actor, loop = self.owner, self._actor, self._loop
        begun = self._begun = loop.time()
        takeover = Takeover(epoch)
        self._leave_feed()
        if owner.stopped or not owner.promote(epoch):
            raise self._fenced()
        await self._journal.fence(owner)
        takeover.fenced = loop.time() - begun
        takeover.records = await self._replay()
        takeover.replayed = loop.time() - begun
        actor.role, actor.epoch = Role.ACTIVE, epoch
        self.owns = True
        await actor.actor_cell.call_hook("on_promote", epoch)
        await self._wait_covered()
        self._ready = True
        takeover.covered = loop.time() - begun
        self._takeover = takeover
        return takeover

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

    def _fenced(self) -> Fenced:
        newer = self.owner.newer_epoch
        return Fenced(f"{self._journal.subject}: a newer owner has epoch {newer}", epoch=newer)

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
        record = self._journal.decode(sequence, payload)
        if self.owner.follow(sequence, record, len(payload)) and self._spec.is_event_sourced:
            self._replay_events(sequence, record)

    async def started(self, actor: AegisActor) -> None:
        """Tell an owner that it is one: it has its state, and nobody else acts."""
        if self.owns:
            await actor.actor_cell.call_hook("on_promote", self.owner.epoch)

    async def stop(self, actor: AegisActor) -> None:
        """Finish the append under way and every answer that waits for it, then stop."""
        self._leave_feed()
        # In the middle of a handler only a killed actor is stopped. Nothing that it
        # still does may count: another life may fence with the same epoch now.
        if self.owner.serving and not self._mid_handler:
            self._flush()
            await self._wait_quiescent()
        self._give_up()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way that a stop would have to wait for."""
        return self.owner.quiescent

    async def _replay(self) -> int:
        """Read what is missing up to the fence; return how many records that were."""
        owner, spec, actor = self.owner, self._spec, self._actor
        count = 0
        if owner.phase is Phase.REPLAYING:
            async with self._reads:
                count = await self._read_missing()
        if owner.stopped:
            raise self._fenced()
        if not owner.serving:
            raise JournalUnreadable(
                f"{self._journal.subject}: the epoch record at {owner.read_until} is missing",
                subject=self._journal.subject,
                sequence=owner.read_until,
            )
        if owner.state is not None and not spec.is_event_sourced and spec.has_state:
            actor.state = self._structure_state(owner.state, owner.last_sequence)
        return count

    async def _read_missing(self) -> int:
        owner, count = self.owner, 0
        async for sequence, record, size in self._journal.read(
            start=owner.read_from, until=owner.read_until
        ):
            count += 1
            if owner.stopped:
                raise self._fenced()
            if owner.replay(sequence, record, size) and self._spec.is_event_sourced:
                self._replay_events(sequence, record)
            if owner.stopped:
                raise self._fenced()
        return count

    def _replay_events(self, sequence: int, record: Record) -> None:
        if record.state is not None:
            self._actor.state = self._structure_state(record.state, sequence)
        for entry in record.entries or ():
            if isinstance(entry, CommandEntry):
                for event in entry.events or ():
                    self._apply_stored(event, sequence)

    def _apply_stored(self, stored: Event, sequence: int) -> None:
        found = self._spec.events.get(stored.name)
        if found is None or found.version != stored.version:
            raise self._unreadable(
                sequence,
                f"it holds the event {stored.name} of version {stored.version}, for which "
                f"{self._spec.actor_class.__qualname__} has no @applies method",
            )
        try:
            event = found.structure(decode_value(stored.body))
        except AegisError as error:
            raise self._unreadable(sequence, f"the event {stored.name}: {error}") from error
        found.apply(self._actor, event)

    def _structure_state(self, encoded: bytes, sequence: int) -> Any:
        try:
            return self._spec.structure_state(decode_value(encoded))
        except AegisError as error:
            raise self._unreadable(sequence, f"the state: {error}") from error

    def _unreadable(self, sequence: int, what: str) -> JournalUnreadable:
        return JournalUnreadable(
            f"{self._journal.subject}, sequence {sequence}: {what}; "
            "run the release that wrote it, or make the class read it",
            subject=self._journal.subject,
            sequence=sequence,
        )

    # -- messages ---------------------------------------------------------------------

    async def handle(self, request: Request, reply_to: AnswerSink | None) -> None:
        """Take one request to its answer, or to where only its append is missing."""
        sink = NO_ANSWER if reply_to is None else reply_to
        owner = self.owner
        if not owner.serving:
            sink.answer(Moved.code, _FENCED)
            return
        drops: str | None = None
        # The table comes before every other check: a repeat is answered as before,
        # whatever the deadline or the class say now.
        if request.kind == Kind.COMMAND:
            known = owner.admit(request.session, request.n, request.low)
            if isinstance(known, Known):
                self._hold(sink, known.status, known.reply)
                return
            if isinstance(known, Refusal):
                sink.answer(known.status, error_bytes(_refusal(known)))
                return
            drops = known.drops
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
            sink.answer(error.code, error_bytes(error))
            return
        if handler.kind is Kind.QUERY:
            await self._query(handler, request, sink)
        else:
            await self._command(handler, request, sink, drops)

    async def _query(self, handler: HandlerSpec, request: Request, sink: AnswerSink) -> None:
        if not self._covered():
            sink.answer(Unavailable.code, error_bytes(_no_lease(self.resource)))
            return
        outcome = await execute(self._actor, handler, request)
        # The handler may have waited: what it read is current only if no other owner
        # can have written meanwhile.
        if not self.owner.serving or not self._covered():
            sink.answer(Unavailable.code, error_bytes(_no_lease(self.resource)))
            return
        self._hold(sink, outcome.status, outcome.encoded)

    async def _command(
        self,
        handler: HandlerSpec,
        request: Request,
        sink: AnswerSink,
        drops: str | None,
    ) -> None:
        owner, spec = self.owner, self._spec
        self._mid_handler = True
        self._emitted = None
        try:
            outcome = await execute(self._actor, handler, request)
            status, value = outcome.status, outcome.encoded
            if status == InvalidRequest.code:
                sink.answer(status, value)  # Nothing ran, so there is nothing to journal.
                return
            state: bytes | None = None
            if status == OK and spec.has_state and not spec.is_event_sourced:
                state, status, value = self._encode_state(status, value)
            if status == OK and (problem := self._too_large(value, state)) is not None:
                status, value = HandlerFailed.code, error_bytes(problem)
            if status != OK:
                state = None
                await self._undo()
        finally:
            self._mid_handler = False
        if not owner.serving:
            sink.answer(Moved.code, _FENCED)  # Fenced while the handler ran.
            return
        events, self._emitted = self._emitted, None
        owner.commit(
            CommandEntry(
                request.session,
                request.n,
                request.low,
                status,
                value,
                events if status == OK else None,
            ),
            state,
            drops=drops,
        )
        self._hold(sink, status, value)
        if not self._flush_scheduled and self._append is None:
            # Not at once: the messages that wait in the mailbox run first and commit
            # in the same record.
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def emit(self, event: object) -> None:
        """Note ``event`` for the record of the running command, and apply it.

        Raises:
            InvalidRequest: no command is running, or the class has no such event.
        """
        if not self._mid_handler:
            raise InvalidRequest("events are emitted inside commands only", field="event")
        found = self._spec.event_for(event)
        encoded = encode_value(found.unstructure(event))
        found.apply(self._actor, event)
        if self._emitted is None:
            self._emitted = []
        self._emitted.append(Event(found.name, found.version, encoded))

    # -- outcomes ---------------------------------------------------------------------

    def _encode_state(self, status: int, value: bytes) -> tuple[bytes | None, int, bytes]:
        """Return the encoded state if it changed, and the status and value that result."""
        try:
            encoded = encode_value(self._spec.unstructure_state(self._actor.state))
        except AegisError as error:
            failure = HandlerFailed(f"the new state cannot be journaled: {error}")
            return None, failure.code, error_bytes(failure)
        return (None if encoded == self._last_state() else encoded), status, value

    def _last_state(self) -> bytes:
        return self._initial if self.owner.state is None else self.owner.state

    def _too_large(self, value: bytes, state: bytes | None) -> HandlerFailed | None:
        limit = self._transport.max_payload_bytes - RESERVED_BYTES
        size = len(value) + len(state or b"") + sum(len(e.body) + 64 for e in self._emitted or ())
        if state is not None and not self._warned and size > limit * WARN_AT:
            self._warned = True
            _log.warning(
                "state_grows_large",
                service_name=self.service,
                resource_id=self.resource,
                size_bytes=len(state),
                limit_bytes=limit,
            )
        # A snapshot record carries the kept replies, too.
        if size + self.owner.sessions.size_bytes <= limit:
            return None
        return HandlerFailed(
            f"the command's effect takes {size} bytes, more than a record may have; "
            "keep the state or the answer smaller",
            size_bytes=size,
            limit_bytes=limit,
        )

    async def _undo(self) -> None:
        """Bring the state back to what it was before the command that failed."""
        spec = self._spec
        if not spec.has_state:
            return
        if spec.is_event_sourced:
            if self._emitted:
                await self._reload()
            return
        last = self._last_state()
        try:
            changed = encode_value(spec.unstructure_state(self._actor.state)) != last
        except AegisError:
            changed = True
        if changed:
            self._actor.state = spec.structure_state(decode_value(last))

    async def _reload(self) -> None:
        """Read the state anew from the journal, after all before has been stored."""
        self._flush()
        await self._wait_quiescent()
        owner, spec = self.owner, self._spec
        if not owner.serving:
            return
        self._actor.state = spec.new_state()
        async with self._reads:
            async for sequence, record, _ in self._journal.read(start=1, until=owner.last_sequence):
                self._replay_events(sequence, record)

    # -- answers and appends ----------------------------------------------------------

    def _covered(self) -> bool:
        return self._ownership.lease_covers(self.service, self.resource, self.owner.epoch)

    def _hold(self, sink: AnswerSink, status: int, value: bytes) -> None:
        if self.owner.hold((sink, status, value)):
            sink.answer(status, value)
            if self._takeover is not None:
                self._tell_first_answer()

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._append is not None or not self.owner.append_due:
            return
        owner = self.owner
        whole_state: bytes | None = None
        if self._spec.is_event_sourced and owner.snapshot_due and not self._mid_handler:
            whole_state = self._snapshot()
        plan = owner.append_next(whole_state=whole_state)
        if plan is not None:
            self._attempt = 0
            self._append_now()

    def _snapshot(self) -> bytes | None:
        encoded = encode_value(self._spec.unstructure_state(self._actor.state))
        size = len(encoded) + self.owner.sessions.size_bytes
        if size <= self._transport.max_payload_bytes - RESERVED_BYTES:
            return encoded
        _log.error(
            "snapshot_too_large",
            service_name=self.service,
            resource_id=self.resource,
            size_bytes=size,
            action="the journal grows on and recovery takes longer; keep the state smaller",
        )
        return None

    def _append_now(self) -> None:
        plan = self.owner.in_flight
        assert plan is not None
        append = self._append = self._journal.append(plan)
        append.add_done_callback(self._on_outcome)

    def _on_outcome(self, append: asyncio.Future[AppendOutcome]) -> None:
        if self._append is not append:
            return
        self._append = None
        if append.cancelled() or self.owner.stopped:
            return
        outcome = append.result()
        if isinstance(outcome, Appended):
            self._send(self.owner.appended(outcome.sequence))
            self._go_on()
            return
        task = self._loop.create_task(self._resolve(outcome))
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self, outcome: AppendOutcome) -> None:
        """After anything but an acknowledgement: find out, and append again if need be."""
        try:
            if isinstance(outcome, Refused) and outcome.conflict and not outcome.again:
                async with self._reads:
                    self._send(await self._journal.settle(self.owner, outcome))
            if self.owner.in_flight is not None:
                if self._attempt:
                    await pause(self._attempt, self._journal.subject, outcome)
                self._attempt += 1
        except Fenced as error:
            _log.warning(
                "fenced",
                service_name=self.service,
                resource_id=self.resource,
                epoch=self.owner.epoch,
                newer_epoch=self.owner.newer_epoch,
            )
            self._give_up()
            self._ownership.on_fenced(
                self.service, self.resource, self.owner.epoch, int(error.facts.get("epoch", 0))
            )
            return
        except AegisError as error:
            _log.error(
                "journal_unreadable",
                service_name=self.service,
                resource_id=self.resource,
                error=str(error),
            )
            self._give_up()
            self._actor.actor_cell.fail(error)
            return
        if self.owner.stopped:
            return
        if self.owner.in_flight is not None:
            self._append_now()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self.owner.append_due:
            self._flush()
        elif self._idle_waiter is not None and self.owner.quiescent:
            self._wake()

    def _send(self, answers: list[Any]) -> None:
        for sink, status, value in answers:
            sink.answer(status, value)
        if answers and self._takeover is not None:
            self._tell_first_answer()

    def _tell_first_answer(self) -> None:
        takeover, self._takeover = self._takeover, None
        if takeover is not None and self._on_first_answer is not None:
            takeover.first_answer = self._loop.time() - self._begun
            self._on_first_answer(takeover)

    async def _wait_quiescent(self) -> None:
        while self.owner.serving and not self.owner.quiescent:
            self._idle_waiter = self._loop.create_future()
            await self._idle_waiter

    def _wake(self) -> None:
        waiter, self._idle_waiter = self._idle_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _give_up(self) -> None:
        """Void the memory: whoever still waits for an answer must look elsewhere."""
        for sink, _, _ in self.owner.stop():
            sink.answer(Moved.code, _FENCED)
        self._voided.set()
        self._wake()
        for task in list(self._tasks or ()):
            if task is not asyncio.current_task():
                task.cancel()


@cache
def _limits(max_payload_bytes: int) -> OwnerLimits:
    """Return the bounds for a server: a snapshot holds the kept replies beside the state."""
    return OwnerLimits(
        record_bytes=max_payload_bytes - RESERVED_BYTES,
        max_kept_bytes=min(MAX_KEPT_BYTES, max_payload_bytes // 4),
    )


def _refusal(refusal: Refusal) -> AegisError:
    if refusal.status == TooOld.code:
        return TooOld(refusal.message, **refusal.facts)
    return Overloaded(refusal.message)


def _no_lease(resource: str) -> Unavailable:
    return Unavailable(f"{resource}: the node holds no lease on it at this moment")
