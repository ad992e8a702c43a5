# accounts.py
from decimal import Decimal

from attrs import define

from aegis import AegisActor, Rejected, command, query


@define
class AccountState:
    cash: Decimal = Decimal(0)


class Account(AegisActor):
    service = "account"
    state: AccountState  # AccountState() for a new resource

    @command
    async def deposit(self, amount: Decimal) -> Decimal:
        if amount <= 0:
            raise Rejected("amount must be positive")  # a business answer: 422, no crash, no change
        self.state.cash += amount
        return self.state.cash

    @query
    async def balance(self) -> Decimal:
        return self.state.cash
