"""Messages that cannot be processed: given up by a note in the journal, kept, replayed."""

from __future__ import annotations

import pytest

from aegis import AegisActor, Conflict, NotFound, TooOld, command, query
from aegis._dead_letter_office import DeadLetterOffice
from aegis.actors._inbox import MAX_TRIES
from aegis.actors._record import MailSkipped, MailTried
from aegis.actors._sessions import MAX_SESSIONS
from aegis.contracts import Kind, Mail, Request
from aegis.transport import Append, Appended
from aegis.transport._codec import encode_mail
from tests.support.mail_services import Book, BookState
from tests.support.poll import wait_until
from tests.support.services import Gate
from tests.support.system import System, on_both


def office_of(system: System) -> DeadLetterOffice:
    cluster = system.cluster
    return DeadLetterOffice(cluster.transport, cluster.subjects, cluster.sender)


def fragile(gate: Gate) -> type[AegisActor]:
    """Return a service that hangs at one of its messages until the gate is open."""

    class Fragile(AegisActor):
        service = "fragile"
        state: BookState

        @command
        async def note(self, line: str) -> int:
            if line == "poison" and not gate.opened.is_set():
                await gate.pass_through()
            self.state.lines.append(line)
            return len(self.state.lines)

        @query
        async def lines(self) -> list[str]:
            return self.state.lines

    return Fragile


@on_both
async def test_a_message_at_which_owners_die_is_given_up_after_its_tries(system: System) -> None:
    lines = ["a", "poison", "b"]
    await system.start_node()
    receipts = [await system.cluster.send("fragile/F-1", "note", {"line": line}) for line in lines]
    for _ in range(MAX_TRIES):
        gate = Gate()
        node = await system.start_node((fragile(gate), ["F-1"]), instance_id="f")
        await gate.entered.wait()
        await system.kill_node(node)
    gate = Gate()
    await system.start_node((fragile(gate), ["F-1"]), instance_id="f")
    assert await system.cluster.result(receipts[2]) == 2
    assert await system.cluster.call("fragile", "lines", resource_id="F-1") == ["a", "b"]
    assert not gate.entered.is_set()
    entries = [
        entry
        for _, record in await system.records("fragile", "F-1")
        for entry in record.entries or ()
    ]
    tries = [e.sequence for e in entries if isinstance(e, MailTried)]
    assert tries.count(receipts[1].sequence) == MAX_TRIES
    assert [e.sequence for e in entries if isinstance(e, MailSkipped)] == [receipts[1].sequence]

    (letter,) = await office_of(system).all("fragile/F-1")
    assert (letter.sequence, letter.message_id) == (receipts[1].sequence, receipts[1].message_id)
    assert (letter.method, letter.tries, letter.uncertain) == ("note", MAX_TRIES, False)
    with pytest.raises(TooOld):
        await system.cluster.result(receipts[1])
    gate.opened.set()
    again = await office_of(system).replay(letter.sequence, timeout=10)
    assert await system.cluster.result(again) == 3
    assert await office_of(system).all() == []
    with pytest.raises(NotFound):
        await office_of(system).replay(letter.sequence, timeout=10)


@on_both
async def test_what_nobody_can_read_is_given_up_at_once(system: System) -> None:
    await system.start_node((Book, ["B-1"]))
    subject = system.subjects.mailbox("book", "B-1")
    strange = Request(Kind.COMMAND, "1-a", 1, 1, "book", "B-2", "note", {"line": "x"}, 0)
    asked = Request(Kind.QUERY, "1-a", 1, 1, "book", "B-1", "lines", {}, 0)
    for payload in (b"\xc1", b"", encode_mail(Mail(strange)), encode_mail(Mail(asked))):
        outcome = await system.transport.append(Append(subject, payload), timeout=10)
        assert isinstance(outcome, Appended)
    receipt = await system.cluster.send("book/B-1", "note", {"line": "a"})
    assert await system.cluster.result(receipt) == 1
    letters = await office_of(system).all("book")
    assert len(letters) == 4
    assert all("cannot be read" in letter.reason for letter in letters)
    assert (await office_of(system).drop(letters[0].sequence)).payload == b"\xc1"
    assert len(await office_of(system).all()) == 3


@on_both
async def test_mail_of_a_forgotten_session_is_kept_as_what_may_be_a_repeat(system: System) -> None:
    await system.start_node((Book, ["B-1"]))
    subject = system.subjects.mailbox("book", "B-1")
    floor = system.clock.wall_ms() - 10_000
    for number in range(MAX_SESSIONS + 1):
        mail = Request(
            Kind.COMMAND,
            f"{floor + number}-{number}",
            1,
            1,
            "book",
            "B-1",
            "tell_id",
            {},
            0,
        )
        await system.transport.append(Append(subject, encode_mail(Mail(mail))), timeout=10)
    behind = await system.cluster.send("book/B-1", "note", {"line": "a"})
    assert await system.cluster.result(behind) == 1
    old = Request(Kind.COMMAND, f"{floor}-0", 2, 2, "book", "B-1", "note", {"line": "old"}, 0)
    await system.transport.append(Append(subject, encode_mail(Mail(old))), timeout=10)

    async def is_buried() -> bool:
        return bool(await office_of(system).all())

    await wait_until(is_buried, what="the message is given up")
    (letter,) = await office_of(system).all()
    assert letter.uncertain
    assert "may have been forgotten" in letter.reason
    with pytest.raises(Conflict, match="may be a repeat"):
        await office_of(system).replay(letter.sequence, timeout=10)
    forced = await office_of(system).replay(letter.sequence, force=True, timeout=10)
    assert await system.cluster.result(forced) == 2
