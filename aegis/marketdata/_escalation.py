"""What is told of contracts that stay missing or stalled: once, and once when it is over.

A contract that ticks again after it was subscribed to again is nobody's business. One that
does not is *escalated*: counted and told, an exchange and a kind at a time. Nothing here
touches a clock or does any I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from aegis.marketdata._calendar import Phase
from aegis.marketdata._coverage import ExchangeCoverage

__all__ = ["ESCALATED", "Escalations", "Notice"]

type _Place = tuple[str, str]
"""An exchange and a kind."""

ESCALATED: Final = "feed_escalated"
RECOVERED: Final = "feed_recovered"

KINDS: Final = ("missing", "stalled")

TRIES: Final = 2
"""So often a contract is subscribed to again before anybody is told."""

NAMED: Final = 10


@frozen
class Notice:
    """Something to tell: contracts of one exchange that persist, or that do no longer."""

    event: str
    """`ESCALATED` or `RECOVERED`."""
    exchange: str
    kind: str
    contracts: tuple[str, ...]

    def facts(self) -> Mapping[str, Any]:
        """Return it as it is published; of many contracts only the first are named."""
        return {
            "exchange": self.exchange,
            "kind": self.kind,
            "count": len(self.contracts),
            "contracts": list(self.contracts[:NAMED]),
        }


class Escalations:
    """Follows the contracts of one feed from one resubscription to the next."""

    def __init__(self) -> None:
        self._tries: dict[_Place, Counter[str]] = {}
        """How often each contract was subscribed to again in vain."""
        self._told: dict[_Place, frozenset[str]] = {}
        """What has been escalated and goes on."""

    def take(self, reports: Iterable[ExchangeCoverage]) -> list[Notice]:
        """Take how all exchanges stand at a resubscription; return what is to be told.

        An exchange that is not open owes nothing: of it all stays as it was.
        """
        tries: dict[_Place, Counter[str]] = {}
        told: dict[_Place, frozenset[str]] = {}
        for report in reports:
            for kind, keys in zip(KINDS, (report.missing, report.stalled), strict=True):
                place = report.exchange, kind
                before = self._tries.get(place, Counter())
                if report.phase is not Phase.OPEN:
                    tries[place], told[place] = before, self._told.get(place, frozenset())
                    continue
                tries[place] = Counter({key: before[key] + 1 for key in keys})
                told[place] = frozenset(key for key in keys if tries[place][key] > TRIES)
        notices = [
            *_changes(ESCALATED, told, self._told),
            *_changes(RECOVERED, self._told, told),
        ]
        self._tries, self._told = tries, told
        return notices


def _changes(
    event: str, these: Mapping[_Place, frozenset[str]], but: Mapping[_Place, frozenset[str]]
) -> Iterator[Notice]:
    for (exchange, kind), contracts in these.items():
        if left := contracts - but.get((exchange, kind), frozenset()):
            yield Notice(event, exchange, kind, tuple(sorted(left)))
