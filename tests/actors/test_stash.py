"""The stash of an actor of this process; what it means for a resource is in tests/aegis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attrs import define, field

from aegis.actors._actor import AegisActor
from aegis.actors._future import AegisFuture
from aegis.actors._handlers import command, query
from aegis.actors._mailbox import Envelope
from aegis.actors._messages import Call, Turn
from aegis.errors import ActorDead, DeadlineExpired, HandlerFailed, InvalidRequest, StashFull
from aegis.testing import run


@define
class DoorState:
    is_open: bool = False
    came: list[str] = field(factory=list[str])


class Door(AegisActor):
    """Lets messages of every kind wait until it is open."""

    service = "door"
    stash_capacity = 3
    state: DoorState

    @command
    async def enter(self, name: str, late: bool = False) -> list[str]:
        if late:
            self.state.came.append("never")
        if not self.state.is_open:
            self.stash()
        self.state.came.append(name)
        return self.state.came

    @query
    def who(self) -> list[str]:
        if not self.state.is_open:
            self.stash()
        return self.state.came

    @command
    async def open(self) -> None:
        self.state.is_open = True
        self.unstash_all()

    async def on_receive(self, message: Any) -> Any:
        if not self.state.is_open:
            self.stash()
        return f"got {message}"


def test_messages_of_every_kind_can_wait() -> None:
    async def scenario() -> None:
        ref = Door.start()
        entered = ref.proxy().enter("a")
        asked = ref.proxy().who()
        told = ref.ask("a message")
        await ref.proxy().open()
        assert await entered == ["a"]
        assert await asked == ["a"]
        assert await told == "got a message"

    run(scenario())


def test_a_full_stash_says_how_much_it_holds() -> None:
    async def scenario() -> None:
        ref = Door.start()
        for number in range(3):
            ref.tell(number)
        with pytest.raises(StashFull, match="holds its 3 messages") as full:
            await ref.proxy().enter("d")
        assert full.value.facts["capacity"] == 3

    run(scenario())


def test_who_asked_for_what_is_put_aside_is_told_at_the_deadline_and_it_never_runs() -> None:
    async def scenario() -> None:
        ref = Door.start()
        with pytest.raises(DeadlineExpired):
            await ref.ask(Call("enter", {"name": "late"}), timeout=1.0)
        await ref.proxy().open()
        assert await ref.proxy().who() == []

    run(scenario())


def test_a_command_that_has_changed_the_state_cannot_be_put_aside() -> None:
    async def scenario() -> None:
        ref = Door.start()
        with pytest.raises(HandlerFailed, match="changed the state"):
            await ref.proxy().enter("a", late=True)
        await ref.proxy().open()
        assert await ref.proxy().who() == []

    run(scenario())


def test_what_is_put_aside_is_refused_when_the_actor_stops() -> None:
    async def scenario() -> None:
        ref = Door.start()
        entered = ref.proxy().enter("a")
        await ref.stop()
        with pytest.raises(ActorDead):
            await entered

    run(scenario())


def test_only_the_handler_of_a_message_can_put_it_aside() -> None:
    class Hasty(AegisActor):
        def on_start(self) -> None:
            self.stash()

    async def scenario() -> None:
        with pytest.raises(InvalidRequest, match="only the handler"):
            await Hasty.start().wait_started()

    run(scenario())


def test_control_passes_ahead_of_all_that_waits_and_of_what_comes_back() -> None:
    class Busy(Door):
        async def on_receive(self, message: Any) -> Any:
            order.append(message)
            if message != "first":
                self.stash()
            waiting.set()
            await go_on.wait()
            self.unstash_all()

    order: list[Any] = []
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def scenario() -> None:
        ref = Busy.start()
        ref.tell("aside")
        ref.tell("first")
        await waiting.wait()
        for number in range(100):
            ref.tell(number)

        async def control() -> None:
            order.append("control")
            ref.stop(now=True)

        turn = AegisFuture[None]()
        ref.cell.mailbox.put_control(Envelope(Turn(control), turn))
        go_on.set()
        await turn
        with pytest.raises(ActorDead):
            await ref.ask("too late")
        assert order == ["aside", "first", "control"]

    run(scenario())
