"""A reign: what a candidate does while it leads.

It judges who is alive by their beats, decides what is asked for and what has to follow
from its judgements, and answers beats. Nothing of it outlasts the reign: whoever leads
next knows the registry, and finds out the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aegis._clock import Clock
from aegis.actors._control_channel import ControlChannel
from aegis.actors._decision import Decision, Holder, Probe
from aegis.actors._docket import Docket, Job
from aegis.actors._election import Election
from aegis.actors._examiner import Examiner
from aegis.actors._health import Judgement, Verdict
from aegis.actors._lease import Beat, BeatAnswer
from aegis.actors._placement import carry_out, give_up, relocate
from aegis.actors._query_responder import QUERIES, QueryResponder
from aegis.actors._registration import map_of
from aegis.actors._registry import Registry
from aegis.actors._registry_entries import InstanceState
from aegis.actors._requests import handle
from aegis.actors._roster import Roster
from aegis.errors import ConnectionClosed, InvalidRequest, ProtocolError, Unavailable
from aegis.transport._base import Message, Subscription
from aegis.transport._codec import decode_value

__all__ = ["Reign"]

_REQUESTS: Final = (
    "service.register",
    "service.unregister",
    "service.disconnect",
    "resource.register",
    "resource.release",
)


class Reign:
    """One reign of one candidate, from `open` to `close`.

    ``tick_interval`` is how many seconds lie between two looks at who is alive.
    """

    def __init__(
        self,
        channel: ControlChannel,
        clock: Clock,
        registry: Registry,
        election: Election,
        roster: Roster,
        examiner: Examiner,
        docket: Docket,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        *,
        tick_interval: float,
    ) -> None:
        self.began = election.led_since
        self._channel = channel
        self._clock = clock
        self._registry = registry
        self._election = election
        self._roster = roster
        self._examiner = examiner
        self._docket = docket
        self._spawn = spawn
        self._tick_interval = tick_interval
        self._ticked = clock.boot_seconds()
        self._attend_due = False
        self._judged: set[tuple[str, str]] = set()
        self._reply_to: dict[str, str] = {}
        self._subscriptions: list[Subscription] = []

    async def open(self, queries: QueryResponder) -> None:
        """Begin to take requests, and the queries that other candidates pass on."""
        channel, subscribe = self._channel, self._channel.transport.subscribe
        for operation in _REQUESTS:
            self._subscriptions.append(
                await subscribe(channel.operation(operation), self._request_handler(operation))
            )
        for operation in QUERIES:
            self._subscriptions.append(
                await subscribe(channel.leader(operation), queries.handler(operation))
            )

    def end(self) -> None:
        """Refuse all requests from now on, and those that wait."""
        self._docket.close()

    async def close(self) -> None:
        """End, and listen no more."""
        self.end()
        for subscription in self._subscriptions:
            with contextlib.suppress(Unavailable, ConnectionClosed):
                await subscription.unsubscribe()

    async def step(self, now: float) -> bool:
        """Do one thing that is due; return whether there may be another."""
        if now - self._ticked >= self._tick_interval:
            self._ticked = now
            self._attend_due = True
            self.judge(now)
        self._push_coverage()
        if self._attend_due and self._registry.unattended:
            self._attend_due = False
            self._attend_due = await self._docket.do(self._attending(now))
        elif len(self._docket):
            self._attend_due = await self._docket.do_next() or self._attend_due
        else:
            return False
        return True

    def _request_handler(self, operation: str) -> Callable[[Message], None]:
        def on_request(message: Message) -> None:
            try:
                payload = decode_value(message.payload)
            except ProtocolError as error:
                wrong = InvalidRequest(f"payload: {error}", field="payload")
                self._channel.refuse(message.reply_to, wrong)
                return

            def decide(alive: dict[Holder, bool]) -> Decision | Probe:
                unsettled = self._roster.unsettled
                return handle(self._registry, operation, payload, alive=alive, unsettled=unsettled)

            now = self._clock.boot_seconds()
            facts = map_of(payload) or {}
            service, trace = facts.get("service_name"), str(facts.get("traceparent", ""))
            self._docket.request(
                Job(decide, message.reply_to, operation, service=service, trace=trace, began=now)
            )

        return on_request

    # -- beats --------------------------------------------------------------------------

    def answer(self, beat: Beat, reply_to: str) -> None:
        """Answer a beat, if this candidate may do so now."""
        now = self._clock.boot_seconds()
        if not self._election.may_answer_beats(now):
            return
        answer = self._roster.heard(beat, now)
        if answer is not None:
            self._reply_to[beat.node_id] = reply_to
            self._answer_beat(beat.node_id, answer)
        self._push_coverage()

    def _answer_beat(self, node_id: str, answer: BeatAnswer) -> None:
        self._channel.answer(self._reply_to.get(node_id, ""), answer.to_wire())

    def _push_coverage(self) -> None:
        now = self._clock.boot_seconds()
        if not self._roster.to_push or not self._election.may_answer_beats(now):
            return
        for node_id in sorted(self._roster.to_push):
            answer = self._roster.push(node_id, now)
            if answer is not None:
                self._answer_beat(node_id, answer)

    # -- verdicts -----------------------------------------------------------------------

    def _attending(self, now: float) -> Job:
        return Job(lambda _: relocate(self._registry, self._roster.unsettled), began=now)

    def judge(self, now: float) -> None:
        """Queue what has to follow from who is alive now, and who is not."""
        for verdict in self._roster.tick(now):
            self._sentence(verdict)

    def _sentence(self, verdict: Verdict) -> None:
        """Queue what a verdict changes, once until it is done."""
        mark = (verdict.instance_id, verdict.judgement.value)
        if mark in self._judged:
            return
        self._judged.add(mark)

        def decide(_: dict[Holder, bool]) -> Decision | None:
            self._judged.discard(mark)
            if not self._roster.stands(verdict, self._clock.boot_seconds()):
                return None
            if verdict.judgement is Judgement.SILENT:
                self._spawn(self._bury(verdict))
            return carry_out(self._registry, verdict, self._roster.unsettled)

        self._docket.add(Job(decide, began=self._clock.boot_seconds(), silence=verdict.silence))

    async def _bury(self, verdict: Verdict) -> None:
        """Give up a silent instance at once if nobody is at its address any more."""
        instance_id, node_id = verdict.instance_id, verdict.node_id
        if await self._examiner.is_alive(Holder(instance_id, node_id)):
            return

        def decide(_: dict[Holder, bool]) -> Decision | None:
            if self._registry.state_of(instance_id) is InstanceState.HEALTHY:
                return None
            if not self._roster.stands(verdict, self._clock.boot_seconds()):
                return None
            return give_up(self._registry, instance_id, node_id, "silence", self._roster.unsettled)

        now = self._clock.boot_seconds()
        self._docket.add(Job(decide, began=now, silence=verdict.silence))
