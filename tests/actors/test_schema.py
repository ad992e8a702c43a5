"""Versions of events and states, as a class declares them."""

# No `from __future__ import annotations`: the classes below are defined inside of the
# tests, where hints kept as text could not be read.
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import applies, command, describe, upcasts
from aegis.errors import ConfigurationError, InvalidRequest


@define
class Paid:
    amount: int
    currency: str
    payer: str


@define
class PaidBefore:
    """Version 2, whose amounts were in cents."""

    cents: int
    currency: str


@define
class Purse:
    total: int = 0
    currency: str = "EUR"


class Till(AegisActor):
    service = "till"
    state: Purse
    state_version = 3

    @applies(Paid, version=3)
    def paid(self, event: Paid) -> None:
        self.state.total += event.amount

    @staticmethod
    @upcasts(Paid, from_version=1)
    def with_currency(old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "currency": "EUR"}

    @upcasts(Paid, from_version=2)
    @staticmethod
    def in_units(old: PaidBefore) -> Paid:
        return Paid(old.cents // 100, old.currency, "unknown")

    @staticmethod
    @upcasts(Purse, from_version=2)
    def from_cents(old: dict[str, int]) -> dict[str, int]:
        return {"total": old["cents"] // 100}


def test_an_event_is_brought_up_to_date_step_by_step() -> None:
    read = describe(Till).events["Paid"].read
    assert read(1, {"cents": 500}) == Paid(5, "EUR", "unknown")
    assert read(2, {"cents": 500, "currency": "CHF"}) == Paid(5, "CHF", "unknown")
    plain = {"amount": 5, "currency": "CHF", "payer": "me"}
    assert read(3, plain) == Paid(5, "CHF", "me")


@pytest.mark.parametrize(
    ("version", "plain", "told"),
    [
        (4, {}, "up to version 3 only: a later release wrote it"),
        (0, {}, "no version"),
        (True, {}, "no version"),
        (1, {"cents": "many"}, "in_units cannot bring version 2 up to date"),
        (2, {"cents": 1}, "currency"),
        (3, {"amount": 5}, "currency"),
    ],
)
def test_what_cannot_be_read_says_why(version: Any, plain: Any, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        describe(Till).events["Paid"].read(version, plain)


def test_a_state_carries_its_version_from_2_on() -> None:
    spec = describe(Till)
    written = spec.unstructure_state(Purse(7))
    assert written == {"$version": 3, "state": {"total": 7, "currency": "EUR"}}
    assert spec.structure_state(written) == Purse(7)
    assert spec.structure_state({"$version": 2, "state": {"cents": 700}}) == Purse(7)
    unread: list[Any] = [{"cents": 700}, {"$version": 1, "state": {}}]
    for old in unread:
        with pytest.raises(InvalidRequest, match=r"add @upcasts\(Purse, from_version=1\)"):
            spec.structure_state(old)
    with pytest.raises(InvalidRequest, match="a later release"):
        spec.structure_state({"$version": 4, "state": {}})

    class First(AegisActor):
        service = "first"
        state: Purse

    # As a journal from before there were versions has it.
    assert describe(First).unstructure_state(Purse(7)) == {"total": 7, "currency": "EUR"}
    assert describe(First).structure_state({"total": 7}) == Purse(7)


def test_a_declaration_that_cannot_work_is_refused_when_the_class_is_read() -> None:
    def told_of(make: Callable[[], type]) -> str:
        with pytest.raises(ConfigurationError) as caught:
            describe(make())
        return str(caught.value)

    def no_static() -> type:
        class Wrong(AegisActor):
            service = "x"
            state: Purse
            state_version = 2

            @upcasts(Purse, from_version=1)
            def up(self, old: Any) -> Any: ...

        return Wrong

    def too_far() -> type:
        class Wrong(AegisActor):
            service = "x"
            state: Purse

            @staticmethod
            @upcasts(Purse, from_version=1)
            def up(old: Any) -> Any: ...

        return Wrong

    def gap() -> type:
        class Wrong(AegisActor):
            service = "x"
            state: Purse
            state_version = 3

            @staticmethod
            @upcasts(Purse, from_version=1)
            def up(old: Any) -> Any: ...

        return Wrong

    def twice() -> type:
        class Wrong(AegisActor):
            service = "x"
            state: Purse
            state_version = 2

            @staticmethod
            @upcasts(Purse, from_version=1)
            def up(old: Any) -> Any: ...

            @staticmethod
            @upcasts(Purse, from_version=1)
            def up_too(old: Any) -> Any: ...

        return Wrong

    def stranger() -> type:
        class Wrong(AegisActor):
            service = "x"
            state: Purse

            @staticmethod
            @upcasts(Paid, from_version=1)
            def up(old: Any) -> Any: ...

        return Wrong

    def no_version() -> type:
        class Wrong(AegisActor):
            service = "x"
            state: Purse
            state_version = 0

            @command
            async def go(self) -> None: ...

        return Wrong

    assert "put @staticmethod above it" in told_of(no_static)
    assert "leads beyond version 1" in told_of(too_far)
    assert "from_version=2) is missing" in told_of(gap)
    assert "is there twice" in told_of(twice)
    assert "it has no such one" in told_of(stranger)
    assert "whole number from 1" in told_of(no_version)
    with pytest.raises(ConfigurationError, match="from_version"):
        upcasts(Paid, from_version=0)
    with pytest.raises(ConfigurationError, match="needs the class"):
        upcasts("Paid", from_version=1)  # type: ignore[arg-type]  # pyright: ignore
