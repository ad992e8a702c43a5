"""A bounded mailbox: put from any thread, emptied by one actor on its event loop."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from aegis.actors._answers import AnswerSink
from aegis.errors import ActorDead, MailboxFull

if TYPE_CHECKING:
    import asyncio

    from aegis.actors._cell import ActorCell
    from aegis.actors._future import AegisFuture

__all__ = ["DEFAULT_MAILBOX_CAPACITY", "Envelope", "Mailbox", "MailboxOwner", "current_envelope"]

DEFAULT_MAILBOX_CAPACITY: Final = 1024
"""How many messages wait in a mailbox unless the actor's class says otherwise."""


class Envelope:
    """A message, where its answer goes, and how long it is worth handling.

    ``reply_to`` takes the answer: a sink for a `Request`, a future for any other
    message, None for a tell. ``deadline`` is a time of the actor's event loop.
    """

    __slots__ = (
        "aside",
        "deadline",
        "finished",
        "message",
        "owner",
        "published",
        "reply_to",
        "task",
        "withdrawn",
    )

    def __init__(
        self,
        message: Any,
        reply_to: AegisFuture[Any] | AnswerSink | None = None,
        deadline: float | None = None,
    ) -> None:
        self.message = message
        self.reply_to = reply_to
        self.deadline = deadline
        self.owner: ActorCell | None = None
        """The cell that handles the message, from then on."""
        self.task: asyncio.Task[None] | None = None
        """The task that handles the message, once it had to wait for something."""
        self.finished = False
        self.published: list[AnswerSink] | None = None
        """What the command has published: it leaves when the command has happened."""
        self.withdrawn = False
        """Whether its sender gave up waiting: its handler is cancelled."""
        self.aside = False
        """Whether its handler has put it aside, and so has had no effect."""

    def __repr__(self) -> str:
        return f"Envelope({self.message!r}, reply_to={self.reply_to!r})"


current_envelope: Final[contextvars.ContextVar[Envelope | None]] = contextvars.ContextVar(
    "aegis_current_envelope", default=None
)
"""What the running handler handles. A task that outlives it sees ``finished``."""


class MailboxOwner(Protocol):
    """Whoever empties the mailbox."""

    def wake(self) -> None:
        """Begin to take messages. Called in the thread that put one, without a lock."""
        ...


class Mailbox:
    """Messages in the order in which they came, behind a small lane for control.

    A mailbox starts *held*: messages are taken in, its owner is not woken. From the
    first `get_nowait` that finds nothing on, the next message wakes it again, once.
    Closing is atomic: a message is either taken in before and handed to whoever
    closes, or refused. An empty mailbox holds no queue.
    """

    __slots__ = (
        "_busy",
        "_closed",
        "_control",
        "_emptied",
        "_lock",
        "_mail",
        "address",
        "capacity",
        "owner",
    )

    def __init__(
        self,
        address: str = "",
        capacity: int = DEFAULT_MAILBOX_CAPACITY,
        owner: MailboxOwner | None = None,
    ) -> None:
        self.address = address
        self.capacity = capacity
        self.owner = owner
        # An RLock: a finalizer that runs inside of the guarded lines may tell the
        # same actor something.
        self._lock = threading.RLock()
        self._mail: deque[Envelope] | None = None
        self._control: deque[Envelope] | None = None
        self._closed = False
        self._emptied = False
        self._busy = True

    def __len__(self) -> int:
        """Return how many messages wait, those of the control lane left out."""
        mail = self._mail
        return 0 if mail is None else len(mail)

    def empty(self) -> bool:
        """Whether nothing waits in either lane."""
        return not self._mail and not self._control

    @property
    def idle(self) -> bool:
        """Whether its owner waits to be woken by the next message."""
        return not self._busy

    @property
    def closed(self) -> bool:
        """Whether messages are refused."""
        return self._closed

    def put(self, envelope: Envelope, /) -> None:
        """Take a message in.

        Raises:
            ActorDead: the mailbox is closed.
            MailboxFull: ``capacity`` messages wait already.
        """
        with self._lock:
            if self._closed:
                raise self._dead()
            mail = self._mail
            if mail is None:
                mail = self._mail = deque()
            elif len(mail) >= self.capacity:
                raise MailboxFull(
                    f"{self.address}: the mailbox holds its {self.capacity} messages",
                    address=self.address,
                    capacity=self.capacity,
                )
            mail.append(envelope)
            if self._busy:
                return
            self._busy = True
        if self.owner is not None:
            self.owner.wake()

    def put_control(self, envelope: Envelope) -> None:
        """Take in a message that passes ahead of all others, whatever the capacity.

        The lane holds what the runtime asks for alone: stops, and turns between two
        messages. Of those an actor gets few.

        Raises:
            ActorDead: the mailbox is closed, and what waited in it was handed out.
        """
        with self._lock:
            if self._emptied:
                raise self._dead()
            if self._control is None:
                self._control = deque()
            self._control.append(envelope)
            if self._busy:
                return
            self._busy = True
        if self.owner is not None:
            self.owner.wake()

    def put_beyond_capacity(self, envelope: Envelope, *, last: bool = False) -> None:
        """Take in a message in its turn, even if the mailbox is full.

        For what the runtime itself sends and bounds in number. With ``last`` the
        mailbox closes behind it.

        Raises:
            ActorDead: the mailbox is closed.
        """
        with self._lock:
            if self._closed:
                raise self._dead()
            self._closed = last
            if self._mail is None:
                self._mail = deque()
            self._mail.append(envelope)
            if self._busy:
                return
            self._busy = True
        if self.owner is not None:
            self.owner.wake()

    def put_back(self, envelopes: list[Envelope]) -> None:
        """Take messages in again, in their order, ahead of those that wait.

        Raises:
            ActorDead: the mailbox is closed, and what waited in it was handed out.
        """
        with self._lock:
            if self._emptied:
                raise self._dead()
            if self._mail is None:
                self._mail = deque()
            self._mail.extendleft(reversed(envelopes))
            if self._busy:
                return
            self._busy = True
        if self.owner is not None:
            self.owner.wake()

    def get_nowait(self) -> Envelope | None:
        """Take the next message out; None ends the owner's turn until it is woken."""
        with self._lock:
            if self._control:
                return self._control.popleft()
            if self._mail:
                return self._mail.popleft()
            self._control = self._mail = None
            self._busy = False
            return None

    def get(self) -> Envelope:
        """Take the next message out, as Pykka's inboxes do, but never wait for one.

        Raises:
            queue.Empty: there is none.
        """
        envelope = self.get_nowait()
        if envelope is None:
            raise queue.Empty
        return envelope

    def waiting(self) -> list[Envelope]:
        """Return the messages that wait; they stay where they are."""
        with self._lock:
            return list(self._mail or ())

    def close(self) -> list[Envelope]:
        """Refuse messages from now on and return those that waited."""
        with self._lock:
            self._closed = self._emptied = True
            waiting = [*(self._control or ()), *(self._mail or ())]
            self._control = self._mail = None
            return waiting

    def reopen(self) -> None:
        """Take messages in again, for an actor that is started anew; held at first."""
        with self._lock:
            self._closed = self._emptied = False
            self._busy = True

    def _dead(self) -> ActorDead:
        return ActorDead(f"{self.address}: the actor has stopped", address=self.address)
