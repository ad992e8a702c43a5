"""A call whose outcome is unknown: its result after all, or certainty that it never runs."""

from __future__ import annotations

import pytest

from aegis import DeadlineExpired, InvalidRequest, OutcomeUnknown, Rejected
from tests.aegis.test_exactly_once import gated
from tests.support.mail_services import Courier
from tests.support.services import Gate, Vault
from tests.support.system import System, on_both


async def unknown_call(system: System, gate: Gate, service: str = "gated") -> OutcomeUnknown:
    """Make a call that is given up while its handler waits at the gate."""
    with pytest.raises(OutcomeUnknown) as unknown:
        await system.cluster.call(
            service, "deposit_slowly", {"amount": 5}, resource_id="G-1", timeout=1.5
        )
    assert gate.entered.is_set()
    return unknown.value


@on_both
async def test_a_call_that_ran_after_all_gives_its_result(system: System) -> None:
    gate = Gate()
    await system.start_node((gated(gate), ["G-1"]))
    unknown = await unknown_call(system, gate)
    gate.opened.set()
    # Others go on meanwhile: its reply is kept all the same.
    for _ in range(3):
        await system.cluster.call("gated", "deposit", {"amount": 1}, resource_id="G-1")
    for _ in range(2):
        message_id = await system.cluster.resolve(unknown)
        assert message_id == unknown.facts["message_id"]
    assert await system.cluster.call("gated", "total", resource_id="G-1") == "8"


@on_both
async def test_a_call_that_did_not_run_never_will(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="v")
    late = system.request("vault", "deposit", {"amount": "5"}, resource="V-1", attempt=7)
    unknown = OutcomeUnknown(
        "it is under way somewhere",
        message_id=late.message_id,
        service="vault",
        resource_id="V-1",
        first_sent_ms=late.first_sent_ms,
    )
    with pytest.raises(DeadlineExpired, match="never will"):
        await system.cluster.resolve(unknown)
    answer = await system.ask("v", late)
    assert (answer.status, answer.value["withdrawn"]) == (408, True)
    with pytest.raises(DeadlineExpired, match="never will"):
        await system.cluster.resolve(unknown)
    assert await system.cluster.call("vault", "total", resource_id="V-1") == "0"


@on_both
async def test_what_became_of_a_call_is_told_from_another_process(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), Courier, instance_id=None)
    for request, service, resource in (
        (system.request("vault", "deposit", {"amount": "5"}, resource="V-1"), "vault", "V-1"),
        (system.request("courier", "carry", {"lines": []}), "courier", None),
    ):
        facts = {
            "message_id": request.message_id,
            "service": service,
            "resource_id": resource,
            "first_sent_ms": request.first_sent_ms,
        }
        unknown = OutcomeUnknown("lost with its process", **facts)
        with pytest.raises(DeadlineExpired, match="never will"):
            await system.cluster.resolve(unknown)
        (desk,) = (
            desk
            for node in system.nodes
            for desk in node.dispatcher.desks.values()
            if desk.service == service
        )
        assert (await system.ask(desk.instance_id, request)).status == 408


@on_both
async def test_a_refusal_is_resolved_as_such(system: System) -> None:
    await system.start_node((Vault, ["V-1"]), instance_id="v")
    request = system.request("vault", "deposit", {"amount": "-5"}, resource="V-1")
    assert (await system.ask("v", request)).status == 422
    unknown = OutcomeUnknown(
        "its answer was lost",
        message_id=request.message_id,
        service="vault",
        resource_id="V-1",
        first_sent_ms=request.first_sent_ms,
    )
    with pytest.raises(Rejected, match="positive"):
        await system.cluster.resolve(unknown)


@on_both
async def test_only_calls_can_be_resolved(system: System) -> None:
    for facts in ({}, {"message_id": "1-a-1"}, {"message_id": "x", "service": "vault"}):
        with pytest.raises(InvalidRequest, match="OutcomeUnknown"):
            await system.cluster.resolve(OutcomeUnknown("?", **facts))
