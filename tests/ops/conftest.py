"""What tests of the operator's side share."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Undo what `configure_logging` does to the whole process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    asyncio_level = logging.getLogger("asyncio").level
    show = warnings.showwarning
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    warnings.showwarning = show
    root.handlers, root.level = handlers, level
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(asyncio_level)
