"""The ledger finds what it is there to find, and nothing where all is well."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from attrs import define, field

from aegis.ops._ledger import ACCOUNTS, BOOKS, PRICING, Ledger, Problem


@define
class Record:
    """A day at a small exchange, written out by hand: what was answered, what is left.

    A sells 3 of its 10 units of ALPHA to B at 2000.00: both orders match at once, and
    1 unit of B's order for 4 stays on the book.
    """

    acknowledged: list[tuple[str, str | None, str, dict[str, Any], dict[str, Any]]] = field()
    accounts: dict[str, dict[str, Any]] = field()
    books: dict[str, dict[str, Any]] = field()

    def problems(self) -> list[Problem]:
        return [finding.problem for finding in self.ledger().check(self.accounts, self.books)]

    def ledger(self) -> Ledger:
        ledger = Ledger()
        for entry in self.acknowledged:
            ledger.acknowledged(*entry)
        return ledger

    def find(self, method: str, number: int = 0) -> int:
        return [i for i, entry in enumerate(self.acknowledged) if entry[2] == method][number]


def posting(entry: int, cash: str, reserved: str, position: int = 0, promised: int = 0) -> Any:
    return {
        "entry": entry,
        "cash": cash,
        "reserved": reserved,
        "position": position,
        "position_reserved": promised,
    }


@pytest.fixture
def day() -> Record:
    sell = {"account": "A", "side": "sell", "price": 200_000, "quantity": 3}
    buy = {"account": "B", "side": "buy", "price": 200_000, "quantity": 4}
    trade = {
        "trade_id": 1,
        "price": 200_000,
        "quantity": 3,
        "maker": 1,
        "taker": 2,
        "buyer": "B",
        "seller": "A",
    }
    settled = {"trade": "ALPHA-1", "symbol": "ALPHA", "quantity": 3}
    quoted = {"side": "buy", "price": 200_000, "quantity": 4}
    quote = {"quote_id": "q", "value": "8000", "reserve": "8004", "unit_reserve": "2001"}
    units = {"symbol": "ALPHA", "quantity": 10}
    promised = {"symbol": "ALPHA", "quantity": 3}
    return Record(
        acknowledged=[
            (ACCOUNTS, "A", "deliver", units, posting(1, "0", "0", 10)),
            (ACCOUNTS, "B", "deposit", {"amount": "10000"}, posting(1, "10000", "0")),
            (ACCOUNTS, "A", "reserve_position", promised, posting(2, "0", "0", 10, 3)),
            (BOOKS, "ALPHA", "submit", sell, submitted(1, [], resting=3)),
            (PRICING, None, "quote", quoted, quote),
            (ACCOUNTS, "B", "reserve", {"amount": "8004"}, posting(2, "10000", "8004")),
            (BOOKS, "ALPHA", "submit", buy, submitted(2, [trade], resting=1)),
            (
                ACCOUNTS,
                "A",
                "settle_sell",
                {**settled, "proceeds": "6000", "fee": "1.20"},
                posting(3, "5998.80", "0", 7, 0),
            ),
            (
                ACCOUNTS,
                "B",
                "settle_buy",
                {**settled, "cost": "6000", "fee": "3.00", "reserved": "6003"},
                posting(3, "3997.00", "2001", 3, 0),
            ),
        ],
        accounts={
            "A": {
                "entries": 3,
                "cash": "5998.80",
                "reserved": "0",
                "fees": "1.20",
                "positions": {"ALPHA": {"quantity": 7, "reserved": 0}},
            },
            "B": {
                "entries": 3,
                "cash": "3997.00",
                "reserved": "2001",
                "fees": "3.00",
                "positions": {"ALPHA": {"quantity": 3, "reserved": 0}},
            },
        },
        books={
            "ALPHA": {
                "sequence": 2,
                "trades": 1,
                "open_orders": [
                    {
                        "order_id": 2,
                        "account": "B",
                        "side": "buy",
                        "price": 200_000,
                        "quantity": 1,
                    }
                ],
            }
        },
    )


def submitted(order_id: int, trades: list[dict[str, Any]], resting: int) -> dict[str, Any]:
    return {"order_id": order_id, "trades": trades, "resting": resting, "cancelled": 0}


def test_nothing_is_found_where_all_is_well(day: Record) -> None:
    assert day.problems() == []


def test_an_acknowledged_deposit_that_the_account_does_not_have_is_lost(day: Record) -> None:
    day.acknowledged.append((ACCOUNTS, "B", "deposit", {"amount": "5"}, posting(4, "4002", "2001")))
    assert Problem.LOST in day.problems()


def test_two_deposits_acknowledged_as_one_entry_are_a_loss(day: Record) -> None:
    day.acknowledged.append(copy.deepcopy(day.acknowledged[day.find("deposit")]))
    assert Problem.LOST in day.problems()


def test_a_deposit_made_twice_is_repeated_and_the_money_is_wrong(day: Record) -> None:
    day.accounts["B"] |= {"entries": 4, "cash": "13997.00"}
    problems = day.problems()
    assert Problem.REPEATED in problems
    assert Problem.WRONG in problems


def test_a_repeat_hidden_from_the_numbers_still_shows_in_the_balance(day: Record) -> None:
    day.accounts["B"]["cash"] = "13997.00"
    assert Problem.WRONG in day.problems()


def test_an_order_submitted_twice_is_repeated(day: Record) -> None:
    day.books["ALPHA"]["sequence"] = 3
    assert Problem.REPEATED in day.problems()


def test_an_order_that_the_book_has_forgotten_is_lost(day: Record) -> None:
    day.books["ALPHA"] |= {"sequence": 1, "open_orders": []}
    assert Problem.LOST in day.problems()


def test_a_trade_that_was_never_settled_is_lost(day: Record) -> None:
    del day.acknowledged[day.find("settle_sell")]
    day.accounts["A"] |= {"entries": 2, "cash": "0", "fees": "0"}
    day.accounts["A"]["positions"] = {"ALPHA": {"quantity": 10, "reserved": 3}}
    assert Problem.LOST in day.problems()


def test_two_commands_with_one_quote_are_a_loss(day: Record) -> None:
    day.acknowledged.append(copy.deepcopy(day.acknowledged[day.find("quote")]))
    assert day.problems() == [Problem.LOST]


def test_a_trade_at_another_price_than_priority_gives_is_wrong(day: Record) -> None:
    day.acknowledged[day.find("submit", 1)][4]["trades"][0]["price"] = 200_001
    assert Problem.WRONG in day.problems()


def test_a_fee_that_is_not_the_agreed_one_is_wrong(day: Record) -> None:
    day.acknowledged[day.find("settle_buy")][3]["fee"] = "2.00"
    assert Problem.WRONG in day.problems()


def test_cash_out_of_nowhere_is_wrong(day: Record) -> None:
    day.accounts["A"]["cash"] = "6000.80"
    wheres = {finding.where for finding in day.ledger().check(day.accounts, day.books)}
    assert wheres == {"trading-account/A", "all accounts"}


def test_a_reservation_that_no_open_order_needs_is_wrong(day: Record) -> None:
    day.books["ALPHA"]["open_orders"] = []
    found = day.ledger().check(day.accounts, day.books)
    assert any("open orders need" in finding.text for finding in found)


def test_a_command_without_an_answer_is_told_and_excuses_one_entry(day: Record) -> None:
    day.accounts["B"] |= {"entries": 4, "cash": "3998.00"}
    ledger = day.ledger()
    ledger.unanswered(ACCOUNTS, "B", "deposit", "no answer in time")
    problems = [finding.problem for finding in ledger.check(day.accounts, day.books)]
    assert Problem.UNANSWERED in problems
    assert Problem.REPEATED not in problems


def test_a_service_that_says_nothing_at_the_end_is_no_success(day: Record) -> None:
    day.books.clear()
    assert Problem.WRONG in day.problems()
