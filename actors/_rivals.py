"""Rivals (sans-I/O): leaders of before that may still answer beats, and when none does.

A proof of death is about a node's connection: the process has ended, or has dropped its
lease before it can be back. Should it be back, a rival might give it another lease that
this leader does not know of. So a proof ends a lease only when no rival is left: all of
them are silenced, or their time is over.

A rival whose connection was lost after this leader's takeover is silenced for good: it
needs a renewal to answer beats again, and that is refused.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["Rivals"]


class Rivals:
    """The rivals of one leader until a time; None for nodes that nobody knows."""

    def __init__(self, nodes: Collection[str] | None, until: float) -> None:
        self._nodes = None if nodes is None else frozenset(nodes)
        self._until = until
        self._silenced: set[str] = set()
        self._told = False

    def silence(self, node_id: str) -> None:
        """It is proven that a node's connection was lost in this reign."""
        if self._nodes is not None and node_id in self._nodes:
            self._silenced.add(node_id)

    def are_gone(self, now: float) -> bool:
        """Whether no leader of before can answer beats any more."""
        if now >= self._until:
            return True
        return self._nodes is not None and self._nodes <= self._silenced

    def were_outlived(self, now: float) -> bool:
        """Whether their time has ended since this was asked last; true only once."""
        ended = not self._told and now >= self._until
        self._told = self._told or ended
        return ended
