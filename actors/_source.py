"""What a ``@subscribes`` method can hear besides topics: subjects of NATS as they are.

Topics are values that actors publish. Other programs publish to subjects of their own, in
forms of their own; whoever knows such a form says how its messages are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import frozen

from aegis.errors import ConfigurationError
from aegis.transport._subject import check_filter

if TYPE_CHECKING:
    from aegis.transport._base import Message

__all__ = ["Source", "Subject"]


@runtime_checkable
class Source(Protocol):
    """Where messages come from, and how they are read."""

    @property
    def name(self) -> str:
        """What statistics and logs call it; one of few, as it becomes a metric's label."""
        ...

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects of NATS, with its wildcards; no message may be on two of them."""
        ...

    def open(self) -> Callable[[Message], Iterable[Any]]:
        """Return what reads messages for one instance, in the order in which they come.

        It returns the values that a message holds, and may remember those before. It
        raises ValueError for a message that it cannot read; that is counted as refused.
        """
        ...

    def resource_of(self, value: Any) -> str | None:
        """Return whom a value is for: a resource, or None for every actor of the class."""
        ...


@frozen
class Subject:
    """The messages of one subject of NATS: ``@subscribes(Subject("quotes.>", decode))``.

    ``subject`` may have NATS's wildcards, ``*`` for a level and ``>`` at the end for the
    rest. ``decode`` makes the value of a payload; it raises ValueError if it cannot.

    Raises:
        ConfigurationError: the subject has no legal form.
    """

    subject: str
    decode: Callable[[bytes], Any]

    def __attrs_post_init__(self) -> None:
        try:
            check_filter(self.subject)
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"Subject({self.subject!r}): {error}") from error

    @property
    def name(self) -> str:
        """The subject itself."""
        return self.subject

    @property
    def subjects(self) -> tuple[str, ...]:
        """It alone."""
        return (self.subject,)

    def open(self) -> Callable[[Message], Iterable[Any]]:
        """Return what decodes each message by itself."""
        decode = self.decode
        return lambda message: (decode(message.payload),)

    def resource_of(self, value: Any) -> str | None:
        """Everybody hears everything."""
        return None
