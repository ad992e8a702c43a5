"""The sampler of a node: looks at the whole system once a second, however many watch.

Beats, events and dead letters come by themselves. Supervisors and nodes are asked each
second while somebody watches, and every few seconds while nobody does, so that who opens
the page sees the minutes before, too. What is of interest at once (a failover) is told at
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from aegis._inspect import Inspector
from aegis.actors._failover_reporter import PAST_SECONDS
from aegis.actors._lease import Beat
from aegis.actors._registration import ALONE
from aegis.errors import AegisError, ProtocolError, Unavailable
from aegis.ops._live_beats import LiveBeats
from aegis.ops._live_letters import LiveLetters
from aegis.ops._live_state import LiveState
from aegis.ops._live_view import LiveView
from aegis.ops._version import versions
from aegis.transport._base import Message
from aegis.transport._codec import decode_value
from aegis.transport._patience import subscribe_patiently

if TYPE_CHECKING:
    from aegis._node import Node
    from aegis.ops._metrics import NodeMetrics

__all__ = ["LiveSampler"]

_log = structlog.get_logger("aegis.admin")

MAX_VIEWERS: Final = 64

TICK_SECONDS: Final = 1.0
SOON_SECONDS: Final = 0.1
"""After an event, so that many of one moment make one message."""

CLOCK_SECONDS: Final = 0.001
"""A timer may come so much too early, as clocks have it."""

IDLE_SECONDS: Final = 5.0
"""Between two looks at the system while nobody watches."""

MAX_ASKED_PER_SECOND: Final = 50
"""Nodes; of more, each is asked less often."""

ALONE_SECONDS: Final = 5.0
"""Between two counts of the resources without a standby: that looks at many."""

MAX_ALONE: Final = 100
"""So many of them are counted; the page shows which, if asked."""

ANSWERED: Final = ("overview", "nodes")
ANSWER_SECONDS: Final = 0.25
"""For so long each version waits for what was asked for it; a frozen node keeps nobody."""

LETTERS_SECONDS: Final = 300.0
"""Between two whole readings of the dead letters: the removal of one may be missed."""


class LiveSampler:
    """What one node shows of the system, and to whom."""

    def __init__(self, node: Node, metrics: NodeMetrics) -> None:
        self.state = LiveState(secrets.token_hex(4))
        self.viewers = 0
        self._node = node
        self._metrics = metrics
        self._inspector = Inspector(node.transport, node.subjects)
        self._view = LiveView(
            namespace=node.subjects.namespace,
            node_id=node.node_id,
            version=versions()["aegis"],
            failovers=metrics.failovers,
            beats=LiveBeats(
                interval=node.options.heartbeat_interval, timeout=node.options.heartbeat_timeout
            ),
        )
        self._advanced = asyncio.Event()
        self._wake = asyncio.Event()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._begun: dict[str, float] = {}
        self._looked = False
        self._ended = False
        self.recalled = False
        """Whether the log of failovers has those that this node was not there to hear of."""

    # -- life -----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def sampling(self) -> AsyncGenerator[None]:
        """Look at the system as long as the block lasts; then viewers are sent away."""
        subscription = await subscribe_patiently(
            self._node.transport, self._node.subjects.heartbeat, self._on_beat
        )
        self._metrics.listeners.append(self._on_event)
        self._once("tick", self._tick_forever)
        try:
            yield
        finally:
            self._ended = True
            self._advanced.set()
            self._metrics.listeners.remove(self._on_event)
            tasks = list(self._under_way.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(AegisError):
                await subscription.unsubscribe()

    def check_room(self) -> None:
        """Refuse one more viewer if there are as many as there may be.

        Raises:
            Unavailable: so it is.
        """
        if self.viewers >= MAX_VIEWERS:
            raise Unavailable(
                f"{MAX_VIEWERS} viewers watch this node already; watch another node, or close some"
            )

    async def recall(self) -> None:
        """Ask for the failovers that this node has not heard of.

        Raises:
            Unavailable: no supervisor answers.
        """
        told = await self._inspector.failovers()
        past = self._node.clock.wall_ms() / 1000 - PAST_SECONDS
        if self._metrics.failovers.recall(told, past=past):
            self._view.on_failovers()
        self.recalled = True

    @contextlib.contextmanager
    def watching(self) -> Generator[None]:
        """Count a viewer as long as the block lasts."""
        self.viewers += 1
        # The first one wants all of it, and now.
        self._wake.set()
        try:
            yield
        finally:
            self.viewers -= 1

    async def wait_newer(self, version: int) -> bool:
        """Return when there is a newer version; False if there never will be."""
        while not self._ended and self.state.version <= version:
            await self._advanced.wait()
        return not self._ended

    # -- what comes by itself ---------------------------------------------------------------

    def _on_beat(self, message: Message) -> None:
        # Who judges by beats logs those that cannot be read.
        with contextlib.suppress(ProtocolError):
            beat = Beat.from_wire(decode_value(message.payload))
            self._view.beats.heard(beat, self._node.clock.boot_seconds())

    def _on_event(self, facts: Mapping[str, Any]) -> None:
        try:
            self._view.on_event(facts, self._node.clock.wall_ms() / 1000)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            _log.warning("event_unreadable", told=facts.get("event"), error=repr(error))
        if self.viewers:
            self._begun.pop("overview", None)
            soon = asyncio.get_running_loop().time() - ALONE_SECONDS + TICK_SECONDS
            self._begun["alone"] = min(soon, self._begun.get("alone", soon))
            self._wake.set()

    # -- what is asked ----------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        loop = asyncio.get_running_loop()
        sampled = loop.time()
        while True:
            now = loop.time()
            whole = now >= sampled + TICK_SECONDS - CLOCK_SECONDS
            if whole:
                sampled = max(sampled + TICK_SECONDS, now - TICK_SECONDS)
            self._ask(now)
            asked = [self._under_way[name] for name in ANSWERED if name in self._under_way]
            if asked:
                await asyncio.wait(asked, timeout=ANSWER_SECONDS)
            self._advance(whole)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, sampled + TICK_SECONDS - loop.time())):
                    await self._wake.wait()
                    await asyncio.sleep(SOON_SECONDS)

    def _ask(self, now: float) -> None:
        """Begin what is due; what has not come back from the last time is waited for."""
        connected = self._node.transport.connected
        self._view.on_connected(connected)
        if not connected:
            # What is dropped meanwhile leaves no trace, and what is told is not heard.
            self._begun.pop("letters", None)
            self.recalled = False
            if "letters" in self._under_way:
                self._under_way["letters"].cancel()
        if not connected or self._node.state == "starting":
            return
        boot = self._node.clock.boot_seconds()
        self._view.beats.forget(boot)
        nodes = self._view.known_nodes(boot)
        often = TICK_SECONDS if self.viewers else IDLE_SECONDS
        self._when_due("overview", now, often, self._look_at_services)
        if nodes:
            seldom = max(often, len(nodes) / MAX_ASKED_PER_SECOND)
            self._when_due("nodes", now, seldom, self._look_at_nodes)
        self._when_due("letters", now, LETTERS_SECONDS, self._follow_letters)
        if not self.recalled:
            self._when_due("failovers", now, TICK_SECONDS, self.recall)
        if self.viewers:
            self._when_due("alone", now, ALONE_SECONDS, self._count_alone)

    def _when_due(
        self, name: str, now: float, every: float, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        # Half a tick early is nearer than half a tick late.
        late_enough = self._begun.get(name, float("-inf")) + every - TICK_SECONDS / 2
        if now >= late_enough and name not in self._under_way:
            self._begun[name] = now
            self._once(name, work)

    def _once(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._under_way[name] = task
        task.add_done_callback(lambda done: self._done(name, done))

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        self._under_way.pop(name, None)
        error = None if task.cancelled() else task.exception()
        # Who does not answer now will answer later.
        if error is not None and not isinstance(error, AegisError | TimeoutError):
            _log.error("sampling_failed", what=name, exc_info=error)

    def _advance(self, whole: bool) -> None:
        boot, wall = self._node.clock.boot_seconds(), self._node.clock.wall_ms() / 1000
        sample = None
        if whole and self._looked:
            # What a look found holds until the next, whether that is a second or five.
            self._looked = False
            self._view.latency.turn(self._view.known_nodes(boot))
        if whole:
            sample = self._view.sample(wall, boot)
        # Nobody sees the rows meanwhile, and the first viewer waits for the next tick.
        self.state.advance(wall, self._view.rows(boot) if self.viewers else None, sample)
        advanced, self._advanced = self._advanced, asyncio.Event()
        advanced.set()

    async def _look_at_services(self) -> None:
        try:
            services, leader = await self._inspector.overview()
        except AegisError:
            self._view.on_no_supervisor()
            raise
        self._view.on_overview(services, leader, self._node.clock.boot_seconds())

    async def _look_at_nodes(self) -> None:
        nodes = self._view.known_nodes(self._node.clock.boot_seconds())
        # Nodes without metrics time their messages only while somebody watches.
        watched = self.viewers > 0
        for health in await self._inspector.nodes((), nodes, brief=True, watched=watched):
            self._view.on_health(health)
        self._looked = True

    async def _count_alone(self) -> None:
        found: list[Any] = []
        after: list[Any] | None = None
        while True:
            page, after = await self._inspector.resource_page(
                limit=MAX_ALONE, after=after, only=[ALONE]
            )
            found += page
            if after is None or len(found) >= MAX_ALONE:
                break
        more = "more than " if after is not None else ""
        number = min(len(found), MAX_ALONE)
        plural = "" if number == 1 else "s"
        self._view.alone = f"{more}{number} resource{plural}".capitalize() if number else ""

    async def _follow_letters(self) -> None:
        """Read all dead letters, and then follow them for a while."""
        transport, subject = self._node.transport, self._node.subjects.dead_letters
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LETTERS_SECONDS):
                letters, last = LiveLetters(), 0
                async for stored in transport.read(subject):
                    letters.heard(stored)
                    last = stored.sequence
                self._view.letters = letters
                async for stored in transport.follow(subject, start=last + 1):
                    letters.heard(stored)
                    self._wake.set()
