"""Supervisors at work. Restart delays pass in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from attrs import define, field

from aegis.actors._actor import AegisActor
from aegis.actors._cell import Directive, Props
from aegis.actors._messages import Failure, Terminated
from aegis.actors._ref import ActorRef
from aegis.actors._restarts import RestartLimits, RestartType, Strategy
from aegis.actors._runtime import Runtime
from aegis.actors._supervisor import ChildSpec, Supervisor, TreeNode
from aegis.errors import ActorDead, Conflict, HandlerFailed, NotFound
from aegis.transport._virtual_loop import run as run_virtual
from tests.actors.kernel import Recorder, Scripted, Watching

ALWAYS = RestartLimits(max_restarts=100, window=1000.0, first_delay=1.0, max_delay=8.0, jitter=0.0)


class Child(AegisActor):
    """Writes its life into a journal shared by all, and dies when it is told to."""

    service = "child"
    failure_directive = Directive.RESTART

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world

    async def on_start(self) -> None:
        if self.name in self.world.hanging:
            await asyncio.Event().wait()
        if self.world.failing.get(self.name, 0) > 0:
            self.world.failing[self.name] -= 1
            raise OSError(f"{self.name} cannot start")
        self.world.journal.append(f"+{self.name}")

    async def on_stop(self) -> None:
        self.world.journal.append(f"-{self.name}")
        if self.name in self.world.hanging:
            await asyncio.Event().wait()

    async def on_failure(self, *_: Any, **__: Any) -> None:
        self.world.journal.append(f"!{self.name}")

    async def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return (self.name, message)


@define
class World:
    """What the children of one test share, and their supervisor."""

    journal: list[str] = field(factory=list[str])
    failing: dict[str, int] = field(factory=dict[str, int])
    hanging: set[str] = field(factory=set[str])
    escalations: list[str] = field(factory=list[str])
    recorder: Recorder = field(factory=Recorder)

    def spec(
        self, name: str, restart: RestartType = RestartType.PERMANENT, **options: Any
    ) -> ChildSpec:
        return ChildSpec(name, Props(Child, (name, self)), restart, **options)

    def supervisor(self, *names: str, **options: Any) -> Supervisor:
        options.setdefault("limits", ALWAYS)
        options.setdefault("address", "/services")
        return Supervisor(
            [self.spec(name) for name in names],
            runtime=Runtime(observer=self.recorder),
            on_escalate=lambda _, failure: self.escalations.append(str(failure)),
            **options,
        )

    def since(self) -> list[str]:
        """What was written since the last look."""
        seen = list(self.journal)
        self.journal.clear()
        return seen


def ref_of(supervisor: Supervisor, name: str) -> ActorRef[Any]:
    child = supervisor.child(name)
    assert isinstance(child, ActorRef)
    return child


async def crash(ref: ActorRef[Any], error: BaseException | None = None) -> None:
    with pytest.raises((OSError, HandlerFailed)):
        await ref.ask(error or OSError("crash"))


async def after(seconds: float) -> None:
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, done.set_result, None)
    await done


def in_virtual_time(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await test(World())

        run_virtual(main())

    run.__name__ = test.__name__
    return run


# -- start and stop -------------------------------------------------------------------


@in_virtual_time
async def test_children_start_in_order_and_stop_in_reverse(world: World) -> None:
    root = world.supervisor("a", "b", "c")
    await root.start()
    assert world.since() == ["+a", "+b", "+c"]
    await root.stop()
    assert world.since() == ["-c", "-b", "-a"]


@in_virtual_time
async def test_a_start_that_fails_stops_those_before_it_in_reverse(world: World) -> None:
    world.failing["c"] = 1
    root = world.supervisor("a", "b", "c", "d")
    with pytest.raises(OSError, match="c cannot start"):
        await root.start()
    assert world.since() == ["+a", "+b", "-b", "-a"]
    await root.start()
    assert world.since() == ["+a", "+b", "+c", "+d"]


@in_virtual_time
async def test_a_child_that_does_not_start_in_time_is_killed(world: World) -> None:
    world.hanging.add("slow")
    root = world.supervisor("a")
    await root.start()
    with pytest.raises(TimeoutError, match="within 3"):
        await root.start_actor("slow", Props(Child, ("slow", world)), start_timeout=3)
    assert "slow" not in root


@in_virtual_time
async def test_a_child_that_does_not_stop_in_time_is_killed(world: World) -> None:
    root = world.supervisor("a")
    await root.start()
    ref = await root.start_actor("slow", Props(Child, ("slow", world)), stop_timeout=3)
    world.hanging.add("slow")
    began = asyncio.get_running_loop().time()
    await root.stop()
    assert asyncio.get_running_loop().time() - began == pytest.approx(3)
    assert not ref.is_alive()
    assert world.since() == ["+a", "+slow", "-slow", "-a"]


@in_virtual_time
async def test_children_that_are_added_get_an_address_and_can_be_taken_off(world: World) -> None:
    root = world.supervisor()
    await root.start()
    ref = await root.start_actor("acct/1", Props(Child, ("x", world)), resource_id="acct/1")
    assert ref.address == "/services/acct%2F1"
    assert ref.cell.resource_id == "acct/1"
    assert root.child("acct/1") is ref
    with pytest.raises(Conflict):
        await root.start_actor("acct/1", Props(Child, ("x", world)))
    await root.stop_child("acct/1")
    assert not ref.is_alive()
    await after(100)
    assert world.since() == ["+x", "-x"]
    with pytest.raises(NotFound):
        root.child("acct/1")
    with pytest.raises(NotFound):
        await root.stop_child("acct/1")


@in_virtual_time
async def test_an_added_child_whose_start_fails_is_gone(world: World) -> None:
    root = world.supervisor()
    await root.start()
    world.failing["x"] = 1
    with pytest.raises(OSError, match="x cannot start"):
        await root.start_actor("x", Props(Child, ("x", world)))
    assert "x" not in root
    await root.start_actor("x", Props(Child, ("x", world)))


async def test_a_supervisor_that_does_not_run_takes_no_children() -> None:
    with pytest.raises(ActorDead):
        await World().supervisor().start_actor("x", Props(Watching))


@in_virtual_time
async def test_a_stop_reaches_a_child_that_waits_for_its_restart(world: World) -> None:
    root = world.supervisor("a", "b")
    await root.start()
    await crash(ref_of(root, "a"))
    ref = ref_of(root, "a")
    waiting = ref.ask("hello")
    await root.stop()
    with pytest.raises(ActorDead):
        await waiting
    await after(100)
    assert world.since() == ["+a", "+b", "!a", "-b"]


@in_virtual_time
async def test_a_stop_reaches_a_child_in_the_middle_of_its_restart(world: World) -> None:
    root = world.supervisor("a")
    await root.start()
    world.hanging.add("a")
    await crash(ref_of(root, "a"))
    await after(2)
    await root.stop()
    await after(100)
    assert world.since() == ["+a", "!a"]


# -- restarts -------------------------------------------------------------------------


@in_virtual_time
async def test_restart_keeps_ref_address_and_messages_waiting_in_the_mailbox(
    world: World,
) -> None:
    root = world.supervisor("a")
    await root.start()
    ref = ref_of(root, "a")
    first = ref.cell.actor
    failing = ref.ask(OSError("crash"))
    answers = [ref.ask(number) for number in range(3)]
    with pytest.raises(OSError, match="crash"):
        await failing
    assert [await answer for answer in answers] == [("a", 0), ("a", 1), ("a", 2)]
    assert ref_of(root, "a") is ref
    assert ref.cell.actor is not first
    assert world.since() == ["+a", "!a", "+a"]


@in_virtual_time
async def test_one_for_one_restarts_only_the_child_that_failed(world: World) -> None:
    root = world.supervisor("a", "b", "c")
    await root.start()
    world.since()
    await crash(ref_of(root, "b"))
    await after(2)
    assert world.since() == ["!b", "+b"]


@in_virtual_time
async def test_one_for_all_restarts_everybody_in_order(world: World) -> None:
    root = world.supervisor("a", "b", "c", strategy=Strategy.ONE_FOR_ALL)
    await root.start()
    world.since()
    waiting_at_c = ref_of(root, "c").ask("kept")
    await waiting_at_c
    await crash(ref_of(root, "b"))
    kept = ref_of(root, "c").ask("kept")
    await after(2)
    assert world.since() == ["!b", "-c", "-a", "+a", "+b", "+c"]
    assert await kept == ("c", "kept")


@in_virtual_time
async def test_rest_for_one_restarts_those_that_were_started_later(world: World) -> None:
    root = world.supervisor("a", "b", "c", strategy=Strategy.REST_FOR_ONE)
    await root.start()
    world.since()
    await crash(ref_of(root, "b"))
    await after(2)
    assert world.since() == ["!b", "-c", "+b", "+c"]


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
def test_a_group_whose_restart_fails_tries_again_later_as_a_whole(strategy: Strategy) -> None:
    async def main() -> None:
        world = World()
        root = world.supervisor("a", "b", "c", strategy=strategy)
        await root.start()
        world.since()
        world.failing["b"] = 1
        await crash(ref_of(root, "a"))
        await after(20)
        expected = ["!a", "-c", "-b", "+a"]
        if strategy is Strategy.ONE_FOR_ALL:
            expected += ["-a", "+a"]
        assert world.since() == [*expected, "+b", "+c"]
        assert await ref_of(root, "c").ask(1) == ("c", 1)

    run_virtual(main())


@in_virtual_time
async def test_two_failures_at_once_in_a_group_end_with_everybody_running(world: World) -> None:
    root = world.supervisor("a", "b", "c", strategy=Strategy.ONE_FOR_ALL)
    await root.start()
    for name in ("a", "c"):
        ref_of(root, name).tell(OSError("crash"))
    await after(50)
    for name in ("a", "b", "c"):
        assert await ref_of(root, name).ask(1) == (name, 1)
    assert world.journal.count("+b") == 2 + world.journal.count("-b") - 1


@in_virtual_time
async def test_a_later_plan_takes_over_who_waits_for_an_earlier_one(world: World) -> None:
    root = world.supervisor("a", "b", "c", strategy=Strategy.REST_FOR_ONE)
    await root.start()
    world.since()
    await crash(ref_of(root, "c"))
    await after(0.5)
    await crash(ref_of(root, "a"))
    await after(10)
    assert world.since() == ["!c", "!a", "-b", "+a", "+b", "+c"]
    assert await ref_of(root, "c").ask(1) == ("c", 1)


@in_virtual_time
async def test_a_child_that_fails_as_soon_as_it_runs_is_restarted_like_any_other(
    world: World,
) -> None:
    class Doomed(Child):
        async def on_start(self) -> None:
            await super().on_start()
            if world.journal.count("+d") == 1:
                self.actor_ref.tell(OSError("at once"))
            await asyncio.sleep(0)

    root = world.supervisor()
    await root.start()
    ref = await root.start_actor("d", Props(Doomed, ("d", world)))
    await after(2)
    assert await ref.ask(1) == ("d", 1)
    assert world.since() == ["+d", "!d", "+d"]


@in_virtual_time
async def test_restarts_wait_longer_each_time(world: World) -> None:
    root = world.supervisor("a")
    await root.start()
    world.failing["a"] = 4
    began = asyncio.get_running_loop().time()
    await crash(ref_of(root, "a"))
    await ref_of(root, "a").wait_started()
    assert asyncio.get_running_loop().time() - began == pytest.approx(1 + 2 + 4 + 8 + 8)


@in_virtual_time
async def test_a_permanent_child_that_stopped_by_itself_comes_back(world: World) -> None:
    root = world.supervisor("a")
    await root.start()
    ref = ref_of(root, "a")
    await ref.stop()
    await after(2)
    assert await ref.ask(1) == ("a", 1)
    assert world.since() == ["+a", "-a", "+a"]


@in_virtual_time
async def test_transient_and_temporary_children_come_back_only_as_they_should(
    world: World,
) -> None:
    root = world.supervisor()
    await root.start()
    watcher = await root.start_actor("watcher", Props(Watching))
    for name, restart in (("t", RestartType.TRANSIENT), ("x", RestartType.TEMPORARY)):
        await root.start_child(world.spec(name, restart))
    transient, temporary = ref_of(root, "t"), ref_of(root, "x")
    temporary.watch(watcher)
    await crash(transient)
    await crash(temporary)
    await after(2)
    assert await transient.ask(1) == ("t", 1)
    assert "x" not in root
    assert watcher.cell.actor.__dict__["seen"] == [
        Terminated("/services/x", "failed: OSError: crash", failed=True)
    ]
    await transient.stop()
    await after(2)
    assert "t" not in root


@in_virtual_time
async def test_a_system_exit_restarts_the_child_and_spares_everybody_else(world: World) -> None:
    root = world.supervisor("a", "b")
    await root.start()
    for error in (SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()):
        await crash(ref_of(root, "a"), error)
        await after(20)
        assert await ref_of(root, "a").ask(1) == ("a", 1)
    assert world.since() == ["+a", "+b"] + ["!a", "+a"] * 3


@in_virtual_time
async def test_a_constructor_that_fails_at_a_restart_is_tried_again(world: World) -> None:
    problems = [SystemExit(1), ValueError("x")]

    class Fragile(Child):
        def __init__(self, name: str, world: World) -> None:
            super().__init__(name, world)
            if made:
                raise problems.pop()
            made.append(1)

    made: list[int] = []
    root = world.supervisor()
    await root.start()
    ref = await root.start_actor("f", Props(Fragile, ("f", world)))
    await crash(ref)
    await after(2.5)
    made.clear()
    await after(20)
    assert await ref.ask(1) == ("f", 1)


@in_virtual_time
async def test_a_directive_to_stop_ends_even_a_permanent_child(world: World) -> None:
    class Final(Child):
        failure_directive = Directive.STOP

    root = world.supervisor("a")
    await root.start()
    ref = await root.start_actor("f", Props(Final, ("f", world)))
    await crash(ref)
    await after(20)
    assert not ref.is_alive()
    assert "f" not in root


@in_virtual_time
async def test_a_handlers_exception_resumes_by_default_and_is_only_told(world: World) -> None:
    root = world.supervisor()
    await root.start()
    journal: list[Any] = []
    ref = await root.start_actor("s", Props(Scripted, (journal,)))
    await crash(ref)
    assert await ref.ask(1) == 1
    assert world.recorder.restarted == 0
    assert [failure.directive for failure in world.recorder.failures] == ["resume"]


# -- escalation -----------------------------------------------------------------------

FEW = RestartLimits(max_restarts=1, window=100.0, first_delay=1.0, jitter=0.0)


@in_virtual_time
async def test_too_many_restarts_stop_all_children_and_the_root_reports_it(
    world: World,
) -> None:
    root = world.supervisor("a", "b", limits=FEW)
    await root.start()
    a, b = ref_of(root, "a"), ref_of(root, "b")
    await crash(a)
    await after(2)
    assert world.escalations == []
    await crash(a)
    await after(2)
    assert world.escalations == ["OSError: crash"]
    assert world.since() == ["+a", "+b", "!a", "+a", "!a", "-b"]
    assert not a.is_alive()
    assert not b.is_alive()
    assert root.statistics().state == "stopped"
    await root.start()
    assert await ref_of(root, "a").ask(1) == ("a", 1)


@in_virtual_time
async def test_an_escalation_makes_the_parent_restart_the_supervisor_with_its_children(
    world: World,
) -> None:
    inner = Supervisor([world.spec("a"), world.spec("b")], limits=FEW)
    root = world.supervisor("first")
    await root.start()
    await root.start_supervisor("inner", inner)
    added = await inner.start_actor("added", Props(Child, ("added", world)))
    a = ref_of(inner, "a")
    assert a.address == "/services/inner/a"
    waiting: list[Any] = []
    for _ in range(2):
        await crash(a)
        waiting.append(a.ask("kept"))
        await after(5)
    assert world.escalations == []
    assert world.recorder.escalated == 1
    assert [await answer for answer in waiting] == [("a", "kept")] * 2
    assert await added.ask(1) == ("added", 1)
    assert root.statistics().children[1].restarts == 1
    assert world.since() == [
        *("+first", "+a", "+b", "+added"),
        *("!a", "+a"),
        *("!a", "-added", "-b", "+a", "+b", "+added"),
    ]


@in_virtual_time
async def test_a_child_may_ask_its_supervisor_to_fail_at_once(world: World) -> None:
    class Fatal(Child):
        failure_directive = Directive.ESCALATE

    root = world.supervisor("a")
    await root.start()
    await crash(await root.start_actor("f", Props(Fatal, ("f", world))))
    await after(1)
    assert world.escalations == ["OSError: crash"]
    assert world.since() == ["+a", "+f", "!f", "-a"]


@in_virtual_time
async def test_a_temporary_supervisor_that_gives_up_is_finished_and_others_go_on(
    world: World,
) -> None:
    reported: list[Failure] = []
    inner = Supervisor(
        [world.spec("a")],
        limits=RestartLimits(max_restarts=0),
        on_escalate=lambda _, failure: reported.append(failure),
    )
    root = world.supervisor("other")
    await root.start()
    await root.start_supervisor("inner", inner, restart=RestartType.TEMPORARY)
    a = ref_of(inner, "a")
    waiting = a.ask("x")
    await waiting
    await crash(a)
    late = a.ask("late")
    with pytest.raises(ActorDead):
        await late
    assert len(reported) == 1
    assert "inner" not in root
    assert await ref_of(root, "other").ask(1) == ("other", 1)


@in_virtual_time
async def test_a_supervisor_whose_children_cannot_start_fails_its_parents_start(
    world: World,
) -> None:
    world.failing["a"] = 1
    inner = Supervisor([world.spec("a")])
    root = Supervisor([world.spec("first"), ChildSpec("inner", inner)], limits=ALWAYS, address="/x")
    with pytest.raises(OSError, match="a cannot start"):
        await root.start()
    assert world.since() == ["+first", "-first"]
    await root.start()
    assert world.since() == ["+first", "+a"]
    await root.stop()
    assert world.since() == ["-a", "-first"]


@in_virtual_time
async def test_a_callback_that_fails_does_no_harm(world: World) -> None:
    def fail(_: Supervisor, __: Failure) -> None:
        raise ValueError

    root = Supervisor([world.spec("a")], limits=RestartLimits(max_restarts=0), on_escalate=fail)
    await root.start()
    await crash(ref_of(root, "a"))
    await after(1)
    assert root.statistics().state == "stopped"


# -- looking on -----------------------------------------------------------------------


@in_virtual_time
async def test_statistics_are_the_tree_as_it_is(world: World) -> None:
    inner = Supervisor([world.spec("acct-1")])
    root = world.supervisor("a")
    await root.start()
    await root.start_supervisor("account", inner)
    ref = ref_of(inner, "acct-1")
    await ref.ask("x")
    await crash(ref)
    ref.tell("waits")
    tree = root.statistics()
    assert tree.address == "/services"
    assert [child.address for child in tree.children] == ["/services/a", "/services/account"]
    assert tree.children[1].children == (
        TreeNode(
            "/services/account/acct-1",
            "actor",
            "suspended",
            restarts=0,
            mailbox_depth=1,
            mailbox_capacity=1024,
            processed=2,
        ),
    )
    await after(1)
    node = root.statistics().children[1].children[0]
    assert (node.state, node.restarts, node.mailbox_depth, node.processed) == ("running", 1, 0, 3)
