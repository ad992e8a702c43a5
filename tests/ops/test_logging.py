"""Log lines: their form, their fields, and that logging itself never fails."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from decimal import Decimal
from typing import Any

import pytest
import structlog

from aegis._trace import use_trace
from aegis.ops._logging import configure_logging

TRACE = "0af7651916cd43dd8448eb211c80319c"

pytestmark = pytest.mark.usefixtures("logging_restored")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_begins_with_time_level_event_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    log = structlog.get_logger("aegis.test").bind(service_name="account")
    with use_trace(f"00-{TRACE}-b7ad6b7169203331-01"):
        log.info("registered", instance_id="acct-1", amount=Decimal("1.50"), text="账")
    (line,) = lines(capsys)
    assert list(line)[:4] == ["timestamp", "level", "event", "trace_id"]
    assert line["timestamp"].endswith("Z")
    assert line | {"timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "event": "registered",
        "trace_id": TRACE,
        "service_name": "account",
        "instance_id": "acct-1",
        "amount": "1.50",
        "text": "账",
        "logger": "aegis.test",
    }


def test_the_level_holds_for_our_loggers_and_those_of_libraries(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("warning", "json")
    structlog.get_logger("aegis.test").info("not this")
    logging.getLogger("nats").info("nor this")
    structlog.get_logger("aegis.test").warning("this")
    logging.getLogger("nats.aio").error("and %s", "that")
    assert [(line["level"], line["event"], line["logger"]) for line in lines(capsys)] == [
        ("warning", "this", "aegis.test"),
        ("error", "and that", "nats.aio"),
    ]


def test_a_traceback_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        structlog.get_logger("aegis.test").exception("failed")
        logging.getLogger("pykka").exception("failed")
    for line in lines(capsys):
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("ValueError: two\nlines")


def test_a_line_outside_any_trace_has_no_trace_id(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    structlog.get_logger("aegis.test").info("idle", trace_id="")
    structlog.get_logger("aegis.test").info("told", trace_id=TRACE)
    assert [line.get("trace_id") for line in lines(capsys)] == [None, TRACE]


def test_values_that_json_does_not_know_become_text(capsys: pytest.CaptureFixture[str]) -> None:
    class Silent:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    loop: list[Any] = []
    loop.append(loop)
    configure_logging("info", "json")
    structlog.get_logger("aegis.test").info("odd", silent=Silent(), loop=loop, keys={1: {2}})
    (line,) = lines(capsys)
    assert line["event"] == "odd"
    assert "Silent without text" in line["silent"]


def test_the_console_form_is_plain_text_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("debug", "console")
    structlog.get_logger("aegis.test").debug("hello", answer=42)
    text = capsys.readouterr().err
    assert "[debug" in text
    assert "answer=42" in text
    assert "\x1b" not in text


def test_json_is_the_form_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    structlog.get_logger("aegis.test").info("hello")
    assert lines(capsys)[0]["event"] == "hello"


def test_warnings_are_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("careful", UserWarning, stacklevel=1)
    logging.captureWarnings(False)
    assert "careful" in lines(capsys)[0]["event"]


def test_a_stderr_that_went_away_does_not_fail_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    configure_logging("info", "json")
    for stream in (Gone(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        structlog.get_logger("aegis.test").info("nobody reads this")
        logging.getLogger("nats").error("nor this")
