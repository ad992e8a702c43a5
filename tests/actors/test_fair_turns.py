"""However much the actors have to do, the rest of the event loop has its turn between."""

from __future__ import annotations

import asyncio
import time

from aegis.actors._actor import AegisActor
from aegis.actors._cell import ActorCell, Props
from aegis.actors._runtime import Runtime
from aegis.actors._supervisor import Supervisor

BURN_SECONDS = 0.001


class Busy(AegisActor):
    """Uses the processor for a while with each message."""

    def on_receive(self, message: object) -> None:
        raise NotImplementedError

    async def burn(self) -> None:
        ends = time.perf_counter() + BURN_SECONDS
        while time.perf_counter() < ends:
            pass


async def most_in_one_turn(actors: int, messages: int) -> tuple[int, list[int]]:
    """Return how many messages were handled at most between two turns of the loop.

    And how many each actor had handled when half of all was done.
    """
    runtime = Runtime()
    root = Supervisor(runtime=runtime)
    await root.start()
    cells: list[ActorCell] = []
    for number in range(actors):
        ref = await root.start_actor(f"busy-{number}", Props(Busy))
        cells.append(ref.cell)
        proxy = ref.proxy()
        for _ in range(messages):
            proxy.burn.defer()
    done = most = 0
    half: list[int] = []
    while done < actors * messages:
        await asyncio.sleep(0)
        handled = [cell.processed for cell in cells]
        most, done = max(most, sum(handled) - done), sum(handled)
        if not half and done >= actors * messages / 2:
            half = handled
    await root.stop()
    runtime.workers.close()
    return most, half


async def test_full_mailboxes_leave_the_loop_its_turn() -> None:
    most, _ = await most_in_one_turn(200, 5)
    assert most < 200


async def test_no_actor_waits_for_others_that_have_more_to_do() -> None:
    _, half = await most_in_one_turn(20, 40)
    assert min(half) > 0
