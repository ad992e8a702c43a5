"""What holds for every test. Fixtures of one part live in the conftest of its folder."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.support.nats import nats_server

__all__ = ["nats_server"]

# A developer's own settings must not reach the system under test.
for name in [name for name in os.environ if name.startswith("AEGIS_")]:
    if not name.startswith("AEGIS_TEST_"):
        del os.environ[name]

# No deadline: the machine may be busy with the other half of the suite. A failing example
# is printed in a form that replays it. Examples are drawn anew at each run.
settings.register_profile(
    "aegis",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("aegis")
