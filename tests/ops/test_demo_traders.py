"""The demo's traders and their ledger, with the services in this process."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
from attrs import define, field

from aegis import ActorRef, OutcomeUnknown, Unavailable
from aegis.ops._demo_orders import SYMBOLS, Intent, generate_orders
from aegis.ops._demo_traders import Exchange, Fault, Trader, read_accounts, read_books
from aegis.ops._ledger import ACCOUNTS, BOOKS, PRICING, Finding, Ledger, Problem
from aegis.transport._codec import decode_value, encode_value
from examples.trading.accounts import Account
from examples.trading.order_book import OrderBook
from examples.trading.pricing import Pricing

NAMES = [f"ACC-{number}" for number in range(8)]


@define(eq=False)
class LocalExchange:
    """Calls actors of this process as `aegis.Cluster` calls remote ones."""

    actors: dict[tuple[str, str | None], ActorRef[Any]]
    refusals: int = 0
    silences: int = 0
    quotes: int = 0
    calls: list[str] = field(factory=list[str])

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
        self.calls.append(method)
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("nobody serves it now")
        handler = getattr(self.actors[service, resource_id].proxy(), method)
        result = decode_value(encode_value(await handler(**(params or {}))))
        if method == "quote":
            # A message from here has no name of its own.
            self.quotes += 1
            result["quote_id"] = str(self.quotes)
        if self.silences and method == "deposit":
            self.silences -= 1
            raise OutcomeUnknown("no answer in time")
        return result


@pytest.fixture
async def local() -> AsyncIterator[LocalExchange]:
    actors: dict[tuple[str, str | None], ActorRef[Any]] = {(PRICING, None): Pricing.start()}
    actors |= {(BOOKS, symbol): OrderBook.start() for symbol in SYMBOLS}
    actors |= {(ACCOUNTS, name): Account.start() for name in NAMES}
    yield LocalExchange(actors)
    for ref in actors.values():
        await ref.stop()


async def trade(exchange: Exchange, orders: int, seed: int = 3) -> list[Finding]:
    """Let all traders do their part, then ask the ledger."""
    wanted: dict[str, list[Intent]] = defaultdict(list)
    for intent in generate_orders(orders, seed, NAMES):
        wanted[intent.account].append(intent)
    done: list[None] = []
    traders = [Trader(exchange, name, lambda: done.append(None)) for name in NAMES]
    rng = random.Random(seed)
    await asyncio.gather(*(trader.fund(rng) for trader in traders))
    await asyncio.gather(*(trader.trade(wanted[trader.account]) for trader in traders))
    assert len(done) == orders
    books = await read_books(exchange)
    assert sum(book["trades"] for book in books.values()) > 0
    return exchange.ledger.check(await read_accounts(exchange, NAMES), books)


async def test_the_books_of_a_good_day_agree(local: LocalExchange) -> None:
    exchange = Exchange(local, Ledger())
    assert await trade(exchange, 600) == []
    assert exchange.sent == exchange.acknowledged + exchange.rejected
    assert exchange.rejected > 0
    assert len(exchange.samples) == exchange.sent


async def test_a_planted_loss_is_found(local: LocalExchange) -> None:
    exchange = Exchange(local, Ledger(), fault=Fault.LOST)
    problems = {finding.problem for finding in await trade(exchange, 100)}
    assert Problem.LOST in problems
    assert Problem.REPEATED not in problems


async def test_a_planted_repeat_is_found(local: LocalExchange) -> None:
    exchange = Exchange(local, Ledger(), fault=Fault.REPEATED)
    problems = {finding.problem for finding in await trade(exchange, 100)}
    assert Problem.REPEATED in problems
    assert Problem.LOST not in problems


async def test_a_command_that_nobody_took_is_sent_again(local: LocalExchange) -> None:
    local.refusals = 2
    exchange = Exchange(local, Ledger())
    assert await exchange.command(ACCOUNTS, NAMES[0], "deposit", amount="5") is not None
    assert (exchange.sent, exchange.acknowledged, exchange.refused) == (1, 1, 2)


async def test_a_command_without_an_answer_is_never_sent_again_and_is_reported(
    local: LocalExchange,
) -> None:
    local.silences = 1
    exchange = Exchange(local, Ledger())
    findings = await trade(exchange, 60)
    assert exchange.unanswered == 1
    assert local.calls.count("deposit") == len(NAMES)
    assert Problem.UNANSWERED in {finding.problem for finding in findings}
