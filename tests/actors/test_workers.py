from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest

from aegis.actors._future import AegisFuture
from aegis.actors._workers import Workers, call_soon
from aegis.errors import AegisError
from tests.support.poll import wait_until

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture
def workers() -> Iterator[Workers]:
    pool = Workers(2)
    yield pool
    assert pool.close(timeout=10) == 0
    assert pool.thread_count == 0


async def test_blocking_code_runs_in_another_thread_and_returns_its_value(
    workers: Workers,
) -> None:
    def work(x: int) -> tuple[int, int]:
        return x + 1, threading.get_ident()

    value, thread = await workers.run(work, 1)
    assert value == 2
    assert thread != threading.get_ident()


async def test_context_variables_reach_the_thread_and_do_not_come_back(workers: Workers) -> None:
    def work() -> str:
        seen = colour.get()
        colour.set("thread")
        return seen

    colour.set("loop")
    assert await workers.run(work) == "loop"
    assert colour.get() == "loop"


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), StopIteration(1)]
)
async def test_whatever_is_raised_in_the_thread_is_raised_in_the_caller(
    workers: Workers, error: BaseException
) -> None:
    def work() -> None:
        raise error

    caught: BaseException | None = None
    try:
        await workers.run(work)
    except RuntimeError as wrapped:
        caught = wrapped.__cause__  # What a coroutine makes of a StopIteration.
    except BaseException as raised:
        caught = raised
    assert caught is error
    assert await workers.run(int) == 0  # The thread lives on.


async def test_no_more_threads_run_than_the_pool_allows(workers: Workers) -> None:
    gate = threading.Event()
    running: list[int] = []

    def work() -> None:
        running.append(1)
        gate.wait(10)
        running.pop()

    jobs = [asyncio.ensure_future(workers.run(work)) for _ in range(5)]
    await wait_until(lambda: len(running) == 2, what="two jobs run")
    assert workers.thread_count == 2
    gate.set()
    await asyncio.gather(*jobs)


async def test_a_cancelled_call_that_has_not_begun_never_begins(workers: Workers) -> None:
    gate = threading.Event()
    began: list[int] = []
    blockers = [asyncio.ensure_future(workers.run(gate.wait, 10)) for _ in range(2)]
    await asyncio.sleep(0)
    late = asyncio.ensure_future(workers.run(began.append, 1))
    await asyncio.sleep(0)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    gate.set()
    await asyncio.gather(*blockers)
    await workers.run(int)
    assert late.cancelled()
    assert began == []


async def test_a_thread_that_waits_for_an_answer_makes_room_for_another(
    workers: Workers,
) -> None:
    # Two threads, both waiting for what only a third can bring.
    answer: AegisFuture[int] = AegisFuture()
    waiting = [asyncio.ensure_future(workers.run(lambda: answer.get(timeout=10))) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await workers.run(answer.set, 6)
        assert await asyncio.gather(*waiting) == [6, 6]


async def test_a_closed_pool_refuses_and_finishes_what_it_has() -> None:
    pool = Workers(1)
    gate = threading.Event()
    job = asyncio.ensure_future(pool.run(gate.wait, 10))
    await asyncio.sleep(0)
    pool.close()
    with pytest.raises(AegisError, match="closed"):
        await pool.run(int)
    gate.set()
    assert await job


async def test_a_callback_may_come_from_any_thread_and_a_closed_loop_is_told() -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    thread = threading.Thread(target=call_soon, args=(loop, done.set))
    thread.start()
    async with asyncio.timeout(10):
        await done.wait()
    thread.join()
    closed = asyncio.new_event_loop()
    closed.close()
    assert not call_soon(closed, done.set)


def test_a_pool_without_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Workers(0)


async def test_a_pool_lives_on_when_the_system_has_no_thread_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers, ran = Workers(max_threads=2), list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for number in range(3):
            with pytest.raises(RuntimeError, match="new thread"):
                await workers.run(ran.append, number)
    async with asyncio.timeout(10):
        await workers.run(ran.append, 3)
    assert ran == [3]
    workers.close()
