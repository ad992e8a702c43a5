"""What the market page shows of one feed, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from aegis import AdminPage, Role
from aegis.marketdata._health import judge

__all__ = ["MARKET_PAGE", "FeedFacts", "page_view", "status_view"]

MARKET_PAGE: Final = AdminPage("market", "Market", Path(__file__).parent / "_page", "market_page")

NAMED: Final = 30
"""Contracts of a kind and an exchange that the page names; it tells their number, too."""

NEWS: Final = ("published", "withheld", "lost")
"""What became of ticks that say something new: those of a standby are withheld."""

_OF_EXCHANGE: Final = (
    *("exchange", "phase", "wanted", "covered", "ratio", "silent", "quiet_seconds"),
    *("missing_count", "stalled_count"),
)


class FeedFacts(Protocol):
    """The owner of a gateway, as far as it is looked at here."""

    feed: str
    role: Role
    epoch: int
    restarts: int
    status: dict[str, Any]
    failure: dict[str, Any] | None

    @property
    def state(self) -> str:
        """The state of the gateway, also while it has no process."""
        ...

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        ...

    @property
    def pid(self) -> int | None:
        """The process's id."""
        ...

    @property
    def calendar_days_left(self) -> int | None:
        """How many trading days the calendar still knows; None if there is no end to them."""
        ...

    def figures(self) -> dict[str, Any]:
        """Return what was counted in all its lives."""
        ...


def status_view(facts: FeedFacts) -> dict[str, Any]:
    """Return how a feed stands, active or not."""
    return {
        **facts.status,
        "feed": facts.feed,
        "role": facts.role.value,
        "epoch": facts.epoch,
        "process": {"pid": facts.pid, "alive": facts.alive, "restarts": facts.restarts},
        "failure": facts.status.get("failure") or facts.failure,
        "calendar_days_left": facts.calendar_days_left,
    }


def page_view(facts: FeedFacts) -> dict[str, Any]:
    """Return what the page shows of a feed."""
    status: dict[str, Any] = {**status_view(facts), "state": facts.state}
    ticks: dict[str, dict[str, int]] = facts.figures().get("ticks", {})
    exchanges: list[dict[str, Any]] = [
        _exchange(report, ticks.get(report["exchange"], {}))
        for report in status.get("exchanges", ())
    ]
    names = ("feed", "role", "epoch", "state", "publishing", "failure", "process")
    wanted, covered = (sum(one[name] for one in exchanges) for name in ("wanted", "covered"))
    news = sum(map(_news, ticks.values()))
    lags = [status.get("lag_p50"), status.get("lag_p99")]
    return {
        **{name: status.get(name) for name in names},
        "disconnects": status.get("disconnects", 0),
        "contracts": status.get("contracts", 0),
        "lag_p50": lags[0],
        "lag_p99": lags[1],
        "waiting": status.get("bridge", {}).get("depth", 0),
        "news": news,
        "exchanges": exchanges,
        "findings": [
            {"verdict": finding.verdict.name.lower(), "text": finding.text}
            for finding in judge(status).findings
        ],
        "sample": [
            news,
            *(None if lag is None else 1000 * lag for lag in lags),
            100 * covered / wanted if wanted else None,
        ],
    }


def _exchange(report: Mapping[str, Any], ticks: Mapping[str, int]) -> dict[str, Any]:
    return {
        **{name: report[name] for name in _OF_EXCHANGE},
        "missing": report["missing"][:NAMED],
        "stalled": report["stalled"][:NAMED],
        "news": _news(ticks),
    }


def _news(ticks: Mapping[str, int]) -> int:
    return sum(ticks.get(outcome, 0) for outcome in NEWS)
