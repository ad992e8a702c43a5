"""What holds for every test. Fixtures of one part live in the conftest of its folder."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

from tests.support.nats import nats_server

__all__ = ["nats_server"]

# A developer's own settings must not reach the system under test.
for name in [name for name in os.environ if name.startswith("AEGIS_")]:
    if not name.startswith("AEGIS_TEST_"):
        del os.environ[name]

# A shell without job control starts what runs in its background with SIGINT ignored, and
# every process below would inherit that: then nothing could be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: the machine may be busy with the other half of the suite. A failing example
# is printed in a form that replays it. Examples are drawn anew at each run.
settings.register_profile(
    "aegis",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("aegis")
