"""The supervisor candidate: elects, follows the registry, and leads when elected.

One loop drives everything that writes, so one conditional write is under way at a time.
Requests wait in a bounded queue; the leader's renewals overtake them.

Every candidate may be told that a node's connection has ended (`suspect_node`). It then
asks for the node itself. A candidate that does not lead remembers a death, for the case
that it was the leader who died.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

import structlog
from attrs import field, frozen

from aegis._clock import Clock
from aegis._subjects import Subjects
from aegis.actors._control_channel import ControlChannel
from aegis.actors._docket import Docket
from aegis.actors._election import Claim, Election, ElectionOptions, Renew, Standing
from aegis.actors._examiner import Examiner
from aegis.actors._failover_reporter import FailoverReporter
from aegis.actors._lease import Beat, LeaseOptions
from aegis.actors._observer import Observer
from aegis.actors._query_responder import QUERIES, QueryResponder
from aegis.actors._registry import DEFAULT_MAX_RESOURCES, Change, Registry
from aegis.actors._registry_follower import RegistryFollower
from aegis.actors._registry_writer import RegistryWriter
from aegis.actors._reign import Reign
from aegis.actors._roster import Roster
from aegis.errors import ConnectionClosed, ProtocolError, Unavailable
from aegis.transport._base import Message, Subscription, Transport
from aegis.transport._codec import decode_value
from aegis.transport._patience import subscribe_patiently

__all__ = ["ControlOptions", "SupervisorCandidate"]

QUERY_QUEUE: Final = "supervisors"

_log = structlog.get_logger("aegis.control")


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


class SupervisorCandidate:
    """A node's candidate for leading the supervisors; see the module's docstring."""

    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        node_id: str,
        options: ControlOptions | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.options = options = options or ControlOptions()
        self.node_id = node_id
        self.registry = Registry(max_resources_per_instance=options.max_resources_per_instance)
        self.election = Election(node_id, options.election)
        self.roster = Roster(
            self.registry, options.lease, leader_timeout=options.election.leader_timeout
        )
        self._transport = transport
        self._clock = clock
        self._channel = ControlChannel(transport, subjects, observer)
        self._writer = RegistryWriter(
            self._channel, clock, self.election, timeout=options.write_timeout
        )
        self._examiner = Examiner(
            self._channel,
            self.registry,
            timeout=options.probe_timeout,
            spacing=options.probe_spacing,
        )
        self._reporter = FailoverReporter(self._channel, clock, self._reign_sequence, self._spawn)
        self._queries = QueryResponder(
            self._channel,
            clock,
            self.registry,
            self.roster,
            self.election,
            self._reporter.last,
            self._spawn,
            wait=options.query_wait,
            leader_timeout=options.probe_timeout,
        )
        self._wake = asyncio.Event()
        self._follower = RegistryFollower(
            self._channel,
            clock,
            self.registry,
            self.election,
            on_change=self._note,
            on_failovers=self._reporter.replayed,
            on_delivery=self._queries.advanced,
            on_election=self._wake.set,
        )
        self._leading = asyncio.Event()
        self._reign: Reign | None = None
        self._first = False
        self._suspected = float("-inf")
        self._standing: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # -- life ---------------------------------------------------------------------------

    @property
    def leading(self) -> bool:
        """Whether this candidate leads and serves requests."""
        return self._reign is not None and self.election.leading

    def _reign_sequence(self) -> int | None:
        return self.election.sequence if self.leading else None

    @property
    def waiting_queries(self) -> int:
        """How many queries wait here for the registry to be newer."""
        return self._queries.waiting

    async def wait_leading(self) -> None:
        """Return when this candidate leads and serves requests."""
        await self._leading.wait()

    async def start(self) -> None:
        """Read the registry, then stand for election and answer queries.

        Returns when queries are answered; nobody may lead yet by then.
        """
        self._transport.listen(self)
        self._spawn(self._follower.run())
        await self._follower.wait_replayed()
        channel, subscribe = self._channel, partial(subscribe_patiently, self._transport)
        self._standing = [
            await subscribe(channel.subjects.heartbeat, self._on_beat),
            await subscribe(channel.candidate(self.node_id), self._on_probe),
        ]
        for subject, listen in self._reporter.handlers.items():
            self._standing.append(await subscribe(subject, listen))
        for operation in QUERIES:
            answer = self._queries.handler(operation, lambda: not self.leading)
            self._standing.append(
                await subscribe(channel.operation(operation), answer, queue=QUERY_QUEUE)
            )
        self._spawn(self._drive())
        self._suspect(self._clock.boot_seconds())

    async def stop(self) -> None:
        """Resign if leading, so that another takes over at once, and end all work."""
        if self._stopping:
            return
        self._stopping = self._queries.stopping = True
        if self._reign is not None:
            self._reign.end()
        # Whoever asks from now on is to be answered by another candidate at once.
        await self._unsubscribe(self._standing)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.election.leading and self._transport.connected:
            await self._writer.resign(self._settled())
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

    async def _unsubscribe(self, subscriptions: list[Subscription]) -> None:
        for subscription in subscriptions:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                await subscription.unsubscribe()
        subscriptions.clear()

    # -- the loop -----------------------------------------------------------------------

    async def _drive(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                busy = await self._step()
            except (Unavailable, ConnectionClosed) as error:
                _log.warning("supervisor waits for the server", reason=str(error))
                busy = False
            except Exception:
                # It goes on, but if it leads another may do better: it takes over only if
                # nobody else does.
                _log.exception("supervisor_step_failed", node_id=self.node_id)
                self.election.deposed(self._clock.boot_seconds())
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
        if self._reign is not None and self.roster.has_settled():
            self.election.renew_soon(now)
        match self.election.due(now):
            case Claim() as claim if self._transport.connected:
                if not self.election.reigning:
                    self._first = claim.expect == 0
                await self._writer.claim(claim)
                return True
            case Renew():
                await self._writer.renew(self._settled())
                return True
            case _:
                pass
        if self._reign is None or not self.election.leading:
            self._watch_leader(now)
            return False
        if self.roster.outlived_rivals(now):
            self._examine_deaths()
        busy = await self._reign.step(now)
        self._queries.advanced()
        return busy

    def _settled(self) -> int:
        return self.roster.settled_sequence() if self._reign else self._follower.settled

    def _note(self, change: Change) -> None:
        if self._reign is not None:
            self.roster.changed(change, self._clock.boot_seconds())

    # -- reigns -------------------------------------------------------------------------

    async def _match_reign(self, now: float) -> None:
        """Begin or end the reign, as the election has it."""
        election, reign = self.election, self._reign
        if reign is not None and (
            not election.reigning or (election.leading and election.led_since != reign.began)
        ):
            await self._end_reign()
        if election.leading and self._reign is None:
            self.roster.begin(
                now,
                reign=election.sequence,
                settled=self._follower.settled,
                first=self._first,
                rivals=election.rivals(now),
                rivals_until=election.rivals_until,
            )
            self._reign = reign = self._new_reign()
            self._examine_deaths()
            try:
                await reign.open(self._queries)
            except BaseException:
                await self._end_reign()
                raise
            self._leading.set()
            self._reporter.lead()
            _log.info("leads", node_id=self.node_id, term=election.term)

    def _new_reign(self) -> Reign:
        docket = Docket(
            self._channel,
            self._clock,
            self.registry,
            self._writer,
            self._examiner,
            self._spawn,
            on_change=self._note,
            on_arrival=self._wake.set,
            batch_size=self.options.batch_size,
            max_queued=self.options.max_queued,
        )
        return Reign(
            self._channel,
            self._clock,
            self.registry,
            self.election,
            self.roster,
            self._examiner,
            docket,
            self._spawn,
            tick_interval=self.options.tick_interval,
        )

    async def _end_reign(self) -> None:
        reign, self._reign = self._reign, None
        self._first = False
        self._leading.clear()
        if reign is not None:
            _log.info("leads no more", node_id=self.node_id, leader=self.election.leader)
            await reign.close()

    # -- who is alive -------------------------------------------------------------------

    def suspect_node(self, node_id: str) -> None:
        """A node's connection has ended: find out whether the node has, too.

        The node may live: then it answers, and nothing comes of it.
        """
        if not self._stopping:
            self._spawn(self._examine(node_id, self._clock.boot_seconds(), probes=2))

    def _examine_deaths(self) -> None:
        for node_id, since in list(self._examiner.deaths.items()):
            self._spawn(self._examine(node_id, since, probes=1))

    async def _examine(self, node_id: str, since: float, *, probes: int) -> None:
        if node_id == self.election.leader:
            self._spawn(self._probe_leader(node_id))
        reign = self._reign
        if not await self._examiner.is_dead(node_id, since, probes=probes) or not self._reign:
            return
        if self._reign is not reign:
            # What it could do as a leader counts from the takeover on.
            self._spawn(self._examine(node_id, since, probes=1))
            return
        now = self._clock.boot_seconds()
        if not self.roster.is_dead(node_id):
            _log.info("node_died", node_id=node_id)
        if self.roster.prove_dead(node_id, now, since=since):
            # Other proofs may count for more now.
            self._examine_deaths()
        self._reign.judge(now)
        self._wake.set()

    def _watch_leader(self, now: float) -> None:
        if (
            self.election.standing is Standing.FOLLOWING
            and self.election.silence(now) > 2 * self.options.election.renew_interval
        ):
            self._suspect(now)

    def _suspect(self, now: float) -> None:
        """Find out whether the leader is there at all; once in each silence."""
        leader = self.election.leader
        if not leader or now - self._suspected < self.options.election.leader_timeout:
            return
        self._suspected = now
        self._spawn(self._probe_leader(leader))

    async def _probe_leader(self, leader: str) -> None:
        if await self._examiner.is_no_candidate(leader) and self.election.leader == leader:
            self.election.suspect(self._clock.boot_seconds())
            self._wake.set()

    def _on_probe(self, message: Message) -> None:
        self._channel.answer(
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
        self._examiner.heard(beat.node_id)
        now = self._clock.boot_seconds()
        self._channel.observer.on_beat(beat.node_id, beat.number, now, self.leading)
        if self._reign is not None and self.leading and not self._stopping:
            self._reign.answer(beat, message.reply_to)
