"""What became of a run of `aegis chaos`, for a person and for a program."""

from __future__ import annotations

import math
from typing import Any, Final

from attrs import define, field
from rich.console import Console
from rich.table import Table

from aegis.ops._chaos_faults import FaultLog
from aegis.ops._chaos_mail_verdict import MailVerdict
from aegis.ops._chaos_open import Shape
from aegis.ops._chaos_verdict import Verdict

__all__ = ["Report", "print_report"]

MIN_PER_SECOND: Final = {1: 10.0, 3: 4.0}
"""Operations that must end on average, by the number of servers: a system that stands
proves nothing. Of three servers a killed leader stops all appends for seconds."""

SHOWN_FAULTS: Final = 20
"""Last faults that are shown beside what is wrong."""

SHOWN_WRONG: Final = 20


@define
class Report:
    """What became of one run."""

    seed: int
    shape: Shape
    seconds: float
    log: FaultLog | None = None
    commit: str = ""
    no_partitions: str = ""
    """Why there are none although they were asked for."""
    failed_starts: int = 0
    verdict: Verdict = field(factory=Verdict)
    mail: MailVerdict = field(factory=MailVerdict)
    converged_seconds: float = math.inf
    wrong: list[str] = field(factory=list[str])
    evidence: str = ""
    """Where ledgers, logs and journals are, if anything is wrong."""

    @property
    def ok(self) -> bool:
        """Whether nothing was lost or repeated, and enough was done to tell."""
        return not self.all_wrong

    @property
    def all_wrong(self) -> list[str]:
        """All that is wrong."""
        return [*self.wrong, *self.verdict.wrong, *self.mail.wrong]

    @property
    def longest(self) -> str:
        """What was open longest, and since when, as the log of faults counts."""
        if self.log is None or not self.verdict.longest:
            return ""
        return f"{self.verdict.longest}, at {self.verdict.longest_asked_at - self.log.began:.3f}"

    @property
    def operations(self) -> int:
        """Return how many operations had their end."""
        return self.verdict.operations + self.mail.operations

    def judge_amount(self) -> None:
        """A run in which too little happened is no proof."""
        least = MIN_PER_SECOND[self.shape.servers] * self.seconds
        if self.operations < least:
            self.wrong.append(
                f"only {self.operations} operations in {self.seconds:.0f} s; "
                f"at least {least:.0f} must end"
            )

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        verdict = self.verdict
        return {
            "ok": self.ok,
            "seed": self.seed,
            "commit": self.commit,
            "servers": self.shape.servers,
            "partitions": self.shape.partitions,
            "no_partitions": self.no_partitions,
            "seconds": round(self.seconds, 1),
            "faults": {} if self.log is None else dict(self.log.counts),
            "failed_starts": self.failed_starts,
            "operations": self.operations,
            "transfers": verdict.transfers,
            "entries": verdict.entries,
            "messages": verdict.attempts,
            "acknowledged": verdict.acknowledged,
            "unknown": verdict.unknown,
            "decided_by_a_later_message": verdict.decided_later,
            "register_reads": verdict.register_reads,
            "register_writes": verdict.register_writes,
            "deals": self.mail.deals,
            "letters": self.mail.letters,
            "letters_taken": self.mail.letters_taken,
            "bells": self.mail.bells,
            "worst_late_seconds": self.mail.worst_late,
            "errors": verdict.errors,
            "longest_decision_seconds": round(verdict.longest_seconds, 3),
            "longest_decision": self.longest,
            "converged_seconds": (
                None if math.isinf(self.converged_seconds) else round(self.converged_seconds, 3)
            ),
            "wrong": self.all_wrong,
            "evidence": self.evidence,
            "fault_log": [] if self.log is None else self.log.to_plain(),
        }


def print_report(report: Report, console: Console) -> None:
    """Print the report as a table."""
    verdict = report.verdict
    servers = "one server" if report.shape.servers == 1 else "three servers"
    hosts = ", hosts that are cut off" if report.shape.partitions else ""
    table = Table(title=f"seed {report.seed}: {servers}{hosts}", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right")
    table.add_row("seconds of faults", f"{report.seconds:,.0f}")
    if report.log is not None:
        for fault in report.log.possible:
            table.add_row(f"  {fault}", str(report.log.counts[fault]))
    table.add_row("starts that failed", str(report.failed_starts))
    for how, count in sorted(verdict.transfers.items()):
        table.add_row(f"transfers {how}", f"{count:,}")
    table.add_row("register reads", f"{verdict.register_reads:,}")
    table.add_row("register writes", f"{verdict.register_writes:,}")
    for end, count in sorted(report.mail.deals.items()):
        table.add_row(f"deals {end}", f"{count:,}")
    table.add_row("letters acknowledged", f"{report.mail.letters:,}")
    for end, count in sorted(report.mail.bells.items()):
        table.add_row(f"reminders {end}", f"{count:,}")
    table.add_row("latest reminder, s", f"{report.mail.worst_late:.2f}")
    table.add_row("messages sent", f"{verdict.attempts:,}")
    table.add_row("  acknowledged", f"{verdict.acknowledged:,}")
    table.add_row("  outcome unknown at first", f"{verdict.unknown:,}")
    table.add_row("longest until decided, s", f"{verdict.longest_seconds:.2f}")
    table.add_row("all answer after, s", f"{report.converged_seconds:.2f}")
    console.print(table)
    if report.longest:
        console.print(f"  open longest: {report.longest}", style="dim", markup=False)
    if report.no_partitions:
        console.print(f"No partitions: {report.no_partitions}", style="yellow", markup=False)
    for error, count in sorted(verdict.errors.items()):
        console.print(f"  {count} x {error}", style="dim", markup=False)
    wrong = report.all_wrong
    if wrong and report.log is not None:
        console.print("The last faults:", style="dim")
        for at, what, who in report.log.lines[-SHOWN_FAULTS:]:
            console.print(f"{at:10.3f}  {what}: {who}", style="dim", markup=False)
    for text in wrong[:SHOWN_WRONG]:
        console.print(text, style="red", markup=False)
    if len(wrong) > SHOWN_WRONG:
        console.print(f"and {len(wrong) - SHOWN_WRONG} more; --json tells them all", style="red")
    if report.evidence:
        console.print(f"Ledgers, logs and journals: {report.evidence}", markup=False)
    said = f"{len(wrong)} things are wrong." if wrong else "Nothing is lost, nothing done twice."
    console.print(said, style="bold red" if wrong else "green")
