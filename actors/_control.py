"""The supervisor candidate: elects, follows the registry, and leads when elected.

One loop drives everything that writes, so one conditional write is under way at a time.
Requests wait in a bounded queue; the leader's renewals overtake them. Queries are
answered by every candidate from its copy of the registry, which trails the leader's by
one delivery: what a candidate does not find, it asks the leader for, and a caller that
knows of an event may ask for an answer at least as new as that (``min_sequence``).

Every candidate may be told that a node's connection has ended (`suspect_node`). It then
asks for the node itself, and only silence of the kind that no process can keep, no
responders, and that twice, is taken for its death. A candidate that does not lead
remembers it, for the case that it was the leader who died.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog
from attrs import define, field, frozen

from aegis._clock import Clock
from aegis._subjects import Subjects, escape
from aegis.actors import _registration as registration
from aegis.actors._decision import Decision, Event, Holder, Probe
from aegis.actors._election import Claim, Election, ElectionOptions, Renew, Standing
from aegis.actors._lease import Beat, BeatAnswer, LeaseOptions
from aegis.actors._registry import DEFAULT_MAX_RESOURCES, Change, Registry, refusal
from aegis.actors._registry_entries import (
    LEADER,
    RENEWAL,
    InstanceState,
    Key,
    Write,
    key_of,
)
from aegis.actors._roster import Judgement, Roster, Verdict
from aegis.contracts import Role
from aegis.errors import (
    AegisError,
    ConnectionClosed,
    InvalidRequest,
    NoResponders,
    NotFound,
    Overloaded,
    ProtocolError,
    Unavailable,
)
from aegis.transport._base import (
    Append,
    Appended,
    AppendOutcome,
    Message,
    Refused,
    Stored,
    Subscription,
    Transport,
    Unknown,
)
from aegis.transport._codec import decode_value, encode_value

__all__ = ["ControlOptions", "SupervisorCandidate"]

QUERY_QUEUE: Final = "supervisors"

_log = structlog.get_logger("aegis.control")

MAX_REMEMBERED_DEATHS: Final = 1_000

_WRITES: Final = (
    "service.register",
    "service.unregister",
    "service.disconnect",
    "resource.register",
    "resource.release",
)
_QUERIES: Final = ("service.query", "resource.query")

_STOPS: Final = "this supervisor stops: try again"


@frozen
class ControlOptions:
    """Times in seconds, and bounds, of a supervisor candidate."""

    election: ElectionOptions = field(factory=ElectionOptions)
    lease: LeaseOptions = field(factory=LeaseOptions)
    max_resources_per_instance: int = DEFAULT_MAX_RESOURCES
    tick_interval: float = 0.1
    write_timeout: float = 1.0
    probe_timeout: float = 0.3
    probe_spacing: float = 0.03
    """Between the two probes that prove a death: a node that lives is back by then."""
    query_wait: float = 1.0
    """How long a query waits for the registry to be as new as it asks for."""
    batch_size: int = 500
    """Records in one atomic batch; the server takes at most 1,000."""
    max_queued: int = 10_000
    """Requests that wait for the leader; one more is refused with 429."""


@define(eq=False)
class _Job:
    """Something to decide: a request from outside, or a verdict of the roster."""

    operation: str
    decide: Callable[[dict[Holder, bool]], Decision | Probe | None]
    reply_to: str = ""
    alive: dict[Holder, bool] = field(factory=dict[Holder, bool])
    unknown: Decision | None = None
    """The decision whose write had no answer: it may have taken effect."""
    began: float = 0.0
    silence: float = 0.0
    """Of a verdict: for how long there had been no sign of life when it was given."""


class SupervisorCandidate:
    """A node's candidate for leading the supervisors; see the module's docstring."""

    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        node_id: str,
        options: ControlOptions | None = None,
    ) -> None:
        self.options = options or ControlOptions()
        self.node_id = node_id
        self.registry = Registry(max_resources_per_instance=self.options.max_resources_per_instance)
        self.election = Election(node_id, self.options.election)
        self.roster = Roster(
            self.registry,
            self.options.lease,
            leader_timeout=self.options.election.leader_timeout,
        )
        self._transport = transport
        self._subjects = subjects
        self._clock = clock
        self._jobs: deque[_Job] = deque()
        self._wake = asyncio.Event()
        self._leading = asyncio.Event()
        self._replayed = asyncio.Event()
        self._acting = False
        self._reign_began = float("-inf")
        self._settled = 0
        self._first = False
        self._judged: set[tuple[str, str]] = set()
        self._reply_to: dict[str, str] = {}
        self._ticked = float("-inf")
        self._suspected = float("-inf")
        self._attend_due = False
        self._deaths: dict[str, float] = {}
        self._led: dict[str, float] = {}
        """When each leader of late was last seen to lead."""
        self._following_since = float("inf")
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._standing: list[Subscription] = []
        self._reigning: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # -- life ---------------------------------------------------------------------------

    @property
    def leading(self) -> bool:
        """Whether this candidate leads and serves requests."""
        return self._acting and self.election.leading

    async def wait_leading(self) -> None:
        """Return when this candidate leads and serves requests."""
        await self._leading.wait()

    async def start(self) -> None:
        """Read the registry, then stand for election and answer queries.

        Returns when queries are answered; nobody may lead yet by then.
        """
        self._transport.listen(self)
        self._spawn(self._follow())
        await self._replayed.wait()
        subjects = self._subjects
        self._standing = [
            await self._transport.subscribe(subjects.heartbeat, self._on_beat),
            await self._transport.subscribe(self._candidate_subject(self.node_id), self._on_probe),
            *[
                await self._transport.subscribe(
                    self._control_subject(operation),
                    self._query_handler(operation, forward=True),
                    queue=QUERY_QUEUE,
                )
                for operation in _QUERIES
            ],
        ]
        self._spawn(self._drive())
        self._suspect(self._clock.boot_seconds())

    async def stop(self) -> None:
        """Resign if leading, so that another takes over at once, and end all work."""
        if self._stopping:
            return
        self._stopping = True
        self._wake.set()
        # Whoever asks from now on is to be answered by another candidate at once.
        for subscription in self._standing:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                await subscription.unsubscribe()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.election.leading and self._transport.connected:
            await self._append(self._renewal(resigned=True))
        await self._end_reign()

    def on_disconnected(self) -> None:
        """Nothing can be decided now; see `ConnectionListener`."""
        self.election.disconnected(self._clock.boot_seconds())

    def on_reconnected(self) -> None:
        """The silence until now was this candidate's own."""
        self.election.blind(self._clock.boot_seconds())
        self._wake.set()

    def on_closed(self, reason: str) -> None:
        """The node ends; whoever started this candidate sees to that."""

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not self._stopping:
            _log.error("supervisor task failed", exc_info=task.exception(), node_id=self.node_id)

    # -- the registry -------------------------------------------------------------------

    async def _follow(self) -> None:
        everything = self._subjects.registry() + ".>"
        last = 0
        async for stored in self._transport.read(everything):
            last = stored.sequence
            self._deliver(stored)
        self._following_since = self._clock.boot_seconds()
        self.election.replayed(self._following_since, sequence=last)
        self._replayed.set()
        async for stored in self._transport.follow(everything, start=last + 1):
            self._deliver(stored)

    def _deliver(self, stored: Stored) -> None:
        now = self._clock.boot_seconds()
        try:
            key = key_of(self._subjects, stored.subject)
            record: Any = decode_value(stored.payload)
            if key == LEADER:
                self.election.saw_leader(stored.sequence, record, now)
                self._led[str(record.get("node", ""))] = now
            elif key == RENEWAL:
                self._led[str(record.get("node", ""))] = now
                self._settled = int(record.get("settled", 0))
                self.election.saw_renewal(record, now)
            # An own write may be delivered before its acknowledgement, or without one.
            self._note(self.registry.replayed(key, record, stored.sequence), now)
        except (ProtocolError, AttributeError, KeyError, TypeError, ValueError):
            # One bad record must not blind the whole system to all the others.
            _log.exception(
                "registry record cannot be read", subject=stored.subject, sequence=stored.sequence
            )
        self.election.saw(stored.sequence, now)
        self._advanced()
        self._wake.set()

    def _note(self, change: Change | None, now: float) -> None:
        if change is not None and self._acting:
            self.roster.changed(change, now)

    def _advanced(self) -> None:
        sequence = self.registry.sequence
        for wanted, waiter in self._waiting:
            if wanted <= sequence and not waiter.done():
                waiter.set_result(None)
        self._waiting = [(wanted, w) for wanted, w in self._waiting if not w.done()]

    # -- the loop -----------------------------------------------------------------------

    async def _drive(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                busy = await self._step()
            except (Unavailable, ConnectionClosed) as error:
                _log.warning("supervisor waits for the server", reason=str(error))
                busy = False
            if busy:
                continue
            pause = min(
                self.options.tick_interval,
                max(0.0, self.election.next_due() - self._clock.boot_seconds()),
            )
            if not self._transport.connected or self.election.standing is Standing.CATCHING_UP:
                pause = self.options.tick_interval
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(pause, 0.001)):
                    await self._wake.wait()

    async def _step(self) -> bool:
        """Do one thing that is due; return whether there may be another."""
        now = self._clock.boot_seconds()
        await self._match_reign(now)
        match self.election.due(now):
            case Claim() as claim if self._transport.connected:
                await self._claim(claim)
                return True
            case Renew():
                await self._renew()
                return True
            case _:
                pass
        if not self.leading:
            if (
                self.election.standing is Standing.FOLLOWING
                and self.election.silence(now) > 2 * self.options.election.renew_interval
            ):
                self._suspect(now)
            return False
        if now - self._ticked >= self.options.tick_interval:
            self._ticked = now
            self._attend_due = True
            for verdict in self.roster.tick(now):
                self._judge(verdict)
        self._push_coverage()
        if self._attend_due and self.registry.unattended:
            self._attend_due = False
            await self._do(self._attending(now))
            return True
        if self._jobs:
            job = self._jobs.popleft()
            try:
                await self._do(job)
            except asyncio.CancelledError:
                self._answer(job.reply_to, refusal(Unavailable(_STOPS)))
                raise
            return True
        return False

    async def _match_reign(self, now: float) -> None:
        """Begin or end the reign, as the election has it."""
        election = self.election
        if self._acting and (
            not election.reigning or (election.leading and election.led_since != self._reign_began)
        ):
            await self._end_reign()
        if election.leading and not self._acting:
            self._reign_began = election.led_since
            self._ticked = now
            self.roster.begin(
                now,
                reign=election.sequence,
                settled=self._settled,
                first=self._first,
                rivals=self._rivals(now),
            )
            self._acting = True
            self._examine_deaths()
            try:
                await self._open_for_requests()
            except BaseException:
                await self._end_reign()
                raise
            self._leading.set()
            _log.info("leads", node_id=self.node_id, term=election.term)

    def _rivals(self, now: float) -> set[str] | None:
        """Return the nodes whose leader may still answer beats; None if that is unknown."""
        timeout = self.options.election.leader_timeout
        if now - self._following_since < timeout:
            # Whoever led before the one that is on record may be among them.
            return None
        self._led = {name: at for name, at in self._led.items() if now - at < timeout}
        return set(self._led) - {self.node_id}

    def _examine_deaths(self) -> None:
        for node_id, since in list(self._deaths.items()):
            self._spawn(self._examine(node_id, since, probes=1))

    async def _open_for_requests(self) -> None:
        for operation in _WRITES:
            self._reigning.append(
                await self._transport.subscribe(
                    self._control_subject(operation), self._request_handler(operation)
                )
            )
        for operation in _QUERIES:
            self._reigning.append(
                await self._transport.subscribe(
                    self._leader_subject(operation), self._query_handler(operation, forward=False)
                )
            )

    async def _end_reign(self) -> None:
        if self._acting:
            _log.info("leads no more", node_id=self.node_id, leader=self.election.leader)
        self._acting = False
        self._first = False
        self._leading.clear()
        for subscription in self._reigning:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                await subscription.unsubscribe()
        self._reigning = []
        self._judged = set()
        jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            self._answer(job.reply_to, refusal(Unavailable("the leader has changed: try again")))

    # -- writing ------------------------------------------------------------------------

    async def _claim(self, claim: Claim) -> None:
        append = Append(
            self._subject(LEADER), encode_value(claim.record), expect=claim.expect, rollup=True
        )
        if not self.election.reigning:
            self._first = claim.expect == 0
        outcome = await self._append(append)
        now = self._clock.boot_seconds()
        match outcome:
            case Appended(sequence):
                self.election.claimed(claim, sequence, now)
            case Refused(conflict=True):
                self.election.claim_refused(now)
            case _:
                self.election.claim_unknown(now)

    async def _renew(self) -> None:
        sent_at = self._clock.boot_seconds()
        outcome = await self._append(self._renewal())
        if self._is_done(outcome):
            self.election.renewed(sent_at)

    def _renewal(self, *, resigned: bool = False) -> Append:
        record = {
            "node": self.node_id,
            "term": self.election.term,
            "settled": self.roster.settled_sequence() if self._acting else self._settled,
        }
        if resigned:
            record["resigned"] = True
        return self._mine(Write(RENEWAL, record))

    def _mine(self, write: Write, *, conditional: bool = True) -> Append:
        """Return ``write`` on the condition that the leader's record is still mine."""
        return Append(
            self._subject(write.key),
            encode_value(write.record),
            expect=self.election.sequence if conditional else None,
            expect_subject=self._subject(LEADER) if conditional else None,
            rollup=True,
            ttl=write.ttl,
        )

    async def _append(self, *appends: Append) -> AppendOutcome:
        """Append one record, or several as one batch; wait while another is under way."""
        give_up = self._clock.boot_seconds() + self.options.write_timeout
        while True:
            timeout = self.options.write_timeout
            if len(appends) == 1:
                outcome = await self._transport.append(appends[0], timeout=timeout)
            else:
                outcome = await self._transport.append_batch(appends, timeout=timeout)
            if not (isinstance(outcome, Refused) and outcome.again):
                return outcome
            if self._clock.boot_seconds() >= give_up:
                return Unknown("other writes were under way all the time")
            await asyncio.sleep(0.005)

    def _is_done(self, outcome: AppendOutcome) -> bool:
        """Tell the election what became of a conditional write."""
        now = self._clock.boot_seconds()
        match outcome:
            case Appended():
                return True
            case Refused(conflict=True):
                self.election.deposed(now)
            case Refused():
                _log.error("registry write refused", code=outcome.code, reason=outcome.reason)
            case Unknown():
                self.election.write_unknown(now)
        return False

    async def _do(self, job: _Job) -> None:
        """Decide one job, write, and answer once everything is acknowledged."""
        decision = job.decide(job.alive)
        if isinstance(decision, Probe):
            self._spawn(self._probe_for(job, decision))
            return
        happened = self._happened(job)
        if decision is None:
            self._publish_all(job, happened)
            return
        sequences: list[int] = []
        told: list[Event] = []
        size = self.options.batch_size
        for start in range(0, len(decision.writes), size):
            writes = decision.writes[start : start + size]
            outcome = await self._append(
                *[self._mine(write, conditional=i == 0) for i, write in enumerate(writes)]
            )
            if not self._is_done(outcome):
                self._undone(job, decision, outcome)
                return
            assert isinstance(outcome, Appended)
            first = outcome.sequence - len(writes) + 1
            now = self._clock.boot_seconds()
            for sequence, write in enumerate(writes, start=first):
                self._note(self.registry.acknowledged(write, sequence), now)
                sequences.append(sequence)
            self._attend_due = True
            # Of many resources, the first need not wait for the last.
            ready = [event for event in decision.ready(sequences) if event not in told]
            told += ready
            self._publish_all(job, ready)
        self._advanced()
        reply = decision.complete(sequences)
        if job.unknown is not None and not decision.writes and reply.get("code") == NotFound.code:
            # What the write without an answer released is not there any more, so its
            # own answer is the right one.
            reply = job.unknown.reply
        self._answer(job.reply_to, reply)
        self._publish_all(job, happened + [e for e in decision.events if e not in told])

    def _happened(self, job: _Job) -> list[Event]:
        """Return the events of a write that had no answer, as far as it took effect.

        Whether it did is seen in the registry, which was read up to its end since.
        """
        happened: list[Event] = []
        for event in [] if job.unknown is None else job.unknown.events:
            event.sequence = self.registry.sequence
            if not event.resources:
                if self.registry.shows(event):
                    happened.append(event)
                continue
            event.resources = [name for name in event.resources if self.registry.shows(event, name)]
            if event.role == Role.ACTIVE and event.name != "released":
                resources = self.registry.resources
                event.epochs = {
                    name: resources[event.service, name].epoch for name in event.resources
                }
            if event.resources:
                happened.append(event)
        return happened

    def _undone(self, job: _Job, decision: Decision, outcome: AppendOutcome) -> None:
        if isinstance(outcome, Unknown):
            if job.unknown is None:
                job.unknown = decision
            else:
                job.unknown.events += decision.events
            self._jobs.appendleft(job)
        elif isinstance(outcome, Refused) and outcome.conflict:
            self._answer(job.reply_to, refusal(Unavailable("the leader has changed: try again")))
        else:
            reason = outcome.reason if isinstance(outcome, Refused) else ""
            self._answer(
                job.reply_to, refusal(Unavailable(f"the registry cannot be written: {reason}"))
            )

    # -- requests -----------------------------------------------------------------------

    def _request_handler(self, operation: str) -> Callable[[Message], None]:
        def on_request(message: Message) -> None:
            if self._stopping:
                self._answer(message.reply_to, refusal(Unavailable(_STOPS)))
                return
            try:
                payload = decode_value(message.payload)
            except ProtocolError as error:
                wrong = InvalidRequest(f"payload: {error}", field="payload")
                self._answer(message.reply_to, refusal(wrong))
                return
            if len(self._jobs) >= self.options.max_queued:
                full = Overloaded("the leader's queue is full: try again", limit=len(self._jobs))
                self._answer(message.reply_to, refusal(full))
                return

            def decide(alive: dict[Holder, bool]) -> Decision | Probe:
                return self.registry.handle(
                    operation, payload, alive=alive, unsettled=self.roster.unsettled
                )

            now = self._clock.boot_seconds()
            self._jobs.append(_Job(operation, decide, message.reply_to, began=now))
            self._wake.set()

        return on_request

    def _answer(self, reply_to: str, reply: dict[str, Any]) -> None:
        if reply_to:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                self._transport.publish(reply_to, encode_value(reply))

    def _publish_all(self, job: _Job, events: list[Event]) -> None:
        for event in events:
            if event.name == "promoted":
                event.detected = job.silence
                event.decided = self._clock.boot_seconds() - job.began
            self._publish(event)

    def _publish(self, event: Event) -> None:
        facts: dict[str, Any] = {}
        if event.name == "promoted":
            facts["old_instance_id"] = event.old_instance_id
            facts["old_node_id"] = event.old_node_id
            facts["detected_ms"] = round(1000 * event.detected, 3)
            facts["decided_ms"] = round(1000 * event.decided, 3)
        _log.info(
            event.name,
            service_name=event.service,
            instance_id=event.instance_id,
            node_id=event.node_id,
            cause=event.cause,
            role=event.role,
            resources=len(event.resources),
            trace_id=event.trace_id,
            **facts,
        )
        with contextlib.suppress(Unavailable, ConnectionClosed):
            self._transport.publish(self._subjects.event(event.name), encode_value(event.to_wire()))

    # -- who is alive -------------------------------------------------------------------

    async def _probe_for(self, job: _Job, probe: Probe) -> None:
        holders = list(probe.holders)
        alive = await asyncio.gather(*map(self._is_alive, holders))
        job.alive |= dict(zip(holders, alive, strict=True))
        if self._acting:
            self._jobs.append(job)
            self._wake.set()
        else:
            self._answer(job.reply_to, refusal(Unavailable("the leader has changed: try again")))

    async def _is_alive(self, holder: Holder) -> bool:
        """Ask the holder's node, then its own address, whether somebody is there.

        A holder that answers nothing counts as alive while its beats are in time.
        """
        try:
            answer = await self._transport.request(
                self._subjects.health(holder.node_id), b"", timeout=self.options.probe_timeout
            )
            facts = registration.map_of(decode_value(answer.payload)) or {}
            return holder.instance_id in facts.get("instances", (holder.instance_id,))
        except NoResponders:
            pass
        except TimeoutError:
            return self._beats_in_time(holder)
        except (AegisError, AttributeError, TypeError):
            return True
        try:
            await self._transport.request(
                self._subjects.instance(holder.instance_id), b"", timeout=self.options.probe_timeout
            )
        except NoResponders:
            return False
        except TimeoutError:
            return self._beats_in_time(holder)
        except AegisError:
            return True
        return True

    def _beats_in_time(self, holder: Holder) -> bool:
        instance = self.registry.instances.get(holder.instance_id)
        return instance is not None and instance.state is InstanceState.HEALTHY

    def _suspect(self, now: float) -> None:
        """Find out whether the leader is there at all; once in each silence."""
        leader = self.election.leader
        if not leader or now - self._suspected < self.options.election.leader_timeout:
            return
        self._suspected = now
        self._spawn(self._probe_leader(leader))

    def suspect_node(self, node_id: str) -> None:
        """A node's connection has ended: find out whether the node has, too.

        The node may live: then it answers, and nothing comes of it.
        """
        if not self._stopping:
            self._spawn(self._examine(node_id, self._clock.boot_seconds(), probes=2))

    async def _examine(self, node_id: str, since: float, *, probes: int) -> None:
        if node_id == self.election.leader:
            self._spawn(self._probe_leader(node_id))
        for number in range(probes):
            if number:
                await asyncio.sleep(self.options.probe_spacing)
            if not await self._is_nowhere(node_id):
                self._deaths.pop(node_id, None)
                return
        self._deaths[node_id] = since
        if len(self._deaths) > MAX_REMEMBERED_DEATHS:
            del self._deaths[next(iter(self._deaths))]
        if self._acting:
            now = self._clock.boot_seconds()
            if self.roster.prove_dead(node_id, now, since=since):
                # A leader of before: other proofs may count for more now.
                self._examine_deaths()
            _log.info("node_died", node_id=node_id)
            for verdict in self.roster.tick(now):
                self._judge(verdict)
            self._wake.set()

    async def _is_nowhere(self, node_id: str) -> bool:
        try:
            await self._transport.request(
                self._subjects.health(node_id), b"", timeout=self.options.probe_timeout
            )
        except NoResponders:
            return True
        except (TimeoutError, AegisError):
            pass
        return False

    async def _probe_leader(self, leader: str) -> None:
        try:
            await self._transport.request(
                self._candidate_subject(leader), b"", timeout=self.options.probe_timeout
            )
        except NoResponders:
            if self.election.leader == leader:
                self.election.suspect(self._clock.boot_seconds())
                self._wake.set()
        except (TimeoutError, AegisError):
            pass

    def _on_probe(self, message: Message) -> None:
        self._answer(
            message.reply_to,
            {
                "node": self.node_id,
                "standing": self.election.standing.value,
                "term": self.election.term,
            },
        )

    # -- beats --------------------------------------------------------------------------

    def _on_beat(self, message: Message) -> None:
        try:
            beat = Beat.from_wire(decode_value(message.payload))
        except ProtocolError as error:
            _log.warning("beat cannot be read", reason=str(error))
            return
        self.roster.note(beat)
        self._deaths.pop(beat.node_id, None)
        now = self._clock.boot_seconds()
        if not self.leading or not self.election.may_answer_beats(now):
            return
        answer = self.roster.heard(beat, now)
        if answer is not None:
            self._reply_to[beat.node_id] = message.reply_to
            self._answer_beat(beat.node_id, answer)
        self._push_coverage()

    def _answer_beat(self, node_id: str, answer: BeatAnswer) -> None:
        self._answer(self._reply_to.get(node_id, ""), answer.to_wire())

    def _push_coverage(self) -> None:
        now = self._clock.boot_seconds()
        if not self.roster.to_push or not self.election.may_answer_beats(now):
            return
        for node_id in list(self.roster.to_push):
            answer = self.roster.push(node_id, now)
            if answer is not None:
                self._answer_beat(node_id, answer)

    def _judge(self, verdict: Verdict) -> None:
        """Queue what a verdict changes, once until it is done."""
        mark = (verdict.instance_id, verdict.judgement.value)
        if mark in self._judged:
            return
        self._judged.add(mark)

        def decide(_: dict[Holder, bool]) -> Decision | None:
            self._judged.discard(mark)
            if not self.roster.stands(verdict, self._clock.boot_seconds()):
                return None
            registry, unsettled = self.registry, self.roster.unsettled
            instance_id, cause = verdict.instance_id, verdict.judgement.value
            match verdict.judgement:
                case Judgement.RECOVERED:
                    return registry.mark(instance_id, InstanceState.HEALTHY, cause)
                case Judgement.GONE:
                    return registry.give_up(instance_id, verdict.node_id, "silence", unsettled)
                case Judgement.ABANDONED:
                    return registry.abandon(instance_id, unsettled)
                case Judgement.SILENT | Judgement.STALLED | Judgement.DIED:
                    if verdict.judgement is Judgement.SILENT:
                        self._spawn(self._bury(verdict))
                    return registry.mark(instance_id, InstanceState.UNHEALTHY, cause, unsettled)

        self._jobs.append(
            _Job(
                f"judge {verdict.judgement.value}",
                decide,
                began=self._clock.boot_seconds(),
                silence=verdict.silence,
            )
        )

    def _attending(self, now: float) -> _Job:
        return _Job("relocate", lambda _: self.registry.relocate(self.roster.unsettled), began=now)

    async def _bury(self, verdict: Verdict) -> None:
        """Give up a silent instance at once if nobody is at its address any more."""
        if await self._is_alive(Holder(verdict.instance_id, verdict.node_id)):
            return

        def decide(_: dict[Holder, bool]) -> Decision | None:
            current = self.registry.instances.get(verdict.instance_id)
            if current is None or current.state is InstanceState.HEALTHY:
                return None
            if not self.roster.stands(verdict, self._clock.boot_seconds()):
                return None
            return self.registry.give_up(
                verdict.instance_id, verdict.node_id, "silence", self.roster.unsettled
            )

        if self._acting:
            now = self._clock.boot_seconds()
            self._jobs.append(_Job("bury", decide, began=now, silence=verdict.silence))
            self._wake.set()

    # -- queries ------------------------------------------------------------------------

    def _query_handler(self, operation: str, *, forward: bool) -> Callable[[Message], None]:
        def on_query(message: Message) -> None:
            if self._stopping:
                self._answer(message.reply_to, refusal(Unavailable(_STOPS)))
                return
            try:
                payload: Any = decode_value(message.payload) if message.payload else {}
                wanted = (registration.map_of(payload) or {}).get("min_sequence")
                if isinstance(wanted, int) and wanted > self.registry.sequence:
                    self._spawn(self._query_later(operation, payload, wanted, message))
                    return
                reply = self._query(operation, {} if payload is None else payload)
            except NotFound as error:
                if forward and not self.leading:
                    self._spawn(self._ask_leader(operation, message, error))
                    return
                reply = refusal(error)
            except ProtocolError as error:
                reply = refusal(InvalidRequest(f"payload: {error}", field="payload"))
            except AegisError as error:
                reply = refusal(error)
            self._answer(message.reply_to, reply)

        return on_query

    def _query(self, operation: str, payload: Any) -> dict[str, Any]:
        if operation == "service.query":
            answer = self.registry.query_services(
                registration.query_services(payload), self._queue_depth
            )
            answer["leader"] = {"node_id": self.election.leader, "term": self.election.term}
            return answer
        return self.registry.query_resources(registration.query_resources(payload))

    def _queue_depth(self, instance_id: str) -> int | None:
        load = self.roster.loads.get(instance_id)
        return None if load is None else load.depth

    async def _query_later(
        self, operation: str, payload: Any, wanted: int, message: Message
    ) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, waiter))
        try:
            async with asyncio.timeout(self.options.query_wait):
                await waiter
            reply = self._query(operation, payload)
        except TimeoutError:
            reply = refusal(Unavailable(f"the registry has not reached {wanted} here"))
        except asyncio.CancelledError:
            self._answer(message.reply_to, refusal(Unavailable(_STOPS)))
            raise
        except AegisError as error:
            reply = refusal(error)
        self._answer(message.reply_to, reply)

    async def _ask_leader(self, operation: str, message: Message, error: NotFound) -> None:
        """What is not found here may have been registered a moment ago."""
        try:
            answer = await self._transport.request(
                self._leader_subject(operation), message.payload, timeout=self.options.probe_timeout
            )
        except (TimeoutError, Unavailable, ConnectionClosed):
            self._answer(message.reply_to, refusal(error))
            return
        except asyncio.CancelledError:
            self._answer(message.reply_to, refusal(Unavailable(_STOPS)))
            raise
        with contextlib.suppress(Unavailable, ConnectionClosed):
            self._transport.publish(message.reply_to, answer.payload)

    # -- subjects -----------------------------------------------------------------------

    def _subject(self, key: Key) -> str:
        return self._subjects.registry(*key)

    def _control_subject(self, operation: str) -> str:
        return f"{self._subjects.control_prefix}.{operation}"

    def _leader_subject(self, operation: str) -> str:
        return f"{self._subjects.control_prefix}.leader.{operation}"

    def _candidate_subject(self, node_id: str) -> str:
        return f"{self._subjects.control_prefix}.candidate.{escape(node_id)}"
