"""The caller's side of routing: who owns a resource, and who provides a service.

What was looked up stays cached until an event says otherwise: a cached lookup is one
dictionary access. Events carry the registry's sequence, and every lookup asks for an
answer at least as new as the last event seen, so that a supervisor that trails behind
cannot bring back what the event has removed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from typing import Any, Final

import structlog
from attrs import define, frozen

from aegis._clock import Clock
from aegis._subjects import Subjects
from aegis.actors._membership import QUERY_WAIT, control_request
from aegis.actors._registration import map_of
from aegis.actors._registry_entries import InstanceState, ResourceKey
from aegis.contracts import Role
from aegis.errors import (
    AegisError,
    ConnectionClosed,
    NotFound,
    ProtocolError,
    Unavailable,
    from_wire,
)
from aegis.transport._base import Message, Subscription, Transport
from aegis.transport._codec import decode_value
from aegis.transport._patience import subscribe_patiently

__all__ = ["Directory", "Provider", "Route"]

_log = structlog.get_logger("aegis.directory")

MAX_CACHED_RESOURCES: Final = 200_000
"""Routes that are kept; the oldest goes when one more is looked up."""

MAX_CACHED_SERVICES: Final = 10_000

MOVING_SECONDS: Final = 2.0
"""For so long after an owner was lost, a resource without one may be on its way to the
next: a node that starts again registers its instances first, then their resources."""

MAX_MOVING: Final = 10_000

LOOKUP_TIMEOUT: Final = 5.0
"""Seconds that a lookup goes on, whoever waits for it and for how long."""

MAX_ASKED: Final = 3
"""How often one lookup asks while events overtake its answers."""


@frozen
class Route:
    """Who owns a resource, under which epoch."""

    instance_id: str
    epoch: int
    node_id: str = ""


@frozen
class Provider:
    """One healthy instance of a service."""

    instance_id: str
    node_id: str = ""


@define(eq=False)
class _Lookup[T]:
    """A lookup under way: all who want the same wait for one ``answer``."""

    answer: asyncio.Future[T]
    task: asyncio.Task[T]


class Directory:
    """Looks up owners and instances, and remembers them until they change."""

    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        clock: Clock,
        *,
        max_resources: int = MAX_CACHED_RESOURCES,
        max_services: int = MAX_CACHED_SERVICES,
    ) -> None:
        self.routes: dict[ResourceKey, Route] = {}
        self.providers: dict[str, tuple[Provider, ...]] = {}
        self.lookups = 0
        self._transport = transport
        self._subjects = subjects
        self._clock = clock
        self._max_resources = max_resources
        self._max_services = max_services
        self._sequence = 0
        self._lost: dict[ResourceKey, tuple[float, int]] = {}
        """When the owner of each of these was lost, and under which epoch it owned."""
        self._resource_queries: dict[ResourceKey, _Lookup[Route]] = {}
        self._service_queries: dict[str, _Lookup[tuple[Provider, ...]]] = {}
        self._subscription: Subscription | None = None
        self._generation = 0
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Listen to events; before that, nothing may be cached."""
        self._transport.listen(self)
        self._subscription = await subscribe_patiently(
            self._transport, self._subjects.event(">"), self._on_event
        )

    async def stop(self) -> None:
        """Forget everything and end the lookups under way."""
        subscription, self._subscription = self._subscription, None
        self._forget()
        tasks: list[asyncio.Task[Any]] = [
            *(lookup.task for lookup in self._resource_queries.values()),
            *(lookup.task for lookup in self._service_queries.values()),
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if subscription is not None:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                await subscription.unsubscribe()

    # -- lookups ------------------------------------------------------------------------

    def route_nowait(self, service: str, resource_id: str) -> Route | None:
        """Return the owner if it is cached."""
        return self.routes.get((service, resource_id))

    def providers_nowait(self, service: str) -> tuple[Provider, ...] | None:
        """Return the healthy instances if they are cached."""
        return self.providers.get(service)

    async def route(self, service: str, resource_id: str, *, timeout: float = 5.0) -> Route:
        """Return the owner of a resource.

        Raises:
            NotFound: nobody owns it. Not cached: the next lookup asks again.
            Unavailable: no supervisor answered within ``timeout`` seconds.
        """
        key = (service, resource_id)
        known = self.routes.get(key)
        if known is not None:
            return known
        lookup = self._resource_queries.get(key)
        if lookup is None:
            lookup = _begin(self._resource_queries, key, self._query_route(key))
        return await _wait(lookup, timeout)

    async def instances(self, service: str, *, timeout: float = 5.0) -> tuple[Provider, ...]:
        """Return the healthy active instances of a service, in a stable order.

        Raises:
            NotFound: there is no such service.
            Unavailable: none of its instances is healthy, or no supervisor answered.
        """
        known = self.providers.get(service)
        if known:
            return known
        lookup = self._service_queries.get(service)
        if lookup is None:
            lookup = _begin(self._service_queries, service, self._query_service(service))
        return await _wait(lookup, timeout)

    async def wait_change(self) -> None:
        """Return at the next event: what failed before may succeed then."""
        await self._changed.wait()

    def invalidate_route(self, service: str, resource_id: str, epoch: int | None = None) -> None:
        """Forget an owner that turned out wrong; with ``epoch``, only that one."""
        known = self.routes.get((service, resource_id))
        if known is not None and (epoch is None or known.epoch <= epoch):
            self._lose((service, resource_id))

    def is_moving(self, service: str, resource_id: str) -> bool:
        """Whether the resource had an owner a moment ago, and may soon have another."""
        lost = self._lost.get((service, resource_id))
        return lost is not None and self._clock.boot_seconds() - lost[0] < MOVING_SECONDS

    def _lose(self, key: ResourceKey) -> None:
        epoch = self.routes.pop(key).epoch
        self._lost.pop(key, None)
        if len(self._lost) >= MAX_MOVING:
            del self._lost[next(iter(self._lost))]
        self._lost[key] = (self._clock.boot_seconds(), epoch)

    def invalidate_service(self, service: str) -> None:
        """Forget the instances of a service."""
        self.providers.pop(service, None)

    async def _query_route(self, key: ResourceKey) -> Route:
        generation = self._generation
        answer = await self._ask("resource.query", {"service_name": key[0], "resource_id": key[1]})
        _check(answer)
        route = Route(answer["instance_id"], answer["epoch"], answer["node_id"])
        if self._is_current(answer, generation):
            self._keep(key, route)
        return route

    def _keep(self, key: ResourceKey, route: Route) -> None:
        if key not in self.routes and len(self.routes) >= self._max_resources:
            del self.routes[next(iter(self.routes))]
        self.routes[key] = route

    async def _query_service(self, service: str) -> tuple[Provider, ...]:
        generation = self._generation
        answer = await self._ask("service.query", {"service_name": service})
        _check(answer)
        found = tuple(
            Provider(instance["instance_id"], instance["node_id"])
            for entry in answer["services"]
            for instance in entry["instances"]
            if instance["state"] == InstanceState.HEALTHY
            # One that was started as a standby is at work once it owns something.
            and (instance["role"] == Role.ACTIVE or instance["resources"])
        )
        if not found:
            raise Unavailable(f"service {service!r} has no healthy instance")
        if self._is_current(answer, generation):
            if len(self.providers) >= self._max_services:
                del self.providers[next(iter(self.providers))]
            self.providers[service] = found
        return found

    async def _ask(self, operation: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Ask, and ask again if an event came meanwhile that the answer does not know of.

        Who waits for the lookup would otherwise be told of an owner that is gone already,
        and have no further event to wait for.
        """
        answer: dict[str, Any] = {}
        for _ in range(MAX_ASKED):
            self.lookups += 1
            asked = self._sequence
            answer = await control_request(
                self._transport,
                self._subjects,
                self._clock,
                operation,
                {**payload, "min_sequence": asked},
                timeout=LOOKUP_TIMEOUT,
                first_wait=QUERY_WAIT,
            )
            if self._sequence <= max(asked, answer.get("sequence", 0)):
                break
        return answer

    def _is_current(self, answer: Mapping[str, Any], generation: int) -> bool:
        """Whether no event came since that the answer does not know of."""
        return (
            self._subscription is not None
            and generation == self._generation
            and answer["sequence"] >= self._sequence
        )

    # -- events -------------------------------------------------------------------------

    def _on_event(self, message: Message) -> None:
        try:
            facts = map_of(decode_value(message.payload))
            if facts is not None and "sequence" in facts:
                self._take_over(facts)
        except (ProtocolError, AttributeError, TypeError, ValueError) as error:
            _log.warning("event cannot be read", subject=message.subject, reason=str(error))

    def _take_over(self, facts: Mapping[str, Any]) -> None:
        self._sequence = max(self._sequence, int(facts["sequence"]))
        service = str(facts.get("service_name", ""))
        node_id = str(facts.get("node_id", ""))
        instance_id = str(facts.get("instance_id", ""))
        epochs: dict[str, int] = facts.get("epochs") or {}
        resources: list[str] = facts.get("resource_ids") or []
        # Who stands by for a resource makes no difference to its callers.
        owned = [] if facts.get("role") == Role.STANDBY else resources
        for resource_id in owned:
            key = (service, resource_id)
            known = self.routes.get(key)
            epoch = epochs.get(resource_id)
            if known is None:
                # Callers wait for just this: when many resources change hands at once,
                # nobody has to ask for each of them.
                if epoch is not None and self._is_wanted(key, epoch):
                    self._learn(key, Route(instance_id, epoch, node_id))
            elif epoch is None:
                if known.epoch <= int(facts["sequence"]):
                    self._lose(key)
                    if facts.get("cause") == "released":
                        del self._lost[key]  # Given back on purpose: nobody follows.
            elif epoch > known.epoch:
                self.routes[key] = Route(instance_id, epoch, node_id)
        if not resources:
            self.providers.pop(service, None)
        self._changed.set()
        self._changed = asyncio.Event()

    def _learn(self, key: ResourceKey, route: Route) -> None:
        """Keep what an event tells; whoever waits for a lookup need not wait for it."""
        self._lost.pop(key, None)
        self._keep(key, route)
        lookup = self._resource_queries.pop(key, None)
        if lookup is not None:
            if not lookup.answer.done():
                lookup.answer.set_result(route)
            lookup.task.cancel()

    def _is_wanted(self, key: ResourceKey, epoch: int) -> bool:
        lost = self._lost.get(key)
        return key in self._resource_queries if lost is None else lost[1] < epoch

    def on_disconnected(self) -> None:
        """Events are missed from now on, so nothing that is cached can be trusted."""
        self._forget()

    def on_reconnected(self) -> None:
        """Whatever was cached since has missed events, too."""
        self._forget()

    def on_closed(self, reason: str) -> None:
        """Nothing will ever be looked up again."""
        self._forget()

    def _forget(self) -> None:
        self._generation += 1
        self.routes.clear()
        self.providers.clear()
        self._changed.set()
        self._changed = asyncio.Event()


def _begin[K, T](lookups: dict[K, _Lookup[T]], key: K, work: Coroutine[Any, Any, T]) -> _Lookup[T]:
    """Begin a lookup, which is in ``lookups`` until it ends."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    lookup = lookups[key] = _Lookup(answer, loop.create_task(work))

    def ended(task: asyncio.Task[T]) -> None:
        if lookups.get(key) is lookup:
            del lookups[key]
        error = None if task.cancelled() else task.exception()
        if answer.done():
            return
        if task.cancelled():
            answer.cancel()
        elif error is not None:
            answer.set_exception(error)
            answer.exception()  # Nobody may wait for it any more.
        else:
            answer.set_result(task.result())

    lookup.task.add_done_callback(ended)
    return lookup


async def _wait[T](lookup: _Lookup[T], timeout: float) -> T:
    """Wait for a lookup that others may be waiting for, too."""
    try:
        async with asyncio.timeout(timeout):
            return await asyncio.shield(lookup.answer)
    except TimeoutError:
        raise Unavailable(f"no supervisor answered within {timeout:g} s") from None


def _check(answer: Mapping[str, Any]) -> None:
    """Raise what an answer stands for if it is a refusal."""
    if answer.get("code") is not None:
        raise _error(answer)


def _error(answer: Mapping[str, Any]) -> AegisError:
    facts = {k: v for k, v in answer.items() if k not in ("code", "success", "trace_id")}
    code = int(answer["code"])
    return (
        NotFound(str(facts.pop("message", "")), **facts) if code == 404 else from_wire(code, facts)
    )
