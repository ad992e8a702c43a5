"""The docket: what waits to be decided, and how one decision after another is carried out.

A job is decided when its turn comes, from the registry as it is then. Its records are
written in batches, the registry takes over what was acknowledged, and only then the
answer and the events leave. A job whose write had no answer is decided again once the
leader has read what became of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog
from attrs import define, field

from aegis._clock import Clock
from aegis.actors._control_channel import STOPS, ControlChannel
from aegis.actors._decision import Decision, Event, Holder, Probe
from aegis.actors._examiner import Examiner
from aegis.actors._registry import Change, Registry
from aegis.actors._registry_writer import RegistryWriter
from aegis.actors._unknown_write import effects
from aegis.errors import AegisError, Conflict, HandlerFailed, NotFound, Overloaded, Unavailable
from aegis.transport._base import Appended, AppendOutcome, Refused, Unknown

__all__ = ["Docket", "Job"]

_log = structlog.get_logger("aegis.control")

_CHANGED: Final = "the leader has changed: try again"


@define(eq=False)
class Job:
    """Something to decide: a request from outside, or a verdict of the roster."""

    decide: Callable[[dict[Holder, bool]], Decision | Probe | None]
    reply_to: str = ""
    operation: str = ""
    """What is asked for, of a request."""
    service: object = None
    """For which service, as the request has it."""
    trace: str = ""
    """The traceparent that the request brought."""
    alive: dict[Holder, bool] = field(factory=dict[Holder, bool])
    unknown: Decision | None = None
    """The decision whose write had no answer: it may have taken effect."""
    began: float = 0.0
    silence: float = 0.0
    """Of a verdict: for how long there had been no sign of life when it was given."""


class Docket:
    """The jobs of one leader, in order. Requests are bounded by ``max_queued``.

    ``on_change`` hears of each change of ownership that was written, ``on_arrival`` of
    each job that is there to be done.
    """

    def __init__(
        self,
        channel: ControlChannel,
        clock: Clock,
        registry: Registry,
        writer: RegistryWriter,
        examiner: Examiner,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_change: Callable[[Change], None],
        on_arrival: Callable[[], None],
        *,
        batch_size: int,
        max_queued: int,
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._registry = registry
        self._writer = writer
        self._examiner = examiner
        self._spawn = spawn
        self._on_change = on_change
        self._on_arrival = on_arrival
        self._batch_size = batch_size
        self._max_queued = max_queued
        self._jobs: deque[Job] = deque()
        self._open = True

    def __len__(self) -> int:
        return len(self._jobs)

    def close(self) -> None:
        """Refuse all that waits, and all that comes."""
        self._open = False
        jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            self._channel.refuse(job.reply_to, Unavailable(_CHANGED))

    def request(self, job: Job) -> None:
        """Add what somebody outside asks for, if there is room."""
        if len(self._jobs) >= self._max_queued:
            full = Overloaded("the leader's queue is full: try again", limit=len(self._jobs))
            self._channel.refuse(job.reply_to, full)
        else:
            self.add(job)

    def add(self, job: Job) -> None:
        """Add a job; one that comes when nobody leads here any more is refused."""
        if self._open:
            self._jobs.append(job)
            self._on_arrival()
        else:
            self._channel.refuse(job.reply_to, Unavailable(_CHANGED))

    async def do_next(self) -> bool:
        """Do the job that waits longest; return whether anything was written.

        Who asked for it is answered also when this is cancelled.
        """
        job = self._jobs.popleft()
        try:
            return await self.do(job)
        except asyncio.CancelledError:
            self._channel.refuse(job.reply_to, Unavailable(STOPS))
            raise
        except AegisError:
            self._channel.refuse(job.reply_to, Unavailable("the server cannot be reached"))
            raise
        except Exception:
            # What one job meets must not end the leader.
            _log.exception("a job of the leader failed")
            self._channel.refuse(job.reply_to, HandlerFailed("the leader failed at this request"))
            return True

    async def do(self, job: Job) -> bool:
        """Decide one job, write, and answer once everything is acknowledged.

        Return whether anything was written.
        """
        decision = job.decide(job.alive)
        if isinstance(decision, Probe):
            self._spawn(self._probe(job, decision))
            return False
        happened = [] if job.unknown is None else effects(self._registry, job.unknown)
        if decision is None:
            self._tell(job, happened)
            return False
        sequences: list[int] = []
        told: list[Event] = []
        for start in range(0, len(decision.writes), self._batch_size):
            writes = decision.writes[start : start + self._batch_size]
            outcome = await self._writer.write(writes)
            if not isinstance(outcome, Appended):
                self._undone(job, decision, outcome)
                return bool(sequences)
            first = outcome.sequence - len(writes) + 1
            for sequence, write in enumerate(writes, start=first):
                change = self._registry.acknowledged(write, sequence)
                if change is not None:
                    self._on_change(change)
                sequences.append(sequence)
            # Of many resources, the first need not wait for the last.
            ready = [event for event in decision.ready(sequences) if event not in told]
            told += ready
            self._tell(job, ready)
        reply = decision.complete(sequences)
        if job.unknown is not None and not decision.writes and reply.get("code") == NotFound.code:
            # What the write without an answer released is not there any more, so its
            # own answer is the right one.
            reply = job.unknown.reply
        self._channel.answer(job.reply_to, reply)
        if job.operation:
            service = self._registry.known_service(job.service)
            took = self._clock.boot_seconds() - job.began
            self._channel.observer.on_control_request(job.operation, service, reply, took)
            self._channel.trace_request(job.operation, job.trace, service, reply, took)
            self._tell_conflicts(job, reply)
        self._tell(job, happened + [e for e in decision.events if e not in told])
        return bool(sequences)

    def _tell_conflicts(self, job: Job, reply: dict[str, Any]) -> None:
        conflicts: dict[str, str] = reply.get("conflicts") or {}
        if conflicts or reply.get("code") == Conflict.code:
            _log.warning(
                "conflict",
                operation=job.operation,
                service_name=job.service,
                resources=len(conflicts),
                reason=reply.get("message", ""),
                trace_id=reply.get("trace_id", ""),
            )

    def _undone(self, job: Job, decision: Decision, outcome: AppendOutcome) -> None:
        if isinstance(outcome, Unknown):
            if job.unknown is None:
                job.unknown = decision
            else:
                job.unknown.events += decision.events
            self._jobs.appendleft(job)
        elif isinstance(outcome, Refused) and outcome.conflict:
            self._channel.refuse(job.reply_to, Unavailable(_CHANGED))
        else:
            reason = outcome.reason if isinstance(outcome, Refused) else ""
            self._channel.refuse(
                job.reply_to, Unavailable(f"the registry cannot be written: {reason}")
            )

    async def _probe(self, job: Job, probe: Probe) -> None:
        holders = list(probe.holders)
        alive = await asyncio.gather(*map(self._examiner.is_alive, holders))
        job.alive |= dict(zip(holders, alive, strict=True))
        self.add(job)

    def _tell(self, job: Job, events: list[Event]) -> None:
        for event in events:
            if event.name == "promoted":
                event.detected = job.silence
                event.decided = self._clock.boot_seconds() - job.began
            self._channel.tell(event)
