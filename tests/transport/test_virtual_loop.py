"""Time that jumps: nothing waits in reality but for real work."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from aegis.transport import Deadlock, MemoryBroker, MemoryTransport, VirtualClock, VirtualTimeLoop
from aegis.transport import _virtual_loop as virtual_loop
from tests.support.virtual import pass_time


def real_work(seconds: float) -> None:
    """Take real time, in a thread."""
    threading.Event().wait(seconds)


def test_a_day_passes_in_no_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await pass_time(86_400)
        return loop.time() - start

    began = time.monotonic()
    assert virtual_loop.run(main()) == pytest.approx(86_400)
    assert time.monotonic() - began < 5


def test_timers_fire_in_their_order_and_at_their_times() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        seen: list[tuple[str, float]] = []

        async def wait(name: str, seconds: float) -> None:
            await pass_time(seconds)
            seen.append((name, round(loop.time() - start, 6)))

        await asyncio.gather(wait("c", 3), wait("a", 0.001), wait("b", 2.5))
        return seen

    assert virtual_loop.run(main()) == [("a", 0.001), ("b", 2.5), ("c", 3.0)]


def test_timeouts_are_virtual_too() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()

    virtual_loop.run(main())


def test_no_timer_passes_while_a_thread_of_the_executor_works() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()

        def slow() -> str:
            real_work(0.05)
            return "done"

        work = loop.run_in_executor(None, slow)
        async with asyncio.timeout(0.001):
            return await work

    assert virtual_loop.run(main()) == "done"


def test_no_timer_passes_while_outside_work_is_announced() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        done = asyncio.Event()

        def work() -> None:
            real_work(0.05)
            loop.call_soon_threadsafe(done.set)

        thread = threading.Thread(target=work)
        with loop.outside_work():
            thread.start()
            async with asyncio.timeout(0.001):
                await done.wait()
        thread.join()

    virtual_loop.run(main())


def test_work_in_threads_and_long_timers_mix() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for _ in range(20):
            await asyncio.gather(asyncio.to_thread(real_work, 0.001), pass_time(60))
        return loop.time() - start

    assert virtual_loop.run(main()) == pytest.approx(1200)


def test_real_sockets_still_work() -> None:
    async def main() -> bytes:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read(100))
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        answer = await reader.read(100)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return answer

    assert virtual_loop.run(main()) == b"hello"


def test_waiting_for_what_can_never_happen_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_loop, "STALL_SECONDS", 0.01)

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        virtual_loop.run(main())


def test_the_clock_follows_the_loop() -> None:
    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop(), wall_start_ms=5_000)
        boot = clock.boot_seconds()
        assert clock.wall_ms() == 5_000
        await pass_time(1.5)
        assert clock.boot_seconds() - boot == pytest.approx(1.5)
        assert clock.wall_ms() == 6_500

    virtual_loop.run(main())


def test_two_runs_of_the_same_program_are_the_same() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        broker = MemoryBroker(latency=0.003)
        seen: list[tuple[str, float]] = []
        transports = [MemoryTransport(broker) for _ in range(3)]

        async def record(transport: MemoryTransport) -> None:
            await transport.subscribe("a.*", lambda _: seen.append((transport.name, loop.time())))

        for transport in transports:
            await record(transport)
        for number in range(20):
            transports[number % 3].publish(f"a.{number}", b"")
            await pass_time(0.0007)
        await pass_time(1)
        return seen

    assert virtual_loop.run(main()) == virtual_loop.run(main())
