"""Health (sans-I/O): what the leader makes of the beats of each instance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum

from attrs import define, field, frozen

from aegis.actors._lease import Beat, InstanceLoad, LeaseOptions
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import InstanceState

__all__ = ["Health", "Judgement", "Verdict"]


class Judgement(Enum):
    """What the leader makes of an instance's beats."""

    SILENT = "silence"
    STALLED = "stalled"
    DIED = "died"
    """Its node's death is proven."""
    GONE = "gone"
    ABANDONED = "abandoned"
    """Its new process has not claimed what the one before it owned."""
    RECOVERED = "recovered"


@frozen
class Verdict:
    """One instance, and what has become of it."""

    judgement: Judgement
    instance_id: str
    node_id: str
    silence: float = field(default=0.0, eq=False)
    """For how many seconds it had given no sign of life."""


@define
class _Signs:
    """The signs of life of one node."""

    heard: float
    seen: dict[str, float] = field(factory=dict[str, float])
    """When each instance stood in a beat; one that no beat names is as good as silent."""
    progress: dict[str, tuple[int, float]] = field(factory=dict[str, tuple[int, float]])


class Health:
    """Who is alive, as one leader sees it; a new leader starts from nothing.

    ``loads`` holds what each instance told of itself last.
    """

    def __init__(
        self, registry: Registry, options: LeaseOptions, loads: Mapping[str, InstanceLoad]
    ) -> None:
        self._registry = registry
        self._options = options
        self._loads = loads
        self._nodes: dict[str, _Signs] = {}
        self._dead: dict[str, float] = {}
        """When each of these was lost, until it is heard of again or long ago."""
        self._displaced: dict[str, float] = {}
        """Since when each instance has not claimed what a process before it owned."""

    def heard(self, beat: Beat, now: float) -> None:
        """A node has beaten."""
        self._dead.pop(beat.node_id, None)
        signs = self._nodes.setdefault(beat.node_id, _Signs(now))
        signs.heard = now
        for instance_id, load in beat.instances.items():
            signs.seen[instance_id] = now
            known = signs.progress.get(instance_id)
            if known is None or known[0] != load.progress or load.depth == 0:
                signs.progress[instance_id] = (load.progress, now)

    def died(self, node_id: str, at: float) -> None:
        """A node's death is proven."""
        self._dead[node_id] = at
        self._registry.doubted |= self._registry.by_node.get(node_id, set())

    def is_dead(self, node_id: str) -> bool:
        """Whether a node's death is proven, and nothing was heard of it since."""
        return node_id in self._dead

    def tick(self, now: float, *, paused: bool) -> list[Verdict]:
        """Return whose state has to change.

        If the leader itself was ``paused``, all timers begin anew: the silence was its own.
        """
        for signs in self._nodes.values() if paused else ():
            signs.heard = now
            signs.seen = dict.fromkeys(signs.seen, now)
            signs.progress = {name: (count, now) for name, (count, _) in signs.progress.items()}
        self._displaced = {
            name: now if paused else self._displaced.get(name, now)
            for name in self._registry.displaced
        }
        for node_id, instances in self._registry.by_node.items():
            known = self._nodes.setdefault(node_id, _Signs(now))
            for instance_id in instances:
                known.seen.setdefault(instance_id, now)
        self._forget(now)
        self._registry.doubted = set()
        return list(self._verdicts(now))

    def stands(self, verdict: Verdict, now: float) -> bool:
        """Whether a verdict is still right when it comes to be carried out.

        A beat may have come, or the leader may have been paused, since it was given.
        """
        if verdict.judgement is Judgement.ABANDONED:
            since = self._displaced.get(verdict.instance_id, now)
            return now - since >= self._options.gone_timeout
        if verdict.node_id not in self._nodes:
            return False
        current = self._judge(verdict.node_id, verdict.instance_id, now)
        if verdict.judgement in (Judgement.RECOVERED, Judgement.GONE):
            return current is verdict.judgement
        # What was silent may be gone by now: the milder verdict still stands.
        return current not in (None, Judgement.RECOVERED)

    def _verdicts(self, now: float) -> Iterator[Verdict]:
        for node_id, instances in self._registry.by_node.items():
            for instance_id in sorted(instances):
                judgement = self._judge(node_id, instance_id, now)
                if judgement not in (None, Judgement.RECOVERED):
                    self._registry.doubted.add(instance_id)
                healthy = self._registry.instances[instance_id].state is InstanceState.HEALTHY
                match judgement:
                    case Judgement.SILENT | Judgement.STALLED | Judgement.DIED if not healthy:
                        continue
                    case Judgement.RECOVERED if healthy:
                        continue
                    case None:
                        continue
                    case _:
                        silence = self._silence(node_id, instance_id, now)
                        if judgement is Judgement.DIED:
                            silence = now - self._dead[node_id]
                        yield Verdict(judgement, instance_id, node_id, silence)
        for instance_id, since in self._displaced.items():
            if now - since >= self._options.gone_timeout:
                yield Verdict(Judgement.ABANDONED, instance_id, "", now - since)

    def _judge(self, node_id: str, instance_id: str, now: float) -> Judgement | None:
        """Return what an instance is at this moment; None for one that was never heard."""
        options, signs = self._options, self._nodes[node_id]
        silence = self._silence(node_id, instance_id, now)
        dead = node_id in self._dead
        if silence >= (options.heartbeat_timeout if dead else options.gone_timeout):
            return Judgement.GONE
        if dead:
            return Judgement.DIED
        if silence >= options.heartbeat_timeout:
            return Judgement.SILENT
        if self._is_stalled(signs, instance_id, now):
            return Judgement.STALLED
        return Judgement.RECOVERED if instance_id in signs.progress else None

    def _silence(self, node_id: str, instance_id: str, now: float) -> float:
        return now - self._nodes[node_id].seen.get(instance_id, now)

    def _is_stalled(self, signs: _Signs, instance_id: str, now: float) -> bool:
        load = self._loads.get(instance_id)
        if load is None:
            return False
        _, since = signs.progress.get(instance_id, (0, now))
        return max(load.stalled, now - since) >= self._options.stall_timeout

    def _forget(self, now: float) -> None:
        """Drop what is about nodes and instances that are not there any more."""
        keep = self._options.gone_timeout + self._options.lease_duration
        here = self._registry.by_node
        self._nodes = {
            name: signs
            for name, signs in self._nodes.items()
            if name in here or now - signs.heard <= keep
        }
        for node_id, signs in self._nodes.items():
            for instance_id in [n for n in signs.seen if n not in here.get(node_id, ())]:
                del signs.seen[instance_id]
                signs.progress.pop(instance_id, None)
        self._dead = {name: at for name, at in self._dead.items() if now - at <= keep}
