"""Trading accounts: cash and positions, each partly reserved for open orders.

    aegis run examples/trading/accounts.py:Account --instance-id acct-1 --resource ACC-1

Nothing here guards against a repeated message: `deposit` adds whatever it is told, as
often as it is told. That each command takes effect exactly once is Aegis's part.
"""

from __future__ import annotations

from decimal import Decimal

from attrs import define, field, frozen

from aegis import AegisActor, Rejected, command, query

MAX_AMOUNT = Decimal(10) ** 15
MAX_POSITIONS = 200
"""How many symbols one account may hold; it keeps the journaled state small."""


@define
class Position:
    """``reserved`` units of ``quantity`` are promised to open sell orders."""

    quantity: int = 0
    reserved: int = 0


@define
class AccountState:
    """``entries`` counts the commands that changed the account."""

    entries: int = 0
    cash: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)
    positions: dict[str, Position] = field(factory=dict[str, Position])


@frozen
class Posting:
    """The entry a command made, with what it left; the position is that of its symbol."""

    entry: int
    cash: Decimal
    reserved: Decimal
    position: int = 0
    position_reserved: int = 0


class Account(AegisActor):
    service = "trading-account"
    state: AccountState

    # -- cash --

    @command
    async def deposit(self, amount: Decimal) -> Posting:
        self.state.cash += _positive(amount)
        return self._posted()

    @command
    async def withdraw(self, amount: Decimal) -> Posting:
        self._check_free(_positive(amount))
        self.state.cash -= amount
        return self._posted()

    @command
    async def reserve(self, amount: Decimal) -> Posting:
        """Set cash aside for an order to buy, its fee included."""
        self._check_free(_positive(amount))
        self.state.reserved += amount
        return self._posted()

    @command
    async def release(self, amount: Decimal) -> Posting:
        """Free cash that an order to buy needs no more."""
        self._check_reserved(_positive(amount))
        self.state.reserved -= amount
        return self._posted()

    # -- positions --

    @command
    async def deliver(self, symbol: str, quantity: int) -> Posting:
        """Book units in from outside."""
        _positive(quantity)
        positions = self.state.positions
        if symbol not in positions and len(positions) >= MAX_POSITIONS:
            raise Rejected(f"an account holds at most {MAX_POSITIONS} symbols")
        positions.setdefault(symbol, Position()).quantity += quantity
        return self._posted(symbol)

    @command
    async def reserve_position(self, symbol: str, quantity: int) -> Posting:
        """Set units aside for an order to sell."""
        _positive(quantity)
        position = self.state.positions.get(symbol, Position())
        if position.quantity - position.reserved < quantity:
            raise Rejected(f"fewer than {quantity} units of {symbol} are free", symbol=symbol)
        position.reserved += quantity
        return self._posted(symbol)

    @command
    async def release_position(self, symbol: str, quantity: int) -> Posting:
        """Free units that an order to sell needs no more."""
        self._reserved_position(symbol, _positive(quantity)).reserved -= quantity
        return self._posted(symbol)

    # -- trades --

    @command
    async def settle_buy(
        self, trade: str, symbol: str, quantity: int, cost: Decimal, fee: Decimal, reserved: Decimal
    ) -> Posting:
        """Pay for a trade. It ends ``reserved`` of the reservation; what is cheaper is freed."""
        _positive(quantity)
        _positive(cost)
        self._check_reserved(reserved)
        if cost + fee > reserved:
            raise Rejected(f"trade {trade} costs more than was reserved for it", trade=trade)
        positions = self.state.positions
        if symbol not in positions and len(positions) >= MAX_POSITIONS:
            raise Rejected(f"an account holds at most {MAX_POSITIONS} symbols")
        self.state.reserved -= reserved
        self.state.cash -= cost + fee
        self.state.fees += fee
        positions.setdefault(symbol, Position()).quantity += quantity
        return self._posted(symbol)

    @command
    async def settle_sell(
        self, trade: str, symbol: str, quantity: int, proceeds: Decimal, fee: Decimal
    ) -> Posting:
        """Deliver what was sold, and take the proceeds less the fee."""
        _positive(proceeds)
        if not 0 <= fee <= proceeds:
            raise Rejected(f"the fee of trade {trade} is not within its proceeds", trade=trade)
        position = self._reserved_position(symbol, _positive(quantity))
        position.reserved -= quantity
        position.quantity -= quantity
        self.state.cash += proceeds - fee
        self.state.fees += fee
        return self._posted(symbol)

    # -- queries --

    @query
    async def balance(self) -> AccountState:
        return self.state

    @query
    async def buying_power(self) -> Decimal:
        return self.state.cash - self.state.reserved

    @query
    async def position(self, symbol: str) -> Position:
        return self.state.positions.get(symbol, Position())

    def _posted(self, symbol: str | None = None) -> Posting:
        state = self.state
        state.entries += 1
        position = state.positions.get(symbol, Position()) if symbol else Position()
        return Posting(
            state.entries, state.cash, state.reserved, position.quantity, position.reserved
        )

    def _check_free(self, amount: Decimal) -> None:
        free = self.state.cash - self.state.reserved
        if amount > free:
            raise Rejected("not enough free cash", free=str(free))

    def _check_reserved(self, amount: Decimal) -> None:
        if not 0 < amount <= self.state.reserved:
            raise Rejected("more than is reserved", reserved=str(self.state.reserved))

    def _reserved_position(self, symbol: str, quantity: int) -> Position:
        position = self.state.positions.get(symbol)
        if position is None or quantity > position.reserved:
            raise Rejected(f"fewer than {quantity} units of {symbol} are reserved", symbol=symbol)
        return position


def _positive[N: (int, Decimal)](amount: N) -> N:
    # Sums of amounts below the limit have fewer digits than Decimal rounds to.
    if not 0 < amount <= MAX_AMOUNT:
        raise Rejected(f"must be positive and at most {MAX_AMOUNT:f}")
    return amount
