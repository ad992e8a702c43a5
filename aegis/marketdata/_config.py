"""What `aegis feed` is told: which feeds there are, and what of the market is wanted."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

import cattrs
from attrs import evolve, field, fields, frozen
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

from aegis import ConfigurationError
from aegis.marketdata._calendar import BUILT_IN, Calendar
from aegis.marketdata._contract import Product, UniverseFilter
from aegis.marketdata._coverage import Patience
from aegis.marketdata._environment import FromEnvironment, expanded
from aegis.marketdata._failover import FailoverLimits
from aegis.marketdata._lifecycle import Deadlines
from aegis.marketdata._simulated_faults import SimulatedFaults
from aegis.marketdata._subscriptions import Pace
from aegis.marketdata._vendor_sources import SECRET_SETTINGS, CtpSource, VnpySource

__all__ = [
    "FeedConfig",
    "MarketConfig",
    "ReplaySource",
    "SimulatedSource",
    "Source",
    "read_faults",
]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)


@frozen
class SimulatedSource:
    """A made-up market. ``rate`` scales how often its contracts tick."""

    futures: int = 900
    options: int = 20_000
    seed: int = 1
    rate: float = 1.0
    even: bool = False
    faults: SimulatedFaults = field(factory=SimulatedFaults)


@frozen
class ReplaySource:
    """Recorded days. ``speed`` is how many times faster than recorded they are played.

    With 0 they are played as fast as they are taken. ``files`` are CSV or Parquet files,
    folders of such, or patterns with ``*``. ``exchange`` is for files that do not name it.
    Where nothing was recorded for longer than ``max_pause`` (seconds of playing), the rest
    of the pause is left out; 0 leaves out nothing.
    """

    files: tuple[str, ...]
    speed: float = 1.0
    exchange: str = ""
    max_pause: float = 0.0

    def anchored(self, base: Path, feed: str) -> Self:
        """Return the same with files that are relative to ``base`` made whole."""
        return evolve(self, files=tuple(str(base / file) for file in self.files))


type Source = SimulatedSource | ReplaySource | CtpSource | VnpySource


@frozen
class FeedConfig:
    """One feed: where its ticks come from, which is one of these."""

    simulated: SimulatedSource | None = None
    replay: ReplaySource | None = None
    ctp: CtpSource | None = None
    sopt: CtpSource | None = None
    openctp: CtpSource | None = None
    """The same fronts as those of ``ctp``, by another library."""
    vnpy: VnpySource | None = None

    def __attrs_post_init__(self) -> None:
        named = self._named()
        if len(named) != 1:
            raise ConfigurationError(
                f"{' and '.join(named) or 'no source'} given; give one of "
                f"{', '.join(f.name for f in fields(FeedConfig))}"
            )

    def _named(self) -> dict[str, Source]:
        sources = {f.name: getattr(self, f.name) for f in fields(FeedConfig)}
        return {name: source for name, source in sources.items() if source is not None}

    @property
    def kind(self) -> str:
        """Which kind of source it is, as in ``ctp``."""
        return next(iter(self._named()))

    @property
    def source(self) -> Source:
        """The source itself."""
        return next(iter(self._named().values()))

    def anchored(self, base: Path, feed: str) -> Self:
        """Return the same with paths that are relative to ``base`` made whole."""
        source = self.source
        if isinstance(source, SimulatedSource):
            return self
        changed: dict[str, Any] = {self.kind: source.anchored(base, feed)}
        return evolve(self, **changed)


@frozen
class MarketConfig:
    """One market: its feeds, of which one at a time publishes, and its universe.

    ``calendar`` is ``china``, ``always`` (open around the clock, for made-up markets), or
    a file.
    """

    feeds: dict[str, FeedConfig]
    resource: str = "market"
    universe: UniverseFilter = field(factory=UniverseFilter)
    calendar: str = "china"
    bridge_bound: int = 50_000
    publish: Literal["ticks", "batches", "both"] = "both"
    pace: Pace = field(factory=Pace)
    deadlines: Deadlines = field(factory=Deadlines)
    patience: Patience = field(factory=Patience)
    failover: FailoverLimits = field(factory=FailoverLimits)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a configuration file (TOML); paths in it are relative to its folder.

        Raises:
            ConfigurationError: it cannot be read, or says something that cannot be.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror or error}") from error
        except ValueError as error:
            raise ConfigurationError(f"{path}: no TOML: {error}") from error
        try:
            return cls.from_tables(expanded(tables, os.environ), path.parent)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from error

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], folder: Path) -> Self:
        """Make a configuration of what its file says.

        Raises:
            ConfigurationError: it says something that cannot be.
        """
        try:
            config = _converter().structure(tables, cls)
        except ClassValidationError as error:
            raise ConfigurationError("; ".join(_explain(error, ""))) from error
        for name in config.feeds:
            if not NAME.fullmatch(name):
                raise ConfigurationError(
                    f"feeds.{name}: a name is up to 40 lower-case letters, digits and dashes"
                )
        feeds = {name: feed.anchored(folder, name) for name, feed in config.feeds.items()}
        config = evolve(config, feeds=feeds)
        if config.calendar not in BUILT_IN:
            config = evolve(config, calendar=str(folder / config.calendar))
        if not config.feeds:
            raise ConfigurationError("feeds: at least one is needed, as in [feeds.a.simulated]")
        return config

    def feed(self, name: str) -> FeedConfig:
        """Return one of the feeds.

        Raises:
            ConfigurationError: there is none of that name.
        """
        found = self.feeds.get(name)
        if found is None:
            raise ConfigurationError(
                f"there is no feed {name!r} in the configuration; it has {', '.join(self.feeds)}"
            )
        return found

    def load_calendar(self) -> Calendar:
        """Read the calendar.

        Raises:
            ConfigurationError: it cannot be used.
        """
        return Calendar.load(self.calendar)


def read_faults(path: Path) -> SimulatedFaults:
    """Read what goes wrong with a made-up feed (TOML).

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no TOML, or says something that cannot be.
    """
    try:
        return _converter().structure(
            tomllib.loads(path.read_text(encoding="utf-8")), SimulatedFaults
        )
    except ClassValidationError as error:
        raise ValueError(f"{path}: {'; '.join(_explain(error, ''))}") from error


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def plain(kind: type) -> None:
        def check(value: Any, _: Any) -> Any:
            if isinstance(value, FromEnvironment):
                value = value.to(kind)
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                return float(value)
            if type(value) is not kind:
                raise TypeError(f"{kind.__name__} is wanted, not {value!r}")
            return value

        converter.register_structure_hook(kind, check)

    for kind in (int, float, str, bool):
        plain(kind)

    def to_texts(value: Any, _: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise TypeError(f'a list is wanted, as in ["SHFE.*"], not {value!r}')
        return tuple(str(item) for item in cast("list[object]", value))

    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], to_texts)
    converter.register_structure_hook(Product, lambda value, _: Product(value))
    return converter


def _explain(error: BaseException, where: str) -> list[str]:
    """Return one line for each thing that is wrong, with where it stands."""
    if isinstance(error, ClassValidationError):
        noted, bare = error.group_exceptions()
        lines = [
            line
            for inner, note in noted
            for line in _explain(inner, f"{where}.{note.name}" if where else note.name)
        ]
        return lines + [line for inner in bare for line in _explain(inner, where)]
    if isinstance(error, IterableValidationError):
        items, bare = error.group_exceptions()
        lines = [line for inner, note in items for line in _explain(inner, f"{where}.{note.index}")]
        return lines + [line for inner in bare for line in _explain(inner, where)]
    prefix = f"{where}: " if where else ""
    if isinstance(error, ForbiddenExtraKeysError):
        return [f"{prefix}{_why_not(name)}" for name in sorted(error.extra_fields)]
    if isinstance(error, KeyError):
        return [f"{where or error.args[0]} is missing"]
    return [f"{prefix}{error}"]


def _why_not(setting: str) -> str:
    if setting in SECRET_SETTINGS:
        return (
            f"{setting} is a secret, which stands in no configuration; "
            f"name its file with {setting}_file or its variable with {setting}_env"
        )
    return f"there is no setting {setting!r}"
