"""The promises of mail: nothing lost, nothing twice, in order; no money vanishes.

It sees each message at the moment it is in a mailbox, and each entry at the moment it is
in a journal, and keeps its own books of both.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field

from aegis.actors._inbox import MAX_TRIES
from aegis.actors._mail import is_actor
from aegis.actors._owner import Owner
from aegis.actors._record import (
    CommandEntry,
    Entry,
    MailSessionDropped,
    MailSkipped,
    MailStashed,
    MailTried,
    Reminder,
)
from tests.simulation._model import TOPIC, Command
from tests.simulation._posted import SUBSCRIPTION, Posted, heard_by, mail_of
from tests.simulation._world import InvariantViolated, World

__all__ = ["MailChecker"]

type _Key = tuple[str, int]


@define
class _Mailbox:
    """One resource's mail, and what became of it."""

    posted: dict[int, Posted] = field(factory=dict[int, Posted])
    uids: dict[str, Posted] = field(factory=dict[str, Posted])
    ahead: deque[int] = field(factory=deque[int])
    """What the journal's cursor has not passed yet."""
    applied: dict[_Key, int] = field(factory=dict[_Key, int])
    """Where in the mailbox each message stood that took effect."""
    skipped: dict[_Key, str] = field(factory=dict[_Key, str])
    stashed: dict[int, _Key] = field(factory=dict[int, _Key])
    """What was put aside and has yet to take effect, by its place in the mailbox."""
    floor: int = 0
    admitted_above: int = 0
    clients: dict[str, None] = field(factory=dict[str, None])
    highest: dict[str, int] = field(factory=dict[str, int])
    """The highest number of each session that has taken effect."""
    last: int = 0
    cursor: int = 0
    tries: dict[int, int] = field(factory=dict[int, int])
    sent: dict[int, tuple[str, Posted]] = field(factory=dict[int, tuple[str, Posted]])
    """What its commands have sent, by number."""
    reminders: dict[str, Reminder] = field(factory=dict[str, Reminder])
    rung: set[str] = field(factory=set[str])
    gone: set[int] = field(factory=set[int])
    """What the stream let go of before it was read, and that was told."""


class MailChecker:
    """Raises `InvariantViolated` as soon as something is not as promised."""

    def __init__(self, world: World, *, max_sessions: int) -> None:
        self._world = world
        self._max_sessions = max_sessions
        self._boxes: dict[str, _Mailbox] = {}
        self._subscribers: dict[str, _Mailbox] = {}
        """What each resource reads of the topic."""
        self.named = True
        """Whether the name of the subscription is part of a message's session."""
        self._published: set[str] = set()
        self._let_go = 0
        self._sends: dict[str, str] = {}
        self._receipts: set[str] = set()
        self._money = 0
        self._on_its_way: dict[str, int] = {}

    def fail(self, text: str, *arguments: object) -> None:
        """Report a broken promise."""
        raise InvariantViolated(text % arguments)

    def add_resource(self, resource: str) -> None:
        """Expect mail."""
        self._boxes[resource] = _Mailbox()
        self._subscribers[resource] = _Mailbox()

    # -- what is sent -------------------------------------------------------------------

    def on_send(self, command: Command, resource: str) -> None:
        """A caller begins to send."""
        self._sends[command.uid] = resource

    def on_sent(self, uid: str, code: int) -> None:
        """A send has ended: with a receipt (200), or nobody knows how."""
        if code == 200:
            self._receipts.add(uid)
            if uid not in self._boxes[self._sends[uid]].uids:
                self.fail("send %s has a receipt, and is in no mailbox", uid)

    def on_posted(self, resource: str, sequence: int, payload: bytes) -> None:
        """A message is in a mailbox."""
        posted = mail_of(payload)
        self._boxes[resource].posted[sequence] = posted
        self._boxes[resource].uids[posted.command.uid] = posted
        self._boxes[resource].ahead.append(sequence)
        self._world.count("mail: posted")
        if is_actor(posted.session):
            sender = self._boxes[posted.session.partition("/")[2]]
            if sender.sent.get(posted.n) != (resource, posted):
                self.fail("%s: message %s-%d left before its commit", resource, *_key(posted))

    def on_published(self, sequence: int, payload: bytes) -> None:
        """A message is in the topic: every resource is to read it."""
        published = mail_of(payload)
        self._published.add(published.command.uid)
        self._world.count("subscription: published")
        if is_actor(published.session):
            sender = self._boxes[published.session.partition("/")[2]]
            if sender.sent.get(published.n) != (TOPIC, published):
                self.fail("%s: message %s-%d left before its commit", TOPIC, *_key(published))
        for resource, box in self._subscribers.items():
            box.posted[sequence] = heard_by(published, resource, sequence, named=self.named)
            box.ahead.append(sequence)

    def on_publish_ended(self, uid: str, code: int) -> None:
        """A publisher is told that it is stored (200), or nobody knows."""
        if code == 200 and uid not in self._published:
            self.fail("publication %s is acknowledged, and not stored", uid)

    def on_let_go(self, sequence: int) -> None:
        """The topic has no message up to ``sequence`` any more."""
        self._let_go = max(self._let_go, sequence)

    # -- what takes effect --------------------------------------------------------------

    def on_entry(self, resource: str, entry: Entry) -> bool:
        """An entry is in the journal that is no command; return whether it is of mail."""
        box = self._boxes[resource]
        match entry:
            case MailSessionDropped():
                box.clients.pop(entry.session, None)
                box.admitted_above = box.floor
                box.floor = max(box.floor, _start(entry.session))
                self._world.count("mail: session dropped")
            case MailTried():
                read = self._source(resource, entry.source)
                read.tries[entry.sequence] = read.tries.get(entry.sequence, 0) + 1
            case MailSkipped(reason="gap"):
                self._on_gap(resource, entry)
            case MailSkipped(reason="early"):
                pass  # Planted: the cursor alone.
            case MailSkipped():
                self._on_skipped(resource, entry)
            case MailStashed():
                self._on_stashed(resource, entry)
            case _:
                return False
        return True

    def _on_stashed(self, resource: str, entry: MailStashed) -> None:
        box = self._boxes[resource]
        posted = box.posted[entry.sequence]
        if bool(entry.payload) is (entry.sequence in box.stashed):
            self.fail("%s: message %d is not kept as it came", resource, entry.sequence)
        if not entry.payload:
            return
        if entry.payload != posted.encoded() or _key(posted) != (entry.session, entry.n):
            self.fail("%s: what is kept of message %d is not its own", resource, entry.sequence)
        if _key(posted) in box.applied or _key(posted) in box.stashed.values():
            self.fail("%s: message %s-%d took effect, and is put aside", resource, *_key(posted))
        box.stashed[entry.sequence] = _key(posted)
        self._take_in(resource, box, posted, entry.sequence)

    def _source(self, resource: str, source: str) -> _Mailbox:
        return self._subscribers[resource] if source else self._boxes[resource]

    def _on_gap(self, resource: str, entry: MailSkipped) -> None:
        box = self._subscribers[resource]
        if entry.sequence > self._let_go:
            self.fail("%s: %d is in the topic, and passed over as gone", resource, entry.sequence)
        box.gone |= {n for n in box.posted if box.last < n <= entry.sequence}
        self._in_order(resource, box, entry.sequence)
        self._on_read(resource, box)

    def _on_read(self, resource: str, box: _Mailbox) -> None:
        """The cursor of a subscription stands at its last message: none was left out."""
        while box.ahead and box.ahead[0] <= box.last:
            sequence = box.ahead.popleft()
            if sequence not in box.gone and not _is_done(box, box.posted[sequence]):
                self.fail("%s: message %d of the topic was left out", resource, sequence)

    def _on_skipped(self, resource: str, entry: MailSkipped) -> None:
        box, main = self._source(resource, entry.source), self._boxes[resource]
        posted = box.posted[entry.sequence]
        if entry.reason == "tries":
            if _key(posted) in box.applied:
                self.fail("%s: message %s-%d took effect, and was skipped", resource, *_key(posted))
            if box.tries.get(entry.sequence, 0) < MAX_TRIES:
                self.fail("%s: message %s-%d was given up too early", resource, *_key(posted))
        elif (
            is_actor(posted.session)
            or posted.session in main.clients
            or _start(posted.session) > main.floor
        ):
            self.fail("%s: message %s-%d is not below the floor", resource, *_key(posted))
        # A copy that comes after its session was forgotten cannot be told from a message
        # that has not run: it is kept with the dead letters, and no harm is done.
        is_copy = any(
            key == _key(posted) and place != entry.sequence for place, key in box.stashed.items()
        )
        if _key(posted) not in box.applied and not is_copy:
            box.skipped[_key(posted)] = entry.reason
        if box.stashed.pop(entry.sequence, None) is not None:
            return
        self._in_order(resource, box, entry.sequence)
        if entry.source:
            self._on_read(resource, box)
        if entry.session:
            # What its sender had given up before, and comes behind it, is passed over.
            box.highest[posted.session] = max(box.highest.get(posted.session, 0), posted.n)
            self._note_session(main, posted)

    def on_command(self, resource: str, entry: CommandEntry, command: Command) -> None:
        """The effect of a command is in the journal."""
        box = self._boxes[resource]
        if entry.mail:
            self._on_mail(resource, entry, command)
        for message in entry.outgoing or ():
            if message.n != max(box.sent, default=0) + 1:
                self.fail("%s: outgoing message %d is out of order", resource, message.n)
            box.sent[message.n] = (message.resource, mail_of(message.payload))
        for change in entry.reminders or ():
            if isinstance(change, Reminder):
                box.reminders[change.name] = change
        if command.name == "rung":
            due = box.reminders.get(command.uid.removesuffix("!"))
            if due is None:
                self.fail("%s: reminder %s was never set", resource, command.uid)
            box.rung.add(command.uid.removesuffix("!"))
        if entry.status == 200:
            self._count_money(command)

    def _on_mail(self, resource: str, entry: CommandEntry, command: Command) -> None:
        box = self._source(resource, entry.source)
        posted = box.posted.get(entry.mail)
        if posted is None or posted.command != command or _key(posted) != (entry.session, entry.n):
            self.fail("%s: what is journaled of message %d is not its own", resource, entry.mail)
            return
        if _key(posted) in box.skipped:
            self.fail("%s: message %s-%d was skipped, and ran", resource, *_key(posted))
        if command.name == "poison":
            self.fail("%s: the poison took effect", resource)
        if box.stashed.pop(entry.mail, None) is None:
            if _key(posted) in box.stashed.values():
                self.fail("%s: a copy of message %s-%d took effect", resource, *_key(posted))
            self._take_in(resource, box, posted, entry.mail)
        box.applied[_key(posted)] = entry.mail
        if entry.source:
            self._on_read(resource, box)

    def _take_in(self, resource: str, box: _Mailbox, posted: Posted, sequence: int) -> None:
        """A message leaves its mailbox in its turn: with its effect, or put aside."""
        main = self._boxes[resource]
        if posted.n <= box.highest.get(posted.session, 0):
            self.fail("%s: message %s-%d took effect out of order", resource, *_key(posted))
        box.highest[posted.session] = posted.n
        self._in_order(resource, box, sequence)
        if _is_client(posted.session) and posted.session not in main.clients:
            if _start(posted.session) <= main.admitted_above:
                self.fail("%s: mail session %s is below the floor", resource, posted.session)
            if len(main.clients) >= self._max_sessions:
                self.fail("%s: more than %d mail sessions", resource, self._max_sessions)
        self._note_session(main, posted)
        main.admitted_above = main.floor

    def _note_session(self, box: _Mailbox, posted: Posted) -> None:
        if _is_client(posted.session):
            box.clients.pop(posted.session, None)
            box.clients[posted.session] = None

    def _in_order(self, resource: str, box: _Mailbox, sequence: int) -> None:
        if sequence <= box.last:
            self.fail("%s: message %d of the mailbox came after %d", resource, sequence, box.last)
        box.last = sequence

    def on_cursor(self, resource: str, cursor: int) -> None:
        """A record with this cursor is in the journal."""
        box = self._boxes[resource]
        while box.ahead and box.ahead[0] <= cursor:
            posted = box.posted[box.ahead.popleft()]
            if not _is_done(box, posted) and _key(posted) not in box.stashed.values():
                self.fail(
                    "%s: the cursor passed message %s-%d, which had no effect",
                    resource,
                    *_key(posted),
                )
        box.cursor = max(box.cursor, cursor)

    def _count_money(self, command: Command) -> None:
        base = command.uid.rstrip("<>")
        match command.name:
            case "withdraw":
                self._money -= command.amount
            case "transfer":
                self._on_its_way[base] = command.amount
            case "receive" | "refunded":
                self._on_its_way.pop(base)
            case "deposit" | "verbose" | "rung" | "hear" | "carried":
                self._money += command.amount
            case _:
                pass

    # -- owners, and the end ------------------------------------------------------------

    def compare(self, resource: str, owner: Owner) -> None:
        """An owner that is at rest must agree with the journal."""
        box = self._boxes[resource]
        floor, senders, *_ = owner.mail.to_wire()
        if set(owner.mail.stash) != set(box.stashed):
            self.fail("%s: what the owner has put aside is not the journal's", resource)
        if floor != box.floor:
            self.fail("%s: the floor of mail is %d, not %d", resource, floor, box.floor)
        clients = {name for name, _, _ in senders if _is_client(name)}
        if clients != set(box.clients):
            self.fail("%s: the sessions of mail are not the journal's", resource)
        if owner.outbox.last_n != max(box.sent, default=0):
            self.fail("%s: the owner's count of what it sent is wrong", resource)
        if owner.cursor < box.cursor:
            self.fail("%s: the owner's cursor is behind the journal's", resource)
        if owner.cursor_of(SUBSCRIPTION) < self._subscribers[resource].last:
            self.fail("%s: the owner's subscription is behind the journal's", resource)

    def on_end_of_all(self, cash: dict[str, int]) -> None:
        """Nothing is under way any more."""
        for uid in self._receipts:
            box = self._boxes[self._sends[uid]]
            if not _is_done(box, box.uids[uid]):
                self.fail("send %s was acknowledged, and has no effect", uid)
        buried: set[str] = set()
        for resource, box in self._boxes.items():
            if box.stashed:
                self.fail("%s: messages put aside that never ran: %s", resource, box.stashed)
            for to, posted in box.sent.values():
                if to == TOPIC:
                    if posted.command.uid not in self._published:
                        self.fail("%s: %s was never published", resource, posted.command.uid)
                    continue
                # Owners died at it three times: it waits in the dead letters.
                if self._boxes[to].skipped.get(_key(posted)) == "tries":
                    buried.add(posted.command.uid.rstrip("<>"))
                elif _key(posted) not in self._boxes[to].applied:
                    self.fail("%s: message %s-%d never arrived at %s", resource, *_key(posted), to)
            silent = set(box.reminders) - box.rung
            if silent:
                self.fail("%s: reminders that never came: %s", resource, silent)
            for posted in box.posted.values():
                if not _is_done(box, posted):
                    self.fail("%s: message %s-%d was never run", resource, *_key(posted))
            read = self._subscribers[resource]
            for sequence, posted in read.posted.items():
                if sequence not in read.gone and not _is_done(read, posted):
                    self.fail("%s: message %d of the topic was never run", resource, sequence)
        lost = set(self._on_its_way) - buried
        if lost:
            self.fail("money is still on its way: %s", lost)
        total = sum(cash.values()) + sum(self._on_its_way.values())
        if total != self._money:
            self.fail("the accounts hold %d, not %d", total, self._money)


def _is_done(box: _Mailbox, posted: Posted) -> bool:
    """Whether a message took effect, was given up, or was closed by its sender."""
    key = _key(posted)
    return key in box.applied or key in box.skipped or box.highest.get(posted.session, 0) > posted.n


def _key(posted: Posted) -> _Key:
    return (posted.session, posted.n)


def _is_client(session: str) -> bool:
    """Whether it is the session of a caller, and not of an actor or of a single message."""
    return not is_actor(session) and session.partition("|")[0].count("-") == 1


def _start(session: str) -> int:
    return int(session.partition("-")[0])
