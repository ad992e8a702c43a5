"""The examiner: finds out who is alive, by asking.

Only silence of the kind that no process can keep, no responders, and that twice, is
taken for a node's death. What is found is remembered, for the case that it was the
leader who died: whoever leads next has to know it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aegis.actors import _registration as registration
from aegis.actors._control_channel import ControlChannel
from aegis.actors._decision import Holder
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import InstanceState
from aegis.errors import AegisError, NoResponders
from aegis.transport._codec import decode_value

__all__ = ["Examiner"]

MAX_REMEMBERED_DEATHS: Final = 1_000


class Examiner:
    """Asks nodes, instances and candidates; ``timeout`` and ``spacing`` are seconds.

    ``spacing`` lies between the two probes that prove a death: a node that lives is
    back by then.
    """

    def __init__(
        self, channel: ControlChannel, registry: Registry, *, timeout: float, spacing: float
    ) -> None:
        self.deaths: dict[str, float] = {}
        """When each of these was lost, until it is heard of again."""
        self._channel = channel
        self._registry = registry
        self._timeout = timeout
        self._spacing = spacing

    def heard(self, node_id: str) -> None:
        """A node has beaten: it lives."""
        self.deaths.pop(node_id, None)

    async def is_dead(self, node_id: str, since: float, *, probes: int) -> bool:
        """Return whether a node that was lost at ``since`` is proven to be dead."""
        for number in range(probes):
            if number:
                await asyncio.sleep(self._spacing)
            if not await self._is_nowhere(node_id):
                self.deaths.pop(node_id, None)
                return False
        self.deaths[node_id] = since
        if len(self.deaths) > MAX_REMEMBERED_DEATHS:
            del self.deaths[next(iter(self.deaths))]
        return True

    async def is_alive(self, holder: Holder) -> bool:
        """Ask the holder's node, then its own address, whether somebody is there.

        A holder that answers nothing counts as alive while its beats are in time.
        """
        subjects = self._channel.subjects
        try:
            answer = await self._channel.transport.request(
                subjects.health(holder.node_id), b"", timeout=self._timeout
            )
            facts = registration.map_of(decode_value(answer.payload)) or {}
            return holder.instance_id in facts.get("instances", (holder.instance_id,))
        except NoResponders:
            pass
        except TimeoutError:
            return self._beats_in_time(holder)
        except (AegisError, AttributeError, TypeError):
            return True
        try:
            await self._channel.transport.request(
                subjects.instance(holder.instance_id), b"", timeout=self._timeout
            )
        except NoResponders:
            return False
        except TimeoutError:
            return self._beats_in_time(holder)
        except AegisError:
            return True
        return True

    async def is_no_candidate(self, node_id: str) -> bool:
        """Return whether there is certainly no candidate on a node."""
        return await self._has_no_responders(self._channel.candidate(node_id))

    async def _is_nowhere(self, node_id: str) -> bool:
        return await self._has_no_responders(self._channel.subjects.health(node_id))

    async def _has_no_responders(self, subject: str) -> bool:
        try:
            await self._channel.transport.request(subject, b"", timeout=self._timeout)
        except NoResponders:
            return True
        except (TimeoutError, AegisError):
            pass
        return False

    def _beats_in_time(self, holder: Holder) -> bool:
        return self._registry.state_of(holder.instance_id) is InstanceState.HEALTHY
