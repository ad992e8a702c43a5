"""The verdict of `aegis chaos`: it finds nothing where nothing is wrong, and each thing that is.

A small world is played without processes: callers write real ledgers, resources are the
state of the real services. Then something is broken on purpose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from aegis.ops._chaos_ledger import Ledger, Story, Transfer, read_story
from aegis.ops._chaos_services import (
    APPLIED,
    CREDIT,
    DEBIT,
    FORGOTTEN,
    OPENING_CASH,
    REFUSED,
    VOID,
    WRITE,
    Book,
    Numbers,
    Sheet,
    Step,
)
from aegis.ops._chaos_transfers import Ended, Move, next_step
from aegis.ops._chaos_verdict import Verdict, judge

BANK, REGISTERS = "chaos-purse", "chaos-register"


class World:
    """One caller, two accounts and a register; time goes on by one at each line."""

    def __init__(self) -> None:
        self.lines: list[list[Any]] = []
        self.sheets: dict[tuple[str, str], Sheet] = {
            (BANK, "A"): Book(),
            (BANK, "B"): Book(),
            (REGISTERS, "R"): Sheet(),
        }
        self.now = 0.0
        self._numbers: dict[tuple[str, str], int] = {}
        self._attempts: dict[tuple[str, str], int] = {}

    def write(self, *line: Any) -> None:
        self.lines.append(list(line))

    def tick(self) -> float:
        self.now += 1
        return self.now

    def step(
        self, service: str, resource: str, what: str, value: int, transfer: int = 0, role: str = "",
        *, entry: int = 0, is_told: bool = True, arrives: bool = True,
    ) -> int:  # fmt: skip
        place = service, resource
        if not entry:
            entry = self._numbers[place] = self._numbers.get(place, 0) + 1
        attempt = self._attempts[place] = self._attempts.get(place, 0) + 1
        step = Step("caller", attempt, entry, 1, what, value)
        key = (service, resource, entry, attempt)
        self.write("ask", self.tick(), *key, what, value, transfer, role)
        if arrives:
            self.sheets[place].take(step)
        if is_told:
            outcome = self.sheets[place].outcome(step)
            self.write("told", self.tick(), *key, outcome.took, outcome.place, outcome.value)
        else:
            self.write("failed", *key, "OutcomeUnknown: no answer")
        return entry

    def transfer(self, number: int, amount: int = 100) -> None:
        self.write("transfer", number, BANK, "A", "B", amount)
        self.step(BANK, "A", DEBIT, amount, number, "debit")
        self.step(BANK, "B", CREDIT, amount, number, "credit")
        self.write("end", number, "done")

    def read(self, value: int) -> None:
        self.write("read", "R", self.tick(), self.tick(), value)

    def story(self) -> Story:
        story = Story("caller")
        for line in self.lines:
            story.note(line)
        return story

    def judge(self) -> Verdict:
        held = {place: attrs.asdict(sheet) for place, sheet in self.sheets.items()}
        return judge([self.story()], held, REGISTERS)

    def wrong(self) -> str:
        return "\n".join(self.judge().wrong)


def played() -> World:
    """Transfers of every end, and a register, with nothing wrong."""
    world = World()
    world.transfer(1)
    # Refused: there is not so much.
    world.write("transfer", 2, BANK, "A", "B", OPENING_CASH)
    world.step(BANK, "A", DEBIT, OPENING_CASH, 2, "debit")
    world.write("end", 2, "refused")
    # Taken back, after a credit that nobody was told of and that never arrived.
    world.write("transfer", 3, BANK, "B", "A", 7)
    world.step(BANK, "B", DEBIT, 7, 3, "debit")
    entry = world.step(BANK, "A", CREDIT, 7, 3, "credit", is_told=False, arrives=False)
    world.step(BANK, "A", VOID, 7, 3, "credit", entry=entry)
    world.step(BANK, "B", CREDIT, 7, 3, "return")
    world.write("end", 3, "compensated")
    # To be taken back, and it had been applied.
    world.write("transfer", 4, BANK, "B", "A", 9)
    world.step(BANK, "B", DEBIT, 9, 4, "debit")
    entry = world.step(BANK, "A", CREDIT, 9, 4, "credit", is_told=False)
    world.step(BANK, "A", VOID, 9, 4, "credit", entry=entry)
    world.write("end", 4, "done")
    world.step(REGISTERS, "R", WRITE, 41)
    world.read(41)
    entry = world.step(REGISTERS, "R", WRITE, 42, is_told=False)
    world.step(REGISTERS, "R", VOID, 42, entry=entry)
    world.read(42)
    world.transfer(5)
    return world


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    verdict = played().judge()
    assert verdict.wrong == []
    assert verdict.transfers == {"done": 3, "refused": 1, "compensated": 1}
    assert (verdict.register_reads, verdict.register_writes) == (2, 2)
    assert (verdict.unknown, verdict.decided_later, verdict.found_applied) == (3, 3, 2)


def told(world: World, resource: str, number: int) -> list[Any]:
    """The line that says how an entry ended."""
    return next(x for x in world.lines if x[0] == "told" and (x[3], x[4]) == (resource, number))


def lose_an_entry(world: World) -> None:
    world.sheets[BANK, "B"].pages["caller"].entries.holes.append(1)


def lose_a_message(world: World) -> None:
    world.sheets[BANK, "B"].pages["caller"].attempts.holes.append(1)


def apply_a_message_twice(world: World) -> None:
    world.sheets[BANK, "B"].take(Step("caller", 1, 1, 1, CREDIT, 100))


def apply_what_nobody_asked_for(world: World) -> None:
    world.sheets[BANK, "B"].take(Step("caller", 90, 90, 1, CREDIT, 100))


def a_caller_that_nobody_knows(world: World) -> None:
    world.sheets[BANK, "B"].take(Step("stranger", 1, 1, 1, VOID, 1))


def lose_money(world: World) -> None:
    world.sheets[BANK, "A"].value -= 1


def an_effect_undone(world: World) -> None:
    world.sheets[BANK, "A"].places -= 1


def told_another_value(world: World) -> None:
    told(world, "A", 1)[-1] += 1


def told_a_place_twice(world: World) -> None:
    told(world, "A", 2)[-2] = 1


def refused_though_covered(world: World) -> None:
    told(world, "A", 1)[-3] = REFUSED


def told_of_a_refusal_that_was_none(world: World) -> None:
    told(world, "B", 1)[-3] = VOID


def never_decided(world: World) -> None:
    world.lines.remove(told(world, "B", 1))


def a_transfer_left_half_done(world: World) -> None:
    world.lines.remove(told(world, "B", 5))
    world.lines.remove(["end", 5, "done"])


def a_transfer_that_was_never_ended(world: World) -> None:
    world.lines.remove(["end", 1, "done"])


def a_stale_read(world: World) -> None:
    world.read(41)


def a_read_of_what_nobody_wrote(world: World) -> None:
    world.read(99)


def a_resource_that_is_silent(world: World) -> None:
    del world.sheets[REGISTERS, "R"]


def forgotten_too_early(world: World) -> None:
    told(world, "A", 1)[-3] = FORGOTTEN


def an_order_against_time(world: World) -> None:
    """The places of two entries say one order; who was told before the other asked, another."""
    first, second = told(world, "B", 2), told(world, "B", 3)
    asked = next(x for x in world.lines if x[0] == "ask" and (x[3], x[4]) == ("B", 2))
    asked[1] = second[1] + 0.5
    first[1] = second[1] + 0.6


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lose_an_entry, "entry 1 of caller was acknowledged and is lost"),
        (lose_a_message, "message 1 of caller was acknowledged and is lost"),
        (apply_a_message_twice, "1 messages took effect twice"),
        (apply_what_nobody_asked_for, "nobody asked for entry 90 of caller"),
        (a_caller_that_nobody_knows, "nobody asked for message 1 of stranger"),
        (lose_money, f"{BANK}: {2 * OPENING_CASH} at the beginning, {2 * OPENING_CASH - 1}"),
        (an_effect_undone, f"{BANK}/A: holds"),
        (told_another_value, f"what stood before makes it {OPENING_CASH - 100}"),
        (told_a_place_twice, "was told place 1, and 2 is the next"),
        (refused_though_covered, "debit 100 was refused at place 1"),
        (told_of_a_refusal_that_was_none, "is due, after"),
        (never_decided, "nobody knows how it ended"),
        (a_transfer_left_half_done, "transfer 5 of caller: is not at its end"),
        (a_transfer_that_was_never_ended, "transfer 1 of caller: ended as open"),
        (a_stale_read, "not linearizable"),
        (a_read_of_what_nobody_wrote, "not linearizable"),
        (a_resource_that_is_silent, f"{REGISTERS}/R: does not say what it holds"),
        (forgotten_too_early, "its outcome was forgotten while it was asked for"),
        (an_order_against_time, "told before one at an earlier place than"),
    ],
)
def test_each_kind_of_harm_is_found(harm: Callable[[World], None], found: str) -> None:
    world = played()
    harm(world)
    assert found in world.wrong()


# -- the ledger ------------------------------------------------------------------------------


async def test_a_ledger_is_read_back_as_it_was_written_without_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "caller.ledger"
    world = played()
    for line in world.lines[:20]:
        await Ledger(file).write(*line)
    with file.open("a") as torn:
        torn.write('["ask", 1, "chaos-purse", "A"')
    ledger = Ledger(file)
    await asyncio.gather(*(ledger.write(*line) for line in world.lines[20:]))
    assert read_story("caller", file) == world.story()


def test_a_line_of_an_unknown_kind_is_no_part_of_a_ledger() -> None:
    with pytest.raises(ValueError, match="unknown kind: boast"):
        Story("caller").note(["boast", 1])


def test_without_a_file_nothing_was_begun(tmp_path: Path) -> None:
    assert read_story("caller", tmp_path / "none") == Story("caller")


# -- transfers -------------------------------------------------------------------------------

TRANSFER = Transfer(1, BANK, "A", "B", 5)


@pytest.mark.parametrize(
    ("outcomes", "compensate", "step"),
    [
        ({}, False, Move("debit", "A", DEBIT)),
        ({}, True, Move("debit", "A", DEBIT)),
        ({"debit": REFUSED}, False, Ended("refused")),
        ({"debit": APPLIED}, False, Move("credit", "B", CREDIT)),
        ({"debit": APPLIED}, True, Move("credit", "B", VOID)),
        ({"debit": APPLIED, "credit": APPLIED}, True, Ended("done")),
        ({"debit": APPLIED, "credit": VOID}, False, Move("return", "A", CREDIT)),
        (
            {"debit": APPLIED, "credit": VOID, "return": APPLIED},
            False,
            Ended("compensated"),
        ),
    ],
)
def test_a_transfer_goes_on_from_what_its_ledger_says(
    outcomes: dict[str, str], compensate: bool, step: Move | Ended
) -> None:
    assert next_step(TRANSFER, outcomes, compensate=compensate) == step


# -- what a resource remembers ---------------------------------------------------------------


def test_an_entry_is_decided_once_by_whichever_attempt_comes_first() -> None:
    book = Book()
    first, second = Step("c", 1, 1, 1, CREDIT, 5), Step("c", 2, 1, 1, VOID, 5)
    book.take(second)
    book.take(first)
    assert book.outcome(first) == book.outcome(second)
    assert book.outcome(first).took == VOID
    assert (book.value, book.places, book.repeated) == (OPENING_CASH, 1, 0)


def test_outcomes_that_the_caller_knows_are_forgotten_and_stay_decided() -> None:
    book = Book()
    late = Step("c", 2, 1, 1, DEBIT, 5)
    book.take(Step("c", 1, 1, 1, DEBIT, 5))
    book.take(Step("c", 3, 2, 2, DEBIT, 5))
    book.take(late)
    assert book.outcome(late).took == FORGOTTEN
    assert (book.value, book.places) == (OPENING_CASH - 10, 2)


def test_numbers_are_a_set_that_takes_no_room_for_what_is_complete() -> None:
    numbers = Numbers()
    assert [numbers.note(number) for number in (3, 1, 3, 1, 2, 2)] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert (numbers.highest, numbers.holes) == (3, [])
