from __future__ import annotations

import asyncio
import queue
import threading

import pykka
import pytest

from aegis.actors._future import AegisFuture


async def test_an_await_returns_the_value_that_was_set_before() -> None:
    future: AegisFuture[int] = AegisFuture()
    future.set(3)
    assert await future == 3
    assert await future == 3


async def test_an_await_wakes_when_the_value_is_set_on_the_same_loop() -> None:
    future: AegisFuture[int] = AegisFuture()
    asyncio.get_running_loop().call_soon(future.set, 3)
    assert await future == 3


async def test_an_await_wakes_when_another_thread_sets_the_value() -> None:
    future: AegisFuture[int] = AegisFuture()
    thread = threading.Thread(target=future.set, args=(3,))
    asyncio.get_running_loop().call_soon(thread.start)
    async with asyncio.timeout(10):
        assert await future == 3
    thread.join()


async def test_an_exception_reaches_every_waiter_and_its_traceback_does_not_grow() -> None:
    future: AegisFuture[int] = AegisFuture()
    try:
        raise ValueError("no")
    except ValueError:
        future.set_exception()
    lengths: list[int] = []
    for _ in range(3):
        with pytest.raises(ValueError, match="no") as caught:
            await future
        lengths.append(len(caught.traceback))
    assert lengths[0] == lengths[2]


async def test_several_loops_may_await_the_same_future() -> None:
    future: AegisFuture[int] = AegisFuture()
    waiting = threading.Event()
    results: list[int] = []

    async def elsewhere() -> None:
        asyncio.get_running_loop().call_soon(waiting.set)
        results.append(await future)

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    assert await asyncio.to_thread(waiting.wait, 10)
    future.set(5)
    await asyncio.to_thread(thread.join, 10)
    assert results == [5]
    assert await future == 5


async def test_cancelling_one_waiter_leaves_the_others_and_the_future_alone() -> None:
    future: AegisFuture[int] = AegisFuture()

    async def wait() -> int:
        return await future

    first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    future.set(7)
    assert await second == 7


async def test_setting_a_future_whose_waiting_loop_has_closed_does_no_harm() -> None:
    future: AegisFuture[int] = AegisFuture()

    def wait_and_give_up() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(asyncio.wait_for(_wait(future), timeout=None))
        loop.run_until_complete(asyncio.wait([task], timeout=0))
        loop.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    await asyncio.to_thread(wait_and_give_up)
    future.set(1)
    assert await future == 1


async def _wait(future: AegisFuture[int]) -> int:
    return await future


def test_a_second_value_is_refused_as_pykka_refuses_it() -> None:
    future: AegisFuture[int] = AegisFuture()
    future.set(1)
    with pytest.raises(queue.Full):
        future.set(2)
    with pytest.raises(queue.Full):
        future.set_exception(ValueError())
    with pytest.raises(queue.Full):
        future.set_get_hook(lambda _: 3)
    assert not future.try_set(2)
    assert future.get() == 1


def test_one_of_many_racing_setters_wins() -> None:
    for _ in range(50):
        future: AegisFuture[int] = AegisFuture()
        barrier = threading.Barrier(4)
        won: list[int] = []

        def set_it(
            number: int,
            future: AegisFuture[int] = future,
            barrier: threading.Barrier = barrier,
            won: list[int] = won,
        ) -> None:
            barrier.wait(10)
            if future.try_set(number):
                won.append(number)

        threads = [threading.Thread(target=set_it, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert won == [future.get(timeout=1)]


def test_get_in_a_thread_waits_for_the_value() -> None:
    future: AegisFuture[int] = AegisFuture()
    thread = threading.Thread(target=future.set, args=(4,))
    thread.start()
    assert future.get(timeout=10) == 4
    thread.join()


def test_get_with_a_timeout_raises_pykkas_timeout() -> None:
    with pytest.raises(pykka.Timeout):
        AegisFuture().get(timeout=0.001)


async def test_get_on_the_loop_that_must_run_the_actor_raises_instead_of_blocking() -> None:
    future: AegisFuture[int] = AegisFuture()
    with pytest.raises(RuntimeError, match="await the future"):
        future.get()
    future.home_loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="await the future"):
        future.get()


async def test_a_get_hook_makes_the_value_once_for_get_and_for_await() -> None:
    calls: list[float | None] = []

    def hook(timeout: float | None) -> int:
        calls.append(timeout)
        return 9

    future: AegisFuture[int] = AegisFuture()
    future.set_get_hook(hook)
    assert await future == 9
    assert future.get(timeout=2) == 9
    assert calls == [None]


async def test_a_get_hook_that_blocks_does_not_block_the_loop_that_awaits_it() -> None:
    released = threading.Event()
    future: AegisFuture[bool] = AegisFuture()
    future.set_get_hook(lambda _: released.wait(10))
    asyncio.get_running_loop().call_soon(released.set)
    assert await future


async def test_a_get_hook_set_later_wakes_those_who_wait_already() -> None:
    future: AegisFuture[int] = AegisFuture()
    waiting = asyncio.ensure_future(_wait(future))
    await asyncio.sleep(0)
    future.set_get_hook(lambda _: 2)
    async with asyncio.timeout(10):
        assert await waiting == 2


async def test_derived_futures_can_be_awaited_on_the_loop() -> None:
    one: AegisFuture[list[int]] = AegisFuture()
    two: AegisFuture[int] = AegisFuture()
    doubled = one.map(lambda items: [2 * item for item in items])
    odd = one.filter(lambda item: item % 2 == 1)
    total = one.reduce(lambda x, y: x + y, 0)
    joined = two.join(one)
    asyncio.get_running_loop().call_soon(one.set, [1, 2, 3])
    asyncio.get_running_loop().call_soon(two.set, 5)
    assert await doubled == [2, 4, 6]
    assert await odd == [1, 3]
    assert await total == 6
    assert await joined == [5, [1, 2, 3]]


def test_derived_futures_work_in_threads_as_pykkas_do() -> None:
    one: AegisFuture[int] = AegisFuture()
    mapped = one.map(lambda value: value + 1)
    one.set(1)
    assert mapped.get() == 2
    assert one.join(mapped).get(timeout=1) == [1, 2]


def test_done_callbacks_run_once_each_and_a_failing_one_harms_nobody() -> None:
    seen: list[int] = []
    future: AegisFuture[int] = AegisFuture()

    def fail(_: AegisFuture[int]) -> None:
        raise ValueError

    future.add_done_callback(fail)
    future.add_done_callback(lambda done: seen.append(done.get()))
    future.set(1)
    future.add_done_callback(lambda done: seen.append(done.get() + 1))
    assert seen == [1, 2]


def test_a_future_needs_no_arguments_and_is_pykkas() -> None:
    assert isinstance(AegisFuture(), pykka.Future)
    assert pykka.get_all([]) == []
