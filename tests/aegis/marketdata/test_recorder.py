"""Recordings as they are made: parts, gaps, disks that are full, and the way back to ticks."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from prometheus_client import CollectorRegistry

import aegis
from aegis import ConfigurationError, Unavailable
from aegis.marketdata import Tick, _recorder_stream
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import ReplaySource
from aegis.marketdata._contract import UniverseFilter
from aegis.marketdata._pipeline import FeedPipeline
from aegis.marketdata._ports import GatewayState
from aegis.marketdata._recorded_rows import RowReader
from aegis.marketdata._recorder import (
    Part,
    PartFacts,
    RecordedGap,
    RecorderState,
    TickRecorder,
    lacking,
)
from aegis.marketdata._recorder_actor import (
    RECORDER_VARIABLE,
    Recorder,
    RecorderConfig,
    decode_batch,
)
from aegis.marketdata._recorder_metrics import RecorderMetrics
from aegis.marketdata._recorder_stream import TickStreamCopy
from aegis.marketdata._simulated_market import PHASE_NS, SimulatedMarket
from aegis.marketdata._simulated_universe import SimulatedUniverse
from aegis.marketdata._tick import Level, TickFlag
from aegis.marketdata.adapters._nats_publisher import NatsTickPublisher
from aegis.marketdata.adapters._parquet import (
    ParquetRecording,
    ParquetSink,
    facts_of,
    recorded_files,
)
from aegis.marketdata.adapters._recordings import Recordings, _File, _look_at
from aegis.marketdata.adapters._replay import ReplayGateway
from tests.support.marketdata import SHANGHAI, ns, tick
from tests.support.nats import NatsServer
from tests.support.poll import wait_until
from tests.support.system import System, on_both


def batch(*numbers: int, **changes: Any) -> list[Tick]:
    return [tick(**{"sequence": number, "volume": number, **changes}) for number in numbers]


@define
class Memory:
    """A `TickSink` that keeps what it is given, or fails."""

    parts: list[Part] = field(factory=list[Part])
    before: tuple[int, int] | None = None
    failure: int = 0
    refusal: str = ""
    """What a library says that takes a part for none."""

    def pack(self, ticks: Sequence[Tick]) -> Any:
        if any(tick.symbol == "unpackable" for tick in ticks):
            raise ValueError("no column takes this")
        return list(ticks)

    def write(self, part: Part) -> None:
        if self.failure:
            raise OSError(self.failure, os.strerror(self.failure))
        if self.refusal:
            raise ValueError(self.refusal)
        self.parts.append(part)

    def last(self, exchange: str) -> tuple[int, int] | None:
        if self.refusal:
            raise ValueError(self.refusal)
        return self.before

    @property
    def written(self) -> list[list[int]]:
        return [[t.sequence for rows in part.packed for t in rows] for part in self.parts]


RECORDER = {"market", "recorder", "target"}
NAMES = {
    "aegis_recorder_ticks_total": {*RECORDER, "outcome"},
    "aegis_recorder_waiting": RECORDER,
    "aegis_recorder_behind_seconds": RECORDER,
    "aegis_recorder_state": {*RECORDER, "state"},
}
"""All metrics of a recorder with their labels; alerts are made of these."""


class Desk:
    """A recorder whose time and thread are the test's."""

    def __init__(self, sink: Memory | None = None, *, bound: int = 100, rows: int = 1_000) -> None:
        self.now = 0.0
        self.sink = sink or Memory()
        self.recorder = TickRecorder(
            self.sink, every=60.0, rows=rows, bound=bound, now=lambda: self.now
        )
        self.recorder.state = RecorderState.RECORDING

    def put(self, ticks: list[Tick], *, after: float = 0.0) -> None:
        self.now += after
        self.recorder.put(ticks)
        self.recorder.work()


# -- parts ----------------------------------------------------------------------------------


def test_a_part_is_written_when_its_time_is_up() -> None:
    desk = Desk()
    desk.put(batch(1, 2))
    desk.put(batch(3), after=59)
    assert desk.sink.written == []
    desk.put([], after=1)
    assert desk.sink.written == [[1, 2, 3]]
    desk.put(batch(4))
    desk.recorder.finish()
    assert desk.sink.written == [[1, 2, 3], [4]]
    assert desk.recorder.statistics() == {
        "state": "stopped",
        "reason": "",
        "waiting": 0,
        "behind_seconds": 0.0,
        "ticks": {"recorded": 4},
    }


def test_a_part_that_is_large_is_written_at_once() -> None:
    desk = Desk(rows=2)
    desk.put(batch(1, 2, 3))
    assert desk.sink.written == [[1, 2]]


def test_each_exchange_and_trading_day_has_parts_of_its_own() -> None:
    desk = Desk()
    desk.put(batch(1))
    desk.put(batch(1, exchange="DCE", symbol="m2701"))
    desk.put(batch(2, trading_day=20261124))
    assert desk.sink.written == [[1]]
    desk.recorder.finish()
    told = [(p.facts.trading_day, p.facts.exchange, p.facts.ticks) for p in desk.sink.parts]
    assert told == [(20261123, "SHFE", 1), (20261123, "DCE", 1), (20261124, "SHFE", 1)]


# -- gaps -----------------------------------------------------------------------------------


def gaps_of(desk: Desk) -> list[RecordedGap]:
    desk.recorder.finish()
    return [gap for part in desk.sink.parts for gap in part.facts.gaps]


def test_what_did_not_come_stands_in_the_part_behind_it() -> None:
    desk = Desk()
    desk.put(batch(1, 2, 5))
    desk.put(batch(1, exchange="DCE", symbol="m2701"))
    desk.put(batch(6))
    assert gaps_of(desk) == [RecordedGap(7, 2, 2, "they did not come")]


def test_a_change_of_feeds_stands_in_the_part_and_the_old_one_is_recorded_no_more() -> None:
    desk = Desk()
    desk.put(batch(5))
    desk.put(batch(1, epoch=8))
    desk.put(batch(6))
    desk.put(batch(1, epoch=8))
    assert gaps_of(desk) == [
        RecordedGap(7, 5, None, "another feed publishes"),
        RecordedGap(8, 1, None, "the feed was started anew"),
    ]
    assert desk.recorder.counts == {"recorded": 3, "outdated": 1}


def test_what_is_missing_since_the_recorder_ended_is_known_when_it_starts_again() -> None:
    desk = Desk(Memory(before=(7, 10)))
    desk.put(batch(14))
    assert gaps_of(desk) == [RecordedGap(7, 10, 3, "they did not come")]


def test_a_file_that_is_gone_shows_in_the_numbers() -> None:
    def part(first: int, last: int, *gaps: RecordedGap, epoch: int = 7) -> PartFacts:
        count = last - first + 1
        begin, end = [epoch, first], [epoch, last]
        return PartFacts("SHFE", 20261123, count, begin, end, first, last, list(gaps))

    gap = RecordedGap(7, 10, 2, "they did not come")
    assert lacking([part(1, 10), part(11, 20)]) == []
    assert lacking([part(1, 10), part(13, 20, gap)])[0][1] == gap
    gone = lacking([part(1, 10), part(31, 40), part(1, 5, epoch=8)])
    assert [found for _, found in gone] == [
        RecordedGap(7, 10, 20, "a file is missing"),
        RecordedGap(7, 40, None, "a file is missing"),
    ]


# -- a disk that takes nothing --------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (errno.ENOSPC, RecorderState.DISK_FULL),
        (errno.EDQUOT, RecorderState.DISK_FULL),
        (errno.EIO, RecorderState.FAILING),
    ],
)
def test_a_disk_that_takes_nothing_is_told_and_ticks_wait(
    failure: int, state: RecorderState
) -> None:
    desk = Desk(Memory(failure=failure), bound=4)
    desk.put(batch(1, 2))
    desk.put([], after=60)
    told = desk.recorder.statistics()
    assert (told["state"], told["reason"]) == (state, os.strerror(failure))
    desk.put(batch(3, 4))
    desk.put(batch(5, 6, 7))
    assert desk.recorder.statistics()["ticks"] == {"not_recorded": 3}
    assert desk.recorder.statistics()["waiting"] == 4
    desk.sink.failure = 0
    desk.put([], after=2)
    assert desk.recorder.state is RecorderState.RECORDING
    desk.put(batch(8), after=1)
    reason = os.strerror(failure)
    desk.recorder.finish()
    assert desk.sink.written == [[1, 2], [3, 4, 8]]
    (gap,) = desk.sink.parts[1].facts.gaps
    assert gap == RecordedGap(7, 4, 3, gap.reason)
    assert gap.reason in (reason, "the disk was too slow")
    assert desk.recorder.counts == {"recorded": 5, "not_recorded": 3}


def test_what_is_not_written_when_it_should_be_is_behind() -> None:
    desk = Desk(Memory(failure=errno.EIO))
    told = [desk.recorder.behind_seconds()]
    for after in (0, 59, 1, 30, 30):
        desk.put(batch(int(desk.now) + 1), after=after)
        told.append(desk.recorder.behind_seconds())
    # Due after a minute; the next part is due a minute after that, and the first one counts.
    assert told == [0, 0, 0, 0, 30, 60]
    desk.sink.failure = 0
    desk.put([], after=2)
    assert desk.recorder.behind_seconds() == 0


def test_what_did_not_come_is_counted_apart_from_what_found_no_room() -> None:
    desk = Desk(Memory(failure=errno.EIO), bound=3)
    desk.put(batch(1, 4))
    desk.put(batch(5, 6))
    desk.sink.failure = 0
    desk.put([], after=60)
    desk.put(batch(9))
    desk.recorder.finish()
    assert desk.recorder.counts == {"recorded": 3, "missed": 2 + 2, "not_recorded": 2}


def test_a_disk_that_fails_is_not_asked_again_at_once() -> None:
    desk = Desk(Memory(failure=errno.ENOSPC))
    desk.put(batch(1))
    desk.put([], after=60)
    desk.sink.failure = 0
    desk.put([], after=0.5)
    assert desk.sink.written == []
    desk.put([], after=0.6)
    assert desk.sink.written == [[1]]


def test_a_market_that_fills_the_memory_before_a_part_is_due_is_written_earlier() -> None:
    desk = Desk(bound=10)
    for first in range(1, 40, 3):
        desk.put(batch(first, first + 1, first + 2), after=0.1)
    assert desk.recorder.counts == {"recorded": 36}
    desk.recorder.finish()
    assert [number for part in desk.sink.written for number in part] == [*range(1, 40)]


def test_a_part_that_the_library_refuses_is_told_and_the_recorder_goes_on() -> None:
    desk = Desk()
    desk.put(batch(1))
    desk.sink.refusal = "no such type"
    desk.put([], after=60)
    told = desk.recorder.statistics()
    assert (told["state"], told["reason"]) == (RecorderState.FAILING, "no such type")
    desk.sink.refusal = ""
    desk.put([], after=2)
    assert desk.sink.written == [[1]]
    assert desk.recorder.state is RecorderState.RECORDING


@pytest.mark.asyncio
async def test_the_thread_of_a_recorder_outlives_what_it_stumbles_over() -> None:
    sink = Memory(refusal="not to be read")
    recorder = TickRecorder(sink)
    recorder.start()
    recorder.put(batch(1))
    failing = RecorderState.FAILING
    await wait_until(lambda: recorder.state is failing, what="the thread has stumbled")
    sink.refusal = ""
    recorder.put(batch(2, exchange="DCE"))
    recorder.stop()
    assert sink.written == [[2]]
    assert recorder.state is RecorderState.STOPPED


def test_what_cannot_be_written_at_the_end_is_counted() -> None:
    desk = Desk(Memory(failure=errno.ENOSPC))
    desk.put(batch(1, 2))
    desk.recorder.finish()
    assert desk.recorder.statistics()["ticks"] == {"not_recorded": 2}


def test_a_tick_that_no_column_takes_does_not_stop_the_recorder() -> None:
    desk = Desk()
    desk.put(batch(1, symbol="unpackable"))
    desk.put([], after=60)
    desk.put(batch(2))
    desk.recorder.finish()
    assert desk.sink.written == [[2]]
    assert desk.recorder.counts == {"recorded": 1, "not_recorded": 1}


def test_the_thread_records_what_is_put_until_it_is_stopped() -> None:
    sink = Memory()
    recorder = TickRecorder(sink)
    recorder.start()
    recorder.put(batch(1, 2))
    recorder.put(batch(3))
    recorder.stop()
    assert sink.written == [[1, 2, 3]]
    assert recorder.state is RecorderState.STOPPED


# -- files ----------------------------------------------------------------------------------


def record(folder: Path, *batches: list[Tick]) -> TickRecorder:
    recorder = TickRecorder(ParquetSink(folder, SHANGHAI))
    for ticks in batches:
        recorder.put(ticks)
    recorder.work()
    recorder.finish()
    return recorder


def test_a_file_tells_what_is_in_it_and_what_is_missing(tmp_path: Path) -> None:
    record(tmp_path, batch(1, 2, 4))
    (file,) = recorded_files(tmp_path)
    assert file.relative_to(tmp_path).parts == (
        "20261123",
        "SHFE",
        "20261123-100000-7-0000000001.parquet",
    )
    facts = facts_of(file)
    assert facts is not None
    assert (facts.first, facts.last, facts.ticks) == ([7, 1], [7, 4], 3)
    assert facts.gaps == [RecordedGap(7, 2, 1, "they did not come")]


def test_a_recorder_goes_on_behind_the_files_that_are_there(tmp_path: Path) -> None:
    record(tmp_path, batch(1, 2))
    record(tmp_path, batch(3))
    record(tmp_path, batch(3))
    files = recorded_files(tmp_path)
    assert len(files) == 3
    parts = [facts for file in files if (facts := facts_of(file)) is not None]
    assert [len(facts.gaps) for facts in parts] == [0, 0, 1]


def test_a_recording_tells_what_it_holds_as_reading_it_through_would(tmp_path: Path) -> None:
    ticks = batch(1, 2) + batch(3, symbol="cu2701", received_ns=ns("2026-11-23 10:00:09"))
    record(tmp_path, ticks)
    (file,) = recorded_files(tmp_path)
    found = ParquetRecording(file)
    told = _File.of(found)
    assert told is not None
    assert told == _look_at(found, RowReader(found.columns, SHANGHAI))
    assert told.contracts == {("SHFE", "rb2701"), ("SHFE", "cu2701")}
    assert told.last_ns == ns("2026-11-23 10:00:09")


def _nonsense(_: PartFacts) -> dict[str, Any]:
    return {"gaps": 1}


def test_a_recorder_starts_behind_a_file_whose_facts_make_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PartFacts, "plain", _nonsense)
        record(tmp_path, batch(1))
    record(tmp_path, batch(2))
    assert len(recorded_files(tmp_path)) == 2


def test_a_crash_leaves_whole_files_alone(tmp_path: Path) -> None:
    record(tmp_path, batch(1))
    unfinished = recorded_files(tmp_path)[0].with_name(".half.parquet.tmp")
    unfinished.write_bytes(b"PAR1 and no end")
    assert len(recorded_files(tmp_path)) == 1
    record(tmp_path, batch(2))
    assert not unfinished.exists()
    found = Recordings.open(ReplaySource((str(tmp_path),)), Calendar.load())
    assert [raw.volume for raw in found.ticks()] == [1, 2]


def test_a_file_has_its_name_only_when_all_of_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[int] = []
    sync = os.fsync

    def watched(handle: int) -> None:
        named.append(len(recorded_files(tmp_path)))
        sync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    record(tmp_path, batch(1))
    # First the file is synchronised, then the folder that has its name.
    assert named == [0, 1]


def test_a_file_that_grows_too_large_for_the_disk_is_written_once_there_is_room(
    tmp_path: Path,
) -> None:
    recorder = TickRecorder(ParquetSink(tmp_path, SHANGHAI), every=1e-9)
    recorder.state = RecorderState.RECORDING
    recorder.put(batch(*range(1, 3_000)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, limits[1]))
    try:
        recorder.work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert recorder.state is RecorderState.DISK_FULL
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == []
    recorder.finish()
    (file,) = recorded_files(tmp_path)
    facts = facts_of(file)
    assert facts is not None
    assert facts.ticks == 2_999


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB, where the host lets one be made."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_nothing_is_torn_and_what_waited_is_written_when_there_is_room(
    small_disk: Path,
) -> None:
    record(small_disk, batch(1, 2))
    now = 0.0
    sink = ParquetSink(small_disk, SHANGHAI)
    recorder = TickRecorder(sink, every=60.0, bound=5_000, now=lambda: now)
    recorder.state = RecorderState.RECORDING
    recorder.put(batch(*range(3, 2_003)))
    recorder.work()
    filling = small_disk / "else"
    with suppress(OSError), filling.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))
    now = 60.0
    recorder.work()
    assert recorder.state is RecorderState.DISK_FULL
    assert recorder.statistics()["reason"] == "No space left on device"
    for first in range(2_003, 9_003, 1_000):
        recorder.put(batch(*range(first, first + 1_000)))
        recorder.work()
    assert recorder.counts["not_recorded"] == 4_000
    filling.unlink()
    now = 120.0
    recorder.work()
    assert recorder.statistics()["state"] == "recording"
    assert recorder.counts == {"recorded": 5_000, "not_recorded": 4_000}
    parts = [facts for file in recorded_files(small_disk) if (facts := facts_of(file))]
    assert sum(facts.ticks for facts in parts) == 5_002
    assert not list(small_disk.rglob("*.tmp"))
    found = Recordings.open(ReplaySource((str(small_disk),)), Calendar.load())
    assert [raw.volume for raw in found.ticks()] == list(range(1, 5_003))


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="name another folder"):
        ParquetSink(tmp_path / "file" / "below", SHANGHAI)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 and no end")
    with pytest.raises(ConfigurationError, match="no Parquet file that can be read"):
        Recordings.open(ReplaySource((str(file),)), Calendar.load())


def test_levels_and_flags_come_back_as_they_were(tmp_path: Path) -> None:
    books = [
        (Level(None, 0, 3101.0, 7),),
        tuple(Level(3100.0 - n, n + 1, 3101.0 + n, n + 1) for n in range(5)),
        (Level(None, 0, None, 0),),
    ]
    flags = int(TickFlag.SNAPSHOT | TickFlag.CONFLATED)
    ticks = [
        tick(sequence=n + 1, volume=n, levels=book, flags=flags) for n, book in enumerate(books)
    ]
    record(tmp_path, ticks)
    found = Recordings.open(ReplaySource((str(tmp_path),)), Calendar.load())
    raws = list(found.ticks())
    assert [raw.levels for raw in raws] == books
    assert {raw.flags for raw in raws} == {flags}
    assert {raw.trading_day for raw in raws} == {20261123}


# -- there and back -------------------------------------------------------------------------


class Taken:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []

    def publish(self, ticks: Sequence[Tick]) -> None:
        self.ticks += ticks

    def statistics(self) -> dict[str, int]:
        return {}


def pipeline_of(publisher: Any, calendar: Calendar, gateway: Any) -> FeedPipeline:
    pipeline = FeedPipeline(
        gateway, publisher, calendar, UniverseFilter(), now=lambda: 0.0, wall_ns=lambda: 0
    )
    pipeline.on_state(GatewayState.READY, None)
    pipeline.activate(7, 1.5)
    return pipeline


class Told:
    """A gateway that is told nothing."""

    name = "a"


@define
class Both:
    """Publishes to two."""

    publishers: tuple[Any, ...]

    def publish(self, ticks: Sequence[Tick]) -> None:
        for publisher in self.publishers:
            publisher.publish(ticks)

    def statistics(self) -> dict[str, int]:
        return {}


async def speak(pipeline: FeedPipeline, phases: int, system: System) -> None:
    """Have a made-up market say what it says in so many half seconds."""
    contracts = SimulatedUniverse(date(2026, 11, 23), 120, 200).contracts()
    market = SimulatedMarket(contracts, seed=5, zone=SHANGHAI)
    keys = [contract.key for contract in contracts]
    begin = ns("2026-11-23 10:00:00")
    for phase in range(phases):
        at = begin + phase * PHASE_NS
        # Each is received a little later than the one before, as from a wire.
        said = [
            raw._replace(received_ns=at + 1_000 * n)
            for n, raw in enumerate(market.speak(keys, at, at))
        ]
        pipeline.on_ticks(said, False)
        await system.cluster.transport.flush()


def replayed(folder: Path) -> list[Tick]:
    """Return what a feed publishes that replays a folder."""
    found = Recordings.open(ReplaySource((str(folder),)), Calendar.load())
    taken = Taken()
    gateway = ReplayGateway("b", found, speed=0.0)
    pipeline = pipeline_of(taken, gateway.calendar, gateway)
    for raw in found.ticks():
        pipeline.on_ticks([raw], False)
    return taken.ticks


@on_both
async def test_what_was_recorded_is_played_as_it_was_published(system: System) -> None:
    folder = Path(os.environ["RECORDING"])
    os.environ[RECORDER_VARIABLE] = RecorderConfig(folder=str(folder)).to_variable()
    node = await system.start_node((Recorder, ["market"]))
    recorder = system.cluster.actor(Recorder, "market")
    taken = Taken()
    publisher = Both((NatsTickPublisher(system.cluster), taken))
    await speak(pipeline_of(publisher, Calendar.load(), Told()), 30, system)

    async def has_all() -> bool:
        status = await recorder.status()
        return bool(status["folder"]["waiting"] == len(taken.ticks))

    await wait_until(has_all, what="the recorder has all")
    await system.stop_node(node)
    again = replayed(folder)
    assert len(taken.ticks) > 1_500

    def of(ticks: list[Tick], exchange: str) -> list[tuple[Any, ...]]:
        return [each[4:] for each in ticks if each.exchange == exchange]

    for exchange in {each.exchange for each in taken.ticks}:
        assert of(again, exchange) == of(taken.ticks, exchange)
    assert all(one.received_ns <= other.received_ns for one, other in pairwise(again))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECORDING", str(tmp_path / "recording"))
    monkeypatch.setenv(RECORDER_VARIABLE, "")


async def test_batches_go_into_a_stream_each_acknowledged(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_NATS_URL", nats_server.url)
    copy = TickStreamCopy("ticks", max_age=3_600, max_bytes=2**24, bound=5)
    copy.start()
    copy.put(batch(1, 2))
    copy.put(batch(3, 4, 5))
    copy.put(batch(6))
    await wait_until(lambda: copy.counts["recorded"] == 5, what="the stream has them")
    copy.put(batch(7, exchange="DCE"))
    await copy.stop()
    assert copy.statistics() == {
        "state": "stopped",
        "waiting": 0,
        "behind_seconds": 0.0,
        "ticks": {"recorded": 6, "not_recorded": 1},
    }
    async with aegis.connect(nats_server.url) as cluster:
        kept = [stored async for stored in cluster.transport.read("md.record.>")]
    assert [stored.subject for stored in kept] == [
        "md.record.SHFE.20261123",
        "md.record.SHFE.20261123",
        "md.record.DCE.20261123",
    ]
    numbers = [[tick.sequence for tick in decode_batch(stored.payload)] for stored in kept]
    assert numbers == [[1, 2], [3, 4, 5], [7]]


async def test_what_was_under_way_when_the_connection_ended_is_appended_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_NATS_URL", nats_server.url)
    monkeypatch.setattr(_recorder_stream, "RETRY_SECONDS", 0.0)
    append, failures = TickStreamCopy._append, [Unavailable("the connection ended")]

    async def fail_once(self: TickStreamCopy, *arguments: Any) -> list[Any]:
        if failures:
            raise failures.pop()
        return await append(self, *arguments)

    monkeypatch.setattr(TickStreamCopy, "_append", fail_once)
    copy = TickStreamCopy("ticks", max_age=3_600, max_bytes=2**24, bound=5)
    copy.start()
    copy.put(batch(1, 2, exchange="INE"))
    await wait_until(lambda: copy.counts["recorded"] == 2, what="the stream has them")
    assert not failures
    assert copy.behind_seconds() == 0
    await copy.stop()
    async with aegis.connect(nats_server.url) as cluster:
        kept = [stored async for stored in cluster.transport.read("md.record.INE.>")]
    assert len(kept) == 1


def test_a_batch_that_no_stream_takes_is_behind_by_its_age() -> None:
    now = [100.0]
    copy = TickStreamCopy("ticks", max_age=1, max_bytes=1, bound=5, now=lambda: now[0])
    copy.put(batch(1))
    now[0] += 3
    copy.put(batch(2))
    now[0] += 4
    assert copy.behind_seconds() == 7


def test_the_metrics_of_a_recorder_say_what_its_status_says() -> None:
    desk = Desk(Memory(failure=errno.ENOSPC), bound=4)
    desk.put(batch(1, 2))
    desk.put([], after=60)
    desk.put(batch(3, 4, 5), after=5)
    registry = CollectorRegistry()
    folder = desk.recorder.statistics()
    status = {"market": "m", "recorder": "one", "folder": folder, "stream": None}
    registry.register(RecorderMetrics(lambda: [status]))

    def sample(name: str, **labels: str) -> float | None:
        known = {"market": "m", "recorder": "one", "target": "folder"}
        return registry.get_sample_value(name, {**known, **labels})

    assert sample("aegis_recorder_ticks_total", outcome="not_recorded") == 3
    assert sample("aegis_recorder_waiting") == 2
    assert sample("aegis_recorder_behind_seconds") == 5
    assert sample("aegis_recorder_state", state="disk_full") == 1
    assert sample("aegis_recorder_state", state="recording") == 0
    found = {
        sample.name: set(sample.labels)
        for family in registry.collect()
        for sample in family.samples
    }
    assert found == NAMES


def test_a_recorder_without_a_place_to_record_to_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"a folder .* or a stream"):
        RecorderConfig()
    with pytest.raises(ConfigurationError, match="must be above 0"):
        RecorderConfig(folder="x", every=0.0)
    with pytest.raises(ConfigurationError, match="aegis feed record"):
        RecorderConfig.from_variable()


def test_what_is_no_batch_is_refused() -> None:
    for payload in (b"", b"\xc0", b"\x91\x01"):
        with pytest.raises(ValueError):
            decode_batch(payload)
