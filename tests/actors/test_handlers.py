# No `from __future__ import annotations`: the classes below are defined inside of the
# tests, where hints kept as text could not be read.
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from attrs import define, frozen

from aegis.actors._actor import AegisActor
from aegis.actors._handlers import HandlerSpec, applies, command, describe, query
from aegis.contracts import Kind
from aegis.errors import ConfigurationError, InvalidRequest, NotFound


@frozen
class Deposited:
    amount: Decimal


@define
class AccountState:
    cash: Decimal = Decimal(0)


class Account(AegisActor):
    service = "account"
    state: AccountState

    @command
    async def deposit(self, amount: Decimal, note: str = "") -> Decimal:
        return amount

    @query(name="balance")
    def read_balance(self, at: datetime | None = None) -> Decimal:
        return self.state.cash

    @applies(Deposited, version=2)
    def deposited(self, event: Deposited) -> None:
        self.state.cash += event.amount

    def helper(self) -> int:
        return 1


def deposit() -> HandlerSpec:
    return describe(Account).handlers["deposit"]


def test_a_description_holds_handlers_state_and_events() -> None:
    spec = describe(Account)
    assert spec.service == "account"
    assert set(spec.handlers) == {"deposit", "balance"}
    assert spec.handlers["deposit"].kind is Kind.COMMAND
    assert spec.handlers["deposit"].is_async
    assert spec.handlers["balance"].kind is Kind.QUERY
    assert not spec.handlers["balance"].is_async
    assert spec.new_state() == AccountState()
    assert spec.is_event_sourced
    event = spec.event_for(Deposited(Decimal(1)))
    assert (event.name, event.version) == ("Deposited", 2)
    assert event.read(2, event.unstructure(Deposited(Decimal("1.5")))) == Deposited(Decimal("1.5"))


def test_a_class_is_described_once_and_each_subclass_by_itself() -> None:
    class Special(Account):
        @command
        async def close(self) -> None: ...

    assert describe(Account) is describe(Account)
    assert set(describe(Special).handlers) == {"deposit", "balance", "close"}
    assert set(describe(Account).handlers) == {"deposit", "balance"}


def test_parameters_are_structured_by_their_hints_and_defaults_are_left_to_the_method() -> None:
    assert deposit().bind({"amount": "1.50"}) == {"amount": Decimal("1.50")}
    assert deposit().bind({"amount": 2, "note": "x"}) == {"amount": Decimal(2), "note": "x"}


@pytest.mark.parametrize(
    ("params", "field", "text"),
    [
        ({}, "amount", "missing"),
        ({"amount": "1", "colour": 1}, "colour", "unknown"),
        ({"amount": "lots"}, "amount", "decimal"),
        ({"amount": "1", "note": 5}, "note", "text"),
    ],
)
def test_a_field_that_is_missing_unknown_or_mistyped_is_named(
    params: dict[str, Any], field: str, text: str
) -> None:
    with pytest.raises(InvalidRequest, match=text) as caught:
        deposit().bind(params)
    assert caught.value.facts["field"] == field
    assert field in str(caught.value)


def test_a_method_that_does_not_exist_is_404_and_one_of_the_other_kind_400() -> None:
    spec = describe(Account)
    with pytest.raises(NotFound, match="balance, deposit"):
        spec.handler("withdraw")
    with pytest.raises(InvalidRequest, match="is a command, not a query"):
        spec.handler("deposit", "query")
    assert spec.handler("deposit", "command") is spec.handlers["deposit"]


def test_arguments_are_matched_by_position_and_name() -> None:
    assert deposit().params_of((1,), {"note": "x"}) == {"amount": 1, "note": "x"}
    with pytest.raises(InvalidRequest, match="2 arguments, not 3"):
        deposit().params_of((1, 2, 3), {})
    with pytest.raises(InvalidRequest, match="given twice"):
        deposit().params_of((1,), {"amount": 2})


def test_arguments_that_do_not_fit_travel_as_what_they_are() -> None:
    assert deposit().unstructure_params({"amount": Decimal("1.5")}) == {"amount": "1.5"}
    assert deposit().unstructure_params({"amount": 5}) == {"amount": 5}
    assert deposit().unstructure_params({"amount": [Decimal(1)]}) == {"amount": ["1"]}
    with pytest.raises(InvalidRequest) as caught:
        deposit().unstructure_params({"amount": object()})
    assert caught.value.facts["field"] == "amount"


def test_an_event_that_no_method_applies_is_refused() -> None:
    @frozen
    class Other:
        pass

    with pytest.raises(ConfigurationError, match=r"@applies\(Other\)"):
        describe(Account).event_for(Other())


def test_an_actor_without_handlers_needs_no_service_name() -> None:
    class Quiet(AegisActor):
        pass

    assert describe(Quiet).service == ""


def refuses(text: str, cls: Any) -> None:
    """``cls`` is refused with one line that has ``text`` and the class's name in it."""
    with pytest.raises(ConfigurationError, match=text) as caught:
        describe(cls)
    line = str(caught.value)
    assert "\n" not in line
    assert getattr(cls, "__name__", "") in line


def test_what_is_no_actor_is_refused() -> None:
    class Plain:
        pass

    refuses("subclass aegis.AegisActor", Plain)
    refuses("subclass aegis.AegisActor", AegisActor)
    refuses("subclass aegis.AegisActor", 5)


def test_a_class_without_service_name_is_refused() -> None:
    class Nameless(AegisActor):
        @query
        async def get(self) -> int:
            return 1

    refuses('add service = "..."', Nameless)


@pytest.mark.parametrize("name", ["a b", "x" * 201, "tab\t"])
def test_a_service_name_that_is_no_legal_id_is_refused(name: str) -> None:
    class Odd(AegisActor):
        service = name

        @query
        async def get(self) -> int:
            return 1

    refuses("service name", Odd)


def test_a_handler_without_hints_is_refused() -> None:
    class NoParameterHint(AegisActor):
        service = "a"

        @command
        async def put(self, amount) -> None: ...  # type: ignore[no-untyped-def] # pyright: ignore

    class NoResultHint(AegisActor):
        service = "a"

        @command
        async def put(self, amount: int): ...  # type: ignore[no-untyped-def] # pyright: ignore

    refuses("put: parameter 'amount' has no type hint; add one", NoParameterHint)
    refuses("put: the result has no type hint; add one", NoResultHint)


def test_a_hint_that_cannot_cross_the_wire_or_be_read_is_refused() -> None:
    class Socket:
        pass

    class BadType(AegisActor):
        service = "a"

        @command
        async def put(self, socket: Socket) -> None: ...

    class BadText(AegisActor):
        service = "a"

        @command
        async def put(self, x: "Missing") -> None: ...  # type: ignore[name-defined] # noqa: F821 # pyright: ignore

    refuses("put: parameter 'socket'.*no form on the wire", BadType)
    refuses("put: a type hint cannot be read", BadText)


def test_parameters_that_have_no_name_on_the_wire_are_refused() -> None:
    class Stars(AegisActor):
        service = "a"

        @command
        async def put(self, *items: int) -> None: ...

    class Keywords(AegisActor):
        service = "a"

        @command
        async def put(self, /, **items: int) -> None: ...

    class Positional(AegisActor):
        service = "a"

        @command
        async def put(self, item: int, /) -> None: ...

    refuses("name each parameter", Stars)
    refuses("name each parameter", Keywords)
    refuses("remove the /", Positional)


def test_only_a_query_that_is_async_may_yield_and_says_what() -> None:
    class Untyped(AegisActor):
        service = "a"

        @query
        async def items(self) -> Any:
            yield 1

    class Command(AegisActor):
        service = "a"

        @command
        async def items(self) -> AsyncIterator[int]:
            yield 1

    class Plain(AegisActor):
        service = "a"

        @query
        def items(self) -> Iterator[int]:
            yield 1

    class Stream(AegisActor):
        service = "a"

        @query
        async def items(self) -> AsyncIterator[Decimal]:
            yield Decimal(1)

    refuses("needs the type of its items", Untyped)
    refuses("only a query that is async def can yield", Command)
    refuses("only a query that is async def can yield", Plain)
    items = describe(Stream).handlers["items"]
    assert (items.is_stream, items.result, items.is_async) == (True, Decimal, False)


def test_a_handler_with_the_name_of_something_of_aegis_actor_is_refused() -> None:
    class Clash(AegisActor):
        service = "a"

        @command
        async def stop(self) -> None: ...  # type: ignore[override] # pyright: ignore

    refuses("the name belongs to AegisActor; rename", Clash)


def test_two_handlers_of_one_name_are_refused() -> None:
    class Twice(AegisActor):
        service = "a"

        @command
        async def put(self) -> None: ...

        @command(name="put")
        async def also_put(self) -> None: ...

    refuses("another method is called 'put'", Twice)


def test_an_override_that_lost_its_decorator_is_refused() -> None:
    class Careless(Account):
        async def deposit(  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
            self, amount: Decimal, note: str = ""
        ) -> Decimal:
            return amount

    refuses("add the same decorator", Careless)


def test_a_decorator_that_hides_the_mark_is_refused() -> None:
    class Static(AegisActor):
        service = "a"

        @staticmethod
        @query
        async def get(x: int) -> int:
            return x

    refuses("put @command or @query topmost", Static)


def test_a_decorator_on_something_else_than_a_method_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="marks methods"):
        command(5)  # type: ignore[call-overload] # pyright: ignore
    with pytest.raises(ConfigurationError, match="needs the event's class"):
        applies("Deposited")  # type: ignore[arg-type] # pyright: ignore


def test_state_that_cannot_be_made_or_is_shared_is_refused() -> None:
    @define
    class Needs:
        cash: Decimal

    class NoDefault(AegisActor):
        service = "a"
        state: Needs

    class Shared(AegisActor):
        service = "a"
        state: AccountState = AccountState()

    refuses("give every field a default", NoDefault)
    refuses("shared by all resources", Shared)


def test_an_applies_method_that_cannot_replay_is_refused() -> None:
    class NoState(AegisActor):
        service = "a"

        @applies(Deposited)
        def deposited(self, event: Deposited) -> None: ...

    class Async(AegisActor):
        service = "a"
        state: AccountState

        @applies(Deposited)  # type: ignore[type-var]
        async def deposited(self, event: Deposited) -> None: ...

    class Twice(AegisActor):
        service = "a"
        state: AccountState

        @applies(Deposited)
        def one(self, event: Deposited) -> None: ...

        @applies(Deposited)
        def two(self, event: Deposited) -> None: ...

    class NoEvent(AegisActor):
        service = "a"
        state: AccountState

        @applies(Deposited)
        def deposited(self) -> None: ...

    refuses("declare it in the class body", NoState)
    refuses("must be a plain def", Async)
    refuses("two methods apply events called Deposited", Twice)
    refuses("takes self and the event", NoEvent)
