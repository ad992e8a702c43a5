"""Commands to a service with no resource: spread over its instances, each done once."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from itertools import pairwise

import pytest

from aegis import (
    AegisActor,
    HandlerFailed,
    InvalidRequest,
    OutcomeUnknown,
    Rejected,
    TooOld,
    command,
)
from aegis._clock import Clock
from aegis.actors._claims import CLAIM_TTL, MAX_CLOCK_DISTANCE_MS
from tests.support.poll import wait_until
from tests.support.services import Gate, Quoter, Vault
from tests.support.system import System, on_both


@on_both
async def test_consecutive_commands_go_to_different_instances(system: System) -> None:
    for name in ("q1", "q2", "q3"):
        await system.start_node(Quoter, instance_id=name)
    quoter = system.cluster.actor(Quoter)
    instances = [(await quoter.place(Decimal(1))).split()[0] for _ in range(12)]
    assert Counter(instances) == {"q1": 4, "q2": 4, "q3": 4}
    assert all(one != following for one, following in pairwise(instances))
    assert {await system.cluster.actor("quoter@q2").name() for _ in range(3)} == {"q2"}


@on_both
async def test_an_instance_that_left_is_not_chosen_again(system: System) -> None:
    nodes = [await system.start_node(Quoter, instance_id=name) for name in ("q1", "q2", "q3")]
    quoter = system.cluster.actor(Quoter)
    assert {await quoter.name() for _ in range(6)} == {"q1", "q2", "q3"}
    heard = await system.overhear("instance.q2")
    await system.stop_node(nodes[1])
    del heard[:]
    assert {await quoter.name() for _ in range(12)} == {"q1", "q3"}
    assert heard == []


@on_both
async def test_calls_ride_through_the_death_of_an_instance(system: System) -> None:
    nodes = [await system.start_node(Quoter, instance_id=name) for name in ("q1", "q2", "q3")]
    quoter = system.cluster.actor(Quoter)
    await quoter.name()
    await system.kill_node(nodes[1])
    placed = await asyncio.gather(*(quoter.place(Decimal(n)) for n in range(30)))
    assert {text.split()[0] for text in placed} == {"q1", "q3"}
    assert len(await system.claims("quoter")) == len({text.split()[1] for text in placed}) == 30


@on_both
async def test_a_standby_that_was_promoted_takes_its_place_in_the_group(system: System) -> None:
    await system.start_node()  # leads, and stays
    first = await system.start_node((Vault, ["V-1"]), instance_id="a")
    await system.start_node((Vault, ["V-1"]), instance_id="b", role="standby")
    heard = await system.overhear("instance.b")
    await system.cluster.call("vault", "total", timeout=5)
    assert heard == []
    await system.stop_node(first)
    await system.cluster.call("vault", "total", timeout=5)
    assert heard


@on_both
async def test_a_command_to_a_service_that_keeps_state_has_to_name_a_resource(
    system: System,
) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="a")
    with pytest.raises(InvalidRequest, match=r"name one, as in vault/ID") as refused:
        await system.cluster.actor(Vault).deposit(Decimal(1))
    assert refused.value.facts["field"] == "resource_id"
    assert await system.cluster.actor(Vault, "V-1").deposit(Decimal(1)) == Decimal(1)


@on_both
async def test_every_kind_of_answer_is_claimed_but_one_to_what_did_not_run(
    system: System,
) -> None:
    await system.start_node(Quoter, instance_id="q1")
    quoter = system.cluster.actor(Quoter)
    assert await quoter.place(Decimal(1))
    with pytest.raises(Rejected, match="negative"):
        await quoter.place(Decimal(-1))
    with pytest.raises(HandlerFailed, match="cannot go on"):
        await quoter.fail()
    with pytest.raises(InvalidRequest, match="amount"):
        await system.cluster.call("quoter", "place", {"amount": "x"})
    assert sorted(claim[1] for claim in await system.claims("quoter")) == [200, 422, 500]
    subject = f"{system.namespace}.claim.>"
    kept = [stored.headers or {} async for stored in system.transport.read(subject)]
    assert {headers["Nats-TTL"] for headers in kept} == {str(CLAIM_TTL)}


@on_both
async def test_the_claim_decides_a_race_of_two_instances(system: System) -> None:
    for name in ("q1", "q2"):
        await system.start_node(Quoter, instance_id=name)
    for number in range(10):
        request = system.request("quoter", "place", {"amount": str(number)})
        one, two = await asyncio.gather(system.ask("q1", request), system.ask("q2", request))
        assert one == two
        assert one.status == 200
    assert len(await system.claims("quoter")) == 10


@on_both
async def test_a_repeat_after_the_instance_died_gets_the_same_answer(system: System) -> None:
    first = await system.start_node(Quoter, instance_id="q1")
    second = await system.start_node(Quoter, instance_id="q2")
    requests = [
        system.request("quoter", method, params)
        for method, params in (
            ("place", {"amount": "1"}),
            ("place", {"amount": "-1"}),
            ("fail", {}),
        )
    ]
    answers = [await system.ask("q1", request) for request in requests]
    await system.kill_node(first)
    for request in requests:
        request.attempt = 2
    assert [await system.ask("q2", request) for request in requests] == answers
    # Not even the handler has run again.
    cell = second.dispatcher.desks["q2"].cell
    assert cell is not None
    assert isinstance(cell.actor, Quoter)
    assert cell.actor.runs == 0


@on_both
async def test_a_repeat_to_the_same_instance_runs_once(system: System) -> None:
    (node,) = [await system.start_node(Quoter, instance_id="q1")]
    request = system.request("quoter", "place", {"amount": "1"})
    answers = await asyncio.gather(*(system.ask("q1", request) for _ in range(5)))
    request.attempt = 2
    answers.append(await system.ask("q1", request))
    assert answers == [answers[0]] * 6
    cell = node.dispatcher.desks["q1"].cell
    assert cell is not None
    assert isinstance(cell.actor, Quoter)
    assert cell.actor.runs == 1


@on_both
async def test_a_message_whose_clock_is_too_far_away_is_refused(system: System) -> None:
    await system.start_node(Quoter, instance_id="q1")
    for distance in (-MAX_CLOCK_DISTANCE_MS - 60_000, MAX_CLOCK_DISTANCE_MS + 60_000):
        request = system.request("quoter", "place", {"amount": "1"})
        request.first_sent_ms += distance
        answer = await system.ask("q1", request)
        assert (answer.status, "clock" in answer.value["message"]) == (410, True)

        class Wrong(Clock):
            distance_ms = distance

            def boot_seconds(self) -> float:
                return system.clock.boot_seconds()

            def wall_ms(self) -> int:
                return system.clock.wall_ms() + self.distance_ms

        caller = await system.caller(Wrong())
        with pytest.raises(TooOld, match="clock"):
            await caller.actor(Quoter).place(Decimal(1))
    assert await system.claims("quoter") == []
    request = system.request("quoter", "place", {"amount": "1"})
    request.first_sent_ms -= MAX_CLOCK_DISTANCE_MS - 60_000
    assert (await system.ask("q1", request)).status == 200


@on_both
async def test_what_ran_under_a_lost_connection_is_not_claimed_on_the_next(
    system: System,
) -> None:
    gate = Gate()

    class Slow(AegisActor):
        service = "slow"

        @command
        async def place(self) -> int:
            await gate.pass_through()
            return gate.passed

    node = await system.start_node(Slow, instance_id="s1")
    request = system.request("slow", "place")
    first = asyncio.ensure_future(system.ask("s1", request, timeout=60))
    await gate.entered.wait()
    node.on_disconnected()
    node.on_reconnected()
    gate.opened.set()
    await wait_until(lambda: gate.passed == 1, what="the handler has run")
    request.attempt = 2
    # The first run may not commit any more, so the repeat runs anew.
    assert (await system.ask("s1", request)).value == 2
    assert not first.done()
    assert len(await system.claims("slow")) == 1
    first.cancel()


class Teller(AegisActor):
    """A service of which one instance hangs until the test lets it go on."""

    service = "teller"
    gate = Gate()

    @command
    async def serve(self) -> str:
        if self.instance_id == "hangs":
            await self.gate.pass_through()
        return self.instance_id


@on_both
async def test_an_instance_that_does_not_answer_is_spared(system: System) -> None:
    Teller.gate = Gate()
    for name in ("hangs", "works"):
        await system.start_node(Teller, instance_id=name)
    teller = system.cluster.actor(Teller, timeout=1.1)
    heard = await system.overhear("instance.hangs")
    calls = (teller.serve() for _ in range(8))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(OutcomeUnknown) == 4
    assert heard
    del heard[:]
    assert {await teller.serve() for _ in range(8)} == {"works"}
    assert heard == []
    Teller.gate.opened.set()


@on_both
async def test_an_instance_that_is_gone_costs_one_attempt(system: System) -> None:
    nodes = [await system.start_node(Quoter, instance_id=name) for name in ("q1", "q2")]
    quoter = system.cluster.actor(Quoter)
    assert {await quoter.name() for _ in range(4)} == {"q1", "q2"}
    before = system.cluster.directory.lookups
    await system.kill_node(nodes[1])
    assert {await quoter.name() for _ in range(10)} == {"q1"}
    # Each attempt that meets nobody is followed by a lookup; so may be the event.
    assert system.cluster.directory.lookups - before <= 2
