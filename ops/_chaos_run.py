"""One run of `aegis chaos`: its processes, what is done to them, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from aegis._cluster import Cluster
from aegis.errors import AegisError
from aegis.ops._bench_processes import BenchFailed
from aegis.ops._chaos_caller import LISTENS, options_to_plain
from aegis.ops._chaos_faults import (
    BETWEEN_FAULTS,
    CUT_SECONDS,
    DOWN_SECONDS,
    FROZEN_SECONDS,
    TOGETHER_SECONDS,
    Fault,
    FaultLog,
)
from aegis.ops._chaos_hosts import Hosts
from aegis.ops._chaos_ledger import Story, read_story
from aegis.ops._chaos_mail_verdict import MAIL_SERVICES, is_at_rest
from aegis.ops._chaos_processes import NODE_COMMAND, Victim, tasks_of
from aegis.ops._chaos_servers import ClusterServers, Servers
from aegis.ops._chaos_services import Chest, Purse, Register
from aegis.ops._chaos_work import RESOURCES
from aegis.ops._node_processes import NodeProcess, stop_all

__all__ = ["CALLERS", "NODES", "START_TIMEOUT", "Run"]

NODES: Final = 3
CALLERS: Final = 2

MIN_STARTED: Final = 1
"""Nodes that have started and are left alone: faults shall meet a system that serves."""

START_TIMEOUT: Final = 60.0
MAX_FAILED_STARTS: Final = 20
"""Nodes that may end, one after the other, before they have started."""

END_TIMEOUT: Final = 30.0
"""Seconds in which a node that is told to end hands over and ends."""

CONVERGE_TIMEOUT: Final = 60.0
"""Seconds after the last fault in which every resource must answer, and every caller end."""

_POLL_SECONDS: Final = 0.05
SETTLE_SECONDS: Final = 0.5
"""What is the same after so long, with nothing under way, has come to rest."""

_SERVICES: Final = (Purse, Chest, Register, *MAIL_SERVICES)


class Run:
    """The processes of a run, and what is done to them."""

    def __init__(
        self,
        folder: Path,
        servers: Servers,
        cluster: Cluster,
        log: FaultLog,
        hosts: Hosts | None,
    ) -> None:
        self.log = log
        self.failed_starts = 0
        self._folder = folder
        self._servers = servers
        self._cluster = cluster
        self._hosts = hosts
        self._rng = log.rng
        self.nodes: list[Victim] = []
        """Those that run or are on their way back."""
        self._callers: dict[str, Victim] = {}
        self._all: list[NodeProcess] = []
        self._busy: set[Victim] = set()
        """Nodes and callers that a fault has in hand."""
        self._server_busy = False
        self._works: set[asyncio.Task[None]] = set()
        self._count = 0
        self._options_file = folder / "options.json"

    # -- processes ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Start nodes and callers; return when every resource answers."""
        self._options_file.write_text(json.dumps(options_to_plain(self._servers.options)))
        await self.start_node("active", "node-1")
        await self.wait_answers(START_TIMEOUT)
        for number in range(2, NODES + 1):
            await self.start_node("standby", f"node-{number}")
        for number in range(1, CALLERS + 1):
            await self.start_caller(f"caller-{number}")

    async def start_node(self, role: str, host: str) -> None:
        """Start a node on a host."""
        self._count += 1
        arguments = ["run"]
        for actor in _SERVICES:
            instance = f"{actor.service}-{self._count}"
            arguments += [f"{actor.__module__}:{actor.__name__}", "--instance-id", instance]
            arguments += ["--role", role]
            for resource in RESOURCES:
                arguments += ["--resource", resource]
        arguments += self._servers.arguments
        arguments += ["--log-level", "info", "--log-format", "json"]
        node = NodeProcess(
            f"node-{self._count}",
            arguments,
            self._folder,
            environment=self._servers.environment,
            command=NODE_COMMAND,
            prefix=self._prefix(host),
        )
        self._all.append(node)
        await node.start()
        # Not before: what has no process yet would be taken for one that has ended.
        self.nodes.append(Victim(node, host))

    async def start_caller(self, name: str) -> None:
        """Start a caller, which goes on where its ledger ends."""
        self._count += 1
        arguments = [name, str(self._options_file), str(self._ledger(name))]
        arguments.append(str(self._rng.randrange(2**32)))
        caller = NodeProcess(
            f"{name}-{self._count}",
            arguments,
            self._folder,
            command=("-m", "aegis.ops._chaos_caller"),
            prefix=self._prefix(name),
        )
        self._all.append(caller)
        await caller.start()
        self._callers[name] = Victim(caller, name)

    def _prefix(self, host: str) -> list[str]:
        return [] if self._hosts is None else self._hosts.prefix(host)

    def _ledger(self, caller: str) -> Path:
        return self._folder / f"{caller}.ledger"

    async def close(self) -> None:
        """Leave nothing running."""
        for task in self._works:
            task.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)
        self._heal_all()
        await stop_all(self._all)

    # -- faults ------------------------------------------------------------------------------

    async def torment(self, seconds: float) -> None:
        """Let faults happen for so long; return when all that was taken away is back."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(self._rng.uniform(*BETWEEN_FAULTS))
            self.check_running()
            fault = self.log.draw()
            who = await self.do(fault)
            if who:
                self.log.done(fault, who)
        await self.wait_works()

    async def wait_works(self) -> None:
        """Return when all that was taken away is back."""
        await asyncio.gather(*self._works)

    async def do(self, fault: Fault) -> str:
        """Do a fault; return to whom, or nothing if there was nobody to do it to."""
        match fault:
            case Fault.KILL_SERVER | Fault.KILL_LEADER:
                return await self._kill_server(leader=fault is Fault.KILL_LEADER)
            case Fault.KILL_TOGETHER:
                return await self._kill_together()
            case Fault.CUT_SERVER:
                return await self._cut_server()
            case Fault.KILL_CALLER | Fault.CUT_CALLER:
                free = [one for one in self._callers.values() if one not in self._busy]
            case _:
                free = self._free_nodes()
        if not free:
            return ""
        victim = self._rng.choice(free)
        self._harm(fault, victim)
        return victim.process.name

    def _harm(self, fault: Fault, victim: Victim) -> None:
        self._busy.add(victim)
        if fault in (Fault.CUT_NODE, Fault.CUT_CALLER):
            self._later(self._cut(victim.host, self._rng.uniform(*CUT_SECONDS), victim))
        elif fault is Fault.FREEZE_NODE:
            victim.process.send_signal(signal.SIGSTOP)
            self._later(self._thaw(victim, self._rng.uniform(*FROZEN_SECONDS)))
        elif fault is Fault.KILL_CALLER:
            victim.process.send_signal(signal.SIGKILL)
            self._later(self._restart_caller(victim, self._rng.uniform(*DOWN_SECONDS)))
        else:
            kills = fault is Fault.KILL_NODE
            victim.process.send_signal(signal.SIGKILL if kills else signal.SIGTERM)
            self._later(self._replace(victim, self._rng.uniform(*DOWN_SECONDS), killed=kills))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._works.discard(task)

    async def _thaw(self, victim: Victim, seconds: float) -> None:
        await asyncio.sleep(seconds)
        victim.process.send_signal(signal.SIGCONT)
        self.log.note("goes on", victim.process.name)
        self._busy.discard(victim)

    async def _cut(self, host: str, seconds: float, victim: Victim | None = None) -> None:
        assert self._hosts is not None
        await asyncio.to_thread(self._hosts.cut, host)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._hosts.heal, host)
        self.log.note("reached again", host if victim is None else victim.process.name)
        if victim is not None:
            self._busy.discard(victim)
        else:
            self._server_busy = False

    async def _kill_server(self, *, leader: bool) -> str:
        if self._server_busy:
            return ""
        self._server_busy = True
        who = await self._servers.kill(self._rng, self._cluster, leader=leader)
        if who:
            self._later(self._restart_server(who, self._rng.uniform(*DOWN_SECONDS)))
        else:
            self._server_busy = False
        return who

    async def _kill_together(self) -> str:
        """Kill the server that appends go to, and soon after it all nodes but one."""
        who = await self._kill_server(leader=True)
        if who:
            self._later(self._kill_nodes(self._rng.uniform(*TOGETHER_SECONDS)))
        return who

    async def _kill_nodes(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        while free := self._free_nodes():
            victim = self._rng.choice(free)
            self._harm(Fault.KILL_NODE, victim)
            self.log.note("killed with it", victim.process.name)

    def _free_nodes(self) -> list[Victim]:
        """Return the nodes that something may happen to."""
        alone = [one for one in self.nodes if one not in self._busy]
        started = {one for one in alone if one.has_started()}
        return [one for one in alone if len(started - {one}) >= MIN_STARTED]

    async def _restart_server(self, who: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._servers.restart(who)
        self._server_busy = False

    async def _cut_server(self) -> str:
        servers = self._servers
        if self._server_busy or not isinstance(servers, ClusterServers):
            return ""
        if not await servers.all_current(self._cluster):
            return ""
        self._server_busy = True
        name = self._rng.choice(servers.names)
        self._later(self._cut(name, self._rng.uniform(*CUT_SECONDS)))
        return name

    async def _restart_caller(self, victim: Victim, seconds: float) -> None:
        await victim.process.wait_ended()
        await asyncio.sleep(seconds)
        await self.start_caller(victim.host)
        self._busy.discard(victim)

    async def _replace(self, victim: Victim, seconds: float, *, killed: bool) -> None:
        node = victim.process
        try:
            async with asyncio.timeout(END_TIMEOUT):
                code = await node.wait_ended()
        except TimeoutError:
            raise BenchFailed(
                f"{node.name} does not end within {END_TIMEOUT:g} s\n{await tasks_of(node)}"
            ) from None
        # Before it has started it knows of no signals yet.
        if not killed and code != 0 and node.has_logged("node_started"):
            raise BenchFailed(f"{node.name} was told to end: exit code {code}\n{node.last_words()}")
        self.nodes.remove(victim)
        self._busy.discard(victim)
        await asyncio.sleep(seconds)
        await self.start_node("standby", victim.host)

    def check_running(self) -> None:
        """Start again what ended before it had started.

        Raises:
            BenchFailed: something else ended by itself, or what was done failed.
        """
        for one in list(self.nodes):
            node = one.process
            if one in self._busy or node.is_running:
                continue
            if node.has_logged("node_started"):
                node.check_running()
            # A node may refuse to start while the servers are down; then it is started again.
            self.failed_starts += 1
            self.log.note("did not start", node.name)
            if self.failed_starts > MAX_FAILED_STARTS + self.log.counts.total() // 10:
                node.check_running()
            self._busy.add(one)
            self._later(self._replace(one, self._rng.uniform(*DOWN_SECONDS), killed=True))
        for one in self._callers.values():
            if one not in self._busy:
                one.process.check_running()
        for task in self._works:
            if task.done():
                task.result()

    def _heal_all(self) -> None:
        if self._hosts is not None:
            for host in self._hosts.names:
                with contextlib.suppress(AegisError):
                    self._hosts.heal(host)

    # -- the end -----------------------------------------------------------------------------

    async def wait_answers(self, timeout: float = CONVERGE_TIMEOUT) -> float:
        """Return when every resource answers a query: after how many seconds."""
        began = time.monotonic()
        await self.held(timeout)
        return time.monotonic() - began

    async def held(
        self, timeout: float = CONVERGE_TIMEOUT
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what every resource holds."""
        deadline = time.monotonic() + timeout
        places = [(actor.service, name) for actor in _SERVICES for name in RESOURCES]
        return {place: await self._ask(*place, deadline) for place in places}

    async def held_at_rest(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what every resource holds, when messages and reminders have come to rest.

        If they do not, what there is then: the verdict says what is wrong.
        """
        deadline = time.monotonic() + CONVERGE_TIMEOUT
        held = await self.held()
        while time.monotonic() < deadline:
            await asyncio.sleep(SETTLE_SECONDS)
            before, held = held, await self.held()
            if held == before and is_at_rest(held):
                break
        return held

    async def _ask(self, service: str, resource: str, deadline: float) -> Any:
        while True:
            try:
                return await self._cluster.call(service, "held", resource_id=resource, timeout=2.0)
            except AegisError as error:
                if time.monotonic() > deadline:
                    raise BenchFailed(f"{service}/{resource} does not answer: {error}") from error
            await asyncio.sleep(_POLL_SECONDS)

    async def end_callers(self) -> None:
        """Let callers end what is open."""
        await asyncio.gather(*(self._end_caller(one.process) for one in self._callers.values()))

    async def _end_caller(self, caller: NodeProcess) -> None:
        try:
            async with asyncio.timeout(CONVERGE_TIMEOUT):
                # Before that SIGTERM would be its death, and leave open what was begun.
                await _until(lambda: caller.has_logged(LISTENS) or not caller.is_running)
                caller.send_signal(signal.SIGTERM)
                code = await caller.wait_ended()
        except TimeoutError:
            raise BenchFailed(f"{caller.name} has operations that do not end") from None
        if code != 0:
            raise BenchFailed(f"{caller.name}: exit code {code}: {caller.last_words()}")

    async def restart(self) -> None:
        """End all nodes; start a new one, which knows what the journals hold and no more."""
        await stop_all([one.process for one in self.nodes])
        self.nodes.clear()
        await self.start_node("active", "node-1")

    def stories(self) -> list[Story]:
        """Return what callers wrote down."""
        return [read_story(name, self._ledger(name)) for name in sorted(self._callers)]

    def words(self) -> str:
        """Return the last words of the processes."""
        recent = [one.process for one in (*self.nodes, *self._callers.values())]
        return "\n".join(f"{one.name}: {one.last_words()}" for one in recent)


async def _until(holds: Callable[[], bool]) -> None:
    while True:
        if holds():
            return
        await asyncio.sleep(_POLL_SECONDS)
