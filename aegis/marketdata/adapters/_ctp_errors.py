"""What CTP says when something goes wrong, in words, and whether it may be tried again.

The codes are those of the vendor's ``error.xml`` and of its header files.
"""

from __future__ import annotations

from typing import Final

from aegis.marketdata._ports import GatewayFailure

__all__ = ["QUERY_AGAIN", "disconnection", "limit_of", "refusal"]

_READ_FAILED: Final = 0x1001

_REASONS: Final = {
    _READ_FAILED: "reading from the network failed",
    0x1002: "writing to the network failed",
    0x2001: "no heartbeat came in time",
    0x2002: "a heartbeat could not be sent",
    0x2003: "a message came that makes no sense",
}

_PASSING: Final = {
    1: "the front is not in step with its exchange yet",
    4: "the user is not active yet",
    5: "the user has logged in already",
    6: "the login has been lost",
    7: "the front is not initialised yet",
    8: "the front is not active",
    35: "the broker's data are being brought in step",
    60: "the user has too many sessions; end others, or wait until they are given up",
    90: "the query is not ready yet",
    154: "the front is too busy",
}
"""Refusals that pass by themselves, as between two trading days. Any other is taken to be
the account's: a login that is repeated locks it, which costs more than a feed that stands
still beside its standby."""

_LASTING: Final = {
    3: "the user or the password is wrong; mend the feed's user and password",
    9: "the user may not do this; ask the broker",
    11: "there is no such user; mend the feed's user",
    12: "there is no such broker; mend the feed's broker",
    13: "there is no such investor; mend the feed's user",
    48: "the user or the password is wrong; mend the feed's user and password",
    49: "the broker does not admit logins from this address; ask the broker",
    57: "the broker wants a one-time password, which this gateway cannot give",
    63: "the app id or its auth code is wrong; mend the feed's app_id and auth code",
    64: "the broker wants an app id; give the feed its app_id and auth code",
    75: "too many logins have failed and the account is locked; ask the broker to unlock it",
    131: "the password is too weak; change it in the broker's own client",
    132: "the password is too weak; change it in the broker's own client",
    140: "at the first login the password must be changed; do so in the broker's own client",
    141: "the password has expired; change it in the broker's own client",
    143: "too many logins have failed and this address is barred; ask the broker",
    144: "this address is barred; ask the broker",
    145: "the app id is not admitted at this front; ask the broker",
    3039: "the front does not take this version of the API; install the one that it takes",
    4040: "the front does not take this version of the API; install the one that it takes",
    4042: "the broker does not admit this address; ask the broker",
    4043: "the broker does not admit this user with this app id; ask the broker",
    4060: "too many authentications have failed and this address is barred; ask the broker",
}

QUERY_AGAIN: Final = frozenset({90, 154})
"""Answers to a query that mean: ask once more in a moment."""

_LIMITS: Final = {-2: "outstanding", -3: "per_second"}


def disconnection(front: str, reason: int, *, before_login: bool = False) -> GatewayFailure:
    """Return what it means that a front (``trading`` or ``market``) was lost.

    ``before_login`` says that it never took a login since the start.
    """
    known = _REASONS.get(reason, f"reason {reason}")
    hint = (
        "; one that cuts off at once is no front of this kind or closed at this hour, or does "
        "not admit this host: mind its address"
    )
    cut_off = before_login and reason == _READ_FAILED
    return GatewayFailure(
        f"the {front} front was lost: {known}{hint if cut_off else ''}", code=reason
    )


def refusal(phase: str, code: int, message: str) -> GatewayFailure:
    """Return what it means that a front refused, as in ``the login``.

    ``message`` is the front's own, which may be empty.
    """
    meaning = _PASSING.get(code) or _LASTING.get(code) or "ask the broker what it means"
    said = f" ({message})" if message else ""
    return GatewayFailure(
        f"{phase} was refused with {code}{said}: {meaning}",
        code=code,
        permanent=code not in _PASSING,
    )


def limit_of(code: int) -> str:
    """Return which limit the library says that a request exceeds; empty for none.

    It answers so before anything leaves: too many requests are under way (-2), or too many
    were sent in this second (-3). Any other answer but 0 says that there is no connection.
    """
    return _LIMITS.get(code, "")
