"""The control plane on three real servers, each with a copy of the stream."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest

from aegis.actors._control import SupervisorCandidate
from aegis.actors._membership import Membership
from aegis.actors._registry import Registry
from aegis.contracts import Role
from aegis.errors import AegisError
from aegis.transport._base import Append, AppendOutcome, Refused
from tests.actors.control_world import World, play_on_cluster
from tests.support.cluster import Cluster, start_cluster
from tests.support.poll import wait_until

pytestmark = pytest.mark.timeout(180)

DEADLINE = 60.0
"""Seconds that a request may take: an election of the servers takes some, on a busy machine."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncGenerator[Cluster]:
    async with start_cluster(tmp_path) as cluster:
        yield cluster


def ownership(registry: Registry) -> dict[str, tuple[str, int]]:
    return {r.resource_id: (r.instance_id, r.epoch) for r in registry.resources.values()}


async def wait_agreed(candidates: list[SupervisorCandidate]) -> SupervisorCandidate:
    """Return the one that leads, once all have read what it has written."""

    def agreed() -> bool:
        leaders = [c for c in candidates if c.leading]
        return len(leaders) == 1 and all(
            c.election.leader == leaders[0].node_id
            and ownership(c.registry) == ownership(leaders[0].registry)
            for c in candidates
        )

    await wait_until(agreed, what="all agree with one leader", timeout=DEADLINE)
    [leader] = [c for c in candidates if c.leading]
    return leader


class Terms:
    """Every leader's record that the stream ever held, as a reader of it sees them."""

    def __init__(self, world: World) -> None:
        self.leaders: dict[int, set[str]] = {}
        self._world = world
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _read(self) -> None:
        transport = await self._world.transport("reader")
        async for stored in transport.follow(self._world.subjects.registry("leader"), start=1):
            record = msgpack.unpackb(stored.payload)
            self.leaders.setdefault(record["term"], set()).add(record["node"])


async def test_one_leads_and_large_batches_are_written_whole(cluster: Cluster) -> None:
    async def scenario(world: World) -> None:
        candidates = [await world.candidate(f"sup-{number}") for number in range(3)]
        one, two = await world.member("node-1"), await world.member("node-2")
        await one.register("account", "acct-1", timeout=DEADLINE)
        await two.register("account", "acct-2", timeout=DEADLINE)
        names = [f"R-{number}" for number in range(1000)]
        held = await one.register_resources("account", "acct-1", names, timeout=DEADLINE)
        assert held.registered == names
        stands = await two.register_resources(
            "account", "acct-2", names, role=Role.STANDBY, timeout=DEADLINE
        )
        assert stands.registered == names
        await one.unregister("account", "acct-1", timeout=DEADLINE)
        leader = await wait_agreed(candidates)
        owners = ownership(leader.registry)
        assert {owner for owner, _ in owners.values()} == {"acct-2"}
        assert all(epoch > held.epochs[name] for name, (_, epoch) in owners.items())
        assert leader.registry.standbys == {}

    await play_on_cluster(scenario, cluster)


async def test_a_conditional_write_that_meets_another_one_under_way_is_repeated(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World) -> None:
        leader = await world.leader()
        transport = await world.transport("sup-1")
        met: list[AppendOutcome] = []
        append = transport.append

        async def spy(one: Append, *, timeout: float) -> AppendOutcome:
            outcome = await append(one, timeout=timeout)
            if isinstance(outcome, Refused) and outcome.again:
                met.append(outcome)
            return outcome

        monkeypatch.setattr(transport, "append", spy)
        other = await world.transport("other")
        busy = asyncio.Event()

        async def crowd(number: int) -> None:
            """Write on the same condition as the leader, all the time."""
            while not busy.is_set():
                await other.append(
                    Append(
                        world.subjects.registry("elsewhere", str(number)),
                        b"\x80",
                        expect=leader.election.sequence,
                        expect_subject=world.subjects.registry("leader"),
                        rollup=True,
                    ),
                    timeout=5,
                )

        crowding = [asyncio.create_task(crowd(number)) for number in range(8)]
        node = await world.member("node-1")
        await node.register("account", "acct-1", timeout=DEADLINE)
        held: dict[str, int] = {}
        while not met:
            found = await node.register_resources(
                "account", "acct-1", [f"R-{len(held)}"], timeout=DEADLINE
            )
            held |= found.epochs
        busy.set()
        await asyncio.gather(*crowding)
        assert {refused.code for refused in met if isinstance(refused, Refused)} == {10164}
        assert leader.leading
        assert leader.election.term == 1
        assert {n: e for n, (_, e) in ownership(leader.registry).items()} == held

    await play_on_cluster(scenario, cluster)


async def register_all_the_time(
    node: Membership, instance_id: str, held: dict[str, int], done: asyncio.Event
) -> None:
    """Register one resource after the other; ``held`` is what was acknowledged."""
    await node.register("account", instance_id, timeout=DEADLINE)
    while not done.is_set():
        name = f"{instance_id}-{len(held)}"
        with suppress(AegisError):
            found = await node.register_resources("account", instance_id, [name], timeout=DEADLINE)
            held |= found.epochs


async def test_the_death_of_the_streams_leader_under_writes_loses_nothing(
    cluster: Cluster,
) -> None:
    async def scenario(world: World) -> None:
        terms = Terms(world)
        await terms.start()
        candidates = [await world.candidate(f"sup-{number}") for number in range(3)]
        members = [await world.member(f"node-{number}") for number in range(2)]
        held: list[dict[str, int]] = [{}, {}]
        done = asyncio.Event()
        writing = [
            asyncio.create_task(register_all_the_time(member, f"acct-{number}", mine, done))
            for number, (member, mine) in enumerate(zip(members, held, strict=True))
        ]
        await wait_until(lambda: all(len(mine) >= 20 for mine in held), what="writes", timeout=60)
        killed = await cluster.wait_stream_leader(world.subjects.stream, replicas=3)
        cluster.kill(killed)
        before = [len(mine) for mine in held]
        # Requests wait out the election: those that were open are answered.
        await wait_until(
            lambda: all(len(mine) >= count + 20 for mine, count in zip(held, before, strict=True)),
            what="writes go on under the next leader of the stream",
            timeout=DEADLINE,
        )
        await cluster.start(killed)
        done.set()
        await asyncio.gather(*writing)
        leader = await wait_agreed(candidates)
        written = {name: epoch for name, (_, epoch) in ownership(leader.registry).items()}
        for mine in held:
            assert mine.items() <= written.items()
        await wait_until(
            lambda: leader.election.term in terms.leaders, what="the reader has seen its term"
        )
        await terms.stop()
        assert Counter(map(len, terms.leaders.values())).keys() == {1}, terms.leaders
        assert terms.leaders[leader.election.term] == {leader.node_id}

    await play_on_cluster(scenario, cluster)
