"""The verdict on deals, letters and bells: what callers were told, against what is held.

All sums are done again from the ledgers. A deal was booked or not, as its caller was told:
from that follows what each holder must have. A letter that was acknowledged is there, and
one that was surely not sent is not. A bell that was set has rung once, or was taken back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import define, field

from aegis.ops._chaos_mail_ledger import BellStory, DealStory, LetterStory, MailStory
from aegis.ops._chaos_mail_services import FORGOTTEN_BELL, RUNG, Bell, Tray
from aegis.ops._chaos_saga_services import OPENING_HOLDING, Cash, Desk, Phase, Shares

__all__ = ["MAIL_SERVICES", "MailVerdict", "is_at_rest", "judge_mail"]

MAIL_SERVICES: Final = (Cash, Shares, Desk, Tray, Bell)

CLOCK_SECONDS: Final = 0.05
"""How far the clocks that the ledger and reminders follow may run apart meanwhile."""

type Place = tuple[str, str]
"""Service and resource."""

type Sheets = Mapping[Place, Mapping[str, Any]]


@define
class MailVerdict:
    """What the books say of durable messages."""

    deals: dict[str, int] = field(factory=dict[str, int])
    """How many ended how."""
    letters: int = 0
    """Those that were acknowledged."""
    letters_taken: int = 0
    bells: dict[str, int] = field(factory=dict[str, int])
    worst_late: float = 0.0
    """How late a bell rang at most, in seconds, as reminders tell it."""
    wrong: list[str] = field(factory=list[str])

    @property
    def operations(self) -> int:
        """Return how many deals, letters and bells had their end."""
        return sum(self.deals.values()) + self.letters + sum(self.bells.values())


def judge_mail(stories: Iterable[tuple[str, MailStory]], held: Sheets) -> MailVerdict:
    """Judge what callers wrote down by what each resource holds at the end."""
    stories = list(stories)
    verdict = MailVerdict()
    for place in sorted(_asked(stories) - held.keys()):
        verdict.wrong.append(f"{'/'.join(place)}: does not say what it holds")
    for place, sheet in sorted(held.items()):
        for text in sheet.get("strange", ()):
            verdict.wrong.append(f"{'/'.join(place)}: {text}")
    _judge_deals(stories, held, verdict)
    _judge_letters(stories, held, verdict)
    _judge_bells(stories, held, verdict)
    return verdict


def _asked(stories: Iterable[tuple[str, MailStory]]) -> set[Place]:
    """Return the places that callers have asked anything of."""
    asked: set[Place] = set()
    for _, story in stories:
        asked |= {(Desk.service, deal.desk) for deal in story.deals.values()}
        asked |= {(Tray.service, letter.tray) for letter in story.letters.values()}
        asked |= {(Bell.service, bell.bell) for bell in story.bells.values()}
    return asked


def is_at_rest(held: Sheets) -> bool:
    """Whether no deal waits for an answer, and no bell is to ring."""
    return not any(sheet.get("asked") or sheet.get("due_ms") for sheet in held.values())


def _numbers(numbers: Mapping[str, Any] | None) -> set[int]:
    return set(range(1, numbers["highest"] + 1)) - set(numbers["holes"]) if numbers else set()


def _tell_difference(
    verdict: MailVerdict, where: str, *, lost: Iterable[Any] = (), more: Iterable[Any] = ()
) -> None:
    for what in sorted(lost):
        verdict.wrong.append(f"{where} {what} was acknowledged and is lost")
    for what in sorted(more):
        verdict.wrong.append(f"{where} {what} took effect, and nobody asked for it")


# -- deals -----------------------------------------------------------------------------------


def _judge_deals(
    stories: Iterable[tuple[str, MailStory]], held: Sheets, verdict: MailVerdict
) -> None:
    wanted: dict[Place, int] = defaultdict(lambda: OPENING_HOLDING)
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for caller, story in stories:
        for deal in story.deals.values():
            _judge_deal(caller, deal, verdict)
            ends[deal.desk][deal.end] += 1
            if deal.end == Phase.BOOKED:
                paid = deal.shares * deal.price
                wanted[Cash.service, deal.buyer] -= paid
                wanted[Cash.service, deal.seller] += paid
                wanted[Shares.service, deal.seller] -= deal.shares
                wanted[Shares.service, deal.buyer] += deal.shares
        _judge_attempts(caller, story, held, verdict)
    for (service, resource), sheet in sorted(held.items()):
        if service in (Cash.service, Shares.service):
            _judge_holding((service, resource), wanted[service, resource], sheet, verdict)
        elif service == Desk.service:
            _judge_desk(resource, ends[resource], sheet, verdict)
    for service in (Cash.service, Shares.service):
        _judge_total(service, held, verdict)
    for counts in ends.values():
        for end, count in counts.items():
            verdict.deals[end or "open"] = verdict.deals.get(end or "open", 0) + count


def _judge_deal(caller: str, deal: DealStory, verdict: MailVerdict) -> None:
    name = f"deal {deal.number} of {caller} at {deal.desk}"
    if not deal.end:
        verdict.wrong.append(f"{name}: nobody knows how it ended")
    elif deal.end == Phase.EXPIRED:
        seconds = deal.told_at - deal.asked_at
        if seconds < deal.patience - CLOCK_SECONDS:
            verdict.wrong.append(f"{name}: expired after {seconds:.3f} s, not {deal.patience:.3f}")


def _judge_attempts(caller: str, story: MailStory, held: Sheets, verdict: MailVerdict) -> None:
    """What desks have seen is what was asked, and all that was acknowledged."""
    for (service, desk), sheet in held.items():
        if service != Desk.service:
            continue
        deals = [deal for deal in story.deals.values() if deal.desk == desk]
        page: Mapping[str, Any] = sheet["pages"].get(caller, {})
        attempts, numbers = _numbers(page.get("attempts")), _numbers(page.get("numbers"))
        asked = {attempt for deal in deals for attempt in deal.attempts}
        told = {attempt for deal in deals for attempt in deal.acknowledged}
        known = {deal.number for deal in deals if deal.end}
        where = f"{desk}, {caller}:"
        _tell_difference(verdict, f"{where} attempt", lost=told - attempts, more=attempts - asked)
        every = {deal.number for deal in deals}
        _tell_difference(verdict, f"{where} deal", lost=known - numbers, more=numbers - every)


def _judge_holding(
    place: Place, wanted: int, sheet: Mapping[str, Any], verdict: MailVerdict
) -> None:
    name = "/".join(place)
    if sheet["reserved"]:
        verdict.wrong.append(f"{name}: {sheet['reserved']} is set aside for deals that are over")
    if sheet["free"] != wanted:
        verdict.wrong.append(f"{name}: holds {sheet['free']}; the ledgers make it {wanted}")


def _judge_desk(
    desk: str, ends: Mapping[str, int], sheet: Mapping[str, Any], verdict: MailVerdict
) -> None:
    if sheet["repeated"]:
        verdict.wrong.append(f"{desk}: {sheet['repeated']} messages took effect twice")
    if sheet["asked"]:
        verdict.wrong.append(f"{desk}: {len(sheet['asked'])} messages have no answer")
    counted = {end: count for end, count in ends.items() if end}
    if sheet["ends"] != counted:
        verdict.wrong.append(f"{desk}: deals ended {sheet['ends']}; the ledgers say {counted}")


def _judge_total(service: str, held: Sheets, verdict: MailVerdict) -> None:
    sheets = [sheet for (name, _), sheet in held.items() if name == service]
    total = sum(sheet["free"] + sum(sheet["reserved"].values()) for sheet in sheets)
    if total != OPENING_HOLDING * len(sheets):
        verdict.wrong.append(
            f"{service}: {OPENING_HOLDING * len(sheets)} at the beginning, {total} at the end"
        )


# -- letters ---------------------------------------------------------------------------------


def _judge_letters(
    stories: Iterable[tuple[str, MailStory]], held: Sheets, verdict: MailVerdict
) -> None:
    pages: dict[tuple[str, str], list[LetterStory]] = defaultdict(list)
    for caller, story in stories:
        for letter in story.letters.values():
            pages[letter.tray, f"{caller}-{letter.life}"].append(letter)
            verdict.letters += letter.sequence > 0
    for (service, tray), sheet in sorted(held.items()):
        if service != Tray.service:
            continue
        places: dict[int, str] = {}
        count = 0
        for page in sorted(sheet["pages"].keys() | {name for at, name in pages if at == tray}):
            letters = pages[tray, page]
            taken = _numbers(sheet["pages"].get(page))
            count += len(taken)
            _judge_page(f"{tray}, {page}:", letters, taken, verdict)
            for letter in letters:
                if letter.place:
                    name = f"letter {letter.number} of {page}"
                    other = places.setdefault(letter.place, name)
                    if other != name:
                        text = f"{tray}: {name} and {other} were both told place {letter.place}"
                        verdict.wrong.append(text)
        verdict.letters_taken += count
        if sheet["places"] != count:
            verdict.wrong.append(f"{tray}: took {sheet['places']} letters, and knows {count}")


def _judge_page(
    where: str, letters: Iterable[LetterStory], taken: set[int], verdict: MailVerdict
) -> None:
    """Judge the letters of one life of a caller to one tray."""
    told = {one.number for one in letters if one.sequence}
    _tell_difference(
        verdict,
        f"{where} letter",
        lost=told - taken,
        more=taken - {one.number for one in letters},
    )
    for letter in letters:
        if letter.refused and letter.number in taken:
            text = f"letter {letter.number} was not sent ({letter.refused}), and took effect"
            verdict.wrong.append(f"{where} {text}")
    in_order = sorted(letters, key=lambda one: one.number)
    for what in ("sequence", "place"):
        values = [value for one in in_order if (value := getattr(one, what))]
        if values != sorted(values):
            verdict.wrong.append(f"{where} the letters' {what}s are not in the order of sending")


# -- bells -----------------------------------------------------------------------------------


def _judge_bells(
    stories: Iterable[tuple[str, MailStory]], held: Sheets, verdict: MailVerdict
) -> None:
    ends: Counter[str] = Counter()
    for caller, story in stories:
        for bell in story.bells.values():
            problem = _bell_problem(bell)
            if problem:
                text = f"{bell.bell}: bell {bell.number} of {caller} {problem}"
                verdict.wrong.append(text)
            if bell.end:
                ends[bell.end] += 1
        for (service, resource), sheet in sorted(held.items()):
            if service == Bell.service:
                mine = [bell for bell in story.bells.values() if bell.bell == resource]
                _judge_bell_page(
                    f"{resource}, {caller}:", mine, sheet["pages"].get(caller), verdict
                )
    for (service, resource), sheet in sorted(held.items()):
        if service == Bell.service:
            verdict.worst_late = max(verdict.worst_late, sheet["worst_late"])
            for name in sorted(sheet["due_ms"]):
                verdict.wrong.append(f"{resource}: bell {name} has not rung")
    verdict.bells.update(ends)


def _bell_problem(bell: BellStory) -> str:
    if bell.was_set and bell.end not in (RUNG, FORGOTTEN_BELL):
        return f"was set, and is {bell.end or 'silent'}"
    if bell.was_taken_back is not None:
        wanted = FORGOTTEN_BELL if bell.was_taken_back else RUNG
        if bell.end != wanted:
            return f"is {bell.end}, and should be {wanted}"
    if bell.end == FORGOTTEN_BELL and not bell.is_unwanted:
        return "was forgotten, and nobody took it back"
    if bell.end == RUNG and bell.told_at - bell.asked_at < bell.after - CLOCK_SECONDS:
        return f"rang after {bell.told_at - bell.asked_at:.3f} s, not {bell.after:.3f}"
    return ""


def _judge_bell_page(
    where: str, bells: Iterable[BellStory], page: Mapping[str, Any] | None, verdict: MailVerdict
) -> None:
    seen = _numbers(None if page is None else page["was_set"])
    told = {bell.number for bell in bells if bell.was_set}
    may = {bell.number for bell in bells if bell.was_set is not False}
    _tell_difference(verdict, f"{where} bell", lost=told - seen, more=seen - may)
    rung, forgotten = (page["rung"], page["forgotten"]) if page is not None else (0, 0)
    if rung + forgotten != len(seen):
        verdict.wrong.append(
            f"{where} {len(seen)} bells were set, {rung} rang and {forgotten} were taken back"
        )
    for end, count in ((RUNG, rung), (FORGOTTEN_BELL, forgotten)):
        told_of = sum(bell.end == end for bell in bells)
        unsure = sum(not bell.end and bell.was_set is None for bell in bells)
        if not told_of <= count <= told_of + unsure:
            verdict.wrong.append(f"{where} {count} bells are {end}; callers were told of {told_of}")
