"""What type checkers make of actors and proxies: they check this file like any other."""

from __future__ import annotations

from collections.abc import Awaitable
from decimal import Decimal
from typing import assert_type

import pytest

from aegis.actors._handlers import command
from aegis.errors import InvalidRequest
from tests.actors.kernel import Account


async def test_a_proxy_has_the_types_of_the_actors_class() -> None:
    account = Account.start().proxy()
    assert_type(account, Account)
    assert_type(account.deposit(amount=Decimal(1)), Awaitable[Decimal])
    assert_type(await account.deposit(amount=Decimal(1)), Decimal)
    # A plain def too is awaited by its callers.
    assert_type(await account.deposit_in_thread(amount=Decimal(1)), Decimal)
    assert_type(await account.balance(), Decimal)


async def test_wrong_arguments_are_found_by_type_checkers_and_refused_at_run_time() -> None:
    account = Account.start().proxy()
    with pytest.raises(InvalidRequest):
        await account.deposit(amout=Decimal(1))  # type: ignore[call-arg] # pyright: ignore
    with pytest.raises(InvalidRequest):
        await account.deposit(amount="lots")  # type: ignore[arg-type] # pyright: ignore
    with pytest.raises(InvalidRequest):
        await account.deposit()  # type: ignore[call-arg] # pyright: ignore


class Careful(Account):
    """Overrides a handler; type checkers take it as it is."""

    @command
    async def deposit(self, amount: Decimal) -> Decimal:
        return await super().deposit(amount=amount)


async def test_a_handler_that_is_overridden_keeps_its_types() -> None:
    account = Careful.start().proxy()
    assert_type(await account.deposit(Decimal(2)), Decimal)
    assert await account.balance() == Decimal(2)
