"""Actors and tools that several tests of the kernel use."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from types import TracebackType
from typing import Any

from attrs import define, frozen

from aegis.actors._actor import AegisActor
from aegis.actors._cell import ActorCell
from aegis.actors._handlers import applies, command, query
from aegis.actors._messages import Failure
from aegis.actors._observer import Observer
from aegis.errors import Rejected

__all__ = ["Account", "AccountState", "Deposited", "Ledger", "Recorder", "Scripted", "Watching"]


@define
class AccountState:
    cash: Decimal = Decimal(0)


class Account(AegisActor):
    """The account of the README, with a few ways to fail."""

    service = "account"
    state: AccountState

    @command
    async def deposit(self, amount: Decimal) -> Decimal:
        self.state.cash += amount
        if amount <= 0:
            raise Rejected("amount must be positive", amount=str(amount))
        return self.state.cash

    @command
    def deposit_in_thread(self, amount: Decimal) -> Decimal:
        assert threading.current_thread() is not threading.main_thread()
        self.state.cash += amount
        return self.state.cash

    @query
    async def balance(self) -> Decimal:
        return self.state.cash

    @query
    def thread_name(self) -> str:
        return threading.current_thread().name

    @command
    async def break_down(self, how: str) -> None:
        self.state.cash += 1_000
        if how == "exception":
            raise ValueError("broken")
        if how == "exit":
            raise SystemExit(3)
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "cancelled":
            raise asyncio.CancelledError
        if how == "self_cancel":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    @command
    async def cancel_and_return(self) -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return 1

    @command
    def break_down_in_thread(self) -> None:
        raise SystemExit(3)

    @query
    async def tags(self, names: list[str]) -> list[str]:
        return names

    @query
    async def echo(self, value: Any) -> Any:
        return value

    @query
    async def lie(self) -> Decimal:
        return "not a number"  # type: ignore[return-value] # pyright: ignore


@frozen
class Deposited:
    amount: Decimal


class Ledger(AegisActor):
    """Event-sourced."""

    service = "ledger"
    state: AccountState

    @command
    async def deposit(self, amount: Decimal) -> Decimal:
        self.emit(Deposited(amount))
        if amount > 100:
            raise Rejected("too much")
        return self.state.cash

    @applies(Deposited)
    def deposited(self, event: Deposited) -> None:
        self.state.cash += event.amount


class Scripted(AegisActor):
    """Does what its messages say, and writes down what happened in ``journal``."""

    service = "scripted"

    def __init__(self, journal: list[Any], **gates: Any) -> None:
        self.journal = journal
        self.gates = gates

    async def on_start(self) -> None:
        self.journal.append("start")
        problem = self.gates.get("fail_start")
        if problem:
            raise problem.pop(0)

    async def on_stop(self) -> None:
        self.journal.append("stop")

    async def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.journal.append(("failure", exception_type, str(exception_value)))

    async def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, asyncio.Event):
            await message.wait()
            return None
        self.journal.append(message)
        return message


class Watching(AegisActor):
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.got_one = asyncio.Event()

    async def on_receive(self, message: Any) -> Any:
        self.seen.append(message)
        self.got_one.set()


class Recorder(Observer):
    """Writes down what the kernel tells."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, int]] = []
        self.failures: list[Failure] = []
        self.full = 0
        self.started = 0
        self.stopped: list[str] = []
        self.restarted = 0
        self.escalated = 0

    def on_message_handled(self, cell: ActorCell, kind: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.handled.append((kind, status))

    def on_mailbox_full(self, cell: ActorCell) -> None:
        self.full += 1

    def on_started(self, cell: ActorCell) -> None:
        self.started += 1

    def on_stopped(self, cell: ActorCell, reason: str) -> None:
        self.stopped.append(reason)

    def on_failure(self, cell: ActorCell, failure: Failure) -> None:
        self.failures.append(failure)

    def on_restart(self, cell: ActorCell) -> None:
        self.restarted += 1

    def on_escalation(self, supervisor: Any, failure: Failure) -> None:
        self.escalated += 1
