"""The promises of durable sends: what is acknowledged takes effect, in its order, or is kept.

It sees each message at the moment it is in a mailbox, each entry at the moment it is in a
journal, and keeps its own books of both.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field

from aegis.actors._dead_letters import DeadLetter
from aegis.actors._record import CommandEntry, Record
from aegis.transport import Stored
from aegis.transport._codec import decode_mail
from tests.simulation.system._world import World

__all__ = ["MailChecker"]

type _Key = tuple[str, str]


@define
class _Mailbox:
    """The mail of one resource, and what became of it."""

    ahead: deque[tuple[int, str, int, str]] = field(factory=deque[tuple[int, str, int, str]])
    """Place, session, number and uid of what the journal's cursor has not passed yet."""
    highest: dict[str, int] = field(factory=dict[str, int])
    """The highest number of each session that has taken effect."""
    last: int = 0
    """The place of the last message that has taken effect."""


class MailChecker:
    """Notes in the world, as a violation, whatever is not as promised."""

    def __init__(self, world: World, resources: list[_Key]) -> None:
        self._world = world
        self._boxes = {key: _Mailbox() for key in resources}
        self._keys = {world.subjects.mailbox(*key): key for key in resources}
        self._done: set[str] = set()
        """What has taken effect, or was given up, by its uid."""
        self._acknowledged: dict[str, _Key] = {}

    def on_stored(self, stored: Stored) -> None:
        """A message is in a mailbox, or in the dead letters."""
        key = self._keys.get(stored.subject)
        if key is None:
            if ".deadletter." in stored.subject:
                letter = DeadLetter.decode(stored.payload)
                self._world.note("dead letter: %s: %s", letter.message_id, letter.reason)
                self._world.count("send: dead letter")
                self._done.add(_uid(letter.payload)[2])
            return
        self._boxes[key].ahead.append((stored.sequence, *_uid(stored.payload)))
        self._world.count("send: posted")

    def on_acknowledged(self, uid: str, key: _Key) -> None:
        """The sender has a receipt."""
        self._acknowledged[uid] = key

    def on_entry(self, key: _Key, entry: CommandEntry) -> None:
        """The effect of a message is in the journal."""
        box, name = self._boxes[key], "/".join(key)
        if entry.mail <= box.last:
            self._world.fail(
                "%s: message %d of the mailbox came after %d", name, entry.mail, box.last
            )
        if entry.n <= box.highest.get(entry.session, 0):
            self._world.fail("%s: message %s-%d is out of order", name, entry.session, entry.n)
        box.last, box.highest[entry.session] = entry.mail, entry.n
        self._world.count("send: took effect")

    def on_record(self, key: _Key, record: Record, done: set[str]) -> None:
        """A record with this cursor is in the journal; ``done`` has had its effect by now."""
        box = self._boxes[key]
        self._done |= done
        while box.ahead and box.ahead[0][0] <= record.cursor:
            sequence, session, n, uid = box.ahead.popleft()
            # One that its sender gave up may come behind its successors: it is closed then.
            if uid not in self._done and box.highest.get(session, 0) < n:
                self._world.fail("%s: message %d, %s, was left out", "/".join(key), sequence, uid)

    def waiting(self) -> str:
        """Return a send that was acknowledged and has had no effect yet, if there is one."""
        for uid, key in self._acknowledged.items():
            if uid not in self._done:
                return f"send {uid} to {'/'.join(key)} was acknowledged, and has no effect"
        return ""


def _uid(payload: bytes) -> tuple[str, int, str]:
    request = decode_mail(payload).request
    return request.session, request.n, str(request.params["asked"]["uid"])
