"""The recorder as an actor: one of a market records, others of it stand by.

It hears what feeds publish for those who take all, in a node of its own, so that neither
its disk nor its pace is any of theirs.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final, Self, cast

import msgpack
from attrs import asdict, frozen

from aegis import AegisActor, ConfigurationError, Subject, query, subscribes
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._recorder import TickRecorder
from aegis.marketdata._recorder_stream import TickStreamCopy
from aegis.marketdata._subjects import BATCH
from aegis.marketdata._tick import Tick

__all__ = ["RECORDER_VARIABLE", "Recorder", "RecorderConfig"]

RECORDER_VARIABLE: Final = "AEGIS_FEED_RECORDER"
"""Environment variable with a `RecorderConfig` in JSON."""

BATCHES_WAITING: Final = 4_096
"""Some 250,000 ticks: as many come in a minute of the whole market."""


@frozen
class RecorderConfig:
    """Where to record to: a folder of Parquet files, a JetStream stream, or both.

    ``every`` (seconds) is how much a crash may take from the folder, ``bound`` how many
    ticks wait in memory for a disk that takes none, ``days`` and ``max_bytes`` how much
    the stream keeps.
    """

    folder: str = ""
    stream: str = ""
    every: float = 60.0
    bound: int = 500_000
    days: float = 7.0
    max_bytes: int = 16 * 1024**3
    zone: str = "china"
    """The calendar whose zone the names of files are in."""

    def __attrs_post_init__(self) -> None:
        if not self.folder and not self.stream:
            raise ConfigurationError(
                "a recorder needs a folder (--to DIR) or a stream (--stream NAME) to record to"
            )
        if not self.every > 0 or self.bound < 1 or not self.days > 0 or self.max_bytes < 1:
            raise ConfigurationError("every, bound, days and max_bytes must be above 0")

    def to_variable(self) -> str:
        """Return it as the variable holds it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_variable(cls) -> Self:
        """Read it from the environment.

        Raises:
            ConfigurationError: it is not there, or says something that cannot be.
        """
        try:
            return cls(**json.loads(os.environ.get(RECORDER_VARIABLE, "")))
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{RECORDER_VARIABLE} must say where to record to; `aegis feed record` sets it"
            ) from error


def decode_batch(payload: bytes) -> list[Tick]:
    """Return the ticks of a batch.

    Raises:
        ValueError: it is none.
    """
    fields = msgpack.unpackb(payload, use_list=False)
    if not isinstance(fields, tuple):
        raise ValueError("this is no batch of ticks")
    return [Tick.from_fields(each) for each in cast("tuple[object, ...]", fields)]


class Recorder(AegisActor):
    """Records what the feeds of a system publish, while it owns its resource."""

    service = "recorder"

    _recorder: TickRecorder | None = None
    _copy: TickStreamCopy | None = None

    async def on_promote(self, epoch: int) -> None:
        """Begin to record."""
        config = RecorderConfig.from_variable()
        if not _recording:
            from aegis.marketdata._recorder_metrics import RecorderMetrics

            RecorderMetrics.register(_statuses)
        _recording[self.instance_id] = self
        if config.folder:
            from aegis.marketdata.adapters._parquet import ParquetSink

            sink = ParquetSink(Path(config.folder), Calendar.load(config.zone).zone)
            self._recorder = TickRecorder(sink, every=config.every, bound=config.bound)
            self._recorder.start()
        if config.stream:
            self._copy = TickStreamCopy(
                config.stream,
                max_age=round(config.days * 86_400),
                max_bytes=config.max_bytes,
                bound=config.bound,
            )
            self._copy.start()

    async def on_demote(self) -> None:
        """Write what waits; another records now."""
        await self._end()

    async def on_stop(self) -> None:
        """Write what waits."""
        await self._end()

    async def _end(self) -> None:
        recorder, self._recorder = self._recorder, None
        copy, self._copy = self._copy, None
        if recorder is not None:
            await asyncio.to_thread(recorder.stop)
            self.log.info("recorder_stopped", **recorder.statistics())
        if copy is not None:
            await copy.stop()
            self.log.info("recorder_stream_stopped", **copy.statistics())

    @subscribes(Subject(f"{BATCH}.*", decode_batch), queue_size=BATCHES_WAITING)
    async def on_batch(self, ticks: list[Tick]) -> None:
        """Take in what a feed published; what did not come shows in the numbers."""
        if self._recorder is not None:
            self._recorder.put(ticks)
        if self._copy is not None:
            self._copy.put(ticks)

    @query
    async def status(self) -> dict[str, Any]:
        """Return how the recorder does."""
        return self.how_it_does()

    def how_it_does(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "market": self.resource_id,
            "recorder": self.instance_id,
            "folder": None if self._recorder is None else self._recorder.statistics(),
            "stream": None if self._copy is None else self._copy.statistics(),
        }


_recording: dict[str, Recorder] = {}
"""The newest life of each recorder of this node."""


def _statuses() -> list[dict[str, Any]]:
    return [recorder.how_it_does() for recorder in _recording.values()]
