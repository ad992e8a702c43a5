"""Supervisors: they start children in order, restart what fails, stop in reverse.

The decisions are made by `aegis.actors._restarts`; this is the shell around them. A
failing child can take down its supervisor, and that one the next above, but never the
node: the root reports through ``on_escalate``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from enum import Enum
from typing import Any, Final

import structlog
from attrs import define, frozen

from aegis.actors._cell import ActorCell, Directive, Props, Status
from aegis.actors._messages import Failure, as_exception
from aegis.actors._ref import ActorRef
from aegis.actors._restarts import (
    DEFAULT_LIMITS,
    Child,
    Exit,
    Plan,
    RestartLimits,
    Restarts,
    RestartType,
    Strategy,
)
from aegis.actors._runtime import Runtime
from aegis.errors import ActorDead, Conflict, NotFound

__all__ = ["DEFAULT_START_TIMEOUT", "DEFAULT_STOP_TIMEOUT", "ChildSpec", "Supervisor", "TreeNode"]

DEFAULT_STOP_TIMEOUT: Final = 5.0
"""Seconds that a child gets to stop before it is killed; the value is OTP's."""

DEFAULT_START_TIMEOUT: Final = 60.0
"""Seconds that a child gets to start, which for an actor may mean to read a journal."""

_log = structlog.get_logger("aegis.supervisor")

_EXITS: Final = {
    Directive.RESUME: Exit.FAILED,
    Directive.RESTART: Exit.FAILED,
    Directive.STOP: Exit.FAILED_FOR_GOOD,
    Directive.ESCALATE: Exit.ESCALATED,
}


@frozen(eq=False)
class ChildSpec:
    """One child: an actor, by its `Props`, or another supervisor.

    The timeouts (seconds) hold for an actor, which is killed after them; a supervisor
    takes as long as its children do.
    """

    name: str
    child: Props | Supervisor
    restart: RestartType = RestartType.PERMANENT
    resource_id: str | None = None
    start_timeout: float = DEFAULT_START_TIMEOUT
    stop_timeout: float = DEFAULT_STOP_TIMEOUT


@frozen
class TreeNode:
    """One node of the tree of actors, as people and tools see it."""

    address: str
    kind: str
    """``actor`` or ``supervisor``."""
    state: str
    restarts: int = 0
    mailbox_depth: int = 0
    mailbox_capacity: int = 0
    processed: int = 0
    children: tuple[TreeNode, ...] = ()


class _Phase(Enum):
    """What a supervisor knows of a child, or is doing with it."""

    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"
    """It fell, is being stopped, or waits for its restart: more exits mean nothing."""


@define(eq=False)
class _Entry:
    """A child and what its supervisor is doing with it."""

    spec: ChildSpec
    ordered: bool
    child: ActorCell | Supervisor | None = None
    phase: _Phase = _Phase.ENDED
    early: tuple[Failure | None] | None = None
    """It ended before its start had returned here: for this reason."""
    plan: Plan | None = None
    """The plan by which it is going to be started."""


class Supervisor:
    """Supervises actors and other supervisors.

    ``children`` are started in their order and stopped in reverse. Children that are
    added later are independent of each other: they start, restart and stop at the
    same time.

    A child that is a supervisor gets its address and runtime from its parent.
    ``on_escalate`` is called on the loop when this supervisor gives up: then its
    children have stopped. The parent decides what follows; without one they have
    ended for good.

    All methods belong to the event loop.
    """

    def __init__(
        self,
        children: Iterable[ChildSpec] = (),
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        limits: RestartLimits = DEFAULT_LIMITS,
        address: str = "",
        runtime: Runtime | None = None,
        on_escalate: Callable[[Supervisor, Failure], object] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.address = address
        self.restarts = 0
        self.status = Status.STOPPED
        self._runtime = runtime
        self._parent: Supervisor | None = None
        self._restarts = Restarts(strategy, limits)
        self._on_escalate = on_escalate
        self._draw = draw
        self._entries: dict[str, _Entry] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        # Plans for a group are carried out one after another; each child of
        # one_for_one is a group of its own.
        self._one_by_one: AbstractAsyncContextManager[Any, Any] = (
            nullcontext() if strategy is Strategy.ONE_FOR_ONE else asyncio.Lock()
        )
        for spec in children:
            self._add(spec, ordered=True)

    def __repr__(self) -> str:
        return f"<Supervisor {self.address or '/'} {self.status}>"

    @property
    def runtime(self) -> Runtime:
        """What the actors below share."""
        if self._runtime is None:
            self._runtime = Runtime.current()
        return self._runtime

    def _add(self, spec: ChildSpec, *, ordered: bool) -> _Entry:
        key = _quoted(spec.name)
        if key in self._entries:
            raise Conflict(f"{self.address}: there is a child called {spec.name!r} already")
        entry = self._entries[key] = _Entry(spec, ordered)
        return entry

    def __contains__(self, name: str) -> bool:
        """Whether there is a child called ``name``."""
        return _quoted(name) in self._entries

    def child(self, name: str) -> ActorRef[Any] | Supervisor:
        """Return the child called ``name``.

        Raises:
            NotFound: there is none.
        """
        entry = self._entries.get(_quoted(name))
        if entry is None or entry.child is None:
            raise NotFound(f"{self.address}: there is no child called {name!r}")
        return entry.child.ref if isinstance(entry.child, ActorCell) else entry.child

    # -- starting -----------------------------------------------------------------

    async def start(self) -> None:
        """Start the children, each one when the one before it runs.

        Raises:
            Exception: what the first start that failed raised; then the children
                that had been started have stopped again.
        """
        self.status = Status.STARTING
        self._restarts.reset()
        failed = await self._start_all()
        if failed is not None:
            await self._stop_all()
            self.status = Status.STOPPED
            raise as_exception(failed, f"{self.address}: the start of a child")

    async def _start_all(self) -> BaseException | None:
        async with self._one_by_one:
            entries = list(self._entries.values())
            for entry in entries:
                if not entry.ordered or entry.phase is not _Phase.ENDED:
                    continue
                if (error := await self._start_entry(entry)) is not None:
                    return error
            others = [
                self._start_entry(entry)
                for entry in entries
                if not entry.ordered and entry.phase is _Phase.ENDED
            ]
            for error in await asyncio.gather(*others):
                if error is not None:
                    return error
        if self.status is not Status.STARTING:
            return ActorDead(f"{self.address or '/'}: its children failed while it started")
        self.status = Status.RUNNING
        return None

    async def _start_entry(self, entry: _Entry) -> BaseException | None:
        """Start a child, for the first time or again; return what failed."""
        entry.plan = entry.early = None
        entry.phase = _Phase.STARTING
        try:
            error = await self._start_in_time(entry)
        except Exception as raised:
            error = raised
        # Whoever stopped it meanwhile has changed the phase.
        if entry.phase is not _Phase.STARTING:
            return error or ActorDead(
                f"{self.address}/{entry.spec.name}: was stopped while it started"
            )
        if error is not None:
            entry.phase = _Phase.ENDED
            return error
        entry.phase = _Phase.RUNNING
        self._take_early_exit(entry)
        return None

    def _take_early_exit(self, entry: _Entry) -> None:
        if entry.early is not None:
            self._exited(entry, *entry.early)

    async def _start_in_time(self, entry: _Entry) -> BaseException | None:
        child = entry.child
        if isinstance(child, Supervisor):
            return await child.restart()
        if child is None:
            child = entry.child = self._make(entry.spec)
            if isinstance(child, Supervisor):
                await child.start()
                return None
            begin = child.start
        else:
            begin = child.restart
        try:
            async with asyncio.timeout(entry.spec.start_timeout):
                return await begin()
        except TimeoutError:
            child.kill(for_restart=True)
            return TimeoutError(
                f"{child.address}: did not start within {entry.spec.start_timeout} seconds"
            )

    def _make(self, spec: ChildSpec) -> ActorCell | Supervisor:
        address = f"{self.address}/{_quoted(spec.name)}"
        child = spec.child
        if isinstance(child, Supervisor):
            child.address = address
            child._parent = self
            child._runtime = self.runtime
            return child
        return ActorCell(
            child, address=address, runtime=self.runtime, resource_id=spec.resource_id, parent=self
        )

    async def start_actor(
        self,
        name: str,
        props: Props,
        *,
        restart: RestartType = RestartType.PERMANENT,
        resource_id: str | None = None,
        start_timeout: float = DEFAULT_START_TIMEOUT,
        stop_timeout: float = DEFAULT_STOP_TIMEOUT,
    ) -> ActorRef[Any]:
        """Add an actor and return its ref when it runs.

        Raises:
            Conflict: there is a child of that name.
            ActorDead: this supervisor does not run.
            Exception: what its start raised; the child is gone then.
        """
        spec = ChildSpec(name, props, restart, resource_id, start_timeout, stop_timeout)
        child = await self.start_child(spec)
        assert isinstance(child, ActorCell)
        return child.ref

    async def start_supervisor(
        self, name: str, supervisor: Supervisor, *, restart: RestartType = RestartType.PERMANENT
    ) -> Supervisor:
        """Add a supervisor and return it when all its children run; else as `start_actor`."""
        await self.start_child(ChildSpec(name, supervisor, restart))
        return supervisor

    async def start_child(self, spec: ChildSpec) -> ActorCell | Supervisor:
        """Add a child of either kind; see `start_actor`."""
        if self.status not in (Status.RUNNING, Status.STARTING):
            raise ActorDead(f"{self.address or '/'}: the supervisor does not run")
        entry = self._add(spec, ordered=False)
        error = await self._start_entry(entry)
        if error is None and entry.child is not None:
            return entry.child
        if self._entries.get(_quoted(spec.name)) is entry:
            del self._entries[_quoted(spec.name)]
        if entry.child is not None:
            entry.child.finish(f"the start failed: {error}", failed=True)
        assert error is not None
        raise as_exception(error, f"{self.address}/{spec.name}: the start")

    # -- exits --------------------------------------------------------------------

    def child_exited(self, child: ActorCell | Supervisor, failure: Failure | None, /) -> None:
        """Take note that ``child`` ended; called by the child, on the loop."""
        key = child.address.rpartition("/")[2]
        entry = self._entries.get(key)
        if entry is None or entry.child is not child:
            return
        if entry.phase is _Phase.STARTING:
            entry.early = (failure,)
        elif entry.phase is _Phase.RUNNING:
            self._exited(entry, failure)

    def _exited(self, entry: _Entry, failure: Failure | None) -> None:
        exit = Exit.NORMAL if failure is None else _EXITS[Directive(failure.directive)]
        self._plan(entry, exit, failure)

    def _plan(self, entry: _Entry, exit: Exit, failure: Failure | None) -> None:
        if self.status not in (Status.RUNNING, Status.STARTING):
            return
        entry.phase = _Phase.ENDED
        plan = self._restarts.child_exited(
            [Child(key, other.spec.restart) for key, other in self._entries.items()],
            _quoted(entry.spec.name),
            exit,
            now=self.runtime.loop.time(),
            draw=self._draw(),
        )
        # The child is still inside its last step.
        self.runtime.call_soon(self._begin, plan, failure)

    def _begin(self, plan: Plan, failure: Failure | None) -> None:
        self.runtime.start_detached(self._guarded(self._carry_out(plan, failure)))

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except Exception:
            _log.exception("supervisor_failed", address=self.address)

    async def _carry_out(self, plan: Plan, failure: Failure | None) -> None:
        async with self._one_by_one:
            if self.status not in (Status.RUNNING, Status.STARTING):
                return
            if plan.escalate:
                await self._escalate(failure)
                return
            reason = "stopped" if failure is None else f"failed: {failure}"
            for key in plan.forget:
                entry = self._entries.pop(key, None)
                if entry is not None:
                    await self._end(entry, reason=reason, failed=failure is not None)
            for key in plan.stop:
                if (entry := self._entries.get(key)) is not None:
                    await self._end(entry, for_restart=True)
            starting = [self._entries[key] for key in plan.start if key in self._entries]
            for entry in starting:
                entry.plan = plan
        if not starting:
            return
        loop = self.runtime.loop
        timers = self._timers
        timers -= {timer for timer in timers if timer.when() < loop.time()}
        timers.add(
            loop.call_later(plan.delay, self._start_again, plan, context=self.runtime.context)
        )

    def _start_again(self, plan: Plan) -> None:
        self.runtime.start_detached(self._guarded(self._restart_group(plan)))

    async def _restart_group(self, plan: Plan) -> None:
        async with self._one_by_one:
            for key in plan.start:
                entry = self._entries.get(key)
                if self.status not in (Status.RUNNING, Status.STARTING):
                    return
                # A later plan, or a stop, may have taken it over.
                if entry is None or entry.plan is not plan:
                    continue
                error = await self._start_entry(entry)
                if error is None or self._entries.get(key) is not entry:
                    continue
                _log.error("child_restart_failed", address=f"{self.address}/{key}", exc_info=error)
                self._plan(entry, Exit.FAILED, Failure(error, Directive.RESTART))
                return  # The new plan has the rest of this one in it, if they belong together.

    async def _escalate(self, failure: Failure | None) -> None:
        failure = failure or Failure(RuntimeError("a child ended too often"), Directive.RESTART)
        _log.error("supervisor_escalates", address=self.address or "/", reason=str(failure))
        self.status = Status.SUSPENDED
        await self._stop_all(
            for_restart=self._parent is not None, reason=f"failed: {failure}", failed=True
        )
        self.runtime.observer.on_escalation(self, failure)
        if self._parent is None:
            self.status = Status.STOPPED
        if self._on_escalate is not None:
            try:
                self._on_escalate(self, failure)
            except Exception:
                _log.exception("on_escalate_failed", address=self.address)
        if self._parent is not None:
            self._parent.child_exited(self, Failure(failure.error, Directive.RESTART))

    # -- as a child of another supervisor -----------------------------------------

    async def restart(self) -> BaseException | None:
        """Start all children again, those included that were added; return what failed.

        For the parent, after `terminate` for a restart or an escalation.
        """
        self.restarts += 1
        self.status = Status.STARTING
        self._restarts.reset()
        error = await self._start_all()
        if error is not None:
            self.status = Status.SUSPENDED
            await self._stop_all(for_restart=True)
        return error

    async def terminate(self, *, timeout: float = 0.0, for_restart: bool = False) -> bool:
        """Stop all children; with ``for_restart`` they can be started again."""
        del timeout
        self.status = Status.STOPPING
        await self._stop_all(for_restart=for_restart)
        self.status = Status.SUSPENDED if for_restart else Status.STOPPED
        return True

    def finish(self, reason: str, *, failed: bool = False) -> None:
        """End for good after a suspension."""
        self.status = Status.STOPPED
        self._cancel_timers()
        for entry in reversed(self._entries.values()):
            entry.phase = _Phase.ENDED
            if entry.child is not None:
                entry.child.finish(reason, failed=failed)
        self._forget_ended()

    # -- stopping -----------------------------------------------------------------

    async def stop(self) -> None:
        """Stop all children: those that were added later, then the others in reverse order.

        The former are forgotten; the latter may be started again with `start`.
        """
        if self._parent is not None and self.status is not Status.STOPPED:
            await self._parent.stop_child(self.address.rpartition("/")[2], quoted=True)
            return
        await self.terminate()

    async def stop_child(self, name: str, *, quoted: bool = False) -> None:
        """Stop a child and forget it; it is not restarted, whatever its type.

        Raises:
            NotFound: there is no child of that name.
        """
        entry = self._entries.pop(name if quoted else _quoted(name), None)
        if entry is None:
            raise NotFound(f"{self.address}: there is no child called {name!r}")
        await self._end(entry)

    async def _stop_all(
        self, *, for_restart: bool = False, reason: str = "stopped", failed: bool = False
    ) -> None:
        self._cancel_timers()
        entries = list(self._entries.values())

        def end(entry: _Entry) -> Awaitable[None]:
            return self._end(entry, for_restart=for_restart, reason=reason, failed=failed)

        await asyncio.gather(*(end(entry) for entry in entries if not entry.ordered))
        for entry in reversed(entries):
            if entry.ordered:
                await end(entry)
        if not for_restart:
            self._forget_ended()

    def _forget_ended(self) -> None:
        self._entries = {key: entry for key, entry in self._entries.items() if entry.ordered}
        for entry in self._entries.values():
            entry.child = None

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    async def _end(
        self,
        entry: _Entry,
        *,
        for_restart: bool = False,
        reason: str = "stopped",
        failed: bool = False,
    ) -> None:
        entry.plan = None
        entry.phase = _Phase.ENDED
        child = entry.child
        if child is None:
            return
        if failed and not for_restart and child.status is Status.SUSPENDED:
            # This is the one that fell; those that watch it should hear why.
            child.finish(reason, failed=True)
            return
        await child.terminate(timeout=entry.spec.stop_timeout, for_restart=for_restart)

    # -- looking on ---------------------------------------------------------------

    def statistics(self) -> TreeNode:
        """Return the tree below this supervisor as it is now."""
        return TreeNode(
            address=self.address or "/",
            kind="supervisor",
            state=self.status.value,
            restarts=self.restarts,
            children=tuple(
                (
                    entry.child.statistics()
                    if isinstance(entry.child, Supervisor)
                    else _actor_node(f"{self.address}/{key}", entry.child)
                )
                for key, entry in self._entries.items()
            ),
        )


def _actor_node(address: str, cell: ActorCell | None) -> TreeNode:
    if cell is None:
        return TreeNode(address, "actor", Status.STOPPED.value)
    return TreeNode(
        address=address,
        kind="actor",
        state=cell.status.value,
        restarts=cell.restarts,
        mailbox_depth=len(cell.mailbox),
        mailbox_capacity=cell.mailbox.capacity,
        processed=cell.processed,
    )


def _quoted(name: str) -> str:
    """Return ``name`` as one part of an address."""
    return name.replace("%", "%25").replace("/", "%2F")
