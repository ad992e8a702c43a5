"""The plain replay: what was committed is done again, once each, where nothing fails.

If that gives other answers, states or messages than the journal has, something beside the
state and the command has had a part in it.
"""

from __future__ import annotations

import inspect
import random
import secrets
import time
import uuid
from datetime import date, datetime
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from attrs import frozen

from aegis.actors._execution import encoded_error
from aegis.actors._handlers import ActorSpec
from aegis.actors._record import CommandEntry
from aegis.contracts import OK
from aegis.errors import HandlerFailed, Rejected
from aegis.testing._bare import bare_actor
from aegis.testing._outside import replaying
from aegis.testing._states import encoded_state
from aegis.testing._tap import Run
from aegis.transport._codec import decode_mail, decode_value, encode_value

__all__ = ["Committed", "explain", "replay"]


APPLIES_ONLY: Final = (
    "only @applies methods may change the state of an event-sourced class, and they have to do "
    "the same each time"
)


@frozen
class Committed:
    """One command in the journal, and the run that it tells of."""

    entry: CommandEntry
    run: Run

    def __str__(self) -> str:
        params = ", ".join(f"{k}={v!r}" for k, v in self.run.request.params.items())
        return f"{self.run.handler.name}({params})"


async def replay(
    spec: ActorSpec, resource: str, committed: list[Committed], *, fresh: bool = False
) -> tuple[str, bytes]:
    """Do all commands again; return the first difference, or nothing, and the last state.

    With ``fresh`` each command runs on a new object that has only the state.
    """
    actor = bare_actor(spec, resource)
    await _call(actor.on_start)
    await _call(actor.on_promote, 1)
    followed = bare_actor(spec, resource)
    for number, one in enumerate(committed, start=1):
        if fresh:
            state = actor.state if spec.has_state else None
            actor = bare_actor(spec, resource)
            await _call(actor.on_start)
            if spec.has_state:
                actor.state = spec.structure_state(decode_value(encoded_state(spec, state)))
        problem = await _again(spec, actor, one)
        if not problem and spec.is_event_sourced:
            problem = _apply_again(spec, actor, followed, one)
        if problem:
            return f"{spec.service}/{resource}: command {number}, {one}, {problem}", b""
    return "", encoded_state(spec, getattr(actor, "state", None))


async def _call(hook: Any, *args: Any) -> None:
    if getattr(hook, "_aegis_default", False):
        return
    result = hook(*args)
    if inspect.isawaitable(result):
        await result


async def _again(spec: ActorSpec, actor: Any, one: Committed) -> str:
    """Run one command again; return how it differs from the journal."""
    run, entry = one.run, one.entry
    handler = spec.handlers[run.handler.name]
    surroundings = actor._aegis_surroundings
    outgoing = [(out, decode_mail(out.payload).request) for out in entry.outgoing or ()]
    surroundings.begin(run, [request.message_id for _, request in outgoing])
    before = encoded_state(spec, getattr(actor, "state", None))
    params = decode_value(encode_value(run.request.params))
    status, shown = OK, ""
    token = replaying.set(run.request.message_id)
    try:
        value = handler.function(actor, **handler.bind(params))
        if inspect.isawaitable(value):
            value = await value
        reply = encode_value(handler.unstructure_result(value))
        shown = repr(value)
    except Rejected as error:
        status, reply, shown = error.code, encoded_error(error), str(error)
    except Exception as error:
        status, reply, shown = HandlerFailed.code, b"", f"{type(error).__name__}: {error}"
    finally:
        replaying.reset(token)
    if status != OK and spec.has_state:
        actor.state = spec.structure_state(decode_value(before))
    if status != entry.status or (status != HandlerFailed.code and reply != entry.reply):
        journaled = decode_value(entry.reply)
        return (
            f"answered {entry.status} {journaled!r} in the run, "
            f"and {status} {shown} in a replay without failures"
        )
    if status != OK:
        return ""
    events = [(event.name, event.body) for event in entry.events or ()]
    if events != surroundings.events:
        return "emitted other events in the run than in a replay without failures"
    sent = [
        (out.service, out.resource, request.method, encode_value(request.params))
        for out, request in outgoing
    ]
    if sent[: len(surroundings.sent)] != surroundings.sent:
        return "sent other messages in the run than in a replay without failures"
    return ""


def _apply_again(spec: ActorSpec, actor: Any, followed: Any, one: Committed) -> str:
    """Apply the events alone; return how the state differs from the command's."""
    for event in one.entry.events or ():
        found = spec.events[event.name]
        found.apply(followed, found.read(event.version, decode_value(event.body)))
    if encoded_state(spec, actor.state) == encoded_state(spec, followed.state):
        return ""
    return (
        f"leads to the state {actor.state!r}, and its events applied again to {followed.state!r}: "
        + APPLIES_ONLY
    )


# -- why ----------------------------------------------------------------------------------


async def explain(spec: ActorSpec, resource: str, committed: list[Committed]) -> str:
    """Return what may be the reason why a replay differs."""
    first = await replay(spec, resource, committed)
    again = await replay(spec, resource, committed)
    named = sorted({text for one in committed for text in _unsteady(spec, one.run.handler.name)})
    uses = f" It uses {', '.join(named)}." if named else ""
    if APPLIES_ONLY in first[0]:
        return uses.strip()
    if first != again or named:
        return (
            "It does something else each time it runs: the clock, randomness or the order of a set "
            "has a part in it. An owner that dies runs its command again, so give such values to "
            f"the command as parameters.{uses}"
        )
    fresh = await replay(spec, resource, committed, fresh=True)
    if not fresh[0]:
        return (
            "It depends on something outside of self.state, like an attribute of the actor, that "
            "is lost when an owner dies. Keep it in self.state."
        )
    return (
        "Something beside self.state and the command has a part in it: an attribute of the actor "
        "or its class, a global, the clock, or randomness."
    )


_UNSTEADY_MODULES: Final[dict[ModuleType, frozenset[str]]] = {
    time: frozenset({"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter"}),
    random: frozenset(
        {"random", "randint", "randrange", "choice", "choices", "shuffle", "sample", "uniform"}
    ),
    uuid: frozenset({"uuid1", "uuid4"}),
    secrets: frozenset({"token_hex", "token_bytes", "token_urlsafe", "randbelow", "choice"}),
}
_UNSTEADY_DATES: Final = frozenset({"now", "utcnow", "today"})


def _unsteady(spec: ActorSpec, method: str) -> set[str]:
    """Return the names of clocks and dice that a command, or what applies events, uses."""
    functions = [spec.handlers[method].function]
    functions += [event.apply for event in spec.events.values()]
    found: set[str] = set()
    for function in functions:
        if isinstance(function, FunctionType):
            _look_into(function.__code__, function.__globals__, found)
    return found


def _look_into(code: CodeType, known: dict[str, Any], found: set[str]) -> None:
    for name in code.co_names:
        value = known.get(name)
        if isinstance(value, ModuleType) and value in _UNSTEADY_MODULES:
            used = _UNSTEADY_MODULES[value].intersection(code.co_names)
            found.update(f"{name}.{one}" for one in used)
        elif (isinstance(value, type) and issubclass(value, date)) or (
            isinstance(value, ModuleType) and getattr(value, "datetime", None) is datetime
        ):
            found.update(f"{name}.{one}" for one in _UNSTEADY_DATES.intersection(code.co_names))
        else:
            for module, names in _UNSTEADY_MODULES.items():
                if name in names and value is not None and value is getattr(module, name, None):
                    found.add(f"{module.__name__}.{name}")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _look_into(constant, known, found)
