"""What the tests of market data share."""

from __future__ import annotations

import pytest

from aegis.marketdata._calendar import Calendar


@pytest.fixture(scope="session")
def calendar() -> Calendar:
    """The calendar that comes with Aegis."""
    return Calendar.load()
