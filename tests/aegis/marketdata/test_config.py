"""A market's configuration: what is refused, and in which words."""

from __future__ import annotations

import re
import tomllib
from datetime import datetime
from pathlib import Path

import pytest

from aegis import ConfigurationError
from aegis.marketdata._config import MarketConfig, ReplaySource, SimulatedSource
from aegis.marketdata._host_clock import clock_error
from aegis.marketdata._validation import check
from aegis.marketdata._vendor_sources import CtpSource
from tests.support.marketdata import SHANGHAI
from tests.support.prometheus import OPS

GOOD = """
calendar = "china"
[universe]
include = ["SHFE.*"]
[pace]
batch = 100
[feeds.a.simulated]
futures = 10
rate = 2
[feeds.b.simulated]
"""


NOW = datetime(2026, 11, 23, 10, tzinfo=SHANGHAI)


def read(text: str) -> MarketConfig:
    return MarketConfig.from_tables(tomllib.loads(text), Path("/folder"))


def test_what_is_left_out_has_its_default() -> None:
    config = read(GOOD)
    assert list(config.feeds) == ["a", "b"]
    source = config.feed("a").source
    assert isinstance(source, SimulatedSource)
    assert source.rate == 2.0
    assert (config.pace.batch, config.pace.outstanding) == (100, 2_000)
    assert config.resource == "market"
    assert check(config, NOW) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "feeds is missing"),
        ("[feeds]", "at least one is needed"),
        ("[feeds.a]", "feeds.a: no source given; give one of simulated, replay, ctp"),
        (
            "[feeds.a.simulated]\n[feeds.a.vnpy]\ngateway = 'x:Y'",
            "feeds.a: simulated and vnpy given; give one of",
        ),
        ("[feeds.a.ctp]", "feeds.a.ctp.broker is missing; feeds.a.ctp.user is missing"),
        ("[feeds.a.ctp]\npassword = 'x'", "feeds.a.ctp: password is a secret"),
        ("[feeds.a.ctp]\ntrading_fronts = 'x'", "trading_fronts: a list is wanted"),
        ("[feeds.a.replay]", "feeds.a.replay.files is missing"),
        ("[feeds.A.simulated]", "feeds.A: a name is up to 40 lower-case letters"),
        ('[feeds.a.simulated]\nseed = "x"', "seed: int is wanted, not 'x'"),
        ("[feeds.a.simulated]\nseed = true", "seed: int is wanted, not True"),
        ("[feeds.a.simulated]\nfuture = 1", "there is no setting 'future'"),
        ("speed = 1\n[feeds.a.simulated]", "there is no setting 'speed'"),
        ("resource = 1\n[feeds.a.simulated]", "resource: str is wanted, not 1"),
        ('publish = "none"\n[feeds.a.simulated]', "publish"),
        ('[universe]\ninclude = ["NYSE.*"]\n[feeds.a.simulated]', "'NYSE.*' names no exchange"),
        ('[universe]\ninclude = ["rb*"]\n[feeds.a.simulated]', "names no exchange"),
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
        (("china", "none.toml"), "calendar", "none.toml cannot be read"),
        (('"SHFE.*"', '"SHFE.RB*", "*"'), "universe", "small letters, as in SHFE.rb*"),
        (('"SHFE.*"', '"CZCE.sr*", "*"'), "universe", "capital letters, as in CZCE.SR*"),
        (('"SHFE.*"', '"SSE.*"'), "b", "none of 1900 contracts matches SSE.*"),
    ],
)
def test_validation_tells_what_keeps_a_feed_from_working(
    change: tuple[str, str], feed: str, problem: str
) -> None:
    problems = check(read(GOOD.replace(*change)), NOW)
    assert [found.feed for found in problems] in ([feed], ["a", feed])
    assert problem in problems[-1].text


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: No such file"):
        MarketConfig.load(tmp_path / "none.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "market.toml"
    file.write_text('calendar = "mine.toml"\n[feeds.a.replay]\nfiles = ["day.csv", "/b.csv"]')
    config = MarketConfig.load(file)
    assert config.calendar == str(tmp_path / "mine.toml")
    assert config.feed("a").source == ReplaySource((str(tmp_path / "day.csv"), "/b.csv"))


def test_a_calendar_without_today_keeps_a_feed_from_starting() -> None:
    later = datetime(2031, 1, 6, 10, tzinfo=SHANGHAI)
    assert "does not know 2031-01-06" in check(read(GOOD), later)[0].text
    assert check(read(GOOD.replace("china", "always")), later) == []


@pytest.mark.parametrize(
    ("at", "problems"),
    [
        (datetime(2026, 12, 31, 8, 30, tzinfo=SHANGHAI), []),
        (datetime(2026, 12, 31, 14, 59, tzinfo=SHANGHAI), []),
        (datetime(2026, 12, 31, 15, 30, tzinfo=SHANGHAI), ["calendar"]),
        (datetime(2026, 12, 30, 15, 30, tzinfo=SHANGHAI), []),
    ],
)
def test_after_the_close_the_calendar_has_to_know_the_next_session(
    at: datetime, problems: list[str]
) -> None:
    assert [problem.feed for problem in check(read(GOOD), at)] == problems


@pytest.mark.parametrize(("error", "told"), [(None, False), (0.1, False), (0.3, True)])
def test_a_clock_that_is_known_to_be_off_keeps_a_feed_from_starting(
    error: float | None, told: bool
) -> None:
    problems = check(read(GOOD), NOW, clock_error=lambda: error)
    assert [problem.feed for problem in problems] == (["clock"] if told else [])
    assert not told or "0.3 s off" in problems[0].text


def test_this_host_can_be_asked_for_its_clock() -> None:
    error = clock_error()
    assert error is None or error >= 0


def test_variables_of_the_environment_stand_for_texts_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "market.toml"
    file.write_text(
        'calendar = "${CALENDAR:-always}"\n[universe]\ninclude = ["${EXCHANGE}.*"]\n'
        '[pace]\nbatch = "${BATCH:-250}"\n[feeds.a.simulated]\nrate = "${RATE}"\neven = "${EVEN}"\n'
        '[feeds.b.replay]\nfiles = ["${DAY:-}.csv"]\nexchange = "0${EXCHANGE}"'
    )
    for name, value in (("EXCHANGE", "12"), ("RATE", "2"), ("EVEN", "true"), ("BATCH", "")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r"'12.\*' names no exchange"):
        MarketConfig.load(file)
    monkeypatch.setenv("EXCHANGE", "SHFE")
    config = MarketConfig.load(file)
    assert config.calendar == "always"
    assert config.universe.include == ("SHFE.*",)
    assert config.pace.batch == 250
    assert config.feed("a").source == SimulatedSource(rate=2.0, even=True)
    assert config.feed("b").source == ReplaySource((str(tmp_path / ".csv"),), exchange="0SHFE")


@pytest.mark.parametrize(
    ("value", "problem"),
    [(None, "the environment variable RATE is not set"), ("fast", "float is wanted, not 'fast'")],
)
def test_a_variable_that_is_not_set_or_no_number_is_named(
    value: str | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "market.toml"
    file.write_text('[feeds.a.simulated]\nrate = "${RATE}"')
    if value is not None:
        monkeypatch.setenv("RATE", value)
    with pytest.raises(ConfigurationError, match=problem):
        MarketConfig.load(file)


def test_the_example_of_a_market_takes_the_variables_of_the_example_of_an_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = (OPS / ".env.example").read_text()
    for name, value in re.findall(r"^#?((?:CTP|FEED)_\w+)=(.*)$", lines, re.MULTILINE):
        monkeypatch.setenv(name, value or "filled")
    config = MarketConfig.load(OPS / "market.example.toml")
    primary, backup = (config.feed(name).source for name in ("ctp-a", "ctp-b"))
    assert isinstance(primary, CtpSource)
    assert isinstance(backup, CtpSource)
    assert primary.market_fronts != backup.market_fronts
    assert primary.password_file != backup.password_file
    assert config.pace.batch == 500
