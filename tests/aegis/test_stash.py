"""What an actor puts aside waits, has no effect, is lost nowhere, and comes in its order."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from attrs import define, field

from aegis import (
    AegisActor,
    DeadlineExpired,
    HandlerFailed,
    OutcomeUnknown,
    Role,
    TooOld,
    command,
    query,
)
from aegis.actors._audit import Audit
from aegis.actors._cell import Directive
from aegis.actors._inbox import MAX_TRIES
from aegis.actors._owner import SNAPSHOT_EVERY_RECORDS
from aegis.actors._record import MailSkipped
from aegis.contracts import Kind, Mail, Request
from aegis.testing import Do, simulate
from aegis.transport import Append, Appended
from aegis.transport._codec import encode_mail
from tests.support.poll import wait_until
from tests.support.services import Gate as Barrier
from tests.support.system import Backend, System, on_both
from tests.support.virtual import pass_time


@define
class GateState:
    """Whether the gate is open, and who went through."""

    is_open: bool = False
    through: list[str] = field(factory=list[str])


class Gate(AegisActor):
    """Puts aside whoever comes while it is closed."""

    service = "gate"
    stash_capacity = 4
    state: GateState

    @command
    async def enter(self, name: str) -> int:
        if not self.state.is_open:
            self.stash()
        self.state.through.append(name)
        return len(self.state.through)

    @command
    def enter_slowly(self, name: str) -> int:
        if not self.state.is_open:
            self.stash()
        self.state.through.append(name)
        return len(self.state.through)

    @command
    async def enter_late(self, how: str) -> None:
        match how:
            case "state":
                self.state.through.append("never")
            case "send":
                self.send(Gate, "G-2", "enter", name="never")
            case "remind":
                self.remind("r", "enter", after=1, name="never")
            case _:
                await self.publish("gates", "never")
        self.stash()

    @command
    async def open(self) -> None:
        self.state.is_open = True
        self.unstash_all()

    @command
    async def close(self) -> None:
        self.state.is_open = False

    @command
    async def remind_to_enter(self, name: str) -> None:
        self.remind(name, "enter", after=0.1, name=name, missed="skip")

    @query
    async def through(self) -> list[str]:
        return self.state.through

    @query
    async def when_open(self) -> list[str]:
        if not self.state.is_open:
            self.stash()
        return self.state.through


def gate(system: System, timeout: float | None = None) -> Any:
    return system.cluster.actor(Gate, "G-1", timeout=timeout)


def stashed(system: System, node: int = 0) -> int:
    """How many messages the gate of a node has put aside."""
    for desk in system.nodes[node].dispatcher.desks.values():
        if "G-1" in desk.resources:
            return len(desk.resources["G-1"]._stash or ())
    return 0


async def has_stashed(system: System, count: int, node: int = 0) -> None:
    await wait_until(lambda: stashed(system, node) == count, what=f"{count} are put aside")


@on_both
async def test_what_was_put_aside_is_answered_in_its_order_before_anything_newer(
    system: System,
) -> None:
    await system.start_node((Gate, ["G-1"]))
    proxy = gate(system)
    first = [asyncio.ensure_future(proxy.enter(name)) for name in "ab"]
    first.append(asyncio.ensure_future(proxy.enter_slowly("c")))
    reader = asyncio.ensure_future(proxy.when_open())
    await has_stashed(system, 4)
    assert await proxy.through() == []
    assert await system.entries("gate", "G-1") == []
    opened = asyncio.ensure_future(proxy.open())
    later = asyncio.ensure_future(proxy.enter("d"))
    assert await asyncio.gather(*first, later) == [1, 2, 3, 4]
    await opened
    assert await reader == ["a", "b", "c"]
    assert await proxy.through() == ["a", "b", "c", "d"]


@on_both
async def test_a_durable_message_that_was_put_aside_lets_the_others_pass(system: System) -> None:
    await system.start_node((Gate, ["G-1"]))
    one = await system.cluster.send(Gate, "enter", {"name": "a"}, resource_id="G-1")
    two = await system.cluster.send(Gate, "enter", {"name": "b"}, resource_id="G-1")
    await has_stashed(system, 2)
    opened = await system.cluster.send(Gate, "open", resource_id="G-1")
    assert await system.cluster.result(opened) is None
    assert await system.cluster.result(one) == 1
    assert await system.cluster.result(two) == 2


@pytest.mark.parametrize("by", ["kill", "stop", "restart"])
def test_what_was_put_aside_comes_again_after(by: str) -> None:
    async def scenario(system: System) -> None:
        owner = await system.start_node((Gate, ["G-1"]), instance_id="g-1")
        proxy = gate(system)
        calls = [asyncio.ensure_future(proxy.enter(name)) for name in "ab"]
        await has_stashed(system, 2)
        sent = [
            await system.cluster.send(Gate, "enter", {"name": name}, resource_id="G-1")
            for name in "cd"
        ]
        await has_stashed(system, 4)
        if by == "restart":
            desk = system.nodes[0].dispatcher.desks["g-1"]
            desk.resources["G-1"].fail(SystemExit("a new life"), directive=Directive.RESTART)
        else:
            await system.start_node((Gate, ["G-1"]), instance_id="g-2", role=Role.STANDBY)
            await (system.kill_node(owner) if by == "kill" else system.stop_node(owner))
        await has_stashed(system, 4)
        assert await system.entries("gate", "G-1") == []
        await proxy.open()
        places = await asyncio.gather(*calls, *map(system.cluster.result, sent))
        through = await proxy.through()
        assert [through[place - 1] for place in places] == list("abcd")
        assert places[2] < places[3]  # Those that were sent; callers repeat in any order.
        await check_journal(system)

    Backend(None).run(scenario)


async def check_journal(system: System) -> None:
    """Let an auditor read the journal of the gate."""
    audit = Audit("gate")
    async for stored in system.transport.read(system.subjects.journal("gate", "G-1")):
        audit.add(stored)
    assert audit.findings == []


def test_a_snapshot_keeps_what_was_put_aside() -> None:
    async def scenario(system: System) -> None:
        owner = await system.start_node((Gate, ["G-1"]), instance_id="g-1")
        sent = await system.cluster.send(Gate, "enter", {"name": "a"}, resource_id="G-1")
        await has_stashed(system, 1)
        for _ in range(SNAPSHOT_EVERY_RECORDS):
            await gate(system).close()
        records = await system.records("gate", "G-1")
        assert records[0][1].is_snapshot
        await system.kill_node(owner)
        await system.start_node((Gate, ["G-1"]), instance_id="g-1")
        await has_stashed(system, 1)
        await gate(system).open()
        assert await system.cluster.result(sent) == 1
        await check_journal(system)

    Backend(None).run(scenario)


@on_both
async def test_a_repeat_of_a_call_that_was_put_aside_stands_in_its_place(system: System) -> None:
    await system.start_node((Gate, ["G-1"]), instance_id="g-1")
    request = system.request("gate", "enter", {"name": "a"}, resource="G-1")
    first = asyncio.ensure_future(system.ask("g-1", request))
    await has_stashed(system, 1)
    other = asyncio.ensure_future(gate(system).enter("b"))
    await has_stashed(system, 2)
    repeat = asyncio.ensure_future(system.ask("g-1", request))
    observed = system.nodes[0].dispatcher.desks["g-1"].resources["G-1"]
    await wait_until(lambda: observed.processed == 3, what="the repeat has come")
    assert stashed(system) == 2
    await gate(system).open()
    assert (await repeat).value == 1
    assert await other == 2
    assert await gate(system).through() == ["a", "b"]
    first.cancel()


def test_a_call_whose_time_is_up_while_it_is_put_aside_never_runs() -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Gate, ["G-1"]))
        with pytest.raises(OutcomeUnknown):
            await gate(system, timeout=0.5).enter("a")
        await gate(system).open()
        assert await gate(system).through() == []
        assert await gate(system).enter("b") == 1

    Backend(None).run(scenario)


@on_both
async def test_a_call_that_was_put_aside_can_be_resolved_and_then_never_runs(
    system: System,
) -> None:
    await system.start_node((Gate, ["G-1"]))
    with pytest.raises(OutcomeUnknown) as unknown:
        await gate(system, timeout=0.2).enter("a")
    with pytest.raises(DeadlineExpired):
        await system.cluster.resolve(unknown.value)
    await gate(system).open()
    assert await gate(system).through() == []


@on_both
async def test_a_full_stash_refuses_a_call_with_its_limit_and_takes_it_later(
    system: System,
) -> None:
    await system.start_node((Gate, ["G-1"]), instance_id="g-1")
    calls = [asyncio.ensure_future(gate(system).enter(str(number))) for number in range(4)]
    await has_stashed(system, 4)
    request = system.request("gate", "enter", {"name": "one too many"}, resource="G-1")
    refused = await system.ask("g-1", request)
    assert refused.status == 429
    assert refused.value["error"] == "StashFull"
    assert refused.value["capacity"] == 4
    assert "holds its 4 messages" in refused.value["message"]
    patient = asyncio.ensure_future(gate(system).enter("patient"))
    await gate(system).open()
    assert await asyncio.gather(*calls) == [1, 2, 3, 4]
    assert await patient == 5


def test_calls_that_nobody_waits_for_make_room_in_the_stash() -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Gate, ["G-1"]))
        gone = [gate(system, timeout=0.5).enter(str(number)) for number in range(4)]
        assert all(
            isinstance(one, OutcomeUnknown)
            for one in await asyncio.gather(*gone, return_exceptions=True)
        )
        waits = asyncio.ensure_future(gate(system).enter("a"))
        await has_stashed(system, 1)
        await gate(system).open()
        assert await waits == 1

    Backend(None).run(scenario)


@on_both
async def test_durable_messages_beyond_a_full_stash_are_kept_as_dead_letters(
    system: System,
) -> None:
    await system.start_node((Gate, ["G-1"]))
    receipts = [
        await system.cluster.send(Gate, "enter", {"name": str(number)}, resource_id="G-1")
        for number in range(6)
    ]
    with pytest.raises((HandlerFailed, TooOld), match="dead letters"):
        await system.cluster.result(receipts[5])
    await gate(system).open()
    assert [await system.cluster.result(one) for one in receipts[:4]] == [1, 2, 3, 4]
    letters = [s async for s in system.transport.read(f"{system.namespace}.deadletter.>")]
    assert len(letters) == 2
    await check_journal(system)


@on_both
async def test_a_copy_of_a_message_that_was_put_aside_does_not_run(system: System) -> None:
    await system.start_node((Gate, ["G-1"]))
    subject = system.subjects.mailbox("gate", "G-1")
    request = Request(Kind.COMMAND, "5-a", 1, 1, "gate", "G-1", "enter", {"name": "a"}, 0)
    for _ in range(2):
        append = Append(subject, encode_mail(Mail(request)))
        assert isinstance(await system.transport.append(append, timeout=10), Appended)
    done = await system.cluster.send(Gate, "open", resource_id="G-1")
    await system.cluster.result(done)
    assert await gate(system).enter("b") == 2
    assert await gate(system).through() == ["a", "b"]
    await check_journal(system)


@pytest.mark.parametrize("how", ["state", "send", "remind", "publish"])
def test_a_command_that_has_done_something_cannot_be_put_aside(how: str) -> None:
    async def scenario(system: System) -> None:
        await system.start_node((Gate, ["G-1"]))
        with pytest.raises(HandlerFailed, match=r"call self\.stash\(\) before anything else"):
            await gate(system).enter_late(how)
        (entry,) = await system.entries("gate", "G-1")
        assert (entry.status, entry.outgoing, entry.reminders) == (500, None, None)
        assert await gate(system).through() == []
        assert stashed(system) == 0

    Backend(None).run(scenario)


def test_a_reminder_that_was_put_aside_comes_once_and_lets_others_come() -> None:
    async def scenario(system: System) -> None:
        owner = await system.start_node((Gate, ["G-1"]), instance_id="g-1")
        await gate(system).remind_to_enter("a")
        await gate(system).remind_to_enter("b")
        await has_stashed(system, 2)
        await pass_time(5)
        await gate(system).open()
        assert await gate(system).through() == ["a", "b"]
        await gate(system).close()
        await gate(system).remind_to_enter("c")
        await has_stashed(system, 1)
        await system.start_node((Gate, ["G-1"]), instance_id="g-2", role=Role.STANDBY)
        await system.stop_node(owner)
        await has_stashed(system, 1)
        await gate(system).open()
        assert await gate(system).through() == ["a", "b", "c"]
        await pass_time(5)
        assert await gate(system).through() == ["a", "b", "c"]

    Backend(None).run(scenario)


def trap(barrier: Barrier) -> type[AegisActor]:
    """Return a service that hangs at what it lets in, and forgets that it is open."""

    class Trap(AegisActor):
        service = "trap"
        is_open = False

        @command
        async def step_in(self) -> None:
            if not self.is_open:
                self.stash()
            await barrier.pass_through()

        @command
        async def open(self) -> None:
            self.is_open = True
            self.unstash_all()

    return Trap


@on_both
async def test_a_message_at_which_owners_die_is_given_up_however_often_it_was_put_aside(
    system: System,
) -> None:
    await system.start_node()
    sent = await system.cluster.send("trap/T-1", "step_in", {})
    other = await system.cluster.send("trap/T-1", "step_in", {})
    for _ in range(MAX_TRIES):
        barrier = Barrier()
        node = await system.start_node((trap(barrier), ["T-1"]), instance_id="t")
        await system.cluster.send("trap/T-1", "open", {})
        await barrier.entered.wait()
        await system.kill_node(node)
    barrier = Barrier()
    barrier.opened.set()
    await system.start_node((trap(barrier), ["T-1"]), instance_id="t")
    await system.cluster.call("trap", "open", resource_id="T-1")
    assert await system.cluster.result(other) is None
    entries = [e for _, r in await system.records("trap", "T-1") for e in r.entries or ()]
    assert [e.sequence for e in entries if isinstance(e, MailSkipped)] == [sent.sequence]
    assert barrier.passed == 1


@define
class BarrierState:
    """Whether it is up, and how many went through."""

    is_up: bool = True
    passed: int = 0


class Turnstile(AegisActor):
    """Puts those aside who come while it is down; it goes up by itself."""

    service = "turnstile"
    state: BarrierState

    @command
    async def enter(self) -> int:
        if not self.state.is_up:
            self.stash()
        self.state.passed += 1
        return self.state.passed

    @command
    async def go_down(self) -> None:
        self.state.is_up = False
        self.remind("up", "go_up", after=0.5)

    @command
    async def go_up(self) -> None:
        self.state.is_up = True
        self.unstash_all()


def test_users_can_simulate_actors_that_put_messages_aside() -> None:
    def draw(rng: Random) -> Do:
        return Do(rng.choice(["enter", "enter", "go_down", "go_up"]))

    assert simulate(Turnstile, draw, seeds=3).commands == 60
