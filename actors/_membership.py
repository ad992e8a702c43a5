"""A node's membership: registers its instances and resources, beats, holds the lease.

Requests to the leading supervisor are repeated until one answers or the deadline
passes; every one of them may be repeated safely. Beats leave every
`heartbeat_interval`, and at once when there is something the leader waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import structlog
from attrs import evolve, field, frozen

from aegis._clock import Clock
from aegis._subjects import Subjects
from aegis._trace import outgoing_traceparent, trace_id_of
from aegis.actors._applied import AppliedReport
from aegis.actors._lease import BeatAnswer, InstanceLoad, Lease, LeaseChange, LeaseOptions
from aegis.actors._registration import map_of
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._tracer import Operation, Span, Tracer
from aegis.contracts import OK, Role
from aegis.errors import (
    AegisError,
    ConnectionClosed,
    NotFound,
    ProtocolError,
    Unavailable,
    from_wire,
)
from aegis.transport._base import Message, Subscription, Transport
from aegis.transport._codec import decode_value, encode_value
from aegis.transport._patience import subscribe_patiently

__all__ = ["Membership", "MembershipListener", "Registration", "control_request"]

_log = structlog.get_logger("aegis.membership")

ATTEMPT_TIMEOUT: Final = 2.0
"""Seconds that one request waits; a list of resources may be written meanwhile."""

MAX_ASKED: Final = 500
"""Resources that are looked up in one request."""

QUERY_WAIT: Final = 0.05
"""Seconds after which a lookup is repeated for the first time: a supervisor that was
asked while its process ended never answers, and another does within a millisecond."""

FIRST_DELAY: Final = 0.02
LONGEST_DELAY: Final = 0.25
"""Seconds between attempts while nobody leads: doubling from the first to the longest."""


@frozen
class Registration:
    """What `Membership.register_resources` achieved.

    ``registered`` has the resources that the instance now holds in the role asked for,
    ``epochs`` those among them that it owns, ``conflicts`` the owner of each that it did
    not get. A standby owns nothing: if there is nobody else to own a resource, it is
    promoted right after, and told so like by any other promotion.
    """

    registered: list[str]
    epochs: dict[str, int] = field(factory=dict[str, int])
    conflicts: dict[str, str] = field(factory=dict[str, str])


class MembershipListener(Protocol):
    """Is told, on the event loop, what becomes of the node's lease and instances."""

    def on_covered(self, service: str, resource_id: str, epoch: int) -> None:
        """The lease covers a resource: its owner may answer, while the lease runs."""
        ...

    def on_uncovered(self, service: str, resource_id: str, epoch: int) -> None:
        """The lease covers a resource no more: moved, released, or connection lost."""
        ...

    def on_evicted(self, instance_id: str, error: AegisError) -> None:
        """The leader does not know the instance on this node: it must register anew.

        ``error`` is 410 if it is registered nowhere, 409 if another node has it.
        """
        ...


class _Deaf:
    def on_covered(self, service: str, resource_id: str, epoch: int) -> None:
        pass

    def on_uncovered(self, service: str, resource_id: str, epoch: int) -> None:
        pass

    def on_evicted(self, instance_id: str, error: AegisError) -> None:
        pass


def _no_load() -> Mapping[str, InstanceLoad]:
    return {}


def _none_applied(instance_id: str, resource_id: str) -> int | None:
    return None


def _no_facts(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    return {}


class Membership:
    """What one node is to the supervisors.

    ``node_id`` must belong to this process alone: a restarted process needs another.
    ``load`` is asked at every beat for the queue depth and progress of the instances, and
    how far those journals are applied of which that may have changed (resource id, sequence
    in the stream: of an owner its last record, of a standby the last that it took over);
    ``applied`` for the same of one instance's resource, None if it is not there any more;
    ``health`` for what else a request to ``aegis.health.<node>`` should be told, and ``details`` for what is long: a
    request that is the map ``{brief: true}`` gets an answer without. Both get that map.
    """

    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        node_id: str,
        *,
        options: LeaseOptions | None = None,
        load: Callable[[], Mapping[str, InstanceLoad]] = _no_load,
        applied: Callable[[str, str], int | None] = _none_applied,
        health: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _no_facts,
        details: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _no_facts,
        listener: MembershipListener | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.node_id = node_id
        self.options = options or LeaseOptions()
        self.lease = Lease(node_id, self.options)
        self.instances: dict[str, str] = {}
        self.epochs: dict[ResourceKey, int] = {}
        self._owner: dict[ResourceKey, str] = {}
        self._claimed: set[str] = set()
        self._reign = 0
        self._lease_ran = False
        self._transport = transport
        self._subjects = subjects
        self._clock = clock
        self._load = load
        self._report = AppliedReport(applied)
        self._health = health
        self._details = details
        self._listener: MembershipListener = listener or _Deaf()
        self._tracer = tracer
        self._inbox = f"{transport.inbox_prefix}.beat"
        self._next_beat: asyncio.Handle | None = None
        self._beats_soon = False
        self._beating = False
        self._covered_changed = asyncio.Event()
        self._subscriptions: list[Subscription] = []

    # -- life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Answer health requests and begin to beat."""
        self._transport.listen(self)
        self._subscriptions = [
            await subscribe_patiently(self._transport, f"{self._inbox}.*", self._on_answer),
            await subscribe_patiently(
                self._transport, self._subjects.health(self.node_id), self._on_health_request
            ),
        ]
        self._beating = True
        self._beat_on()

    async def stop(self) -> None:
        """Stop beating and drop the lease. Unregister before, to leave in good order."""
        self._beating = False
        if self._next_beat is not None:
            self._next_beat.cancel()
        self._tell(self.lease.drop())
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                await subscription.unsubscribe()

    def on_disconnected(self) -> None:
        """The lease ends before the connection can be back."""
        self._watch_lease()
        self._tell(self.lease.drop())
        self._watch_lease()

    def on_reconnected(self) -> None:
        """Ask for a new lease at once."""
        self.beat_soon()

    def on_closed(self, reason: str) -> None:
        """The lease ends; the node does, too."""
        self._tell(self.lease.drop())

    # -- requests -----------------------------------------------------------------------

    async def register(
        self,
        service: str,
        instance_id: str,
        *,
        role: Role = Role.ACTIVE,
        metadata: Mapping[str, Any] | None = None,
        timeout: float = 10.0,
        trace_id: str = "",
    ) -> dict[str, Any]:
        """Register an instance on this node; from then on it is part of the beats.

        Raises:
            InvalidRequest: a field is wrong.
            Conflict: the id is alive in another process.
            Unavailable: no supervisor led within ``timeout`` seconds.
        """
        payload = {
            "service_name": service,
            "instance_id": instance_id,
            "timestamp": self._clock.wall_ms() / 1000,
            "metadata": dict(metadata or {}),
            "role": str(role),
            "node_id": self.node_id,
            "trace_id": trace_id,
        }
        # A probe may come before the answer does, so the instance is claimed already.
        self._claimed.add(instance_id)
        try:
            reply = await self._ask("service.register", payload, timeout)
            _raise_refusal(reply)
        except BaseException:
            if instance_id not in self.instances:
                self._claimed.discard(instance_id)
            raise
        self.instances[instance_id] = service
        self.beat_soon()
        return reply

    async def unregister(
        self, service: str, instance_id: str, *, timeout: float = 10.0, trace_id: str = ""
    ) -> None:
        """Take an instance and all that it holds out of the registry.

        Its actors must have stopped: from this call on no lease covers them. An
        instance that is not registered (any more) is no error.
        """
        self.instances.pop(instance_id, None)
        self._claimed.discard(instance_id)
        payload = {
            "service_name": service,
            "instance_id": instance_id,
            "node_id": self.node_id,
            "trace_id": trace_id,
        }
        for key in [key for key in self.epochs if key[0] == service]:
            if self._owner.get(key) == instance_id:
                self._give_back(key)
        reply = await self._ask("service.unregister", payload, timeout)
        with contextlib.suppress(NotFound):
            _raise_refusal(reply)

    async def register_resources(
        self,
        service: str,
        instance_id: str,
        resource_ids: Collection[str],
        *,
        role: Role = Role.ACTIVE,
        force: bool = False,
        metadata: Mapping[str, Any] | None = None,
        timeout: float = 10.0,
        trace_id: str = "",
    ) -> Registration:
        """Register resources; those held by others are in the result's ``conflicts``.

        An owner may answer nobody before `wait_covered` returned for its epoch.

        Raises:
            InvalidRequest, NotFound (no such instance), Conflict (the instance is
            another node's by now), TooManyResources, Unavailable.
        """
        payload = {
            "service_name": service,
            "instance_id": instance_id,
            "resource_ids": list(resource_ids),
            "role": str(role),
            "force": force,
            "metadata": dict(metadata or {}),
            "node_id": self.node_id,
            "trace_id": trace_id,
        }
        reply = await self._ask("resource.register", payload, timeout)
        if "conflicts" not in reply:
            _raise_refusal(reply)
        epochs: dict[str, int] = reply["epochs"]
        for resource_id, epoch in epochs.items():
            self.epochs[service, resource_id] = epoch
            self._owner[service, resource_id] = instance_id
        self._report.renew(instance_id, reply["registered"])
        return Registration(reply["registered"], epochs, reply["conflicts"])

    async def release_resources(
        self,
        service: str,
        instance_id: str,
        resource_ids: Collection[str],
        *,
        heir: str = "",
        timeout: float = 10.0,
        trace_id: str = "",
    ) -> list[str]:
        """Give resources back and return which were held; their actors must have stopped.

        The standby ``heir`` owns them next, if one is named that can; else the best one.

        Raises:
            NotOwner: another instance owns one of them. NotFound: none is there.
        """
        for resource_id in resource_ids:
            if self._owner.get((service, resource_id)) == instance_id:
                self._give_back((service, resource_id))
        payload = {
            "service_name": service,
            "instance_id": instance_id,
            "resource_ids": list(resource_ids),
            "node_id": self.node_id,
            "heir": heir or None,
            "trace_id": trace_id,
        }
        attempts = 0

        def count() -> None:
            nonlocal attempts
            attempts += 1

        reply = await self._ask("resource.release", payload, timeout, on_attempt=count)
        if reply.get("code") == NotFound.code and attempts > 1:
            # An attempt whose answer was lost has released them.
            return list(resource_ids)
        _raise_refusal(reply)
        released: list[str] = reply["released"]
        return released

    async def look_up(
        self, service: str, resource_ids: Sequence[str], *, timeout: float
    ) -> list[dict[str, Any]]:
        """Return what the supervisors know of resources; those that nobody owns are left out.

        Raises:
            AegisError: they did not answer within ``timeout`` seconds for each `MAX_ASKED`.
        """
        found: list[dict[str, Any]] = []
        for start in range(0, len(resource_ids), MAX_ASKED):
            payload = {
                "service_name": service,
                "resource_ids": list(resource_ids[start : start + MAX_ASKED]),
            }
            answer = await self._ask("resource.query", payload, timeout, first_wait=QUERY_WAIT)
            found += answer.get("resources", ())
        return found

    def _give_back(self, key: ResourceKey) -> None:
        epoch = self.epochs.pop(key, 0)
        self._owner.pop(key, None)
        self.lease.give_back(key, epoch)

    async def _ask(
        self,
        operation: str,
        payload: Mapping[str, Any],
        timeout: float,
        on_attempt: Callable[[], None] | None = None,
        first_wait: float = ATTEMPT_TIMEOUT,
    ) -> dict[str, Any]:
        span: Span | None = None
        if self._tracer is not None and not operation.endswith(".query"):
            span = self._tracer.begin(
                Operation.REGISTER,
                method=operation,
                service=payload["service_name"],
                instance=payload["instance_id"],
                resources=payload.get("resource_ids"),
                role=payload.get("role"),
            )
            payload = {**payload, "traceparent": span.traceparent}
        reply: dict[str, Any] = {"code": Unavailable.code}
        try:
            reply = await control_request(
                self._transport,
                self._subjects,
                self._clock,
                operation,
                payload,
                timeout=timeout,
                on_attempt=on_attempt,
                first_wait=first_wait,
            )
            return reply
        finally:
            if span is not None:
                span.end(reply.get("code", OK))

    # -- the lease ----------------------------------------------------------------------

    def covers(self, service: str, resource_id: str, epoch: int) -> bool:
        """Whether the owner with ``epoch`` may answer queries at this moment."""
        return self.lease.covers(service, resource_id, epoch, self._clock.boot_seconds())

    async def wait_covered(
        self, service: str, resource_id: str, epoch: int, *, timeout: float
    ) -> None:
        """Return when the lease runs and covers the resource under ``epoch``.

        From then on the leases of all earlier owners have ended.

        Raises:
            TimeoutError: it did not within ``timeout`` seconds.
        """
        if self.covers(service, resource_id, epoch):
            return
        self.beat_soon()
        async with asyncio.timeout(timeout):
            while not self.covers(service, resource_id, epoch):
                await self._covered_changed.wait()

    def beat_soon(self) -> None:
        """Beat in the loop's next turn instead of at the interval's end."""
        if self._beating and not self._beats_soon:
            self._beats_soon = True
            self._schedule(0.0)

    def _beat_on(self) -> None:
        # By the loop's own timer: a task would need a turn of a busy loop for each step.
        self._beats_soon = False
        self._schedule(self.options.heartbeat_interval)
        self._beat()

    def _schedule(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._next_beat is not None:
            self._next_beat.cancel()
        self._next_beat = (
            loop.call_later(seconds, self._beat_on) if seconds else loop.call_soon(self._beat_on)
        )

    def _beat(self) -> None:
        if not self._transport.connected:
            return
        self._watch_lease()
        loads = self._load()
        for name, load in loads.items():
            self._report.note(name, load.applied)
        told = self._report.next()
        instances = {
            name: evolve(loads.get(name, InstanceLoad()), applied=told.get(name, {}))
            for name in self.instances
        }
        beat = self.lease.beat(self._clock.boot_seconds(), instances)
        with contextlib.suppress(Unavailable, ConnectionClosed):
            self._transport.publish(
                self._subjects.heartbeat,
                encode_value(beat.to_wire()),
                reply_to=f"{self._inbox}.{beat.number}",
            )

    def _watch_lease(self) -> None:
        """Tell when the lease has run out, and when it runs again."""
        now = self._clock.boot_seconds()
        runs = self.lease.valid(now)
        if self._lease_ran and not runs:
            _log.warning(
                "lease_lost",
                node_id=self.node_id,
                covered=len(self.lease.covered),
                seconds_ago=round(now - self.lease.valid_until, 3),
                action="queries are refused until a leading supervisor answers",
            )
        elif runs and not self._lease_ran:
            _log.info("lease_held", node_id=self.node_id)
        self._lease_ran = runs

    def _on_answer(self, message: Message) -> None:
        if message.no_responders:
            return
        try:
            answer = BeatAnswer.from_wire(decode_value(message.payload))
        except ProtocolError as error:
            _log.warning("answer to a beat cannot be read", reason=str(error))
            return
        if answer.reign > self._reign:
            self._reign = answer.reign
            self._report.forget()
        self._tell(self.lease.answered(answer))

    def _tell(self, change: LeaseChange) -> None:
        for (service, resource_id), epoch in change.lost.items():
            self._listener.on_uncovered(service, resource_id, epoch)
        for (service, resource_id), epoch in change.gained.items():
            self._listener.on_covered(service, resource_id, epoch)
        for instance_id, why in change.refused.items():
            if self.instances.pop(instance_id, None) is not None:
                self._claimed.discard(instance_id)
                for key in [key for key, owner in self._owner.items() if owner == instance_id]:
                    self._give_back(key)
                facts = dict(why)
                error = from_wire(int(facts.pop("code", 410)), facts)
                self._listener.on_evicted(instance_id, error)
        if change.beat_at_once:
            self.beat_soon()
        self._covered_changed.set()
        self._covered_changed = asyncio.Event()

    # -- health -------------------------------------------------------------------------

    def _on_health_request(self, message: Message) -> None:
        now = self._clock.boot_seconds()
        asked: Mapping[str, Any] = {}
        with contextlib.suppress(ProtocolError):
            asked = (map_of(decode_value(message.payload)) if message.payload else None) or {}
        facts: dict[str, Any] = {
            "node_id": self.node_id,
            "status": "ok",
            "instances": sorted(self._claimed),
            "lease_seconds": max(0.0, self.lease.valid_until - now),
            "covered": len(self.lease.covered),
            **self._health(asked),
            **({} if asked.get("brief") else self._details(asked)),
        }
        if message.reply_to:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                self._transport.publish(message.reply_to, encode_value(facts))


async def control_request(
    transport: Transport,
    subjects: Subjects,
    clock: Clock,
    operation: str,
    payload: Mapping[str, Any],
    *,
    timeout: float,
    on_attempt: Callable[[], None] | None = None,
    first_wait: float = ATTEMPT_TIMEOUT,
) -> dict[str, Any]:
    """Ask the supervisors, again and again while none leads; return the answer's map.

    ``operation`` is ``service.register`` and so on. Only an answer other than 503 and
    429-for-load ends it before ``timeout`` seconds; a refusal is returned, not raised.
    The first attempt waits ``first_wait`` seconds, each other twice as long as the one
    before, up to `ATTEMPT_TIMEOUT`.

    Any candidate answers a query, and a frozen one still takes its share of them: every
    second attempt of a query goes to the one that leads.

    Raises:
        Unavailable: nobody answered in time.
        ConnectionClosed: the client is closed for good.
    """
    subject = f"{subjects.control_prefix}.{operation}"
    asked = [subject]
    if operation.endswith(".query"):
        asked.append(subjects.leader_control(operation))
    else:
        # Whoever looks at the logs finds both sides of a request by it.
        trace_id = payload.get("trace_id") or trace_id_of(
            payload.get("traceparent") or outgoing_traceparent()
        )
        payload = {**payload, "trace_id": trace_id}
    turns = itertools.cycle(asked)
    encoded = encode_value(payload)
    deadline = clock.boot_seconds() + timeout
    delay = FIRST_DELAY
    wait = first_wait
    reason = "no supervisor leads"
    while (left := deadline - clock.boot_seconds()) > 0:
        if on_attempt is not None:
            on_attempt()
        try:
            message = await transport.request(next(turns), encoded, timeout=min(left, wait))
            answer = map_of(decode_value(message.payload))
            if answer is None:
                raise ProtocolError(f"the answer of {subject} is no map")
            if not _is_transient(answer):
                return answer
            reason = str(answer.get("message", reason))
        except TimeoutError:
            reason = "the leading supervisor did not answer"
            wait = min(2 * wait, ATTEMPT_TIMEOUT)
            if wait < ATTEMPT_TIMEOUT:
                continue  # It has waited already.
        except Unavailable as error:
            reason = str(error)
        left = deadline - clock.boot_seconds()
        await asyncio.sleep(max(0.0, min(delay, left)))
        delay = min(2 * delay, LONGEST_DELAY)
    raise Unavailable(f"{subject}: no answer within {timeout:g} s: {reason}")


def _is_transient(reply: Mapping[str, Any]) -> bool:
    code = reply.get("code")
    return code == 503 or (code == 429 and reply.get("error") != "TooManyResources")


def _raise_refusal(reply: Mapping[str, Any]) -> None:
    code = reply.get("code")
    if code is not None:
        facts = {k: v for k, v in reply.items() if k not in ("code", "success")}
        raise from_wire(int(code), facts)
