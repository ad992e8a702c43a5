"""Where ticks are published: ``md.tick.SHFE.rb2701`` and its like.

A symbol is one token of the subject. Letters, digits, ``-`` and ``_`` stand for
themselves, any other byte is ``=`` and two hex digits: symbols of combinations hold
spaces and ``&``, which no subject can.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

__all__ = ["BATCH", "LAST", "TICK", "TickSubjects", "batch_subject", "key_of", "tick_subject"]

TICK: Final = "md.tick"
BATCH: Final = "md.batch"
LAST: Final = "md.last"

_CONTRACTS: Final = 100_000
"""Subjects that are remembered; the whole market has a quarter of that."""


@lru_cache(_CONTRACTS)
def tick_subject(exchange: str, symbol: str) -> str:
    """Return where the ticks of a contract are published."""
    return f"{TICK}.{exchange}.{_escape(symbol)}"


class TickSubjects(dict[tuple[str, str], str]):
    """What `tick_subject` returns, by exchange and symbol, at the price of one look-up.

    (The list by which an ``lru_cache`` knows the oldest costs more than that, for every tick.)
    """

    def __missing__(self, contract: tuple[str, str]) -> str:
        if len(self) >= _CONTRACTS:
            self.clear()
        subject = self[contract] = tick_subject(*contract)
        return subject


def batch_subject(exchange: str) -> str:
    """Return where all ticks of an exchange are published, many in one message."""
    return f"{BATCH}.{exchange}"


def key_of(subject: str) -> str:
    """Return the contract, as in ``SHFE.rb2701``, that a subject is of."""
    _, _, exchange, symbol = subject.split(".", 3)
    return f"{exchange}.{_unescape(symbol)}"


def _escape(symbol: str) -> str:
    return _UNSAFE.sub(lambda match: "".join(f"={byte:02X}" for byte in match[0].encode()), symbol)


def _unescape(token: str) -> str:
    if "=" not in token:
        return token
    parts = re.split(r"=([0-9A-Fa-f]{2})", token)
    return b"".join(
        bytes.fromhex(part) if index % 2 else part.encode() for index, part in enumerate(parts)
    ).decode(errors="replace")


_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)
