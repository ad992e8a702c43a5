from __future__ import annotations

import asyncio
import contextvars
import threading
from decimal import Decimal
from typing import Any

import pykka
import pytest
import uvloop

from aegis.actors._actor import AegisActor, spawn
from aegis.actors._answers import AnswerSink
from aegis.actors._behaviour import PlainBehaviour
from aegis.actors._cell import TURN_MESSAGES, Directive, Props, Status
from aegis.actors._handlers import command, query
from aegis.actors._messages import Call, Terminated
from aegis.actors._runtime import Runtime
from aegis.contracts import Request
from aegis.errors import (
    ActorDead,
    ConfigurationError,
    HandlerFailed,
    MailboxFull,
    OutcomeUnknown,
)
from aegis.transport._codec import decode_value
from aegis.transport._virtual_loop import run as run_virtual
from tests.actors.kernel import Account, Recorder, Scripted, Watching

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")

ONE = Decimal(1)


class OneCommand(AegisActor):
    service = "one"

    def __init__(self, began: asyncio.Event | None = None) -> None:
        self.began = began
        self.running = 0
        self.most_running = 0

    async def on_start(self) -> None:
        await asyncio.sleep(0)

    @command
    async def wait_forever(self) -> None:
        if self.began is not None:
            self.began.set()
        await asyncio.Event().wait()

    @command
    async def overlap(self) -> int:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return self.most_running

    @command
    def overlap_in_thread(self) -> int:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        threading.Event().wait(0.001)
        self.running -= 1
        return self.most_running

    @query
    async def colour(self) -> str:
        seen = colour.get()
        colour.set("set by a handler")
        return seen

    @command
    def block(self, gate: str) -> None:
        GATES[gate].wait(10)


GATES: dict[str, threading.Event] = {}


# -- what an actor is -----------------------------------------------------------------


async def test_an_actor_is_a_real_pykka_actor_and_its_ref_a_pykka_ref() -> None:
    ref = Account.start()
    assert issubclass(type(ref), pykka.ActorRef)
    assert issubclass(Account, pykka.Actor)
    assert ref.actor_class is Account
    assert ref.actor_urn == ref.address
    assert ref.is_alive()
    assert not ref.actor_stopped.is_set()
    assert pykka.ActorRegistry.get_all() == []
    await ref.stop()
    assert ref.actor_stopped.is_set()
    assert not ref.is_alive()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_actors_run_on_asyncio_and_on_uvloop(loop: str) -> None:
    async def main() -> None:
        account = Account.start().proxy()
        assert await account.deposit(amount=ONE) == 1
        assert await account.deposit_in_thread(amount=ONE) == 2
        with pytest.raises(HandlerFailed):
            await account.break_down(how="exception")
        assert await account.balance() == 2
        with pytest.raises(HandlerFailed):
            await account.break_down(how="self_cancel")

    if loop == "uvloop":
        uvloop.run(main())
    else:
        asyncio.run(main())


async def test_an_idle_actor_has_no_task() -> None:
    before = asyncio.all_tasks()
    refs = [Account.start() for _ in range(100)]
    await refs[-1].wait_started()
    await refs[0].proxy().deposit(amount=ONE)
    assert asyncio.all_tasks() == before


async def test_async_handlers_run_on_the_loop_and_plain_ones_in_a_worker_thread() -> None:
    account = Account.start().proxy()
    assert (await account.thread_name()).startswith("aegis-worker")
    assert await account.deposit_in_thread(amount=ONE) == 1


@pytest.mark.parametrize("method", ["overlap", "overlap_in_thread"])
async def test_one_message_is_handled_at_a_time(method: str) -> None:
    ref = OneCommand.start()
    answers = [ref.ask(Call(method)) for _ in range(10)]
    assert [await answer for answer in answers] == [1] * 10


async def test_a_busy_actor_lets_the_others_have_their_turn() -> None:
    busy, other = Watching.start(), Watching.start()
    await asyncio.gather(busy.wait_started(), other.wait_started())
    await asyncio.sleep(0)
    handled_before: list[int] = []

    for number in range(10 * TURN_MESSAGES):
        busy.tell(number)
    answer = other.ask("hello")
    answer.add_done_callback(lambda _: handled_before.append(busy.cell.processed))
    await answer
    assert handled_before[0] <= TURN_MESSAGES


async def test_context_variables_do_not_leak_from_sender_or_message_to_message() -> None:
    ref = OneCommand.start()
    await ref.wait_started()
    colour.set("of the sender")
    assert await ref.proxy().colour() == "none"
    assert await ref.proxy().colour() == "none"


async def test_an_actor_made_by_calling_its_class_says_how_to_start_one() -> None:
    with pytest.raises(RuntimeError, match=r"Account.start\(\)"):
        _ = Account().address


def test_starting_without_a_loop_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match="no event loop"):
        Account.start()


async def test_a_class_that_cannot_be_served_is_refused_at_the_start() -> None:
    class Bad(AegisActor):
        @command
        async def put(self) -> None: ...

    with pytest.raises(ConfigurationError, match="no service name"):
        Bad.start()


# -- start ----------------------------------------------------------------------------


async def test_messages_wait_until_on_start_has_ended() -> None:
    journal: list[Any] = []
    gate = asyncio.Event()

    class Slow(Scripted):
        async def on_start(self) -> None:
            await gate.wait()
            journal.append("start")

    ref = Slow.start(journal)
    ref.tell(1)
    answer = ref.ask(2)
    await asyncio.sleep(0)
    assert journal == []
    gate.set()
    assert await answer == 2
    assert journal == ["start", 1, 2]


async def test_plain_hooks_may_block_and_run_in_a_worker_thread() -> None:
    threads: list[str] = []

    class Blocking(AegisActor):
        def on_start(self) -> None:
            threads.append(threading.current_thread().name)

        def on_stop(self) -> None:
            threads.append(threading.current_thread().name)

    ref = Blocking.start()
    await ref.wait_started()
    await ref.stop()
    assert [name.startswith("aegis-worker") for name in threads] == [True, True]


@pytest.mark.parametrize("problem", [ValueError("no disk"), SystemExit(3)])
async def test_a_start_that_fails_stops_the_actor_and_tells_all_who_wait(
    problem: BaseException,
) -> None:
    journal: list[Any] = []
    ref = Scripted.start(journal, fail_start=[problem])
    answer = ref.ask("hello")
    expected = ValueError if isinstance(problem, ValueError) else HandlerFailed
    with pytest.raises(expected):
        await ref.wait_started()
    with pytest.raises(ActorDead):
        await answer
    with pytest.raises(ActorDead):
        ref.tell("too late")
    with pytest.raises(expected):
        await ref.wait_started()


async def test_an_actor_can_start_others_from_a_hook_in_a_worker_thread() -> None:
    children: list[Any] = []

    class Parent(AegisActor):
        def on_start(self) -> None:
            children.append(Watching.start())

    parent = Parent.start()
    await parent.wait_started()
    await children[0].ask("hello")
    assert children[0].cell.runtime is parent.cell.runtime


# -- failure --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exception", "exit", "interrupt", "cancelled", "self_cancel"])
async def test_whatever_a_handler_raises_is_the_actors_failure_and_not_the_nodes(
    how: str,
) -> None:
    recorder = Recorder()
    runtime = Runtime(observer=recorder)
    ref = spawn(Props(Account), runtime=runtime)
    other = spawn(Props(Account), runtime=runtime)
    with pytest.raises(HandlerFailed) as caught:
        await ref.ask(Call("break_down", {"how": how}))
    assert caught.value.code == 500
    assert recorder.handled == [("command", 500)]
    expected = Directive.RESUME if how == "exception" else Directive.RESTART
    assert [failure.directive for failure in recorder.failures] == [expected]
    # The others go on, and so does this one if its state is what it was before.
    assert await other.ask(Call("balance")) == 0
    if how == "exception":
        assert await ref.ask(Call("balance")) == 0
    else:
        # Nobody supervises it, so that nobody restarts it.
        assert not ref.is_alive()


async def test_a_handler_that_cancels_its_own_task_does_not_cancel_what_comes_after() -> None:
    class Waiting(PlainBehaviour):
        async def handle(self, request: Request, reply_to: AnswerSink | None) -> None:
            await super().handle(request, reply_to)
            await asyncio.sleep(0)
            finished.append(request.method)

    finished: list[str] = []
    ref = spawn(Props(Account, behaviour=lambda _: Waiting()))
    assert await ref.ask(Call("cancel_and_return")) == 1
    assert await ref.ask(Call("balance")) == 0
    assert finished[0] == "cancel_and_return"


async def test_a_system_exit_in_a_worker_thread_is_the_actors_failure() -> None:
    ref = Account.start()
    with pytest.raises(HandlerFailed, match="SystemExit"):
        await ref.proxy().break_down_in_thread()


async def test_the_class_says_what_follows_a_failure() -> None:
    class Strict(Scripted):
        failure_directive = Directive.STOP

    class Choosy(Scripted):
        @staticmethod
        def failure_directive(error: BaseException) -> str:  # type: ignore[override] # pyright: ignore
            return "stop" if isinstance(error, KeyError) else "resume"

    for cls, deadly, harmless in (
        (Strict, ValueError("x"), None),
        (Choosy, KeyError("k"), OSError()),
    ):
        journal: list[Any] = []
        ref = cls.start(journal)
        if harmless is not None:
            with pytest.raises(OSError):
                await ref.ask(harmless)
            assert await ref.ask("alive") == "alive"
        with pytest.raises(type(deadly)):
            await ref.ask(deadly)
        assert not ref.is_alive()
        assert journal[-1] == ("failure", type(deadly), str(deadly))
        assert "stop" not in journal  # As with Pykka: on_failure instead of on_stop.


async def test_a_hook_that_fails_does_no_harm() -> None:
    class Clumsy(AegisActor):
        async def on_stop(self) -> None:
            raise SystemExit(5)

        async def on_failure(self, *_: Any, **__: Any) -> None:
            raise ValueError

        async def on_receive(self, message: Any) -> None:
            raise KeyboardInterrupt

    ref = Clumsy.start()
    assert await ref.stop()
    ref = Clumsy.start()
    with pytest.raises(HandlerFailed, match="KeyboardInterrupt"):
        await ref.ask("x")
    assert not ref.is_alive()


async def test_a_failing_behaviour_never_resumes_and_its_local_caller_is_told() -> None:
    class Broken(PlainBehaviour):
        async def handle(self, request: object, reply_to: object) -> None:
            raise OSError("the journal is gone")

    ref = spawn(Props(Account, behaviour=lambda _: Broken()))
    with pytest.raises(OutcomeUnknown):
        await ref.ask(Call("balance"))
    assert not ref.is_alive()


async def test_a_failure_from_outside_ends_the_life_after_the_message_in_hand() -> None:
    journal: list[Any] = []
    ref = Scripted.start(journal)
    gate = asyncio.Event()
    first, second = ref.ask(gate), ref.ask("second")
    await ref.wait_started()
    await asyncio.sleep(0)
    ref.cell.fail(OSError("fenced"), directive=Directive.STOP)
    gate.set()
    assert await first is None
    with pytest.raises(ActorDead):
        await second
    assert journal[-1] == ("failure", OSError, "fenced")


async def test_a_failure_from_outside_may_interrupt_the_handler() -> None:
    began = asyncio.Event()
    ref = OneCommand.start(began)
    answer = ref.ask(Call("wait_forever"))
    await began.wait()
    await asyncio.sleep(0)
    ref.cell.fail(OSError("fenced"), directive=Directive.STOP, interrupt=True)
    with pytest.raises(OutcomeUnknown):
        await answer
    assert not ref.is_alive()


async def test_a_failure_from_outside_ends_an_idle_actor_too() -> None:
    ref = Account.start()
    await ref.wait_started()
    await asyncio.sleep(0)
    ref.cell.fail(OSError("fenced"), directive=Directive.STOP)
    assert not ref.is_alive()


# -- stop -----------------------------------------------------------------------------


async def test_a_stop_comes_after_what_waits_and_later_messages_are_refused() -> None:
    journal: list[Any] = []
    ref = Scripted.start(journal)
    ref.tell(1)
    last = ref.ask(2)
    stopped = ref.stop()
    with pytest.raises(ActorDead):
        ref.tell(3)
    late = ref.ask(4)
    assert await last == 2
    assert await stopped is True
    with pytest.raises(ActorDead):
        await late
    assert journal == ["start", 1, 2, "stop"]
    assert await ref.stop() is False


async def test_a_stop_now_passes_ahead_and_every_ask_before_it_is_answered() -> None:
    journal: list[Any] = []
    ref = Scripted.start(journal)
    await ref.wait_started()
    answers = [ref.ask(number) for number in range(5)]
    assert await ref.stop(now=True) is True
    for answer in answers:
        with pytest.raises(ActorDead):
            await answer
    assert journal == ["start", "stop"]


async def test_a_full_mailbox_does_not_keep_an_actor_from_stopping() -> None:
    recorder = Recorder()
    runtime = Runtime(observer=recorder)
    ref = spawn(Props(Watching, mailbox_capacity=2), runtime=runtime)
    ref.tell(1)
    ref.tell(2)
    with pytest.raises(MailboxFull) as caught:
        ref.tell(3)
    assert caught.value.facts == {"address": ref.address, "capacity": 2}
    with pytest.raises(MailboxFull):
        await ref.ask(4)
    assert recorder.full == 2
    assert await ref.stop()
    assert recorder.stopped == ["stopped"]


async def test_an_actor_can_stop_itself() -> None:
    class Once(AegisActor):
        async def on_receive(self, message: Any) -> Any:
            self.stop()
            return message

    ref = Once.start()
    assert await ref.ask("bye") == "bye"
    await ref.stop()
    assert ref.cell.status is Status.STOPPED


@pytest.mark.timeout(60)
async def test_every_ask_is_answered_when_threads_race_a_stop() -> None:
    for _ in range(30):
        ref = Watching.start()
        await ref.wait_started()
        barrier = threading.Barrier(4)
        outcomes: list[str] = []

        def ask(
            ref: Any = ref, barrier: threading.Barrier = barrier, outcomes: list[str] = outcomes
        ) -> None:
            barrier.wait(10)
            for number in range(20):
                try:
                    ref.ask(number, block=True, timeout=10)
                    outcomes.append("answered")
                except ActorDead:
                    outcomes.append("dead")

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(barrier.wait, 10)
        await ref.stop(now=True)
        for thread in threads:
            await asyncio.to_thread(thread.join, 20)
        assert len(outcomes) == 60


async def test_a_killed_actor_loses_its_handler_and_its_caller_is_told() -> None:
    began = asyncio.Event()
    ref = OneCommand.start(began)
    answer, waiting = ref.ask(Call("wait_forever")), ref.ask(Call("overlap"))
    await began.wait()
    ref.cell.kill()
    with pytest.raises(ActorDead):
        await waiting
    with pytest.raises(OutcomeUnknown):
        await answer


async def test_a_handler_stuck_in_a_thread_cannot_keep_its_actor_from_being_killed() -> None:
    gate = GATES["stuck"] = threading.Event()
    try:
        ref = OneCommand.start()
        answer = ref.ask(Call("block", {"gate": "stuck"}))
        await ref.wait_started()
        await asyncio.sleep(0)
        assert not await ref.cell.terminate(timeout=0.01)
        with pytest.raises(OutcomeUnknown):
            await answer
        assert ref.cell.status is Status.STOPPED
    finally:
        gate.set()


# -- for the runtime --------------------------------------------------------------------


class Answers:
    """Takes the answers of requests, as a connection would."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Any]] = []

    def answer(self, status: int, value: bytes) -> None:
        self.seen.append((status, decode_value(value)))


def request(method: str, remaining_ms: int = 1000, **params: Any) -> Request:
    return Request("query", "1-abc", 1, 1, "account", None, method, params, remaining_ms)


async def test_a_delivered_request_is_answered_with_a_status_and_an_encoded_value() -> None:
    ref = Account.start()
    answers = Answers()
    ref.cell.deliver(request("balance"), answers)
    ref.cell.deliver(request("balance", colour=1), answers)
    ref.cell.deliver(request("nothing"), answers)
    ref.cell.deliver(request("deposit", amount="1"), answers)
    ref.cell.deliver(request("balance", remaining_ms=0), answers)
    ref.cell.deliver(request("lie"), answers)
    await ref.ask("after them")
    assert [status for status, _ in answers.seen] == [200, 400, 404, 400, 408, 500]
    assert answers.seen[0] == (200, "0")
    assert answers.seen[1][1]["field"] == "colour"


async def test_requests_that_a_stop_leaves_behind_are_told_that_the_actor_is_not_here() -> None:
    ref = Account.start()
    answers = Answers()
    await ref.wait_started()
    ref.cell.deliver(request("balance"), answers)
    await ref.stop(now=True)
    assert [status for status, _ in answers.seen] == [421]
    with pytest.raises(ActorDead):
        ref.cell.deliver(request("balance"), answers)


def test_a_delivered_requests_time_runs_while_it_waits() -> None:
    async def main() -> None:
        ref = Scripted.start([])
        gate = asyncio.Event()
        blocking = ref.ask(gate)
        answers = Answers()
        ref.cell.deliver(request("anything", remaining_ms=5000), answers)
        asyncio.get_running_loop().call_later(5, gate.set)
        await blocking
        await ref.ask("after it")
        assert [status for status, _ in answers.seen] == [408]

    run_virtual(main())


async def test_a_behaviour_can_call_any_hook_of_its_actor() -> None:
    seen: list[tuple[int, bool]] = []

    class Promoted(AegisActor):
        def on_promote(self, epoch: int) -> None:
            seen.append((epoch, threading.current_thread() is threading.main_thread()))

    ref = Promoted.start()
    await ref.wait_started()
    await ref.cell.call_hook("on_promote", 7)
    await ref.cell.call_hook("on_demote")
    assert seen == [(7, False)]


# -- watch ----------------------------------------------------------------------------


async def test_a_watcher_hears_of_the_end_and_why() -> None:
    watcher, ref = Watching.start(), Scripted.start([])
    ref.watch(watcher)
    ref.watch(watcher)
    await ref.stop()
    await watcher.stop()
    seen = watcher.cell.actor.__dict__["seen"]
    assert seen == [Terminated(ref.address, "stopped", failed=False)]


async def test_a_watcher_hears_of_a_failure() -> None:
    class Strict(Scripted):
        failure_directive = "stop"

    watcher, ref = Watching.start(), Strict.start([])
    await watcher.wait_started()
    watcher.cell.actor.watch(ref)
    ref.tell(ValueError("boom"))
    await watcher.cell.actor.__dict__["got_one"].wait()
    assert watcher.cell.actor.__dict__["seen"] == [
        Terminated(ref.address, "failed: ValueError: boom", failed=True)
    ]


async def test_who_watches_the_dead_hears_at_once_and_who_stopped_watching_never() -> None:
    watcher, ref = Watching.start(), Scripted.start([])
    ref.watch(watcher)
    ref.unwatch(watcher)
    await ref.stop()
    assert await watcher.ask("nothing so far") is None
    ref.watch(watcher)
    await asyncio.sleep(0)
    await watcher.stop()
    seen = watcher.cell.actor.__dict__["seen"]
    assert seen == ["nothing so far", Terminated(ref.address)]


# -- virtual time ---------------------------------------------------------------------


def test_the_kernel_runs_on_virtual_time_with_threads_and_all() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        account = Account.start().proxy()
        began = loop.time()
        await asyncio.wait({asyncio.ensure_future(_after_an_hour(account))})
        # What a thread does takes no virtual time, so no timer overtakes it.
        assert await OneCommand.start().ask(Call("overlap_in_thread"), timeout=5) == 1
        return loop.time() - began

    assert run_virtual(main()) == pytest.approx(3600)


async def _after_an_hour(account: Account) -> None:
    timer = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(3600, timer.set_result, None)
    await timer
    assert await account.deposit_in_thread(amount=ONE) == 1
