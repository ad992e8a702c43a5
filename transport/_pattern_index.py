"""Which of many patterns stand for a subject, without a look at each of them."""

from __future__ import annotations

from functools import lru_cache

from aegis.transport._subject import matches

__all__ = ["PatternIndex", "matches_cached"]


@lru_cache(maxsize=16_384)
def matches_cached(pattern: str, subject: str) -> bool:
    """Return what `aegis.transport._subject.matches` does, and remember it."""
    return matches(pattern, subject)


class PatternIndex[T]:
    """Items by the pattern of subjects that each is for.

    Most patterns begin with two tokens that are no wildcards: only those that begin as
    the subject does are compared with it.
    """

    def __init__(self) -> None:
        self._exact: dict[str, list[T]] = {}
        self._by_head: dict[str, list[tuple[str, T]]] = {}
        """By the first two tokens; by the empty text what has a wildcard among them."""

    def add(self, pattern: str, item: T) -> None:
        """Find ``item`` from now on."""
        if _is_wild(pattern):
            self._by_head.setdefault(_head(pattern), []).append((pattern, item))
        else:
            self._exact.setdefault(pattern, []).append(item)

    def remove(self, pattern: str, item: T) -> None:
        """Find ``item`` no more; it need not be there."""
        if _is_wild(pattern):
            head = _head(pattern)
            left = [one for one in self._by_head.get(head, ()) if one[1] is not item]
            _keep(self._by_head, head, left)
        else:
            same = [one for one in self._exact.get(pattern, ()) if one is not item]
            _keep(self._exact, pattern, same)

    def find(self, subject: str) -> list[T]:
        """Return the items for ``subject``: those for it alone, then all others."""
        found = list(self._exact.get(subject, ()))
        head = _head(subject)
        for beginning in (head, "") if head else ("",):
            for pattern, item in self._by_head.get(beginning, ()):
                if matches_cached(pattern, subject):
                    found.append(item)
        return found


def _keep[T](lists: dict[str, list[T]], key: str, left: list[T]) -> None:
    if left:
        lists[key] = left
    else:
        lists.pop(key, None)


def _is_wild(pattern: str) -> bool:
    return "*" in pattern or ">" in pattern


def _head(subject: str) -> str:
    """Return the first two tokens, with more behind them; empty if that is not so."""
    end = subject.find(".", subject.find(".") + 1)
    head = subject[: max(end, 0)]
    return "" if _is_wild(head) else head
