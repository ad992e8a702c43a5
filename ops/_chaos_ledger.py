"""The ledger of `aegis chaos`: what callers were told, against what the journals hold.

It shares nothing with the services: it reads the files that callers wrote, does the sums
again, and compares them with what nodes read back from the journals that never saw the
faults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

__all__ = ["Ledger", "Verdict"]

type Account = tuple[str, str]
"""Service and resource."""

type Deposit = tuple[str, int]
"""Caller and number."""


@define
class Verdict:
    """What the books say."""

    acknowledged: int = 0
    unknown: int = 0
    """Deposits whose caller was not told: it gave up, or was killed."""
    unknown_applied: int = 0
    longest_seconds: float = 0.0
    errors: dict[str, int] = field(factory=dict[str, int])
    wrong: list[str] = field(factory=list[str])


@define
class _Book:
    asked: dict[Deposit, int] = field(factory=dict[Deposit, int])
    told: dict[Deposit, tuple[int, int]] = field(factory=dict[Deposit, tuple[int, int]])


class Ledger:
    """The books of all accounts."""

    def __init__(self) -> None:
        self._books: dict[Account, _Book] = {}
        self._errors: dict[str, int] = {}
        self._longest = 0.0

    def read(self, caller: str, file: Path) -> None:
        """Read what a caller wrote; a line it could not end is not there."""
        text = file.read_text() if file.exists() else ""
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):
                self._note(caller, json.loads(line))

    def _note(self, caller: str, line: list[Any]) -> None:
        what, service, resource, number, value = line
        book = self._books.setdefault((service, resource), _Book())
        if what == "asked":
            book.asked[caller, number] = value
        elif what == "told":
            book.told[caller, number] = (value[0], value[1])
            self._longest = max(self._longest, value[2])
        else:
            kind = str(value).partition(":")[0]
            self._errors[kind] = self._errors.get(kind, 0) + 1

    def check(self, held: Mapping[Account, Mapping[str, Any]]) -> Verdict:
        """Compare with what the accounts hold: ``entries, cash, repeated, applied`` each."""
        verdict = Verdict(longest_seconds=self._longest, errors=self._errors)
        for account, book in sorted(self._books.items()):
            where = "/".join(account)
            if account not in held:
                verdict.wrong.append(f"{where}: does not say what it holds")
                continue
            self._check_account(where, book, held[account], verdict)
        return verdict

    def _check_account(
        self, where: str, book: _Book, held: Mapping[str, Any], verdict: Verdict
    ) -> None:
        applied = {
            (caller, number)
            for caller, one in held["applied"].items()
            for number in set(range(1, one["highest"] + 1)) - set(one["holes"])
        }
        unknown = book.asked.keys() - book.told.keys()
        verdict.acknowledged += len(book.told)
        verdict.unknown += len(unknown)
        verdict.unknown_applied += len(unknown & applied)
        if held["repeated"]:
            verdict.wrong.append(f"{where}: {held['repeated']} deposits were applied twice")
        for caller, number in sorted(book.told.keys() - applied):
            verdict.wrong.append(f"{where}: deposit {number} of {caller} is lost")
        for caller, number in sorted(applied - book.asked.keys()):
            verdict.wrong.append(f"{where}: nobody asked for deposit {number} of {caller}")
        cash = sum(book.asked.get(deposit, 0) for deposit in applied)
        if (held["entries"], held["cash"]) != (len(applied), cash):
            verdict.wrong.append(
                f"{where}: holds {held['entries']} entries and {held['cash']}; "
                f"what was applied makes {len(applied)} and {cash}"
            )
        self._check_order(where, book, applied, held, verdict)

    def _check_order(
        self,
        where: str,
        book: _Book,
        applied: set[Deposit],
        held: Mapping[str, Any],
        verdict: Verdict,
    ) -> None:
        """Entries told must be different ones, and each sum follow from the one before.

        Only an effect that nobody was told of may stand between two that were.
        """
        before, cash = 0, 0
        untold = sum(book.asked.get(deposit, 0) for deposit in applied - book.told.keys())
        for deposit, (entry, sum_told) in sorted(book.told.items(), key=lambda item: item[1]):
            between = entry - before - 1
            surplus = sum_told - cash - book.asked[deposit]
            right = surplus == 0 if between == 0 else 0 < surplus <= untold
            if between < 0 or not right or entry > held["entries"]:
                verdict.wrong.append(
                    f"{where}: entry {entry} was told with a sum of {sum_told}, "
                    f"after entry {before} with {cash}"
                )
            before, cash = entry, sum_told
