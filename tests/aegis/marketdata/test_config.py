"""A market's configuration: what is refused, and in which words."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from aegis import ConfigurationError
from aegis.marketdata._config import MarketConfig
from aegis.marketdata._validation import check
from tests.support.marketdata import SHANGHAI

GOOD = """
clock = 2026-11-23T10:00:00
clock_at = 2026-11-21T18:00:00
[universe]
include = ["SHFE.*"]
[pace]
batch = 100
[feeds.a.simulated]
futures = 10
rate = 2
[feeds.b.simulated]
"""


def read(text: str) -> MarketConfig:
    return MarketConfig.from_tables(tomllib.loads(text), Path("/folder"))


def test_what_is_left_out_has_its_default() -> None:
    config = read(GOOD)
    assert list(config.feeds) == ["a", "b"]
    assert config.feed("a").simulated.rate == 2.0
    assert (config.pace.batch, config.pace.outstanding) == (100, 2_000)
    assert config.resource == "market"
    assert check(config) == []


def test_the_clock_of_a_made_up_market_is_ahead_by_the_same_everywhere() -> None:
    # 18:00 in UTC is 02:00 in Shanghai, 32 hours before ten o'clock of the next day but one.
    assert read(GOOD).clock_ahead_ns(SHANGHAI) == 32 * 3600 * 10**9
    assert read("[feeds.a.simulated]").clock_ahead_ns(SHANGHAI) == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "feeds is missing"),
        ("[feeds]", "at least one is needed"),
        ("[feeds.a]", "simulated is missing"),
        ("[feeds.A.simulated]", "feeds.A: a name is up to 40 lower-case letters"),
        ('[feeds.a.simulated]\nseed = "x"', "seed: int is wanted, not 'x'"),
        ("[feeds.a.simulated]\nseed = true", "seed: int is wanted, not True"),
        ("[feeds.a.simulated]\nfuture = 1", "there is no setting 'future'"),
        ("speed = 1\n[feeds.a.simulated]", "there is no setting 'speed'"),
        ("resource = 1\n[feeds.a.simulated]", "resource: str is wanted, not 1"),
        ('clock = "ten"\n[feeds.a.simulated]', "clock: a local date and time is wanted"),
        ("clock = 2026-11-23T10:00:00\n[feeds.a.simulated]", "clock and clock_at belong"),
        ('publish = "none"\n[feeds.a.simulated]', "publish"),
        ('[universe]\ninclude = ["NYSE.*"]\n[feeds.a.simulated]', "'NYSE.*' names no exchange"),
        ('[universe]\nproducts = ["stocks"]\n[feeds.a.simulated]', "universe.products.0: 'stocks'"),
        (
            '[universe]\ninclude = "SHFE.*"\n[feeds.a.simulated]',
            "universe.include: a list is wanted",
        ),
    ],
)
def test_what_cannot_be_is_named_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    assert problem in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read('resource = 1\n[feeds.a.simulated]\nseed = "x"\nfuture = 1')
    assert str(caught.value).count(";") == 2


def test_a_feed_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match="no feed 'c' in the configuration; it has a, b"):
        read(GOOD).feed("c")


@pytest.mark.parametrize(
    ("change", "feed", "problem"),
    [
        (("futures = 10", "futures = 0"), "a", "simulated.futures must be at least 1"),
        (("rate = 2", "rate = 0"), "a", "simulated.rate must be above 0"),
        (("rate = 2", "rate = 101"), "a", "at most 100"),
        (("futures = 10", "options = -1"), "a", "simulated.options must be 0 or more"),
        (("2026-11-23T10", "2031-11-23T10"), "calendar", "does not know 2031-11-"),
    ],
)
def test_validation_tells_what_keeps_a_feed_from_working(
    change: tuple[str, str], feed: str, problem: str
) -> None:
    problems = check(read(GOOD.replace(*change)))
    assert [found.feed for found in problems] == [feed]
    assert problem in problems[0].text


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: No such file"):
        MarketConfig.load(tmp_path / "none.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "market.toml"
    file.write_text('calendar_file = "mine.toml"\n[feeds.a.simulated]')
    assert MarketConfig.load(file).calendar_file == tmp_path / "mine.toml"
