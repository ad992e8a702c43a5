"""How to test an actor: time that is advanced, crashes at chosen steps, probes, simulation."""

from collections.abc import Iterator
from random import Random

import pytest

from aegis import Rejected, command
from aegis.testing import (
    Do,
    MemoryCluster,
    Outside,
    SimulationFailed,
    States,
    Step,
    in_virtual_time,
    run,
    simulate,
)
from examples.orders import Order, Phase

cards = Outside("cards", charge="receipt")


@pytest.fixture(autouse=True)
def _fake_cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Order, "cards", cards, raising=False)
    yield
    cards.reset()


@in_virtual_time
async def test_an_order_lapses_after_an_hour() -> None:
    async with MemoryCluster() as memory:
        await memory.start_node((Order, ["O-1"]))
        order = memory.cluster.actor(Order, "O-1")
        await order.place(cents=500)
        await memory.advance(3599)
        assert (await order.status()).phase is Phase.OPEN
        await memory.advance(1)
        assert (await order.status()).phase is Phase.LAPSED


def test_a_plain_test_runs_a_scenario() -> None:
    async def scenario() -> None:
        async with MemoryCluster() as memory:
            await memory.start_node((Order, ["O-1"]))
            with pytest.raises(Rejected, match="it is new"):
                await memory.cluster.actor(Order, "O-1").pay()

    run(scenario())


@pytest.mark.parametrize("step", [Step.BEFORE_APPEND, Step.AFTER_APPEND])
@in_virtual_time
async def test_a_card_is_charged_once_though_the_owner_dies(step: Step) -> None:
    async with MemoryCluster() as memory:
        paid = await memory.record_topic("orders.paid")
        await memory.start_node((Order, ["O-1"]))
        await memory.start_node((Order, ["O-1"]), role="standby")
        order = memory.cluster.actor(Order, "O-1")
        await order.place(cents=500)
        with memory.crash_at(step, Order, "O-1", "pay"):
            assert await order.pay() == "receipt"  # the standby answers
        assert [str(effect)[:11] for effect in cards.effects] == ["charge(500,"]
        if step is Step.BEFORE_APPEND:
            await paid.expect("orders.paid", value="O-1")


def commands(rng: Random) -> Do:
    if rng.random() < 0.5:
        return Do("place", cents=rng.randint(1, 9))
    return Do("pay")


def what_is_paid_was_charged(states: States) -> None:
    order = states.only
    charged = sum(call.args[0] for call in cards.effects)
    assert order.paid <= charged
    if states.at_rest:
        assert order.paid == charged


def test_orders_are_paid_once_whatever_fails() -> None:
    report = simulate(Order, commands, what_is_paid_was_charged, seeds=20, length=6, outside=cards)
    assert report.crashes > 0


class CarelessOrder(Order):
    """Does not say for which message it charges a card."""

    @command
    async def pay(self) -> str:
        if self.state.phase is not Phase.OPEN:
            raise Rejected("not now")
        self.state.receipt = await cards.charge(self.state.cents)
        self.state.phase, self.state.paid = Phase.PAID, self.state.cents
        return self.state.receipt


def test_the_simulation_finds_the_card_that_is_charged_twice() -> None:
    with pytest.raises(SimulationFailed) as failed:
        simulate(CarelessOrder, commands, seeds=100, length=6, outside=cards)
    assert "happened twice for one message" in failed.value.problem
    assert [turn.partition("(")[0] for turn in failed.value.turns] == [
        "call card-order/R-1 place",
        "call card-order/R-1 pay",
    ]
    assert "dies before the append" in failed.value.turns[-1]
