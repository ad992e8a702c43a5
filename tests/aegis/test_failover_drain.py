"""A node that drains hands its resources over a few at a time, and serves the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from attrs import define

from aegis import AegisActor, command
from aegis._handover import GROUP_SIZE
from aegis._inspect import Inspector
from aegis.errors import NotFound
from aegis.transport._codec import decode_value
from tests.support.poll import wait_until
from tests.support.system import System, on_both

pytestmark = pytest.mark.timeout(120)

NAMES = [f"T-{number:03}" for number in range(3 * GROUP_SIZE)]


@define
class TallyState:
    value: int = 0


def tally(busy: asyncio.Event | None = None) -> type[AegisActor]:
    """Return a service that tells who answers; it is busy until the event comes."""

    class Tally(AegisActor):
        service = "tally"
        state: TallyState

        @command
        async def add(self) -> tuple[int, str]:
            self.state.value += 1
            return self.state.value, self.instance_id

        @command
        async def dawdle(self) -> str:
            assert busy is not None
            await busy.wait()
            self.state.value += 1
            return self.instance_id

    return Tally


async def add(system: System, resource: str) -> tuple[int, str]:
    number, instance_id = await system.cluster.call("tally", "add", resource_id=resource)
    return number, instance_id


async def standing_by(system: System, count: int) -> None:
    """Return when the supervisors know how far so many standbys are."""

    async def all_told() -> bool:
        found = await Inspector(system.transport, system.subjects).resources("tally")
        standbys = [standby for resource in found for standby in resource["standbys"]]
        return sum(standby["lag"] is not None for standby in standbys) == count

    await wait_until(all_told, what="every standby has told how far it is", timeout=40)


@on_both
async def test_what_has_not_changed_hands_yet_is_served_meanwhile(system: System) -> None:
    service = tally()
    await system.start_node()  # leads, and stays
    first = await system.start_node((service, NAMES), instance_id="a")
    await system.start_node((service, NAMES), instance_id="b", role="standby")
    await standing_by(system, len(NAMES))
    heard = await system.overhear("event.promoted")
    stopping = asyncio.ensure_future(system.stop_node(first))
    await wait_until(lambda: bool(heard), what="the first group has changed hands")
    # Had all been stopped at once, nobody could answer as the old owner any more.
    promoted = decode_value(heard[0].payload)["resource_ids"]
    number, owner = await add(system, next(n for n in reversed(NAMES) if n not in promoted))
    assert number == 1
    assert owner == "a" or len(heard) == 3
    await stopping
    assert [len(decode_value(m.payload)["resource_ids"]) for m in heard] == [GROUP_SIZE] * 3
    for name in NAMES:
        assert (await add(system, name))[1] == "b"


def is_missing(name: str, cells: Mapping[str, object]) -> bool:
    return name not in cells


@on_both
async def test_an_actor_that_is_busy_does_not_hold_up_the_others(system: System) -> None:
    busy = asyncio.Event()
    service = tally(busy)
    names = NAMES[:4]
    await system.start_node()  # leads, and stays
    first = await system.start_node((service, names), instance_id="a")
    await system.start_node((service, names), instance_id="b", role="standby")
    await standing_by(system, len(names))
    dawdling = asyncio.ensure_future(system.cluster.call("tally", "dawdle", resource_id=names[0]))
    cells = first._instances["a"].desk.resources
    await wait_until(is_handling(cells[names[0]]), what="the first one is busy")
    stopping = asyncio.ensure_future(system.stop_node(first))
    for name in names[1:]:
        assert await add(system, name) in [(1, "a"), (1, "b")]
        await wait_until(partial(is_missing, name, cells), what=f"{name} is handed over")
        assert (await add(system, name))[1] == "b"
    assert not stopping.done()
    busy.set()
    await stopping
    assert await dawdling == "a"
    assert await add(system, names[0]) == (2, "b")


def is_handling(cell: Any) -> Callable[[], bool]:
    return lambda: cell._handling


@on_both
async def test_what_nobody_stands_by_for_is_served_until_the_end(system: System) -> None:
    service = tally()
    await system.start_node()  # leads, and stays
    first = await system.start_node((service, ["T-1", "T-2"]), instance_id="a")
    await system.start_node((service, ["T-1"]), instance_id="b", role="standby")
    await standing_by(system, 1)
    heard = await system.overhear("event.>")
    await system.stop_node(first)
    assert (await add(system, "T-1"))[1] == "b"
    with pytest.raises(NotFound):
        await add(system, "T-2")
    causes = {
        name: facts["cause"]
        for facts in (decode_value(message.payload) for message in heard)
        for name in facts.get("resource_ids", ())
        if facts["event"] in ("promoted", "released") and facts["role"] == "active"
    }
    assert causes == {"T-1": "released", "T-2": "unregistered"}


@on_both
async def test_all_who_end_a_node_wait_for_the_same_end(system: System) -> None:
    busy = asyncio.Event()
    await system.start_node()  # leads, and stays
    node = await system.start_node((tally(busy), NAMES[:1]), instance_id="a")
    dawdling = asyncio.ensure_future(system.cluster.call("tally", "dawdle", resource_id=NAMES[0]))
    cell = node._instances["a"].desk.resources[NAMES[0]]
    await wait_until(is_handling(cell), what="the actor is busy")
    ends = [asyncio.ensure_future(node.stop())]
    await wait_until(lambda: node.state == "draining", what="the node drains")
    ends += [asyncio.ensure_future(node.stop()), asyncio.ensure_future(node._instances["a"].stop())]
    busy.set()
    assert await dawdling == "a"
    await asyncio.gather(*ends)
    await node.stop()
    assert not node._instances
