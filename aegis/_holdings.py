"""What one instance of this node holds: a resource each, active or as a standby.

Whoever learns of a change (an event, the lease, a refused append, the registry) only
notes it here, with `own` or `lose`, and an owner that is one no more answers nothing
from that instant on. One task for each resource then does what is missing, a step at a
time, until its actor is what it is meant to be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

import structlog
from attrs import define, field

from aegis._trace import current_traceparent, enter_trace
from aegis.actors._actor import AegisActor
from aegis.actors._behaviour import Behaviour
from aegis.actors._cell import ActorCell, Status
from aegis.actors._dispatch import InstanceDesk
from aegis.actors._journaled import JournaledBehaviour, Takeover
from aegis.contracts import Role
from aegis.errors import (
    ActorDead,
    AegisError,
    Conflict,
    Fenced,
    JournalUnreadable,
    NotFound,
    TooOld,
)

__all__ = ["Holding", "HoldingHost", "Holdings"]

_log = structlog.get_logger("aegis.node")

MAX_ATTEMPTS: Final = 3
"""So often a promotion is tried whose actor fails; then the resource is released."""

RETRY_SECONDS: Final = 0.5
"""Pause between those attempts, doubled each time."""

DEMOTE_TIMEOUT: Final = 10.0
"""Seconds that ``on_demote`` may take, with what the actor does at that moment."""


@define(eq=False)
class Holding:
    """One resource, what this instance is to be for it, and its actor so far."""

    resource_id: str
    role: Role
    epoch: int = 0
    """The highest epoch that was heard of; with the role ACTIVE it is ours."""
    registered: bool = True
    """Whether the registry has this instance in the role STANDBY, if it has that."""
    cell: ActorCell | None = None
    behaviour: JournaledBehaviour | None = None
    failures: int = 0
    lock: asyncio.Lock = field(factory=asyncio.Lock)

    def matches(self) -> bool:
        """Whether the actor is what it is meant to be."""
        behaviour = self.behaviour
        if self.cell is None or behaviour is None or behaviour.owner.stopped:
            return False
        if self.role is Role.STANDBY:
            return behaviour.is_standby
        return not behaviour.is_standby and behaviour.owner.epoch == self.epoch


class HoldingHost(Protocol):
    """What the node does for what its instances hold."""

    def make_behaviour(self, holding: Holding) -> JournaledBehaviour:
        """Return a behaviour for the next life of the resource's actor."""
        ...

    async def start_cell(
        self, behaviour: Callable[[AegisActor], Behaviour], resource_id: str
    ) -> ActorCell:
        """Start an actor. Raises what its start raised."""
        ...

    async def stop_cell(self, resource_id: str) -> None:
        """Stop an actor, or do nothing if there is none."""
        ...

    async def register_standby(self, resource_id: str) -> None:
        """Register the instance as a standby. Raises AegisError."""
        ...

    async def release(self, resource_id: str) -> None:
        """Give the resource back, whatever the role. Raises nothing."""
        ...

    async def has_heir(self, resource_id: str, to: str | None) -> bool:
        """Whether a healthy standby elsewhere could own it. Raises AegisError."""
        ...

    async def release_to(self, resource_id: str, to: str | None) -> None:
        """Give the resource up for a standby. Raises AegisError if nobody answers."""
        ...

    def on_owned(self, resource_id: str, epoch: int) -> None:
        """The instance is to own the resource from now on."""
        ...

    def on_taken_over(self, resource_id: str, takeover: Takeover) -> None:
        """A promotion is complete: the actor answers."""
        ...


class Holdings:
    """The resources of one instance."""

    def __init__(self, host: HoldingHost, desk: InstanceDesk) -> None:
        self.all: dict[str, Holding] = {}
        self._host = host
        self._desk = desk
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __contains__(self, resource_id: str) -> bool:
        return resource_id in self.all

    def ids(self, role: Role) -> list[str]:
        """Return what the instance holds, or is meant to, in a role."""
        return [holding.resource_id for holding in self.all.values() if holding.role is role]

    # -- what is heard ------------------------------------------------------------------

    async def start(self, resource_id: str, role: Role, epoch: int = 0) -> None:
        """Take a resource that has been registered; return when its actor runs.

        One that cannot be had is logged and released.
        """
        holding = self.all.get(resource_id)
        if holding is None:
            holding = self.all[resource_id] = Holding(resource_id, role, epoch)
            holding.registered = role is Role.STANDBY
            holding.failures = MAX_ATTEMPTS - 1  # Whoever starts it wants to know at once.
        elif role is Role.ACTIVE:
            self._own(holding, epoch)
        await self._settle(holding)

    def own(self, resource_id: str, epoch: int) -> None:
        """The registry names this instance as the owner."""
        holding = self.all.get(resource_id)
        if holding is not None and self._own(holding, epoch):
            self._spawn(self._settle(holding))

    def _own(self, holding: Holding, epoch: int) -> bool:
        known = holding.epoch if holding.role is Role.STANDBY else holding.epoch + 1
        if self._closed or epoch < known:
            return False
        holding.role, holding.epoch = Role.ACTIVE, epoch
        holding.registered = False
        self._host.on_owned(holding.resource_id, epoch)
        if holding.behaviour is not None and not holding.behaviour.is_standby:
            holding.behaviour.void()  # It owned before, and has missed another owner.
        return True

    def lose(self, resource_id: str, epoch: int) -> None:
        """Another owner has ``epoch``: answer nothing any more, and stand by."""
        holding = self.all.get(resource_id)
        if holding is None or epoch <= holding.epoch:
            return
        was, holding.role, holding.epoch = holding.role, Role.STANDBY, epoch
        if was is Role.STANDBY:
            return
        self._void(holding)
        if not self._closed:
            self._spawn(self._settle(holding))

    def hand_over(self, resource_id: str, epoch: int, to: str | None) -> None:
        """Let a standby own a resource, if there is one: ``to``, or any if that is None."""
        holding = self.all.get(resource_id)
        if holding is not None and not self._closed:
            self._spawn(self._hand_over(holding, epoch, to))

    def lose_all(self) -> list[str]:
        """The instance is registered no more; return what it owned until now."""
        owned = self.ids(Role.ACTIVE)
        for resource_id in owned:
            holding = self.all[resource_id]
            holding.role = Role.STANDBY
            self._void(holding)
        for holding in self.all.values():
            holding.registered = False
        return owned

    def _void(self, holding: Holding) -> None:
        self._desk.resources.pop(holding.resource_id, None)
        if holding.behaviour is not None:
            holding.behaviour.void()

    def resume(self, registered: bool = True) -> None:
        """Bring up what has no actor; ``registered`` are the standbys."""
        for holding in self.all.values():
            if registered and holding.role is Role.STANDBY:
                holding.registered = True
            self._spawn(self._settle(holding))

    async def stop(self) -> None:
        """Begin nothing any more, and give up what has been begun; actors go on."""
        self._closed = True
        for holding in self.all.values():
            behaviour = holding.behaviour
            if behaviour is not None and behaviour.is_succeeding:
                behaviour.void()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def kill(self) -> None:
        """End everything at once."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for holding in self.all.values():
            if holding.cell is not None:
                holding.cell.kill()

    # -- what is done about it ------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, holding: Holding) -> None:
        async with holding.lock:
            while not holding.matches() and self._goes_on(holding):
                try:
                    if not await self._step(holding):
                        return
                except Fenced as error:
                    self._fenced(holding, int(error.facts.get("epoch", 0)))
                except JournalUnreadable as error:
                    await self._give_up(holding, error)
                except ActorDead:
                    if self._goes_on(holding):
                        await self._pause(holding)
                except Exception as error:
                    holding.failures += 1
                    if holding.failures >= MAX_ATTEMPTS:
                        await self._give_up(holding, error)
                    else:
                        self._tell_failure(holding, error)
                        if holding.behaviour is not None:
                            holding.behaviour.void()
                        await self._pause(holding)
            if holding.matches():
                holding.failures = 0

    def _goes_on(self, holding: Holding) -> bool:
        return not self._closed and self.all.get(holding.resource_id) is holding

    async def _hand_over(self, holding: Holding, epoch: int, to: str | None) -> None:
        async with holding.lock:
            try:
                has_heir = await self._host.has_heir(holding.resource_id, to)
                reason = (
                    "" if has_heir else "no healthy standby is there" + (f": {to}" if to else "")
                )
            except AegisError as error:
                has_heir, reason = False, str(error)
            cell, behaviour = holding.cell, holding.behaviour
            owns = holding.role is Role.ACTIVE and holding.epoch == epoch and holding.matches()
            if not owns or not self._goes_on(holding) or cell is None or behaviour is None:
                return  # Another owns it already, or the instance ends.
            if not has_heir:
                self._log_hand_over("not_handed_over", holding, to, reason)
                return
            # No registry that is asked meanwhile, and has not heard, makes it the owner again.
            holding.role, holding.epoch = Role.STANDBY, epoch + 1
            await self._end(holding, cell, behaviour)
            while self._goes_on(holding):
                try:
                    await self._host.release_to(holding.resource_id, to)
                    break
                except AegisError as error:
                    # What became of it is not known: it may be said again, and must be.
                    self._log_hand_over("hand_over_waits", holding, to, str(error))
                    await asyncio.sleep(RETRY_SECONDS)
        await self._settle(holding)

    def _log_hand_over(self, event: str, holding: Holding, to: str | None, reason: str) -> None:
        _log.warning(
            event,
            service_name=self._desk.service,
            instance_id=self._desk.instance_id,
            resource_id=holding.resource_id,
            to=to or "",
            reason=reason,
        )

    async def _step(self, holding: Holding) -> bool:
        """Do one thing that is missing; return whether there may be another."""
        behaviour = holding.behaviour
        if holding.cell is not None and behaviour is not None:
            if behaviour.is_standby:
                await self._promote(holding, holding.cell, holding.epoch)
            else:
                await self._end(holding, holding.cell, behaviour)
            return True
        if holding.role is Role.STANDBY and not holding.registered:
            try:
                await self._host.register_standby(holding.resource_id)
            except (NotFound, TooOld, Conflict):
                return False  # The instance itself has to register anew.
            holding.registered = True
            return True
        await self._start(holding)
        return True

    async def _start(self, holding: Holding) -> None:
        def behaviour(actor: AegisActor) -> Behaviour:
            actor.epoch = holding.epoch if holding.role is Role.ACTIVE else 0
            made = holding.behaviour = self._host.make_behaviour(holding)
            return made

        epoch = holding.epoch
        try:
            holding.cell = await self._host.start_cell(behaviour, holding.resource_id)
        except BaseException:
            holding.cell = holding.behaviour = None
            raise
        if holding.role is Role.ACTIVE and holding.epoch == epoch:
            self._desk.resources[holding.resource_id] = holding.cell

    async def _promote(self, holding: Holding, cell: ActorCell, epoch: int) -> None:
        # From now on messages wait in the mailbox, ready for the new owner.
        self._desk.resources[holding.resource_id] = cell
        done: list[Takeover] = []
        trace = current_traceparent()

        async def run() -> None:
            enter_trace(trace)
            behaviour = holding.behaviour
            if behaviour is not None and behaviour.is_standby:
                done.append(await behaviour.promote(epoch))

        await cell.perform(run)
        if done:
            self._host.on_taken_over(holding.resource_id, done[0])

    async def _end(self, holding: Holding, cell: ActorCell, behaviour: JournaledBehaviour) -> None:
        """Stop an actor that was the owner."""
        self._desk.resources.pop(holding.resource_id, None)
        if behaviour.owns and cell.status is Status.RUNNING:
            await self._tell_demotion(holding, cell)
        await self._host.stop_cell(holding.resource_id)
        holding.cell = holding.behaviour = None

    async def _tell_demotion(self, holding: Holding, cell: ActorCell) -> None:
        def run() -> Awaitable[None]:
            return cell.call_hook("on_demote")

        try:
            async with asyncio.timeout(DEMOTE_TIMEOUT):
                await cell.perform(run)
        except Exception as error:
            _log.error("actor_hook_failed", address=cell.address, hook="on_demote", exc_info=error)

    def _fenced(self, holding: Holding, newer_epoch: int) -> None:
        """The journal knows a newer owner than the registry has told of so far."""
        if holding.role is Role.ACTIVE and newer_epoch > holding.epoch:
            holding.role, holding.epoch = Role.STANDBY, newer_epoch
            self._void(holding)
        # Else the change that made it give up has been noted already.

    async def _give_up(self, holding: Holding, error: Exception) -> None:
        self._tell_failure(holding, error)
        self._void(holding)
        self.all.pop(holding.resource_id, None)
        await self._host.stop_cell(holding.resource_id)
        await self._host.release(holding.resource_id)

    def _tell_failure(self, holding: Holding, error: Exception) -> None:
        # One resource that cannot be had must not keep the others from working.
        _log.error(
            "resource_failed",
            service_name=self._desk.service,
            instance_id=self._desk.instance_id,
            resource_id=holding.resource_id,
            role=str(holding.role),
            error=str(error) or type(error).__name__,
        )

    async def _pause(self, holding: Holding) -> None:
        await asyncio.sleep(RETRY_SECONDS * 2.0 ** max(0, holding.failures - 1))
