"""The promises, tested at every accepted append, every answer and every end of a call.

The checker sees what no participant sees: each append at the moment the store takes it
in, with the commands that it commits (``Committed``), and each answer as it leaves. It
folds the journal by itself: `step` alone, sessions in plain dicts, no code of the core.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field

from aegis.actors._owner import Owner
from aegis.actors._record import CommandEntry, Entry, Record, SessionDropped
from tests.simulation._mail_checker import MailChecker
from tests.simulation._model import Command, State, apply_event, step, unpack
from tests.simulation._posted import mail_of
from tests.simulation._world import InvariantViolated, World

__all__ = ["Checker", "Committed"]

type Committed = tuple[Entry, Command | None]
"""One entry that an append commits, with the command that it is the effect of."""


@define
class _Session:
    low: int = 1
    replies: dict[int, tuple[int, bytes]] = field(factory=dict[int, tuple[int, bytes]])


@define
class _Journal:
    """What the accepted appends of one resource amount to."""

    event_sourced: bool
    epoch: int = 0
    serving_epoch: int = 0
    state: State = field(factory=State)
    folded: State = field(factory=State)
    history: dict[str, tuple[int, bytes]] = field(factory=dict[str, tuple[int, bytes]])
    messages: dict[tuple[str, int], tuple[int, bytes]] = field(
        factory=dict[tuple[str, int], tuple[int, bytes]]
    )
    sessions: dict[str, _Session] = field(factory=dict[str, _Session])
    floor: int = 0
    admitted_above: int = 0
    """The floor as it was when the next session was let in: before it made room."""
    states: dict[int, bytes] = field(factory=dict[int, bytes])
    """The state after each accepted sequence."""
    by_count: dict[int, State] = field(factory=dict[int, State])
    seen: int = 0
    """The highest count of changes that any caller has been told of."""


@define
class _Call:
    command: Command
    resource: str
    kind: str
    deadline: float
    seen: int
    copied: bool = False
    code: int | None = None


class Checker:
    """Raises `InvariantViolated` as soon as something is not as promised.

    With ``black_box`` it does without looking into owners' memory and into records:
    only answers, effects and the ends of calls count.
    """

    def __init__(self, world: World, *, window: int, max_sessions: int, black_box: bool) -> None:
        self.world = world
        self.black_box = black_box
        self._window = window
        self._max_sessions = max_sessions
        self._journals: dict[str, _Journal] = {}
        self._calls: dict[str, _Call] = {}
        self._carrying: set[str] = set()
        self._carried: set[str] = set()
        self._taken_back: set[str] = set()
        self._claims: dict[str, tuple[int, bytes]] = {}
        self._claimed_by: dict[str, str] = {}
        self.mail = MailChecker(world, max_sessions=max_sessions)

    def fail(self, text: str, *arguments: object) -> None:
        """Report a broken promise."""
        raise InvariantViolated(text % arguments)

    def add_resource(self, resource: str, *, event_sourced: bool) -> None:
        """Expect a journal."""
        self.mail.add_resource(resource)
        journal = self._journals[resource] = _Journal(event_sourced)
        journal.by_count[0] = State()

    # -- the store ----------------------------------------------------------------------

    def on_accept(
        self, subject: str, sequence: int, payload: bytes, rollup: bool, about: Any
    ) -> None:
        """An append has just taken effect."""
        kind, _, name = subject.partition(".")
        if kind == "claim":
            self._on_claim(name, payload, about)
        elif kind == "mailbox":
            self._check_carried(mail_of(payload).command.uid)
            self.mail.on_posted(name, sequence, payload)
        elif kind == "topic":
            self.mail.on_published(sequence, payload)
        elif kind == "journal":
            self._on_record(name, sequence, Record.from_wire(unpack(payload)), rollup, about)

    def _check_carried(self, uid: str) -> None:
        """What a command to a service group sends is there if, and only if, that is claimed."""
        base, is_carried, run = uid.partition("+")
        if not is_carried:
            return
        claimed = self._claims.get(self._claimed_by.get(base, ""))
        if claimed is None or str(unpack(claimed[1])) != run:
            self.fail("%s was sent by a command that is not claimed", uid)
        if base in self._carried:
            self.fail("command %s has sent twice", base)
        self._carried.add(base)
        self.world.count("group: sent")

    def _on_record(
        self, resource: str, sequence: int, record: Record, rollup: bool, about: list[Committed]
    ) -> None:
        journal = self._journals[resource]
        world = self.world
        if record.is_fence:
            if record.epoch < journal.epoch:
                world.count("fence of a lower epoch landed late")
            journal.epoch = max(journal.epoch, record.epoch)
            journal.states[sequence] = journal.state.encode()
            return
        if record.epoch < journal.epoch:
            self.fail(
                "%s: a record of epoch %d counts after epoch %d",
                resource,
                record.epoch,
                journal.epoch,
            )
        if record.epoch < journal.serving_epoch:
            self.fail(
                "%s: an owner of epoch %d wrote after its successor served",
                resource,
                record.epoch,
            )
        if rollup is not record.is_snapshot:
            self.fail("%s: a snapshot must be a rollup, and nothing else", resource)
        world.count("snapshot record" if rollup else "journal record")
        if len(about) > 1 and not rollup:
            world.count("group of several entries")
        for entry, command in about:
            self._commit(resource, journal, entry, command)
        self.mail.on_cursor(resource, record.cursor)
        journal.epoch = record.epoch
        encoded = journal.state.encode()
        before = journal.folded.encode()
        if not self.black_box:
            if journal.event_sourced and not rollup:
                for written in record.entries or ():
                    for event in (isinstance(written, CommandEntry) and written.events) or ():
                        apply_event(journal.folded, event)
            elif record.state is not None:
                journal.folded = State.decode(record.state)
            if journal.folded.encode() != encoded:
                self.fail(
                    "%s, sequence %d: the journal's state is %s, its commands make %s (before: %s)",
                    resource,
                    sequence,
                    journal.folded,
                    journal.state,
                    State.decode(before),
                )
        journal.states[sequence] = encoded

    def _commit(
        self,
        resource: str,
        journal: _Journal,
        entry: Entry,
        command: Command | None,
    ) -> None:
        if not isinstance(entry, CommandEntry) and self.mail.on_entry(resource, entry):
            return
        if isinstance(entry, SessionDropped):
            journal.sessions.pop(entry.session, None)
            journal.admitted_above = journal.floor
            journal.floor = max(journal.floor, int(entry.session.partition("-")[0]))
            self.world.count("session dropped")
            return
        assert command is not None
        assert isinstance(entry, CommandEntry)
        key = (entry.session, entry.n)
        call = self._calls.get(command.uid)
        copied = call is not None and call.copied
        if entry.session and key in journal.messages:
            self.fail("%s: message %s-%d was applied twice", resource, *key)
        if command.uid in journal.history and not copied:
            self.fail("%s: command %s was applied twice", resource, command.uid)
        if call is not None and call.kind not in ("send", "publish"):
            ended = call.code is not None and call.code != 504
            if ended and not copied:
                self.fail("%s: command %s ended with %s, and ran", resource, command.uid, call.code)
        if command.uid in self._taken_back and command.name != "withdrawn":
            self.fail("%s: command %s was resolved as not run, and ran", resource, command.uid)
        status, reply, state = step(journal.state, command)
        if (status, reply) != (entry.status, entry.reply):
            self.fail(
                "%s: command %s on %s is journaled with %d %r, not %d %r",
                resource,
                command,
                journal.state,
                entry.status,
                unpack(entry.reply),
                status,
                unpack(reply),
            )
        self.mail.on_command(resource, entry, command)
        if not entry.mail and entry.session:
            self._note_session(resource, journal, entry)
        if entry.session:
            journal.messages[key] = (status, reply)
        journal.history[command.uid] = (status, reply)
        journal.state = state
        journal.by_count[state.count] = state
        self.world.count(f"applied: {status}")

    def _note_session(self, resource: str, journal: _Journal, entry: CommandEntry) -> None:
        key = (entry.session, entry.n)
        session = journal.sessions.get(entry.session)
        if session is None:
            if int(entry.session.partition("-")[0]) <= journal.admitted_above:
                self.fail("%s: session %s is below the floor", resource, entry.session)
            session = journal.sessions[entry.session] = _Session()
            if len(journal.sessions) > self._max_sessions:
                self.fail("%s: more than %d sessions", resource, self._max_sessions)
        if not session.low <= entry.n < max(session.low, entry.low) + self._window:
            self.fail("%s: message %s-%d is outside of its window", resource, *key)
        if entry.low > session.low:
            session.low = entry.low
            session.replies = {n: kept for n, kept in session.replies.items() if n >= entry.low}
        session.replies[entry.n] = (entry.status, entry.reply)
        journal.admitted_above = journal.floor

    def _on_claim(self, message_id: str, payload: bytes, uid: str) -> None:
        _, status, reply, _ = unpack(payload)
        if message_id in self._claims:
            self.fail("message %s to a service group was committed twice", message_id)
        call = self._calls[uid]
        if call.code is not None and call.code != 504 and not call.copied:
            self.fail("command %s ended with %d, and ran", uid, call.code)
        self._claims[message_id] = (status, reply)
        self._claimed_by[uid] = message_id
        if call.command.name == "carry":
            self._carrying.add(uid)
        self.world.count("claim made")

    # -- the owners ---------------------------------------------------------------------

    def on_serving(self, resource: str, owner: Owner) -> None:
        """An owner has replayed and begins to serve."""
        journal = self._journals[resource]
        journal.serving_epoch = max(journal.serving_epoch, owner.epoch)
        self.on_quiescent(resource, owner, None)

    def on_quiescent(self, resource: str, owner: Owner, state: State | None) -> None:
        """All that the owner has run is acknowledged: it must agree with the journal."""
        if self.black_box:
            return
        journal = self._journals[resource]
        expected = journal.states.get(owner.last_sequence)
        if expected is None:
            if owner.last_sequence:
                self.fail("%s: the owner is at sequence %d", resource, owner.last_sequence)
            return
        if state is not None and state.encode() != expected:
            self.fail(
                "%s: the owner's state at sequence %d is %s, the journal's %s",
                resource,
                owner.last_sequence,
                state,
                State.decode(expected),
            )
        if owner.last_sequence == max(journal.states):
            self._compare_sessions(resource, journal, owner)
            self.mail.compare(resource, owner)

    def _compare_sessions(self, resource: str, journal: _Journal, owner: Owner) -> None:
        floor, sessions = owner.sessions.to_wire()
        if floor != journal.floor:
            self.fail("%s: the owner's floor is %d, not %d", resource, floor, journal.floor)
        if {name for name, _, _ in sessions} != set(journal.sessions):
            self.fail("%s: the owner's sessions are not the journal's", resource)
        for name, low, replies in sessions:
            session = journal.sessions[name]
            if low != session.low or {reply[0] for reply in replies} != set(session.replies):
                self.fail("%s: the owner's session %s is not the journal's", resource, name)
            for n, status, reply in replies:
                if reply is not None and (status, reply) != session.replies[n]:
                    self.fail("%s: the reply to %s-%d is not the journal's", resource, name, n)

    def on_answer(self, resource: str, session: str, n: int, status: int, reply: bytes) -> None:
        """An answer of a handler leaves its owner."""
        journaled = self._journals[resource].messages.get((session, n))
        if journaled is None:
            self.fail("%s: the answer to %s-%d left before its append", resource, session, n)
        if journaled != (status, reply):
            self.fail(
                "%s: %s-%d is answered %d %r, journaled is %s",
                resource,
                session,
                n,
                status,
                unpack(reply),
                journaled,
            )

    def on_group_answer(self, message_id: str, status: int, reply: bytes) -> None:
        """An answer leaves an instance of a service group."""
        claimed = self._claims.get(message_id)
        if claimed != (status, reply):
            self.fail(
                "%s is answered %d %r, claimed is %s", message_id, status, unpack(reply), claimed
            )

    # -- the callers --------------------------------------------------------------------

    def on_call(self, command: Command, resource: str, kind: str, deadline: float) -> None:
        """A call begins; ``kind`` is command, query or group."""
        seen = self._journals[resource].seen if resource in self._journals else 0
        if kind == "send":
            self.mail.on_send(command, resource)
        self._calls[command.uid] = _Call(command, resource, kind, deadline, seen)

    def on_copied(self, uid: str) -> None:
        """The network has made a copy of an attempt.

        The state is safe from that; but an attempt that arrives twice can run and be
        refused, so a refusal of it proves nothing. NATS makes no such copies.
        """
        self._calls[uid].copied = True

    def on_abandoned(self, uid: str) -> None:
        """The caller has died: nobody is told how its call ended."""
        self._calls[uid].code = 504

    def on_end(self, uid: str, code: int, value: Any) -> None:
        """A call ends with a value (200), or with an error of ``code``."""
        call = self._calls[uid]
        if call.code is not None:
            self.fail("call %s ended twice", uid)
        if self.world.now > call.deadline + 1e-6:
            self.fail("call %s ended %.3f s too late", uid, self.world.now - call.deadline)
        call.code = code
        self.world.count(f"{call.kind} ended: {code}")
        if call.kind == "send":
            self.mail.on_sent(uid, code)
            return
        if call.kind == "publish":
            self.mail.on_publish_ended(uid, code)
            return
        if call.kind == "query":
            if code == 200:
                self._judge_query(call, value)
        elif code in (200, 422, 500):
            self._judge_answer(call, code, value)
        elif code != 504 and not call.copied:
            ran = (
                uid in self._claimed_by
                if call.kind == "group"
                else uid in self._journals[call.resource].history
            )
            if ran:
                self.fail("command %s ended with %d, but it ran", uid, code)

    def on_resolved(self, uid: str, resource: str, code: int, value: Any) -> None:
        """Whoever did not know the outcome of a call has asked, and this is the answer."""
        self.world.count(f"resolve ended: {code}")
        if code not in (200, 408, 422, 500):
            return
        journaled = self._journals[resource].history.get(uid)
        if journaled is None and not (self.black_box and code == 408):
            self.fail("command %s was resolved with %d, and is not journaled", uid, code)
        elif (
            journaled is not None
            and not self._calls[uid].copied
            and (journaled[0] != code or unpack(journaled[1]) != value)
        ):
            self.fail("command %s is resolved %d %r, not %s", uid, code, value, journaled)
        if code == 408:
            self._taken_back.add(uid)

    def _judge_answer(self, call: _Call, code: int, value: Any) -> None:
        uid = call.command.uid
        if call.kind == "group":
            message_id = self._claimed_by.get(uid)
            if message_id is None:
                self.fail("command %s has an answer and no claim", uid)
            elif unpack(self._claims[message_id][1]) != value:
                self.fail("command %s has another answer than its claim", uid)
            return
        journal = self._journals[call.resource]
        journaled = journal.history.get(uid)
        if journaled is None:
            self.fail("command %s was acknowledged and is lost", uid)
        elif not call.copied and (journaled[0] != code or unpack(journaled[1]) != value):
            self.fail("command %s got %d %r, journaled is %s", uid, code, value, journaled)
        if code == 200 and not call.copied:
            count = value[0]
            if count < call.seen + (call.command.name != "touch"):
                self.fail("command %s took effect before it was called", uid)
            journal.seen = max(journal.seen, count)

    def _judge_query(self, call: _Call, value: Any) -> None:
        journal = self._journals[call.resource]
        count = value[2]
        state = journal.by_count.get(count)
        if state is None or unpack(state.encode()) != value:
            self.fail("query %s read %r, which never was", call.command.uid, value)
        if count < call.seen:
            self.fail(
                "query %s read change %d, change %d had been seen before it was asked",
                call.command.uid,
                count,
                call.seen,
            )
        journal.seen = max(journal.seen, count)

    # -- the end ------------------------------------------------------------------------

    def on_rest(self) -> None:
        """Everything has come to rest: no call may be open."""
        for uid, call in self._calls.items():
            if call.code is None:
                self.fail("call %s never ended", uid)

    def on_reader(self, resource: str, owner: Owner, state: State) -> None:
        """A new reader has folded the whole journal as it stands in the store."""
        journal = self._journals[resource]
        if state != journal.state:
            self.fail("%s: a reader arrives at %s, not %s", resource, state, journal.state)
        if not self.black_box:
            self._compare_sessions(resource, journal, owner)
            self.mail.compare(resource, owner)

    def on_end_of_all(self) -> None:
        """Nothing is under way any more: what was sent has come, and no money is lost."""
        silent = self._carrying - self._carried
        if silent:
            self.fail("claimed commands have not sent: %s", silent)
        self.mail.on_end_of_all(
            {name: journal.state.cash for name, journal in self._journals.items()}
        )
