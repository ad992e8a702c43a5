"""A node that starts with many resources: how many journals it reads at the same time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from decimal import Decimal

import pytest

from aegis._node import Node
from aegis.actors._journal import MAX_CONCURRENT_READS
from aegis.contracts import Role
from aegis.transport import Transport
from aegis.transport._base import Stored
from tests.support.poll import wait_until
from tests.support.services import Ledger, Vault
from tests.support.system import Backend, System

pytestmark = pytest.mark.timeout(60)

NAMES = [f"V-{number:03}" for number in range(3 * MAX_CONCURRENT_READS)]


class Reads:
    """Counts the reads of journals under way that begin from now on."""

    def __init__(self, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.most = 0
        self.all = 0
        self._read = transport.read
        monkeypatch.setattr(transport, "read", self._count)

    async def _count(
        self, subject: str, *, start: int = 1, until: int | None = None
    ) -> AsyncGenerator[Stored]:
        if ".journal." not in subject:
            async for stored in self._read(subject, start=start, until=until):
                yield stored
            return
        self.now += 1
        self.all += 1
        self.most = max(self.most, self.now)
        try:
            async for stored in self._read(subject, start=start, until=until):
                yield stored
        finally:
            self.now -= 1


def ignore(follower: object) -> None:
    """Show it nothing."""


def is_all_free(node: Node) -> bool:
    assert node.supervisor is not None
    return not node.supervisor.registry.resources


@pytest.mark.parametrize("service", [Vault, Ledger])
@pytest.mark.parametrize("role", list(Role))
def test_a_node_replays_a_bounded_number_of_journals_at_the_same_time(
    service: type[Vault | Ledger], role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(system: System) -> None:
        assert system.broker is not None
        await system.start_node()  # leads, and stays
        first = await system.start_node((service, NAMES), instance_id="a")
        for name in NAMES:
            assert await system.cluster.actor(service, name).deposit(Decimal(2)) == 2
        second = await system.start_node()
        system.broker.latency = 0.01
        if role is Role.ACTIVE:
            await system.kill_node(first)
        reads = Reads(second.transport, monkeypatch)
        if role is Role.STANDBY:
            # Nothing that it reads as a standby arrives, so all has to be read once it owns.
            monkeypatch.setattr(second.standbys, "add", ignore)
            monkeypatch.setattr(second.standbys, "remove", ignore)
            await second.add_service(service, instance_id="b", resources=NAMES, role=role)
            await system.kill_node(first)
        else:
            await wait_until(lambda: is_all_free(second), what="what the first held is released")
            await second.add_service(service, instance_id="b", resources=NAMES, role=role)
        for name in NAMES:
            assert await system.cluster.actor(service, name).total() == 2
        assert reads.all == len(NAMES)
        assert reads.most == MAX_CONCURRENT_READS
        assert reads.now == 0

    Backend(None).run(scenario)
