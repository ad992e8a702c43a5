"""How many seeds the simulation runs: ``pytest tests/simulation --seeds 5000``."""

from __future__ import annotations

from typing import Final

import pytest

DEFAULT_SEEDS: Final = 400

COVERAGE: Final = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--seeds", type=int, default=DEFAULT_SEEDS, help="seeds to simulate")
    group.addoption("--seed", type=int, default=None, help="simulate this seed alone")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    coverage = config.stash.get(COVERAGE, "")
    if coverage:
        terminalreporter.section("what the simulation has exercised")
        terminalreporter.line(coverage)


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> range:
    """Return the seeds to run."""
    seed = request.config.getoption("--seed", default=None)
    if isinstance(seed, int):
        return range(seed, seed + 1)
    count = request.config.getoption("--seeds", default=DEFAULT_SEEDS)
    return range(count if isinstance(count, int) else DEFAULT_SEEDS)
