"""A task that an actor started cannot end the node."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import ClassVar

import pytest
import uvloop

from aegis import AegisActor, command
from aegis._contained import run_contained
from tests.support.poll import wait_until

LOOPS = [asyncio.SelectorEventLoop, uvloop.new_event_loop]


class Quitter(AegisActor):
    service = "quitter"
    tasks: ClassVar[list[asyncio.Task[None]]] = []

    @command
    async def quit_later(self) -> str:
        async def quit_now() -> None:
            sys.exit(3)

        type(self).tasks = [asyncio.create_task(quit_now())]
        return "soon"

    @command
    async def still_there(self) -> bool:
        return True


@pytest.mark.parametrize("factory", LOOPS)
def test_a_system_exit_in_a_task_of_an_actor_does_not_end_the_node(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> bool:
        ref = Quitter.start()
        assert await ref.proxy().quit_later() == "soon"
        await wait_until(lambda: all(task.done() for task in Quitter.tasks), what="the exit")
        return await ref.proxy().still_there()

    assert run_contained(main(), loop_factory=factory)


def test_an_exit_of_the_main_task_itself_ends_it() -> None:
    async def main() -> None:
        sys.exit(4)

    with pytest.raises(SystemExit) as caught:
        run_contained(main())
    assert caught.value.code == 4
