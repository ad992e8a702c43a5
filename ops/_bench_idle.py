"""What an idle resource actor costs: memory, and the time of its start.

``python -m aegis.ops._bench_idle URL NAMESPACE COUNT`` starts so many resources in one
process as a node does, each fenced in its journal on the server, and prints one line of
JSON. Memory is the growth of the process's resident size, so it includes everything.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from aegis._clock import SystemClock
from aegis._collection import uncollected_start
from aegis._subjects import Subjects
from aegis.actors._actor import AegisActor
from aegis.actors._behaviour import Behaviour
from aegis.actors._cell import Props
from aegis.actors._journaled import JournaledBehaviour
from aegis.actors._post_office import PostOffice
from aegis.actors._runtime import Runtime
from aegis.actors._supervisor import Supervisor
from aegis.ops._bench_limits import PASSWORD_VARIABLE, USER_VARIABLE
from aegis.ops._bench_loop import run
from aegis.ops._bench_processes import BenchFailed, child
from aegis.ops._bench_services import Counter
from aegis.transport._base import StreamConfig
from aegis.transport._nats import connect_nats
from aegis.transport._nats_options import NatsOptions
from aegis.transport._server import EmbeddedServer

__all__ = ["MAX_KIB_EACH", "MAX_START_SECONDS", "Idle", "measure_idle"]

MAX_KIB_EACH: Final = 3.0
MAX_START_SECONDS: Final = 2.0
"""For `START_COUNT` actors."""

START_COUNT: Final = 10_000
GROUP: Final = 1_000
"""Actors that start at the same time."""

_START_TIMEOUT: Final = 300.0


@frozen
class Idle:
    """So many idle actors in one process."""

    count: int
    kib_each: float
    start_seconds: float

    @property
    def meets(self) -> bool:
        """Whether memory, and for `START_COUNT` actors the start too, is as it should be."""
        quick = self.count != START_COUNT or self.start_seconds < MAX_START_SECONDS
        return self.kib_each <= MAX_KIB_EACH and quick


async def measure_idle(server: EmbeddedServer, folder: Path, counts: Sequence[int]) -> list[Idle]:
    """Measure for each of ``counts``, each time in a new process."""
    login = server.credentials
    environment = {USER_VARIABLE: login.user, PASSWORD_VARIABLE: login.password}
    found: list[Idle] = []
    for count in counts:
        arguments = ["-m", __name__, server.url, f"idle{count}", str(count)]
        async with child(f"idle-{count}", arguments, folder=folder, environment=environment) as one:
            try:
                async with asyncio.timeout(_START_TIMEOUT):
                    said: dict[str, Any] = json.loads(await one.wait_line())
            except TimeoutError:
                raise BenchFailed(f"{count} actors do not start") from None
        found.append(Idle(**said))
    return found


class _Alone:
    """An ownership without a supervisor: there is no earlier owner."""

    def lease_covers(self, service: str, resource: str, epoch: int) -> bool:
        return True

    async def wait_covered(self, service: str, resource: str, epoch: int) -> None:
        pass

    def on_fenced(self, service: str, resource: str, epoch: int, newer_epoch: int) -> None:
        raise AssertionError(f"{resource} has another owner")

    def hand_over(self, service: str, resource: str, epoch: int, to: str | None) -> None:
        raise AssertionError(f"{resource} has no standby")


async def _measure(url: str, namespace: str, count: int) -> Idle:
    options = NatsOptions(
        servers=(url,), user=os.environ[USER_VARIABLE], password=os.environ[PASSWORD_VARIABLE]
    )
    transport = await connect_nats(options)
    subjects = Subjects(namespace)
    await transport.ensure_stream(
        StreamConfig(subjects.stream, subjects.durable, max_bytes=1024**3)
    )
    ownership = _Alone()
    office = PostOffice.open(transport, subjects, SystemClock())

    def behaviour(actor: AegisActor) -> Behaviour:
        assert actor.resource_id is not None
        return JournaledBehaviour(
            office,
            ownership,
            actor_class=Counter,
            resource=actor.resource_id,
            epoch=1,
        )

    async with _supervisor() as supervisor:
        props = Props(Counter, behaviour=behaviour, instance_id="idle")
        await supervisor.start_actor("first", props, resource_id="first")
        gc.collect()
        before = _resident_bytes()
        began = time.perf_counter()
        with uncollected_start():
            for first in range(0, count, GROUP):
                names = [f"IDLE-{number}" for number in range(first, min(first + GROUP, count))]
                await asyncio.gather(
                    *(supervisor.start_actor(name, props, resource_id=name) for name in names)
                )
        seconds = time.perf_counter() - began
        gc.collect()
        used = _resident_bytes() - before
    await transport.close()
    return Idle(count, round(used / count / 1024, 3), round(seconds, 3))


@asynccontextmanager
async def _supervisor() -> AsyncGenerator[Supervisor]:
    supervisor = Supervisor(runtime=Runtime())
    await supervisor.start()
    yield supervisor
    # The process ends next; stopping every actor in good order would take as long again.


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    # The most there ever was, in bytes on macOS: as good where it only grows.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    result = run(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    print(json.dumps({name: getattr(result, name) for name in Idle.__match_args__}), flush=True)
    os._exit(0)
