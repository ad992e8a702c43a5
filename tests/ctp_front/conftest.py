"""What the tests of the fake front share."""

from __future__ import annotations

import pytest

from tests.ctp_front.build import BUILD, Build


@pytest.fixture(scope="session")
def ctp() -> Build:
    """What `make test-ctp` builds; a test that needs it is skipped where it is not."""
    if reason := BUILD.why_not():
        pytest.skip(reason)
    return BUILD
