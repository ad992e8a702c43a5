"""The verdict on deals, letters and bells: it finds each harm, and nothing where all is well.

A day is written out by hand: what a caller wrote down, and what the resources hold then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import define

from aegis.ops._chaos_mail_ledger import MailStory
from aegis.ops._chaos_mail_services import Bell, Tray
from aegis.ops._chaos_mail_verdict import MailVerdict, is_at_rest, judge_mail
from aegis.ops._chaos_saga_services import OPENING_HOLDING, Cash, Desk, Phase, Shares

CASH_A, CASH_B = (Cash.service, "A"), (Cash.service, "B")
SHARES_A, SHARES_B = (Shares.service, "A"), (Shares.service, "B")
DESK, TRAY, BELL = (Desk.service, "D"), (Tray.service, "T"), (Bell.service, "B")


def numbers(highest: int, *holes: int) -> dict[str, Any]:
    return {"highest": highest, "holes": list(holes)}


@define
class Day:
    """What callers wrote down, and what each resource holds at the end."""

    lines: list[list[Any]]
    held: dict[tuple[str, str], dict[str, Any]]

    def judge(self) -> MailVerdict:
        story = MailStory()
        for line in self.lines:
            assert story.note(line), line
        return judge_mail([("caller", story)], self.held)

    def line(self, kind: str, number: int) -> list[Any]:
        """The line of that kind about that deal, letter or bell."""
        place = 3 if kind in ("post", "posted", "unposted", "taken") else 2
        return next(x for x in self.lines if x[0] == kind and x[place] == number)


def played() -> Day:
    """A day with deals of every end, and letters and bells of every fate."""
    lines: list[list[Any]] = [
        ["life"],
        # A buys 3 shares at 7 from B; the sender of the first attempt was not told.
        ["deal", "D", 1, 1.0, "A", "B", 3, 7, 2.0],
        ["place", "D", 1, 1],
        ["place", "D", 1, 2],
        ["placed", "D", 1, 2],
        ["dealt", "D", 1, 2.0, Phase.BOOKED],
        ["deal", "D", 2, 2.0, "A", "B", 1000, 1000, 2.0],
        ["place", "D", 2, 3],
        ["placed", "D", 2, 3],
        ["dealt", "D", 2, 3.0, Phase.NO_CASH],
        ["deal", "D", 3, 3.0, "B", "A", 5, 5, 1.5],
        ["place", "D", 3, 4],
        ["dealt", "D", 3, 4.6, Phase.EXPIRED],
        ["post", "T", 1, 1],
        ["posted", "T", 1, 1, 11, "s-1"],
        ["taken", "T", 1, 1, 1],
        ["post", "T", 1, 2],
        ["posted", "T", 1, 2, 12, "s-2"],
        ["taken", "T", 1, 2, 2],
        ["post", "T", 1, 3],
        ["unposted", "T", 1, 3, "Unavailable"],
        ["post", "T", 1, 4],  # nobody knows whether it left, and it did
        ["set", "B", 1, 1.0, 0.5],
        ["was_set", "B", 1, True],
        ["rang", "B", 1, 1.6, "rung"],
        ["set", "B", 2, 2.0, 3.0],
        ["was_set", "B", 2, True],
        ["take_back", "B", 2],
        ["taken_back", "B", 2, True],
        ["rang", "B", 2, 2.5, "forgotten"],
        ["set", "B", 3, 3.0, 0.1],
        ["was_set", "B", 3, True],
        ["take_back", "B", 3],
        ["taken_back", "B", 3, False],
        ["rang", "B", 3, 3.2, "rung"],
        ["set", "B", 4, 4.0, 0.1],
        ["was_set", "B", 4, False],
        ["set", "B", 5, 5.0, 0.1],  # its caller was killed meanwhile; it rang
    ]
    ends = {Phase.BOOKED.value: 1, Phase.NO_CASH.value: 1, Phase.EXPIRED.value: 1}
    return Day(
        lines,
        {
            CASH_A: holding(OPENING_HOLDING - 21),
            CASH_B: holding(OPENING_HOLDING + 21),
            SHARES_A: holding(OPENING_HOLDING + 3),
            SHARES_B: holding(OPENING_HOLDING - 3),
            DESK: {
                "pages": {"caller": {"attempts": numbers(4), "numbers": numbers(3)}},
                "asked": {},
                "ends": ends,
                "repeated": 0,
                "strange": [],
            },
            TRAY: {"places": 3, "pages": {"caller-1": numbers(4, 3)}, "strange": []},
            BELL: {
                "pages": {"caller": {"was_set": numbers(5, 4), "rung": 3, "forgotten": 1}},
                "due_ms": {},
                "worst_late": 0.25,
                "strange": [],
            },
        },
    )


def holding(free: int) -> dict[str, Any]:
    return {"free": free, "reserved": {}, "strange": []}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    day = played()
    verdict = day.judge()
    assert verdict.wrong == []
    assert verdict.deals == {Phase.BOOKED: 1, Phase.NO_CASH: 1, Phase.EXPIRED: 1}
    assert (verdict.letters, verdict.letters_taken) == (2, 3)
    assert verdict.bells == {"rung": 2, "forgotten": 1}
    assert verdict.worst_late == 0.25
    assert is_at_rest(day.held)


# What Aegis would do if one of its rules did not hold, and what the books then say.


def an_effect_sent_before_its_commit(day: Day) -> None:
    """The desk died after its message to book had left, and never knew that it had booked."""
    day.line("dealt", 1)[-1] = Phase.NO_SHARES
    day.held[DESK]["ends"] = {"no shares": 1, "no cash": 1, "expired": 1}


def a_message_between_actors_repeated(day: Day) -> None:
    day.held[CASH_B]["free"] += 21


def a_message_between_actors_lost(day: Day) -> None:
    day.held[SHARES_A]["free"] -= 3


def money_moved_and_never_asked_for(day: Day) -> None:
    """The sum is right, and the books of two are not."""
    day.held[CASH_A]["free"] -= 5
    day.held[CASH_B]["free"] += 5


def a_compensation_lost(day: Day) -> None:
    day.held[CASH_B]["free"] -= 25
    day.held[CASH_B]["reserved"] = {"D/caller/3": 25}


def a_step_that_makes_no_sense(day: Day) -> None:
    day.held[CASH_A]["strange"].append("take for D/caller/1")


def an_answer_lost(day: Day) -> None:
    day.held[DESK]["asked"] = {"chaos-desk/D-9": "caller/3"}


def an_order_repeated(day: Day) -> None:
    day.held[DESK]["repeated"] = 1


def an_order_lost(day: Day) -> None:
    day.held[DESK]["pages"]["caller"]["attempts"] = numbers(4, 3)


def an_order_that_nobody_gave(day: Day) -> None:
    day.held[DESK]["pages"]["caller"]["attempts"] = numbers(5)


def a_deal_lost(day: Day) -> None:
    day.held[DESK]["pages"]["caller"]["numbers"] = numbers(2)


def a_deal_that_nobody_made(day: Day) -> None:
    day.held[DESK]["pages"]["caller"]["numbers"] = numbers(4)


def a_deal_without_an_end(day: Day) -> None:
    day.lines.remove(day.line("dealt", 2))


def a_deal_that_ended_twice(day: Day) -> None:
    day.held[DESK]["ends"][Phase.BOOKED.value] = 2


def a_deal_that_expired_too_early(day: Day) -> None:
    day.line("dealt", 3)[3] = 4.0


def a_letter_lost(day: Day) -> None:
    day.held[TRAY] = {"places": 2, "pages": {"caller-1": numbers(4, 2, 3)}, "strange": []}


def a_letter_repeated(day: Day) -> None:
    day.held[TRAY]["places"] = 4
    day.held[TRAY]["strange"].append("letter 2 of caller-1 came twice")


def a_letter_repeated_without_a_trace(day: Day) -> None:
    day.held[TRAY]["places"] = 4


def a_letter_that_was_refused_and_came(day: Day) -> None:
    day.held[TRAY] = {"places": 4, "pages": {"caller-1": numbers(4)}, "strange": []}


def a_letter_that_nobody_wrote(day: Day) -> None:
    day.held[TRAY] = {"places": 4, "pages": {"caller-1": numbers(5, 3)}, "strange": []}


def letters_out_of_order(day: Day) -> None:
    first, second = day.line("taken", 1), day.line("taken", 2)
    first[-1], second[-1] = second[-1], first[-1]


def letters_stored_out_of_order(day: Day) -> None:
    day.line("posted", 1)[4] = 13


def two_letters_with_one_result(day: Day) -> None:
    day.line("taken", 2)[-1] = 1


def a_bell_that_never_rings(day: Day) -> None:
    day.lines.remove(day.line("rang", 1))


def a_bell_that_is_still_to_ring(day: Day) -> None:
    day.held[BELL]["due_ms"] = {"caller/1": 1}


def a_bell_forgotten_in_a_snapshot(day: Day) -> None:
    day.line("rang", 1)[-1] = "unknown"
    day.held[BELL]["pages"]["caller"]["rung"] = 2


def a_bell_lost_with_its_command(day: Day) -> None:
    day.held[BELL]["pages"]["caller"] = {"was_set": numbers(5, 1, 4), "rung": 2, "forgotten": 1}


def a_bell_that_rings_twice(day: Day) -> None:
    day.held[BELL]["pages"]["caller"]["rung"] = 4


def a_bell_that_rings_though_taken_back(day: Day) -> None:
    day.line("rang", 2)[-1] = "rung"


def a_bell_that_was_too_late_to_take_back_and_is_gone(day: Day) -> None:
    day.line("rang", 3)[-1] = "forgotten"


def a_bell_taken_back_by_nobody(day: Day) -> None:
    day.line("rang", 1)[-1] = "forgotten"


def a_bell_that_rings_too_early(day: Day) -> None:
    day.line("rang", 1)[3] = 1.3


def a_bell_that_was_refused_and_set(day: Day) -> None:
    day.held[BELL]["pages"]["caller"] = {"was_set": numbers(5), "rung": 4, "forgotten": 1}


def bells_that_callers_were_not_told_of(day: Day) -> None:
    day.held[BELL]["pages"]["caller"] = {"was_set": numbers(5, 4), "rung": 1, "forgotten": 3}


def a_resource_that_is_silent(day: Day) -> None:
    del day.held[TRAY]


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (an_effect_sent_before_its_commit, "chaos-cash/A: holds 19979; the ledgers make it 20000"),
        (a_message_between_actors_repeated, "chaos-cash: 40000 at the beginning, 40021 at the end"),
        (a_message_between_actors_lost, "chaos-shares: 40000 at the beginning, 39997 at the end"),
        (money_moved_and_never_asked_for, "chaos-cash/B: holds 20026; the ledgers make it 20021"),
        (a_compensation_lost, "is set aside for deals that are over"),
        (a_step_that_makes_no_sense, "chaos-cash/A: take for D/caller/1"),
        (an_answer_lost, "D: 1 messages have no answer"),
        (an_order_repeated, "D: 1 messages took effect twice"),
        (an_order_lost, "D, caller: attempt 3 was acknowledged and is lost"),
        (an_order_that_nobody_gave, "attempt 5 took effect, and nobody asked for it"),
        (a_deal_lost, "D, caller: deal 3 was acknowledged and is lost"),
        (a_deal_that_nobody_made, "D, caller: deal 4 took effect, and nobody asked for it"),
        (a_deal_without_an_end, "deal 2 of caller at D: nobody knows how it ended"),
        (a_deal_that_ended_twice, "D: deals ended {'booked': 2, "),
        (a_deal_that_expired_too_early, "expired after 1.000 s, not 1.500"),
        (a_letter_lost, "T, caller-1: letter 2 was acknowledged and is lost"),
        (a_letter_repeated, "letter 2 of caller-1 came twice"),
        (a_letter_repeated_without_a_trace, "T: took 4 letters, and knows 3"),
        (a_letter_that_was_refused_and_came, "letter 3 was not sent (Unavailable), and took"),
        (a_letter_that_nobody_wrote, "letter 5 took effect, and nobody asked for it"),
        (letters_out_of_order, "the letters' places are not in the order of sending"),
        (letters_stored_out_of_order, "the letters' sequences are not in the order of sending"),
        (two_letters_with_one_result, "were both told place 1"),
        (a_bell_that_never_rings, "bell 1 of caller was set, and is silent"),
        (a_bell_that_is_still_to_ring, "B: bell caller/1 has not rung"),
        (a_bell_forgotten_in_a_snapshot, "bell 1 of caller was set, and is unknown"),
        (a_bell_lost_with_its_command, "B, caller: bell 1 was acknowledged and is lost"),
        (a_bell_that_rings_twice, "4 bells were set, 4 rang and 1 were taken back"),
        (a_bell_that_rings_though_taken_back, "bell 2 of caller is rung, and should be forgotten"),
        (a_bell_that_was_too_late_to_take_back_and_is_gone, "is forgotten, and should be rung"),
        (a_bell_taken_back_by_nobody, "was forgotten, and nobody took it back"),
        (a_bell_that_rings_too_early, "bell 1 of caller rang after 0.300 s, not 0.500"),
        (a_bell_that_was_refused_and_set, "bell 4 took effect, and nobody asked for it"),
        (bells_that_callers_were_not_told_of, "3 bells are forgotten; callers were told of 1"),
        (a_resource_that_is_silent, "chaos-tray/T: does not say what it holds"),
    ],
)
def test_each_kind_of_harm_is_found(harm: Callable[[Day], None], found: str) -> None:
    day = played()
    harm(day)
    assert found in "\n".join(day.judge().wrong)


@pytest.mark.parametrize("harm", [an_answer_lost, a_bell_that_is_still_to_ring])
def test_what_is_under_way_is_not_at_rest(harm: Callable[[Day], None]) -> None:
    day = played()
    harm(day)
    assert not is_at_rest(day.held)
