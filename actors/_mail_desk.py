"""One owner's mail: from its mailbox into its actor, and the replies for whoever asks.

What may run when is decided by `Inbox`, what is a repeat by `Owner` (both sans-I/O). A
message of the mailbox goes through the actor's own mailbox, one among all others. What a
durable subscription reads has a desk of its own, which does the same from another source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from attrs import define, evolve

from aegis.actors._answers import AnswerSink, error_bytes
from aegis.actors._committer import Committer
from aegis.actors._dead_letters import DeadLetter
from aegis.actors._execution import PUT_ASIDE
from aegis.actors._inbox import MAX_TRIES, Inbox, Letter
from aegis.actors._mail import Hopeless, Seen
from aegis.actors._mail_source import MailSource
from aegis.actors._mailbox import Envelope, Mailbox
from aegis.actors._post_office import PostOffice
from aegis.actors._record import MailSkipped, MailStashed
from aegis.actors._registry_entries import ResourceKey
from aegis.actors._stash import put_aside
from aegis.contracts import Kind, Mail, Request
from aegis.errors import (
    ActorDead,
    AegisError,
    HandlerFailed,
    InvalidRequest,
    Moved,
    Overloaded,
    ProtocolError,
    StashFull,
    TooOld,
)
from aegis.transport._base import Stored
from aegis.transport._codec import encode_mail

__all__ = ["RESULT_METHOD", "MailDesk", "Slip"]

RESULT_METHOD: Final = "aegis.result"
"""The query that asks an owner for the reply to a message; no handler has a dot."""

MAX_WAITERS: Final = 4_096
"""The replies of how many messages to one resource may be waited for at a time."""

MAX_ASKERS: Final = 16
"""How many may wait for the same reply; of more, those who came last."""

MAX_REASON_CHARACTERS: Final = 300
MAX_METHOD_CHARACTERS: Final = 100
"""So much of a text that may be anything goes to the dead letters beside the message."""

_MOVED: Final = error_bytes(Moved("a newer owner has taken over; look the resource up again"))


@define(slots=True, eq=False)
class Slip:
    """A message of the mailbox on its way through the actor's own; nobody is answered."""

    desk: MailDesk
    letter: Letter
    mail: Mail | None
    problem: str = ""
    """Why it cannot be read, if ``mail`` is None."""
    came_back: bool = False
    """Whether its handler has put it aside before."""

    def answer(self, status: int, value: bytes) -> None:
        """Do nothing: whoever asks for the reply is answered when it is committed."""


class RunMail(Protocol):
    """Runs a message and commits its effect."""

    async def __call__(self, slip: Slip, mail: Mail, drops: str | None) -> int | AegisError:
        """Return the status of its answer, or why a publication has failed.

        ``drops`` is the session that makes room. `PUT_ASIDE`, and 429 where there was no
        room for that, say that it has had no effect, like an error.
        """
        ...


class MailDesk:
    """The mail of one resource from one source as long as one owner serves it."""

    __slots__ = (
        "_committer",
        "_inbox",
        "_loop",
        "_mailbox",
        "_may_retry",
        "_office",
        "_on_repeat",
        "_purged",
        "_run",
        "_source",
        "_waiters",
        "key",
        "place",
    )

    def __init__(
        self,
        key: ResourceKey,
        source: MailSource,
        office: PostOffice,
        committer: Committer,
        mailbox: Mailbox,
        run: RunMail,
        on_repeat: Callable[[], object],
        may_retry: Callable[[], bool],
    ) -> None:
        self.key = key
        self.place = source.place
        self._source = source
        self._office = office
        self._committer = committer
        self._mailbox = mailbox
        self._run = run
        self._on_repeat = on_repeat
        self._may_retry = may_retry
        self._inbox = Inbox(committer.owner, source.name)
        self._purged = 0
        self._waiters: dict[str, list[tuple[AnswerSink, float]]] | None = None
        self._loop = asyncio.get_running_loop()
        office.feed.add(self)

    def close(self) -> None:
        """Take no more mail; whoever waits for a reply must look elsewhere."""
        self._office.feed.remove(self)
        waiters, self._waiters = self._waiters, None
        for waiting in (waiters or {}).values():
            for sink, _ in waiting:
                sink.answer(Moved.code, _MOVED)

    @property
    def source(self) -> str:
        """The name of the durable subscription that it reads for; empty for the mailbox."""
        return self._source.name

    # -- what the feed shows ----------------------------------------------------------------

    @property
    def mail_from(self) -> int:
        """The sequence from which on messages are wanted."""
        return self._inbox.read_to + 1

    def offer_mail(self, stored: Stored) -> bool:
        """Take a message, if there is room."""
        taken = self._inbox.offer(Letter(stored.sequence, stored.payload, stored.subject))
        self.pump()
        return taken

    def on_kept(self, first: int, last: int) -> None:
        """Begin, if this subscription is new; else see whether anything was missed."""
        owner, inbox = self._committer.owner, self._inbox
        if not owner.serving:
            return
        is_new = self._source.name not in owner.cursors
        # A stream that was deleted and made anew begins to count at 1 again.
        is_other = inbox.read_to > last and not len(inbox)
        if is_new or is_other:
            begin = last if is_new and self._source.begins_with_new else first - 1
            if is_other and not is_new:
                self._tell_gap("the stream was made anew; it is read from its beginning")
            owner.subscribe(self._source.name, begin)
            inbox.read_to = begin
            self._committer.flush_soon()
        else:
            inbox.kept(first)
        self.pump()

    def on_committed(self) -> None:
        """Go on with what had to wait; what the journal knows may be deleted."""
        stored = self._committer.owner.stored_cursor
        if stored > self._purged and not self.source:
            self._purged = stored
            self._office.feed.done(self, stored)
        if not self._inbox.is_idle:
            self.pump()

    def pump(self) -> None:
        """Hand to the actor what may run now."""
        inbox = self._inbox
        while (letter := inbox.next()) is not None:
            slip = Slip(self, letter, None)
            try:
                if not letter.lost_from:
                    slip.mail = self._source.read(letter)
            except (ProtocolError, ValueError) as error:
                slip.problem = str(error)
            request = (
                Request(Kind.COMMAND, "", 0, 0, *self.key, "", {}, 0)
                if slip.mail is None
                else slip.mail.request
            )
            try:
                self._mailbox.put_beyond_capacity(Envelope(request, slip))
            except ActorDead:
                return  # The next owner begins where the cursor is.
        if inbox.should_catch_up:
            inbox.behind = False
            self._office.feed.catch_up(self)

    # -- in a turn of the actor ---------------------------------------------------------------

    async def handle(self, slip: Slip) -> None:
        """Deal with one message: run it, pass it over, or give it up."""
        if slip.desk is not self or not self._committer.owner.serving:
            return  # Of an earlier life.
        ran, came_back = False, slip.came_back
        try:
            ran = await self._handle(slip)
        finally:
            if not came_back:
                self._inbox.ended(ran=ran)
            if not self._inbox.is_idle:
                self.pump()

    async def _handle(self, slip: Slip) -> bool:
        """Return whether the message was run, or given up."""
        owner, sequence = self._committer.owner, slip.letter.sequence
        source = self._source.name
        mail = slip.mail
        if slip.letter.lost_from:
            self._pass_gap(slip.letter)
            return False
        if mail is None:
            await self._give_up(slip, f"it cannot be read: {slip.problem}")
            return True
        request = mail.request
        verdict = owner.admit_mail(
            request.session, request.n, request.low, 0 if source else sequence
        )
        if isinstance(verdict, Seen):
            self._on_repeat()
            owner.pass_over(sequence, source)
            return False
        if isinstance(verdict, Hopeless):
            await self._give_up(slip, verdict.reason, noted=verdict.known, uncertain=True)
            return True
        # One that was put aside may do something else each time it is run.
        careful = noted = self._inbox.is_careful or slip.came_back
        reason = f"owners died at it in each of {MAX_TRIES} tries"
        while True:
            if noted:
                if owner.tries(sequence, source) >= MAX_TRIES:
                    await self._give_up(slip, reason, tries=MAX_TRIES, drops=verdict.drops)
                    return True
                owner.try_mail(sequence, source)
                await self._committer.wait_quiescent()
                if not owner.serving:
                    return False
            status = await self._run(slip, mail, verdict.drops)
            if isinstance(status, int):
                break
            if isinstance(status, InvalidRequest):
                problem = f"it does not fit: {status.message}"
                await self._give_up(slip, problem, drops=verdict.drops)
                return True
            if not noted:
                owner.try_mail(sequence, source)  # The one that has just failed.
            if not self._may_retry():
                return False  # The next life of the actor reads it again.
            noted, reason = True, status.message
        if status in (PUT_ASIDE, StashFull.code) and owner.serving:
            # What the journal keeps already has its place, however full the stash is.
            known = sequence in owner.mail.stash
            has_room = status == PUT_ASIDE and owner.has_stash_room(len(slip.letter.payload))
            if known or has_room:
                self._put_aside(slip, request, noted=known and not careful, drops=verdict.drops)
            else:
                reason = "its handler put it aside, and the stash is full"
                await self._give_up(slip, reason, drops=verdict.drops)
        if careful:
            await self._committer.wait_quiescent()
        return True

    def _put_aside(self, slip: Slip, request: Request, *, noted: bool, drops: str | None) -> None:
        """Keep a message that has had no effect: in memory, and in the journal."""
        owner, sequence = self._committer.owner, slip.letter.sequence
        put_aside()
        slip.came_back = True
        if not noted:
            payload = b"" if sequence in owner.mail.stash else slip.letter.payload
            stashed = MailStashed(sequence, request.session, request.n, request.low, payload)
            owner.put_aside(stashed, drops=drops)
            self._committer.flush_soon()

    def _pass_gap(self, letter: Letter) -> None:
        """Journal and tell that messages are gone that were never read."""
        first, last = letter.lost_from, letter.sequence
        reason = f"the stream let go of {first} to {last} before they were read"
        self._committer.owner.skip(MailSkipped(last, reason, source=self._source.name))
        self._committer.flush_soon()
        self._tell_gap(reason, first=first, last=last)

    def _tell_gap(self, cause: str, **facts: int) -> None:
        service, resource = self.key
        stream, subscription = self.place.stream, self._source.name
        self._office.tell_gap(service, resource, stream, subscription, cause, **facts)

    async def _give_up(
        self,
        slip: Slip,
        reason: str,
        *,
        tries: int = 0,
        noted: bool = True,
        uncertain: bool = False,
        drops: str | None = None,
    ) -> None:
        owner, letter = self._committer.owner, slip.letter
        request = None if slip.mail is None else slip.mail.request
        # A dead letter that is too large for the server would be repeated for ever.
        reason = reason[:MAX_REASON_CHARACTERS]
        await self._office.bury(
            DeadLetter(
                *self.key,
                sequence=letter.sequence,
                reason=reason,
                tries=tries,
                died_ms=self._office.clock.wall_ms(),
                payload=self._kept_payload(slip),
                message_id="" if request is None else request.message_id,
                method="" if request is None else request.method[:MAX_METHOD_CHARACTERS],
                trace="" if request is None else request.trace,
                uncertain=uncertain,
                source=self._source.name,
            )
        )
        if not owner.serving:
            return
        skipped = MailSkipped(letter.sequence, reason, source=self._source.name)
        if request is not None and noted:
            skipped = evolve(skipped, session=request.session, n=request.n, low=request.low)
        owner.skip(skipped, drops=drops)
        if request is not None:
            failed = HandlerFailed(f"the message went to the dead letters: {reason}")
            self.tell(request.message_id, failed.code, error_bytes(failed))
        self._committer.flush_soon()

    def _kept_payload(self, slip: Slip) -> bytes:
        """Return what a replay can send: a publication as the command that it is here."""
        if self._source.name and slip.mail is not None:
            return encode_mail(slip.mail)
        return slip.letter.payload

    # -- replies ----------------------------------------------------------------------------

    def tell(self, message_id: str, status: int, value: bytes) -> None:
        """Answer those who wait for the reply to a message that has committed."""
        if self._waiters:
            for sink, _ in self._waiters.pop(message_id, ()):
                self._committer.hold(sink, status, value)

    def ask(self, request: Request, sink: AnswerSink) -> None:
        """Answer with the reply to a message, as soon as there is one."""
        owner, committer = self._committer.owner, self._committer
        message_id = request.params.get("message_id")
        sequence = request.params.get("sequence")
        if not isinstance(message_id, str) or not isinstance(sequence, int):
            wrong = InvalidRequest("message_id and sequence: must be those of a receipt", field="")
            sink.answer(wrong.code, error_bytes(wrong))
            return
        known = owner.mail.reply_to(message_id)
        if known is not None and known[1] is not None:
            committer.hold(sink, known[0], known[1])
            return
        if known is not None or (
            sequence <= owner.cursor and not owner.mail.is_stashed(message_id)
        ):
            gone = TooOld(
                f"message {message_id} was dealt with, but its reply is not kept: it was too "
                "large, too many came after it, or it went to the dead letters",
                done=known is not None,
            )
            committer.hold(sink, gone.code, error_bytes(gone))
            return
        if self._waiters is None:
            self._waiters = {}
        now = self._loop.time()
        if len(self._waiters) >= MAX_WAITERS:
            for name, waiting in list(self._waiters.items()):
                if all(deadline <= now for _, deadline in waiting):
                    del self._waiters[name]
        if len(self._waiters) >= MAX_WAITERS:
            full = Overloaded(f"{MAX_WAITERS} wait for replies already", limit=MAX_WAITERS)
            sink.answer(full.code, error_bytes(full))
            return
        waiting = self._waiters.setdefault(message_id, [])
        waiting[:] = [one for one in waiting if one[1] > now][-MAX_ASKERS:]
        waiting.append((sink, now + request.remaining_ms / 1000))
