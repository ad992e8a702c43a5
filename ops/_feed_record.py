"""``aegis feed record`` and ``aegis feed recorded``: recordings, made and looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import typer
from attrs import asdict

from aegis.errors import ConfigurationError, NotFound
from aegis.marketdata._recorder import PartFacts, lacking
from aegis.marketdata._recorder_actor import RECORDER_VARIABLE, RecorderConfig
from aegis.ops._feed import tell_children
from aegis.ops._options import CommandContext

__all__ = ["record", "recorded"]


def record(
    context: CommandContext, market: str, name: str, role: str, config: RecorderConfig
) -> None:
    """Run the node of a recorder."""
    if config.folder:
        from datetime import UTC

        from aegis.marketdata.adapters._parquet import ParquetSink

        ParquetSink(Path(config.folder), UTC)  # What is wrong with it is told before the start.
    os.environ[RECORDER_VARIABLE] = config.to_variable()
    tell_children(context)
    from aegis.ops._run import run as run_node

    service = {
        "target": "aegis.marketdata:Recorder",
        "instance_id": name,
        "resources": [market],
        "role": role,
    }
    run_node(context, [service])


def recorded(context: CommandContext, folder: Path) -> None:
    """Print what a folder of recordings holds, and what is missing in it.

    Raises:
        NotFound: there is nothing of the recorder.
    """
    rows: list[list[str]] = []
    gaps: list[dict[str, Any]] = []
    total = 0
    for day, exchange, parts in _sets(folder):
        found = lacking(parts)
        ticks = sum(part.ticks for part in parts)
        missed = sum(gap.missed or 0 for _, gap in found)
        changes = sum(gap.missed is None for _, gap in found)
        total += ticks
        rows.append([day, exchange, str(len(parts)), f"{ticks:,}", f"{missed:,}", str(changes)])
        gaps += [
            {"trading_day": part.trading_day, "exchange": exchange, **asdict(gap)}
            for part, gap in found
        ]
    if not rows:
        raise NotFound(f"{folder}: there is no recording; `aegis feed record --to` makes one")
    if context.output.json:
        context.output.document({"ticks": total, "gaps": gaps})
    else:
        columns = ["day", "exchange", "files", "ticks", "missed", "feed changes"]
        context.output.table(columns, rows)
        for gap in gaps:
            if gap["missed"] is not None:
                context.output.line(
                    f"{gap['trading_day']} {gap['exchange']}: {gap['missed']:,} ticks are missing "
                    f"behind {gap['epoch']}.{gap['after']}: {gap['reason']}"
                )
    if any(gap["missed"] for gap in gaps):
        raise typer.Exit(1)


def _sets(folder: Path) -> Iterator[tuple[str, str, list[PartFacts]]]:
    """Yield the parts of each day and exchange, in their order."""
    from aegis.marketdata.adapters._parquet import facts_of, recorded_files

    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder")
    files = recorded_files(folder)
    for (day, exchange), paths in groupby(files, lambda p: (p.parent.parent.name, p.parent.name)):
        parts = [facts for path in paths if (facts := facts_of(path)) is not None]
        parts.sort(key=lambda part: part.first_ns)
        if parts:
            yield day, exchange, parts
