"""What `aegis events` prints of each event."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from aegis.ops._events import event_line

AT = datetime(2026, 11, 22, 0, 35, 5, 925_000, tzinfo=UTC)
OWNER = {"service_name": "account", "instance_id": "acct-2"}
STEPS = {"fenced_ms": 19.0, "replayed_ms": 20.0, "covered_ms": 20.4}
DURATIONS = {"detected": 0.033, "decided": 0.103, "covered": 0.020, "total": 2.973}


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            {"event": "registered", **OWNER, "resource_ids": ["A", "B"], "role": "standby"},
            "registered   account@acct-2 A, B as standby",
        ),
        (
            {"event": "unhealthy", **OWNER, "role": "active", "cause": "died"},
            "unhealthy    account@acct-2 (died)",
        ),
        (
            {"event": "serving", **OWNER, "resource_ids": list("ABCD"), **STEPS},
            "serving      account@acct-2 A, B, C and 1 more after 20 ms",
        ),
        (
            {"event": "first_answer", **OWNER, **STEPS, "first_answer_ms": 2837.0},
            "first_answer account@acct-2 after 2837 ms",
        ),
        (
            {
                "event": "failed_over",
                **OWNER,
                "old_instance_id": "acct-1",
                "cause": "died",
                "durations": DURATIONS,
            },
            "failed_over  account@acct-2 instead of acct-1 (died) served after 156 ms, "
            "first answer after 2973 ms",
        ),
    ],
)
def test_a_line_says_what_happened_and_how_long_it_took(facts: dict[str, Any], line: str) -> None:
    assert event_line(AT, facts) == f"00:35:05.925Z {line}"
