"""Failover at a chosen step: the places at which an owner can be killed, and how.

A command goes through the steps of `Step` in their order. A `Crash` is set at one of
them; the first owner that comes there dies as by SIGKILL, and the test goes on with
whoever takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self

from aegis._subjects import Subjects
from aegis.actors._answers import WireAnswer
from aegis.actors._record import CommandEntry, Record
from aegis.errors import AegisError
from aegis.testing._tap import Run
from aegis.transport._codec import decode_mail, decode_reply_values, decode_value
from aegis.transport._memory import Hop

__all__ = ["Crash", "Step"]


class Step(StrEnum):
    """Where an owner is in its work when it dies.

    The first four are of a command, whichever way it came: a call, a durable message, or
    a reminder that fires. The next two are of a message that it sends, and the last two of
    a promotion: there it is the new owner that dies.
    """

    BEFORE_HANDLER = "before the handler"
    """The command has arrived, and nothing of it has run."""
    BEFORE_APPEND = "before the append"
    """The handler has run, side effects included, and nothing is stored."""
    AFTER_APPEND = "after the append"
    """It is stored, and the owner does not know that yet."""
    BEFORE_ANSWER = "before the answer"
    """It is stored, the owner knows it, and the caller never hears of it."""
    BEFORE_FORWARD = "before the forward"
    """A message that a command sends is in the journal, and not in its mailbox."""
    AFTER_FORWARD = "after the forward"
    """It is in its mailbox, and the journal does not know that."""
    BEFORE_FENCE = "before the fence"
    """A node is to own the resource, and has not shut out the owner before."""
    AFTER_FENCE = "after the fence"
    """It has, and has answered nobody."""


_OF_COMMANDS: Final = frozenset(
    {Step.BEFORE_HANDLER, Step.BEFORE_APPEND, Step.AFTER_APPEND, Step.BEFORE_ANSWER}
)
_LOST: Final[Sequence[float]] = ()


class Crash:
    """A crash that waits for its step; made by `MemoryCluster.crash_at`.

    As a context manager it fails at the end of the block if no owner came to the step.
    """

    def __init__(
        self,
        step: Step,
        service: str,
        resource: str,
        method: str | None,
        *,
        nth: int,
        subjects: Subjects,
        kill: Callable[[str], bool],
        disarm: Callable[[Crash], None],
        stored: Callable[[str], bytes | None],
    ) -> None:
        self.step = step
        self.happened = False
        """Whether an owner has died of it."""
        self.node_id = ""
        """The node that died."""
        self._address = f"{service}/{resource}"
        self._method = method
        self._left = nth
        self._nth = nth
        self._kill = kill
        self._disarm = disarm
        self._stored = stored
        self._journal = subjects.journal(service, resource)
        self._mailboxes = f"{subjects.namespace}.mailbox."
        self._run: Run | None = None
        """The command with which the owner dies."""
        self._seen: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disarm()
        if exc_type is None and not self.happened:
            raise AssertionError(self._missed())

    def disarm(self) -> None:
        """Wait for the step no more."""
        self._disarm(self)

    def __repr__(self) -> str:
        return f"<crash of {self._address} {self.step}: {self.node_id or 'waits'}>"

    # -- what is seen -------------------------------------------------------------------

    def begins(self, run: Run) -> bool:
        """A command is about to run; with False its owner has died."""
        if self.step not in _OF_COMMANDS or not self._is_meant(run):
            return True
        if self._run is not None:
            return True  # Only what comes of the command that was chosen counts now.
        self._seen.append(run.handler.name)
        if not self._counts():
            return True
        self._run = run
        return not (self.step is Step.BEFORE_HANDLER and self._strike(run.host))

    def gate(self, hop: Hop) -> Sequence[float] | None:
        """Let a hop pass, or let its owner die and lose it."""
        match self.step:
            case Step.BEFORE_APPEND | Step.AFTER_APPEND:
                return self._at_append(hop)
            case Step.BEFORE_FENCE | Step.AFTER_FENCE:
                return self._at_fence(hop)
            case Step.BEFORE_FORWARD | Step.AFTER_FORWARD:
                return self._at_forward(hop)
            case Step.BEFORE_ANSWER:
                return self._at_answer(hop)
            case _:
                return None

    def _is_meant(self, run: Run) -> bool:
        return (
            run.is_command
            and f"{run.service}/{run.resource}" == self._address
            and self._method in (None, run.handler.name)
        )

    def _counts(self) -> bool:
        self._left -= 1
        return self._left == 0

    def _strike(self, name: str) -> bool:
        self.happened = self._kill(name)
        if self.happened:
            self.node_id = name
            self._disarm(self)
        return self.happened

    def _owner_of(self, hop: Hop, before: bool) -> str:
        """Return whose append the hop is, or whose acknowledgement; else nothing."""
        if before:
            return hop.source if hop.kind == "append" else ""
        return hop.destination if hop.kind == "acknowledgement" else ""

    def _at_append(self, hop: Hop) -> Sequence[float] | None:
        owner = self._owner_of(hop, self.step is Step.BEFORE_APPEND)
        run = self._run
        if run is None or hop.subject != self._journal or owner != run.host:
            return None
        record = _record(hop.payload)
        if record is None or not _holds(record, run) or not self._was_stored(hop):
            return None
        return _LOST if self._strike(owner) else None

    def _at_fence(self, hop: Hop) -> Sequence[float] | None:
        owner = self._owner_of(hop, self.step is Step.BEFORE_FENCE)
        if not owner or hop.subject != self._journal:
            return None
        record = _record(hop.payload)
        if record is None or not record.is_fence or not self._was_stored(hop):
            return None
        return _LOST if self._counts() and self._strike(owner) else None

    def _at_forward(self, hop: Hop) -> Sequence[float] | None:
        owner = self._owner_of(hop, self.step is Step.BEFORE_FORWARD)
        if not owner or not hop.subject.startswith(self._mailboxes):
            return None
        try:
            request = decode_mail(hop.payload).request
        except AegisError:
            return None
        if request.session != self._address or self._method not in (None, request.method):
            return None
        self._seen.append(request.method)
        return _LOST if self._counts() and self._strike(owner) else None

    def _at_answer(self, hop: Hop) -> Sequence[float] | None:
        run = self._run
        if run is None or hop.kind != "message" or hop.source != run.host:
            return None
        sink = run.sink
        if not isinstance(sink, WireAnswer) or not hop.subject.startswith(sink.reply_to):
            return None
        try:
            replies = decode_reply_values(hop.payload)
        except AegisError:
            return None
        if not any((n, c) == (sink.n, sink.correlation) for n, _, _, c in replies):
            return None
        return _LOST if self._strike(run.host) else None

    def _was_stored(self, hop: Hop) -> bool:
        """Whether an acknowledgement does not tell of a refusal."""
        return hop.kind == "append" or self._stored(hop.subject) == hop.payload

    def _missed(self) -> str:
        wanted = f"{self._address} did not come to the step {str(self.step)!r}"
        if self._method is not None:
            wanted += f" of {self._method}"
        if self._nth > 1:
            wanted += f" for the {self._nth}th time"
        if self._run is not None and self.step is Step.BEFORE_ANSWER:
            return f"{wanted}: {self._run.handler.name} ran, but no caller elsewhere waited for it"
        seen: Any = ", ".join(self._seen) or "nothing"
        return f"{wanted}; what came that counts: {seen}"


def _record(payload: bytes) -> Record | None:
    try:
        return Record.from_wire(decode_value(payload))
    except AegisError:
        return None


def _holds(record: Record, run: Run) -> bool:
    """Whether a record of its owner, after it ran, has the command's effect."""
    if record.is_snapshot:
        return True
    for entry in record.entries or ():
        if not isinstance(entry, CommandEntry):
            continue
        if run.reminder:
            if not entry.session and run.reminder in [c.name for c in entry.reminders or ()]:
                return True
        elif (entry.session, entry.n) == (run.request.session, run.request.n):
            return True
    return False
