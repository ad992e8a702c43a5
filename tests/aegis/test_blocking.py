"""The client for threads: streams and topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from attrs import define, field

import aegis
from aegis import AegisActor, InvalidRequest, command, query, subscribes
from aegis._blocking import BlockingCluster
from aegis.transport._codec import decode_value
from tests.support.nats import NatsServer
from tests.support.poll import wait_until
from tests.support.system import Backend, System, on_both


@define
class TapeState:
    """What was kept."""

    kept: list[int] = field(factory=list[int])


class Tape(AegisActor):
    """Counts, hears, and keeps."""

    service = "tape"
    state: TapeState

    def on_start(self) -> None:
        self.heard: list[int] = []
        self.closed = 0

    @query
    async def count(self, to: int) -> AsyncIterator[int]:
        try:
            for number in range(to):
                yield number
                if number == 7:
                    raise ValueError("cannot go on")
        finally:
            self.closed += 1

    @subscribes("ticks.*")
    async def on_tick(self, number: int) -> None:
        self.heard.append(number)

    @command
    @subscribes("orders.*", durable="tape")
    async def keep(self, number: int) -> None:
        self.state.kept.append(number)

    @query
    async def kept(self) -> list[int]:
        return self.state.kept


def from_a_thread(
    server: NatsServer, work: Callable[[System, BlockingCluster], None]
) -> list[Tape]:
    """Run ``work`` in a thread with a blocking client; return the actor that it spoke to."""
    actors: list[Tape] = []

    async def scenario(system: System) -> None:
        node = await system.start_node((Tape, ["T-1"]))

        def in_a_thread() -> None:
            with aegis.connect_blocking(server.url, namespace=system.namespace) as cluster:
                work(system, cluster)

        await asyncio.to_thread(in_a_thread)
        (desk,) = node.dispatcher.desks.values()
        actor = desk.resources["T-1"].actor
        assert isinstance(actor, Tape)
        actors.append(actor)
        await wait_until(lambda: actor.closed == 2, what="each generator was closed", timeout=30)
        await wait_until(lambda: actor.heard == [1, 2], what="both were heard", timeout=30)
        kept = await system.cluster.call("tape", "kept", resource_id="T-1")
        assert kept == [1, 2, 3]

    Backend(server.url).run(scenario)
    return actors


def test_a_blocking_client_iterates_over_streams_and_publishes(nats_server: NatsServer) -> None:
    def work(system: System, cluster: BlockingCluster) -> None:
        first: list[int] = []
        stream = cluster.stream("tape", "count", {"to": 9}, resource_id="T-1", window=2)
        with pytest.raises(aegis.HandlerFailed, match="cannot go on"):
            first.extend(stream)
        assert first == list(range(8))
        taken: list[int] = []
        for number in cluster.actor(Tape, "T-1").count(5):
            taken.append(number)
            if number == 3:
                break
        assert taken == [0, 1, 2, 3]
        cluster.publish("ticks.A", 1)
        cluster.publish("ticks.A", 2)
        for number in (1, 2, 3):
            # Kept, so it returns when the stream has it.
            cluster.publish("orders.A", number)
        with pytest.raises(InvalidRequest, match="wildcard"):
            cluster.publish("orders.*", 1)

    (actor,) = from_a_thread(nats_server, work)
    assert actor.heard == [1, 2]


def test_a_stream_of_nobody_is_an_error_for_a_blocking_client(nats_server: NatsServer) -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Tape, ["T-1"]))

        def in_a_thread() -> None:
            with aegis.connect_blocking(nats_server.url, namespace=system.namespace) as cluster:
                with pytest.raises(aegis.NotFound):
                    list(cluster.stream("tape", "count", {"to": 1}, resource_id="T-2", timeout=5))
                with pytest.raises(aegis.InvalidRequest, match="to"):
                    list(cluster.stream("tape", "count", {"to": "x"}, resource_id="T-1"))

        await asyncio.to_thread(in_a_thread)

    Backend(nats_server.url).run(scenario)


@on_both
async def test_the_health_of_a_node_tells_what_its_subscriptions_have_heard(
    system: System,
) -> None:
    node = await system.start_node((Tape, ["T-1"]), instance_id="one")
    await system.cluster.publish("ticks.A", 1)
    await system.cluster.publish("ticks.A", "no number")
    (counts,) = node.topics.statistics()
    await wait_until(
        lambda: counts.handled + counts.refused == 4, what="all were heard", timeout=30
    )
    reply = await system.transport.request(system.subjects.health(node.node_id), b"", timeout=10)
    (told,) = decode_value(reply.payload)["topics"]
    # Two actors hear each message: the instance and its resource.
    assert told == {
        "service_name": "tape",
        "instance_id": "one",
        "topic": "ticks.*",
        "method": "on_tick",
        "received": 2,
        "handled": 2,
        "failed": 0,
        "dropped": 0,
        "refused": 2,
    }
