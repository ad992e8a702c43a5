"""The independent ledger: were all acknowledged commands done, once, and rightly?

It knows nothing of actors and shares no code with the services it judges. It is told
each command with the answer that its caller got, does the arithmetic again (plain sums
for accounts, one list searched from end to end for order books), and compares it with
what the services say at the end.

An account numbers its entries and a book its commands, and each answer says its number.
So what is wrong shows: a number that two answers share, or that the service has not come
to, stands for a command whose effect was *lost*; a number that no answer has stands for
an effect that nobody was told of, such as that of a command that was *repeated*.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from typing import Any

from attrs import define, field, frozen

__all__ = ["ACCOUNTS", "BOOKS", "PRICING", "Finding", "Ledger", "Problem"]

ACCOUNTS = "trading-account"
BOOKS = "order-book"
PRICING = "pricing"

_TICK = Decimal("0.01")
_CENT = Decimal("0.01")
_TAKER_RATE = Decimal("0.0005")
_MAKER_RATE = Decimal("0.0002")
_ZERO = Decimal(0)


class Problem(StrEnum):
    """What kind of thing a finding is."""

    LOST = "lost"
    REPEATED = "repeated"
    UNANSWERED = "unanswered"
    WRONG = "wrong"


@frozen
class Finding:
    """One thing that is not as it should be."""

    problem: Problem
    where: str
    text: str


@frozen
class _Acknowledged:
    method: str
    params: Mapping[str, Any]
    reply: Mapping[str, Any]


@define
class _Account:
    """What one account must hold; ``positions`` and ``promised`` count units by symbol."""

    cash: Decimal = _ZERO
    reserved: Decimal = _ZERO
    fees: Decimal = _ZERO
    positions: Counter[str] = field(factory=lambda: Counter[str]())
    promised: Counter[str] = field(factory=lambda: Counter[str]())

    def sheet(self) -> str:
        """All it holds, in one form; positions of nothing are left out."""
        amounts = [f"{number.normalize():f}" for number in (self.cash, self.reserved, self.fees)]
        return (
            "cash {} reserved {} fees {}".format(*amounts)
            + f" positions {_counted(self.positions)} promised {_counted(self.promised)}"
        )

    def post(self, method: str, params: Mapping[str, Any]) -> None:
        match method:
            case "deposit":
                self.cash += Decimal(params["amount"])
            case "withdraw":
                self.cash -= Decimal(params["amount"])
            case "reserve":
                self.reserved += Decimal(params["amount"])
            case "release":
                self.reserved -= Decimal(params["amount"])
            case "deliver":
                self.positions[params["symbol"]] += params["quantity"]
            case "reserve_position":
                self.promised[params["symbol"]] += params["quantity"]
            case "release_position":
                self.promised[params["symbol"]] -= params["quantity"]
            case "settle_buy":
                self.reserved -= Decimal(params["reserved"])
                self.cash -= Decimal(params["cost"]) + Decimal(params["fee"])
                self.fees += Decimal(params["fee"])
                self.positions[params["symbol"]] += params["quantity"]
            case "settle_sell":
                self.promised[params["symbol"]] -= params["quantity"]
                self.positions[params["symbol"]] -= params["quantity"]
                self.cash += Decimal(params["proceeds"]) - Decimal(params["fee"])
                self.fees += Decimal(params["fee"])
            case _:
                raise ValueError(f"the ledger knows no account command {method}")


@define
class _Order:
    order_id: int
    account: str
    side: str
    price: int
    quantity: int


@define
class _Book:
    """Price-time priority the slow way: every match looks at every resting order."""

    orders: list[_Order] = field(factory=list[_Order])
    trades: int = 0

    def submit(self, order_id: int, params: Mapping[str, Any]) -> dict[str, Any]:
        account, side, price = params["account"], params["side"], params["price"]
        left: int = params["quantity"]
        trades: list[dict[str, Any]] = []
        while left:
            crossing = [
                order
                for order in self.orders
                if order.side != side
                and (order.price <= price if side == "buy" else order.price >= price)
            ]
            if not crossing:
                break
            sign = 1 if side == "buy" else -1
            maker = min(crossing, key=lambda order: (sign * order.price, order.order_id))
            quantity = min(left, maker.quantity)
            left -= quantity
            maker.quantity -= quantity
            if not maker.quantity:
                self.orders.remove(maker)
            self.trades += 1
            buyer, seller = (account, maker.account) if side == "buy" else (maker.account, account)
            trades.append(
                {
                    "trade_id": self.trades,
                    "price": maker.price,
                    "quantity": quantity,
                    "maker": maker.order_id,
                    "taker": order_id,
                    "buyer": buyer,
                    "seller": seller,
                }
            )
        rests = bool(left) and not params.get("immediate", False)
        if rests:
            self.orders.append(_Order(order_id, account, side, price, left))
        return {
            "order_id": order_id,
            "trades": trades,
            "resting": left if rests else 0,
            "cancelled": 0 if rests else left,
        }

    def cancel(self, sequence: int, params: Mapping[str, Any]) -> dict[str, Any]:
        for order in self.orders:
            if (order.order_id, order.account) == (params["order_id"], params["account"]):
                self.orders.remove(order)
                return {
                    "sequence": sequence,
                    "order_id": order.order_id,
                    "quantity": order.quantity,
                }
        return {"sequence": sequence, "order_id": params["order_id"], "quantity": 0}


class Ledger:
    """Collects what was acknowledged, then judges what the services say they hold."""

    def __init__(self) -> None:
        self._accounts: dict[str, list[_Acknowledged]] = defaultdict(list)
        self._books: dict[str, list[_Acknowledged]] = defaultdict(list)
        self._quotes: list[_Acknowledged] = []
        self._unanswered: list[tuple[str, str | None, str, str]] = []

    def acknowledged(
        self,
        service: str,
        resource: str | None,
        method: str,
        params: Mapping[str, Any],
        reply: Mapping[str, Any],
    ) -> None:
        """Note a command that was answered with success; all values are plain ones."""
        entry = _Acknowledged(method, params, reply)
        if service == PRICING:
            self._quotes.append(entry)
        elif resource is not None and service in (ACCOUNTS, BOOKS):
            (self._accounts if service == ACCOUNTS else self._books)[resource].append(entry)
        else:
            raise ValueError(f"the ledger knows no {service}/{resource}")

    def unanswered(self, service: str, resource: str | None, method: str, why: str) -> None:
        """Note a command whose caller never learned what became of it."""
        self._unanswered.append((service, resource, method, why))

    def check(
        self,
        accounts: Mapping[str, Mapping[str, Any]],
        books: Mapping[str, Mapping[str, Any]],
    ) -> list[Finding]:
        """Return all that is wrong; nothing is if the list is empty.

        ``accounts`` are the final states by account. ``books`` are by symbol, each
        ``{"sequence", "trades", "open_orders": [orders]}``.
        """
        findings = [
            Finding(Problem.UNANSWERED, _address(service, resource), f"{method}: {why}")
            for service, resource, method, why in self._unanswered
        ]
        findings += self._check_quotes()
        for symbol in sorted(self._books.keys() | books.keys()):
            findings += self._check_book(symbol, books.get(symbol, {}))
        for account in sorted(self._accounts.keys() | accounts.keys()):
            findings += self._check_account(account, accounts.get(account, {}))
        findings += self._check_settlements()
        findings += self._check_conservation(accounts)
        findings += _check_reservations(accounts, books)
        return findings

    # -- one resource -----------------------------------------------------------------

    def _check_account(self, account: str, final: Mapping[str, Any]) -> list[Finding]:
        where = _address(ACCOUNTS, account)
        entries = sorted(self._accounts[account], key=lambda entry: int(entry.reply["entry"]))
        findings = self._check_numbers(
            ACCOUNTS, account, [(e.reply["entry"], e.method) for e in entries], final.get("entries")
        )
        complete = not findings and not self._is_unsure(ACCOUNTS, account)
        expected = _Account()
        for entry in entries:
            expected.post(entry.method, entry.params)
            if not complete:
                continue
            symbol = str(entry.params.get("symbol", ""))
            left = (
                expected.cash,
                expected.reserved,
                expected.positions[symbol],
                expected.promised[symbol],
            )
            reply = entry.reply
            said = (
                Decimal(reply["cash"]),
                Decimal(reply["reserved"]),
                reply["position"],
                reply["position_reserved"],
            )
            if left != said:
                text = (
                    f"entry {reply['entry']} ({entry.method}) left {_row(said)}, not {_row(left)}"
                )
                findings.append(Finding(Problem.WRONG, where, text))
                complete = False
        held = _account_of(final)
        if not self._is_unsure(ACCOUNTS, account) and held.sheet() != expected.sheet():
            text = f"holds {held.sheet()}; the acknowledged commands make it {expected.sheet()}"
            findings.append(Finding(Problem.WRONG, where, text))
        return findings

    def _check_book(self, symbol: str, final: Mapping[str, Any]) -> list[Finding]:
        where = _address(BOOKS, symbol)
        entries = sorted(self._books[symbol], key=_book_number)
        findings = self._check_numbers(
            BOOKS, symbol, [(_book_number(e), e.method) for e in entries], final.get("sequence")
        )
        if findings or self._is_unsure(BOOKS, symbol):
            # The book is not what these commands alone would make: nothing to compare.
            return findings
        expected = _Book()
        for entry in entries:
            number = _book_number(entry)
            apply = expected.submit if entry.method == "submit" else expected.cancel
            wanted = apply(number, entry.params)
            if wanted != entry.reply:
                text = f"command {number} ({entry.method}) gave {dict(entry.reply)}, not {wanted}"
                return [Finding(Problem.WRONG, where, text)]
        if final.get("trades") != expected.trades:
            text = f"counts {final.get('trades')} trades, not {expected.trades}"
            findings.append(Finding(Problem.WRONG, where, text))
        resting = sorted(expected.orders, key=lambda order: order.order_id)
        if [_Order(**order) for order in final.get("open_orders", [])] != resting:
            text = "holds other open orders than the acknowledged commands leave"
            findings.append(Finding(Problem.WRONG, where, text))
        return findings

    def _check_numbers(
        self, service: str, resource: str, numbered: list[tuple[int, str]], last: int | None
    ) -> list[Finding]:
        """Each number from 1 to the last must have been told to one caller."""
        where = _address(service, resource)
        if last is None:
            return [Finding(Problem.WRONG, where, "does not say what it holds at the end")]
        methods: dict[int, list[str]] = defaultdict(list)
        for number, method in numbered:
            methods[number].append(method)
        findings: list[Finding] = []
        for number, names in sorted(methods.items()):
            if not 1 <= number <= last:
                text = f"{names[0]} was acknowledged as number {number}; there are only {last}"
                findings.append(Finding(Problem.LOST, where, text))
            for name in names[1:]:
                text = f"{names[0]} and {name} were both acknowledged as number {number}"
                findings.append(Finding(Problem.LOST, where, text))
        # A command without an answer may have made an entry: that is said already.
        open_ends = sum(entry[:2] == (service, resource) for entry in self._unanswered)
        missing = [number for number in range(1, last + 1) if number not in methods]
        for number in missing[open_ends:]:
            text = f"number {number} is the effect of no acknowledged command"
            findings.append(Finding(Problem.REPEATED, where, text))
        return findings

    def _is_unsure(self, service: str, resource: str) -> bool:
        """Whether a command there had no answer, so that two states are right."""
        return any(entry[:2] == (service, resource) for entry in self._unanswered)

    def _check_quotes(self) -> list[Finding]:
        findings: list[Finding] = []
        times = Counter(str(entry.reply["quote_id"]) for entry in self._quotes)
        for quote_id, count in times.items():
            if count > 1:
                text = f"{count} commands were answered with the one quote {quote_id}"
                findings.append(Finding(Problem.LOST, PRICING, text))
        for entry in self._quotes:
            value = entry.params["price"] * _TICK * entry.params["quantity"]
            unit = _unit_reserve(entry.params["side"], entry.params["price"])
            wanted = (value, unit * entry.params["quantity"], unit)
            said = tuple(Decimal(entry.reply[key]) for key in ("value", "reserve", "unit_reserve"))
            if said != wanted:
                text = f"quote {entry.reply['quote_id']} says {_row(said)}, not {_row(wanted)}"
                findings.append(Finding(Problem.WRONG, PRICING, text))
        return findings

    # -- between resources ------------------------------------------------------------

    def _check_settlements(self) -> list[Finding]:
        """Each trade is paid once by its buyer and delivered once by its seller."""
        posted: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
        for account, entries in self._accounts.items():
            for entry in entries:
                if entry.method in ("settle_buy", "settle_sell"):
                    posted[account, entry.method, entry.params["trade"]].append(entry.params)
        findings: list[Finding] = []
        for symbol, trade, buyer_takes in self._trades():
            name = f"{symbol}-{trade['trade_id']}"
            value = trade["price"] * _TICK * trade["quantity"]
            for method, account, takes in (
                ("settle_buy", trade["buyer"], buyer_takes),
                ("settle_sell", trade["seller"], not buyer_takes),
            ):
                where = _address(ACCOUNTS, account)
                found = posted.pop((account, method, name), [])
                if len(found) != 1:
                    problem = Problem.REPEATED if found else Problem.LOST
                    text = f"trade {name}: {method} was posted {len(found)} times"
                    findings.append(Finding(problem, where, text))
                    continue
                said = found[0]
                amount = Decimal(said["cost" if method == "settle_buy" else "proceeds"])
                fee = value * (_TAKER_RATE if takes else _MAKER_RATE)
                wanted = (symbol, trade["quantity"], value, fee.quantize(_CENT, ROUND_DOWN))
                if (said["symbol"], said["quantity"], amount, Decimal(said["fee"])) != wanted:
                    text = f"trade {name}: {method} is {dict(said)}, not {_row(wanted)}"
                    findings.append(Finding(Problem.WRONG, where, text))
        for account, method, name in posted:
            text = f"{method} for trade {name}, which no book has acknowledged"
            findings.append(Finding(Problem.WRONG, _address(ACCOUNTS, account), text))
        return findings

    def _trades(self) -> Iterable[tuple[str, Mapping[str, Any], bool]]:
        for symbol, entries in self._books.items():
            for entry in entries:
                if entry.method == "submit":
                    for trade in entry.reply["trades"]:
                        yield symbol, trade, entry.params["side"] == "buy"

    def _check_conservation(self, accounts: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
        """Trading moves cash and units about; only fees and transfers change the sums."""
        brought = _Account()
        for entries in self._accounts.values():
            for entry in entries:
                if entry.method in ("deposit", "withdraw", "deliver"):
                    brought.post(entry.method, entry.params)
        cash, units = _ZERO, Counter[str]()
        for final in accounts.values():
            held = _account_of(final)
            cash += held.cash + held.fees
            units.update(held.positions)
        findings: list[Finding] = []
        if cash != brought.cash:
            text = f"cash and fees add up to {cash}; {brought.cash} was brought in"
            findings.append(Finding(Problem.WRONG, "all accounts", text))
        if _counted(units) != _counted(brought.positions):
            text = f"positions add up to {_counted(units)}; {_counted(brought.positions)} came in"
            findings.append(Finding(Problem.WRONG, "all accounts", text))
        return findings


def _check_reservations(
    accounts: Mapping[str, Mapping[str, Any]], books: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    """What accounts have set aside is what their open orders may still need."""
    needed: dict[str, _Account] = defaultdict(_Account)
    for symbol, book in books.items():
        for order in book.get("open_orders", []):
            account = needed[order["account"]]
            if order["side"] == "buy":
                account.reserved += _unit_reserve("buy", order["price"]) * order["quantity"]
            else:
                account.promised[symbol] += order["quantity"]
    findings: list[Finding] = []
    for name, final in accounts.items():
        held = _account_of(final)
        said, wanted = (held.reserved, held.promised), (
            needed[name].reserved,
            needed[name].promised,
        )
        if said != wanted:
            text = f"has set aside {_row(said)}; its open orders need {_row(wanted)}"
            findings.append(Finding(Problem.WRONG, _address(ACCOUNTS, name), text))
    return findings


def _account_of(final: Mapping[str, Any]) -> _Account:
    """Return what an account says it holds."""
    account = _Account(
        Decimal(final.get("cash", 0)),
        Decimal(final.get("reserved", 0)),
        Decimal(final.get("fees", 0)),
    )
    positions: Mapping[str, Mapping[str, int]] = final.get("positions", {})
    for symbol, position in positions.items():
        account.positions[symbol] = position["quantity"]
        account.promised[symbol] = position["reserved"]
    return account


def _unit_reserve(side: str, price: int) -> Decimal:
    return price * _TICK * (1 + _TAKER_RATE) if side == "buy" else _ZERO


def _book_number(entry: _Acknowledged) -> int:
    return int(entry.reply["order_id" if entry.method == "submit" else "sequence"])


def _address(service: str, resource: str | None) -> str:
    return service if resource is None else f"{service}/{resource}"


def _counted(units: Counter[str]) -> dict[str, int]:
    return {symbol: number for symbol, number in sorted(units.items()) if number}


def _row(values: Iterable[object]) -> str:
    return "(" + ", ".join(str(value) for value in values) + ")"
