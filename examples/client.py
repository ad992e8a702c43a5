"""Calls the account service of accounts.py: typed, untyped, and from plain scripts.

Start the service in another terminal first:

    aegis run examples/accounts.py:Account --instance-id acct-1 --resource ACC-1

and then this: python -m examples.client
"""

import asyncio
from decimal import Decimal

import aegis
from examples.accounts import Account


async def main() -> None:
    async with aegis.connect() as cluster:  # finds the local server, or takes a URL
        account = cluster.actor(Account, "ACC-1")
        await account.deposit(amount=Decimal("10.50"))
        print("balance:", await account.balance())
        try:
            await account.deposit(amount=Decimal(-1))
        except aegis.Rejected as error:
            print("rejected:", error)


if __name__ == "__main__":
    asyncio.run(main())
