"""A service outside of Aegis, as a fake: what a handler asks of it cannot be undone."""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable
from typing import Any, Final

from attrs import field, frozen

from aegis.actors._mailbox import current_envelope
from aegis.contracts import Request
from aegis.testing._tap import current_run

__all__ = ["Outside", "OutsideCall", "replaying"]


@frozen
class OutsideCall:
    """One call: what it asked, and for which message.

    ``is_keyed`` says whether an argument carries the message's id, ``self.message_id``: by
    that the other side recognises a repeat, and does nothing again.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(factory=dict[str, Any])
    message_id: str = ""
    is_keyed: bool = False
    run: int = 0
    """Tells apart the runs of one message: after a crash there is another."""

    def __str__(self) -> str:
        params = [repr(one) for one in self.args]
        params += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.name}({', '.join(params)})"


class Outside:
    """Takes any call, as a payment provider that knows idempotency keys would.

    ``Outside("bank", charge="ok")`` answers ``await bank.charge(...)`` with "ok", or with
    what a function of the arguments returns; other calls are answered None. With
    ``blocking`` calls are not awaited. A call that carries ``self.message_id`` has its
    effect once, however often it comes: ``effects`` has what took effect, and ``calls`` all.
    """

    def __init__(self, name: str = "outside", /, *, blocking: bool = False, **answers: Any) -> None:
        self.name = name
        self.calls: list[OutsideCall] = []
        self.effects: list[OutsideCall] = []
        self._blocking = blocking
        self._answers = answers
        self._answered: dict[tuple[str, str, str], Any] = {}

    def reset(self) -> None:
        """Forget everything; `simulate` does so before each seed."""
        self.calls.clear()
        self.effects.clear()
        self._answered.clear()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, args, kwargs)

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            value = self._call(name, args, kwargs)
            return await value if inspect.isawaitable(value) else value

        return call if self._blocking else call_async

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        message_id = replaying.get() or _message_id()
        values = [*args, *kwargs.values()]
        keyed = bool(message_id) and any(isinstance(v, str) and message_id in v for v in values)
        run = current_run()
        made = OutsideCall(name, args, dict(kwargs), message_id, keyed, id(run) if run else 0)
        known = (name, message_id, str(made))
        if replaying.get() is not None:
            return self._answered.get(known)  # It has happened; a replay changes nothing.
        self.calls.append(made)
        if not keyed or known not in self._answered:
            self.effects.append(made)
            answer = self._answers.get(name)
            self._answered[known] = answer(*args, **kwargs) if callable(answer) else answer
        return self._answered[known]

    def problem(self) -> str | None:
        """Return what is wrong with the calls, if a message has asked for something twice."""
        first: dict[tuple[str, str], OutsideCall] = {}
        for call in self.calls:
            if call.is_keyed or not call.message_id:
                continue
            earlier = first.setdefault((call.message_id, str(call)), call)
            if earlier.run != call.run:
                return (
                    f"{self.name}.{call} happened twice for one message: its "
                    "owner died before the command was stored, and it ran again. Give the call "
                    "self.message_id, by which the other side recognises the repeat"
                )
        return None


replaying: Final = contextvars.ContextVar[str | None]("aegis_testing_replaying", default=None)
"""The message that is replayed: what it asks outside has happened already."""


def _message_id() -> str:
    envelope = current_envelope.get()
    if envelope is None or envelope.finished or not isinstance(envelope.message, Request):
        return ""
    return envelope.message.message_id if envelope.message.session else ""
