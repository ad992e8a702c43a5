"""Testing one's own actors: a whole system in memory, in virtual time.

::

    from aegis.testing import MemoryCluster, in_virtual_time

    @in_virtual_time
    async def test_deposit_raises_the_balance() -> None:
        async with MemoryCluster() as memory:
            await memory.start_node((Account, ["ACC-1"]))
            account = memory.cluster.actor(Account, "ACC-1")
            await account.deposit(amount=Decimal(1))
            assert await account.balance() == Decimal(1)

`in_virtual_time`, or `run` in a plain test, gives it an event loop whose time jumps:
timeouts and restarts of minutes pass in milliseconds. The nodes are the same code as in
production, over `MemoryTransport`, which passes the tests that NATS passes.
"""

from __future__ import annotations

from aegis.testing._fake import FakeService
from aegis.testing._memory_cluster import MemoryCluster, NodeKilled
from aegis.testing._operations import Do
from aegis.testing._outside import Outside, OutsideCall
from aegis.testing._probe import Probe, Recorded
from aegis.testing._recorder import ActorRecorder
from aegis.testing._run import in_virtual_time, run
from aegis.testing._simulate import SimulationFailed, SimulationReport, simulate
from aegis.testing._states import States
from aegis.testing._steps import Crash, Step
from aegis.transport._memory import Hop, MemoryBroker, MemoryTransport
from aegis.transport._virtual_loop import Deadlock, VirtualClock, VirtualTimeLoop

__all__ = [
    "ActorRecorder",
    "Crash",
    "Deadlock",
    "Do",
    "FakeService",
    "Hop",
    "MemoryBroker",
    "MemoryCluster",
    "MemoryTransport",
    "NodeKilled",
    "Outside",
    "OutsideCall",
    "Probe",
    "Recorded",
    "SimulationFailed",
    "SimulationReport",
    "States",
    "Step",
    "VirtualClock",
    "VirtualTimeLoop",
    "in_virtual_time",
    "run",
    "simulate",
]
