"""W3C trace context: one trace id from a caller through every node to the log lines.

A *traceparent* is the text ``00-<trace id>-<span id>-<flags>`` of the W3C
recommendation "Trace Context": 32, 16 and 2 hexadecimal digits. It travels as such in
the request envelope, and the context variable here holds the one of the work that is
under way.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from attrs import frozen

__all__ = [
    "TraceContext",
    "current_trace_id",
    "current_traceparent",
    "enter_trace",
    "outgoing_traceparent",
    "parse_traceparent",
    "trace_id_of",
    "traceparent_of",
    "use_trace",
]

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_LENGTH: Final = 55
_TRACE_END: Final = 35

_current: ContextVar[str] = ContextVar("aegis_traceparent", default="")

# Ids only have to differ: a generator seeded by the system costs a tenth of asking the
# system for each. A forked child must not repeat its parent's ids.
_random = random.Random(os.urandom(32))
_bits = _random.getrandbits
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


@frozen
class TraceContext:
    """The parts of a traceparent. ``sampled`` is the only flag that has a meaning."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @property
    def has_span(self) -> bool:
        """Whether somebody recorded the span, or may have; see `_begun`."""
        return self.span_id != self.trace_id[-len(self.span_id) :]


def outgoing_traceparent() -> str:
    """Return what a message that leaves now carries: the current trace, or a new one."""
    return _current.get() or _begun(f"{_bits(128):032x}")


def traceparent_of(trace_id: str) -> str:
    """Return what a message of the trace ``trace_id`` carries; of a new one if it is none."""
    begun = _begun(trace_id)
    return begun if _match(begun) else outgoing_traceparent()


def _begun(trace_id: str) -> str:
    # Nobody has recorded a span of it yet, so whoever receives it must not look for a
    # parent. The span id says so: it is the end of the trace id, which chance never makes.
    return f"00-{trace_id}-{trace_id[16:]}-01"


def parse_traceparent(traceparent: str) -> TraceContext | None:
    """Return the parts of ``traceparent``, or None if it breaks the rules.

    A later version than 00 is read as far as it is known, as the recommendation asks.
    """
    match = _match(traceparent)
    return None if match is None else TraceContext(match[1], match[2], bool(int(match[3], 16) & 1))


def trace_id_of(traceparent: str) -> str:
    """Return the trace id in ``traceparent``, which is known to be valid, or ''."""
    return traceparent[3:_TRACE_END]


def current_traceparent() -> str:
    """Return the traceparent of the work that is under way, or ''."""
    return _current.get()


def current_trace_id() -> str:
    """Return the trace id of the work that is under way, or ''."""
    return _current.get()[3:_TRACE_END]


def enter_trace(traceparent: str) -> None:
    """Make ``traceparent`` the current one for the rest of this task or context.

    It comes from other processes: what is no traceparent means that there is none.
    """
    _current.set(_normal(traceparent))


@contextmanager
def use_trace(traceparent: str) -> Generator[None]:
    """Make ``traceparent`` the current one inside the block."""
    token = _current.set(_normal(traceparent))
    try:
        yield
    finally:
        _current.reset(token)


def _match(traceparent: str) -> re.Match[str] | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[4] and traceparent.startswith("00")):
        return None  # only a later version may be longer
    return match


def _normal(traceparent: str) -> str:
    """Return ``traceparent`` as version 00 has it, or '' if it is none."""
    return f"00{traceparent[2:_LENGTH]}" if _match(traceparent) else ""
