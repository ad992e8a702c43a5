from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import Any, cast

import pykka
import pytest
from pykka.messages import ProxyCall

from aegis._trace import current_traceparent, outgoing_traceparent, use_trace
from aegis.actors._actor import AegisActor, spawn
from aegis.actors._cell import Props
from aegis.actors._handlers import command, query
from aegis.actors._messages import Call
from aegis.actors._ref import ActorRef, ActorRefLike
from aegis.contracts import Request
from aegis.errors import (
    ActorDead,
    DeadlineExpired,
    HandlerFailed,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Rejected,
)
from aegis.transport._virtual_loop import run as run_virtual
from tests.actors.kernel import Account, Ledger, Scripted, Watching

ONE = Decimal(1)


class Talker(AegisActor):
    """Talks to itself and to others while it handles a message."""

    service = "talker"
    greeting = "hello"

    def __init__(self, other: ActorRef[Any] | None = None) -> None:
        self.other = other
        self.background: asyncio.Future[Any] | None = None

    @query
    async def ask_itself(self) -> int:
        result: int = await self.actor_ref.ask(Call("one"))
        return result

    @query
    def ask_itself_in_thread(self) -> int:
        result: int = self.actor_ref.ask(Call("one"), block=True)
        return result

    @query
    async def ask_itself_later(self) -> None:
        async def later() -> Any:
            return await self.actor_ref.ask(Call("one"))

        self.background = asyncio.ensure_future(later())
        await asyncio.sleep(0)

    @query
    async def one(self) -> int:
        return 1

    @command
    async def command_other(self) -> Decimal:
        assert self.other is not None
        result: Decimal = await self.other.ask(Call("deposit", {"amount": ONE}))
        return result

    @command
    async def query_other(self) -> Decimal:
        assert self.other is not None
        result: Decimal = await self.other.ask(Call("balance"))
        return result

    @command
    async def command_other_afterwards(self) -> None:
        async def later() -> Any:
            assert self.other is not None
            await GATE.wait()
            return await self.other.ask(Call("deposit", {"amount": ONE}))

        self.background = asyncio.ensure_future(later())

    def plain_method(self, x: int) -> str:
        return f"{x} {threading.current_thread() is threading.main_thread()}"

    async def async_method(self, x: int) -> int:
        return x + 1


GATE = asyncio.Event()


# -- calls ----------------------------------------------------------------------------


async def test_a_proxy_takes_arguments_by_name_and_by_position() -> None:
    account = Account.start().proxy()
    assert await account.deposit(amount=Decimal("1.50")) == Decimal("1.50")
    assert await account.deposit(Decimal(2)) == Decimal("3.50")


async def test_every_form_of_a_call_reaches_the_same_handler() -> None:
    ref = Account.start()
    assert await ref.ask(Call("deposit", {"amount": ONE})) == 1
    assert await ref.ask(ProxyCall(("deposit",), (ONE,), {})) == 2
    ref.tell(Call("deposit", {"amount": ONE}))
    ref.proxy().deposit.defer(amount=ONE)
    assert await ref.proxy().balance() == 4
    pykka_proxy: Any = pykka.ActorProxy(actor_ref=cast("Any", ref))
    assert await pykka_proxy.deposit(amount=ONE) == 5


async def test_results_and_arguments_are_copies_as_over_the_wire() -> None:
    ref = Account.start()
    names = ["a", "b"]
    result = await ref.proxy().tags(names=names)
    assert result == names
    assert result is not names
    value: dict[str, Any] = {"x": [1, (2, 3)]}
    echoed = await ref.proxy().echo(value=value)
    assert echoed == {"x": [1, [2, 3]]}
    assert echoed["x"] is not value["x"]


async def test_a_business_answer_is_rejected_with_its_facts_and_changes_nothing() -> None:
    account = Account.start().proxy()
    with pytest.raises(Rejected, match="must be positive") as caught:
        await account.deposit(amount=Decimal(-1))
    assert caught.value.facts == {"amount": "-1"}
    assert await account.balance() == 0


async def test_a_failing_command_leaves_no_trace_in_the_state() -> None:
    account = Account.start().proxy()
    await account.deposit(amount=ONE)
    with pytest.raises(HandlerFailed, match=r"account\.break_down raised ValueError: broken"):
        await account.break_down(how="exception")
    assert await account.balance() == 1


async def test_a_rejected_command_takes_its_events_back() -> None:
    ledger = Ledger.start().proxy()
    assert await ledger.deposit(amount=ONE) == 1
    with pytest.raises(Rejected):
        await ledger.deposit(amount=Decimal(1000))
    assert await ledger.deposit(amount=ONE) == 2


@pytest.mark.parametrize(
    ("call", "error", "field"),
    [
        (Call("withdraw"), NotFound, None),
        (Call("deposit"), InvalidRequest, "amount"),
        (Call("deposit", {"amount": "lots"}), InvalidRequest, "amount"),
        (Call("deposit", {"amount": ONE, "colour": 1}), InvalidRequest, "colour"),
        (Call("deposit", {"amount": object()}), InvalidRequest, "amount"),
        (Call("deposit", {}, (ONE, ONE)), InvalidRequest, ""),
        (Call("echo", {"value": 2**70}), InvalidRequest, ""),
        (Call("echo", {"value": "\ud800"}), InvalidRequest, ""),
    ],
)
async def test_a_call_that_does_not_fit_is_refused_as_over_the_wire(
    call: Call, error: type[Exception], field: str | None
) -> None:
    ref = Account.start()
    with pytest.raises(error) as caught:
        await ref.ask(call)
    if field is not None:
        assert getattr(caught.value, "facts", {})["field"] == field
    assert await ref.proxy().balance() == 0


async def test_a_result_that_is_not_what_its_hint_says_is_a_failure_of_the_handler() -> None:
    with pytest.raises(HandlerFailed, match="not what its hint says"):
        await Account.start().proxy().lie()


async def test_a_rejection_whose_facts_cannot_travel_still_arrives() -> None:
    class Odd(AegisActor):
        service = "odd"

        @command
        async def refuse(self) -> None:
            raise Rejected("no", thing=object())

    with pytest.raises(Rejected, match="no"):
        await Odd.start().proxy().refuse()


async def test_an_await_of_a_command_inside_a_command_is_refused() -> None:
    account = Account.start()
    talker = Talker.start(account).proxy()
    with pytest.raises(HandlerFailed, match=r"CommandInCommand.*self\.send"):
        await talker.command_other()
    assert await account.proxy().balance() == 0
    assert await talker.query_other() == 0


async def test_a_task_that_outlives_its_command_may_call_commands() -> None:
    account = Account.start()
    ref = Talker.start(account)
    GATE.clear()
    await ref.proxy().command_other_afterwards()
    GATE.set()
    assert await ref.cell.actor.__dict__["background"] == 1


@pytest.mark.parametrize("method", ["ask_itself", "ask_itself_in_thread"])
async def test_a_handler_that_waits_for_itself_is_told_instead_of_waiting_for_ever(
    method: str,
) -> None:
    with pytest.raises(HandlerFailed, match="waits for a message to its own actor"):
        await Talker.start().ask(Call(method))


async def test_a_task_of_a_handler_may_wait_for_the_handlers_actor() -> None:
    ref = Talker.start()
    await ref.proxy().ask_itself_later()
    assert await ref.cell.actor.__dict__["background"] == 1


async def test_a_message_id_is_known_only_while_a_message_that_has_one_is_handled() -> None:
    seen: list[str] = []

    class Named(AegisActor):
        service = "named"

        @query
        async def name(self) -> str:
            seen.append(self.message_id)
            return self.message_id

    ref = Named.start()
    assert await ref.proxy().name() == ""
    request = Request("query", "1-abc", 7, 7, "named", None, "name", {}, 1000)
    ref.tell(request)
    await ref.ask("after it")
    assert seen == ["", "1-abc-7"]
    assert ref.cell.actor.message_id == ""


async def test_the_trace_of_the_caller_reaches_the_handler() -> None:
    seen: list[str] = []

    class Traced(AegisActor):
        service = "traced"

        def __init__(self, other: ActorRef[Any] | None = None) -> None:
            self.other = other

        @query
        async def trace(self) -> None:
            seen.append(current_traceparent())
            if self.other is not None:
                await self.other.ask(Call("trace"))

    ref = Traced.start(Traced.start())
    await ref.wait_started()
    trace = outgoing_traceparent()
    with use_trace(trace):
        await ref.proxy().trace()
    await ref.proxy().trace()
    assert seen == [trace, trace, "", ""]


# -- other messages -------------------------------------------------------------------


async def test_any_value_goes_to_on_receive_and_its_exception_to_who_asked() -> None:
    ref = Scripted.start([])
    assert await ref.ask({"any": "thing"}) == {"any": "thing"}
    error = OSError("x")
    with pytest.raises(OSError, match="x") as caught:
        await ref.ask(error)
    assert caught.value is error
    assert await ref.ask("still there") == "still there"


async def test_methods_and_attributes_that_are_no_handlers_work_as_with_pykka() -> None:
    proxy: Any = Talker.start().proxy()
    assert await proxy.plain_method(1) == "1 False"
    assert await proxy.async_method(x=1) == 2
    assert await proxy.greeting == "hello"
    with pytest.raises(AttributeError, match="nothing"):
        _ = proxy.nothing
    with pytest.raises(AttributeError):
        _ = proxy._private


async def test_pykkas_own_proxy_reads_and_sets_attributes() -> None:
    ref = Talker.start()
    proxy: Any = pykka.ActorProxy(actor_ref=cast("Any", ref))
    assert await proxy.greeting == "hello"

    # Pykka's proxy waits for the answer here; an actor's ref returns at once.
    proxy.__setattr__("greeting", "good day")
    assert await proxy.greeting == "good day"


async def test_an_unexpected_message_is_logged_and_answered_with_none() -> None:
    assert await Account.start().ask("what?") is None


# -- threads and time -----------------------------------------------------------------


async def test_ask_with_block_works_from_a_thread_and_is_refused_on_the_loop() -> None:
    ref = Account.start()

    def in_thread() -> tuple[Decimal, Decimal]:
        first = ref.ask(Call("deposit", {"amount": ONE}), block=True, timeout=10)
        second = ref.ask(Call("deposit", {"amount": ONE})).get(timeout=10)
        return first, second

    assert await asyncio.to_thread(in_thread) == (Decimal(1), Decimal(2))
    with pytest.raises(RuntimeError, match="await the future"):
        ref.ask(Call("balance"), block=True)


async def test_stop_with_block_works_from_a_thread() -> None:
    ref = Account.start()
    assert await asyncio.to_thread(lambda: ref.stop(block=True, timeout=10)) is True
    assert await asyncio.to_thread(lambda: ref.stop(block=True, timeout=10)) is False


def test_a_timeout_before_the_work_began_says_that_nothing_happened() -> None:
    async def main() -> None:
        ref = Scripted.start(journal)
        gate = asyncio.Event()
        blocking = ref.ask(gate)
        waiting = ref.ask("late", timeout=5)
        began = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExpired):
            await waiting
        assert asyncio.get_running_loop().time() - began == pytest.approx(5)
        gate.set()
        await blocking
        assert await ref.ask("next", timeout=5) == "next"

    journal: list[Any] = []
    run_virtual(main())
    assert journal == ["start", "next"]


def test_a_timeout_after_the_work_began_leaves_the_outcome_unknown() -> None:
    async def main() -> None:
        ref = Scripted.start([])
        gate = asyncio.Event()
        with pytest.raises(OutcomeUnknown):
            await ref.ask(gate, timeout=5)
        gate.set()

    run_virtual(main())


def test_a_command_whose_caller_gave_up_before_it_began_does_not_run() -> None:
    class Busy(Account):
        @query
        async def wait(self) -> None:
            await gate.wait()

    gate = asyncio.Event()

    async def main() -> None:
        ref = spawn(Props(Busy))
        busy = ref.ask(Call("wait"))
        with pytest.raises(DeadlineExpired):
            await ref.ask(Call("deposit", {"amount": ONE}), timeout=5)
        gate.set()
        await busy
        assert await ref.ask(Call("balance"), timeout=5) == 0

    run_virtual(main())


async def test_a_timeout_holds_for_a_blocking_ask_too() -> None:
    ref = Scripted.start([])
    gate = asyncio.Event()

    def in_thread() -> None:
        with pytest.raises(OutcomeUnknown):
            ref.ask(gate, block=True, timeout=0.01)

    await asyncio.to_thread(in_thread)
    gate.set()


# -- what a ref is --------------------------------------------------------------------


async def test_a_ref_offers_what_every_ref_offers() -> None:
    def takes(ref: ActorRefLike) -> str:
        return ref.address

    ref = Account.start()
    assert takes(ref).startswith("/local/Account-")
    assert ref.address in str(ref)
    assert "Account" in repr(ref)


async def test_a_proxy_of_a_dead_actor_is_refused() -> None:
    ref = Watching.start()
    await ref.stop()
    with pytest.raises(ActorDead):
        ref.proxy()


async def test_tell_says_at_once_that_there_is_no_such_handler() -> None:
    with pytest.raises(NotFound):
        Account.start().tell(Call("withdraw"))
