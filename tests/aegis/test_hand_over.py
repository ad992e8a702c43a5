"""An owner that gives its resource to a standby of its own accord."""

from __future__ import annotations

import asyncio

import pytest
from attrs import define

from aegis import AegisActor, HandlerFailed, Rejected, command, query
from aegis._inspect import Inspector
from aegis.transport._codec import decode_value
from tests.support.poll import wait_until
from tests.support.system import System, on_both

pytestmark = pytest.mark.timeout(120)


@define
class TallyState:
    value: int = 0


class Tally(AegisActor):
    """Counts, and gives itself away."""

    service = "tally"
    state: TallyState

    @command
    async def add(self) -> tuple[int, str]:
        self.state.value += 1
        return self.state.value, self.instance_id

    @command
    async def leave(self, to: str | None = None) -> str:
        self.state.value += 1
        self.hand_over(to)
        return self.instance_id

    @command
    async def leave_and_fail(self) -> None:
        self.hand_over()
        raise Rejected("no")

    @query
    async def leave_by_a_query(self) -> str:
        self.hand_over()
        return self.instance_id

    @query
    async def who(self) -> tuple[str, int]:
        return self.instance_id, self.epoch


class Guest(AegisActor):
    """Keeps no state, so it is served by its instances."""

    service = "guest"

    @query
    async def leave(self) -> None:
        self.hand_over()


async def owned_by(system: System, instance_id: str) -> None:
    """Return when this instance answers for the resource."""

    async def answers() -> bool:
        owner, _ = await system.cluster.call("tally", "who", resource_id="T")
        return str(owner) == instance_id

    await wait_until(answers, what=f"{instance_id} owns it")


async def standing_by(system: System, *wanted: str) -> None:
    """Return when these, and no others, stand by and have told how far they are."""

    async def all_told() -> bool:
        (found,) = await Inspector(system.transport, system.subjects).resources("tally")
        told = {s["instance_id"] for s in found["standbys"] if s["lag"] is not None}
        return told == set(wanted)

    await wait_until(all_told, what=f"{wanted} stand by", timeout=40)


@on_both
async def test_a_command_hands_its_resource_over_when_it_has_happened(system: System) -> None:
    await system.start_node()
    await system.start_node((Tally, ["T"]), instance_id="a")
    await system.start_node((Tally, ["T"]), instance_id="b", role="standby")
    await standing_by(system, "b")
    assert await system.cluster.call("tally", "leave", resource_id="T") == "a"
    await owned_by(system, "b")
    # What the command did is done, and the one that left stands by, ready to come back.
    assert await system.cluster.call("tally", "add", resource_id="T") == [2, "b"]
    await standing_by(system, "a")
    assert await system.cluster.call("tally", "leave", resource_id="T") == "b"
    await owned_by(system, "a")
    assert await system.cluster.call("tally", "add", resource_id="T") == [4, "a"]


@on_both
async def test_no_call_is_lost_or_repeated_while_owners_change(system: System) -> None:
    await system.start_node()
    await system.start_node((Tally, ["T"]), instance_id="a")
    await system.start_node((Tally, ["T"]), instance_id="b", role="standby")
    await standing_by(system, "b")
    answers: list[int] = []

    async def call(count: int) -> None:
        for _ in range(count):
            value, _owner = await system.cluster.call("tally", "add", resource_id="T")
            answers.append(value)

    calling = [asyncio.ensure_future(call(50)) for _ in range(4)]
    await system.cluster.call("tally", "leave", resource_id="T")
    await asyncio.gather(*calling)
    value, owner = await system.cluster.call("tally", "add", resource_id="T")
    assert (value, owner) == (202, "b")
    assert len(set(answers)) == 200


@on_both
async def test_the_standby_that_is_named_takes_over(system: System) -> None:
    await system.start_node()
    await system.start_node((Tally, ["T"]), instance_id="a")
    for name in "bcd":
        await system.start_node((Tally, ["T"]), instance_id=name, role="standby")
    await standing_by(system, "b", "c", "d")
    heard = await system.overhear("event.promoted")
    for name in ("c", "d", "b"):
        await system.cluster.call("tally", "leave", {"to": name}, resource_id="T")
        await owned_by(system, name)
        await standing_by(system, *{"a", "b", "c", "d"} - {name})
    facts = [decode_value(message.payload) for message in heard]
    owners = [f["instance_id"] for f in facts if "sequence" in f]
    assert owners == ["c", "d", "b"]


@on_both
async def test_without_a_standby_nothing_changes(system: System) -> None:
    await system.start_node()
    await system.start_node((Tally, ["T"]), instance_id="a")
    await system.start_node((Tally, ["T"]), instance_id="b", role="standby")
    await standing_by(system, "b")
    before = await system.cluster.call("tally", "who", resource_id="T")
    await system.cluster.call("tally", "leave", {"to": "z"}, resource_id="T")
    with pytest.raises(Rejected):
        await system.cluster.call("tally", "leave_and_fail", resource_id="T")
    assert await system.cluster.call("tally", "add", resource_id="T") == [2, "a"]
    assert await system.cluster.call("tally", "who", resource_id="T") == before
    await standing_by(system, "b")


@on_both
async def test_a_query_can_hand_over_and_an_instance_cannot(system: System) -> None:
    await system.start_node()
    await system.start_node((Tally, ["T"]), instance_id="a")
    await system.start_node((Tally, ["T"]), instance_id="b", role="standby")
    await standing_by(system, "b")
    assert await system.cluster.call("tally", "leave_by_a_query", resource_id="T") == "a"
    await owned_by(system, "b")
    await system.start_node(Guest, instance_id="g")
    with pytest.raises(HandlerFailed, match="only resources are handed over"):
        await system.cluster.actor(Guest).leave()


@on_both
async def test_the_old_owner_has_ended_its_work_before_the_new_one_begins(system: System) -> None:
    told: list[str] = []
    may_end = asyncio.Event()

    class Slow(Tally):
        service = "slow"

        async def on_promote(self, epoch: int) -> None:
            told.append(f"{self.instance_id} begins")

        async def on_demote(self) -> None:
            told.append(f"{self.instance_id} ends")
            await may_end.wait()

    await system.start_node()
    await system.start_node((Slow, ["T"]), instance_id="a")
    await system.start_node((Slow, ["T"]), instance_id="b", role="standby")
    inspector = Inspector(system.transport, system.subjects)
    await system.cluster.call("slow", "leave", {"to": "b"}, resource_id="T")
    await wait_until(lambda: "a ends" in told, what="the old owner is told")
    (found,) = await inspector.resources("slow")
    assert found["instance_id"] == "a"
    may_end.set()
    await wait_until(lambda: "b begins" in told, what="the new one begins")
    assert told == ["a begins", "a ends", "b begins"]
