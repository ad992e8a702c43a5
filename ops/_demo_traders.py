"""The demo's callers: traders who send orders, and note every answer for the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Protocol

from attrs import define, field, frozen

from aegis.errors import AegisError, DeadlineExpired, NotFound, Overloaded, Rejected, Unavailable
from aegis.ops._demo_orders import SYMBOLS, Cancellation, Intent, NewOrder
from aegis.ops._ledger import ACCOUNTS, BOOKS, PRICING, Ledger

__all__ = [
    "Abandoned",
    "Caller",
    "Exchange",
    "Fault",
    "Sample",
    "Trader",
    "read_accounts",
    "read_books",
]

CALL_TIMEOUT: Final = 20.0
"""Seconds that one command may take; longer than a killed node needs to come back."""

PATIENCE: Final = 20.0
"""Seconds in which a command that nobody took is sent anew."""

_PAUSE: Final = 0.1
_TICK: Final = Decimal("0.01")
_PAGE: Final = 1_000


class Fault(StrEnum):
    """What a test may plant, to see that the check can fail."""

    LOST = "lost"
    """A deposit is reported as acknowledged but was never sent."""
    REPEATED = "repeated"
    """A deposit is sent twice, as two commands."""


class Abandoned(Exception):
    """A command has no known outcome: what was to follow it cannot be done."""


class Caller(Protocol):
    """The part of `aegis.Cluster` that is needed here."""

    async def call(
        self,
        service: str,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        resource_id: str | None = None,
        instance_id: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Call a handler by name."""
        ...


@frozen
class Sample:
    """One command from its start to its answer, in seconds of the monotonic clock."""

    service: str
    resource: str | None
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


@define(eq=False)
class Exchange:
    """Sends commands and queries, counts them, and keeps the ledger."""

    caller: Caller
    ledger: Ledger
    fault: Fault | None = None
    sent: int = 0
    acknowledged: int = 0
    rejected: int = 0
    refused: int = 0
    unanswered: int = 0
    queries: int = 0
    samples: list[Sample] = field(factory=list[Sample])
    on_open: Callable[[], object] = field(default=lambda: None)
    """Called whenever a command has been opened."""
    open_commands: defaultdict[tuple[str, str | None], int] = field(
        factory=lambda: defaultdict[tuple[str, str | None], int](int)
    )

    async def command(
        self, service: str, resource: str | None, method: str, **params: Any
    ) -> dict[str, Any] | None:
        """Send a command; return its reply, or None if the service rejected it.

        Raises:
            Abandoned: nobody can tell what became of it.
        """
        if self.fault is not None and method == "deposit":
            reply = await self._faulty(service, resource, method, params)
        else:
            reply = await self._send(service, resource, method, params)
        if reply is not None:
            self.acknowledged += 1
            self.ledger.acknowledged(service, resource, method, params, reply)
        return reply

    def open_at(self, addresses: Iterable[tuple[str, str | None]]) -> int:
        """Return how many commands to these addresses have no answer yet."""
        return sum(self.open_commands[address] for address in addresses)

    async def query(
        self,
        service: str,
        resource: str | None,
        method: str,
        *,
        instance: str | None = None,
        **params: Any,
    ) -> Any:
        """Ask; a query may be repeated at will, so it is until there is an answer."""
        self.queries += 1
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                return await self.caller.call(
                    service,
                    method,
                    params,
                    resource_id=resource,
                    instance_id=instance,
                    timeout=CALL_TIMEOUT,
                )
            except Rejected:
                raise
            except AegisError:
                if time.monotonic() >= give_up:
                    raise
            await asyncio.sleep(_PAUSE)

    async def _send(
        self, service: str, resource: str | None, method: str, params: dict[str, Any]
    ) -> dict[str, Any] | None:
        self.sent += 1
        start = time.monotonic()
        address = (service, resource)
        self.open_commands[address] += 1
        self.on_open()
        try:
            reply = await self._until_taken(service, resource, method, params)
        except Rejected:
            self.rejected += 1
            reply = None
        except AegisError as error:
            self.unanswered += 1
            why = f"{error.code} {type(error).__name__}: {error}"
            self.ledger.unanswered(service, resource, method, why)
            raise Abandoned(why) from error
        finally:
            self.open_commands[address] -= 1
        self.samples.append(Sample(service, resource, start, time.monotonic()))
        return reply

    async def _until_taken(
        self, service: str, resource: str | None, method: str, params: dict[str, Any]
    ) -> dict[str, Any]:
        """Call until somebody takes the command.

        These answers say that it did *not* run, so it may be sent anew. Any other
        retry is the client's, which repeats the same message.
        """
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                reply: dict[str, Any] = await self.caller.call(
                    service, method, params, resource_id=resource, timeout=CALL_TIMEOUT
                )
            except (NotFound, Unavailable, Overloaded, DeadlineExpired):
                if time.monotonic() >= give_up:
                    raise
                self.refused += 1
            else:
                return reply
            await asyncio.sleep(_PAUSE)

    async def _faulty(
        self, service: str, resource: str | None, method: str, params: dict[str, Any]
    ) -> dict[str, Any] | None:
        fault, self.fault = self.fault, None
        if fault is Fault.REPEATED:
            await self._send(service, resource, method, params)
            return await self._send(service, resource, method, params)
        self.sent += 1
        return {
            "entry": 1,
            "cash": params["amount"],
            "reserved": "0",
            "position": 0,
            "position_reserved": 0,
        }


@define
class _Placed:
    """An order of the trader that went to the book."""

    symbol: str
    side: str
    order_id: int
    unit_reserve: Decimal


@define(eq=False)
class Trader:
    """One account's trader: does one thing after another, many traders at a time."""

    exchange: Exchange
    account: str
    on_done: Callable[[], None]
    placed: list[_Placed] = field(factory=list[_Placed])

    async def fund(self, rng: random.Random) -> None:
        """Bring in cash and units to begin with, and take a little out again."""
        steps: list[tuple[str, dict[str, Any]]] = [
            ("deposit", {"amount": str(rng.randint(40, 90) * 1000)}),
            *(("deliver", {"symbol": s, "quantity": rng.randint(200, 600)}) for s in SYMBOLS),
            ("withdraw", {"amount": str(rng.randint(1, 2_000))}),
        ]
        for method, params in steps:
            with contextlib.suppress(Abandoned):
                await self.exchange.command(ACCOUNTS, self.account, method, **params)

    async def trade(self, intents: Iterable[Intent]) -> None:
        """Do what is wanted, in order."""
        for intent in intents:
            # What is abandoned stands in the ledger; the next order is another matter.
            with contextlib.suppress(Abandoned):
                match intent:
                    case NewOrder():
                        await self._place(intent)
                    case Cancellation():
                        await self._cancel(intent)
            self.on_done()

    async def _place(self, order: NewOrder) -> None:
        exchange, symbol = self.exchange, order.symbol
        quote = await exchange.command(
            PRICING, None, "quote", side=order.side, price=order.price, quantity=order.quantity
        )
        if quote is None:
            return
        placed = _Placed(symbol, order.side, 0, Decimal(quote["unit_reserve"]))
        if not await self._reserve(placed, order.quantity):
            return
        submitted = await exchange.command(
            BOOKS,
            symbol,
            "submit",
            account=order.account,
            side=order.side,
            price=order.price,
            quantity=order.quantity,
            immediate=order.immediate,
        )
        if submitted is None:
            await self._release(placed, order.quantity)
            return
        placed.order_id = submitted["order_id"]
        self.placed.append(placed)
        for trade in submitted["trades"]:
            await self._settle(placed, trade)
        if submitted["cancelled"]:
            await self._release(placed, submitted["cancelled"])

    async def _cancel(self, wish: Cancellation) -> None:
        if not self.placed:
            return
        placed = self.placed[int(wish.choice * len(self.placed))]
        cancelled = await self.exchange.command(
            BOOKS, placed.symbol, "cancel", account=self.account, order_id=placed.order_id
        )
        if cancelled is not None:
            await self._release(placed, cancelled["quantity"])

    async def _reserve(self, placed: _Placed, quantity: int) -> bool:
        if placed.side == "buy":
            amount = str(placed.unit_reserve * quantity)
            posted = await self.exchange.command(ACCOUNTS, self.account, "reserve", amount=amount)
        else:
            posted = await self.exchange.command(
                ACCOUNTS, self.account, "reserve_position", symbol=placed.symbol, quantity=quantity
            )
        return posted is not None

    async def _release(self, placed: _Placed, quantity: int) -> None:
        if placed.side == "buy":
            amount = str(placed.unit_reserve * quantity)
            await self.exchange.command(ACCOUNTS, self.account, "release", amount=amount)
        else:
            await self.exchange.command(
                ACCOUNTS, self.account, "release_position", symbol=placed.symbol, quantity=quantity
            )

    async def _settle(self, placed: _Placed, trade: dict[str, Any]) -> None:
        """Pay and deliver. The maker's order is a stranger's; its limit is the trade's price."""
        exchange, quantity, price = self.exchange, trade["quantity"], trade["price"]
        value = price * quantity * _TICK
        fees = await exchange.query(PRICING, None, "fees", value=str(value))
        takes_buy = placed.side == "buy"
        unit = placed.unit_reserve
        if not takes_buy:
            quote = await exchange.command(
                PRICING, None, "quote", side="buy", price=price, quantity=quantity
            )
            if quote is None:
                raise Abandoned("the price of a trade has no quote")
            unit = Decimal(quote["unit_reserve"])
        common = {
            "trade": f"{placed.symbol}-{trade['trade_id']}",
            "symbol": placed.symbol,
            "quantity": quantity,
        }
        outcomes = await asyncio.gather(
            exchange.command(
                ACCOUNTS,
                trade["buyer"],
                "settle_buy",
                **common,
                cost=str(value),
                fee=fees["taker" if takes_buy else "maker"],
                reserved=str(unit * quantity),
            ),
            exchange.command(
                ACCOUNTS,
                trade["seller"],
                "settle_sell",
                **common,
                proceeds=str(value),
                fee=fees["maker" if takes_buy else "taker"],
            ),
            return_exceptions=True,  # one side that fails must not hide the other's answer
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome


async def read_books(exchange: Exchange) -> dict[str, dict[str, Any]]:
    """Return what the order books hold now, by symbol."""
    books: dict[str, dict[str, Any]] = {}
    for symbol in SYMBOLS:
        statistics = await exchange.query(BOOKS, symbol, "statistics")
        orders: list[dict[str, Any]] = []
        while True:
            after = orders[-1]["order_id"] if orders else 0
            page = await exchange.query(BOOKS, symbol, "open_orders", after=after)
            orders += page
            if len(page) < _PAGE:
                break
        books[symbol] = {**statistics, "open_orders": orders}
    return books


async def read_accounts(exchange: Exchange, accounts: list[str]) -> dict[str, dict[str, Any]]:
    """Return what the accounts hold now, by name."""
    states = await asyncio.gather(
        *(exchange.query(ACCOUNTS, account, "balance") for account in accounts)
    )
    return dict(zip(accounts, states, strict=True))
