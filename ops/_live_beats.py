"""What beats tell of nodes and instances (sans-I/O): who is silent, what waits, how much goes.

A beat says how many messages an instance has ended so far; the rate is taken over the last
few beats, by when they came. Times are boot-clock seconds.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from aegis.actors._lease import Beat
from aegis.ops._live_contracts import LiveLoad
from aegis.ops._rate import Rate

__all__ = ["LATE", "OK", "SILENT", "LiveBeats"]

OK: Final = "ok"
LATE: Final = "late"
SILENT: Final = "silent"

FORGET_SECONDS: Final = 30.0
"""After so long a silent node is of the past. Supervisors judge far earlier."""

WORTH_A_WORD: Final = 1.0
"""For how many seconds an actor may make no progress until that is told: many handlers
take a while."""

LATE_BEATS: Final = 2.5
"""How many intervals may pass without a beat until it is called late."""


@define
class _Progress:
    depth: int = 0
    stalled: float = 0.0
    ended: Rate = field(factory=Rate)


@define
class _Node:
    heard: float
    instances: dict[str, _Progress] = field(factory=dict[str, _Progress])


class LiveBeats:
    """The beats of all nodes. ``interval`` and ``timeout`` are the seconds they are set to."""

    def __init__(self, *, interval: float, timeout: float) -> None:
        self._late = min(LATE_BEATS * interval, timeout)
        self._timeout = timeout
        self._nodes: dict[str, _Node] = {}

    def heard(self, beat: Beat, now: float) -> None:
        """Take over a beat."""
        node = self._nodes.setdefault(beat.node_id, _Node(now))
        node.heard = now
        for gone in [name for name in node.instances if name not in beat.instances]:
            del node.instances[gone]
        for name, load in beat.instances.items():
            progress = node.instances.setdefault(name, _Progress())
            progress.depth, progress.stalled = load.depth, load.stalled
            progress.ended.heard(now, load.progress)

    def expect(self, node_id: str, now: float) -> None:
        """Take over that there is a node, of which no beat may have come yet."""
        self._nodes.setdefault(node_id, _Node(now))

    def forget(self, now: float) -> None:
        """Forget those who have been silent for long."""
        for node_id in [n for n, node in self._nodes.items() if now - node.heard > FORGET_SECONDS]:
            del self._nodes[node_id]

    def nodes(self, now: float) -> dict[str, str]:
        """Return of each node whether its beats are ``ok``, ``late`` or ``silent``."""
        return {node_id: self._called(now - node.heard) for node_id, node in self._nodes.items()}

    def _called(self, silence: float) -> str:
        if silence <= self._late:
            return OK
        return LATE if silence <= self._timeout else SILENT

    def loads(self, now: float) -> dict[str, LiveLoad]:
        """Return what each instance of a node that is not silent has told last."""
        return {
            name: LiveLoad(
                progress.depth,
                _rounded(progress.ended.per_second() or 0.0),
                round(progress.stalled) if progress.stalled >= WORTH_A_WORD else 0.0,
            )
            for node in self._nodes.values()
            if now - node.heard <= self._timeout
            for name, progress in node.instances.items()
        }


def _rounded(rate: float) -> float:
    # Three digits tell a person enough, and what does not change is not sent.
    return float(f"{rate:.3g}")
