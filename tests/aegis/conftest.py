"""What the tests of whole systems share."""

from __future__ import annotations

import pytest

from tests.support.nats import NatsServer
from tests.support.system import Backend


@pytest.fixture(params=["memory", "nats"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Both places where a system can live."""
    if request.param == "memory":
        return Backend(None)
    server: NatsServer = request.getfixturevalue("nats_server")
    return Backend(server.url)
