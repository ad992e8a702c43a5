"""When a reminder comes (sans-I/O): once, at an interval, or as a cron text says.

A cron text has the meaning that Debian's cron gives it, in its time zone. Where clocks
change, what is due at a certain time comes once: of an hour that is there twice in the
first, and what falls into an hour that is left out right after it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Literal
from zoneinfo import ZoneInfo

from attrs import frozen
from cronsim import CronSim, CronSimError

from aegis.errors import InvalidRequest

__all__ = ["DEFAULT_ZONE", "Due", "Schedule", "next_by_cron"]

DEFAULT_ZONE: Final = "UTC"
"""The time zone of a cron text that names none: hosts may be anywhere."""

MAX_CRON_LENGTH: Final = 200

_EXAMPLE: Final = '"0 9 * * 1-5" is 9:00 from Monday to Friday'


@frozen
class Due:
    """When a reminder comes first, and what says when it comes again, if anything does.

    ``cron`` is ``[text, zone]`` where a cron text says it.
    """

    first_ms: int
    every_ms: int = 0
    cron: tuple[str, str] | None = None


@frozen
class Schedule:
    """The times that ``remind`` was given, unchecked."""

    after: float | timedelta | None = None
    at: datetime | None = None
    every: float | timedelta | str | None = None
    tz: str | None = None
    missed: Literal["run", "skip"] = "run"

    def check(self, now_ms: int) -> Due:
        """Return what they amount to at ``now_ms`` (Unix time).

        Raises:
            InvalidRequest: something is wrong; the error names the field.
        """
        if self.missed not in ("run", "skip"):
            raise InvalidRequest(
                f"missed: must be 'run' or 'skip', not {self.missed!r}", field="missed"
            )
        if self.tz is not None and not isinstance(self.every, str):
            raise InvalidRequest(
                f"tz: goes with a cron text in every, as in every={_EXAMPLE.split(' is ')[0]}; "
                "at has its own time zone",
                field="tz",
            )
        begin_ms = self._begin(now_ms)
        if isinstance(self.every, str):
            zone = DEFAULT_ZONE if self.tz is None else self.tz
            # With `at` or `after` it comes first at or after that.
            from_ms = now_ms if begin_ms is None else begin_ms - 1
            return Due(next_by_cron(self.every, zone, from_ms), cron=(self.every, zone))
        every_ms = 0 if self.every is None else _milliseconds("every", self.every)
        if self.every is not None and every_ms < 1:
            raise InvalidRequest("every: must be more than 0 seconds", field="every")
        return Due(now_ms + every_ms if begin_ms is None else begin_ms, every_ms)

    def _begin(self, now_ms: int) -> int | None:
        """Return the time that ``at`` or ``after`` stands for, if one is given."""
        if (self.after is not None) + (self.at is not None) > 1 or (
            self.after is None and self.at is None and self.every is None
        ):
            raise InvalidRequest(
                "after: give after (seconds), at (a datetime) or every (seconds, or a cron text); "
                "every goes with either of the others",
                field="after",
            )
        if self.at is not None:
            if self.at.tzinfo is None:
                raise InvalidRequest(
                    "at: must have a time zone, as in datetime.now(UTC)", field="at"
                )
            return round(self.at.timestamp() * 1000)
        if self.after is None:
            return None
        delay_ms = _milliseconds("after", self.after)
        if delay_ms < 0:
            raise InvalidRequest("after: must not be negative", field="after")
        return now_ms + delay_ms


def next_by_cron(text: str, zone: str, now_ms: int) -> int:
    """Return the first time after ``now_ms`` that a cron text stands for, as Unix time.

    Raises:
        InvalidRequest: the text, or the zone, means nothing, or no such time ever comes.
    """
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    local = now.astimezone(_zone(zone))
    if len(text) > MAX_CRON_LENGTH:
        raise _wrong(text, f"it has more than {MAX_CRON_LENGTH} characters")
    try:
        for at in CronSim(text, local):
            # Of an hour that is there twice it may have given the first, which is over.
            if at > now:
                return round(at.timestamp() * 1000)
    except CronSimError as error:
        raise _wrong(text, str(error)) from error
    except OverflowError:
        pass  # There is no such time before the end of the calendar.
    raise _wrong(text, "no such time comes in 50 years")


def _wrong(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"every: {text[:80]!r} is no cron text ({why}); its fields are minute, hour, day of the "
        f"month, month and day of the week: {_EXAMPLE}",
        field="every",
    )


def _zone(name: object) -> tzinfo:
    if isinstance(name, str):
        try:
            return UTC if name == DEFAULT_ZONE else ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            pass  # A folder of zones, and a path out of it, are no zones either.
    raise InvalidRequest(
        f"tz: there is no time zone {name!r}; its name is one of the IANA's, as in 'Asia/Shanghai'",
        field="tz",
    )


def _milliseconds(field: str, value: object) -> int:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        text = ", or a cron text" if field == "every" else ""
        raise InvalidRequest(f"{field}: must be seconds or a timedelta{text}", field=field)
    if not abs(seconds) < 10**11:
        raise InvalidRequest(f"{field}: is out of range", field=field)
    return round(seconds * 1000)
