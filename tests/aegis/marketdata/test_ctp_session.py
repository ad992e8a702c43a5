"""The two connections of a CTP account, told as one state; and what its codes mean."""

from __future__ import annotations

import pytest

from aegis.marketdata._ports import GatewayFailure, GatewayState
from aegis.marketdata.adapters._ctp_errors import disconnection, limit_of, refusal
from aegis.marketdata.adapters._ctp_session import CtpSession
from tests.support.ctp import Heard

TODAY, TOMORROW = "20261123", "20261124"

CONNECTING = GatewayState.CONNECTING
AUTHENTICATING = GatewayState.AUTHENTICATING
LOGGING_IN = GatewayState.LOGGING_IN
LOADING = GatewayState.LOADING_CONTRACTS
READY = GatewayState.READY
FAILED = GatewayState.FAILED


class Account:
    """A session and what it told."""

    def __init__(self) -> None:
        self.heard = Heard()
        self.session = CtpSession("a")
        self.session.start(self.heard)

    def log_in_trading(self, day: str = TODAY) -> None:
        self.session.trading_connected(authenticates=True)
        self.session.authenticated()
        self.session.trading_logged_in(day)

    def log_in_market(self, day: str = TODAY) -> None:
        self.session.market_connected()
        self.session.market_logged_in(day)

    def come_up(self) -> None:
        self.log_in_trading()
        self.log_in_market()
        self.session.contracts_complete()
        self.heard.states.clear()

    @property
    def states(self) -> list[GatewayState]:
        return self.heard.states


@pytest.fixture
def account() -> Account:
    return Account()


def test_the_phases_are_those_of_the_trading_front_until_all_contracts_are_known(
    account: Account,
) -> None:
    account.log_in_trading()
    account.log_in_market()
    assert account.states == [CONNECTING, AUTHENTICATING, LOGGING_IN, LOADING]
    account.session.contracts_complete()
    assert account.states[-1] is READY


def test_without_an_app_id_the_login_follows_at_once(account: Account) -> None:
    account.session.trading_connected(authenticates=False)
    assert account.states == [CONNECTING, LOGGING_IN]


def test_contracts_alone_do_not_make_it_ready(account: Account) -> None:
    account.log_in_trading()
    account.session.contracts_complete()
    assert account.states[-1] is CONNECTING
    account.log_in_market()
    assert account.states[-2:] == [LOGGING_IN, READY]


def test_a_lost_market_data_front_is_told_with_its_reason_and_comes_back(account: Account) -> None:
    account.come_up()
    account.session.market_lost(8193)
    account.log_in_market()
    assert account.states == [CONNECTING, LOGGING_IN, READY]
    assert account.heard.failures == [
        GatewayFailure("the market front was lost: no heartbeat came in time", 8193)
    ]


def test_why_a_front_cannot_be_reached_is_told_once(account: Account) -> None:
    for reason in (4097, 4097, 8193):
        account.session.trading_lost(reason)
        account.session.market_lost(reason)
    assert account.states == [CONNECTING] * 5
    assert [failure.code for failure in account.heard.failures] == [4097, 4097, 8193, 8193]
    assert "mind its address" in account.heard.failures[0].reason


def test_ticks_go_on_while_the_trading_front_comes_and_goes(account: Account) -> None:
    account.come_up()
    account.session.trading_lost(4097)
    account.log_in_trading()
    assert account.states == []


def test_contracts_that_are_told_again_are_said_to_be_so(account: Account) -> None:
    account.come_up()
    account.session.trading_lost(4097)
    account.log_in_trading()
    account.session.contracts_complete()
    assert account.states == [READY]


def test_a_new_trading_day_needs_its_own_contracts(account: Account) -> None:
    account.come_up()
    account.session.market_lost(8193)
    account.log_in_market(TOMORROW)
    assert account.states == [CONNECTING, LOGGING_IN, LOADING]
    account.session.trading_lost(8193)
    account.log_in_trading(TOMORROW)
    account.session.contracts_complete()
    assert account.states[-1] is READY


def test_a_market_data_front_that_is_a_day_behind_or_tells_no_day_is_no_reason_to_wait(
    account: Account,
) -> None:
    account.log_in_trading(TOMORROW)
    account.session.contracts_complete()
    account.log_in_market(TODAY)
    assert account.states[-1] is READY
    account.session.market_lost(4097)
    account.log_in_market("")
    assert account.states[-1] is READY


def test_a_refused_login_fails_it_and_nothing_is_told_after_that(account: Account) -> None:
    account.session.trading_connected(authenticates=False)
    account.session.trading_refused("the login", 3, "CTP:不合法的登录")
    account.session.trading_lost(4097)
    account.log_in_trading()
    assert account.states == [CONNECTING, LOGGING_IN, FAILED]
    assert account.heard.failures[-1] == GatewayFailure(
        "the login was refused with 3 (CTP:不合法的登录): "
        "the user or the password is wrong; mend the feed's user and password",
        code=3,
        permanent=True,
    )


def test_a_refusal_of_the_trading_front_leaves_ticks_that_come_alone(account: Account) -> None:
    account.come_up()
    account.session.trading_lost(4097)
    account.session.trading_refused("the login", 7, "")
    assert account.states == []


def test_a_refusal_of_the_market_data_front_fails_it(account: Account) -> None:
    account.come_up()
    account.session.market_lost(4097)
    account.session.market_refused(7, "")
    assert account.states == [CONNECTING, FAILED]
    assert not account.heard.failures[-1].permanent


def test_nothing_is_told_once_it_is_closed(account: Account) -> None:
    account.come_up()
    account.session.close()
    account.session.market_lost(4097)
    account.session.fail(GatewayFailure("too late"))
    assert account.states == []


@pytest.mark.parametrize("code", [3, 9, 11, 48, 49, 63, 64, 75, 131, 140, 141, 143, 4042, 4060])
def test_refusals_that_are_the_account_s_last_and_say_what_to_do(code: int) -> None:
    failure = refusal("the login", code, "")
    assert failure.permanent
    assert ";" in failure.reason


@pytest.mark.parametrize("code", [1, 7, 8, 35, 60, 90, 154])
def test_refusals_that_pass_by_themselves_may_be_tried_again(code: int) -> None:
    assert not refusal("the login", code, "").permanent


def test_a_refusal_that_nobody_knows_is_not_tried_again() -> None:
    failure = refusal("the login", 7777, "?")
    assert failure.permanent
    assert "7777 (?): ask the broker" in failure.reason


@pytest.mark.parametrize("reason", [4097, 4098, 8193, 8194, 8195])
def test_the_reasons_of_a_disconnection_are_told_in_words(reason: int) -> None:
    failure = disconnection("market", reason)
    assert str(reason) not in failure.reason
    assert (failure.code, failure.permanent) == (reason, False)
    assert "reason 17" in disconnection("market", 17).reason


@pytest.mark.parametrize(
    ("code", "limit"), [(0, ""), (-1, ""), (-2, "outstanding"), (-3, "per_second"), (-9, "")]
)
def test_requests_that_exceed_a_limit_are_told_by_which(code: int, limit: str) -> None:
    assert limit_of(code) == limit
