"""Services for tests: small, and with every form of state, handler and value."""

from __future__ import annotations

import asyncio
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from attrs import define, field

from aegis import AegisActor, Rejected, applies, command, query

__all__ = [
    "Branch",
    "Deposited",
    "Entry",
    "Gate",
    "Ledger",
    "LedgerState",
    "Quoter",
    "Side",
    "Vault",
]


class Gate:
    """Where a handler waits until the test lets it go on."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self.passed = 0

    async def pass_through(self) -> None:
        """Tell that a handler is here, and wait until the gate is open."""
        self.entered.set()
        await self.opened.wait()
        self.passed += 1


class Side(Enum):
    """An enum, by whose values it travels."""

    BUY = "buy"
    SELL = "sell"


@define
class Entry:
    """A value of every type that prices and orders are made of."""

    amount: Decimal
    booked: datetime
    side: Side
    tags: list[str] = field(factory=list[str])
    note: str | None = None


@define
class VaultState:
    """Small enough to be journaled whole."""

    total: Decimal = Decimal(0)
    entries: list[Entry] = field(factory=list[Entry])
    blob: str = ""


class Vault(AegisActor):
    """Keeps its state by snapshots."""

    service = "vault"
    state: VaultState

    @command
    async def deposit(self, amount: Decimal, times: int = 1) -> Decimal:
        if amount <= 0:
            raise Rejected("amount must be positive", limit=0)
        self.state.total += amount * times
        return self.state.total

    @command
    def deposit_in_thread(self, amount: Decimal) -> Decimal:
        self.state.total += amount
        return self.state.total

    @command
    async def enter(self, entry: Entry, copies: int = 1) -> Entry:
        self.state.entries += [entry] * copies
        return entry

    @command
    async def change_and_reject(self) -> None:
        self.state.total += 1000
        self.state.entries.clear()
        raise Rejected("changed its mind", reason_code=7)

    @command
    async def change_and_fail(self) -> None:
        self.state.total += 1000
        self.state.entries.clear()
        raise ValueError("cannot go on")

    @command
    async def fill(self, size: int) -> int:
        self.state.blob = "x" * size
        return size

    @command
    async def tell_message_id(self) -> str:
        return self.message_id

    @command
    async def tell_much(self, size: int) -> str:
        return "x" * size

    @query
    async def total(self) -> Decimal:
        return self.state.total

    @query
    def total_in_thread(self) -> Decimal:
        return self.state.total

    @query
    async def entries(self) -> list[Entry]:
        return self.state.entries

    @query
    async def fail_to_read(self) -> None:
        raise LookupError("nothing to read")


@define
class Deposited:
    """The one thing that can happen to a ledger."""

    amount: Decimal


@define
class LedgerState:
    """What the events add up to."""

    total: Decimal = Decimal(0)
    count: int = 0


class Ledger(AegisActor):
    """Keeps its state by events."""

    service = "ledger"
    state: LedgerState

    @applies(Deposited)
    def on_deposited(self, event: Deposited) -> None:
        self.state.total += event.amount
        self.state.count += 1

    @command
    async def deposit(self, amount: Decimal) -> Decimal:
        if amount <= 0:
            raise Rejected("amount must be positive")
        self.emit(Deposited(amount))
        return self.state.total

    @command
    async def emit_and_reject(self) -> None:
        self.emit(Deposited(Decimal(1000)))
        raise Rejected("changed its mind")

    @command
    async def emit_and_fail(self) -> None:
        self.emit(Deposited(Decimal(1000)))
        raise ValueError("cannot go on")

    @query
    async def total(self) -> Decimal:
        return self.state.total

    @query
    async def count(self) -> int:
        return self.state.count


class Branch(AegisActor):
    """Asks other actors."""

    service = "branch"

    @query
    async def total_of(self, vault: str) -> Decimal:
        total: Decimal = await self.actor(Vault, vault).total()
        return total

    @query
    async def deposit_by_query(self, vault: str, amount: Decimal) -> Decimal:
        total: Decimal = await self.actor(Vault, vault).deposit(amount)
        return total

    @query
    async def outcome_of(self, vault: str, method: str) -> list[Any]:
        """What another actor's handler raises, as seen from here."""
        try:
            await getattr(self.actor(Vault, vault), method)()
        except Exception as error:
            return [type(error).__name__, str(error), getattr(error, "facts", {})]
        return []

    @command
    async def look_and_decide(self, vault: str) -> str:
        total = await self.actor(Vault, vault).total()
        return "rich" if total > 100 else "poor"

    @command
    async def deposit_inside(self, vault: str) -> str:
        try:
            await self.actor(Vault, vault).deposit(Decimal(1))
        except Exception as error:
            return type(error).__name__
        return "let through"


class Quoter(AegisActor):
    """A service group: its instances are alike, and keep nothing."""

    service = "quoter"
    runs = 0

    @command
    async def place(self, amount: Decimal) -> str:
        if amount < 0:
            raise Rejected("amount must not be negative")
        self.runs += 1
        return f"{self.instance_id} {self.message_id} {amount}"

    @command
    async def fail(self) -> None:
        raise ValueError("cannot go on")

    @query
    async def name(self) -> str:
        return self.instance_id
