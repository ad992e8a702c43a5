"""Values by type hints: strict on the way in, plain on the way out."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag, StrEnum
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.errors import InvalidRequest
from aegis.transport import decode_value, encode_value, structurer, to_plain, unstructurer


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Rights(IntFlag):
    READ = 1
    WRITE = 2


class Odd(Enum):
    PAIR = (1, "a")
    NOTHING = None


Price = NewType("Price", Decimal)
type Prices = list[Price]


@attrs.define
class Leg:
    price: Decimal
    tags: set[str] = attrs.Factory(set[str])


@attrs.frozen
class Market:
    venue: str


@dataclasses.dataclass
class Limit:
    price: Decimal
    until: datetime | None = None


@attrs.define
class Order:
    id: UUID
    side: Side
    legs: list[Leg]
    terms: Market | Limit
    by_name: dict[str, tuple[int, str]]
    parent: Order | None = None


@attrs.define
class Box[T]:
    value: T


class Row(TypedDict):
    name: str
    size: int


class Point(NamedTuple):
    x: int
    y: int


def _order(parent: Order | None = None) -> Order:
    return Order(
        UUID(int=7),
        Side.BUY,
        [Leg(Decimal("1.50"), {"b", "a"})],
        Limit(Decimal("0.10"), datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        {"a": (1, "x")},
        parent,
    )


def _round_trip(hint: Any, value: Any) -> Any:
    return structurer(hint)(decode_value(encode_value(unstructurer(hint)(value))))


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 5), (float, 1.5), (bool, True), (str, "x"), (bytes, b"\xff"), (None, None),
        (Decimal, Decimal("10.50")), (Decimal, Decimal("-0")), (Decimal, Decimal("1E+5")),
        (datetime, datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)), (datetime, datetime(2024, 1, 2)),
        (date, date(2024, 1, 2)), (time, time(1, 2, 3)), (timedelta, timedelta(seconds=1.5)),
        (UUID, UUID(int=1)), (Side, Side.SELL), (Level, Level.HIGH), (Odd, Odd.NOTHING),
        (Rights, Rights.READ | Rights.WRITE),
        (Literal["a", 1], 1), (Price, Decimal(1)), (Prices, [Decimal(1)]),
        (Annotated[int, "metres"], 5), (Any, {"a": [1, None]}), (object, 5),
        (list[Decimal], [Decimal(1)]), (list, [1]), (Sequence[int], [1]), (deque[int], deque([1])),
        (tuple[int, ...], (1, 2)), (tuple[int, Decimal], (1, Decimal(2))), (tuple[()], ()),
        (tuple, (1,)), (set[Decimal], {Decimal(1), Decimal(2)}), (frozenset[int], frozenset({1})),
        (dict[str, Decimal], {"a": Decimal(1)}), (dict[int, date], {1: date(2024, 1, 1)}),
        (dict[Side, int], {Side.BUY: 1}), (Mapping[str, int], {"a": 1}), (dict, {"a": 1}),
        (int | None, None), (Decimal | None, Decimal(1)), (int | str, "5"), (int | str, 5),
        (float | None, 2.0), (int | Decimal, Decimal(5)), (list[int] | int, [1]),
        (Market | Limit, Market("x")), (Market | Limit | None, None), (list[Market | Limit], [Market("x")]),
        (Market | None, Market("x")), (Box[Decimal], Box(Decimal(1))), (Box[list[Side]], Box([Side.BUY])),
        (Row, {"name": "a", "size": 1}), (Point, Point(1, 2)),
    ],
)  # fmt: skip
def test_values_come_back_as_they_were(hint: Any, value: Any) -> None:
    back = _round_trip(hint, value)
    assert back == value
    assert type(back) is type(value)


def test_classes_come_back_as_they_were_nested_and_recursive() -> None:
    order = _order(parent=_order(parent=_order()))
    assert _round_trip(Order, order) == order


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_every_finite_decimal_comes_back_with_all_its_digits(value: Decimal) -> None:
    back = _round_trip(Decimal, value)
    assert back.as_tuple() == value.as_tuple()


@given(st.datetimes() | st.datetimes(timezones=st.just(UTC)))
def test_every_datetime_comes_back(value: datetime) -> None:
    assert _round_trip(datetime, value) == value


@pytest.mark.parametrize("hint", [int, str, bool, float, bytes, list[int], dict[str, str], Any])
def test_primitives_cost_nothing_on_the_way_out(hint: Any) -> None:
    value: Any = {} if hint == dict[str, str] else []
    if hint in (list[int], dict[str, str]):
        assert unstructurer(hint)(value) is value


def test_numbers_are_accepted_as_decimals_by_what_was_meant() -> None:
    structure = structurer(Decimal)
    assert structure(10) == Decimal(10)
    assert structure(0.1) == Decimal("0.1")
    assert structure(1e22) == Decimal("1e22")


def test_an_integer_is_accepted_as_a_float() -> None:
    assert type(structurer(float)(1)) is float


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, True), (int, "1"), (int, 1.0), (int, None), (float, "1"), (float, True), (float, 10**400),
        (bool, 1), (bool, "true"), (str, 1), (str, b"x"), (bytes, "x"), (None, 0),
        (Decimal, "ten"), (Decimal, ""), (Decimal, True), (Decimal, None), (Decimal, "NaN"),
        (Decimal, "Infinity"), (Decimal, "-inf"), (Decimal, "sNaN"), (Decimal, float("nan")),
        (Decimal, float("inf")), (Decimal, [0, [1], 0]), (datetime, 5), (datetime, "yesterday"),
        (date, "2024-13-01"), (time, "25:00"), (timedelta, "1"), (timedelta, float("nan")),
        (timedelta, 1e300), (UUID, "7"), (UUID, 7), (Side, "hold"), (Side, 1), (Side, []), (Level, True),
        (Level, 3), (Level, "LOW"), (Literal[1], True), (Literal["a"], "b"), (Literal["a"], {}),
        (list[int], "abc"), (list[int], {"a": 1}), (list[int], ["1"]), (tuple[int, str], [1]),
        (tuple[int, str], [1, "a", 2]), (tuple[int, ...], 5), (set[Any], [[1]]), (set[int], {"a": 1}),
        (dict[str, int], [1]), (dict[str, int], {1: 1}), (dict[str, int], {"a": "b"}),
        (int | str, 1.5), (int | None, "x"), (Leg, []), (Leg, "x"), (Leg, {}), (Leg, {"price": None}),
        (Market | Limit, {"venue": "x"}), (Market | Limit, {"$type": "Leg"}), (Market | Limit, {"$type": []}),
        (Market | Limit, "x"), (Row, {"name": "a"}), (Row, 5),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line_that_names_the_field(
    hint: Any, value: Any
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        structurer(hint, field="params.amount")(value)
    assert caught.value.message.startswith("params.amount")
    assert "\n" not in caught.value.message
    assert str(caught.value.facts["field"]).startswith("params.amount")


def _break_price(plain: Any) -> None:
    plain["legs"][0]["price"] = "x"


def _break_tag(plain: Any) -> None:
    plain["legs"][0]["tags"].append(1)


def _drop_side(plain: Any) -> None:
    del plain["side"]


def _break_until(plain: Any) -> None:
    plain["terms"]["until"] = "x"


def _break_class(plain: Any) -> None:
    plain["terms"]["$type"] = "x"


def _break_name(plain: Any) -> None:
    plain["by_name"]["a"] = [1, 2]


def _break_parent(plain: Any) -> None:
    plain["parent"]["id"] = 5


@pytest.mark.parametrize(
    ("damage", "path"),
    [
        (_break_price, "params.order.legs[0].price"),
        (_break_tag, "params.order.legs[0].tags[2]"),
        (_drop_side, "params.order.side"),
        (_break_until, "params.order.terms.until"),
        (_break_class, "params.order.terms.$type"),
        (_break_name, "params.order.by_name['a'][1]"),
        (_break_parent, "params.order.parent.id"),
    ],
)
def test_the_path_leads_to_the_part_that_is_wrong(damage: Callable[[Any], None], path: str) -> None:
    plain = decode_value(encode_value(_order(parent=_order())))
    structurer(Order)(plain)
    damage(plain)
    with pytest.raises(InvalidRequest) as caught:
        structurer(Order, field="params.order")(plain)
    assert caught.value.facts["field"] == path
    assert caught.value.message.startswith(f"{path}: ")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
       lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
def test_no_plain_value_makes_structuring_fail_in_any_other_way(value: Any) -> None:
    for hint in (Order, Decimal, list[Leg], dict[str, Limit], Market | Limit | None, Side, Row):
        message = ""
        try:
            structurer(hint)(value)
        except InvalidRequest as error:
            message = error.message
        assert "\n" not in message


@pytest.mark.parametrize(
    "hint",
    [Decimal | str, date | datetime, Market | dict[str, int], set[int] | list[int], Odd | int],
)
def test_a_union_whose_members_look_alike_on_the_wire_is_refused_when_it_is_compiled(
    hint: Any,
) -> None:
    with pytest.raises(TypeError, match="told apart"):
        structurer(hint)
    with pytest.raises(TypeError, match="told apart"):
        unstructurer(hint)


class Opaque:
    pass


@pytest.mark.parametrize("hint", [Opaque, list[Opaque], Opaque | None, complex])
def test_a_class_with_no_form_on_the_wire_is_refused_when_it_is_compiled(hint: Any) -> None:
    with pytest.raises(TypeError, match="no form on the wire"):
        structurer(hint)
    with pytest.raises(TypeError, match="no form on the wire"):
        unstructurer(hint)


def test_what_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(InvalidRequest, match="finite"):
        unstructurer(Leg)(Leg(Decimal("NaN")))


def test_values_without_a_hint_are_written_by_their_own_class() -> None:
    assert to_plain([Side.BUY, (Decimal(1), {Level.HIGH}), {UUID(int=1): date(2024, 1, 1)}]) == [
        "buy",
        ["1", [2]],
        {str(UUID(int=1)): "2024-01-01"},
    ]
    with pytest.raises(TypeError):
        to_plain(Opaque())


def test_equal_sets_have_equal_bytes() -> None:
    names = [f"name-{number}" for number in range(100)]
    unstructure = unstructurer(set[str])
    assert encode_value(unstructure(set(names))) == encode_value(unstructure(set(reversed(names))))
