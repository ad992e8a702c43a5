"""What the beats of a node tell of its actors, and whom they ask for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable

import pytest
from attrs import define

from aegis import AegisActor, command, query
from aegis.actors._applied import MAX_REPEATED
from aegis.actors._lease import Beat, InstanceLoad
from aegis.transport._base import Append, AppendOutcome, Message
from aegis.transport._codec import decode_value
from tests.support.poll import wait_until
from tests.support.system import System, on_both

pytestmark = pytest.mark.timeout(120)


@define
class TallyState:
    value: int = 0


class Tally(AegisActor):
    """Counts; its query waits until it is let go."""

    service = "tally"
    state: TallyState
    go = asyncio.Event()

    @command
    async def add(self) -> int:
        self.state.value += 1
        return self.state.value

    @query
    async def wait(self) -> None:
        await self.go.wait()


class Beats:
    """The last load of each instance, and all that was told of journals."""

    def __init__(self, system: System) -> None:
        self.loads: dict[str, InstanceLoad] = {}
        self.applied: dict[tuple[str, str], int] = {}
        self.heard: Counter[str] = Counter()
        self._system = system

    async def listen(self) -> None:
        """Hear every beat from now on."""
        await self._system.transport.subscribe(self._system.subjects.heartbeat, self._heard)

    async def next(self, instance_id: str, number: int) -> None:
        """Return when an instance has been part of so many beats more."""
        ends = self.heard[instance_id] + number
        await wait_until(lambda: self.heard[instance_id] >= ends, what=f"beats of {instance_id}")

    def _heard(self, message: Message) -> None:
        for name, load in Beat.from_wire(decode_value(message.payload)).instances.items():
            self.loads[name] = load
            self.heard[name] += 1
            for resource_id, sequence in load.applied.items():
                self.applied[name, resource_id] = sequence


@on_both
async def test_beats_tell_what_owners_and_standbys_did_and_ask_no_idle_actor(
    system: System,
) -> None:
    beats = Beats(system)
    await beats.listen()
    # So many that those told again in turn do not have their next turn within a few beats.
    names = [f"T-{number}" for number in range(10 * MAX_REPEATED)]
    one = await system.start_node((Tally, names), instance_id="a")
    other = await system.start_node((Tally, names), instance_id="b", role="standby")

    def all_told() -> bool:
        return all((instance, name) in beats.applied for instance in "ab" for name in names)

    await wait_until(all_told, what="everything is told")
    stored, store = asyncio.Event(), one.transport.append

    def append_late(append: Append, *, timeout: float) -> Awaitable[AppendOutcome]:
        async def wait() -> AppendOutcome:
            await stored.wait()
            return await store(append, timeout=timeout)

        return asyncio.ensure_future(wait())

    one.transport.append = append_late  # type: ignore[method-assign]
    name = next(name for instance, name in reversed(beats.applied) if instance == "a")
    progress, before = beats.loads["a"].progress, beats.applied["a", name]
    added = asyncio.create_task(system.cluster.call("tally", "add", resource_id=name))
    await wait_until(lambda: beats.loads["a"].progress > progress, what="the handler's end is told")
    await wait_until(lambda: not one.runtime.awake, what="the owner is idle")
    assert beats.applied["a", name] == before
    stored.set()
    await added
    await beats.next("a", 2)
    assert beats.applied["a", name] > before
    await beats.next("b", 2)
    assert beats.applied["b", name] == beats.applied["a", name]
    assert beats.loads["a"].depth == 0
    await wait_until(lambda: not one.runtime.awake, what="the owner is idle again")
    await wait_until(lambda: not other.runtime.awake, what="the standby is idle again")


@on_both
async def test_mail_that_waits_behind_a_handler_is_told_by_every_beat(system: System) -> None:
    beats = Beats(system)
    await beats.listen()
    Tally.go = asyncio.Event()
    await system.start_node((Tally, ["T"]), instance_id="a")
    waiting = [
        asyncio.create_task(system.cluster.call("tally", "wait", resource_id="T", timeout=60))
        for _ in range(3)
    ]
    for _ in range(3):  # Though nothing happens meanwhile.
        beats.loads.clear()
        await wait_until(
            lambda: "a" in beats.loads and beats.loads["a"].depth >= 2, what="two wait"
        )
    progress = beats.loads["a"].progress
    Tally.go.set()
    await asyncio.gather(*waiting)
    await wait_until(
        lambda: beats.loads["a"].depth == 0 and beats.loads["a"].progress >= progress + 3,
        what="all three were answered",
    )


@on_both
async def test_an_actor_that_has_stopped_is_not_kept(system: System) -> None:
    node = await system.start_node((Tally, ["T"]), instance_id="a")
    await system.cluster.call("tally", "add", resource_id="T")
    runtime = node.runtime
    await node.stop()
    assert not runtime.awake
