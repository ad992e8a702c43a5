"""How far this host's clock may be off, as far as the kernel is told by what keeps it."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

__all__ = ["clock_error"]

_UNSYNCHRONISED: Final = 0x40
"""STA_UNSYNC of <sys/timex.h>."""


class _Timex(ctypes.Structure):
    """The head of ``struct timex``, with room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def clock_error() -> float | None:
    """Return the estimated error in seconds; None if nobody knows."""
    if sys.platform != "linux":
        return None
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    told = _Timex(modes=0)  # Nothing is set.
    if adjtimex(ctypes.byref(told)) < 0 or told.status & _UNSYNCHRONISED:
        return None
    return float(told.esterror) / 1e6
