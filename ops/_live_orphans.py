"""Resources that have no owner any more (sans-I/O), from the events of the system.

The registry forgets what nobody holds; whoever has to bring it back wants a list.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from attrs import define

from aegis.contracts import Role
from aegis.ops._live_contracts import LiveOrphans

__all__ = ["Orphans"]

MAX_REMEMBERED: Final = 20_000
"""Resources, the last that were lost."""

SHOWN: Final = 8

ON_PURPOSE: Final = "released"
"""The cause when an owner gives a resource back by itself."""


@define(eq=False)
class _Loss:
    at: float
    service: str
    instance_id: str
    cause: str


class Orphans:
    """What was lost and has not found an owner since."""

    def __init__(self) -> None:
        self._lost: OrderedDict[tuple[str, str], _Loss] = OrderedDict()

    def on_event(self, facts: Mapping[str, Any], at: float) -> None:
        """Take in an event of the system.

        Raises:
            KeyError, TypeError, AttributeError: it is not as it should be.
        """
        service = str(facts.get("service_name", ""))
        if facts.get("event") == "released" and facts.get("role") == Role.ACTIVE:
            if facts.get("cause") == ON_PURPOSE:
                for name in facts["resource_ids"]:
                    self._lost.pop((service, name), None)
                return
            loss = _Loss(at, service, str(facts["instance_id"]), str(facts.get("cause", "")))
            for name in facts["resource_ids"]:
                self._lost.pop((service, name), None)
                self._lost[service, name] = loss
            while len(self._lost) > MAX_REMEMBERED:
                self._lost.popitem(last=False)
        elif self._lost and facts.get("epochs"):
            # Whatever names an owner with an epoch.
            for name in facts["epochs"]:
                self._lost.pop((service, name), None)

    def rows(self) -> dict[str, LiveOrphans]:
        """Return what was lost together as one row, the last first."""
        together: dict[int, tuple[_Loss, list[str]]] = {}
        for (_, name), loss in reversed(self._lost.items()):
            together.setdefault(id(loss), (loss, []))[1].append(name)
        rows: dict[str, LiveOrphans] = {}
        for loss, names in together.values():
            key = f"{loss.service}/{loss.instance_id}/{loss.at:.3f}"
            rows[key] = LiveOrphans(
                id=key,
                at=loss.at,
                service_name=loss.service,
                instance_id=loss.instance_id,
                cause=loss.cause,
                resources=len(names),
                resource_ids=sorted(names)[:SHOWN],
            )
        return rows
