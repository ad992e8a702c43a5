"""Looking at a system again and again for `aegis top`: what is asked, and what comes by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final, cast

from aegis._clock import Clock, SystemClock
from aegis._inspect import Inspector
from aegis._subjects import Subjects
from aegis.actors._failover_reporter import PAST_SECONDS
from aegis.actors._lease import Beat
from aegis.errors import AegisError, ProtocolError
from aegis.ops._top_state import TopState
from aegis.transport._base import Message, Transport
from aegis.transport._codec import decode_value

__all__ = ["MAX_RESOURCES", "TopSampler"]

MAX_RESOURCES: Final = 2_000
"""Resources that are looked at; a system may have hundreds of thousands."""

FIRST_LOOK_SECONDS: Final = 1.2
"""How long beats are heard before anything is shown: two of each node, by default."""


class TopSampler:
    """Keeps a `TopState` up to date, as often as it is asked to."""

    def __init__(
        self, transport: Transport, subjects: Subjects, clock: Clock | None = None
    ) -> None:
        self.state = TopState(subjects.namespace)
        self.problem = ""
        """Why the last look failed; empty if it did not."""
        self.more_resources = False
        """Whether there are more than are looked at."""
        self._transport = transport
        self._subjects = subjects
        self._clock = clock or SystemClock()
        self._inspector = Inspector(transport, subjects)
        self._beating: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        """Hear beats and events inside the block."""
        subscriptions = [
            await self._transport.subscribe(self._subjects.heartbeat, self._on_beat),
            await self._transport.subscribe(self._subjects.event(">"), self._on_event),
        ]
        try:
            yield
        finally:
            for subscription in subscriptions:
                with contextlib.suppress(AegisError):
                    await subscription.unsubscribe()

    async def first_look(self, *, resources: bool) -> None:
        """Look twice, so that there are rates.

        Raises:
            Unavailable: no supervisor answers.
        """
        await self._look(resources)
        past = self._clock.wall_ms() / 1000 - PAST_SECONDS
        self.state.recalled(await self._inspector.failovers(), past=past)
        await asyncio.sleep(FIRST_LOOK_SECONDS)
        await self._look(resources)

    async def look(self, *, resources: bool) -> None:
        """Look once more; what stands against it is the ``problem``."""
        try:
            await self._look(resources)
        except AegisError as error:
            self.problem = str(error)
        else:
            self.problem = ""

    async def _look(self, resources: bool) -> None:
        services = await self._inspector.services()
        # Their trees are long, and only tell the queues of resources.
        nodes = await self._inspector.nodes(
            services, self._beating_nodes(), brief=not resources, watched=True
        )
        found: list[dict[str, Any]] | None = None
        if resources:
            found = await self._inspector.resources(limit=MAX_RESOURCES)
            self.more_resources = len(found) >= MAX_RESOURCES
        self.state.looked(services, nodes, found)

    def _beating_nodes(self) -> list[str]:
        """Return the nodes that beat lately, also those that serve nothing."""
        now = self._clock.boot_seconds()
        self._beating = {n: at for n, at in self._beating.items() if now - at < SILENT_SECONDS}
        return list(self._beating)

    def _on_beat(self, message: Message) -> None:
        # Who judges by beats logs those that cannot be read.
        with contextlib.suppress(ProtocolError):
            beat, now = Beat.from_wire(decode_value(message.payload)), self._clock.boot_seconds()
            self._beating[beat.node_id] = now
            self.state.heard_beat(beat, now)

    def _on_event(self, message: Message) -> None:
        with contextlib.suppress(ProtocolError, AttributeError, KeyError, TypeError, ValueError):
            facts: Any = decode_value(message.payload)
            self.state.heard_event(cast("dict[str, Any]", facts), self._clock.wall_ms() / 1000)


SILENT_SECONDS: Final = 5.0
"""After so long without a beat a node that serves nothing is gone."""
