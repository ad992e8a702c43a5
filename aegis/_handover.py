"""Leaving in good order: what an instance owns goes to the standbys, group by group.

A resource is away only for as long as its own group changes hands: it is stopped, the
registry is written, the standby fences and serves. All others are served meanwhile,
here until their turn comes and there afterwards. Their callers are told by the
registry's event, and repeat at once what was refused here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import structlog

from aegis.actors._dispatch import InstanceDesk
from aegis.actors._membership import Membership
from aegis.actors._registry_entries import InstanceState
from aegis.errors import AegisError, Unavailable

__all__ = ["GROUP_TIMEOUT", "HandOver", "with_heirs"]

_log = structlog.get_logger("aegis.node")

GROUP_SIZE: Final = 16
"""Resources that change hands together. More would each wait longer for the others,
fewer would not be worth the leader's write."""

GROUP_TIMEOUT: Final = 2.0
"""Seconds for one group; if the leader is not there, the rest is unregistered at once."""

TOTAL_TIMEOUT: Final = 10.0
"""Seconds for all groups together; what is left then is unregistered at once."""

SLOW_SECONDS: Final = 0.05
"""An actor that is busy for longer does not hold up its group: it goes last."""

LOOK_UP_TIMEOUT: Final = 1.0
"""Seconds to learn who stands by."""


class HandOver:
    """Hands over what an instance owns and others stand by for; the rest it keeps."""

    def __init__(
        self,
        membership: Membership,
        desk: InstanceDesk,
        stop_cell: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        self._membership = membership
        self._desk = desk
        self._stop_cell = stop_cell
        self._slow: dict[str, asyncio.Task[None]] = {}

    async def run(self, owned: list[str]) -> None:
        """Hand over what can be; raises nothing, since all else can be unregistered."""
        loop, desk = asyncio.get_running_loop(), self._desk
        begun, count = loop.time(), 0
        try:
            heirs = await with_heirs(self._membership, desk, owned)
            for start in range(0, len(heirs), GROUP_SIZE):
                if loop.time() >= begun + TOTAL_TIMEOUT:
                    raise Unavailable(f"it takes longer than {TOTAL_TIMEOUT:g} s")
                count += await self._hand_over(heirs[start : start + GROUP_SIZE])
            await asyncio.gather(*self._slow.values())
            count += await self._release(list(self._slow))
        except AegisError as error:
            _log.warning("hand_over_ends_early", instance_id=desk.instance_id, error=str(error))
        if count:
            _log.info(
                "handed_over",
                service_name=desk.service,
                instance_id=desk.instance_id,
                resources=count,
                duration_ms=round((loop.time() - begun) * 1000, 1),
            )

    async def _hand_over(self, group: list[str]) -> int:
        for resource_id in group:
            self._desk.resources.pop(resource_id, None)
        loop = asyncio.get_running_loop()
        stopping = {name: loop.create_task(self._stop_cell(name)) for name in group}
        await asyncio.wait(stopping.values(), timeout=SLOW_SECONDS)
        self._slow |= {name: task for name, task in stopping.items() if not task.done()}
        return await self._release([name for name, task in stopping.items() if task.done()])

    async def _release(self, resource_ids: list[str]) -> int:
        if resource_ids:
            await self._membership.release_resources(
                self._desk.service, self._desk.instance_id, resource_ids, timeout=GROUP_TIMEOUT
            )
        return len(resource_ids)


async def with_heirs(
    membership: Membership, desk: InstanceDesk, owned: list[str], heir: str | None = None
) -> list[str]:
    """Return those that somebody stands by for on another node, the readiest first.

    If one is named, those that ``heir`` does. Raises AegisError if nobody can tell.
    """
    if not owned:
        return []
    ready: dict[str, float] = {}
    for resource in await membership.look_up(desk.service, owned, timeout=LOOK_UP_TIMEOUT):
        if resource["instance_id"] != desk.instance_id:
            continue
        standbys = [s for s in resource["standbys"] if heir in (None, s["instance_id"])]
        lags = list(_lags(standbys, membership.node_id))
        if lags:
            ready[resource["resource_id"]] = min(lags)
    return sorted(ready, key=lambda resource_id: ready[resource_id])


def _lags(standbys: Iterable[dict[str, Any]], node_id: str) -> Iterable[float]:
    """Yield how far each fit standby is behind; infinite if it has not told yet."""
    for standby in standbys:
        if standby["state"] == InstanceState.HEALTHY and standby["node_id"] != node_id:
            lag = standby["lag"]
            yield math.inf if lag is None else lag
