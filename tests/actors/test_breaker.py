"""Circuit breakers: who is spared, for how long, and how the sparing ends."""

from __future__ import annotations

from aegis.actors import _breaker
from aegis.actors._breaker import FAILURES, OPEN_SECONDS, Breakers


def opened(at: float = 0.0) -> Breakers:
    breakers = Breakers()
    for _ in range(FAILURES):
        breakers.failed("a", at)
    return breakers


def test_several_failures_in_a_row_open_the_breaker_of_that_instance() -> None:
    breakers = Breakers()
    for _ in range(FAILURES - 1):
        breakers.failed("a", 0.0)
        assert breakers.admits("a", 0.0)
    breakers.failed("a", 0.0)
    assert not breakers.admits("a", 0.0)
    assert breakers.admits("b", 0.0)


def test_an_answer_between_failures_begins_the_count_anew() -> None:
    breakers = Breakers()
    for _ in range(10 * FAILURES):
        breakers.failed("a", 0.0)
        breakers.answered("a")
    assert breakers.admits("a", 0.0)
    assert not breakers


def test_who_cannot_be_there_is_spared_at_once() -> None:
    breakers = Breakers()
    breakers.failed("a", 0.0, at_once=True)
    assert not breakers.admits("a", 0.0)


def test_one_message_tries_an_instance_whose_time_is_over() -> None:
    breakers = opened()
    assert not breakers.admits("a", OPEN_SECONDS - 0.001)
    assert breakers.admits("a", OPEN_SECONDS)
    breakers.sent("a", OPEN_SECONDS)
    assert not breakers.admits("a", OPEN_SECONDS)
    breakers.answered("a")
    assert breakers.admits("a", OPEN_SECONDS)


def test_a_trial_that_fails_opens_it_again() -> None:
    breakers = opened()
    breakers.sent("a", OPEN_SECONDS)
    breakers.failed("a", OPEN_SECONDS + 1)
    assert not breakers.admits("a", 2 * OPEN_SECONDS)
    assert breakers.admits("a", 2 * OPEN_SECONDS + 1)


def test_a_trial_of_which_nothing_is_heard_does_not_spare_for_ever() -> None:
    breakers = opened()
    breakers.sent("a", OPEN_SECONDS)
    assert breakers.admits("a", 2 * OPEN_SECONDS)


def test_failures_are_remembered_of_so_many_instances_and_no_more() -> None:
    breakers = Breakers()
    for number in range(_breaker.MAX_BREAKERS + 5):
        breakers.failed(str(number), 0.0, at_once=True)
    assert breakers.admits("4", 0.0)
    assert not breakers.admits("5", 0.0)
