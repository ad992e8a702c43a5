"""Nodes: each holds owners of resources and one instance of a service group.

The drivers here are to the core what the shells of `aegis.actors` are in production:
they move messages, keep the time and run the handlers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from attrs import frozen

from aegis.actors._claims import Claim, ClaimStep, is_too_far
from aegis.actors._inbox import Letter
from aegis.actors._owner import Owner, Phase
from aegis.actors._record import (
    CommandEntry,
    Entry,
    Event,
    Forwarded,
    MailSessionDropped,
    Record,
    Reminder,
    ReminderOver,
    SessionDropped,
    Subscribed,
)
from aegis.actors._sessions import Known, Refusal
from tests.simulation import _plants as plants
from tests.simulation._checker import Committed
from tests.simulation._mail import Letters, Outward, Requests, Ringer, entry_of
from tests.simulation._model import Account, Command, State, apply_event, pack, step, unpack
from tests.simulation._posted import SUBSCRIPTION, Posted
from tests.simulation._simulation import Simulation
from tests.simulation._store import Answer, Result, Stored
from tests.simulation._world import Crashed, InvariantViolated, Process

__all__ = ["Message", "Node", "ResourceDriver", "fold"]

STORE_TIMEOUT: Final = 0.25
"""Seconds after which the outcome of a request to the store counts as unknown."""

MAILBOX_CAPACITY: Final = 6

CLAIM_SECONDS: Final = 3600.0


@frozen
class Message:
    """One attempt of a call, as it arrives. ``reply`` carries status and encoded value."""

    kind: str
    session: str
    n: int
    low: int
    resource: str
    command: Command
    deadline: float
    first_sent_ms: int
    reply: Callable[[int, bytes], None]
    mail: int = 0
    """Its place in the mailbox, or the topic, if it is no call."""
    letters: Letters | None = None
    """By which it came, if it is no call."""
    failed: Callable[[], None] | None = None
    """What becomes of it if its handler fails, and nobody waits for its answer."""
    reply_to: str = ""
    changes: tuple[Reminder | ReminderOver, ...] = ()
    """What becomes of the reminder that it is the effect of."""

    @property
    def message_id(self) -> str:
        return f"{self.session}-{self.n}"


class Node(Process):
    """A process with actors."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        super().__init__(simulation.world, name)
        self.simulation = simulation
        self.drivers: dict[str, ResourceDriver] = {}
        self.leases: dict[tuple[str, int], float] = {}
        self.connection = 1

    def on_crash(self) -> None:
        self.drivers = {}
        self.leases = {}

    def on_grant(self, resource: str, epoch: int, answer_from: float, until: float) -> None:
        """The supervisor says: you own ``resource``, and may answer queries ``until`` then."""
        self.leases[resource, epoch] = max(until, self.leases.get((resource, epoch), 0.0))
        driver = self.drivers.get(resource)
        if driver is not None:
            if driver.epoch >= epoch:
                return
            driver.give_up()
        self.drivers[resource] = ResourceDriver(self, resource, epoch, answer_from)
        self.drivers[resource].start()

    def on_demotion(self, resource: str, epoch: int) -> None:
        """The supervisor says: another owns ``resource`` with ``epoch``."""
        driver = self.drivers.get(resource)
        if driver is not None and driver.epoch < epoch:
            self.world.count("demoted")
            driver.give_up()

    def restart_actor(self, resource: str) -> None:
        """The actor of ``resource`` is restarted by its supervisor, in this process."""
        driver = self.drivers.get(resource)
        if driver is None or driver.owner.phase is Phase.STOPPED:
            return
        self.world.count("actor restarted")
        self.world.note("%s: restarts the actor of %s", self.name, resource)
        driver.give_up()
        self.drivers[resource] = new = ResourceDriver(
            self, resource, driver.epoch, driver.answer_from
        )
        new.start()

    def on_mail(self, resource: str) -> None:
        """There is mail for ``resource``."""
        driver = self.drivers.get(resource)
        if driver is not None and driver.owner.serving:
            for letters in driver.desks:
                if not letters.source:
                    letters.read()

    def on_published(self) -> None:
        """There is something new in the topic."""
        for driver in self.drivers.values():
            if driver.owner.serving:
                for letters in driver.desks:
                    if letters.source:
                        letters.read()

    def receive(self, message: Message) -> None:
        """An attempt has arrived."""
        if message.kind == "group":
            GroupDriver(self, message).start()
            return
        driver = self.drivers.get(message.resource)
        if driver is None:
            message.reply(421, pack({"message": "not the owner"}))
        else:
            driver.receive(message)


type _Item = Message | tuple[Letters, Letter] | Reminder
"""What waits for its turn at a resource."""


class ResourceDriver:
    """One owner of one resource, from its fence to its end."""

    def __init__(self, node: Node, resource: str, epoch: int, answer_from: float) -> None:
        self.node = node
        self.world = node.world
        self.simulation = node.simulation
        self.resource = resource
        self.epoch = epoch
        self.answer_from = answer_from
        self.event_sourced = self.simulation.resources[resource]
        self.subject = f"journal.{resource}"
        self.account = Account(event_sourced=self.event_sourced)
        self.owner: Owner = plants.make_owner(
            self.simulation.plant,
            epoch=epoch,
            snapshot_state=not self.event_sourced,
            limits=self.simulation.limits,
        )
        self.mailbox: deque[_Item] = deque()
        self.stash: list[_Item] = []
        """What handlers have put aside, in its order."""
        self.desks: list[Letters] = []
        self.outward = Outward(self)
        self.ringer = Ringer(self)
        self._running = False
        self._open = False
        self._uncommitted: list[Committed] = []
        self._in_flight: list[Committed] = []
        self._request = 0
        """Numbers the requests to the store: late answers to earlier ones are told apart."""
        self._when_quiescent: Callable[[], None] | None = None
        self._reloads = Requests(self.simulation, node)
        """Reads of the journal beside appends: what is due is appended meanwhile."""

    # -- becoming the owner ---------------------------------------------------------------

    def start(self) -> None:
        self.world.note("%s: fences %s with epoch %d", self.node.name, self.resource, self.epoch)
        if self.simulation.plant == "no-fence":
            self._start_without_fence()
        else:
            self._fence(expect_new=True)

    def _fence(self, *, expect_new: bool) -> None:
        plan = self.owner.fence(expect_new=expect_new)
        self._append(
            pack(plan.record.to_wire()),
            plan.expect,
            partial(self._on_fence, expect_new),
            # The outcome of an epoch record may stay unknown: a second one does no harm.
            otherwise=partial(self._fence, expect_new=False),
        )
        self.node.point("epoch record under way")

    def _on_fence(self, expect_new: bool, answer: Answer) -> None:
        if answer.result is not Result.OK:
            self._fence(expect_new=False)
            return
        self.owner.fenced_at(answer.sequence, is_first=expect_new)
        self.world.count("journal begun" if expect_new else "fenced")
        if self.owner.phase is Phase.REPLAYING:
            self._read(1, self._on_replay)
        else:
            self._serve()

    def _on_replay(self, found: list[Stored]) -> None:
        self.node.point("replay")
        for stored in found:
            record = Record.from_wire(unpack(stored.payload))
            counts = self.owner.replay(stored.sequence, record, len(stored.payload))
            if self.owner.phase is Phase.STOPPED:
                self.world.count("stood down: a newer epoch")
                self.give_up()
                return
            if counts and self.event_sourced:
                fold(self.account.state, record)
        if self.owner.phase is Phase.REPLAYING:
            self._read(self.owner.last_sequence + 1, self._on_replay)
            return
        self._serve()

    def _start_without_fence(self) -> None:
        def replay(found: list[Stored]) -> None:
            until = found[-1].sequence if found else 0
            self.owner.fenced_at(until, is_first=not found)
            if found:
                self._on_replay(found)
            else:
                self._serve()

        self._read(1, replay)

    def _serve(self) -> None:
        if not self.event_sourced and self.owner.state is not None:
            self.account.state = State.decode(self.owner.state)
        wait = self.answer_from - self.world.now
        if wait > 0:
            self.world.count("waited for an earlier lease")
            self.node.after(wait, self._open_up)
        else:
            self._open_up()

    def _open_up(self) -> None:
        if self.owner.phase is not Phase.SERVING:
            return
        self._open = True
        self.world.note("%s: serves %s, epoch %d", self.node.name, self.resource, self.epoch)
        self.simulation.checker.on_serving(self.resource, self.owner)
        self.desks = [Letters(self)]
        if self.simulation.mail:
            self.desks.append(Letters(self, SUBSCRIPTION))
        for letters in self.desks:
            letters.read()
        self.outward.wake()
        self.ringer.arm()
        self._pump()

    # -- messages -------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """Take an attempt in, or refuse it at the door."""
        if self.owner.phase is Phase.STOPPED:
            message.reply(421, pack({"message": "fenced"}))
        elif sum(isinstance(one, Message) for one in self.mailbox) >= MAILBOX_CAPACITY:
            message.reply(429, pack({"message": "mailbox full"}))
        elif not self._open and self.world.chance(0.3):
            message.reply(503, pack({"message": "not ready"}))
        else:
            self.mailbox.append(message)
            self._pump()

    def _pump(self) -> None:
        while self.mailbox and not self._running and self._open:
            if self.owner.phase is not Phase.SERVING:
                return
            message = self.mailbox.popleft()
            if isinstance(message, tuple):
                letters, letter = message
                letters.begin(letter)
            elif isinstance(message, Reminder):
                self._ring(message)
            elif message.kind == "query":
                self._query(message)
            else:
                self._command(message)
        # Not at once: what arrives in the meantime commits in the same record.
        if self.owner.append_due:
            self.node.after(0.0003, self._flush)

    # -- mail and reminders ---------------------------------------------------------------

    def take_letter(self, letters: Letters, letter: Letter) -> None:
        """A message of the mailbox, or of the topic, may run, in its turn."""
        self.mailbox.append((letters, letter))
        self.node.after(0.0, self._pump)

    def take_ring(self, reminder: Reminder) -> None:
        """A reminder is due."""
        self.mailbox.append(reminder)
        self._pump()

    def run_letter(
        self, letters: Letters, letter: Letter, posted: Posted, drops: str | None
    ) -> None:
        """Run a message of the mailbox, or of the topic."""
        message = Message(
            "mail",
            posted.session,
            posted.n,
            posted.low,
            self.resource,
            posted.command,
            math.inf,
            0,
            _nobody,
            mail=letter.sequence,
            letters=letters,
            failed=partial(letters.failed, letter, posted, drops) if letters.source else None,
            reply_to=posted.reply_to,
        )
        # What a subscription reads cannot be put aside: it would hold up all behind it.
        if not letters.source and self._puts_aside((letters, letter)):
            letters.put_aside(letter, posted, drops)
        else:
            self._run(message, drops)

    def _ring(self, reminder: Reminder) -> None:
        changes = self.ringer.begin(reminder)
        if changes is None:
            self.world.count("reminder: stands no more")
            return
        if self._puts_aside(reminder):
            self.ringer.put_aside(reminder)
            return
        self.world.count("reminder: rung")
        command = Command(f"{reminder.name}!", "rung", unpack(reminder.params))
        message = Message(
            "ring", "", 0, 0, self.resource, command, math.inf, 0, _nobody, changes=tuple(changes)
        )
        self._run(message, None)

    def _puts_aside(self, item: _Item) -> bool:
        """Whether the handler of a message puts it aside now, as it may each time."""
        world = self.world
        if not world.chance(world.faults.stash):
            return False
        kind = "letter" if isinstance(item, tuple) else type(item).__name__.lower()
        world.count(f"put aside: {kind}")
        if not self.stash:
            self.node.after(world.rng.uniform(0.0, 0.6), self._unstash)
        self.stash.append(item)
        return True

    def _unstash(self) -> None:
        """Let what was put aside come next, in its order."""
        self.mailbox.extendleft(reversed(self.stash))
        self.stash = []
        self._pump()

    def _stands_aside(self, message: Message) -> bool:
        """Whether the message is a repeat of one that was put aside: then it replaces it."""
        for place, other in enumerate(self.stash):
            if isinstance(other, Message) and other.message_id == message.message_id:
                self.stash[place] = message
                return True
        return False

    def note_entry(self, entry: Entry) -> None:
        """Something that is no command's effect goes into the next record."""
        self._uncommitted.append((entry, None))

    def hold_turn(self) -> None:
        """Nothing else runs until `end_turn`."""
        self._running = True

    def end_turn(self) -> None:
        """Others may run again."""
        self._running = False
        self._pump()

    def when_quiescent(self, action: Callable[[], None]) -> None:
        """Do ``action`` as soon as all is acknowledged; nothing else runs until then."""
        self._running = True

        def act() -> None:
            self._running = False
            action()
            if not self._running:
                self._pump()

        self._when_quiescent = act
        self._flush()
        self._check_quiescent()

    def _query(self, message: Message) -> None:
        lease = self.node.leases.get((self.resource, self.epoch), 0.0)
        if self.world.now >= lease and self.simulation.plant != "no-lease":
            self.world.count("query without a lease")
            message.reply(503, pack({"message": "no lease"}))
            return
        self._hold(message, 200, self.account.state.encode())

    def _command(self, message: Message) -> None:
        verdict = self.owner.admit(message.session, message.n, message.low)
        if isinstance(verdict, Known):
            self.world.count("duplicate answered from the table")
            self._hold(message, verdict.status, verdict.reply)
        elif isinstance(verdict, Refusal):
            name = "window" if verdict.status == 429 else "done" if verdict.done else "too old"
            self.world.count(f"refused by the table: {name}")
            message.reply(verdict.status, pack({"message": verdict.message, **verdict.facts}))
        elif self._stands_aside(message):
            self.world.count("put aside: a repeat")
        elif message.command.name == "withdrawn":
            self.world.count("resolve: taken back")
            if self.simulation.plant == "withdrawn-unjournaled":
                message.reply(408, step(self.account.state, message.command)[1])
            else:
                self._run(message, verdict.drops)
        elif self.world.now >= message.deadline:
            self.world.count("expired in the mailbox")
            message.reply(408, pack({"message": "too late"}))
        elif message.command.name == "invalid":
            message.reply(400, pack({"message": "no such thing"}))
        elif not self._puts_aside(message):
            self._run(message, verdict.drops)

    def _run(self, message: Message, drops: str | None) -> None:
        if self.world.chance(self.world.faults.slow_handler):
            self._running = True
            seconds = self.world.rng.uniform(0.0, self.world.faults.slow_handler_seconds)
            self.node.after(seconds, partial(self._finish_slow, message, drops))
        else:
            self._finish(message, drops)

    def _finish_slow(self, message: Message, drops: str | None) -> None:
        self._running = False
        self._finish(message, drops)
        if not self._running:
            self._pump()

    def _finish(self, message: Message, drops: str | None) -> None:
        """The handler of ``message`` has ended."""
        self.node.point("before the handler")
        if self.owner.phase is not Phase.SERVING:
            message.reply(421, pack({"message": "fenced"}))
            return
        if message.command.name == "poison":
            self.world.count("mail: poison")
            raise Crashed
        status, reply, events = self.account.execute(message.command)
        if status != 200 and events and self.event_sourced:
            # What was changed can only be undone by reading the journal again, and that
            # knows nothing of what is not acknowledged yet.
            self._running = True
            self._when_quiescent = partial(self._reload, message, drops, status, reply)
            self._flush()
            self._check_quiescent()
            return
        if status != 200 and events and self.owner.state is not None:
            self.account.state = State.decode(self.owner.state)
        elif status != 200 and events:
            self.account.state = State()
        self._commit(message, drops, status, reply, events if status == 200 else None)

    def _reload(self, message: Message, drops: str | None, status: int, reply: bytes) -> None:
        self.world.count("state reloaded from the journal")

        def loaded(found: list[Stored]) -> None:
            until = self.owner.last_sequence
            if until and not any(stored.sequence == until for stored in found):
                # A lagging reader; or a newer owner has removed it, and then the next
                # append will tell. Either way this state is not the one to go on from.
                if any(stored.sequence > until for stored in found):
                    self.give_up()
                    message.reply(421, pack({"message": "fenced"}))
                else:
                    self._reloads.read(self.subject, 1, loaded)
                return
            self.account.state = State()
            for stored in found:
                if stored.sequence <= until:
                    fold(self.account.state, Record.from_wire(unpack(stored.payload)))
            self._running = False
            self._commit(message, drops, status, reply, None)
            self._pump()

        self._reloads.read(self.subject, 1, loaded)

    def _commit(
        self,
        message: Message,
        drops: str | None,
        status: int,
        reply: bytes,
        events: list[Event] | None,
    ) -> None:
        if status == 500 and message.failed is not None:
            message.failed()
            return
        if drops is not None:
            dropped = MailSessionDropped(drops) if message.mail else SessionDropped(drops)
            self._uncommitted.append((dropped, None))
        state: bytes | None = None
        if events and not self.event_sourced:
            state = self.account.state.encode()
        entry = entry_of(self, message, status, reply, events if self.event_sourced else None)
        self.owner.commit(entry, state, drops=drops)
        self._uncommitted.append((entry, message.command))
        if self.simulation.plant == "early-forward":
            self.owner.outbox.settle(self.owner.outbox.last_n)
            self.outward.wake()
        self.node.point("after the handler")
        if message.mail:
            assert message.letters is not None
            message.letters.ended()
        elif message.changes:
            self.ringer.arm()
        else:
            self._hold(message, status, reply)

    def _hold(self, message: Message, status: int, reply: bytes) -> None:
        if self.owner.hold((message, status, reply)):
            self._answer(message, status, reply)

    def _answer(self, message: Message, status: int, reply: bytes) -> None:
        if message.kind != "query":
            self.simulation.checker.on_answer(
                self.resource, message.session, message.n, status, reply
            )
        message.reply(status, reply)

    # -- appends --------------------------------------------------------------------------

    def _flush(self) -> None:
        if not self.owner.append_due:
            return
        whole_state: bytes | None = None
        if self.event_sourced and self.owner.snapshot_due and not self._running:
            whole_state = self.account.state.encode()
        plan = self.owner.append_next(whole_state=whole_state)
        assert plan is not None
        plan.payload = pack(plan.record.to_wire())
        if len(plan.payload) > self.simulation.limits.record_bytes:
            raise InvariantViolated(f"{self.resource}: a record of {len(plan.payload)} bytes")
        if self.owner.snapshot_due and not plan.rollup:
            self.world.count("snapshot put off")
        entries = [
            e for e in plan.record.entries or () if not isinstance(e, Forwarded | Subscribed)
        ]
        count = len(self._uncommitted) if plan.rollup else len(entries)
        self._in_flight, self._uncommitted = self._uncommitted[:count], self._uncommitted[count:]
        if self._uncommitted:
            self.world.count("group cut")
        self._append_in_flight()
        self.node.point("append under way")

    def _append_in_flight(self) -> None:
        plan = self.owner.in_flight
        if plan is None:
            return
        self._append(
            plan.payload,
            plan.expect,
            self._on_append,
            otherwise=self._on_unknown,
            rollup=plan.rollup,
            about=self._in_flight,
            late=self._on_late_append,
        )

    def _on_append(self, answer: Answer) -> None:
        if answer.result is Result.OK:
            self.node.point("acknowledged, not answered")
            self._on_committed(self.owner.appended(answer.sequence))
        elif answer.result is Result.AGAIN:
            self._append_in_flight()
        else:
            self._read(self.owner.last_sequence + 1, self._on_tail)

    def _on_late_append(self, answer: Answer) -> None:
        """The acknowledgement of an append that has been repeated, or settled, meanwhile."""
        if answer.result is Result.OK and self.owner.phase is Phase.SERVING:
            self.world.count("late acknowledgement")
            before = self.owner.in_flight
            answers = self.owner.appended(answer.sequence)
            if self.owner.in_flight is not before:
                self._request += 1
                self._on_committed(answers)

    def _on_unknown(self) -> None:
        self.world.count("append unknown: repeated")
        plan = self.owner.in_flight
        if plan is not None and self.simulation.plant == "new-expectation":
            self._read(1, self._repeat_with_new_expectation)
            return
        self._append_in_flight()

    def _repeat_with_new_expectation(self, found: list[Stored]) -> None:
        plan = self.owner.in_flight
        if plan is not None:
            plan.expect = max([stored.sequence for stored in found], default=0)
            self._append_in_flight()

    def _on_tail(self, found: list[Stored]) -> None:
        answers: list[Any] = []
        before = self.owner.in_flight
        for stored in found:
            record = Record.from_wire(unpack(stored.payload))
            answers += self.owner.tail(stored.sequence, record)
            if self.owner.phase is Phase.STOPPED:
                self.world.count("owner found itself fenced")
                self._answer_all(answers)
                self.give_up()
                return
        if before is not None and self.owner.in_flight is None:
            self.world.count("own append found in the tail")
            self._on_committed(answers)
            return
        if found:
            self.world.count("a late fence of another owner passed over")
        self._append_in_flight()

    def _on_committed(self, answers: list[Any]) -> None:
        self._in_flight = []
        self._answer_all(answers)
        self.outward.wake()
        self.ringer.arm()
        for letters in self.desks:
            letters.pump()
        self._check_quiescent()
        self._flush()

    def _answer_all(self, answers: list[Any]) -> None:
        for message, status, reply in answers:
            self._answer(message, status, reply)
            self.node.point("between two answers")

    def _check_quiescent(self) -> None:
        if self.owner.phase is not Phase.SERVING or not self.owner.quiescent:
            return
        if self._when_quiescent is not None:
            action, self._when_quiescent = self._when_quiescent, None
            action()
        elif not self._running:
            self.simulation.checker.on_quiescent(self.resource, self.owner, self.account.state)

    def give_up(self) -> None:
        """The memory is void: whoever waits must look elsewhere."""
        self._open = False
        self._request += 1
        for message, _, _ in self.owner.stop():
            message.reply(421, pack({"message": "fenced"}))
        for message in [*self.stash, *self.mailbox]:
            if isinstance(message, Message):
                message.reply(421, pack({"message": "fenced"}))
        self.mailbox.clear()
        self.stash = []
        self.outward.stop()
        self._reloads.cancel()
        for letters in self.desks:
            letters.stop()
        self._when_quiescent = None

    # -- the store ------------------------------------------------------------------------

    def _append(
        self,
        payload: bytes,
        expect: int | None,
        reply: Callable[[Answer], None],
        *,
        otherwise: Callable[[], None],
        rollup: bool = False,
        about: list[Committed] | None = None,
        late: Callable[[Answer], None] | None = None,
    ) -> None:
        self._request += 1
        request = self._request

        def answered(answer: Answer) -> None:
            if self._request == request:
                self._request += 1
                reply(answer)
            elif late is not None:
                late(answer)

        self.simulation.store.append(
            self.node,
            self.subject,
            payload,
            answered,
            expect=expect,
            rollup=rollup,
            about=about or [],
        )
        self._watch(request, otherwise)

    def _read(self, start: int, reply: Callable[[list[Stored]], None]) -> None:
        self._request += 1
        request = self._request

        def answered(found: list[Stored]) -> None:
            if self._request == request:
                self._request += 1
                reply(found)

        self.simulation.store.read(self.node, self.subject, start, answered)
        self._watch(request, partial(self._read, start, reply))

    def _watch(self, request: int, otherwise: Callable[[], None]) -> None:
        def check() -> None:
            if self._request == request and self.owner.phase is not Phase.STOPPED:
                otherwise()

        self.node.after(STORE_TIMEOUT, check)


def _nobody(status: int, reply: bytes) -> None:
    """Answer nobody."""


class GroupDriver:
    """One message to one instance of a service group, from arrival to answer."""

    def __init__(self, node: Node, message: Message) -> None:
        self.node = node
        self.world = node.world
        self.simulation = node.simulation
        self.message = message
        self.claim: Claim | None = None
        self.sending: list[tuple[str, bytes]] = []
        self._request = 0

    def start(self) -> None:
        if self.simulation.plant != "no-clock-check" and is_too_far(
            self.message.first_sent_ms, self.node.wall_ms()
        ):
            self.world.count("group: the clock is too far")
            self.message.reply(410, pack({"message": "too old"}))
            return
        if self.world.chance(self.world.faults.slow_handler):
            seconds = self.world.rng.uniform(0.0, self.world.faults.slow_handler_seconds)
            self.node.after(seconds, partial(self._finish, self.node.connection))
        else:
            self._finish(self.node.connection)

    def _finish(self, connection: int) -> None:
        self.node.point("before the claim")
        # Each run of the handler gives an answer of its own, so that a second answer to
        # the same message cannot pass for the first.
        command = self.message.command
        status = 422 if command.name == "reject" else 200
        run = self.world.rng.getrandbits(48)
        if command.name == "carry":
            sent = Command(f"{command.uid}+{run}", "carried", command.amount)
            posted = Posted(self.message.message_id, 1, 1, sent, "")
            self.sending = [(f"mailbox.{command.to}", posted.encoded())]
        value = {"message": "rejected", "run": run} if status == 422 else run
        self.claim = plants.make_claim(
            self.simulation.plant,
            first_sent_ms=self.message.first_sent_ms,
            connection=connection,
            status=status,
            reply=pack(value),
        )
        self._append()

    def _append(self) -> None:
        claim = self.claim
        assert claim is not None
        begun = claim.begin(wall_ms=self.node.wall_ms(), connection=self.node.connection)
        if begun is ClaimStep.SILENCE:
            self.world.count("group: an outcome is not pursued")
            return
        request = self._next()

        def answered(answer: Answer) -> None:
            if self._request != request:
                return
            if answer.result is Result.OK:
                self._request += 1
                self._go_on(claim.appended())
            elif answer.result is Result.AGAIN:
                self._append()
            else:
                self._go_on(claim.refused())

        if self.simulation.plant == "group-sends-apart":
            for subject, payload in self.sending:
                self.simulation.store.append(
                    self.node, subject, payload, lambda _: None, expect=None
                )
        self.simulation.store.append(
            self.node,
            self._subject,
            pack(claim.to_wire()),
            answered,
            expect=0,
            ttl=CLAIM_SECONDS,
            about=self.message.command.uid,
            batch=() if self.simulation.plant == "group-sends-apart" else self.sending,
        )
        self._watch(request, self._append)
        self.node.point("claim under way")

    @property
    def _subject(self) -> str:
        return f"claim.{self.message.message_id}"

    def _go_on(self, next_step: ClaimStep) -> None:
        claim = self.claim
        assert claim is not None
        if next_step is ClaimStep.READ:
            self._read()
        elif next_step is ClaimStep.ANSWER:
            self.node.point("claimed, not answered")
            self.simulation.checker.on_group_answer(
                self.message.message_id, claim.status, claim.reply
            )
            self.message.reply(claim.status, claim.reply)
        else:
            self.world.count("group: silence")

    def _read(self) -> None:
        claim = self.claim
        assert claim is not None
        request = self._next()

        def answered(found: list[Stored]) -> None:
            if self._request == request:
                self._request += 1
                self.world.count("group: another claim stands")
                self._go_on(claim.found(unpack(found[-1].payload) if found else None))

        self.simulation.store.read(self.node, self._subject, 1, answered)
        self._watch(request, self._read)

    def _next(self) -> int:
        self._request += 1
        return self._request

    def _watch(self, request: int, otherwise: Callable[[], None]) -> None:
        def check() -> None:
            if self._request == request:
                otherwise()

        self.node.after(STORE_TIMEOUT, check)


def fold(state: State, record: Record) -> None:
    """Let an event-sourced state follow one record of its journal."""
    if record.state is not None:
        whole = State.decode(record.state)
        state.cash, state.register = whole.cash, whole.register
        state.count, state.chain = whole.count, whole.chain
    for entry in record.entries or ():
        if isinstance(entry, CommandEntry):
            for event in entry.events or ():
                apply_event(state, event)
