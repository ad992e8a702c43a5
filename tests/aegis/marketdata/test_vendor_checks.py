"""What is checked of an account before its gateway starts, and in which words."""

from __future__ import annotations

import socket
import sys
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from aegis import ConfigurationError
from aegis.marketdata import _vendor_checks, _vendor_library
from aegis.marketdata._calendar import Calendar
from aegis.marketdata._config import MarketConfig
from aegis.marketdata._gateways import check_source, make_gateway
from aegis.marketdata._validation import Problem, check
from aegis.marketdata._vendor_sources import CtpSource
from tests.support.marketdata import SHANGHAI

NOW = datetime(2026, 11, 23, 10, tzinfo=SHANGHAI)

ACCOUNT = """
[feeds.a.{kind}]
broker = "9999"
user = "me"
app_id = "client"
trading_fronts = ["tcp://127.0.0.1:41205"]
market_fronts = ["tcp://127.0.0.1:41213", "ssl://front.example:41213"]
password_env = "A_PASSWORD"
auth_code_file = "code.txt"
confirm_settlement = true
"""


def installed(package: str) -> bool:
    return True


def missing(package: str) -> bool:
    return False


Write = Callable[..., MarketConfig]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Make the configuration of an account with which nothing is wrong, but for changes."""
    monkeypatch.setenv("A_PASSWORD", "hunter2")
    monkeypatch.setattr(_vendor_checks, "is_installed", installed)
    monkeypatch.setattr(_vendor_checks, "locale_problem", lambda: "")
    (tmp_path / "code.txt").write_text("swordfish\n")

    def make(*changes: tuple[str, str], kind: str = "ctp") -> MarketConfig:
        text = ACCOUNT.format(kind=kind)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return MarketConfig.from_tables(tomllib.loads(text), tmp_path)

    return make


def account_of(config: MarketConfig) -> CtpSource:
    source = config.feed("a").source
    assert isinstance(source, CtpSource)
    return source


@pytest.mark.parametrize("kind", ["ctp", "sopt", "openctp"])
def test_a_whole_account_is_fine(write: Write, kind: str) -> None:
    assert check(write(kind=kind), NOW) == []


def test_secrets_are_read_where_the_configuration_says(write: Write, tmp_path: Path) -> None:
    source = account_of(write())
    assert (source.password, source.auth_code) == ("hunter2", "swordfish")
    assert source.folder == str(tmp_path / "flow" / "a")
    assert "hunter2" not in repr(source)
    assert "swordfish" not in repr(source)


CHANGES: list[tuple[tuple[str, str], str]] = [
    (("confirm_settlement = true", ""), "which is an act of the account's holder"),
    (("tcp://127.0.0.1:41205", "127.0.0.1:41205"), "'127.0.0.1:41205' is no address; write it as"),
    (("tcp://127.0.0.1:41205", "tcp://127.0.0.1:99999"), "trading_fronts: 'tcp://127.0.0.1:99999'"),
    (('["tcp://127.0.0.1:41205"]', "[]"), "trading_fronts: at least one is needed"),
    (('"A_PASSWORD"', '"B_PASSWORD"'), "variable B_PASSWORD is empty or not there"),
    (('password_env = "A_PASSWORD"', ""), "name its file (password_file) or environment variable"),
    (("code.txt", "none.txt"), "none.txt cannot be read: No such file"),
    (('"me"', '""'), "ctp: user is empty"),
    (('"9999"', '"9999"\nfolder = "code.txt/flow"'), "code.txt cannot be written; name another"),
    (('"9999"', '"9999"\nrequests_per_second = 0'), "requests_per_second must be at least 1"),
    (
        ('"A_PASSWORD"', '"A_PASSWORD"\npassword_file = "code.txt"'),
        "a file and a variable are named; name one of them",
    ),
]


@pytest.mark.parametrize(("change", "problem"), CHANGES)
def test_what_is_wrong_with_an_account_is_told_with_what_to_do(
    write: Write, calendar: Calendar, change: tuple[str, str], problem: str
) -> None:
    config = write(change)
    (found,) = check(config, NOW)
    assert found.feed == "a"
    assert problem in found.text
    with pytest.raises(ConfigurationError, match=r"^feeds\.a: ctp: "):
        make_gateway(config, "a", calendar)


def test_no_message_holds_a_secret(write: Write, tmp_path: Path) -> None:
    (tmp_path / "code.txt").write_bytes(b"\xffhidden")
    (problem,) = check(write(), NOW)
    assert "holds no text in UTF-8" in problem.text
    assert "hidden" not in problem.text


def test_openctp_needs_no_consent_as_it_confirms_nothing(write: Write) -> None:
    assert check(write(("confirm_settlement = true", ""), kind="openctp"), NOW) == []
    assert check(write(("confirm_settlement = true", ""), kind="sopt"), NOW) != []


def test_two_feeds_may_not_keep_their_files_in_one_folder(write: Write, tmp_path: Path) -> None:
    second = ACCOUNT.format(kind="ctp").replace("feeds.a", "feeds.b")
    folder = 'broker = "9999"\nfolder = "both"'
    text = (ACCOUNT.format(kind="ctp") + second).replace('broker = "9999"', folder)
    config = MarketConfig.from_tables(tomllib.loads(text), tmp_path)
    text = f"folder: {tmp_path / 'both'} is also that of a; give each feed its own"
    assert check(config, NOW) == [Problem("b", text)]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("ctp", "vnpy_ctp is not installed: `pip install --no-deps --require-hashes -r requi"),
        ("sopt", "`pip install 'aegis-actors[sopt]'`"),
        ("openctp", "openctp_ctp is not installed"),
    ],
)
def test_a_library_that_is_missing_is_told_with_how_to_install_it(
    write: Write, monkeypatch: pytest.MonkeyPatch, kind: str, told: str
) -> None:
    monkeypatch.setattr(_vendor_checks, "is_installed", missing)
    (problem,) = check_source(write(kind=kind).feed("a"))
    assert told in problem


def test_a_locale_that_is_missing_is_told_with_how_to_make_it(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    problem = _vendor_library.locale_problem
    monkeypatch.setattr(_vendor_checks, "locale_problem", problem)
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    monkeypatch.setattr(_vendor_library, "LOCALE", "zz_ZZ.GB18030")
    monkeypatch.setattr(sys, "platform", "linux")
    (found,) = check(write(), NOW)
    assert "localedef -f GB18030 -i zh_CN FOLDER/zz_ZZ.GB18030` and set LOCPATH" in found.text


def test_a_locale_that_is_there_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_vendor_library, "LOCALE", "C")
    assert _vendor_library.locale_problem() == ""


def test_the_fronts_are_only_asked_for_an_answer_where_that_is_wanted(write: Write) -> None:
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as open_front:
        closed.bind(("127.0.0.1", 0))
        there, gone = open_front.getsockname()[1], closed.getsockname()[1]
        config = write(
            ("127.0.0.1:41205", f"127.0.0.1:{gone}"),
            ("tcp://127.0.0.1:41213", f"tcp://127.0.0.1:{gone}"),
            ("ssl://front.example:41213", f"ssl://127.0.0.1:{there}"),
        )
        assert check(config, NOW) == []
        # One of two that answers is enough.
        (problem,) = check(config, NOW, connect=True)
    assert f"trading_fronts: none answers (tcp://127.0.0.1:{gone}: Connection refused)" in (
        problem.text
    )


VNPY: list[tuple[dict[str, Any], str]] = [
    ({"gateway": "nowhere.at_all:Gateway"}, "nowhere.at_all cannot be imported"),
    ({"gateway": "json"}, "'json' is no class; write it as in package.module:Class"),
    ({"gateway": "json:dumps"}, "json has no class dumps"),
    ({"gateway": "vnpy_ctp:CtpGateway"}, "write it as in [feeds.a.ctp]"),
    ({"gateway": "json:JSONEncoder", "setting_env": {"key": "NONE"}}, "setting 'key': the env"),
]


@pytest.mark.parametrize(("source", "problem"), VNPY)
def test_what_is_wrong_with_a_gateway_of_vnpy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: dict[str, Any], problem: str
) -> None:
    monkeypatch.setattr(_vendor_checks, "is_installed", installed)
    config = MarketConfig.from_tables({"feeds": {"a": {"vnpy": source}}}, tmp_path)
    (found,) = check_source(config.feed("a"))
    assert problem in found
