"""Topics (sans-I/O): what names they have, which of them a pattern means, who waits.

A topic is levels with dots between them, as in ``prices.ALPHA``. In a pattern ``*``
stands for one level, ``>`` at the end for one or more, and ``{resource_id}`` for the
subscribing resource's own name.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from functools import lru_cache
from typing import Final

from attrs import define, field

from aegis.contracts import check_id

__all__ = [
    "DEFAULT_QUEUE_SIZE",
    "MAX_TOPIC_BYTES",
    "OWN_RESOURCE",
    "Overflow",
    "TopicQueue",
    "pattern_problem",
    "topic_problem",
]

MAX_TOPIC_BYTES: Final = 200
"""The longest topic, in UTF-8 bytes: as long as any other name."""

DEFAULT_QUEUE_SIZE: Final = 256
"""How many messages wait for one handler of one actor unless its decorator says."""

OWN_RESOURCE: Final = "{resource_id}"
"""The level of a pattern that stands for the subscribing resource's own name."""


class Overflow(StrEnum):
    """What gives way when a subscriber's queue is full."""

    DROP_OLDEST = "drop_oldest"
    """The message that has waited longest: the newest is worth most, as with prices."""
    DROP_NEWEST = "drop_newest"
    """The message that comes: those before it were not to be missed."""


def topic_problem(topic: object) -> str | None:
    """Return what is wrong with ``topic`` as one to publish to, or None."""
    return _topic_problem(topic) if isinstance(topic, str) else _levels_problem(topic)


# Each publication asks, some more than once, and most go to the same few topics.
@lru_cache(maxsize=4_096)
def _topic_problem(topic: str) -> str | None:
    problem = _levels_problem(topic)
    if problem is not None:
        return problem
    for level in topic.split("."):
        if "*" in level or ">" in level:
            return f"has a wildcard in {level!r}; publish to one topic, and subscribe to many"
        if "{" in level or "}" in level:
            return f"has braces in {level!r}; they stand for the resource in patterns only"
    return None


def pattern_problem(pattern: str) -> str | None:
    """Return what is wrong with ``pattern`` as one to subscribe to, or None."""
    problem = _levels_problem(pattern)
    if problem is not None:
        return problem
    levels = pattern.split(".")
    for index, level in enumerate(levels):
        if level == ">" and index < len(levels) - 1:
            return "has > before its end; it stands for all levels that follow"
        if level not in ("*", ">") and ("*" in level or ">" in level):
            return f"has a wildcard within {level!r}; a wildcard is a whole level"
        if level != OWN_RESOURCE and ("{" in level or "}" in level):
            return f"has braces in {level!r}; the only name there is {OWN_RESOURCE}, a whole level"
    if levels.count(OWN_RESOURCE) > 1:
        return f"has {OWN_RESOURCE} more than once"
    return None


def _levels_problem(topic: object) -> str | None:
    if not isinstance(topic, str):
        return f"must be text, not {type(topic).__name__}"
    if (problem := check_id(topic)) is not None:
        return problem  # It tells of length, spaces and control characters.
    if "" in topic.split("."):
        return "has an empty level; write levels with one dot between them, as in prices.ALPHA"
    return None


@define
class TopicQueue[T]:
    """What waits for one handler of one actor; ``dropped`` counts what gave way."""

    size: int
    overflow: Overflow
    dropped: int = 0
    _waiting: deque[T] = field(factory=deque["T"])

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: T) -> bool:
        """Take ``item`` in; return whether nothing had to give way."""
        if len(self._waiting) < self.size:
            self._waiting.append(item)
            return True
        self.dropped += 1
        if self.overflow is Overflow.DROP_OLDEST:
            self._waiting.popleft()
            self._waiting.append(item)
        return False

    def take(self) -> T | None:
        """Return what has waited longest, or None if nothing waits."""
        return self._waiting.popleft() if self._waiting else None

    def clear(self) -> int:
        """Drop all that waits; return how many that were."""
        count = len(self._waiting)
        self._waiting.clear()
        self.dropped += count
        return count
