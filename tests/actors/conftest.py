"""Log lines of the kernel as plain text: tracebacks drawn in boxes take a second each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.actors import control_world
from tests.support.nats import NatsServer


@pytest.fixture(autouse=True)
def plain_log_lines() -> Iterator[None]:
    configured = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ],
        cache_logger_on_first_use=False,
    )
    yield
    structlog.reset_defaults()
    if configured is not None:
        structlog.configure(**configured)


@pytest.fixture(params=["memory", "nats"])
def play(request: pytest.FixtureRequest) -> control_world.Play:
    """Run a scenario in memory and virtual time, and over a real server."""
    if request.param == "memory":
        return control_world.play
    server: NatsServer = request.getfixturevalue("nats_server")
    return lambda scenario: control_world.play(scenario, server)
