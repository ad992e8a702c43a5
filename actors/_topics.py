"""The subscribers of one node: from a topic's subject to the methods that hear it.

One NATS subscription serves all actors of an instance that hear a pattern. What comes
waits in a bounded queue for each of them and each method, never in the mailbox: a feed
must not keep commands out. One place in the mailbox at a time takes the oldest of them
to its method, so that a feed and the rest of an actor's mail go on in turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog
from attrs import define, field

from aegis._subjects import Subjects
from aegis._trace import enter_trace
from aegis.actors._cell import ActorCell, Status
from aegis.actors._dispatch import InstanceDesk
from aegis.actors._execution import take_back_cancellation
from aegis.actors._future import AegisFuture
from aegis.actors._handlers import ActorSpec, SubscriptionSpec
from aegis.actors._kept_topics import KeptTopics, TopicRetention
from aegis.actors._mailbox import Envelope
from aegis.actors._messages import Turn
from aegis.actors._publication import Published, decode_publication
from aegis.actors._source import Source
from aegis.actors._topic import OWN_RESOURCE, TopicQueue
from aegis.actors._tracer import Operation
from aegis.contracts import OK
from aegis.errors import (
    ActorDead,
    ConnectionClosed,
    HandlerFailed,
    InvalidRequest,
    ProtocolError,
    Unavailable,
)
from aegis.transport._base import Message, Subscription, Transport
from aegis.transport._patience import insist

__all__ = ["TopicStatistics", "Topics"]

_log = structlog.get_logger("aegis.topics")

_FAILED: Final = HandlerFailed.code
_INVALID: Final = InvalidRequest.code

MAX_PUBLISHERS: Final = 1_000
"""Of how many publishers a subscription remembers which message it heard last."""


@define
class TopicStatistics:
    """What became of the messages of one pattern, over all actors of an instance.

    ``received`` counts messages; the others count copies, one for each actor:
    ``handled`` went through the method, ``failed`` raised there, ``dropped`` found a
    full queue or an actor that stopped, ``refused`` had a value of the wrong type.
    """

    service_name: str
    instance_id: str
    topic: str
    method: str
    received: int = 0
    handled: int = 0
    failed: int = 0
    dropped: int = 0
    refused: int = 0


class Topics:
    """Keeps the subscriptions of the instances of one node. Belongs to its event loop."""

    def __init__(
        self,
        transport: Transport,
        subjects: Subjects,
        kept: KeptTopics,
        retention: TopicRetention,
    ) -> None:
        self._transport = transport
        self._subjects = subjects
        self._kept = kept
        self._retention = retention
        self._feeds: dict[str, list[_Feed]] = {}

    async def open(self, desk: InstanceDesk, spec: ActorSpec) -> None:
        """Let the actors of an instance hear what their class subscribes to.

        What its durable subscriptions read is kept from now on.

        Raises:
            ConfigurationError: no stream keeps what one of them reads, and none can be made.
        """
        for durable in spec.durable_subscriptions:
            what = f"the stream of {durable.pattern!r}"
            await insist(
                self._transport, partial(self._kept.ensure, durable.pattern, self._retention), what
            )
        feeds = self._feeds.setdefault(desk.instance_id, [])
        for subscription in spec.subscriptions:
            feed = _Feed(desk, subscription, self._subjects)
            feeds.append(feed)
            for subject in feed.subjects:
                feed.interests.append(await self._transport.subscribe(subject, feed.on_message))

    async def close(self, desk: InstanceDesk) -> None:
        """Let them hear nothing more, but for what waits already."""
        for feed in self._feeds.pop(desk.instance_id, ()):
            for interest in feed.interests:
                with suppress(Unavailable, ConnectionClosed):
                    await interest.unsubscribe()

    def statistics(self) -> list[TopicStatistics]:
        """Return the counts so far, of each instance and pattern."""
        return [feed.counts for feeds in self._feeds.values() for feed in feeds]


class _Feed:
    """One pattern, heard by the actors of one instance."""

    def __init__(self, desk: InstanceDesk, spec: SubscriptionSpec, subjects: Subjects) -> None:
        self.desk = desk
        self.spec = spec
        self.interests: list[Subscription] = []
        self.counts = TopicStatistics(desk.service, desk.instance_id, spec.pattern, spec.name)
        self._subjects = subjects
        self._own_level = spec.own_level
        self._decode = self._decode_topic if spec.source is None else _decoder(spec.source)
        self._last_heard: dict[str, int] = {}
        # Only of those for whom something waits: actors come and go.
        self._listeners: dict[ActorCell, _Listener] = {}

    @property
    def subjects(self) -> tuple[str, ...]:
        """Where its messages come."""
        if self.spec.source is not None:
            return self.spec.source.subjects
        return (self._subjects.topic(self.spec.pattern.replace(OWN_RESOURCE, "*")),)

    def on_message(self, message: Message) -> None:
        """Queue a message for every actor that is to hear it."""
        self.counts.received += 1
        try:
            for heard in self._decode(message):
                self._put(heard)
        except (ProtocolError, ValueError) as error:
            self.counts.refused += 1
            _log.warning("publication_refused", subject=message.subject, error=str(error))

    def _decode_topic(self, message: Message) -> Iterable[_Heard]:
        topic = self._subjects.topic_of(message.subject)
        published = decode_publication(message.payload)
        if not self._is_repeat(published):
            yield _Heard(topic, published.trace, published.value)

    def _put(self, heard: _Heard) -> None:
        for cell in list(self._hearers(heard)):
            listener = self._listeners.get(cell)
            if listener is None:
                listener = self._listeners[cell] = _Listener(self, cell)
            listener.put(heard)

    def _is_repeat(self, published: Published) -> bool:
        """Whether it was heard before: what has to be stored is sent until it is known to be."""
        if not published.session:
            return False
        last = self._last_heard.pop(published.session, 0)
        self._last_heard[published.session] = max(last, published.n)
        if len(self._last_heard) > MAX_PUBLISHERS:
            del self._last_heard[next(iter(self._last_heard))]
        return published.n <= last

    def _hearers(self, heard: _Heard) -> Iterable[ActorCell]:
        """Return the actors that serve at this moment: standbys hear nothing."""
        desk = self.desk
        resource = heard.resource
        if self._own_level is not None:
            resource = heard.topic.split(".")[self._own_level]
        if resource is not None:
            cell = desk.resources.get(resource)
            return () if cell is None else (cell,)
        own = () if desk.cell is None else (desk.cell,)
        return (*own, *desk.resources.values())

    def serves(self, cell: ActorCell) -> bool:
        """Whether the actor is still the one that callers reach."""
        resource_id = cell.resource_id
        if resource_id is None:
            return self.desk.cell is cell
        return self.desk.resources.get(resource_id) is cell

    def forget(self, cell: ActorCell) -> None:
        """Keep nothing for an actor for which nothing waits."""
        self._listeners.pop(cell, None)

    def count_dropped(self, cell: ActorCell, dropped: int) -> None:
        """Count, and log at 1, 2, 4, 8, ...: a feed that is too fast stays so for long."""
        before, counts = self.counts.dropped, self.counts
        counts.dropped += dropped
        for _ in range(dropped):
            cell.runtime.observer.on_publication_dropped(cell, counts.topic)
        if before.bit_length() != counts.dropped.bit_length():
            _log.warning(
                "publications_dropped",
                service_name=counts.service_name,
                instance_id=counts.instance_id,
                resource_id=cell.resource_id,
                topic=counts.topic,
                dropped=counts.dropped,
                policy=str(self.spec.overflow),
            )


@define(slots=True, frozen=True)
class _Heard:
    topic: str
    trace: str
    value: Any
    resource: str | None = None
    """Whom it is for, where the source says so."""


def _decoder(source: Source) -> Callable[[Message], Iterable[_Heard]]:
    """Return what makes messages of a source what actors hear; for one instance."""
    decode, resource_of = source.open(), source.resource_of

    def heard(message: Message) -> Iterable[_Heard]:
        for value in decode(message):
            yield _Heard(message.subject, "", value, resource_of(value))

    return heard


@define(eq=False)
class _Listener:
    """One actor as a hearer of one feed."""

    feed: _Feed
    cell: ActorCell
    queue: TopicQueue[_Heard] = field(init=False)
    missed: int = 0
    """How many messages were dropped since the method was last called."""
    _has_place: bool = False
    """Whether a turn of this listener waits in the actor's mailbox."""

    def __attrs_post_init__(self) -> None:
        self.queue = TopicQueue(self.feed.spec.queue_size, self.feed.spec.overflow)

    def put(self, heard: _Heard) -> None:
        if not self.queue.put(heard):
            self.missed += 1
            self.feed.count_dropped(self.cell, 1)
        self._take_place()

    def _take_place(self) -> None:
        if self._has_place or not self.queue:
            return
        try:
            # One place for each method at most, so the mailbox stays bounded.
            self.cell.mailbox.put_beyond_capacity(Envelope(Turn(self._turn), AegisFuture()))
        except ActorDead:
            self._give_up()
        else:
            self._has_place = True

    async def _turn(self) -> None:
        """Take the oldest message to its method; run by the actor, between its messages."""
        self._has_place = False
        cell, feed = self.cell, self.feed
        if not feed.serves(cell) or cell.status is not Status.RUNNING:
            self._give_up()  # Another owns the resource now, and hears for itself.
            return
        heard = self.queue.take()
        try:
            if heard is not None:
                await self._hear(heard)
        finally:
            self._take_place()
            if not self.queue:
                feed.forget(cell)

    async def _hear(self, heard: _Heard) -> None:
        cell = self.cell
        tracer = cell.runtime.tracer
        if tracer is None:
            enter_trace(heard.trace)
            await self._handle(heard)
            return
        span = tracer.begin(
            Operation.PROCESS,
            parent=heard.trace,
            kind="publication",
            service=cell.spec.service,
            method=self.feed.spec.name,
            resource=cell.resource_id,
            instance=cell.props.instance_id,
            topic=heard.topic,
        )
        span.enter()
        try:
            await self._handle(heard)
        finally:
            span.end()

    async def _handle(self, heard: _Heard) -> None:
        cell, spec, counts = self.cell, self.feed.spec, self.feed.counts
        actor = cell.actor
        began = time.perf_counter()
        status = OK
        try:
            value = spec.structure(heard.value)
        except InvalidRequest as error:
            counts.refused += 1
            _log.warning(
                "publication_refused", address=cell.address, topic=heard.topic, error=str(error)
            )
            cell.runtime.observer.on_message_handled(cell, "publication", _INVALID, 0.0)
            return
        missed, self.missed = self.missed, 0
        also = {"topic": heard.topic, "missed": missed}
        arguments = (value, *(also[name] for name in spec.wants))
        failure: BaseException | None = None
        try:
            if spec.is_async:
                await spec.function(actor, *arguments)
            else:
                await cell.runtime.workers.run(partial(spec.function, actor, *arguments))
        except GeneratorExit:
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and cell.is_interrupted(actor):
                raise
            take_back_cancellation()
            failure = error
        if not cell.is_interrupted(actor) and cell.behaviour.take_back_changes():
            failure = RuntimeError(
                f"{type(actor).__qualname__}.{spec.name} changed self.state, which only commands "
                "may; the change was taken back. Tell the actor a command of its own: "
                "self.actor_ref.tell(Call(...))"
            )
        if failure is None:
            counts.handled += 1
        else:
            counts.failed += 1
            status = _FAILED
            if not cell.is_interrupted(actor):
                cell.fail(failure)
        seconds = time.perf_counter() - began
        cell.runtime.observer.on_message_handled(cell, "publication", status, seconds)

    def _give_up(self) -> None:
        if dropped := self.queue.clear():
            self.feed.count_dropped(self.cell, dropped)
        self.feed.forget(self.cell)
