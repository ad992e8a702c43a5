"""What the participants of one simulation share."""

from __future__ import annotations

from attrs import define

from aegis.actors._owner import OwnerLimits
from tests.simulation._checker import Checker
from tests.simulation._store import Store
from tests.simulation._world import World

__all__ = ["Simulation"]


@define(slots=True, eq=False)
class Simulation:
    """The world, what stands in it, and the bounds that hold in it."""

    world: World
    store: Store
    checker: Checker
    limits: OwnerLimits
    resources: dict[str, bool]
    """Each resource, and whether it is event-sourced."""
    plant: str = ""
    mail: bool = True
    """Whether there are durable sends, transfers and reminders."""
    poisoned: bool = False
    """Whether the one message was sent at which every owner dies."""
