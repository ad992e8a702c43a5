"""What the demo sees of one failover: from the kill until all is answered again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from attrs import define, field

from aegis.ops._demo_nodes import Node
from aegis.ops._demo_report import Kill, latency_of
from aegis.ops._demo_traders import Exchange, Sample
from aegis.ops._ledger import ACCOUNTS, PRICING

__all__ = ["Outage", "addresses_of", "wait_serving"]


@define
class Outage:
    """From a kill to the moment at which all that the node served answered again."""

    node: Node
    successor: Node
    after_orders: int
    open_commands: int
    pid: int
    died: float = 0.0
    """When its process was gone: what was sent later, only the successor can answer."""
    start: float = field(factory=time.monotonic)
    end: float = 0.0

    def overlaps(self, sample: Sample) -> bool:
        """Whether the command was open at some time of the outage."""
        return sample.start <= self.end and sample.end >= self.start

    def report(self, samples: Sequence[Sample]) -> Kill:
        """Return what the commands tell of it."""
        addresses = set(addresses_of(self.node))
        there = [sample for sample in samples if (sample.service, sample.resource) in addresses]
        answered = [sample.end for sample in there if sample.start >= self.died]
        return Kill(
            node=self.node.name,
            successor=self.successor.name,
            pid=self.pid,
            after_orders=self.after_orders,
            open_commands=self.open_commands,
            failover_seconds=round(min([*answered, self.end]) - self.start, 3),
            outage_seconds=round(self.end - self.start, 3),
            latency=latency_of([sample.seconds for sample in there if self.overlaps(sample)]),
        )


def addresses_of(node: Node) -> list[tuple[str, str | None]]:
    """Return the addresses that the node serves, or would."""
    if not node.resources:
        return [(node.service, None)]
    return [(node.service, resource) for resource in node.resources]


async def wait_serving(node: Node, exchange: Exchange) -> None:
    """Return when all that the node holds answers, whoever owns it."""
    if node.service == PRICING:
        await exchange.query(PRICING, None, "fees", instance=node.name, value="1")
        return
    method = "balance" if node.service == ACCOUNTS else "statistics"
    await asyncio.gather(
        *(exchange.query(node.service, resource, method) for resource in node.resources)
    )
