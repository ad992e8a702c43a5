from __future__ import annotations

import queue
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.actors._mailbox import Envelope, Mailbox
from aegis.errors import ActorDead, MailboxFull


class Owner:
    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def mailbox(capacity: int = 10, owner: Owner | None = None) -> Mailbox:
    return Mailbox("/services/a/b/c", capacity, owner)


def taken(box: Mailbox) -> list[object]:
    messages: list[object] = []
    while (envelope := box.get_nowait()) is not None:
        messages.append(envelope.message)
    return messages


def test_messages_come_out_in_the_order_in_which_they_went_in() -> None:
    box = mailbox()
    for number in range(5):
        box.put(Envelope(number))
    assert len(box) == 5
    assert taken(box) == [0, 1, 2, 3, 4]


def test_control_passes_ahead_of_all_that_waits() -> None:
    box = mailbox()
    box.put(Envelope("mail"))
    box.put_control(Envelope("stop"))
    box.put(Envelope("more"))
    assert taken(box) == ["stop", "mail", "more"]


def test_what_is_put_back_comes_first_in_its_order_but_not_before_control() -> None:
    owner = Owner()
    box = mailbox(capacity=2, owner=owner)
    assert taken(box) == []
    box.put(Envelope("c"))
    box.put(Envelope("d"))
    box.put_back([Envelope("a"), Envelope("b")])
    box.put_control(Envelope("stop"))
    assert taken(box) == ["stop", "a", "b", "c", "d"]
    assert owner.woken == 1
    box.put_back([Envelope("e")])
    assert owner.woken == 2
    box.close()
    with pytest.raises(ActorDead):
        box.put_back([Envelope("f")])


def test_a_full_mailbox_refuses_and_names_address_and_capacity() -> None:
    box = mailbox(capacity=2)
    box.put(Envelope(1))
    box.put(Envelope(2))
    with pytest.raises(MailboxFull) as caught:
        box.put(Envelope(3))
    assert caught.value.facts == {"address": "/services/a/b/c", "capacity": 2}
    assert "/services/a/b/c" in str(caught.value)
    assert "2" in str(caught.value)
    assert taken(box) == [1, 2]


def test_what_the_runtime_sends_gets_into_a_full_mailbox() -> None:
    box = mailbox(capacity=1)
    box.put(Envelope(1))
    box.put_beyond_capacity(Envelope("terminated"))
    box.put_control(Envelope("stop"))
    assert taken(box) == ["stop", 1, "terminated"]


def test_a_closed_mailbox_refuses_everything_and_hands_out_what_waited() -> None:
    box = mailbox()
    box.put(Envelope(1))
    box.put_control(Envelope("stop"))
    assert [envelope.message for envelope in box.close()] == ["stop", 1]
    for put in (box.put, box.put_control, box.put_beyond_capacity):
        with pytest.raises(ActorDead):
            put(Envelope(2))
    assert box.close() == []
    assert box.empty()


def test_after_the_last_message_mail_is_refused_but_control_still_passes() -> None:
    box = mailbox()
    box.put(Envelope(1))
    box.put_beyond_capacity(Envelope("last"), last=True)
    with pytest.raises(ActorDead):
        box.put(Envelope(2))
    box.put_control(Envelope("now"))
    assert taken(box) == ["now", 1, "last"]


def test_the_owner_is_woken_once_for_each_time_it_found_nothing() -> None:
    owner = Owner()
    box = mailbox(owner=owner)
    box.put(Envelope(1))
    assert owner.woken == 0  # It is held until its owner asks for the first time.
    assert taken(box) == [1]
    box.put(Envelope(2))
    box.put(Envelope(3))
    assert owner.woken == 1
    assert taken(box) == [2, 3]
    box.put_control(Envelope(4))
    assert owner.woken == 2


def test_an_idle_mailbox_holds_no_queue() -> None:
    box = mailbox()
    box.put(Envelope(1))
    taken(box)
    assert box._mail is None
    assert box._control is None


def test_a_reopened_mailbox_keeps_what_waits_and_takes_more() -> None:
    box = mailbox()
    box.put(Envelope(1))
    box.put_beyond_capacity(Envelope("last"), last=True)
    box.reopen()
    box.put(Envelope(2))
    assert taken(box) == [1, "last", 2]


def test_get_works_as_in_pykka_but_never_blocks() -> None:
    box = mailbox()
    box.put(Envelope(1))
    assert box.get().message == 1
    with pytest.raises(queue.Empty):
        box.get()


@pytest.mark.timeout(60)
def test_every_message_is_either_handed_out_or_refused_when_threads_race_a_close() -> None:
    for _ in range(100):
        box = mailbox(capacity=10_000)
        barrier = threading.Barrier(4)
        refused: list[int] = []

        def put(
            start: int,
            box: Mailbox = box,
            barrier: threading.Barrier = barrier,
            refused: list[int] = refused,
        ) -> None:
            barrier.wait(10)
            for number in range(start, start + 50):
                try:
                    box.put(Envelope(number))
                except ActorDead:
                    refused.append(number)

        threads = [threading.Thread(target=put, args=(100 * n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        barrier.wait(10)
        taken_before = [e.message for _ in range(20) if (e := box.get_nowait()) is not None]
        closed = [envelope.message for envelope in box.close()]
        for thread in threads:
            thread.join(10)
        assert sorted(taken_before + closed + refused) == sorted(
            n for start in (0, 100, 200) for n in range(start, start + 50)
        )
        assert box.empty()


@given(st.lists(st.sampled_from(["mail", "control", "get", "close", "reopen"]), max_size=40))
def test_a_mailbox_is_two_queues_and_a_gate(steps: list[str]) -> None:
    box = mailbox(capacity=3)
    mail: list[int] = []
    control: list[int] = []
    closed = False
    for number, step in enumerate(steps):
        if step == "mail":
            if closed:
                with pytest.raises(ActorDead):
                    box.put(Envelope(number))
            elif len(mail) == 3:
                with pytest.raises(MailboxFull):
                    box.put(Envelope(number))
            else:
                box.put(Envelope(number))
                mail.append(number)
        elif step == "control":
            if closed:
                with pytest.raises(ActorDead):
                    box.put_control(Envelope(number))
            else:
                box.put_control(Envelope(number))
                control.append(number)
        elif step == "get":
            envelope = box.get_nowait()
            expected = control.pop(0) if control else mail.pop(0) if mail else None
            assert (None if envelope is None else envelope.message) == expected
        elif step == "close":
            assert [e.message for e in box.close()] == control + mail
            mail, control, closed = [], [], True
        else:
            box.reopen()
            closed = False
        assert len(box) == len(mail)
        assert box.empty() == (not mail and not control)
