"""Spans of a request: who begins them, who their parents are, how they end."""

from __future__ import annotations

from decimal import Decimal

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from aegis import AegisActor, HandlerFailed, Rejected, command, query
from aegis._opentelemetry import current_tracer
from aegis._trace import outgoing_traceparent, trace_id_of, use_trace
from aegis.actors._observer import Observer
from aegis.actors._observers import combined
from aegis.contracts import Role
from tests.support.mail_services import Book, Courier, Purse
from tests.support.poll import wait_until
from tests.support.services import Quoter, Vault
from tests.support.spans import Recorder, Seen, named, only
from tests.support.system import Backend, System, on_both


class Limits(AegisActor):
    service = "limits"

    @query
    async def limit(self) -> Decimal:
        return Decimal(10)


class Trader(AegisActor):
    service = "trader"

    @command
    async def trade(self) -> Decimal:
        limit: Decimal = await self.actor(Limits, "L-1").limit()
        return limit


def in_memory(recorder: Recorder, scenario: object) -> list[Seen]:
    """Run a scenario in memory and return the spans of it."""
    Backend(None).run(scenario)  # type: ignore[arg-type]
    return recorder.spans


@on_both
async def test_a_call_is_the_parent_of_its_handling_and_that_of_its_commit(system: System) -> None:
    recorder = Recorder()
    await system.start_node((Vault, ["V-1"]), instance_id="one", observer=recorder.observer())
    cluster = await system.caller(tracer=recorder.tracer)
    await cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))
    await wait_until(lambda: bool(named(recorder.spans, "commit vault")), what="it commits")
    call = only(recorder.spans, "vault/deposit", operation="call")
    handle = only(recorder.spans, "vault/deposit", operation="handle")
    commit = only(recorder.spans, "commit vault")
    assert (call.kind, handle.kind, commit.kind) == ("CLIENT", "SERVER", "INTERNAL")
    assert call.parent_id == ""
    assert (handle.parent_id, commit.parent_id) == (call.span_id, handle.span_id)
    assert call.trace_id == handle.trace_id == commit.trace_id
    for span in (call, handle):
        about = span.attributes
        assert (about["rpc.system"], about["rpc.service"], about["rpc.method"]) == (
            "aegis",
            "vault",
            "deposit",
        )
        assert about["aegis.resource_id"] == "V-1"
        assert about["aegis.instance_id"] == "one"
        assert about["aegis.status_code"] == 200
        assert about["messaging.message.id"] == call.attributes["messaging.message.id"]


def test_a_call_in_a_handler_descends_from_it() -> None:
    recorder = Recorder()

    async def scenario(system: System) -> None:
        await system.start_node((Limits, ["L-1"]), observer=recorder.observer())
        await system.start_node((Trader, ["T-1"]), observer=recorder.observer())
        cluster = await system.caller(tracer=recorder.tracer)
        await cluster.actor(Trader, "T-1").trade()

    spans = in_memory(recorder, scenario)
    trade = only(spans, "trader/trade", operation="handle")
    call = only(spans, "limits/limit", operation="call")
    asked = only(spans, "limits/limit", operation="handle")
    assert (call.parent_id, asked.parent_id) == (trade.span_id, call.span_id)


def test_the_spans_of_an_application_are_parents_outside_and_inside_of_actors() -> None:
    recorder = Recorder()
    tracer = recorder.provider.get_tracer("application")

    class Counting(AegisActor):
        service = "counting"

        @command
        def count(self) -> None:
            with tracer.start_as_current_span("step"):
                pass

    async def scenario(system: System) -> None:
        await system.start_node((Counting, ["C-1"]), observer=recorder.observer())
        cluster = await system.caller(tracer=recorder.tracer)
        with tracer.start_as_current_span("request"):
            await cluster.actor(Counting, "C-1").count()

    spans = in_memory(recorder, scenario)
    call = only(spans, "counting/count", operation="call")
    handle = only(spans, "counting/count", operation="handle")
    assert call.parent_id == only(spans, "request").span_id
    assert only(spans, "step").parent_id == handle.span_id


def test_what_a_command_sends_is_processed_as_part_of_it_and_so_is_the_reply() -> None:
    recorder = Recorder()

    async def scenario(system: System) -> None:
        await system.start_node((Purse, ["P-1", "P-2"]), observer=recorder.observer())
        cluster = await system.caller(tracer=recorder.tracer)
        purse = cluster.actor(Purse, "P-1")
        await purse.put_in(amount=Decimal(10))
        await purse.pay(to="P-2", amount=Decimal(4))
        await wait_until(
            lambda: bool(named(recorder.spans, "process purse/paid")), what="the reply came"
        )

    spans = in_memory(recorder, scenario)
    pay = only(spans, "purse/pay", operation="handle")
    take = only(spans, "process purse/take")
    paid = only(spans, "process purse/paid")
    assert (take.parent_id, paid.parent_id) == (pay.span_id, take.span_id)
    assert (take.kind, take.attributes["messaging.destination.name"]) == ("CONSUMER", "purse/P-2")
    assert take.attributes["messaging.operation.type"] == "process"
    commits = {one.parent_id for one in named(spans, "commit purse")}
    assert {pay.span_id, take.span_id, paid.span_id} <= commits


def test_a_send_is_the_parent_of_what_processes_it() -> None:
    recorder = Recorder()

    async def scenario(system: System) -> None:
        await system.start_node((Book, ["B-1"]), observer=recorder.observer())
        cluster = await system.caller(tracer=recorder.tracer)
        receipt = await cluster.send(Book, "note", {"line": "x"}, resource_id="B-1")
        await cluster.result(receipt)

    spans = in_memory(recorder, scenario)
    send, process = only(spans, "send book/note"), only(spans, "process book/note")
    assert (send.kind, process.parent_id) == ("PRODUCER", send.span_id)
    assert process.attributes["messaging.message.id"] == send.attributes["messaging.message.id"]


def test_what_a_service_group_sends_and_commits_descends_from_its_handling() -> None:
    recorder = Recorder()

    async def scenario(system: System) -> None:
        await system.start_node(Courier, (Book, ["B-1"]), observer=recorder.observer())
        cluster = await system.caller(tracer=recorder.tracer)
        await cluster.actor(Courier).carry(lines=["x"])
        await wait_until(
            lambda: bool(named(recorder.spans, "process book/note")), what="it arrived"
        )

    spans = in_memory(recorder, scenario)
    carry = only(spans, "courier/carry", operation="handle")
    assert only(spans, "process book/note").parent_id == carry.span_id
    assert only(spans, "commit courier").parent_id == carry.span_id


def test_a_rejection_is_no_error_and_a_failure_is_one_with_its_exception() -> None:
    recorder = Recorder()

    async def scenario(system: System) -> None:
        await system.start_node((Vault, ["V-1"]), observer=recorder.observer())
        cluster = await system.caller(tracer=recorder.tracer)
        vault = cluster.actor(Vault, "V-1")
        with pytest.raises(Rejected):
            await vault.deposit(amount=Decimal(-1))
        with pytest.raises(HandlerFailed):
            await vault.change_and_fail()

    spans = in_memory(recorder, scenario)
    for operation in ("call", "handle"):
        rejected = only(spans, "vault/deposit", operation=operation)
        assert (rejected.attributes["aegis.status_code"], rejected.failed) == (422, False)
        failed = only(spans, "vault/change_and_fail", operation=operation)
        assert (failed.attributes["error.type"], failed.failed) == ("500", True)
    assert only(spans, "vault/change_and_fail", operation="handle").exceptions == ("ValueError",)


def test_a_request_whose_caller_records_nothing_keeps_its_trace_id_without_a_parent() -> None:
    recorder = Recorder()
    trace = outgoing_traceparent()

    async def scenario(system: System) -> None:
        await system.start_node((Vault, ["V-1"]), observer=recorder.observer())
        with use_trace(trace):
            await system.cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))

    handle = only(in_memory(recorder, scenario), "vault/deposit")
    assert (handle.parent_id, handle.trace_id) == ("", trace_id_of(trace))


def test_a_node_that_records_nothing_passes_the_parent_on() -> None:
    recorder = Recorder()

    async def scenario(system: System) -> None:
        await system.start_node((Limits, ["L-1"]), observer=recorder.observer())
        await system.start_node((Trader, ["T-1"]))
        cluster = await system.caller(tracer=recorder.tracer)
        await cluster.actor(Trader, "T-1").trade()

    spans = in_memory(recorder, scenario)
    call = only(spans, "trader/trade", operation="call")
    assert only(spans, "limits/limit", operation="handle").parent_id == call.span_id


def test_what_its_caller_does_not_sample_no_node_records() -> None:
    caller, recorder = Recorder(sampler=ParentBased(ALWAYS_OFF)), Recorder()

    async def scenario(system: System) -> None:
        await system.start_node((Vault, ["V-1"]), observer=recorder.observer())
        cluster = await system.caller(tracer=caller.tracer)
        await cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))

    assert named(in_memory(recorder, scenario), "vault/deposit") == []


def test_a_failover_leads_from_the_leaders_decision_to_each_promotion() -> None:
    recorder = Recorder()

    async def scenario(system: System) -> None:
        await system.start_node(observer=recorder.observer())
        owned = (Vault, ["V-1", "V-2"])
        observer = recorder.observer()
        owner = await system.start_node(owned, instance_id="one", no_supervisor=True)
        await system.start_node(
            owned, instance_id="two", role=Role.STANDBY, no_supervisor=True, observer=observer
        )
        await system.kill_node(owner)
        await system.cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))
        await system.cluster.actor(Vault, "V-2").deposit(amount=Decimal(1))

    spans = in_memory(recorder, scenario)
    failover = only(spans, "failover vault")
    about = failover.attributes
    assert (about["aegis.old_instance_id"], about["aegis.instance_id"]) == ("one", "two")
    assert (about["aegis.resources"], about["aegis.cause"]) == (2, "silence")
    promotions = named(spans, "promote vault")
    assert {one.attributes["aegis.resource_id"] for one in promotions} == {"V-1", "V-2"}
    for one in promotions:
        assert (one.parent_id, one.trace_id) == (failover.span_id, failover.trace_id)
        assert one.attributes["aegis.covered_ms"] >= one.attributes["aegis.fenced_ms"]


def test_a_registration_is_followed_from_the_node_to_the_leader() -> None:
    recorder = Recorder()

    async def scenario(system: System) -> None:
        await system.start_node(observer=recorder.observer())
        observer = recorder.observer()
        await system.start_node(
            (Vault, ["V-1"]), instance_id="one", no_supervisor=True, observer=observer
        )

    spans = in_memory(recorder, scenario)
    for operation in ("service.register", "resource.register"):
        ours = [one for one in named(spans, operation) if "aegis.instance_id" in one.attributes]
        by_leader = [one for one in named(spans, operation) if one not in ours]
        assert [one.parent_id for one in by_leader] == [one.span_id for one in ours]
        assert len(ours) == 1
    assert len({one.trace_id for one in spans if one.name.endswith(".register")}) == 1


def test_a_repeat_says_that_it_is_one() -> None:
    recorder = Recorder()

    async def scenario(system: System) -> None:
        await system.start_node((Vault, ["V-1"]), instance_id="one", observer=recorder.observer())
        request = system.request("vault", "deposit", {"amount": "1"}, resource="V-1")
        await system.ask("one", request)
        await system.ask("one", request)

    first, second = named(in_memory(recorder, scenario), "vault/deposit")
    assert "aegis.duplicate" not in first.attributes
    assert second.attributes["aegis.duplicate"] is True


def test_without_a_provider_nothing_traces() -> None:
    assert current_tracer() is None
    assert combined(None).tracer is None


def test_several_observers_are_told_and_one_that_is_alone_is_not_wrapped() -> None:
    class Counter(Observer):
        fenced: int = 0
        committed: int = 0

        def on_fenced(self, cell: object) -> None:
            self.fenced += 1

    class Both(Counter):
        def on_committed(self, seconds: float) -> None:
            self.committed += 1

        def facts(self, *, watched: bool = False) -> dict[str, str]:
            return {"two": "watched" if watched else "facts"}

    one, two, recorder = Counter(), Both(), Recorder()
    group = combined(combined(one, two), None, recorder.observer())
    group.on_fenced(None)  # type: ignore[arg-type]
    group.on_committed(0.1)
    assert (one.fenced, one.committed, two.fenced, two.committed) == (1, 0, 1, 1)
    assert group.tracer is recorder.tracer
    assert group.facts() == {"two": "facts"}
    assert group.facts(watched=True) == {"two": "watched"}
    assert combined(None, one, combined(None)) is one


def test_queries_of_an_instance_are_handled_in_a_span() -> None:
    recorder = Recorder()

    async def scenario(system: System) -> None:
        await system.start_node(Quoter, observer=recorder.observer())
        cluster = await system.caller(tracer=recorder.tracer)
        await cluster.call("quoter", "name")

    spans = in_memory(recorder, scenario)
    handle = only(spans, "quoter/name", operation="handle")
    assert handle.parent_id == only(spans, "quoter/name", operation="call").span_id
