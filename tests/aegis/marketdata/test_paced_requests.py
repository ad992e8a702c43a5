"""Subscriptions on their way to a front."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from aegis.marketdata.adapters._paced_requests import PacedRequests

TIMEOUT = 20.0


class Front:
    """Takes requests, or not; says when it has taken all that was expected."""

    def __init__(self, expected: int, answers: Sequence[int] = ()) -> None:
        self.asked: list[list[str]] = []
        self.taken: list[str] = []
        self.first = threading.Event()
        self.done = threading.Event()
        self._expected = expected
        self._answers = iter(answers)

    def send(self, symbols: Sequence[str]) -> int:
        self.asked.append(list(symbols))
        answer = next(self._answers, 0)
        if not answer:
            self.taken += symbols
            self.first.set()
        if len(self.taken) >= self._expected:
            self.done.set()
        return answer


@contextmanager
def sending(front: Front, size: int = 1) -> Generator[PacedRequests]:
    requests = PacedRequests("test", front.send, size=size, per_second=100_000)
    requests.start()
    try:
        yield requests
    finally:
        requests.stop()


def test_symbols_leave_in_their_order_one_by_one() -> None:
    symbols = [f"s{n}" for n in range(50)]
    front = Front(50)
    with sending(front) as requests:
        requests.add(symbols[:20])
        requests.add(symbols[20:])
        assert front.done.wait(TIMEOUT)
    assert front.asked == [[symbol] for symbol in symbols]


def test_many_leave_together_where_the_front_takes_many() -> None:
    symbols = [f"s{n}" for n in range(25)]
    front = Front(25)
    with sending(front, size=10) as requests:
        requests.add(symbols)
        assert front.done.wait(TIMEOUT)
    assert front.asked == [symbols[:10], symbols[10:20], symbols[20:]]


def test_what_the_library_would_not_take_is_given_to_it_again_before_the_rest() -> None:
    front = Front(3, answers=[0, -2, -3, 0])
    with sending(front) as requests:
        requests.add(["a", "b", "c"])
        assert front.done.wait(TIMEOUT)
    assert front.asked == [["a"], ["b"], ["b"], ["b"], ["c"]]


def test_what_the_library_would_not_take_is_not_sent_in_the_next_session() -> None:
    asked: list[str] = []
    done = threading.Event()

    def send(symbols: Sequence[str]) -> int:
        asked.extend(symbols)
        if symbols == ["a"]:
            requests.clear()  # The session is lost just now.
            requests.add(["b"])
            return -1
        done.set()
        return 0

    requests = PacedRequests("test", send, size=1, per_second=100_000)
    requests.start()
    requests.add(["a", "c"])
    assert done.wait(TIMEOUT)
    requests.stop()
    assert asked == ["a", "b"]


def test_what_belongs_to_a_lost_session_is_not_sent() -> None:
    front = Front(1)
    with sending(front) as requests:
        requests.clear()
        requests.add(["a"])
        assert front.done.wait(TIMEOUT)
    later = PacedRequests("test", front.send, size=1, per_second=100_000)
    later.add(["b", "c"])
    assert len(later) == 2
    later.clear()
    assert len(later) == 0
    assert front.taken == ["a"]


def test_what_waits_already_is_sent_once_however_often_it_is_asked_for() -> None:
    front = Front(3)
    requests = PacedRequests("test", front.send, size=1, per_second=100_000)
    requests.add(["a", "b"])
    requests.add(["a", "b", "c"])
    assert len(requests) == 3
    requests.start()
    assert front.done.wait(TIMEOUT)
    requests.stop()
    assert front.asked == [["a"], ["b"], ["c"]]


def test_what_was_sent_can_be_asked_for_again() -> None:
    front = Front(2)
    with sending(front) as requests:
        requests.add(["a"])
        assert front.first.wait(TIMEOUT)
        requests.add(["a"])
        assert front.done.wait(TIMEOUT)
    assert front.asked == [["a"], ["a"]]


def test_what_is_wanted_no_more_is_not_sent() -> None:
    front = Front(2)
    requests = PacedRequests("test", front.send, size=1, per_second=100_000)
    requests.add(["a", "b", "c"])
    requests.drop(["b"])
    requests.start()
    assert front.done.wait(TIMEOUT)
    requests.stop()
    assert front.asked == [["a"], ["c"]]


def test_a_request_that_fails_does_not_end_those_behind_it() -> None:
    taken: list[str] = []
    done = threading.Event()

    def send(symbols: Sequence[str]) -> int:
        if symbols == ["a"]:
            raise RuntimeError("no such connection")
        taken.extend(symbols)
        done.set()
        return 0

    requests = PacedRequests("test", send, size=1, per_second=100_000)
    requests.start()
    requests.add(["a", "b"])
    assert done.wait(TIMEOUT)
    requests.stop()
    assert taken == ["b"]
