"""Calls the account service from a script without asyncio: python -m examples.script."""

from decimal import Decimal

import aegis
from examples.accounts import Account


def main() -> None:
    with aegis.connect_blocking() as cluster:
        account = cluster.actor(Account, "ACC-1")
        account.deposit(amount=Decimal("10.50"))
        print("balance:", account.balance())


if __name__ == "__main__":
    main()
