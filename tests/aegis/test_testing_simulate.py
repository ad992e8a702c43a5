"""`aegis.testing.simulate`: it finds planted bugs in users' actors, and nothing in good ones."""

from __future__ import annotations

import asyncio
import random
import time
from random import Random
from typing import Any

import pytest
from attrs import define, field

from aegis import (
    AegisActor,
    Answer,
    ConfigurationError,
    Rejected,
    applies,
    command,
    query,
)
from aegis.testing import Do, Outside, SimulationFailed, States, simulate

SEEDS = 30
"""Enough for each planted bug; good actors get fewer, since all of theirs are run."""


@define
class Purse:
    """Money, and how often it changed."""

    cash: int = 0
    changes: int = 0


class Good(AegisActor):
    """An account without a bug: commands, queries, reminders."""

    service = "good"
    state: Purse

    @command
    async def put_in(self, amount: int) -> int:
        self.state.cash += amount
        self.state.changes += 1
        return self.state.cash

    @command
    def take_out(self, amount: int) -> int:
        if amount > self.state.cash:
            raise Rejected("not enough", cash=self.state.cash)
        self.state.cash -= amount
        self.state.changes += 1
        return self.state.cash

    @command
    async def pay_interest_later(self, after: float) -> None:
        self.remind("interest", "pay_interest", after=after)

    @command
    async def pay_interest(self) -> None:
        self.state.cash += self.state.cash // 10

    @query
    async def cash(self) -> int:
        return self.state.cash


def draw(rng: Random) -> Do:
    name = rng.choice(["put_in", "take_out", "take_out", "pay_interest_later", "cash"])
    if name == "cash":
        return Do(name)
    if name == "pay_interest_later":
        return Do(name, after=round(rng.uniform(0.1, 3.0), 2))
    return Do(name, amount=rng.randint(1, 50))


def never_in_debt(states: States) -> None:
    assert states.only.cash >= 0, "in debt"


def moves(rng: Random) -> Do:
    return Do(rng.choice(["put_in", "put_in", "take_out"]), amount=rng.randint(1, 50))


def failure_of(*args: Any, **kwargs: Any) -> SimulationFailed:
    with pytest.raises(SimulationFailed) as failed:
        simulate(*args, **{"seeds": SEEDS, **kwargs})
    return failed.value


def test_a_good_actor_passes_and_the_report_says_what_was_tried() -> None:
    report = simulate(Good, draw, never_in_debt, seeds=12)
    assert report.seeds == 12
    assert report.commands == 12 * 20
    assert report.crashes > 5
    assert report.failovers >= report.crashes // 2
    assert report.counts["reminders"] > 0
    assert report.counts["its reply is lost"] > 0
    assert "12 seeds, 240 commands" in str(report)


# -- planted bugs ------------------------------------------------------------------------


class NoCheck(Good):
    """Takes out what is not there: a plain bug that an invariant tells."""

    service = "no-check"

    @command
    def take_out(self, amount: int) -> int:
        self.state.cash -= amount
        return self.state.cash


def test_a_broken_invariant_is_found_and_the_run_made_short() -> None:
    failed = failure_of(NoCheck, moves, [never_in_debt])
    assert "never_in_debt does not hold: in debt" in failed.problem
    assert "states: no-check/R-1: Purse(cash=-" in failed.problem
    assert len(failed.turns) == 1  # one command is enough
    assert failed.turns[0].startswith("call no-check/R-1 take_out(amount=")
    assert ";" not in failed.turns[0]  # and no fault
    assert f"simulate(..., seeds=[{failed.seed}])" in str(failed)
    again = failure_of(NoCheck, moves, [never_in_debt], seeds=[failed.seed])
    assert str(again) == str(failed)


def test_an_invariant_may_return_whether_it_holds() -> None:
    def small(states: States) -> bool:
        return bool(states.only.cash < 60)

    failed = failure_of(Good, moves, small)
    assert "small does not hold, it returned False" in failed.problem
    assert len(failed.turns) <= 3


class Forgetful(Good):
    """Keeps a count beside its state, which a failover loses."""

    service = "forgetful"

    def on_start(self) -> None:
        self.seen = 0

    @command
    async def put_in(self, amount: int) -> int:
        self.seen += 1
        self.state.cash += amount
        return self.seen


def test_state_outside_of_the_journaled_state_is_found() -> None:
    failed = failure_of(Forgetful, moves)
    assert "in the run, and 200" in failed.problem
    assert "outside of self.state" in failed.problem
    assert len(failed.turns) <= 3
    assert any(word in " ".join(failed.turns) for word in ("dies", "killed", "drained", "frozen"))


@define
class Moved:
    """Money came or went."""

    amount: int


class Booked(AegisActor):
    """An event-sourced account without a bug."""

    service = "booked"
    state: Purse

    @command
    async def put_in(self, amount: int) -> int:
        self.emit(Moved(amount))
        return self.state.cash

    @command
    async def take_out(self, amount: int) -> int:
        if amount > self.state.cash:
            raise Rejected("not enough")
        self.emit(Moved(-amount))
        return self.state.cash

    @applies(Moved)
    def on_moved(self, event: Moved) -> None:
        self.state.cash += event.amount


def test_a_good_event_sourced_actor_passes() -> None:
    assert simulate(Booked, moves, never_in_debt, seeds=8).crashes > 0


class Fickle(Booked):
    """What it applies is not the same each time."""

    service = "fickle"

    @applies(Moved)
    def on_moved(self, event: Moved) -> None:
        self.state.cash += event.amount + random.choice([0, 1])


def test_an_apply_that_does_not_do_the_same_each_time_is_found() -> None:
    failed = failure_of(Fickle, moves)
    assert "random.choice" in failed.problem or "does not do the same each time" in failed.problem
    assert len(failed.turns) <= 5


class Sly(Booked):
    """Changes its state without an event."""

    service = "sly"

    @command
    async def put_in(self, amount: int) -> int:
        self.emit(Moved(amount))
        self.state.changes += 1
        return self.state.cash


def test_a_state_that_changes_without_an_event_is_found() -> None:
    failed = failure_of(Sly, moves)
    assert "@applies" in failed.problem
    assert len(failed.turns) == 1


bank = Outside("bank", charge="charged")


class Careless(Good):
    """Charges a card without saying for which message."""

    service = "careless"

    @command
    async def put_in(self, amount: int) -> int:
        await bank.charge(amount)
        self.state.cash += amount
        return self.state.cash


class Careful(Good):
    """Charges a card once, however often the command runs."""

    service = "careful"

    @command
    async def put_in(self, amount: int) -> int:
        assert await bank.charge(amount, key=self.message_id) == "charged"
        self.state.cash += amount
        return self.state.cash


def test_a_handler_that_is_not_idempotent_toward_outside_is_found() -> None:
    failed = failure_of(Careless, moves, outside=bank)
    assert "bank.charge(" in failed.problem
    assert "happened twice for one message" in failed.problem
    assert "self.message_id" in failed.problem
    assert len(failed.turns) == 1
    assert "dies before the append" in failed.turns[0]


def test_a_handler_that_names_its_message_outside_charges_once() -> None:
    def charged_what_came_in(states: States) -> None:
        if states.at_rest:
            assert sum(call.args[0] for call in bank.effects) == states.only.cash

    def puts(rng: Random) -> Do:
        return Do("put_in", amount=rng.randint(1, 9))

    report = simulate(Careful, puts, charged_what_came_in, seeds=8, outside=[bank])
    assert report.counts["died before the append"] > 0


class Clocked(Good):
    """Puts the time into its state."""

    service = "clocked"

    @command
    async def put_in(self, amount: int) -> int:
        self.state.changes = time.time_ns()
        return amount


def test_the_clock_in_a_command_is_found_and_named() -> None:
    failed = failure_of(Clocked, moves)
    assert "time.time_ns" in failed.problem
    assert "give such values to the command as parameters" in failed.problem
    assert len(failed.turns) == 1


class Dicey(Good):
    """Throws dice."""

    service = "dicey"

    @command
    async def put_in(self, amount: int) -> int:
        return random.randrange(10**9)


def test_randomness_in_a_command_is_found_and_named() -> None:
    assert "random.randrange" in failure_of(Dicey, moves).problem


class Buggy(Good):
    """Fails now and then."""

    service = "buggy"

    @command
    async def put_in(self, amount: int) -> int:
        return 100 // (amount - 7)


def test_a_handler_that_fails_is_found_unless_it_may() -> None:
    failed = failure_of(Buggy, moves)
    assert "put_in(amount=7) raised ZeroDivisionError" in failed.problem
    assert simulate(Buggy, [Do("put_in", amount=7)], seeds=2, may_fail=True).commands == 2


# -- several actors ------------------------------------------------------------------------


@define
class Till:
    """Money here, and on its way from here."""

    cash: int = 100
    on_its_way: dict[str, int] = field(factory=dict[str, int])


class Payer(AegisActor):
    """Sends money to others of its kind, and takes back what they refuse."""

    service = "payer"
    state: Till

    @command
    async def pay(self, to: str, amount: int) -> None:
        if amount > self.state.cash:
            raise Rejected("not enough")
        self.state.cash -= amount
        message_id = self.send(Payer, to, "take", amount=amount, reply_to="taken")
        self.state.on_its_way[message_id] = amount

    @command
    async def take(self, amount: int) -> None:
        if amount > 40:
            raise Rejected("too much at once")
        self.state.cash += amount

    @command
    async def taken(self, answer: Answer) -> None:
        amount = self.state.on_its_way.pop(answer.message_id)
        if not answer.ok:
            self.state.cash += amount


class Loser(Payer):
    """Forgets to take back what was refused."""

    service = "loser"

    @command
    async def pay(self, to: str, amount: int) -> None:
        if amount > self.state.cash:
            raise Rejected("not enough")
        self.state.cash -= amount
        self.send(Loser, to, "take", amount=amount)


def transfers(rng: Random) -> Do:
    to, other = rng.sample(["a", "b", "c"], 2)
    return Do("pay", to=to, amount=rng.randint(1, 60)).on(other)


def nothing_is_lost(actor: type[AegisActor]) -> Any:
    def nothing_is_lost(states: States) -> None:
        if states.at_rest:
            tills = states.of(actor).values()
            assert sum(till.cash for till in tills) == 300
            assert not any(till.on_its_way for till in tills)

    return nothing_is_lost


def test_what_actors_send_one_another_neither_vanishes_nor_doubles() -> None:
    report = simulate(
        {Payer: ["a", "b", "c"]}, transfers, nothing_is_lost(Payer), seeds=6, length=12
    )
    assert report.counts["messages"] > 20


def test_a_repeat_at_the_end_of_a_mailbox_is_no_message_under_way() -> None:
    # A new owner forwards a message again, and its receiver passes that over for good.
    simulate({Payer: ["a", "b", "c"]}, transfers, nothing_is_lost(Payer), seeds=[18], length=6)


def test_money_that_a_saga_loses_is_found() -> None:
    failed = failure_of({Loser: ["a", "b", "c"]}, transfers, nothing_is_lost(Loser), length=12)
    assert "nothing_is_lost does not hold" in failed.problem
    assert len(failed.turns) == 1


class Asker(AegisActor):
    """Asks another actor in its commands."""

    service = "asker"
    state: Purse

    @command
    async def copy(self, of: str) -> int:
        self.state.cash = await self.actor(Good, of).cash()
        return self.state.cash


def test_commands_that_query_other_actors_are_replayed_with_what_they_learned() -> None:
    def both(rng: Random) -> Do:
        if rng.random() < 0.5:
            return Do("copy", of="g").on(Asker)
        return Do("put_in", amount=rng.randint(1, 9)).on(Good)

    def one_of_each(states: States) -> None:
        assert states[Asker, "x"].cash <= states[Good, "g"].cash
        assert len(list(states)) == 2

    simulate({Asker: ["x"], Good: ["g"]}, both, one_of_each, seeds=6)


# -- the same again, and wrong use ---------------------------------------------------------


def test_the_commands_may_be_a_list_so_that_others_can_draw_them() -> None:
    given = [Do("put_in", amount=5), Do("take_out", amount=3)]
    report = simulate(Good, given, never_in_debt, seeds=3)
    assert report.commands == 6


def test_setup_runs_before_each_seed() -> None:
    ran: list[int] = []
    simulate(Good, [Do("cash")], seeds=3, setup=lambda: ran.append(1))
    assert ran == [1, 1, 1]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Do("put_inn", amount=1), "good has no method 'put_inn'"),
        (Do("put_in"), "amount: is missing"),
        (Do("put_in", amount="x"), "amount"),
        (Do("put_in", amount=1).on("R-2"), "'R-2' is no simulated resource; there are R-1"),
        (Do("put_in", amount=1).on(Booked), "Booked is not simulated"),
        ("put_in", "has to be a Do"),
    ],
)
def test_commands_that_do_not_exist_are_refused(given: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        simulate(Good, [given], seeds=1)


def test_several_actors_need_commands_that_name_theirs() -> None:
    with pytest.raises(ConfigurationError, match=r"say of which actor, as in \.on\(Good\)"):
        simulate({Good: ["a"], Booked: ["b"]}, [Do("put_in", amount=1)], seeds=1)
    with pytest.raises(ConfigurationError, match="at least one resource"):
        simulate({Good: []}, [Do("put_in", amount=1)], seeds=1)


def test_an_invariant_that_raises_is_told_as_the_mistake_that_it_is() -> None:
    def wrong(states: States) -> None:
        _ = states.only.money

    with pytest.raises(ConfigurationError, match=r"the invariant wrong raised AttributeError"):
        simulate(Good, moves, wrong, seeds=1)

    def other(states: States) -> None:
        _ = states[Booked, "b"]

    with pytest.raises(ConfigurationError, match=r"no Booked 'b' is simulated; only good/R-1"):
        simulate(Good, moves, other, seeds=1)


def test_a_simulation_inside_an_event_loop_is_refused() -> None:
    async def inside() -> None:
        simulate(Good, moves, seeds=1)

    with pytest.raises(RuntimeError, match="plain def test"):
        asyncio.run(inside())


class Stuck(Good):
    """Never comes to an end."""

    service = "stuck"

    @command
    async def put_in(self, amount: int) -> int:
        await asyncio.get_running_loop().create_future()
        return amount


def test_a_command_that_never_ends_is_found() -> None:
    failed = failure_of(Stuck, [Do("put_in", amount=1)], seeds=1)
    assert "put_in(amount=1): no answer within 20 s" in failed.problem
