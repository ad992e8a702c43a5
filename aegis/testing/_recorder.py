"""What one actor did: its answers and what it sent, once each, as the journal has them."""

from __future__ import annotations

from typing import Any

from aegis._subjects import Subjects
from aegis.actors._record import CommandEntry, Record
from aegis.contracts import OK
from aegis.errors import AegisError
from aegis.testing._probe import Probe, Recorded
from aegis.testing._tap import Run
from aegis.transport._codec import decode_mail, decode_value

__all__ = ["ActorRecorder", "entries_of"]


class ActorRecorder:
    """The commands of one resource and what it sent; made by `MemoryCluster.record`.

    ``answered`` has each command that is in the journal, with its answer; ``sent`` each
    message that left with one. What was undone is in neither, and what was run again
    after a crash is in them once.
    """

    def __init__(self, service: str, resource: str, subjects: Subjects) -> None:
        self.answered = Probe(f"answers of {service}/{resource}")
        self.sent = Probe(f"messages from {service}/{resource}")
        self._address = f"{service}/{resource}"
        self._subject = subjects.journal(service, resource)
        self._runs: dict[str, Run] = {}

    def begins(self, run: Run) -> bool:
        """A handler is about to run: keep what it was asked."""
        if run.is_command and f"{run.service}/{run.resource}" == self._address:
            self._runs[run.key] = run
        return True

    def ends(self, run: Run, error: BaseException | None) -> None:
        """A handler has ended: the journal tells whether that counts."""

    def on_stored(self, subject: str, payload: bytes, at: float) -> None:
        """Take what a record of the journal says."""
        if subject != self._subject:
            return
        for entry in entries_of(payload):
            key = f"{entry.session}-{entry.n}"
            run = self._runs.pop(key, None) or self._reminder(entry)
            value: Any = decode_value(entry.reply)
            ok = entry.status == OK
            self.answered.record(
                Recorded(
                    "" if run is None else run.handler.name,
                    self._address,
                    {} if run is None else run.arguments,
                    key if entry.session else "",
                    entry.status,
                    value if ok else None,
                    "" if ok else str(value.get("message", "")),
                    at,
                )
            )
            for outgoing in entry.outgoing or ():
                request = decode_mail(outgoing.payload).request
                address = f"{outgoing.service}/{outgoing.resource}"
                self.sent.record(
                    Recorded(request.method, address, request.params, request.message_id, at=at)
                )

    def _reminder(self, entry: CommandEntry) -> Run | None:
        if entry.session:
            return None
        names = [change.name for change in entry.reminders or ()]
        for key, run in self._runs.items():
            if run.reminder in names:
                return self._runs.pop(key)
        return None


def entries_of(payload: bytes) -> list[CommandEntry]:
    """Return the commands in a record of a journal."""
    try:
        record = Record.from_wire(decode_value(payload))
    except AegisError:
        return []
    return [entry for entry in record.entries or () if isinstance(entry, CommandEntry)]
