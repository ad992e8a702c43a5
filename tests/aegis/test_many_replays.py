"""A node that gets many resources at once: how many journals it reads, and at the same time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from decimal import Decimal

import pytest

from aegis._node import Node
from aegis.actors._journal import MAX_CONCURRENT_READS
from aegis.actors._remainder import PATIENCE_SECONDS
from aegis.contracts import Role
from aegis.transport import Transport
from aegis.transport._base import Stored
from tests.support.poll import wait_until
from tests.support.services import Ledger, Vault
from tests.support.system import Backend, System
from tests.support.virtual import pass_time

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


async def behind(
    system: System, service: type[Vault | Ledger], monkeypatch: pytest.MonkeyPatch, pause: float
) -> Reads:
    """Kill an owner whose standby is shown a record only every ``pause`` seconds."""
    await system.start_node()  # leads, and stays
    first = await system.start_node((service, NAMES), instance_id="a")
    second = await system.start_node()
    follow = second.transport.follow

    async def slow(pattern: str, *, start: int = 1) -> AsyncGenerator[Stored]:
        async for stored in follow(pattern, start=start):
            if ".journal." in pattern:
                await pass_time(pause)
            yield stored

    monkeypatch.setattr(second.transport, "follow", slow)
    await second.add_service(service, instance_id="b", resources=NAMES, role=Role.STANDBY)
    for name in NAMES:
        assert await system.cluster.actor(service, name).deposit(Decimal(2)) == 2
    reads = Reads(second.transport, monkeypatch)
    await system.kill_node(first)
    return reads


@pytest.mark.parametrize("service", [Vault, Ledger])
def test_standbys_that_are_behind_go_on_being_shown_their_journals(
    service: type[Vault | Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(system: System) -> None:
        # Far longer than the patience of each, but it goes on all the time.
        pause = PATIENCE_SECONDS / 20
        reads = await behind(system, service, monkeypatch, pause)
        for name in NAMES:
            assert await system.cluster.actor(service, name, timeout=60).total() == 2
        assert reads.all == 0

    Backend(None).run(scenario)


@pytest.mark.parametrize("service", [Vault, Ledger])
def test_standbys_whose_feed_is_stuck_read_their_journals_themselves(
    service: type[Vault | Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(system: System) -> None:
        reads = await behind(system, service, monkeypatch, 3_600)
        for name in NAMES:
            assert await system.cluster.actor(service, name).total() == 2
        assert reads.all == len(NAMES)

    Backend(None).run(scenario)
