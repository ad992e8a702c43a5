"""What the tests of whole systems share."""

from __future__ import annotations

import pytest

from tests.ops.conftest import logging_restored
from tests.support.nats import NatsServer
from tests.support.system import Backend

__all__ = ["backend", "logging_restored"]


@pytest.fixture(params=["memory", "nats"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Both places where a system can live."""
    if request.param == "memory":
        return Backend(None)
    server: NatsServer = request.getfixturevalue("nats_server")
    return Backend(server.url)
