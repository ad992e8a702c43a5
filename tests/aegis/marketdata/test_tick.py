"""The tick and its form on the wire."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.marketdata._tick import Level, Tick, TickFlag, TickUnreadable, price
from tests.support.marketdata import NO_PRICE, tick

PRICES = st.none() | st.floats(-1e9, 1e9)


@given(
    last_price=PRICES,
    volume=st.integers(0, 2**40),
    symbol=st.text(min_size=1, max_size=30),
    levels=st.lists(
        st.builds(Level, PRICES, st.integers(0, 10**6), PRICES, st.integers(0, 10**6)), max_size=5
    ).map(tuple),
)
def test_a_tick_is_read_as_it_was_written(
    last_price: float | None, volume: int, symbol: str, levels: tuple[Level, ...]
) -> None:
    written = tick(last_price=last_price, volume=volume, symbol=symbol, levels=levels)
    assert Tick.from_wire(written.to_wire()) == written


def test_the_version_is_the_first_thing_in_a_message() -> None:
    assert msgpack.unpackb(tick().to_wire())[0] == 1


def test_fields_that_a_later_version_adds_are_left_out() -> None:
    written = (*tick(), "something new", 7)
    assert Tick.from_wire(msgpack.packb(written)) == tick()


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", msgpack.packb({"a": 1}), msgpack.packb([1, 2]), msgpack.packb([2, *tick()[1:]])],
    ids=["empty", "no msgpack", "a map", "too short", "another version"],
)
def test_what_is_no_tick_is_refused(data: bytes) -> None:
    with pytest.raises(TickUnreadable, match="no tick"):
        Tick.from_wire(data)


@pytest.mark.parametrize(
    "value", [NO_PRICE, -NO_PRICE, float("inf"), float("-inf"), float("nan"), None]
)
def test_a_price_that_does_not_exist_is_none(value: float | None) -> None:
    assert price(value) is None


@pytest.mark.parametrize("value", [0.0, -37.63, 1e-9, 123456.5])
def test_a_price_that_exists_stays_as_it_is(value: float) -> None:
    assert price(value) == value  # 0 and less are prices, too: of spreads, and once of oil.


def test_a_tick_tells_its_contract_its_lag_and_whether_it_is_stale() -> None:
    assert tick().key == "SHFE.rb2701"
    assert tick().lag_seconds == pytest.approx(0.02)
    assert not tick().stale
    assert tick(flags=TickFlag.STALE | TickFlag.SNAPSHOT).stale
