"""Recorders and replays as real processes, beside real feeds and consumers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from aegis import Cluster
from aegis.marketdata import Tick, TickStream
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import ReplaySource
from aegis.marketdata._health import Verdict, judge
from aegis.marketdata._recorder import PartFacts, lacking
from aegis.marketdata._tick import TickFlag
from aegis.marketdata.adapters._parquet import facts_of, recorded_files
from aegis.marketdata.adapters._recordings import Recordings
from tests.support.marketdata import ns
from tests.support.nodes import Host, NodeProcess
from tests.support.poll import wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(180)]

SAMPLE = Path(__file__).resolve().parents[3] / "examples/recordings/czce_rm705_20170320.csv"

MARKET = """
calendar = "always"
[universe]
include = ["SHFE.*"]
[feeds.a.simulated]
futures = 60
options = 0
rate = 4.0
"""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncGenerator[Host]:
    async with Host.open(tmp_path / "data") as host:
        yield host


async def record(host: Host, folder: Path) -> NodeProcess:
    return await host.start_node("--to", str(folder), "--every", "0.3", command=("feed", "record"))


def parts(folder: Path) -> list[PartFacts]:
    return [facts for file in recorded_files(folder) if (facts := facts_of(file)) is not None]


async def test_a_recorded_day_is_played_to_consumers_and_recorded_again(
    host: Host, tmp_path: Path
) -> None:
    folder = tmp_path / "recording"
    recorder = await record(host, folder)
    heard: list[Tick] = []
    async with host.caller() as cluster, cluster.ticks("CZCE.*", snapshot=False) as stream:
        player = await NodeProcess.start(
            *(str(SAMPLE), "--speed", "0", "--data-dir", str(host.folder), "--json"),
            command=("feed", "replay"),
        )
        async for tick in stream:
            assert stream.take_gaps() == []
            heard.append(tick)
            if len(heard) == 531:
                break
        assert await player.wait_end() == 0, "\n".join(player.lines)
        assert any('"published": 531' in line for line in player.lines), "\n".join(player.lines)
        await wait_until(lambda: sum(p.ticks for p in parts(folder)) == 531, what="all is written")
    assert await recorder.stop() == 0
    rows = SAMPLE.read_text().splitlines()[1:]
    assert [f"{tick.last_price}" for tick in heard] == [row.split(",")[3] for row in rows]
    assert {tick.trading_day for tick in heard} == {20170320}
    assert not any(tick.stale for tick in heard)
    again = Recordings.open(ReplaySource((str(folder),)), Calendar.load())
    assert [raw.received_ns for raw in again.ticks()] == [tick.received_ns for tick in heard]
    assert lacking(parts(folder)) == []


async def test_a_recorded_market_is_judged_by_its_own_time(host: Host, tmp_path: Path) -> None:
    rows = SAMPLE.read_text().splitlines()
    rows[400] = rows[400].replace("RM705", "")
    (tmp_path / "day.csv").write_text("\n".join(rows))
    market = tmp_path / "market.toml"
    market.write_text('[feeds.day.replay]\nfiles = ["day.csv"]\nspeed = 0.0\n')
    node = await host.start_node(str(market), "--feed", "day", command=("feed", "run"))
    found: dict[str, Any] = {}
    async with host.caller() as cluster:

        async def is_over() -> bool:
            found.update(await cluster.call("feed", "status", resource_id="market"))
            replay: dict[str, Any] = found.get("replay") or {}
            return bool(replay.get("finished")) and not found["bridge"]["depth"]

        await wait_until(is_over, what="all is played", timeout=60)
        assert await cluster.call("feed", "owner", resource_id="market")
    assert found["ticks"]["published"] == 530
    assert found["replay"]["damaged"] == 1
    assert found["replay"]["market_ns"] == ns("2017-03-20 13:30:59.5")
    (report,) = found["exchanges"]
    assert (report["phase"], report["covered"], report["quiet_seconds"]) == ("open", 1, 0.0)
    assert not report["silent"]
    assert report["stalled_count"] == 0
    assert judge(found).verdict is Verdict.FINE
    # The gateway's process logs in lines of its own.
    assert any('"line": 401' in line and "no symbol" in line for line in node.lines)


async def test_a_killed_recorder_leaves_whole_files_and_its_successor_tells_what_is_missing(
    host: Host, tmp_path: Path
) -> None:
    folder, market = tmp_path / "recording", tmp_path / "market.toml"
    market.write_text(MARKET)
    recorder = await record(host, folder)
    await host.start_node(str(market), "--feed", "a", command=("feed", "run"))
    await wait_until(lambda: len(parts(folder)) > 1, what="something is recorded", timeout=60)
    recorder.kill()
    await recorder.wait_end()
    async with host.caller() as cluster:
        await sees_what_it_missed(cluster)
    before = parts(folder)
    await record(host, folder)
    await wait_until(
        lambda: len(parts(folder)) > len(before), what="it is recorded again", timeout=60
    )
    after = parts(folder)
    found = lacking(after)
    (epoch, last), (_, first) = before[-1].last, after[len(before)].first
    gaps = {(gap.epoch, gap.after): gap for _, gap in found}
    assert gaps[epoch, last].missed == first - last - 1
    assert first > last + 1
    assert gaps[epoch, last].reason == "they did not come"
    ticks = list(Recordings.open(ReplaySource((str(folder),)), Calendar.load("always")).ticks())
    assert len(ticks) >= sum(part.ticks for part in after)


async def sees_what_it_missed(cluster: Cluster) -> None:
    """A consumer that is slower than a real feed is told, and has every other tick."""
    async with TickStream(cluster, ("SHFE.*",), bound=5) as stream:
        await wait_until(lambda: stream.dropped > 20, what="ticks were dropped", timeout=60)
        last: dict[str, int] = {}
        dropped = 0
        async for tick in stream:
            gaps = stream.take_gaps()
            dropped += sum(gap.missed for gap in gaps if gap.dropped)
            assert not any(gap.feed_changed for gap in gaps)
            before = last.get(tick.exchange)
            is_state = bool(tick.flags & TickFlag.SNAPSHOT)
            assert gaps or before is None or is_state or tick.sequence == before + 1
            last[tick.exchange] = tick.sequence
            if dropped > 20 and not gaps:
                return
