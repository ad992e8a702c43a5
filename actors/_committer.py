"""Appends of one owner: one at a time, until their outcome is known, and what they release.

The decisions are `Owner`'s. Whatever commits while an append is under way goes out in the
next; answers leave when everything that they could have seen is acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from aegis.actors._answers import AnswerSink
from aegis.actors._appending import pause_before
from aegis.actors._journal import Journal
from aegis.actors._owner import Owner
from aegis.errors import AegisError, Fenced
from aegis.transport._base import Appended, AppendOutcome, Refused

__all__ = ["CommitHost", "Committer"]

_log = structlog.get_logger("aegis.resource")


class CommitHost(Protocol):
    """What the committer needs of the resource whose owner it serves."""

    def whole_state(self) -> bytes | None:
        """Return the encoded state for a snapshot, or None if it cannot be had now."""
        ...

    def on_appended(self, seconds: float) -> None:
        """An append was acknowledged, so long after it was first made."""
        ...

    def on_committed(self) -> None:
        """What was under way is stored; the next append is under way, if there is one."""
        ...

    def on_append_fenced(self, newer_epoch: int) -> None:
        """A newer owner exists: nothing of what was under way will be stored."""
        ...

    def on_unreadable(self, error: AegisError) -> None:
        """The tail of the journal cannot be explained."""
        ...


class Committer:
    """Moves the records of one owner into its journal."""

    __slots__ = (
        "_append",
        "_attempt",
        "_began",
        "_flush_scheduled",
        "_host",
        "_idle_waiter",
        "_journal",
        "_loop",
        "_tasks",
        "on_first_answer",
        "owner",
    )

    def __init__(self, owner: Owner, journal: Journal, host: CommitHost) -> None:
        self.owner = owner
        self._journal = journal
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._append: asyncio.Future[AppendOutcome] | None = None
        self._attempt = 0
        self._began = 0.0
        self._flush_scheduled = False
        self._idle_waiter: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] | None = None
        self.on_first_answer: Callable[[], object] | None = None
        """What to do once the next answer has left; then it is None again."""

    def hold(self, sink: AnswerSink, status: int, value: bytes) -> None:
        """Answer as soon as all that the answer could have seen is durable."""
        if self.owner.hold((sink, status, value)):
            sink.answer(status, value)
            if self.on_first_answer is not None:
                self._tell_first_answer()

    def flush_soon(self) -> None:
        """Append what has committed, but not at once.

        The messages that wait in the mailbox run first and commit in the same record.
        """
        if not self._flush_scheduled and self._append is None:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Append what has committed, unless an append is under way."""
        self._flush_scheduled = False
        owner = self.owner
        if self._append is not None or not owner.append_due:
            return
        whole_state = self._host.whole_state() if owner.wants_state else None
        if owner.append_next(whole_state=whole_state) is not None:
            self._attempt = 0
            self._began = time.perf_counter()
            self._append_now()

    async def wait_quiescent(self) -> None:
        """Return when all that has committed is acknowledged, or the owner has stopped."""
        self.flush()
        while self.owner.serving and not self.owner.quiescent:
            self._idle_waiter = self._loop.create_future()
            await self._idle_waiter

    def stop(self) -> list[Any]:
        """Void the owner's memory; return the answers that must not be given."""
        answers = self.owner.stop()
        self._wake()
        for task in list(self._tasks or ()):
            if task is not asyncio.current_task():
                task.cancel()
        return answers

    def _append_now(self) -> None:
        plan = self.owner.in_flight
        assert plan is not None
        append = self._append = self._journal.append(plan)
        append.add_done_callback(self._on_outcome)

    def _on_outcome(self, append: asyncio.Future[AppendOutcome]) -> None:
        if self._append is not append:
            return
        self._append = None
        if append.cancelled() or self.owner.stopped:
            return
        outcome = append.result()
        if isinstance(outcome, Appended):
            self._host.on_appended(time.perf_counter() - self._began)
            self._send(self.owner.appended(outcome.sequence))
            self._go_on()
            return
        task = self._loop.create_task(self._resolve(outcome))
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self, outcome: AppendOutcome) -> None:
        """After anything but an acknowledgement: find out, and append again if need be."""
        try:
            if isinstance(outcome, Refused) and outcome.conflict and not outcome.again:
                await self._journal.settle(self.owner, outcome, self._send)
            if self.owner.in_flight is not None:
                if self._attempt:
                    await pause_before(self._attempt, self._journal.subject, outcome)
                self._attempt += 1
        except Fenced as error:
            self._host.on_append_fenced(int(error.facts.get("epoch", 0)))
            return
        except AegisError as error:
            _log.error("journal_unreadable", subject=self._journal.subject, error=str(error))
            self._host.on_unreadable(error)
            return
        if self.owner.stopped:
            return
        if self.owner.in_flight is not None:
            self._append_now()
        else:
            self._go_on()

    def _go_on(self) -> None:
        self.flush()
        if self._idle_waiter is not None and self.owner.quiescent:
            self._wake()
        self._host.on_committed()

    def _send(self, answers: list[Any]) -> None:
        for sink, status, value in answers:
            sink.answer(status, value)
        if self.on_first_answer is not None and answers:
            self._tell_first_answer()

    def _tell_first_answer(self) -> None:
        tell, self.on_first_answer = self.on_first_answer, None
        if tell is not None:
            tell()

    def _wake(self) -> None:
        waiter, self._idle_waiter = self._idle_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
