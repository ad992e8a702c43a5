"""Ticks for actors: what ``@subscribes(ticks_of("SHFE.rb*"))`` hears."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from aegis import ConfigurationError
from aegis.marketdata._contract import UniverseFilter
from aegis.marketdata._follower import TickFollower, TickGap, subjects_of
from aegis.marketdata._tick import Tick

if TYPE_CHECKING:
    from aegis.transport import Message

__all__ = ["TickSource", "ticks_of"]

OWN_CONTRACT: Final = "{resource_id}"
"""The pattern that stands for the subscribing resource's own name, as in ``SHFE.rb2701``."""


def ticks_of(*patterns: str, gaps: bool = False) -> TickSource:
    """Return what an actor subscribes to for the ticks of all contracts that match.

    Patterns are those of `UniverseFilter`, as in ``SHFE.rb*``; without any, all. With
    ``{resource_id}`` alone, each resource hears the contract that it is called after::

        @subscribes(ticks_of("{resource_id}"), queue_size=1)
        async def on_tick(self, tick: Tick, missed: int) -> None: ...

    Each tick comes at most once, and none before an older one. With ``gaps`` the method
    hears of each `TickGap` too, in its place, and takes ``Tick | TickGap``. A queue that was
    full is told by ``missed``.

    Raises:
        ConfigurationError: a pattern names no exchange that is known.
    """
    patterns = patterns or ("*",)
    if OWN_CONTRACT in patterns and len(patterns) > 1:
        raise ConfigurationError(f"ticks_of: {OWN_CONTRACT} stands alone")
    if OWN_CONTRACT in patterns and gaps:
        raise ConfigurationError(
            f"ticks_of: gaps are an exchange's, so {OWN_CONTRACT} has none; name an exchange"
        )
    if OWN_CONTRACT not in patterns:
        UniverseFilter(patterns)
    return TickSource(patterns, gaps)


@frozen
class TickSource:
    """The ticks of some contracts, as an actor hears them. Made by `ticks_of`."""

    patterns: tuple[str, ...]
    gaps: bool = False

    @property
    def name(self) -> str:
        """What statistics and logs call it."""
        return f"ticks of {', '.join(self.patterns)}"

    @property
    def subjects(self) -> tuple[str, ...]:
        """Where these ticks are published."""
        return subjects_of(self._wanted)

    @property
    def _wanted(self) -> tuple[str, ...]:
        return ("*",) if OWN_CONTRACT in self.patterns else self.patterns

    def open(self) -> Callable[[Message], Sequence[Any]]:
        """Return what reads messages for one instance, and follows which feed is right."""
        follower, gaps = TickFollower(self._wanted), self.gaps

        def read(message: Message) -> Sequence[Any]:
            told = follower.take(Tick.from_wire(message.payload))
            return told if gaps else [said for said in told if not isinstance(said, TickGap)]

        return read

    def resource_of(self, value: Any) -> str | None:
        """Return the contract's name, where each resource hears its own."""
        return value.key if OWN_CONTRACT in self.patterns else None
