"""Who owns what a node holds: from the lease, the events and the registry to its holdings.

Each of them may be the first to know of a change; none is needed for it to be noticed
in the end, and an epoch that is not news changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog

from aegis._instance import Instance
from aegis._subjects import Subjects
from aegis._trace import use_trace
from aegis.actors._observer import Observer
from aegis.actors._registration import map_of
from aegis.contracts import Role
from aegis.errors import AegisError, ConnectionClosed, ProtocolError, Unavailable
from aegis.transport._base import Message, Subscription, Transport
from aegis.transport._codec import decode_value
from aegis.transport._patience import subscribe_patiently

__all__ = ["OwnerWatch"]

_log = structlog.get_logger("aegis.node")

type LookUp = Callable[[str, Sequence[str]], Awaitable[list[dict[str, Any]]]]
"""Asks the supervisors for resources of a service. Raises AegisError."""


class OwnerWatch:
    """Tells the instances of a node what they own, and what they own no more.

    The membership's listener.
    """

    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        instances: Mapping[str, Instance],
        look_up: LookUp,
        observer: Observer,
    ) -> None:
        self._transport = transport
        self._subjects = subjects
        self._instances = instances
        self._look_up = look_up
        self._observer = observer
        self._events: Subscription | None = None
        self._uncovered: dict[str, set[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False

    async def start(self) -> None:
        """Listen to events."""
        self._events = await subscribe_patiently(
            self._transport, self._subjects.event(">"), self._on_event
        )

    def end(self) -> None:
        """Tell nothing any more: the node ends."""
        self._ended = True
        for task in list(self._tasks):
            task.cancel()

    async def stop(self) -> None:
        """Listen no more."""
        self.end()
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                await events.unsubscribe()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _of_service(self, service: str) -> list[Instance]:
        return [i for i in self._instances.values() if i.desk.service == service]

    # -- the lease ----------------------------------------------------------------------

    def on_covered(self, service: str, resource_id: str, epoch: int) -> None:
        """The lease covers the resource: this node is to own it, if it does not yet."""
        holders = [i for i in self._of_service(service) if resource_id in i.holdings]
        if len(holders) == 1:
            holders[0].holdings.own(resource_id, epoch)
        elif holders and not self._ended:
            self._spawn(self._look_at_owners(service, [resource_id]))

    def on_uncovered(self, service: str, resource_id: str, epoch: int) -> None:
        """The lease covers the resource no more: find out whether another has it."""
        if self._ended or not self._transport.connected:
            return
        asked = self._uncovered.setdefault(service, set())
        if not asked:
            asyncio.get_running_loop().call_soon(self._look_at_uncovered, service)
        asked.add(resource_id)

    def _look_at_uncovered(self, service: str) -> None:
        asked = self._uncovered.pop(service, set())
        if asked and not self._ended:
            self._spawn(self._look_at_owners(service, sorted(asked)))

    def on_evicted(self, instance_id: str, error: AegisError) -> None:
        """The leader does not know the instance any more: register it anew."""
        _log.warning("evicted", instance_id=instance_id, error=str(error))
        instance = self._instances.get(instance_id)
        if instance is not None:
            instance.rejoin()

    # -- the registry -------------------------------------------------------------------

    def look_again(self) -> None:
        """Events may have been missed: ask who owns what was owned here."""
        for instance in self._instances.values():
            owned = instance.holdings.ids(Role.ACTIVE)
            if owned and not self._ended:
                self._spawn(self._look_at_owners(instance.desk.service, owned))

    async def _look_at_owners(self, service: str, resource_ids: Sequence[str]) -> None:
        """Ask the supervisors who owns these, and take it over."""
        try:
            found = await self._look_up(service, resource_ids)
        except AegisError as error:
            _log.warning("owners_unknown", service_name=service, error=str(error))
            return
        # What nobody owns was released: then the next beat's answer says why.
        for resource in found:
            self._note_owner(
                service, resource["resource_id"], resource["instance_id"], resource["epoch"]
            )

    def _note_owner(self, service: str, resource_id: str, owner: str, epoch: int) -> None:
        for instance in self._of_service(service):
            if instance.desk.instance_id == owner:
                instance.holdings.own(resource_id, epoch)
            else:
                instance.holdings.lose(resource_id, epoch)

    # -- events -------------------------------------------------------------------------

    def _on_event(self, message: Message) -> None:
        try:
            facts = map_of(decode_value(message.payload)) or {}
            self._observer.on_event(facts)
            epochs: Mapping[str, int] = facts.get("epochs") or {}
            # Only the registry's own events say who owns something, and they have one.
            if "sequence" not in facts or self._ended:
                return
            service, owner = str(facts["service_name"]), str(facts["instance_id"])
            with use_trace(str(facts.get("traceparent", ""))):  # What follows is part of it.
                for resource_id, epoch in epochs.items():
                    self._note_owner(service, resource_id, owner, int(epoch))
        except (ProtocolError, AttributeError, KeyError, TypeError, ValueError) as error:
            _log.warning("event_unreadable", subject=message.subject, error=str(error))
