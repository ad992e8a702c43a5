"""Log lines: JSON, one event a line, or a readable form for a terminal; on stderr.

Each line has ``timestamp``, ``level``, ``event`` and, where a request is under way, its
``trace_id``; then what the logger was bound to and what the line says besides. Lines of
the standard library's loggers (nats, pykka, asyncio) come out in the same form.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import MutableMapping
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

from aegis._trace import current_trace_id

__all__ = ["configure_logging"]

_FIRST: Final = ("timestamp", "level", "event", "trace_id")
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logging(level: str, form: str | None = None, *, cache: bool = False) -> None:
    """Send all log lines of at least ``level`` to stderr.

    ``form`` is ``json`` or ``console``; None takes ``console`` on a terminal. With
    ``cache`` loggers keep this set-up for the rest of the process, which makes a line that
    is filtered out almost free: for a node, not for tests.
    """
    number = _LEVELS[level]
    console = form == "console" or (form is None and _stderr_is_terminal())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace_id,
    ]
    render: list[Processor]
    if console:
        render = [
            structlog.dev.ConsoleRenderer(
                colors=_stderr_is_terminal() and not os.environ.get("NO_COLOR"),
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    else:
        render = [structlog.processors.format_exc_info, _render_json]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=cache,
    )
    handler = _StandardHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                *shared,
                structlog.stdlib.ExtraAdder(),
                structlog.stdlib.PositionalArgumentsFormatter(),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    logging.getLogger("asyncio").setLevel(max(number, logging.INFO))
    logging.captureWarnings(True)


class _StderrLogger:
    """Writes finished lines; a terminal that went away must not fail the work that logs."""

    _lock = threading.Lock()

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, message: str) -> None:
        """Write one line to whatever is stderr at this moment."""
        stream = sys.stderr
        try:
            with self._lock:
                stream.write(f"{message}\n")
                stream.flush()
        except (AttributeError, OSError, ValueError):
            pass

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class _StandardHandler(logging.Handler):
    """Takes in the lines of the standard library's loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
        except Exception:
            self.handleError(record)
        else:
            _StderrLogger().msg(message)


def _stderr_is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False


def _add_logger_name(logger: Any, method: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    name = getattr(logger, "name", "") if record is None else record.name
    if name:
        event["logger"] = name
    return event


def _add_trace_id(logger: Any, method: str, event: EventDict) -> EventDict:
    trace_id = event.pop("trace_id", "") or current_trace_id()
    if trace_id:
        event["trace_id"] = trace_id
    return event


def _render_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    line = {key: event[key] for key in _FIRST if key in event}
    line.update(event)
    try:
        return json.dumps(line, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({str(key): _plain(value) for key, value in line.items()})


def _plain(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__} without text: {type(error).__name__}>"
