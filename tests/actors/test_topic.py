"""Topics: their form, what a class may subscribe to, and whose message gives way."""

# No `from __future__ import annotations`: the classes below are defined inside of the
# tests, where hints kept as text could not be read.
from typing import Any

import pytest

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import command, describe, subscribes
from aegis.actors._topic import Overflow, TopicQueue, pattern_problem, topic_problem
from aegis.errors import ConfigurationError


@pytest.mark.parametrize("topic", ["prices", "prices.ALPHA", "a.b.c-1", "Prix.été", "a=b.x/y", "$"])
def test_a_topic_is_levels_of_any_text_with_dots_between_them(topic: str) -> None:
    assert topic_problem(topic) is None
    assert pattern_problem(topic) is None


@pytest.mark.parametrize(
    ("topic", "told"),
    [
        ("", "empty"),
        (".", "empty level"),
        ("a..b", "empty level"),
        ("a.", "empty level"),
        (".a", "empty level"),
        ("a b", "spaces"),
        ("a\n", "spaces"),
        ("x" * 201, "201 bytes"),
        ("a.*", "wildcard"),
        ("a.>", "wildcard"),
        ("a*", "wildcard"),
        ("a.{resource_id}", "braces"),
        (None, "text"),
        (7, "text"),
    ],
)
def test_what_is_no_topic_to_publish_to_is_told(topic: Any, told: str) -> None:
    problem = topic_problem(topic)
    assert problem is not None
    assert told in problem


@pytest.mark.parametrize(
    "pattern", ["*", ">", "a.*", "a.*.c", "a.>", "*.>", "prices.{resource_id}", "{resource_id}.>"]
)
def test_wildcards_are_whole_levels(pattern: str) -> None:
    assert pattern_problem(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("a*", "within"),
        ("a.b>", "within"),
        ("a.>.b", "before its end"),
        ("a.x{resource_id}", "braces"),
        ("a.{name}", "braces"),
        ("{resource_id}.{resource_id}", "more than once"),
        ("a..*", "empty level"),
        (b"a", "text"),
    ],
)
def test_what_is_no_pattern_is_told(pattern: Any, told: str) -> None:
    problem = pattern_problem(pattern)
    assert problem is not None
    assert told in problem
    with pytest.raises(ConfigurationError, match=told):
        subscribes(pattern)


def test_the_oldest_gives_way_or_the_newest_and_each_is_counted() -> None:
    oldest = TopicQueue[int](2, Overflow.DROP_OLDEST)
    newest = TopicQueue[int](2, Overflow.DROP_NEWEST)
    assert [oldest.put(n) for n in range(4)] == [True, True, False, False]
    assert [newest.put(n) for n in range(4)] == [True, True, False, False]
    assert [oldest.take(), oldest.take(), oldest.take()] == [2, 3, None]
    assert [newest.take(), newest.take(), newest.take()] == [0, 1, None]
    assert oldest.dropped == newest.dropped == 2


def test_a_class_tells_what_it_subscribes_to() -> None:
    class Listener(AegisActor):
        service = "listener"

        @subscribes("a.*", queue_size=3, overflow="drop_newest")
        @subscribes("b.{resource_id}")
        def hear(self, value: int, topic: str) -> None: ...

        @subscribes("c")
        async def hear_c(self, value: list[int], missed: int, topic: str) -> None: ...

    spec = describe(Listener)
    told = {s.pattern: (s.name, s.is_async, s.wants, s.queue_size) for s in spec.subscriptions}
    assert told == {
        "a.*": ("hear", False, ("topic",), 3),
        "b.{resource_id}": ("hear", False, ("topic",), 256),
        "c": ("hear_c", True, ("missed", "topic"), 256),
    }
    assert {s.own_level for s in spec.subscriptions} == {None, 1}
    assert spec.handlers == {}


def test_a_subscriber_that_cannot_work_is_refused_when_its_class_is_read() -> None:
    class NoValue(AegisActor):
        service = "x"

        @subscribes("a")
        def hear(self) -> None: ...

    class NoHint(AegisActor):
        service = "x"

        @subscribes("a")
        def hear(self, value) -> None: ...  # type: ignore[no-untyped-def]

    class TooMany(AegisActor):
        service = "x"

        @subscribes("a")
        def hear(self, value: int, subject: str) -> None: ...

    class Yields(AegisActor):
        service = "x"

        @subscribes("a")
        async def hear(self, value: int) -> Any:
            yield value

    class NoName(AegisActor):
        @subscribes("a")
        def hear(self, value: int) -> None: ...

    for cls, told in (
        (NoValue, "takes self, the value"),
        (NoHint, "no type hint"),
        (TooMany, "takes self, the value"),
        (Yields, "cannot yield"),
        (NoName, "no service name"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            describe(cls)


def test_wrong_bounds_and_marks_that_exclude_each_other_are_refused() -> None:
    for size in (0, -1, 1.5, True):
        with pytest.raises(ConfigurationError, match="queue_size"):
            subscribes("a", queue_size=size)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="drop_oldest"):
        subscribes("a", overflow="drop_all")
    with pytest.raises(ConfigurationError, match="@subscribes and @command"):

        @subscribes("a")
        @command
        async def hear(self: AegisActor, value: int) -> None: ...  # pyright: ignore
