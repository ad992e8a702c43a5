"""A thousand resources of one node that fail over together: how little that may cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from attrs import define, field

from aegis.actors._control import SupervisorCandidate
from aegis.actors._membership import Membership
from aegis.contracts import Role
from aegis.transport._base import Append, AppendOutcome
from tests.actors.control_world import Listener, World, play
from tests.support.poll import wait_until

pytestmark = pytest.mark.timeout(60)

MANY = 1000
NAMES = [f"R-{number}" for number in range(MANY)]
BATCH = 500


@define
class Sent:
    """What one process sent, from `watch` on."""

    batches: list[int] = field(factory=list[int])
    """How many records each atomic batch had."""
    records: Counter[str] = field(factory=Counter[str])
    """By the first token of their keys; single ones are not in ``batches``."""
    messages: Counter[str] = field(factory=Counter[str])
    """By subject, with what is only one process's own left out."""


def watch(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Count what a process sends from now on."""
    sent, transport = Sent(), world.memory(name)
    append, append_batch, publish = transport.append, transport.append_batch, transport.publish

    def kind(one: Append) -> str:
        return one.subject.removeprefix(world.subjects.registry() + ".").split(".")[0]

    async def on_append(one: Append, *, timeout: float) -> AppendOutcome:
        sent.records[kind(one)] += 1
        return await append(one, timeout=timeout)

    async def on_batch(batch: Sequence[Append], *, timeout: float) -> AppendOutcome:
        sent.batches.append(len(batch))
        sent.records.update(map(kind, batch))
        return await append_batch(batch, timeout=timeout)

    def on_publish(subject: str, payload: bytes, **options: Any) -> None:
        if subject.startswith(world.subjects.namespace + ".event."):
            sent.messages[subject] += 1
        elif not options.get("reply_to"):
            sent.messages["answer"] += 1
        publish(subject, payload, **options)

    monkeypatch.setattr(transport, "append", on_append)
    monkeypatch.setattr(transport, "append_batch", on_batch)
    monkeypatch.setattr(transport, "publish", on_publish)
    return sent


async def thousand(world: World) -> tuple[SupervisorCandidate, Membership, Membership, Listener]:
    """Start a leader, an owner of a thousand resources, and a standby for all of them."""
    leader = await world.leader(batch_size=BATCH)
    listener = Listener()
    one, two = await world.member("node-1"), await world.member("node-2", listener=listener)
    await one.register("account", "acct-1")
    await two.register("account", "acct-2")
    held = await one.register_resources("account", "acct-1", NAMES)
    await one.wait_covered("account", NAMES[-1], held.epochs[NAMES[-1]], timeout=5)
    await two.register_resources("account", "acct-2", NAMES, role=Role.STANDBY)
    return leader, one, two, listener


def test_a_thousand_resources_fail_over_in_a_handful_of_writes_and_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World) -> None:
        leader, one, two, listener = await thousand(world)
        before = {r.resource_id: r.epoch for r in leader.registry.resources.values()}
        await one.stop()
        world.memory("node-1").close_for_good("killed")
        sent = watch(world, "sup-1", monkeypatch)
        leader.suspect_node("node-1")
        await wait_until(lambda: len(listener.covered) == MANY, what="all are covered")
        await wait_until(lambda: not leader.registry.standbys, what="all is tidied up")
        # Two batches name the owners, two remove their records as standbys.
        assert sent.batches == [BATCH] * 4
        assert sent.records["resource"] == sent.records["standby"] == MANY
        assert sent.records["instance"] == 1
        # Renewals besides: one more than usual says that nothing is contested any more.
        assert sent.records["lease"] <= 3
        events = {name: n for name, n in sent.messages.items() if name != "answer"}
        promoted = world.subjects.event("promoted")
        assert events[promoted] <= 4
        assert sum(events.values()) <= events[promoted] + 1
        # The standby is told in a few answers, and not once for each resource.
        assert sent.messages["answer"] <= 12
        told = [e for e in world.events if e["event"] == "promoted"]
        epochs = {name: epoch for event in told for name, epoch in event["epochs"].items()}
        assert sorted(epochs) == sorted(NAMES)
        assert sum(len(event["resource_ids"]) for event in told) == MANY
        assert len(set(epochs.values())) == MANY
        assert all(epochs[name] > before[name] for name in NAMES)
        assert listener.covered == {("account", name): epoch for name, epoch in epochs.items()}
        assert two.lease.covered == listener.covered

    play(scenario)


def test_the_first_of_a_thousand_does_not_wait_for_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World) -> None:
        leader, one, _, listener = await thousand(world)
        await one.stop()
        world.memory("node-1").close_for_good("killed")
        transport = world.memory("sup-1")
        append_batch = transport.append_batch
        held_up = asyncio.Event()
        batches = 0

        async def slow(batch: Sequence[Append], *, timeout: float) -> AppendOutcome:
            nonlocal batches
            batches += 1
            if batches == 2:
                await held_up.wait()
            return await append_batch(batch, timeout=timeout)

        monkeypatch.setattr(transport, "append_batch", slow)
        leader.suspect_node("node-1")
        await wait_until(lambda: len(listener.covered) >= BATCH - 100, what="the first are covered")
        assert len(listener.covered) <= BATCH
        assert [e for e in world.events if e["event"] == "promoted"]
        held_up.set()
        await wait_until(lambda: len(listener.covered) == MANY, what="the others follow")

    play(scenario)


def test_a_leader_that_falls_in_the_middle_of_a_thousand_leaves_none_without_an_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World) -> None:
        leader, one, _, listener = await thousand(world)
        second = await world.candidate("sup-2", batch_size=BATCH)
        await one.stop()
        world.memory("node-1").close_for_good("killed")
        transport = world.memory("sup-1")
        append_batch = transport.append_batch
        batches = 0

        async def dying(batch: Sequence[Append], *, timeout: float) -> AppendOutcome:
            nonlocal batches
            batches += 1
            if batches == 2:
                transport.close_for_good("killed")
            return await append_batch(batch, timeout=timeout)

        monkeypatch.setattr(transport, "append_batch", dying)
        second.suspect_node("node-1")
        leader.suspect_node("node-1")
        await wait_until(lambda: batches == 2, what="half is written")
        second.suspect_node("sup-1")
        await wait_until(lambda: len(listener.covered) == MANY, what="all are covered")
        assert second.leading
        owners = Counter(r.instance_id for r in second.registry.resources.values())
        assert owners == {"acct-2": MANY}
        await wait_until(lambda: not second.registry.standbys, what="all is tidied up")

    play(scenario)
