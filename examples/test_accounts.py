"""How to test an actor: a whole system in memory, in virtual time."""

from decimal import Decimal

from aegis.testing import MemoryCluster, run
from examples.accounts import Account


def test_the_money_is_there_after_a_crash() -> None:
    async def scenario() -> None:
        async with MemoryCluster() as memory:
            node = await memory.start_node((Account, ["ACC-1"]), instance_id="acct-1")
            account = memory.cluster.actor(Account, "ACC-1")
            await account.deposit(amount=Decimal(1))
            await memory.kill_node(node)
            await memory.start_node((Account, ["ACC-1"]), instance_id="acct-1")
            assert await account.balance() == Decimal(1)

    run(scenario())
