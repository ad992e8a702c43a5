"""What was recorded, and waiting for more of it: the assertions of a probe."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from attrs import field, frozen

from aegis.contracts import OK

__all__ = ["Probe", "Recorded"]

_SHOWN: Final = 10
"""So many of the last messages a failed assertion lists."""


@frozen
class Recorded:
    """One message: received, answered, sent or published.

    ``name`` is its method or topic, ``address`` whom it is to, and ``params`` what it
    carries; of a topic that is ``value``. ``status``, ``value`` and ``error`` are those of
    its answer, where there is one. ``at`` is in seconds of the test's clock.
    """

    name: str
    address: str
    params: dict[str, Any] = field(factory=dict[str, Any])
    message_id: str = ""
    status: int = OK
    value: Any = None
    error: str = ""
    at: float = 0.0

    def __str__(self) -> str:
        params = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        answer = "" if self.status == OK else f" -> {self.status} {self.error}"
        return f"{self.name}({params}) to {self.address}{answer}"


class Probe:
    """Records messages; ``messages`` has all, in their order.

    Each message meets one `expect`: two like ones need two, and the order does not matter.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        """What it records, for people."""
        self.messages: list[Recorded] = []
        self._open: list[Recorded] = []
        self._arrived: list[asyncio.Event] = []

    def record(self, message: Recorded) -> None:
        """Take note of a message."""
        self.messages.append(message)
        self._open.append(message)
        for arrived in self._arrived:
            arrived.set()

    def clear(self) -> None:
        """Forget all messages so far."""
        self.messages.clear()
        self._open.clear()

    async def expect(
        self, name: str | None = None, /, *, within: float = 5.0, **params: Any
    ) -> Recorded:
        """Return the first message of a name with these parameters that nobody expected yet.

        Waits for it, by default at most 5 s of the test's clock. Parameters that are not
        given may have any value.

        Raises:
            AssertionError: none came; it says what did.
        """
        deadline = asyncio.get_running_loop().time() + within
        arrived = asyncio.Event()
        self._arrived.append(arrived)
        try:
            while True:
                for message in self._open:
                    if not _difference(message, name, params):
                        self._open.remove(message)
                        return message
                arrived.clear()
                async with asyncio.timeout_at(deadline):
                    await arrived.wait()
        except TimeoutError:
            raise AssertionError(self._missing(name, params, within)) from None
        finally:
            self._arrived.remove(arrived)

    async def expect_nothing(
        self, name: str | None = None, /, *, within: float = 1.0, **params: Any
    ) -> None:
        """Return if no such message that nobody expected has come, or comes in this time.

        Raises:
            AssertionError: one came.
        """
        try:
            message = await self.expect(name, within=within, **params)
        except AssertionError:
            return
        raise AssertionError(f"{self.what}: {message} came, and nothing like it should")

    def _missing(self, name: str | None, params: dict[str, Any], within: float) -> str:
        wanted = name or "a message"
        if params:
            wanted += "(" + ", ".join(f"{key}={value!r}" for key, value in params.items()) + ")"
        lines = [f"{self.what}: not within {within:g} s: {wanted}"]
        shown = self.messages[-_SHOWN:]
        if not shown:
            lines.append("nothing came at all")
        elif len(shown) < len(self.messages):
            lines.append(f"{len(self.messages)} messages came, the last {_SHOWN} of them:")
        else:
            lines.append("what came:")
        for message in shown:
            why = _difference(message, name, params) or "expected before"
            lines.append(f"  {message}: {why}")
        return "\n".join(lines)


def _difference(message: Recorded, name: str | None, params: dict[str, Any]) -> str:
    """Return why a message is not the one that is wanted, or nothing if it is."""
    if name is not None and message.name != name:
        return f"is no {name}"
    for key, value in params.items():
        if key not in message.params:
            return f"has no {key}"
        found = message.params[key]
        if found != value:
            return f"{key} is {found!r}, not {value!r}"
    return ""
