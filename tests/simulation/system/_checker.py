"""The promises, tested at every record that is stored and every call that ends.

The checker sees the stream as the server has it and the calls as their callers have them.
It folds the journals by itself: `step` alone, none of the code of owners and standbys.
"""

from __future__ import annotations

import math
import traceback
from typing import Any, Final

from attrs import define, field

from aegis.actors._record import CommandEntry, Record
from aegis.actors._registry_entries import LEADER, RENEWAL, InstanceState, key_of
from aegis.errors import AegisError
from aegis.ops._linearizability import Operation, check
from aegis.transport import Stored
from aegis.transport._codec import decode_value
from tests.simulation.system._mail import MailChecker
from tests.simulation.system._plan import Plan
from tests.simulation.system._services import Asked, State, find_tag, step
from tests.simulation.system._world import World

__all__ = ["Call", "Checker", "Journal"]

_FINAL: Final = (200, 422, 500)
"""What a handler answered, and the journal must hold."""


@define(eq=False)
class Call:
    """One call from outside."""

    asked: Asked
    service: str
    resource: str
    kind: str
    client: str
    began: float
    seen: int
    """The most changes that any caller had been told of when it began."""
    ended: float = math.inf
    code: int | None = None
    value: Any = None


@define
class Journal:
    """What the records of one resource amount to."""

    name: str
    event_sourced: bool
    epoch: int = 0
    writers: dict[int, str] = field(factory=dict[int, str])
    state: State = field(factory=State)
    by_count: dict[int, State] = field(factory=lambda: {0: State()})
    by_sequence: dict[int, State] = field(factory=lambda: {0: State()})
    last_sequence: int = 0
    history: dict[str, tuple[int, Any]] = field(factory=dict[str, tuple[int, Any]])
    seen: int = 0
    serving: int = 0
    """The highest epoch under which an owner has been seen to serve."""


@define
class _Reign:
    node: str = ""
    term: int = 0
    since: float = 0.0


class Checker:
    """Notes in the world, as a violation, whatever is not as promised."""

    def __init__(self, world: World, plan: Plan, resources: list[tuple[str, str]]) -> None:
        self.world = world
        self.plan = plan
        self.journals = {
            (service, name): Journal(f"{service}/{name}", service == "book")
            for service, name in resources
        }
        self.frozen_until: dict[str, float] = {}
        """When each node was last let go on after a freeze that its leader must notice."""
        self._subjects = {
            world.subjects.journal(service, name): (service, name) for service, name in resources
        }
        self._calls: dict[str, Call] = {}
        self._reign = _Reign()
        self.mail = MailChecker(world, resources)

    # -- the stream ---------------------------------------------------------------------

    def on_stored(self, source: str, stored: Stored) -> None:
        """A message has just been stored; ``source`` is the connection it came from."""
        if self.world.over:
            return
        try:
            key = self._subjects.get(stored.subject)
            if key is not None:
                record = Record.from_wire(decode_value(stored.payload))
                self._on_record(self.journals[key], source, stored, record)
                if self.plan.mail:
                    self._on_mail(key, record)
            elif ".registry." in stored.subject:
                self._on_registry(source, stored)
            else:
                self.mail.on_stored(stored)
        except Exception:
            self.world.fail("the checker failed: %s", traceback.format_exc())

    def _on_record(self, journal: Journal, source: str, stored: Stored, record: Record) -> None:
        world, name, sequence = self.world, journal.name, stored.sequence
        world.note(
            "%s %d: epoch %d %s",
            name,
            sequence,
            record.epoch,
            "fence" if record.is_fence else "snapshot" if record.is_snapshot else "record",
            host=source,
        )
        writer = journal.writers.setdefault(record.epoch, source)
        if writer != source:
            world.fail("%s: %s and %s both write epoch %d", name, writer, source, record.epoch)
        if record.is_fence:
            world.count("fence" if record.epoch >= journal.epoch else "fence landed late")
            journal.epoch = max(journal.epoch, record.epoch)
        elif record.epoch < journal.epoch:
            world.fail("%s: epoch %d writes after %d", name, record.epoch, journal.epoch)
        elif record.epoch < journal.serving:
            world.fail("%s: epoch %d writes while %d serves", name, record.epoch, journal.serving)
        elif record.is_snapshot:
            world.count("snapshot record")
            self._on_snapshot(journal, record)
        else:
            self._on_entries(journal, record)
        journal.by_sequence[sequence] = journal.state
        journal.last_sequence = sequence

    def _on_mail(self, key: tuple[str, str], record: Record) -> None:
        for entry in record.entries or ():
            if isinstance(entry, CommandEntry) and entry.mail:
                self.mail.on_entry(key, entry)
        self.mail.on_record(key, record, set(self.journals[key].history))

    def _on_entries(self, journal: Journal, record: Record) -> None:
        entries = [one for one in record.entries or () if isinstance(one, CommandEntry)]
        if len(entries) > 1:
            self.world.count("group of several entries")
        for entry in entries:
            self._apply(journal, entry.status, entry.reply)
        if not journal.event_sourced and record.state is not None:
            self._compare(journal, record.state)

    def _on_snapshot(self, journal: Journal, record: Record) -> None:
        """A snapshot has no entries: which commands it commits, its state and tables tell."""
        known: list[tuple[tuple[int, bool], int, bytes]] = []
        tables: list[Any] = record.tables or [[0, []]]
        kept: list[list[Any]] = [reply for session in tables[0][1] for reply in session[2]]
        kept += tables[1][2] if len(tables) > 1 else []
        for _, status, reply in kept:
            found = find_tag(reply or b"")
            if found is None or found[0] in journal.history:
                continue
            changes = status == 200 and self._calls[found[0]].asked.name != "touch"
            known.append(((found[1], not changes), status, reply))
        written = None if record.state is None else _state(record.state)
        changed = {} if written is None else self._changes(journal, written)
        known.sort(key=lambda one: one[0])
        for (count, unchanged), status, reply in known:
            while journal.state.count < count - (not unchanged):
                self._fill(journal, changed)
            self._apply(journal, status, reply)
        while written is not None and journal.state.count < written.count:
            self._fill(journal, changed)
        if record.state is not None:
            self._compare(journal, record.state)

    def _changes(self, journal: Journal, written: State) -> dict[int, str]:
        """Return the uid of each change that a state has and the journal has not yet."""
        missing = written.count - journal.state.count
        if missing > len(written.recent):
            self.world.fail("%s: a snapshot of %d changes at once", journal.name, missing)
            return {}
        names = written.recent[len(written.recent) - missing :] if missing > 0 else []
        return dict(enumerate(names, start=journal.state.count + 1))

    def _fill(self, journal: Journal, changed: dict[int, str]) -> None:
        """Apply a change whose answer no table holds any more: its caller has given it up."""
        uid = changed.get(journal.state.count + 1)
        call = None if uid is None else self._calls.get(uid)
        if uid is None or call is None:
            self.world.fail("%s: change %d is unknown", journal.name, journal.state.count + 1)
            raise LookupError(journal.name)
        status, value, state = step(journal.state, call.asked)
        self._note(journal, call, status, value, state)

    def _apply(self, journal: Journal, status: int, reply: bytes) -> None:
        """Apply one command by the answer that the journal has for it."""
        world, name = self.world, journal.name
        found = find_tag(reply)
        call = None if found is None else self._calls.get(found[0])
        if call is None:
            world.fail("%s: an entry of no command: %d %r", name, status, decode_value(reply))
            return
        expected, value, state = step(journal.state, call.asked)
        written = decode_value(reply) if status == 200 else None
        if (status, written) != (expected, value):
            world.fail(
                "%s: %s is journaled with %d %s, not %d %s",
                name,
                call.asked,
                status,
                written,
                expected,
                value,
            )
        self._note(journal, call, status, value, state)

    def _note(self, journal: Journal, call: Call, status: int, value: Any, state: State) -> None:
        uid = call.asked.uid
        if uid in journal.history:
            self.world.fail("%s: %s was applied twice", journal.name, call.asked)
        if call.code not in (None, 504, *_FINAL) and not self.plan.request_copies:
            self.world.fail("%s: %s ended with %s, and ran", journal.name, call.asked, call.code)
        journal.history[uid] = (status, value)
        if call.kind == "send":
            # Its sender has gone on: it takes effect right here, in the journal's order.
            call.began = self.world.loop.now + 1e-9 * len(journal.history)
            call.ended = call.began + 0.5e-9
        journal.state = state
        journal.by_count[state.count] = state
        self.world.count(f"applied: {status}")

    def _compare(self, journal: Journal, encoded: bytes) -> None:
        written = _state(encoded)
        if written != journal.state:
            self.world.fail(
                "%s: the journal's state is %s, its commands make %s",
                journal.name,
                written,
                journal.state,
            )

    def _on_registry(self, source: str, stored: Stored) -> None:
        world, reign = self.world, self._reign
        key = key_of(world.subjects, stored.subject)
        record: dict[str, Any] = decode_value(stored.payload)
        if key == LEADER:
            node, term = str(record["node"]), int(record["term"])
            world.note("leads from %d on, term %d", stored.sequence, term, host=source)
            if node != source or term <= reign.term:
                world.fail("%s takes term %d after %s", source, term, reign)
            if node != reign.node:
                world.count("leader changed")
                reign.since = world.loop.now
            reign.node, reign.term = node, term
            return
        if source != reign.node:
            world.fail("%s wrote %s while %s leads", source, key, reign.node)
        if key == RENEWAL:
            if record.get("term") != reign.term:
                world.fail("%s renews term %s in term %d", source, record.get("term"), reign.term)
            return
        state, cause = record.get("state", ""), record.get("cause", "")
        world.note("%d: %s = %s", stored.sequence, ".".join(key), _short(record), host=source)
        if state == InstanceState.UNHEALTHY:
            world.count(f"unhealthy: {cause}")
            if cause == "silence":
                self._on_silence(source, key[1])

    def _on_silence(self, source: str, instance_id: str) -> None:
        """The leader has judged by silence: it must have listened for long enough."""
        plan = self.plan
        if plan.again or plan.outage_rate or plan.late or plan.cut_rate or plan.append_loss:
            return  # The judgement may be old, and only its record be late.
        awake = self.frozen_until.get(source, 0.0)
        if awake > self.world.loop.now:
            return  # It judged before it froze; the record was on its way.
        listens = max(self._reign.since, awake)
        timeout = 1.0 if plan.halved else 2.0
        if self.world.loop.now - listens < timeout * 0.9:
            self.world.fail(
                "%s judges %s by its silence, and has listened for %.2f s only",
                source,
                instance_id,
                self.world.loop.now - listens,
            )

    def on_serving(self, service: str, resource: str, epoch: int) -> None:
        """An owner serves under ``epoch``: from now on no earlier one may write."""
        journal = self.journals[service, resource]
        journal.serving = max(journal.serving, epoch)

    @property
    def leader(self) -> str:
        """The node that leads, as the stream has it."""
        return self._reign.node

    # -- the callers --------------------------------------------------------------------

    def on_call(self, asked: Asked, service: str, resource: str, kind: str, client: str) -> Call:
        """A call begins."""
        journal = self.journals[service, resource]
        call = Call(asked, service, resource, kind, client, self.world.loop.now, journal.seen)
        self._calls[asked.uid] = call
        return call

    def on_abandoned(self, call: Call) -> None:
        """The caller has died: nobody is told how its call ended."""
        call.code = 504
        self.world.count("call abandoned")

    def on_sent(self, call: Call, code: int) -> None:
        """A send has ended: with a receipt (200), or with an error of ``code``."""
        if self.world.over:
            return
        self.world.count(f"send ended: {code}")
        if code == 200:
            self.mail.on_acknowledged(call.asked.uid, (call.service, call.resource))
        # What becomes of it its sender is not told.
        call.code = 504 if code == 200 else code
        if code not in (200, 504) and self._has_run(call):
            self.world.fail("%s ended with %d, but it ran", call.asked, code)

    def _has_run(self, call: Call) -> bool:
        return call.asked.uid in self.journals[call.service, call.resource].history

    def on_end(self, call: Call, code: int, value: Any) -> None:
        """A call ends with a value (200), or with an error of ``code``."""
        if self.world.over:
            return
        call.code, call.ended = code, self.world.loop.now
        call.value = None if isinstance(value, AegisError) else value
        self.world.count(f"{call.kind} ended: {code}")
        journal = self.journals[call.service, call.resource]
        if call.kind == "query":
            if code == 200:
                self._judge_query(journal, call)
        elif code in _FINAL:
            self._judge_answer(journal, call)
        elif code != 504 and call.asked.uid in journal.history and not self.plan.request_copies:
            self.world.fail("%s: %s ended with %d, but it ran", journal.name, call.asked, code)

    def _judge_answer(self, journal: Journal, call: Call) -> None:
        journaled = journal.history.get(call.asked.uid)
        if journaled is None:
            self.world.fail("%s: %s was acknowledged and is lost", journal.name, call.asked)
            return
        if journaled != (call.code, call.value):
            self.world.fail(
                "%s: %s got %s %s, journaled is %s",
                journal.name,
                call.asked,
                call.code,
                call.value,
                journaled,
            )
        if call.code == 200:
            count = int(str(call.value[1]).rpartition("@")[2].rstrip("]"))
            if count < call.seen + (call.asked.name != "touch"):
                self.world.fail("%s: %s took effect before its call", journal.name, call.asked)
            journal.seen = max(journal.seen, count)

    def _judge_query(self, journal: Journal, call: Call) -> None:
        count = call.value[2]
        state = journal.by_count.get(count)
        if state is None or state.told() != call.value:
            self.world.fail(
                "%s: query %s read %s, which never was", journal.name, call.asked.uid, call.value
            )
        if count < call.seen:
            self.world.fail(
                "%s: query %s read change %d, but change %d was known when it was asked",
                journal.name,
                call.asked.uid,
                count,
                call.seen,
            )
        journal.seen = max(journal.seen, count)

    # -- the end ------------------------------------------------------------------------

    def check_histories(self) -> None:
        """Look for an order that explains what all callers were told."""
        history = [one for call in self._calls.values() if (one := self._operation(call))]
        violation = check(history, _Account())
        if violation is not None:
            self.world.fail("not linearizable: %s", violation)

    def _operation(self, call: Call) -> Operation | None:
        """Return a call as what it was to its caller; None if it had no effect.

        Of a call whose outcome its caller never learned, the journal tells it: it may
        have taken effect at any moment from its beginning to now.
        """
        code, value, ended = call.code, call.value, call.ended
        if code not in _FINAL:
            journaled = self.journals[call.service, call.resource].history.get(call.asked.uid)
            if call.kind == "query" or journaled is None:
                return None
            code, value = journaled
            if call.kind != "send":
                ended = self.world.loop.now
        return Operation(
            call.began,
            ended,
            call.asked,
            (code, value),
            client=call.client,
            resource=(call.service, call.resource),
        )


class _Account:
    """The account as a sequential object, for the search."""

    def initial(self) -> tuple[Any, ...]:
        return (0, 0, 0, 0)

    def apply(self, state: tuple[Any, ...], request: Asked) -> tuple[tuple[Any, ...], Any]:
        if request.name == "read":
            return state, (200, list(state))
        status, value, after = step(State(*state), request)
        return (after.cash, after.register, after.count, after.chain), (status, value)


def _state(encoded: bytes) -> State:
    wire: Any = decode_value(encoded)
    return State(**wire)


def _short(record: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={record[name]}"
        for name in ("instance_id", "node_id", "state", "cause", "contested", "removed")
        if name in record
    )
