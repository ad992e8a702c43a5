"""Which topics streams keep: what a durable subscription reads, and what must be stored.

A topic is kept if some JetStream stream captures its subject, whoever made that. A node
that serves a durable subscription makes one for the whole tree of topics that begin with
the same level, unless there is one already. Publishers ask the server what is kept, and
again by and by; what they send without knowing is stored all the same, but nobody tells
them that it was.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from attrs import frozen

from aegis._subjects import Subjects, escape
from aegis.actors._topic import OWN_RESOURCE
from aegis.errors import AegisError, ConfigurationError, ConnectionClosed
from aegis.transport._base import StreamConfig, StreamFacts, Transport
from aegis.transport._subject import matches, overlaps

__all__ = ["KeptTopics", "TopicRetention"]

_log = structlog.get_logger("aegis.topics")

KNOWN_SECONDS: Final = 2.0
"""How old what is known may be before it is asked for anew, behind the publisher's back."""

MAX_STREAM_NAME_BYTES: Final = 200


@frozen
class TopicRetention:
    """How much a new stream keeps of what is published, and for how many seconds."""

    max_bytes: int
    max_age: int
    replicas: int


class KeptTopics:
    """What the server said last of the topics that it keeps. Belongs to one event loop."""

    def __init__(self, transport: Transport, subjects: Subjects) -> None:
        self._transport = transport
        self._subjects = subjects
        self._loop = asyncio.get_running_loop()
        self._streams: list[StreamFacts] = []
        self._read_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    def find(self, topic: str) -> StreamFacts | None:
        """Return the stream that keeps a topic, as far as is known; from any thread."""
        self._refresh_later()
        return self._covering(topic)

    def stream_of(self, pattern: str) -> str:
        """Return the name of the stream that keeps a pattern, as far as is known."""
        found = self._covering(pattern.replace(OWN_RESOURCE, "*"))
        if found is not None:
            return found.name
        return self._subjects.topic_stream(pattern.partition(".")[0])

    async def load(self) -> None:
        """Return once anything is known at all, or cannot be."""
        if self._read_at is None:
            self._begin()
            if self._reading is not None:
                await asyncio.shield(self._reading)

    async def ensure(self, pattern: str, retention: TopicRetention) -> StreamFacts:
        """Return the stream that keeps all topics of ``pattern``; make one if there is none.

        Raises:
            ConfigurationError: none keeps them all, and none can be made that does.
            Unavailable, TimeoutError: nobody answered.
        """
        pattern = pattern.replace(OWN_RESOURCE, "*")
        await self._read()
        found = self._covering(pattern)
        if found is not None:
            return found
        config = self._config(pattern, retention)
        await self._transport.ensure_stream(config)
        _log.info("topics_kept", stream=config.name, subjects=config.subjects)
        await self._read()
        made = self._covering(pattern)
        if made is None:
            raise ConfigurationError(f"no stream keeps {pattern!r}, though {config.name} was made")
        return made

    def close(self) -> None:
        """Ask no more."""
        if self._reading is not None:
            self._reading.cancel()

    def _config(self, pattern: str, retention: TopicRetention) -> StreamConfig:
        root = pattern.partition(".")[0]
        subject = self._subjects.topic(pattern)
        partial = [
            one.name
            for one in self._streams
            if any(overlaps(kept, subject) for kept in one.subjects)
        ]
        if partial:
            raise ConfigurationError(
                f"{', '.join(partial)} keeps some topics of {pattern!r}, but not all in one stream: "
                f"let one stream keep {subject}"
            )
        if root in ("*", ">"):
            raise ConfigurationError(
                f"no stream keeps {pattern!r}, and none can be made for topics that begin with "
                f"anything: name the first level, or make a stream that keeps {subject}"
            )
        name = self._subjects.topic_stream(root)
        if len(name) > MAX_STREAM_NAME_BYTES:
            raise ConfigurationError(
                f"{root!r}: is too long a first level for topics that are kept"
            )
        tree = f"{self._subjects.namespace}.topic.{escape(root)}"
        return StreamConfig(
            name, [tree, f"{tree}.>"], retention.replicas, retention.max_bytes, retention.max_age
        )

    def _covering(self, pattern: str) -> StreamFacts | None:
        if not self._streams:
            return None
        subject = self._subjects.topic(pattern)
        for one in self._streams:
            if any(matches(kept, subject) for kept in one.subjects):
                return one
        return None

    def _refresh_later(self) -> None:
        known = self._read_at
        if known is None or self._loop.time() - known >= KNOWN_SECONDS:
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._reading is None or self._reading.done():
            self._reading = self._loop.create_task(self._read_quietly())

    async def _read_quietly(self) -> None:
        try:
            await self._read()
        except ConnectionClosed:
            return
        except (AegisError, TimeoutError) as error:
            # What is published meanwhile is stored where a stream captures it.
            _log.warning("kept_topics_unknown", error=str(error))
            self._read_at = self._loop.time()

    async def _read(self) -> None:
        self._streams = await self._transport.streams(self._subjects.topic(">"))
        self._read_at = self._loop.time()
