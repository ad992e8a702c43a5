"""Queries about the registry, answered by every candidate from its own copy.

The copy trails the leader's by one delivery: what a candidate does not find, it asks the
leader for, and a caller that knows of an event may ask for an answer at least as new as
that (``min_sequence``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aegis._clock import Clock
from aegis.actors import _registration as registration
from aegis.actors._control_channel import STOPS, ControlChannel
from aegis.actors._election import Election
from aegis.actors._queries import query_resources, query_services
from aegis.actors._registry import Registry
from aegis.actors._roster import Roster
from aegis.errors import (
    AegisError,
    ConnectionClosed,
    InvalidRequest,
    NotFound,
    ProtocolError,
    Unavailable,
)
from aegis.transport._base import Message
from aegis.transport._codec import decode_value

__all__ = ["QUERIES", "QueryResponder"]

QUERIES: Final = ("service.query", "resource.query")


class QueryResponder:
    """Answers queries; ``wait`` is how many seconds one waits for a newer registry."""

    def __init__(
        self,
        channel: ControlChannel,
        clock: Clock,
        registry: Registry,
        roster: Roster,
        election: Election,
        failovers: Callable[[], list[dict[str, Any]]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        *,
        wait: float,
        leader_timeout: float,
    ) -> None:
        self.stopping = False
        self._channel = channel
        self._clock = clock
        self._registry = registry
        self._roster = roster
        self._election = election
        self._failovers = failovers
        self._spawn = spawn
        self._wait = wait
        self._leader_timeout = leader_timeout
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """How many queries wait for a newer registry."""
        return len(self._waiting)

    def advanced(self) -> None:
        """The registry is newer than it was."""
        if not self._waiting:
            return
        sequence = self._registry.sequence
        for wanted, waiter in self._waiting:
            if wanted <= sequence and not waiter.done():
                waiter.set_result(None)
        self._waiting = [(wanted, w) for wanted, w in self._waiting if not w.done()]

    def handler(
        self, operation: str, ask_leader: Callable[[], bool] = lambda: False
    ) -> Callable[[Message], None]:
        """Return what answers ``operation``; ``ask_leader`` says whether another leads."""

        def on_query(message: Message) -> None:
            if self.stopping:
                self._channel.refuse(message.reply_to, Unavailable(STOPS))
                return
            try:
                payload: Any = decode_value(message.payload) if message.payload else {}
                wanted = (registration.map_of(payload) or {}).get("min_sequence")
                if isinstance(wanted, int) and wanted > self._registry.sequence:
                    self._spawn(self._answer_later(operation, payload, wanted, message))
                    return
                reply = self._query(operation, {} if payload is None else payload)
            except NotFound as error:
                if ask_leader():
                    self._spawn(self._ask_leader(operation, message, error))
                else:
                    self._channel.refuse(message.reply_to, error)
                    if operation == "resource.query":
                        self._channel.observer.on_lookup("", False, 0.0)
                return
            except ProtocolError as error:
                wrong = InvalidRequest(f"payload: {error}", field="payload")
                self._channel.refuse(message.reply_to, wrong)
                return
            except AegisError as error:
                self._channel.refuse(message.reply_to, error)
                return
            self._channel.answer(message.reply_to, reply)

        return on_query

    def _query(self, operation: str, payload: Any) -> dict[str, Any]:
        if operation == "service.query":
            services = registration.query_services(payload)
            if services.failovers:
                return {"success": True, "failovers": self._failovers()}
            answer = query_services(self._registry, services, self._queue_depth)
            answer["leader"] = {"node_id": self._election.leader, "term": self._election.term}
            return answer
        began = self._clock.boot_seconds()
        request = registration.query_resources(payload)
        answer = query_resources(self._registry, request)
        if request.resource_ids is not None:
            service = self._registry.known_service(request.service_name)
            took = self._clock.boot_seconds() - began
            self._channel.observer.on_lookup(service, True, took)
        return answer

    def _queue_depth(self, instance_id: str) -> int | None:
        load = self._roster.loads.get(instance_id)
        return None if load is None else load.depth

    async def _answer_later(
        self, operation: str, payload: Any, wanted: int, message: Message
    ) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, waiter))
        try:
            async with asyncio.timeout(self._wait):
                await waiter
            reply = self._query(operation, payload)
        except TimeoutError:
            late = Unavailable(f"the registry has not reached {wanted} here")
            self._channel.refuse(message.reply_to, late)
        except asyncio.CancelledError:
            self._channel.refuse(message.reply_to, Unavailable(STOPS))
            raise
        except AegisError as error:
            self._channel.refuse(message.reply_to, error)
        else:
            self._channel.answer(message.reply_to, reply)

    async def _ask_leader(self, operation: str, message: Message, error: NotFound) -> None:
        """What is not found here may have been registered a moment ago."""
        channel = self._channel
        try:
            answer = await channel.transport.request(
                channel.leader(operation), message.payload, timeout=self._leader_timeout
            )
        except (TimeoutError, Unavailable, ConnectionClosed):
            channel.refuse(message.reply_to, error)
        except asyncio.CancelledError:
            channel.refuse(message.reply_to, Unavailable(STOPS))
            raise
        else:
            channel.forward(message.reply_to, answer.payload)
