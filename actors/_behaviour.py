"""How an actor carries out commands and queries; its class says only what they do."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

from aegis.actors._answers import NO_ANSWER, AnswerSink, error_bytes
from aegis.actors._execution import PUT_ASIDE, Outcome, execute, stashed_too_late
from aegis.actors._handlers import ActorSpec, describe
from aegis.actors._local_answer import refuse
from aegis.actors._schedule import Schedule
from aegis.actors._stash import put_aside
from aegis.actors._streams import OpenStreams
from aegis.contracts import OK, Kind, Request
from aegis.errors import AegisError, DeadlineExpired, InvalidRequest
from aegis.transport._codec import decode_value, encode_value

if TYPE_CHECKING:
    from aegis.actors._actor import AegisActor

__all__ = ["Behaviour", "PlainBehaviour"]


class Behaviour(Protocol):
    """What stands between an actor's mailbox and its handlers.

    There is one for each life of an actor: a restart makes a new one. All methods
    run on the event loop, one at a time.
    """

    @property
    def idle(self) -> bool:
        """Whether nothing is under way beyond the message that is handled now."""
        ...

    async def start(self, actor: AegisActor) -> None:
        """Make the actor ready, its state above all; called before ``on_start``.

        What it raises fails the start.
        """
        ...

    async def started(self, actor: AegisActor) -> None:
        """Do what comes after ``on_start`` and before the first message.

        What it raises fails the start.
        """
        ...

    def handle(self, request: Request, reply_to: AnswerSink | None) -> Awaitable[None] | None:
        """Carry out one request; the next comes when the result has been awaited.

        ``request.remaining_ms`` is what is left at this moment; 0 or less means that
        the deadline has passed. ``reply_to`` takes one answer, then or later. What
        this raises is a failure of the actor, not of the handler: it falls.
        """
        ...

    def emit(self, event: object) -> None:
        """Apply and record an event, for the command that runs now."""
        ...

    def release(self, publication: AnswerSink) -> None:
        """Answer 200 once all is durable that handlers have seen so far; else 421."""
        ...

    def take_back_changes(self) -> bool:
        """Undo what anything but a command has done to the state; return whether it had."""
        ...

    def send(
        self, service: str, resource: str, method: str, params: dict[str, Any], reply_to: str | None
    ) -> str:
        """Send a message when the command that runs now commits; return its id."""
        ...

    def publish(self, topic: str, plain: Any) -> bool:
        """Publish to a topic that is kept when the command that runs now commits.

        Return False if there is no record that could say so: it must leave otherwise.
        """
        ...

    def remind(self, name: str, method: str, params: dict[str, Any], schedule: Schedule) -> None:
        """Set a reminder when the command that runs now commits."""
        ...

    def forget(self, name: str) -> None:
        """End a reminder when the command that runs now commits."""
        ...

    def hand_over(self, to: str | None) -> AnswerSink:
        """Return what has a standby own the resource once it is answered 200."""
        ...

    async def stop(self, actor: AegisActor) -> None:
        """Finish what is under way; called after ``on_stop`` or ``on_failure``.

        What it raises is logged.
        """
        ...


class PlainBehaviour:
    """Runs handlers in memory: no journal, no repeats recognised.

    State lives as long as the actor, and goes back to what it was when a command
    fails or is rejected.
    """

    __slots__ = ("_actor", "_spec", "_streams")

    _actor: AegisActor
    _spec: ActorSpec

    @property
    def idle(self) -> bool:
        """Always: nothing goes on beyond a handler."""
        return True

    async def start(self, actor: AegisActor) -> None:
        """Give the actor its new state."""
        self._actor = actor
        self._spec = describe(type(actor))
        self._streams: OpenStreams | None = None
        if self._spec.has_state:
            vars(actor)["state"] = self._spec.new_state()

    async def started(self, actor: AegisActor) -> None:
        """Do nothing."""

    async def handle(self, request: Request, reply_to: AnswerSink | None) -> None:
        """Run the handler and answer."""
        if request.remaining_ms <= 0:
            refuse(
                reply_to, DeadlineExpired(f"{request.method}: the deadline passed before it ran")
            )
            return
        spec = self._spec
        try:
            handler = spec.handler(request.method, request.kind)
        except AegisError as error:
            refuse(reply_to, error)
            return
        if handler.is_stream:
            if self._streams is None:
                self._streams = OpenStreams(self._actor)
            respond = NO_ANSWER.answer if reply_to is None else reply_to.answer
            await self._streams.handle(handler, request, respond)
            return
        if spec.has_state and handler.kind is Kind.COMMAND:
            state = vars(self._actor)
            # Encoded: what a converter gives may share its lists with the state.
            before = encode_value(spec.unstructure_state(state["state"]))
            outcome = await execute(self._actor, handler, request)
            if outcome.status == PUT_ASIDE and _differs(spec, state["state"], before):
                late = stashed_too_late(request, "changed the state")
                outcome = Outcome(late.code, error_bytes(late))
            if outcome.status not in (OK, PUT_ASIDE):
                state["state"] = spec.structure_state(decode_value(before))
        else:
            outcome = await execute(self._actor, handler, request)
        if outcome.status == PUT_ASIDE:
            put_aside()
            return
        if reply_to is not None:
            reply_to.answer(outcome.status, outcome.encoded)
        for publication in outcome.published or ():
            publication.answer(OK, b"")

    def emit(self, event: object) -> None:
        """Apply an event."""
        self._spec.event_for(event).apply(self._actor, event)

    def release(self, publication: AnswerSink) -> None:
        """Answer at once: nothing is durable here."""
        publication.answer(OK, b"")

    def take_back_changes(self) -> bool:
        """Do nothing: this state is not kept."""
        return False

    def send(
        self, service: str, resource: str, method: str, params: dict[str, Any], reply_to: str | None
    ) -> str:
        """Refuse: nothing here would keep the message."""
        raise InvalidRequest("only actors of a node can send messages", field="method")

    def publish(self, topic: str, plain: Any) -> bool:
        """Return False: there is no record."""
        return False

    def remind(self, name: str, method: str, params: dict[str, Any], schedule: Schedule) -> None:
        """Refuse: nothing here would keep the reminder."""
        raise InvalidRequest("only resources have reminders", field="name")

    def forget(self, name: str) -> None:
        """Refuse: there is no reminder here."""
        raise InvalidRequest("only resources have reminders", field="name")

    def hand_over(self, to: str | None) -> AnswerSink:
        """Refuse: nobody stands by."""
        raise InvalidRequest("only resources of a node are handed over", field="to")

    async def stop(self, actor: AegisActor) -> None:
        """Close what is open."""
        if self._streams is not None:
            await self._streams.close()


def _differs(spec: ActorSpec, state: Any, encoded: bytes) -> bool:
    try:
        return encode_value(spec.unstructure_state(state)) != encoded
    except AegisError:
        return True
