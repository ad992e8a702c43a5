"""Machines on which processes live and die: nodes and callers."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from attrs import frozen

from aegis._cluster import Cluster, open_over
from aegis._config import ConnectOptions, RunOptions
from aegis._node import Node
from aegis.actors._actor import AegisActor
from aegis.contracts import Role
from aegis.errors import AegisError, Conflict
from aegis.transport import Host, HostClock
from tests.simulation.system._checker import Call, Checker
from tests.simulation.system._network import Network
from tests.simulation.system._plan import Plan
from tests.simulation.system._services import COMMANDS, Asked
from tests.simulation.system._world import World
from tests.support.virtual import pass_time

__all__ = ["CallerMachine", "Machine", "NodeMachine", "Provided"]

TIMEOUTS: Final = (0.3, 1.0, 3.0, 6.0)
"""How long a call may take."""

LATE_SECONDS: Final = 0.1
"""A call may end so much after its deadline: one timer serves all, and clocks drift."""


@frozen
class Provided:
    """One instance that a node runs, and the resources that it is for."""

    actor_class: type[AegisActor]
    instance_id: str
    resources: tuple[str, ...]
    role: Role


class Machine:
    """One machine with one process on it, which may be killed, frozen and started anew."""

    kind = "machine"

    def __init__(self, world: World, network: Network, plan: Plan, name: str) -> None:
        rng = random.Random(f"clock {world.seed} {name}")
        self.world = world
        self.network = network
        self.plan = plan
        self.name = name
        self.rng = random.Random(f"machine {world.seed} {name}")
        self.clock = HostClock(
            world.loop,
            rate=1.0 + rng.uniform(-1.0, 1.0) * plan.drift,
            boot_seconds=rng.uniform(1000.0, 5000.0),
            wall_error_ms=int(rng.uniform(-1.0, 1.0) * plan.skew_seconds * 1000),
        )
        self.life = 0
        self.host: Host | None = None
        self.resumed_at = float("-inf")
        """When it was last let go on after a freeze, in the loop's seconds."""

    def start(self) -> None:
        """Begin a new life, if there is none."""
        if self.host is not None:
            return
        self.life += 1
        host = self.host = self.world.loop.host(f"{self.name}-{self.life}", self.clock)
        self.world.note("starts", host=host.name)
        host.start(self._live(host))

    def start_later(self, delay: float) -> None:
        """Begin a new life after a while."""
        self.world.later(delay, self.start)

    def kill(self) -> None:
        """End its life as SIGKILL does."""
        host, self.host = self.host, None
        if host is None:
            return
        self.world.note("killed", host=host.name)
        self.world.count(f"{self.kind} killed")
        host.kill()
        self.network.killed(host)
        self.on_killed()

    def freeze(self, seconds: float) -> None:
        """Stop it, without its knowing, for a while."""
        host = self.host
        if host is None or host.frozen:
            return
        self.world.note("frozen for %.2f s", seconds, host=host.name)
        self.world.count(f"{self.kind} frozen")
        host.freeze()
        self.network.frozen(host, seconds)
        self.world.later(seconds, self.resume, host)

    def resume(self, host: Host | None = None) -> None:
        """Let it go on."""
        host = host or self.host
        if host is not None and host is self.host and host.frozen:
            self.world.note("resumes", host=host.name)
            self.resumed_at = self.world.loop.now
            host.resume()

    @property
    def running(self) -> bool:
        """Whether its process lives and is not frozen."""
        return self.host is not None and self.host.runs

    def on_killed(self) -> None:
        """Forget what the process was."""

    async def _live(self, host: Host) -> None:
        raise NotImplementedError

    def _ended(self, host: Host) -> None:
        """The process has ended by itself."""
        if self.host is host:
            self.host = None
            self.network.left(host)

    async def _wait_server(self) -> None:
        while not self.network.up or self.network.is_cut(self.name):
            await pass_time(0.1)


class NodeMachine(Machine):
    """A machine that runs a node."""

    kind = "node"

    def __init__(
        self,
        world: World,
        network: Network,
        plan: Plan,
        name: str,
        *,
        provided: tuple[Provided, ...],
        no_supervisor: bool,
    ) -> None:
        super().__init__(world, network, plan, name)
        self.provided = provided
        self.node: Node | None = None
        """Of the present life, once it has been made."""
        self.started = False
        """Whether the present life has started all that it is to run."""
        scale = 0.5 if plan.halved else 1.0
        self.options = RunOptions(
            connect=ConnectOptions(timeout=5.0),
            no_supervisor=no_supervisor,
            heartbeat_interval=0.5 * scale,
            heartbeat_timeout=2.0 * scale,
            lease=2.0 * scale,
            leader_timeout=1.0 * scale,
            workers=1,
        )
        self._only_standby = not plan.first_active
        self._lives: list[tuple[Host, Node]] = []

    async def _live(self, host: Host) -> None:
        world = self.world
        await self._wait_server()
        transport = self.network.connect(host, self.name, name=host.name, node_id=host.name)
        system = None
        if self.plan.system_account and not self.options.no_supervisor:
            system = self.network.connect(host, self.name, name=f"{host.name}-system")
        node = self.node = Node(
            self.options, transport, clock=self.clock, node_id=host.name, system=system
        )
        self._lives.append((host, node))
        node.client._rng = random.Random(f"client {world.seed} {host.name}")
        try:
            await node.start()
            for one in self.provided:
                await node.add_service(
                    one.actor_class,
                    instance_id=one.instance_id,
                    resources=one.resources,
                    role=Role.STANDBY if self._only_standby else one.role,
                )
            self.started = True
            world.note("has started")
        except AegisError as error:
            # As `aegis run` does: it says why, and ends; whoever runs it starts it anew.
            world.note("cannot start: %s", error)
            world.count(f"start failed: {error.code}")
            self._only_standby = self._only_standby or isinstance(error, Conflict)
            await self._leave(host, node)
            self.start_later(0.5)

    def drain(self) -> None:
        """Tell it to end in good order (SIGTERM), and start it anew some time later."""
        host, node = self.host, self.node
        if host is None or node is None or node.root.status.value != "running":
            return
        self.started = False
        self.world.note("is told to end", host=host.name)
        self.world.count("node drained")

        async def end() -> None:
            await self._leave(host, node)
            self.start_later(self.rng.uniform(0.1, 2.0))

        host.start(end())

    def end_all(self) -> list[asyncio.Task[None]]:
        """End what is left of all lives, once nothing counts any more."""
        return [host.start(node.abandon()) for host, node in self._lives]

    async def _leave(self, host: Host, node: Node) -> None:
        await node.stop()
        await node.transport.close()
        self.world.note("has ended")
        self._lives = [(other, left) for other, left in self._lives if other is not host]
        self._ended(host)

    def _ended(self, host: Host) -> None:
        if self.host is host:
            self._forget()
        super()._ended(host)

    def _forget(self) -> None:
        self.node, self.started = None, False

    def on_killed(self) -> None:
        self._forget()
        self._only_standby = self._only_standby or self.rng.random() < 0.8

    def take(self, one: Provided, resource: str) -> None:
        """Take a resource from whoever has it, by force."""
        host, node = self.host, self.node
        if host is None or node is None or one.instance_id not in node.membership.instances:
            return
        self.world.note("takes %s by force", resource, host=host.name)
        self.world.count("taken by force")

        async def take() -> None:
            try:
                await node.add_resources(one.instance_id, [resource], force=True)
            except AegisError as error:
                self.world.note("did not get %s: %s", resource, error)

        host.start(take())


class CallerMachine(Machine):
    """A machine from which accounts are called, a few calls at a time."""

    kind = "caller"

    def __init__(
        self,
        world: World,
        network: Network,
        plan: Plan,
        name: str,
        *,
        checker: Checker,
        resources: list[tuple[str, str]],
        lanes: int,
    ) -> None:
        super().__init__(world, network, plan, name)
        self.checker = checker
        self.resources = resources
        self.calling = True
        self.only = ""
        """``read`` or ``write`` for a while, and of the first resource alone; or else empty."""
        self._lanes = lanes
        self._calls = self._sends = 0
        self._open: dict[str, Call] = {}
        self._cluster: Cluster | None = None

    @property
    def open_calls(self) -> int:
        """How many calls have not ended."""
        return len(self._open)

    def on_killed(self) -> None:
        for call in self._open.values():
            self.checker.on_abandoned(call)
        self._open.clear()
        self._cluster = None

    async def _live(self, host: Host) -> None:
        await self._wait_server()
        transport = self.network.connect(host, self.name, name=host.name)
        while True:
            try:
                opened = await open_over(transport, ConnectOptions(timeout=5.0), self.clock)
                break
            except AegisError as error:
                self.world.note("cannot connect: %s", error)
                await pass_time(0.2)
        opened.cluster._client._rng = random.Random(f"client {self.world.seed} {host.name}")
        opened.cluster.sender._rng = random.Random(f"sender {self.world.seed} {host.name}")
        self._cluster = opened.cluster
        lanes = [self._call_on() for _ in range(self._lanes)]
        if self.plan.mail and lanes:
            lanes.append(self._send_on())
        await asyncio.gather(*lanes)

    async def _call_on(self) -> None:
        rng = self.rng
        # An owner that is none any more learns it by its next write: some only read.
        reads = rng.choice([0.1, 0.45, 0.95])
        while True:
            await pass_time(rng.expovariate(1.0 / self.plan.load))
            if not self.calling:
                return
            hot = rng.random() < self.plan.hot or self.only
            service, resource = rng.choice(self.resources[:1] if hot else self.resources)
            if rng.random() < {"": reads, "read": 1.0, "write": 0.0}[self.only]:
                await self.read(service, resource, rng.choice(TIMEOUTS))
            else:
                name = rng.choices(list(COMMANDS), list(COMMANDS.values()))[0]
                await self.command(service, resource, name, rng.choice(TIMEOUTS))

    async def _send_on(self) -> None:
        # Dice of its own: all else is as without mail.
        rng = random.Random(f"mail {self.world.seed} {self.name} {self.life}")
        while True:
            await pass_time(rng.expovariate(0.2 / self.plan.load))
            if not self.calling:
                return
            service, resource = rng.choice(self.resources)
            count = rng.choice([1, 2, 8, 20])
            timeouts = [rng.choice(TIMEOUTS) for _ in range(count)]
            await asyncio.gather(*(self.send(service, resource, one, rng) for one in timeouts))

    async def send(
        self, service: str, resource: str, timeout: float, rng: random.Random | None = None
    ) -> bool:
        """Send a command; return whether it is acknowledged."""
        rng = rng or self.rng
        self._sends += 1
        uid = f"{self.name}.m{self._sends}"
        name = rng.choices(list(COMMANDS), list(COMMANDS.values()))[0]
        asked = Asked(uid, name, rng.randrange(1, 50))
        assert self._cluster is not None
        call = self._open[uid] = self.checker.on_call(asked, service, resource, "send", self.name)
        self.world.note("%s: %s/%s is sent %s", uid, service, resource, asked)
        code = 200
        try:
            await self._cluster.send(
                service, "apply", {"asked": asked}, resource_id=resource, timeout=timeout
            )
        except AegisError as error:
            code = error.code
        del self._open[uid]
        self.world.note("%s: %d", uid, code)
        self.checker.on_sent(call, code)
        return code == 200

    async def command(self, service: str, resource: str, name: str, timeout: float) -> bool:
        """Call a command; return whether it succeeded."""
        plan, rng = self.plan, self.rng
        self._calls += 1
        slow = self.world.faulty and rng.random() < plan.slow_handler
        asked = Asked(
            f"{self.name}.{self._calls}",
            name,
            rng.randrange(1, 50),
            rng.random() * plan.slow_seconds if slow else 0.0,
        )
        call = self.checker.on_call(asked, service, resource, "command", self.name)
        return await self._run(call, "apply", {"asked": asked}, timeout)

    async def read(self, service: str, resource: str, timeout: float) -> bool:
        """Call a query; return whether it succeeded."""
        self._calls += 1
        asked = Asked(f"{self.name}.{self._calls}", "read")
        call = self.checker.on_call(asked, service, resource, "query", self.name)
        return await self._run(call, "read", {}, timeout)

    async def _run(self, call: Call, method: str, params: dict[str, Any], timeout: float) -> bool:
        assert self._cluster is not None
        asked, host = call.asked, self.host
        self._open[asked.uid] = call
        began = self.world.loop.now
        self.world.note("%s: %s/%s %s", asked.uid, call.service, call.resource, asked)
        code, value = 200, None
        try:
            value = await self._cluster.call(
                call.service, method, params, resource_id=call.resource, timeout=timeout
            )
        except AegisError as error:
            code, value = error.code, error
        del self._open[asked.uid]
        self.world.note("%s: %d %s", asked.uid, code, value)
        took = self.world.loop.now - began
        if took > timeout * 1.01 + LATE_SECONDS and self.resumed_at < began and host is self.host:
            self.world.fail("call %s ended %.3f s after its deadline", asked.uid, took - timeout)
        self.checker.on_end(call, code, value)
        return code == 200
