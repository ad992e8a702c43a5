"""Running one handler: from plain parameters to an encoded outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
from attrs import define

from aegis.actors._answers import AnswerSink, error_bytes
from aegis.actors._handlers import HandlerSpec
from aegis.actors._mailbox import current_envelope
from aegis.actors._stash import PutAside
from aegis.contracts import OK, Request
from aegis.errors import (
    AegisError,
    DeadlineExpired,
    HandlerFailed,
    InvalidRequest,
    Rejected,
    StashFull,
)
from aegis.transport._codec import decode_value, encode_value

if TYPE_CHECKING:
    from aegis.actors._actor import AegisActor
    from aegis.actors._effects import Effects

__all__ = [
    "NOT_RUN",
    "PUT_ASIDE",
    "SLOW_HANDLER_SECONDS",
    "Outcome",
    "encoded_error",
    "execute",
    "handler_failed",
    "shortened",
    "stashed_too_late",
    "take_back_cancellation",
    "text_of",
    "was_withdrawn",
]

SLOW_HANDLER_SECONDS: Final = 0.25
"""A handler that took longer is logged: it kept its actor, perhaps its loop, waiting."""

PUT_ASIDE: Final = 0
"""The status of a handler that has put its message aside: there is no answer yet."""

NOT_RUN: Final = frozenset({InvalidRequest.code, StashFull.code})
"""Answers of `execute` which say that the command has had no effect, and that the same
message may come again: they are not journaled."""

MAX_CUT_CHARACTERS: Final = 1_000
"""So much is left of the text of an error that is too large to be journaled."""

_log = structlog.get_logger("aegis.execution")


@define(eq=False)
class Outcome:
    """How a handler ended: ``status`` is 200 or that of an error.

    ``encoded`` is the value or the error as a reply carries it; of a failure (500) the
    actor's supervisor has been told. ``published`` is what it has published, each to be
    answered 200 once the command has happened; one that failed has published nothing.
    """

    status: int
    encoded: bytes
    published: Sequence[AnswerSink] | None = None
    state: bytes | None = None
    """What a resource's command has made of a state that is journaled whole, if it did."""
    effects: Effects | None = None
    """... and what it did beside its state."""


async def execute(actor: AegisActor, handler: HandlerSpec, request: Request) -> Outcome:
    """Run ``handler`` for ``request`` and return how it ended; raise nothing.

    Status 400 means that the parameters did not fit and nothing ran. The result is
    encoded here, before anything else can change it; one that does not fit its hint
    is a failure of the handler. The handler may put the message aside: then the status is
    `PUT_ASIDE`, or 429 if the stash was full.

    Only a cancellation by the kernel itself (the actor is being killed) passes
    through.
    """
    cell = actor.actor_cell
    try:
        arguments = handler.bind(request.params)
    except InvalidRequest as invalid:
        cell.runtime.observer.on_message_handled(cell, request.kind, invalid.code, 0.0)
        return Outcome(invalid.code, encoded_error(invalid))
    began = time.perf_counter()
    error: AegisError | None = None
    cause: BaseException | None = None
    encoded = b""
    try:
        if handler.is_async:
            value = await handler.function(actor, **arguments)
        else:
            value = await cell.runtime.workers.run(partial(handler.function, actor, **arguments))
        encoded = _encode_result(handler, value)
    except Rejected as rejected:
        error = rejected
    except (PutAside, StashFull) as raised:
        envelope = current_envelope.get()
        if isinstance(raised, StashFull):
            error = raised
        elif envelope is not None and envelope.published:
            error = stashed_too_late(request, "published")
        else:
            take_back_cancellation()
            return Outcome(PUT_ASIDE, b"")
    except GeneratorExit:
        raise
    except BaseException as raised:
        if isinstance(raised, asyncio.CancelledError) and cell.is_interrupted(actor):
            raise
        if was_withdrawn(raised):
            error = DeadlineExpired(f"{request.method}: its caller gave up; it was cancelled")
        else:
            cause = raised
            error = handler_failed(request, raised)
    take_back_cancellation()
    seconds = time.perf_counter() - began
    status = OK
    if error is not None:
        status, encoded = error.code, encoded_error(error)
    if seconds >= SLOW_HANDLER_SECONDS:
        _log.warning(
            "handler_slow",
            service_name=request.service,
            instance_id=cell.props.instance_id,
            resource_id=request.resource,
            operation=request.method,
            duration_ms=round(seconds * 1000, 1),
        )
    cell.runtime.observer.on_message_handled(cell, request.kind, status, seconds)
    if error is not None:
        if cause is not None and not cell.is_interrupted(actor):
            cell.fail(cause)
        return Outcome(status, encoded)
    envelope = current_envelope.get()
    return Outcome(status, encoded, None if envelope is None else envelope.published)


def was_withdrawn(raised: BaseException) -> bool:
    """Whether a handler was cancelled because nobody waits for its answer any more."""
    envelope = current_envelope.get()
    return (
        isinstance(raised, asyncio.CancelledError) and envelope is not None and envelope.withdrawn
    )


def _encode_result(handler: HandlerSpec, value: Any) -> bytes:
    try:
        return encode_value(handler.unstructure_result(value))
    except AegisError as error:
        raise TypeError(
            f"{handler.name} returned {type(value).__name__}, which is not what its hint says: "
            f"{error.message}"
        ) from error


def handler_failed(request: Request, raised: BaseException) -> HandlerFailed:
    """Return what the caller is told of what a handler has raised."""
    name = type(raised).__name__
    text = text_of(raised)
    where = f"{request.service}.{request.method} raised {name}"
    return HandlerFailed(f"{where}: {text}" if text else where, error=name)


def stashed_too_late(request: Request, what: str) -> HandlerFailed:
    """Return what the caller is told of a handler that put its message aside in its midst."""
    return HandlerFailed(
        f"{request.service}.{request.method} has {what} and then put its message aside; it must "
        "call self.stash() before anything else, since the message will be handled again"
    )


def encoded_error(error: AegisError) -> bytes:
    """Return ``error`` as a reply carries it, whatever state its class is in."""
    try:
        return error_bytes(error)
    except Exception:
        # A fact that has no form on the wire, or a subclass that never called
        # AegisError.__init__: the text alone must do.
        return encode_value({"message": text_of(error)})


def shortened(encoded: bytes, limit_bytes: int) -> bytes:
    """Return an encoded error; of one larger than ``limit_bytes`` the beginning of its text."""
    if len(encoded) <= limit_bytes:
        return encoded
    text = str(decode_value(encoded)["message"])[:MAX_CUT_CHARACTERS]
    return encode_value({"message": f"{text}... (cut: the whole error takes {len(encoded)} bytes)"})


def text_of(error: BaseException) -> str:
    """Return what ``error`` says, whatever state its class is in."""
    try:
        return str(error).encode("utf-8", "replace").decode()
    except Exception:
        return ""


def take_back_cancellation() -> None:
    """Let the task go on if the handler, or a stranger, cancelled it.

    Else the cancellation would hit whatever the task awaits next.
    """
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
