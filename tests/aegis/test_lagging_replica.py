"""Several servers keep the stream, and the one that serves a read may be behind.

A read without an end of its own then shows less than there is. In memory there is one
copy of the stream: here such reads see nothing at all, as on a server that has just
begun to catch up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from aegis.contracts import Role
from aegis.testing import MemoryTransport
from aegis.transport import Stored, Transport
from tests.aegis.test_durable_subscriptions import Ledger as Subscriber
from tests.aegis.test_durable_subscriptions import lines_of, publish, trades
from tests.aegis.test_lost_messages import in_memory
from tests.support.poll import wait_until
from tests.support.services import Ledger
from tests.support.system import System


class Behind(MemoryTransport):
    """A connection to a server that has nothing of the stream yet, and gets it late."""

    def read(
        self, subject: str, *, start: int = 1, until: int | None = None
    ) -> AsyncIterator[Stored]:
        """Yield what this server has; with ``until`` wait for it."""
        kinds = (".mailbox.", ".journal.", ".topic.")
        if until is None and any(kind in subject for kind in kinds):
            return _nothing()
        return super().read(subject, start=start, until=until)


async def _nothing() -> AsyncIterator[Stored]:
    for stored in list[Stored]():
        yield stored


def lag(system: System) -> None:
    """Let all connections from now on be to a server that is behind."""
    broker = system.broker
    assert broker is not None

    async def connect() -> Transport:
        return Behind(broker)

    system._open = connect


@in_memory
async def test_mail_that_the_replica_lacks_so_far_is_not_passed_over(system: System) -> None:
    await system.start_node()
    receipts = [
        await system.cluster.send("ledger", "deposit", {"amount": "1"}, resource_id="L-1")
        for _ in range(3)
    ]
    lag(system)
    await system.start_node((Ledger, ["L-1"]))
    receipts.append(
        await system.cluster.send("ledger", "deposit", {"amount": "1"}, resource_id="L-1")
    )
    results: list[Any] = [await system.cluster.result(receipt) for receipt in receipts]
    assert results == ["1", "2", "3", "4"]


@in_memory
async def test_what_was_published_and_the_replica_lacks_so_far_is_not_passed_over(
    system: System,
) -> None:
    node = await system.start_node((Subscriber, ["L-1"]), instance_id="one")
    await publish(system, 1)
    assert await lines_of(system, 1) == trades(1)
    await system.kill_node(node)
    await system.start_node()
    await publish(system, 2, 3)
    lag(system)
    await system.start_node((Subscriber, ["L-1"]), instance_id="one")
    await publish(system, 4)
    assert await lines_of(system, 4) == trades(1, 2, 3, 4)


@in_memory
async def test_a_standby_has_what_the_replica_lacked_when_it_joined(system: System) -> None:
    active = await system.start_node((Ledger, ["L-1", "L-2"]))
    ledger = system.cluster.actor(Ledger, "L-1")
    await ledger.deposit(Decimal(1))
    lag(system)
    follower = await system.start_node((Ledger, ["L-2"]), role=Role.STANDBY)
    await system.cluster.actor(Ledger, "L-2").deposit(Decimal(1))
    feed = follower.standbys
    await wait_until(lambda: feed._services["ledger"].progress > 0, what="the first record")
    await follower.add_service(Ledger, instance_id="late", resources=["L-1"], role=Role.STANDBY)
    await ledger.deposit(Decimal(1))
    await system.kill_node(active)
    assert await ledger.total() == 2
