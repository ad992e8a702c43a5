"""The processes of `aegis chaos`: nodes that tell what they wait for, and who runs where."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Final

from attrs import define

from aegis.ops._node_processes import NodeProcess

__all__ = ["NODE_COMMAND", "Victim", "tasks_of"]

DUMP_TIMEOUT: Final = 2.0

# `aegis`, which tells what its tasks wait for when it gets SIGUSR1.
_NODE: Final = """
import asyncio, signal, sys
from aegis.ops import _run
run_contained = None
def told(main, **options):
    async def telling():
        def tell():
            for task in asyncio.all_tasks():
                task.print_stack(limit=4, file=sys.stderr)
            sys.stderr.flush()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
        return await main
    return run_contained(telling(), **options)
import aegis._contained
run_contained, aegis._contained.run_contained = aegis._contained.run_contained, told
from aegis.ops.cli import main
main()
"""

NODE_COMMAND: Final = ("-c", _NODE)


@define(eq=False)
class Victim:
    """A node or a caller, and the host that it runs on, if it has one."""

    process: NodeProcess
    host: str = ""
    _started: bool = False

    def has_started(self) -> bool:
        """Whether a node runs that has said that it has started."""
        self._started = self._started or self.process.has_logged("node_started")
        return self._started and self.process.is_running


async def tasks_of(node: NodeProcess) -> str:
    """Return what the tasks of a node wait for."""
    node.send_signal(signal.SIGUSR1)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DUMP_TIMEOUT):
            await node.wait_ended()
    return node.log_file.read_text(errors="replace")[-12_000:]
