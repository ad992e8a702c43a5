"""What a caller may conclude from refusals and silence: an owner that answers by a script."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aegis import (
    AegisError,
    HandlerFailed,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Rejected,
    TooOld,
)
from aegis.actors._membership import Membership
from aegis.contracts import Kind
from aegis.transport import Message
from aegis.transport._codec import decode_requests, encode_reply, encode_value
from tests.support.system import System, on_both

type Step = tuple[int, Any] | None
"""A status with a value or the map of an error, or no answer at all."""

GONE: Step = (404, {"message": "not here"})
MOVED: Step = (421, {"message": "not mine any more"})
FULL: Step = (429, {"message": "full", "error": "MailboxFull"})
AWAY: Step = (503, {"message": "away"})
WRONG: Step = (400, {"message": "amount: is wrong", "field": "amount"})
REJECTED: Step = (422, {"message": "no"})
FAILED: Step = (500, {"message": "failed"})
OLD: Step = (410, {"message": "too old"})
DONE: Step = (410, {"message": "took effect", "done": True})
GOOD: Step = (200, "good")


@asynccontextmanager
async def scripted(system: System, steps: Sequence[Step]) -> AsyncGenerator[list[int]]:
    """Own the resource of service ``script`` and answer as told, the last step for ever.

    Gives the numbers of the attempts as they come in.
    """
    attempts: list[int] = []
    transport = system.transport

    def on_message(message: Message) -> None:
        if not message.payload:
            transport.publish(message.reply_to, b"")
            return
        (request,) = decode_requests(message.payload)
        attempts.append(request.attempt)
        step = steps[min(len(attempts), len(steps)) - 1]
        if step is not None:
            status, value = step
            answer = encode_reply(request.n, status, encode_value(value))
            transport.publish(message.reply_to, answer)

    subscription = await transport.subscribe(system.subjects.instance("s"), on_message)
    membership = Membership(transport, system.subjects, system.clock, "script-node")
    await membership.start()
    await membership.register("script", "s")
    await membership.register_resources("script", "s", ["S-1"])
    try:
        yield attempts
    finally:
        await membership.unregister("script", "s")
        await membership.stop()
        await subscription.unsubscribe()


async def outcome(
    system: System, steps: Sequence[Step], kind: Kind, timeout: float
) -> tuple[Any, int]:
    """Return the result or the class of the error, and how many attempts were made."""
    async with scripted(system, steps) as attempts:
        try:
            result: Any = await system.cluster._client.call(
                "script", "act", {}, resource="S-1", kind=kind, timeout=timeout
            )
        except AegisError as error:
            result = type(error)
        return result, len(attempts)


@on_both
async def test_an_answer_is_final_if_it_was_journaled_or_if_nothing_else_was_sent(
    system: System,
) -> None:
    await system.start_node()
    for steps, wanted, attempts in (
        ([GOOD], "good", 1),
        ([REJECTED], Rejected, 1),
        ([FAILED], HandlerFailed, 1),
        ([GONE], NotFound, 1),
        ([WRONG], InvalidRequest, 1),
        ([OLD], TooOld, 1),
        ([DONE], OutcomeUnknown, 1),
        ([MOVED, GOOD], "good", 2),
        ([FULL, FULL, GOOD], "good", 3),
        ([AWAY, GOOD], "good", 2),
        ([MOVED, REJECTED], Rejected, 2),
        # What was refused at the second attempt may have run at the first.
        ([MOVED, GONE, GONE, GOOD], "good", 4),
        ([FULL, WRONG, OLD, FAILED], HandlerFailed, 4),
    ):
        assert await outcome(system, steps, Kind.COMMAND, 30.0) == (wanted, attempts), steps


@on_both
async def test_after_a_silence_only_a_journaled_answer_is_believed(system: System) -> None:
    await system.start_node()
    assert await outcome(system, [None, GOOD], Kind.COMMAND, 30.0) == ("good", 2)
    for refusal in (GONE, WRONG):
        result, attempts = await outcome(system, [None, refusal], Kind.COMMAND, 1.5)
        assert result is OutcomeUnknown
        assert attempts > 2
    result, attempts = await outcome(system, [None, refusal, GOOD], Kind.COMMAND, 30.0)
    assert (result, attempts) == ("good", 3)
    # A query leaves nothing behind: any answer of its owner is true.
    assert await outcome(system, [None, WRONG], Kind.QUERY, 30.0) == (InvalidRequest, 2)


@on_both
async def test_a_refusal_that_lasts_to_the_deadline_is_told_if_it_was_the_only_one(
    system: System,
) -> None:
    await system.start_node()
    result, attempts = await outcome(system, [AWAY], Kind.COMMAND, 1.0)
    assert result is OutcomeUnknown
    assert attempts > 2
    for step, code in ((AWAY, 503), (FULL, 429)):
        async with scripted(system, [step]):
            with pytest.raises(AegisError) as raised:
                await system.cluster._client.call(
                    "script", "act", {}, resource="S-1", kind=Kind.QUERY, timeout=1.0
                )
            assert raised.value.code == code
