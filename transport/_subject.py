"""NATS subjects: which are well formed, and which pattern matches which."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

__all__ = ["MAX_SUBJECT_BYTES", "check_filter", "check_subject", "matches", "overlaps"]

MAX_SUBJECT_BYTES: Final = 1900
"""The server takes a control line of 4,096 bytes, and two subjects stand in it."""

_SUBJECT: Final = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(\.[^\s.*>\x00-\x1f\x7f]+)*")
_FILTER: Final = re.compile(r"((\*|[^\s.*>\x00-\x1f\x7f]+)\.)*(\*|>|[^\s.*>\x00-\x1f\x7f]+)")


@lru_cache(maxsize=8192)
def check_subject(subject: str) -> bytes:
    """Return ``subject``, to which one may publish, as bytes.

    Raises:
        ValueError: it is empty, too long, has an empty token, white space, or a
            wildcard. The server would close the connection over such a one.
    """
    return _checked(subject, _SUBJECT)


@lru_cache(maxsize=1024)
def check_filter(subject: str) -> bytes:
    """Return ``subject``, which may have wildcards, as bytes.

    Raises:
        ValueError: it is malformed.
    """
    return _checked(subject, _FILTER)


def _checked(subject: str, pattern: re.Pattern[str]) -> bytes:
    encoded = subject.encode()
    if pattern.fullmatch(subject) is None or len(encoded) > MAX_SUBJECT_BYTES:
        shown = subject if len(subject) <= 80 else subject[:77] + "..."
        raise ValueError(f"not a valid subject: {shown!r}")
    return encoded


def matches(pattern: str, subject: str) -> bool:
    """Return whether ``subject`` is one that ``pattern`` stands for.

    ``*`` stands for one token, ``>`` for one or more at the end. A ``subject`` with
    wildcards matches if all that it stands for match.
    """
    if pattern == subject:
        return True
    wanted = pattern.split(".")
    tokens = subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > index
        if index >= len(tokens) or tokens[index] == ">":
            return False
        if token not in ("*", tokens[index]):
            return False
    return len(wanted) == len(tokens)


def overlaps(one: str, other: str) -> bool:
    """Return whether there is a subject that both patterns stand for."""
    mine, theirs = one.split("."), other.split(".")
    for mark, token in zip(mine, theirs, strict=False):
        if ">" in (mark, token):
            return True
        if mark != token and "*" not in (mark, token):
            return False
    return len(mine) == len(theirs)
