"""A server that refuses a read for once does not end what is read for as long as a node runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal

from aegis.errors import Unavailable
from aegis.testing import MemoryTransport
from aegis.transport import Stored, Transport
from tests.aegis.test_lost_messages import in_memory
from tests.support.services import Vault
from tests.support.system import System


class Moody(MemoryTransport):
    """A connection whose server refuses the first read, and the first follow, of the registry."""

    refused: set[str]

    def read(
        self, subject: str, *, start: int = 1, until: int | None = None
    ) -> AsyncIterator[Stored]:
        """Read, or be refused."""
        return self._refuse("read", subject) or super().read(subject, start=start, until=until)

    def follow(self, subject: str, *, start: int = 1) -> AsyncIterator[Stored]:
        """Follow, or be refused."""
        return self._refuse("follow", subject) or super().follow(subject, start=start)

    def _refuse(self, what: str, subject: str) -> AsyncIterator[Stored] | None:
        if ".registry." not in subject or what in self.refused:
            return None
        self.refused.add(what)
        return _refused()


async def _refused() -> AsyncIterator[Stored]:
    for stored in list[Stored]():
        yield stored
    raise Unavailable("the server will not have such a consumer")


@in_memory
async def test_a_candidate_whose_read_of_the_registry_is_refused_reads_on(system: System) -> None:
    broker = system.broker
    assert broker is not None
    refused: set[str] = set()

    async def connect() -> Transport:
        transport = Moody(broker)
        transport.refused = refused
        return transport

    system._open = connect
    await system.start_node((Vault, ["V-1"]))
    assert refused == {"read", "follow"}
    second = await system.start_node((Vault, ["V-2"]))
    assert await system.cluster.actor(Vault, "V-2").deposit(Decimal(1)) == 1
    # What the second one wrote, the first one has seen: it leads when that is gone.
    await system.kill_node(second)
    assert await system.cluster.actor(Vault, "V-1").deposit(Decimal(1)) == 1
