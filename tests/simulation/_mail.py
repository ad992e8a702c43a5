"""Mail in the simulation: senders, and how an owner reads, forwards and rings.

The drivers here are to `Inbox`, `Outbox` and `Reminders` what the shells of
`aegis.actors` are in production.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field

from aegis.actors._caller import Destination, new_session
from aegis.actors._inbox import MAX_TRIES, Inbox, Letter
from aegis.actors._mail import Hopeless, Seen
from aegis.actors._record import (
    CommandEntry,
    MailSessionDropped,
    MailSkipped,
    MailStashed,
    MailTried,
    Outgoing,
    Reminder,
    ReminderOver,
)
from aegis.actors._reminders import following
from tests.simulation import _plants as plants
from tests.simulation._model import TOPIC, Command, pack, sent_by
from tests.simulation._posted import Posted, heard_by, mail_of
from tests.simulation._simulation import Simulation
from tests.simulation._store import Answer, Result, Stored
from tests.simulation._world import Process

if TYPE_CHECKING:
    from tests.simulation._node import Message, ResourceDriver

__all__ = ["Letters", "Outward", "Requests", "Ringer", "Sender", "entry_of"]

STORE_TIMEOUT: Final = 0.25

REREAD_SECONDS: Final = 0.1


class Requests:
    """Requests to the store of one purpose: one at a time, repeated while unanswered."""

    def __init__(self, simulation: Simulation, process: Process) -> None:
        self._simulation = simulation
        self._process = process
        self._number = 0

    def append(
        self,
        subject: str,
        payload: bytes,
        then: Callable[[Answer], None],
        *,
        expect: int | None = None,
    ) -> None:
        """Append until an answer comes that is not ``again``."""
        self._number += 1
        number = self._number

        def answered(answer: Answer) -> None:
            if self._number != number:
                return
            if answer.result is Result.AGAIN:
                self.append(subject, payload, then, expect=expect)
            else:
                self._number += 1
                then(answer)

        self._simulation.store.append(self._process, subject, payload, answered, expect=expect)
        self._watch(number, partial(self.append, subject, payload, then, expect=expect))

    def read(self, subject: str, start: int, then: Callable[[list[Stored]], None]) -> None:
        """Read until an answer comes."""
        self._number += 1
        number = self._number

        def answered(found: list[Stored]) -> None:
            if self._number == number:
                self._number += 1
                then(found)

        self._simulation.store.read(self._process, subject, start, answered)
        self._watch(number, partial(self.read, subject, start, then))

    def cancel(self) -> None:
        """Take no more answers."""
        self._number += 1

    def _watch(self, number: int, again: Callable[[], None]) -> None:
        def check() -> None:
            if self._number == number:
                again()

        self._process.after(STORE_TIMEOUT, check)


class Sender:
    """A caller's durable sends: one lane a resource, in order."""

    def __init__(self, simulation: Simulation, process: Process) -> None:
        self._simulation = simulation
        self._process = process
        self._lanes: dict[str, _Lane] = {}

    def forget(self) -> None:
        """The process has died."""
        for lane in self._lanes.values():
            for posted, _ in lane.waiting:
                self._simulation.checker.on_abandoned(posted.command.uid)
        self._lanes = {}

    def send(self, resource: str, command: Command, timeout: float) -> None:
        """Put a message into the lane of its mailbox, or of the topic."""
        world = self._simulation.world
        lane = self._lanes.get(resource)
        if lane is None:
            name = f"{world.rng.getrandbits(40):010x}"
            destination = Destination(new_session(self._process.wall_ms(), name))
            requests = Requests(self._simulation, self._process)
            lane = self._lanes[resource] = _Lane(destination, requests)
        deadline = world.now + timeout
        kind = "publish" if resource == TOPIC else "send"
        self._simulation.checker.on_call(command, resource, kind, deadline)
        n = lane.destination.open()
        posted = Posted(lane.destination.session, n, n, command, "")
        lane.waiting.append((posted, deadline))
        self._process.after(timeout, partial(self._expire, lane, posted))
        if len(lane.waiting) == 1:
            self._post(resource, lane)

    def _post(self, resource: str, lane: _Lane) -> None:
        if not lane.waiting:
            return
        posted, _ = lane.waiting[0]

        def then(answer: Answer) -> None:
            if lane.waiting and lane.waiting[0][0] is posted:
                self._end(lane, posted, 200)
                self._post(resource, lane)

        lane.resource = resource
        kind = "topic" if resource == TOPIC else "mailbox"
        lane.requests.append(f"{kind}.{resource}", posted.encoded(), then)
        self._process.point("send under way")

    def _expire(self, lane: _Lane, posted: Posted) -> None:
        if not any(waiting is posted for waiting, _ in lane.waiting):
            return
        first = lane.waiting[0][0] is posted
        self._end(lane, posted, 504)
        if first:
            lane.requests.cancel()
            self._post(lane.resource, lane)

    def _end(self, lane: _Lane, posted: Posted, code: int) -> None:
        lane.waiting = deque(one for one in lane.waiting if one[0] is not posted)
        lane.destination.close(posted.n)
        self._simulation.checker.on_end(posted.command.uid, code, None)


@define(eq=False)
class _Lane:
    destination: Destination
    requests: Requests
    resource: str = ""
    waiting: deque[tuple[Posted, float]] = field(factory=deque[tuple[Posted, float]])


class Letters:
    """One owner's mail, or what it subscribes to: read, run in order, given up."""

    def __init__(self, driver: ResourceDriver, source: str = "") -> None:
        self.source = source
        self._driver = driver
        self._world = driver.world
        self._inbox = Inbox(driver.owner, source)
        self._subject = f"topic.{TOPIC}" if source else f"mailbox.{driver.resource}"
        self._reads = Requests(driver.simulation, driver.node)
        self._burials = Requests(driver.simulation, driver.node)
        self._reading = False
        self._again = False
        self._careful = False
        self._put_aside: set[int] = set()
        """The messages that were put aside in this life of the owner."""
        self._came_back = False
        self._noted = False

    def stop(self) -> None:
        """The owner has given up."""
        self._reads.cancel()
        self._burials.cancel()

    def read(self) -> None:
        """There may be mail."""
        if self._reading:
            self._again = True
            return
        self._reading = True
        self._again = False
        self._reads.read(self._subject, self._inbox.read_to + 1, self._on_read)

    def _on_read(self, found: list[Stored]) -> None:
        self._reading = False
        if self.source:
            self._on_kept(found)
        for stored in found:
            self._inbox.offer(Letter(stored.sequence, stored.payload))
        self.pump()
        if self._again or found:
            self.read()
        elif self._world.faults.lagging_read and self._world.faulty:
            # A read may lag; what follows a mailbox in production does not.
            self._driver.node.after(REREAD_SECONDS, self._read_if_serving)

    def _on_kept(self, found: list[Stored]) -> None:
        """See what the stream let go of, before what it still has."""
        driver, owner = self._driver, self._driver.owner
        first = driver.simulation.store.first_sequence(self._subject)
        if found:
            first = min(first, found[0].sequence)
        if self.source not in owner.cursors:
            self._world.count("subscription: begun")
            owner.subscribe(self.source, 0)
        if driver.simulation.plant != "silent-gap":
            self._inbox.kept(first)

    def _read_if_serving(self) -> None:
        if self._driver.owner.serving:
            self.read()

    def pump(self) -> None:
        """Hand on what may run now."""
        while (letter := self._inbox.next()) is not None:
            self._driver.take_letter(self, letter)
        if self._inbox.should_catch_up:
            self._inbox.behind = False
            self.read()

    def begin(self, letter: Letter) -> None:
        """Deal with one message, in the owner's turn."""
        driver, owner = self._driver, self._driver.owner
        if letter.lost_from:
            self._world.count("subscription: a gap")
            gap = MailSkipped(letter.sequence, "gap", source=self.source)
            owner.skip(gap)
            driver.note_entry(gap)
            self._done(ran=False)
            return
        posted = self._read_letter(letter)
        self._came_back = letter.sequence in self._put_aside
        place = 0 if self.source else letter.sequence
        verdict = owner.admit_mail(posted.session, posted.n, posted.low, place)
        if isinstance(verdict, Seen):
            self._world.count("mail: a repeat passed over")
            owner.pass_over(letter.sequence, self.source)
            self._done(ran=False)
            return
        if isinstance(verdict, Hopeless):
            self._world.count("mail: below the floor")
            self._bury(letter, posted, verdict.reason, noted=verdict.known)
            return
        if self.source and driver.simulation.plant == "early-subscription-cursor":
            driver.note_entry(MailSkipped(letter.sequence, "early", source=self.source))
            owner.skip(MailSkipped(letter.sequence, "early", source=self.source))
        self._careful = self._noted = self._inbox.is_careful or self._came_back
        if self._careful:
            self._try(letter, posted, verdict.drops)
        else:
            driver.run_letter(self, letter, posted, verdict.drops)

    def _try(self, letter: Letter, posted: Posted, drops: str | None) -> None:
        """Run a message once it is noted that it was tried, unless it was too often."""
        driver, owner = self._driver, self._driver.owner
        tries = owner.tries(letter.sequence, self.source)
        if tries >= MAX_TRIES:
            self._world.count("mail: tried too often")
            self._bury(letter, posted, "tries", drops=drops)
            return
        self._world.count("mail: tried again" if tries else "mail: run with care")
        self._note_try(letter)
        driver.when_quiescent(partial(driver.run_letter, self, letter, posted, drops))

    def _note_try(self, letter: Letter) -> None:
        self._driver.owner.try_mail(letter.sequence, self.source)
        self._driver.note_entry(MailTried(letter.sequence, self.source))

    def failed(self, letter: Letter, posted: Posted, drops: str | None) -> None:
        """The handler of what it subscribes to has failed: nobody is told, so try again."""
        self._world.count("subscription: failed")
        if not self._noted:
            self._note_try(letter)
        self._noted = True
        self._try(letter, posted, drops)

    def _read_letter(self, letter: Letter) -> Posted:
        posted = mail_of(letter.payload)
        if not self.source:
            return posted
        named = self._driver.simulation.plant != "no-durable-name"
        return heard_by(posted, self._driver.resource, letter.sequence, named=named)

    def put_aside(self, letter: Letter, posted: Posted, drops: str | None) -> None:
        """The handler of a message has put it aside."""
        driver, owner = self._driver, self._driver.owner
        known = letter.sequence in owner.mail.stash
        if not known or self._careful:
            payload = b"" if known else letter.payload
            stashed = MailStashed(letter.sequence, posted.session, posted.n, posted.low, payload)
            if drops is not None:
                driver.note_entry(MailSessionDropped(drops))
            owner.put_aside(stashed, drops=drops)
            driver.note_entry(stashed)
        self._put_aside.add(letter.sequence)
        self.ended()

    def ended(self) -> None:
        """The effect of a message is in the owner's memory."""
        if self._careful:
            self._careful = False
            self._driver.when_quiescent(self._done)
        else:
            self._done()

    def _done(self, *, ran: bool = True) -> None:
        if not self._came_back:
            self._inbox.ended(ran=ran)
        self.pump()

    def _bury(
        self,
        letter: Letter,
        posted: Posted,
        reason: str,
        *,
        noted: bool = True,
        drops: str | None = None,
    ) -> None:
        driver = self._driver
        driver.hold_turn()

        def buried(answer: Answer) -> None:
            driver.node.point("buried, not skipped")
            skipped = MailSkipped(letter.sequence, reason, source=self.source)
            if noted:
                skipped = evolve(skipped, session=posted.session, n=posted.n, low=posted.low)
            if drops is not None:
                driver.note_entry(MailSessionDropped(drops))
            driver.owner.skip(skipped, drops=drops)
            driver.note_entry(skipped)
            self._done()
            driver.end_turn()

        subject = f"deadletter.{driver.resource}.{self.source}-{letter.sequence}"
        self._burials.append(subject, letter.payload, buried, expect=0)


class Outward:
    """Forwards what an owner has committed."""

    def __init__(self, driver: ResourceDriver) -> None:
        self._driver = driver
        self._requests = Requests(driver.simulation, driver.node)
        self._busy = False

    def stop(self) -> None:
        """The owner has given up."""
        self._requests.cancel()

    def wake(self) -> None:
        """Forward what is due."""
        driver = self._driver
        due = driver.owner.outbox.due()
        if self._busy or not due or not driver.owner.serving:
            return
        self._busy = True
        message = due[0]

        def then(answer: Answer) -> None:
            self._busy = False
            driver.node.point("forwarded, not noted")
            if driver.owner.serving:
                driver.owner.outbox.sent(message.n)
                driver.world.count("mail: forwarded")
                self.wake()

        kind = "mailbox" if message.service else "topic"
        self._requests.append(f"{kind}.{message.resource}", message.payload, then)
        driver.node.point("forward under way")


class Ringer:
    """Rings for the reminders of one owner."""

    def __init__(self, driver: ResourceDriver) -> None:
        self._driver = driver
        self._ringing: Reminder | None = None
        self._number = 0

    def arm(self) -> None:
        """Ring for the first that is due."""
        driver = self._driver
        self._number += 1
        first = driver.owner.reminders.next()
        if first is None or self._ringing is not None or not driver.owner.serving:
            return
        wait = (first.due_ms - driver.node.wall_ms()) / 1000
        number = self._number

        def ring() -> None:
            if self._number == number and driver.owner.serving:
                self._ringing = first
                driver.take_ring(first)

        driver.node.after(max(0.0, wait) + 0.0001, ring)

    def begin(self, reminder: Reminder) -> list[Reminder | ReminderOver] | None:
        """Return what stands in the place of a reminder; None if it stands no more."""
        if self._ringing is reminder:
            self._ringing = None
        driver = self._driver
        if driver.owner.reminders.get(reminder.name, reminder.due_ms) is None:
            self.arm()
            return None
        now_ms = driver.node.wall_ms()
        if now_ms < reminder.due_ms:
            raise AssertionError("a reminder comes too early")
        return [following(reminder, now_ms)]

    def put_aside(self, reminder: Reminder) -> None:
        """The handler of a reminder has put it aside."""
        self._driver.owner.reminders.put_aside(reminder)
        self.arm()


def effects_of(
    driver: ResourceDriver, message: Message, status: int
) -> tuple[list[Outgoing], list[Reminder]]:
    """Return what a command that has run sends, and the reminders that it sets."""
    outgoing: list[Outgoing] = []
    reminders: list[Reminder] = []
    session = f"account/{driver.resource}"
    n = driver.owner.outbox.last_n
    for to, command, wants_reply in sent_by(message.command, status, message.reply_to):
        n += 1
        reply_to = driver.resource if wants_reply else ""
        posted = Posted(session, n, n, command, reply_to)
        service = "" if to == TOPIC else "account"
        outgoing.append(Outgoing(n, service, to, posted.encoded()))
    if message.command.name == "remind" and status == 200:
        uid, amount = message.command.uid, message.command.amount
        due_ms = driver.node.wall_ms() + amount * 20
        reminders.append(Reminder(uid, "rung", pack(amount), due_ms))
    return outgoing, reminders


def entry_of(
    driver: ResourceDriver, message: Message, status: int, reply: bytes, events: Any
) -> CommandEntry:
    """Return the entry of a command that has run."""
    outgoing, reminders = effects_of(driver, message, status)
    changes: list[Reminder | ReminderOver] = [*message.changes, *reminders]
    entry = CommandEntry(
        message.session,
        message.n,
        message.low,
        status,
        reply,
        events,
        outgoing or None,
        message.mail,
        changes or None,
        message.letters.source if message.letters is not None else "",
    )
    plants.spoil_entry(driver.simulation.plant, entry)
    return entry
